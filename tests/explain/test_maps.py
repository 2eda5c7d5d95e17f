"""Maps of every method, head and backbone, and what stays untouched."""

import pytest
import torch
from torch import Tensor, nn
from toy import MODELS

from xray_lightning import ConfigError, class_map, class_maps
from xray_lightning.explain.maps import METHODS
from xray_lightning.models.heads import HEADS

ON_FEATURES = ("cam", "gradcam", "gradcam++", "hirescam", "layercam")


def cut(images: Tensor, method: str) -> Tensor:
    """A corner of 8 px where each place is hidden in turn: 64 passes instead of 225."""
    return images[..., :8, :8] if method == "occlusion" else images


@torch.no_grad()
@pytest.mark.parametrize(
    ("backbone", "head"),
    [*(("test_resnet", head) for head in sorted(HEADS)), ("test_vit", "average")],
)
def test_what_the_heads_find(backbone: str, head: str, network, images: Tensor) -> None:
    """``cam`` is the head's own map; what it means (Zhou's eq. 2) is checked with the heads."""
    net = network(backbone, head)
    assert torch.equal(class_maps(net, images.numpy()), net.head.maps(net.forward_features(images)))


@pytest.mark.parametrize("backbone", MODELS.values())
def test_backbones_of_the_configs(backbone: str, network) -> None:
    """CAM is Grad-CAM up to a factor and a bias."""
    net = network(backbone, image_size=64)
    images = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = {method: class_maps(net, images, method=method) for method in ON_FEATURES}
    side = maps["cam"].shape[-1]
    evidence = maps["cam"] - net.head.classifier.bias.detach()[:, None, None]
    assert maps["cam"].shape == (2, 3, side, side)
    for method, wanted in (("gradcam", evidence.relu()), ("hirescam", evidence)):
        torch.testing.assert_close(maps[method] * side**2, wanted, atol=1e-4, rtol=1e-4)
    for method in ON_FEATURES:
        assert maps[method].isfinite().all()
        assert maps[method].abs().amax() > 0
    pixels = class_map(net, images, 0, method="gradient")
    assert pixels.shape == (2, 64, 64)
    assert pixels.isfinite().all()
    assert (pixels.amax(dim=(1, 2)) > 0).all()


@pytest.mark.parametrize(
    ("head", "method"),
    [
        *((head, method) for head in sorted(HEADS) for method in (*ON_FEATURES, "gradient")),
        *(("pcam", method) for method in METHODS[-2:]),
    ],
)
def test_chosen_labels(head: str, method: str, network, images: Tensor) -> None:
    """Names and positions in any order, each the label's own map."""
    net, images = network(head=head), cut(images, method)
    maps = class_maps(net, images, method=method)
    assert maps.shape == (2, 3, 1, 1) if method in ON_FEATURES else (2, 3, *images.shape[2:])
    chosen = class_maps(net, images, method=method, labels=["Effusion", 0])
    torch.testing.assert_close(chosen, maps[:, [2, 0]])
    torch.testing.assert_close(class_map(net, images, 1, method=method), maps[:, 1])


def hooks(net: nn.Module) -> list[int]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [len(getattr(module, kind)) for module in net.modules() for kind in kinds]


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_left_behind(method, network, images, monkeypatch) -> None:
    """Modes, gradients, statistics and hooks are as before; how often the backbone ran."""
    net = network(cbam_after=("layer2",)).train()
    net.backbone.eval()  # frozen layers have a mode of their own
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    frozen = net.backbone.conv1.requires_grad_(False)
    modes, hooked = [module.training for module in net.modules()], hooks(net)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes_within, whole = [], net.forward_features

    def counted(batch: Tensor) -> Tensor:
        modes_within.append(net.training)
        return whole(batch)

    monkeypatch.setattr(net, "forward_features", counted)
    found = class_maps(net, images, method=method)
    assert not any(modes_within)
    assert len(modes_within) == {"integrated": 50 * 3, "occlusion": 15 * 15 + 1}.get(method, 1)
    assert not found.requires_grad
    assert not images.requires_grad
    assert [module.training for module in net.modules()] == modes
    assert hooks(net) == hooked
    assert sum(hooked) == 1  # CBAM's own
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    for parameter in net.parameters():
        assert torch.equal(parameter.grad, torch.ones_like(parameter))
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("head", ["average", "query"])
def test_inference_mode_and_autocast(head, method, network, images) -> None:
    """The same maps in float32; autocast's cached weights are inference tensors here."""
    net, images = network(head=head), cut(images, method)
    wanted = class_maps(net, images, method=method, labels=[2])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        net(images)
        found = class_maps(net, images.clone(), method=method, labels=[2])
        assert torch.is_inference_mode_enabled()
        assert not torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        torch.testing.assert_close(class_maps(net, images, method=method, labels=[2]), wanted)


def test_modes_return_after_an_error(network, images, monkeypatch) -> None:
    net = network().train()
    monkeypatch.setattr(net, "forward_features", lambda images: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        class_map(net, images, 0)
    assert all(module.training for module in net.modules())


NOT_KNOWN = "label must be one of Mass, Nodule, Effusion, or 0 to 2, got"
NO_LIST = "labels must be a list of one label or more, got"
NO_SHAPE = r"expected images of shape \(B, 1, H, W\), got \(1, "
NO_METHOD = r"method must be one of cam, gradcam, gradcam\+\+, .*, occlusion, cbam, got 'lime'"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(({"labels": [label]}, NOT_KNOWN) for label in ("Hernia", 3, -1, None)),
        *(({"labels": labels}, NO_LIST) for labels in ("Mass", [])),
        ({"method": "lime"}, NO_METHOD),
        *(({"images": torch.rand(s)}, NO_SHAPE) for s in ((1, 32, 32), (1, 3, 32, 32))),
    ],
)
def test_what_cannot_be_mapped(settings, message: str, network, images: Tensor) -> None:
    with pytest.raises(ConfigError, match=message):
        class_maps(network(), **{"images": images} | settings)


def test_gates_of_cbam(network, images: Tensor) -> None:
    net = network(cbam_after=("layer1", "layer2")).train()
    found = class_maps(net, images, method="cbam", labels=["Nodule", "Mass"])
    gates = net.attention_maps(images)
    assert list(gates) == ["layer1", "layer2"]
    for column in range(2):
        assert torch.equal(found[:, column], gates["layer2"][:, 0])
    assert net.training
    with pytest.raises(ConfigError, match="this network has no spatial gates that act"):
        class_maps(network(), images, method="cbam")


@pytest.mark.parametrize("method", [*METHODS, "cbam"])
def test_a_method_the_network_cannot_give(method: str, images: Tensor) -> None:
    net = nn.Linear(1, 1)
    net.labels = ("Mass",)
    own = {"cam": "maps", "cbam": "attention_maps"}
    needed = own.get(method, "forward_features and forward_head")
    message = f"needs {needed} of the network, which Linear lacks; give an XrayNet"
    with pytest.raises(ConfigError, match=message):
        class_map(net, images, 0, method=method)
