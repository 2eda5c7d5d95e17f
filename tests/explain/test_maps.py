"""Class maps against Zhou's formula written out, and what they leave alone."""

import numpy as np
import pytest
import torch
from torch import Tensor

from xray_lightning.errors import ConfigError
from xray_lightning.explain import class_map
from xray_lightning.models.heads import HEADS
from xray_lightning.models.network import XrayNet

LABELS = ("Mass", "Nodule", "Effusion")


def network(backbone: str = "test_resnet", head: str = "average") -> XrayNet:
    torch.manual_seed(0)
    return XrayNet(LABELS, backbone, head=head, image_size=32, dropout=0.5).eval()


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_class_activation_map(backbone: str) -> None:
    """Zhou et al., eq. 2, place by place; its mean is the logit."""
    net, images = network(backbone), torch.rand(2, 1, 32, 32)
    features = net.forward_features(images).numpy()  # (B, C, h, w)
    weight = net.head.classifier.weight[1].numpy()
    bias = float(net.head.classifier.bias[1])
    found = class_map(net, images, "Nodule")
    assert found.shape == (2, *features.shape[2:])
    for b, y, x in np.ndindex(found.shape):
        wanted = sum(w * f for w, f in zip(weight, features[b, :, y, x], strict=True)) + bias
        assert float(found[b, y, x]) == pytest.approx(wanted, abs=1e-5)
    torch.testing.assert_close(found.mean(dim=(1, 2)), net(images)[:, 1])
    assert torch.equal(class_map(net, images, 1), found)


@pytest.mark.parametrize("head", sorted(HEADS))
def test_other_heads_give_their_own_maps(head: str) -> None:
    net, images = network(head=head), torch.rand(2, 1, 32, 32)
    wanted = net.maps(images)[:, 2]
    assert torch.equal(class_map(net, images, "Effusion"), wanted)


def test_nothing_is_left_behind() -> None:
    """Modes, gradients and hooks are as before; the backbone ran once, in evaluation mode."""
    net, images = network().train(), torch.rand(2, 1, 32, 32)
    net.backbone.eval()  # frozen layers have a mode of their own
    modes = [module.training for module in net.modules()]
    statistics = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    calls: list[bool] = []
    counted = net.forward_features

    def forward_features(batch: Tensor) -> Tensor:
        calls.append(net.training)
        return counted(batch)

    net.forward_features = forward_features  # type: ignore[method-assign]
    found = class_map(net, images, 0)
    assert calls == [False]
    assert not found.requires_grad
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(t, statistics[name]) for name, t in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
    with torch.inference_mode():
        torch.testing.assert_close(class_map(net, images, 0), found)


def test_modes_return_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network().train()
    monkeypatch.setattr(net, "forward_features", lambda images: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        class_map(net, torch.rand(1, 1, 32, 32), 0)
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize("label", ["Hernia", 3, -1, None])
def test_unknown_label(label: str | int) -> None:
    message = "label must be one of Mass, Nodule, Effusion, or 0 to 2, got"
    with pytest.raises(ConfigError, match=message):
        class_map(network(), torch.rand(1, 1, 32, 32), label)


@pytest.mark.parametrize("shape", [(1, 32, 32), (1, 3, 32, 32)])
def test_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"expected images of shape \(B, 1, H, W\), got \(1, "):
        class_map(network(), torch.rand(shape), 0)
