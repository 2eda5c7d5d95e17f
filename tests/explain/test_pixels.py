"""Maps of pixels: completeness, sums and patches written out, and captum."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from captum.attr import Occlusion

from xray_lightning import XrayNet, class_maps
from xray_lightning.explain.maps import integrated_gradients, occlusion

Build = Callable[..., XrayNet]


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_input_gradient(backbone: str, network: Build, images) -> None:
    net = network(backbone, "query")
    found = class_maps(net, images, method="gradient")
    for label in range(3):
        leaf = images.clone().requires_grad_()
        net(leaf)[:, label].sum().backward()
        torch.testing.assert_close(found[:, label], leaf.grad[:, 0].abs())
    assert found.amax() > 0


@pytest.mark.parametrize(("backbone", "bound"), [("test_resnet", 0.04), ("test_vit", 1e-5)])
def test_integrated_gradients_are_complete(backbone, bound, network, images) -> None:
    """They sum to the logit less that of the black image, closely where no ReLU has a kink."""
    net = network(backbone, "pcam")
    with torch.no_grad():
        wanted = net(images) - net(torch.zeros_like(images))  # (B, L)
    found = class_maps(net, images, method="integrated")
    error = (found.sum(dim=(2, 3)) - wanted).abs().amax()
    assert error <= bound * wanted.abs().amax()
    coarse = integrated_gradients(net, images, [0, 1, 2], steps=2)
    assert (coarse.sum(dim=(2, 3)) - wanted).abs().amax() > 3 * error


def test_integrated_gradients_as_a_sum(network: Build, images) -> None:
    """Eq. 3 of the paper: gradients at the middles of equal steps from black."""
    net, steps = network("test_vit"), 300
    total = torch.zeros_like(images)
    for step in range(steps):
        leaf = (images * (step + 0.5) / steps).requires_grad_()
        total += torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)[0]
    wanted = (images * total / steps)[:, 0]
    found = class_maps(net, images, method="integrated", labels=["Nodule"])[:, 0]
    assert (found - wanted).abs().amax() <= 1e-4 * wanted.abs().amax()


@torch.no_grad()
@pytest.mark.parametrize(
    ("shape", "patch", "stride"), [((33, 50), 4, 2), ((27, 30), 3, 1), ((7, 9), 1, 1)]
)
def test_occlusion_pixel_by_pixel(shape, patch, stride, network, images) -> None:
    """Sides that the patches do not divide: the last are cut at the edge."""
    net, columns, falls = network(), [2, 0], {}
    images = torch.rand(2, 1, *shape)
    for top in range(0, shape[0] - patch + stride, stride):
        for left in range(0, shape[1] - patch + stride, stride):
            hidden = images.clone()
            for image in hidden:
                image[0, top : top + patch, left : left + patch] = image.mean()
            falls[top, left] = (net(images) - net(hidden))[:, columns].numpy()
    found = occlusion(net, images, columns).numpy()
    assert abs(found).max() > 0
    for y, x in np.ndindex(*shape):
        here = [f for (i, j), f in falls.items() if i <= y < i + patch and j <= x < j + patch]
        np.testing.assert_allclose(found[:, :, y, x], np.mean(here, axis=0), atol=1e-6)


def test_occlusion_equals_captum(network: Build, images) -> None:
    """As called by its name: an eighth of the side, moved by half of that."""
    net = network()
    found = class_maps(net, images, method="occlusion")
    grey = images.mean(dim=(1, 2, 3), keepdim=True).expand_as(images)
    with torch.no_grad():
        wanted = Occlusion(net).attribute(
            images, (1, 4, 4), strides=(1, 2, 2), baselines=grey, target=1
        )
    torch.testing.assert_close(found[:, 1], wanted[:, 0], atol=1e-6, rtol=1e-4)
