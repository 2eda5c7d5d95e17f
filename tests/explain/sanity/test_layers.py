"""Every layer is reached, from the head down, and nothing of what was learned stays."""

import numpy as np
import pytest
import torch
from torch import nn

from xray_lightning.explain.sanity.layers import calibrate, reset, stages
from xray_lightning.models.network import XrayNet

BACKBONES = ["test_resnet", "test_vit", "test_convnext", "resnet18"]


def network(backbone: str = "test_resnet", **settings: object) -> XrayNet:
    torch.manual_seed(0)
    return XrayNet(("a", "b"), backbone, image_size=64, **settings).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("head", ["average", "query"])
def test_stages_hold_every_parameter_once(backbone: str, head: str) -> None:
    net = network(backbone, head=head)
    found = stages(net)
    layers = [layer for stage in found for layer in stage.layers]
    owned = [p for layer in layers for p in net.get_submodule(layer).parameters(recurse=False)]
    assert sorted(map(id, owned)) == sorted(map(id, net.parameters()))
    assert all(layer.startswith("head") for layer in found[0].layers)
    assert "stem" in found[-1].name or "conv1" in found[-1].name or "patch" in str(found[-1].layers)


def test_stages_of_a_resnet() -> None:
    names = [stage.name for stage in stages(network("resnet18"))]
    blocks = [f"backbone.layer{number}" for number in (4, 3, 2, 1)]
    assert names == ["head", *blocks, "backbone.conv1 to backbone.bn1"]


def test_a_cbam_block_belongs_to_the_module_before_it() -> None:
    net = network("resnet18", cbam_after=["layer2.0", "layer4"])
    found = {stage.name: stage.layers for stage in stages(net)}
    assert [any("attention.layer2-0." in each for each in found["backbone.layer2"])] == [True]
    assert [any("attention.layer4." in each for each in found["backbone.layer4"])] == [True]
    assert not any(name.startswith("attention") for name in found)


def test_parameters_of_the_network_itself_come_last() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.arange(64.0))
            self.head = nn.Linear(3, 2)

    net = Scaled()
    assert [stage.name for stage in stages(net)] == ["head", "network"]
    reset(net, [""], np.random.default_rng(0))
    assert not torch.equal(net.scale, torch.arange(64.0))
    assert torch.equal(net.scale.sort().values, torch.arange(64.0))  # shuffled


@pytest.mark.parametrize("backbone", BACKBONES)
def test_reset_leaves_nothing_learned(backbone: str) -> None:
    """Weights that say where they come from are all gone; so are the statistics of norms."""
    net = network(backbone, head="query")
    with torch.no_grad():
        for number, tensor in enumerate([*net.parameters(), *net.buffers()]):
            if tensor.is_floating_point():
                tensor.copy_(10 + number + torch.linspace(0, 1, tensor.numel()).view_as(tensor))
    before = {name: tensor.clone() for name, tensor in net.named_parameters()}
    layers = [layer for stage in stages(net) for layer in stage.layers]
    reset(net, layers, np.random.default_rng(0))
    for name, tensor in net.named_parameters():
        same = (tensor == before[name]).float().mean()
        assert same < 0.2, name  # a shuffle leaves some values of a short one in place
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            fresh = type(module)(module.num_features)
            for name, tensor in fresh.state_dict().items():
                assert torch.equal(getattr(module, name), tensor)


def test_reset_follows_its_generator_alone() -> None:
    def weights(seed: int, around: int) -> torch.Tensor:
        net = network()
        torch.manual_seed(around)
        before = torch.get_rng_state()
        reset(net, ["head.classifier"], np.random.default_rng(seed))
        assert torch.equal(torch.get_rng_state(), before)
        return net.head.classifier.weight.detach()

    assert torch.equal(weights(1, 5), weights(1, 6))
    assert not torch.equal(weights(1, 5), weights(2, 5))


def test_calibrated_norms_have_the_statistics_of_the_images() -> None:
    """Against means and variances written out."""
    net = network("resnet18")
    images = torch.rand(6, 1, 64, 64)
    modes = [module.training for module in net.modules()]
    momentum = net.backbone.bn1.momentum
    calibrate(net, ["backbone.bn1"], images.split(3))
    maps = net.backbone.conv1((images - net.mean) / net.std)
    parts = maps.split(3)
    mean = torch.stack([part.mean(dim=(0, 2, 3)) for part in parts]).mean(dim=0)
    variance = torch.stack([part.var(dim=(0, 2, 3)) for part in parts]).mean(dim=0)
    torch.testing.assert_close(net.backbone.bn1.running_mean, mean)
    torch.testing.assert_close(net.backbone.bn1.running_var, variance)
    assert net.backbone.bn1.momentum == momentum
    assert [module.training for module in net.modules()] == modes
    other = net.backbone.layer1[0].bn1
    assert torch.equal(other.running_mean, torch.zeros_like(other.running_mean))
