"""Maps against pytorch-grad-cam, captum, and sums and patches written out."""

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from xray_lightning import XrayNet, class_maps
from xray_lightning.explain.maps import grad_cam_plus_plus, integrated_gradients, occlusion
from xray_lightning.models.heads import HEADS

THEIRS = {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus}
THEIRS |= {"hirescam": HiResCAM, "layercam": LayerCAM}
LAYERS = {"densenet121": "features", "legacy_xception": "act4"}
IMAGES = torch.rand(2, 1, 96, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def nets(network) -> dict[tuple[str, str], XrayNet]:
    heads = ("average", "attention")
    return {(name, head): network(name, head, image_size=96) for name in LAYERS for head in heads}


def by_hooks(net: XrayNet, layer, images, method: str, **settings) -> np.ndarray:
    """(B, L, h, w) of pytorch-grad-cam, neither scaled nor resized.

    Its Grad-CAM++ adds 1e-6 to squared gradients, which are smaller here: as if it were not there.
    """
    factor = 1e5 if method == "gradcam++" else 1
    with THEIRS[method](net, [layer], **settings) as cam:
        maps = []
        for label in range(len(net.labels)):
            targets = [ClassifierOutputTarget(label)] * len(images)
            cam(images, targets)
            kept = cam.activations_and_grads
            features, gradients = kept.activations[0].numpy(), kept.gradients[0].numpy()
            # sum(f) g and so alpha stay; w grows by the factor
            tensors = [features / factor, gradients * factor]
            maps.append(cam.get_cam_image(images, layer, targets, *tensors, eigen_smooth=False))
    found = np.stack(maps, axis=1)
    return found if method == "hirescam" else np.maximum(found, 0)


def assert_equal(found, wanted) -> None:
    """Each map to 1e-4 of its own largest value."""
    wanted = torch.as_tensor(wanted)
    assert found.shape == wanted.shape
    scale = wanted.abs().amax(dim=(2, 3), keepdim=True)
    assert (scale.amax(dim=1) > 0).all()
    assert ((found - wanted).abs() <= 1e-4 * scale).all()


@pytest.mark.parametrize("method", THEIRS)
@pytest.mark.parametrize("head", ["average", "attention"])
@pytest.mark.parametrize("backbone", LAYERS)
def test_equals_pytorch_grad_cam(backbone, head, method, nets) -> None:
    net = nets[backbone, head]
    wanted = by_hooks(net, net.backbone.get_submodule(LAYERS[backbone]), IMAGES, method)
    assert_equal(class_maps(net, IMAGES, method=method), wanted)


@pytest.mark.parametrize("head", ["average", "attention"])
@pytest.mark.parametrize("backbone", LAYERS)
def test_equals_layer_grad_cam_of_captum(backbone, head, nets) -> None:
    net = nets[backbone, head]
    captum = LayerGradCam(net, net.backbone.get_submodule(LAYERS[backbone]))
    wanted = [captum.attribute(IMAGES, k, relu_attributions=True).detach() for k in range(3)]
    assert_equal(class_maps(net, IMAGES, method="gradcam"), torch.cat(wanted, dim=1))


@pytest.mark.parametrize("method", THEIRS)
@pytest.mark.parametrize("head", sorted(HEADS))
def test_every_head(head: str, method: str, network) -> None:
    net = network(head=head, image_size=64)
    if head == "query":  # else no logit rises anywhere, and its maps are empty
        net.head.classifier.weight.data.neg_()
    images = IMAGES[:, :, :64, :64]
    wanted = by_hooks(net, net.backbone.layer4, images, method)
    assert_equal(class_maps(net, images, method=method), wanted)


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam"])
def test_tokens(method: str, network) -> None:
    """A ViT's patches are the grid; its class token is no place."""
    net = network("test_vit", "attention")
    images = IMAGES[:, :, :32, :32]

    def grid(tokens):
        return tokens[:, net.backbone.num_prefix_tokens :].transpose(1, 2).unflatten(2, (2, 2))

    wanted = by_hooks(net, net.backbone.norm, images, method, reshape_transform=grid)
    assert_equal(class_maps(net, images, method=method), wanted)


def test_grad_cam_plus_plus_as_in_the_paper() -> None:
    """Eq. 19 and 5, place by place, with Y = exp(S), whose factor is divided out."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, 5, 3, 4, generator=generator)
    gradients = torch.randn(2, 5, 3, 4, generator=generator)
    wanted = np.zeros((2, 3, 4))
    for b in range(2):
        for f, g in zip(features[b].numpy(), gradients[b].numpy(), strict=True):
            alpha = g**2 / (2 * g**2 + f.sum() * g**3)
            wanted[b] += (alpha * np.maximum(g, 0)).sum() * f
    found = grad_cam_plus_plus(features, gradients)
    np.testing.assert_allclose(found, np.maximum(wanted, 0), rtol=1e-5)
    zero = grad_cam_plus_plus(features, torch.zeros_like(gradients))
    assert torch.equal(zero, torch.zeros(2, 3, 4))
    assert grad_cam_plus_plus(features - 0.9, 10 * gradients).isfinite().all()


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_input_gradient(backbone: str, network, images) -> None:
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
    error = (class_maps(net, images, method="integrated").sum(dim=(2, 3)) - wanted).abs().amax()
    assert error <= bound * wanted.abs().amax()
    coarse = integrated_gradients(net, images, [0, 1, 2], steps=2)
    assert (coarse.sum(dim=(2, 3)) - wanted).abs().amax() > 3 * error


def test_integrated_gradients_as_a_sum(network, images) -> None:
    """Eq. 3 of the paper: gradients at the middles of equal steps from black."""
    net, steps = network("test_vit"), 300
    leaf = torch.cat([images * (step + 0.5) / steps for step in range(steps)]).requires_grad_()
    gradients = torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)[0].view(steps, *images.shape)
    wanted = (images * gradients.mean(dim=0))[:, 0]
    found = class_maps(net, images, method="integrated", labels=["Nodule"])[:, 0]
    assert (found - wanted).abs().amax() <= 1e-4 * wanted.abs().amax()


@torch.no_grad()
@pytest.mark.parametrize(
    ("shape", "patch", "stride"), [((33, 50), 4, 2), ((27, 30), 3, 1), ((7, 9), 1, 1)]
)
def test_occlusion_pixel_by_pixel(shape, patch, stride, network, images) -> None:
    """Sides that the patches do not divide: the last are cut at the edge."""
    net, columns, places, films = network(), [2, 0], [], []
    images = torch.rand(2, 1, *shape)
    for top in range(0, shape[0] - patch + stride, stride):
        for left in range(0, shape[1] - patch + stride, stride):
            hidden = images.clone()
            for image in hidden:
                image[0, top : top + patch, left : left + patch] = image.mean()
            places.append((top, left))
            films.append(hidden)
    logits = net(torch.cat(films)).view(len(films), 2, -1)
    falls = dict(zip(places, (net(images) - logits)[..., columns].numpy(), strict=True))
    found = occlusion(net, images, columns).numpy()
    assert abs(found).max() > 0
    for y, x in np.ndindex(*shape):
        here = [f for (i, j), f in falls.items() if i <= y < i + patch and j <= x < j + patch]
        np.testing.assert_allclose(found[:, :, y, x], np.mean(here, axis=0), atol=1e-6)
