"""CBAM against its equations, and blocks behind the modules of real backbones."""

import copy
import pickle
from functools import cache, partial

import pytest
import torch
from timm.layers.cbam import ChannelAttn
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from xray_lightning import CBAM, ConfigError, WeightsError, XrayNet
from xray_lightning.models.backbones import create_backbone, fill
from xray_lightning.models.network import SpatialGate, insert_cbam

LABELS = ("Mass", "Nodule")
SIZE = 64
AFTER = {
    "legacy_xception": ("block3", "block12"),
    "densenet121": ("features.denseblock3.denselayer5", "features.denseblock4"),
    "test_resnet": ("layer2.0", "layer4"),
}
IMAGES = torch.rand(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def new_net(backbone: str = "test_resnet", **settings) -> XrayNet:
    torch.manual_seed(5)
    return XrayNet(LABELS, backbone, image_size=SIZE, **settings).eval()


VIT, NEXT = (partial(new_net, name) for name in ("test_vit", "test_convnext"))
SMALL = partial(CBAM, 6)


@pytest.fixture(scope="module")
def pair():
    """A plain network and one with blocks, from the same seed; each pair is built once."""
    return cache(lambda name: (new_net(name), new_net(name, cbam_after=AFTER[name])))


@torch.no_grad()
def test_channel_half_is_that_of_timm() -> None:
    block, features = CBAM(16, "channel", reduction=4), torch.randn(2, 16, 5, 5)
    reference = ChannelAttn(16, rd_channels=4, mlp_bias=True)
    for theirs, ours in zip((reference.fc1, reference.fc2), block.channel.mlp[::2], strict=True):
        theirs.weight.copy_(ours.weight[:, :, None, None])
        theirs.bias.copy_(ours.bias)
    torch.testing.assert_close(block(features), reference(features))


@pytest.mark.parametrize("side", [3, 7])
def test_spatial_gate(side: int) -> None:
    gate, features = SpatialGate(side), torch.randn(2, 6, 4, 5)
    assert gate.convolution.bias is None
    summary = torch.stack([features.mean(dim=1), features.max(dim=1).values], dim=1)
    windows = F.unfold(summary, side, padding=side // 2)  # (2, 2 * side^2, 20)
    expected = torch.sigmoid(gate.convolution.weight.flatten() @ windows)
    torch.testing.assert_close(gate(features).flatten(1), expected)


def test_channel_before_spatial_and_halves_alone() -> None:
    block, features = CBAM(6, reduction=2), torch.randn(2, 6, 4, 5)
    once = features * block.channel(features)
    torch.testing.assert_close(block(features), once * block.spatial(once))
    channel, spatial = CBAM(6, "channel", reduction=2), CBAM(6, "spatial")
    assert (channel.spatial, spatial.channel) == (None, None)
    torch.testing.assert_close(channel(features), features * channel.channel(features))
    torch.testing.assert_close(spatial(features), features * spatial.spatial(features))
    assert not [key for key in spatial.state_dict() if key.startswith("channel")]


@pytest.mark.parametrize("name", AFTER)
def test_pretrained_weights_and_with_open_gates_the_logits_stay(name: str, pair) -> None:
    plain, net = pair(name)
    ours, theirs = net.state_dict(), plain.state_dict()
    assert {key.split(".")[0] for key in set(ours) - set(theirs)} == {"attention"}
    assert list(net.backbone.state_dict()) == list(plain.backbone.state_dict())
    for key, value in theirs.items():  # the head's too: blocks are drawn last
        assert torch.equal(ours[key], value), key
    with net.open_gates():
        assert torch.equal(net(IMAGES), plain(IMAGES))
    closed, features = net.forward_features(IMAGES), plain.forward_features(IMAGES)
    assert (closed - features).norm() > 0.1 * features.norm()


def test_open_gates_restores_each_block_also_after_an_error() -> None:
    net = new_net(cbam_after=AFTER["test_resnet"])
    first, second = net.attention.values()
    first.open = True
    with pytest.raises(RuntimeError, match="rank 4 tensor"), net.open_gates():
        net(torch.zeros(2, 3))
    assert (first.open, second.open) == (True, False)


def test_the_blocks_act_where_their_names_say() -> None:
    """Against the layers of the backbone called by hand."""
    net = new_net(cbam_after=["layer2.0", "layer4"])
    timms, blocks = copy.deepcopy(net.backbone), net.attention
    for module in timms.modules():
        module._forward_hooks.clear()
    x = timms.act1(timms.bn1(timms.conv1((IMAGES - net.mean) / net.std)))
    x = blocks["layer2-0"](timms.layer2[0](timms.layer1(timms.maxpool(x))))
    assert len(timms.layer2) == 1
    x = blocks["layer4"](timms.layer4(timms.layer3(x)))
    torch.testing.assert_close(net.forward_features(IMAGES), x)


@pytest.mark.parametrize("after", ["bn1", "layer1.0.bn2", "layer2.0.downsample.1", "layer3.0.act2"])
def test_modules_in_front_of_in_place_activations(after: str) -> None:
    """The activation behind overwrites its input: the gradients must still be right."""
    net = new_net(cbam_after=[after]).double()
    for module in net.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm's last norm of a block starts at 0
    name = f"attention.{after.replace('.', '-')}.spatial.convolution.weight"
    net.forward = net.forward_features  # type: ignore[method-assign]

    def loss(weight: Tensor) -> Tensor:
        features: Tensor = torch.func.functional_call(net, {name: weight}, (IMAGES.double(),))
        return features.square().sum()

    weight = net.get_parameter(name)
    assert torch.autograd.gradcheck(loss, weight, rtol=1e-4, atol=1e-13, fast_mode=True)


def test_gradient_reaches_every_gate() -> None:
    net = new_net(cbam_after=AFTER["test_resnet"]).train()
    net(IMAGES).square().sum().backward()
    for key, parameter in net.attention.named_parameters():
        assert parameter.grad.abs().max() > 0, key


@torch.no_grad()
@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))],
    ids=["deepcopy", "pickle"],
)
def test_a_copy_calls_its_own_blocks(duplicate) -> None:
    net = new_net(cbam_after=AFTER["test_resnet"])
    twin = duplicate(net)
    before = net(IMAGES)
    assert torch.equal(twin(IMAGES), before)
    for parameter in twin.attention.parameters():
        parameter.fill_(0.3)
    assert torch.equal(net(IMAGES), before)
    assert not torch.allclose(twin(IMAGES), before)
    with twin.open_gates():
        assert torch.equal(net(IMAGES), before)


def test_config_and_weights_file(tmp_path) -> None:
    net = new_net(cbam_after=AFTER["test_resnet"], cbam="spatial", cbam_reduction=4)
    again = XrayNet(**net.config).eval()
    assert again.config == net.config
    fill(again, net.state_dict(), "memory")
    assert torch.equal(again(IMAGES), net(IMAGES))
    with pytest.raises(WeightsError, match=r"In the file only.*\(2\): attention\.layer2-0\.spat"):
        fill(new_net(), net.state_dict(), "memory")
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {f"net.{key}": v for key, v in net.state_dict().items()}}, path)
    for after in ((), ("layer1",)):
        torch.manual_seed(9)
        other = XrayNet(LABELS, "test_resnet", image_size=SIZE, weights=str(path), cbam_after=after)
        states = (one.backbone.state_dict() for one in (other, net))
        torch.testing.assert_close(*states, rtol=0, atol=0)


def test_a_compiled_network_keeps_its_blocks() -> None:
    """Without a compiler behind: what torch.compile records of the hooks."""
    net = new_net(cbam_after=["layer4"])
    expected = net(IMAGES)
    net.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(net(IMAGES), expected)


@pytest.mark.parametrize("name", AFTER)
def test_attention_maps(name: str, pair) -> None:
    net = pair(name)[1]
    maps = net.attention_maps(IMAGES)
    assert tuple(maps) == AFTER[name]
    inputs: dict[str, Tensor] = {}
    hooks = [  # the block's input, as an observer that stands before the block sees it
        net.attention[after.replace(".", "-")].register_forward_pre_hook(
            lambda module, args, after=after: inputs.update({after: args[0].clone()})
        )
        for after in AFTER[name]
    ]
    net(IMAGES)
    for hook in hooks:
        hook.remove()
    for after, found in maps.items():
        block = net.attention[after.replace(".", "-")]
        features = inputs[after]
        expected = block.spatial(features * block.channel(features))
        assert found.shape == (2, 1, *features.shape[2:])
        torch.testing.assert_close(found, expected)
        assert found.std() > 0


def test_attention_maps_leave_no_trace() -> None:
    net = new_net(cbam_after=AFTER["test_resnet"]).train()
    net.backbone.bn1.eval()  # a frozen norm
    modes = [module.training for module in net.modules()]
    hooks = [len(module._forward_hooks) for module in net.modules()]
    state = copy.deepcopy(net.state_dict())
    maps = net.attention_maps(IMAGES)
    assert not any(found.requires_grad for found in maps.values())
    assert [module.training for module in net.modules()] == modes
    assert [len(module._forward_hooks) for module in net.modules()] == hooks
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    judged = net.eval().attention_maps(IMAGES)  # always those of evaluation mode
    torch.testing.assert_close(maps, judged, rtol=0, atol=0)


@pytest.mark.parametrize("settings", [{}, {"cbam_after": ["layer4"], "cbam": "channel"}])
def test_no_spatial_maps(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"no spatial gates that act; build it with cbam_after="):
        new_net(**settings).attention_maps(IMAGES)
    net = new_net(cbam_after=["layer4"])
    with net.open_gates(), pytest.raises(ConfigError, match="look at it outside open_gates"):
        net.attention_maps(IMAGES)


@pytest.mark.parametrize(
    ("make", "settings", "match"),
    [
        (SMALL, {"parts": "neither"}, r"model\.cbam must be one of both, .*got 'neither'"),
        (SMALL, {"reduction": 0}, r"cbam_reduction of a map of 6 channels .*at least 1 .*got 0"),
        (SMALL, {"reduction": 7}, r"of a map of 6 channels must be .* at most 6, got 7"),
        (SpatialGate, {"kernel_size": 4}, r"kernel_size of a spatial gate must be odd, got 4"),
        (new_net, {"cbam_after": ["layr4"]}, r"no module 'layr4'; near .*'layer4'.*\['conv1', "),
        (new_net, {"cbam_after": [""]}, r"'test_resnet' has no module ''"),
        (new_net, {"cbam_after": [4]}, r"'test_resnet' has no module 4; near it are"),
        (new_net, {"cbam_after": ["fc"]}, r"'fc' runs 0 times in a forward pass"),
        (new_net, {"cbam_after": ["layer4"] * 2}, r"names a module twice: \['layer4', 'la"),
        (new_net, {"cbam_after": "layer4"}, r"must be a list such as \[layer4\], got 'layer"),
        (VIT, {"cbam_after": ["blocks.1"]}, r"'blocks\.1' gives \(1, 17, 64\), which is no"),
        (NEXT, {"cbam_after": ["stages.0.blocks.0.norm"]}, r"\(1, 16, 16, 24\).*no map \(B, C, H"),
    ],
)
def test_what_cannot_work(make, settings: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make(**settings)


def test_a_module_that_runs_twice_or_gives_several_tensors() -> None:
    backbone = create_backbone("test_resnet", image_size=SIZE)
    backbone.layer4[0].act2 = backbone.layer4[0].act1
    with pytest.raises(ConfigError, match=r"'layer4\.0\.act1' runs 2 times in a forward pass"):
        insert_cbam(backbone, ["layer4.0.act1"], SIZE, parts="both", reduction=8)
    assert not any(module._forward_hooks for module in backbone.modules())
    backbone.conv1.register_forward_hook(lambda module, args, found: (found, found))
    backbone.bn1.register_forward_pre_hook(lambda module, args: args[0][0])
    with pytest.raises(ConfigError, match=r"'conv1' gives no single tensor, which is no map"):
        insert_cbam(backbone, ["conv1"], SIZE, parts="both", reduction=8)
