"""XrayNet: shapes, normalisation inside, where things lie on the map, and what it refuses."""

from functools import cache, partial
from unittest.mock import Mock

import numpy as np
import pytest
import timm
import torch
from torch import nn
from toy import MODELS, toy_net

from xray_lightning import ConfigError, XrayNet
from xray_lightning.models import network
from xray_lightning.models.backbones import find_pretraining
from xray_lightning.models.batches import iterate_batches, run_batches
from xray_lightning.models.heads import HEADS
from xray_lightning.training.callbacks.weights import FreezeBackbone
from xray_lightning.training.optim import make_optimizer

LABELS = ("Mass", "Nodule", "Hernia")
OTHERS = ["swin_tiny_patch4_window7_224", "test_vit"]  # and two with a convolution in the head
OTHERS += ["mobilenetv3_small_050", "mobilenetv4_conv_small", "lcnet_050"]
IMAGES = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def built():
    """Networks in evaluation mode, each built once."""
    return cache(lambda name: XrayNet(LABELS, name, image_size=64).eval())


@pytest.mark.parametrize("name", [*MODELS.values(), *OTHERS])
def test_backbones_of_the_configs(name: str, built) -> None:
    net = built(name)
    features = net.forward_features(IMAGES)
    side = 4 if "vit" in name or "eva" in name else 2  # patches of 16, else a stride of 32
    assert features.shape == (2, net.backbone.head_hidden_size, side, side)
    logits = net(IMAGES)
    assert logits.shape == (2, len(LABELS))
    assert torch.isfinite(logits).all()
    assert torch.equal(logits, net.forward_head(features))
    known = find_pretraining(name)
    facts = timm.get_pretrained_cfg(known.network)
    mean, std = (np.mean(known.norm.get(k, getattr(facts, k))).item() for k in ("mean", "std"))
    backbone = net.backbone
    raw = backbone.forward_head(backbone.forward_features((IMAGES - mean) / std), pre_logits=True)
    raw = raw[:, backbone.num_prefix_tokens :] if raw.ndim == 3 else raw
    torch.testing.assert_close(features.sum(), raw.sum(), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    "name", ["test_resnet", "densenet121", "legacy_xception", "swin_tiny_patch4_window7_224"]
)
def test_equals_the_classifier_of_timm(name: str, built) -> None:
    """These pool after their last norm, so the whole network must be timm's own."""
    net = built(name)
    size = {"img_size": 64} if name.startswith("swin") else {}
    theirs = timm.create_model(name, in_chans=1, num_classes=3, global_pool="avg", **size).eval()
    classifier = theirs.pretrained_cfg["classifier"]
    head = {f"{classifier}.{key}": value for key, value in net.head.classifier.state_dict().items()}
    theirs.load_state_dict(net.backbone.state_dict() | head)
    expected = theirs((IMAGES - net.mean) / net.std)
    torch.testing.assert_close(net(IMAGES), expected, rtol=1e-4, atol=1e-5)


def test_a_last_norm_belongs_to_the_map_tokens_lie_where_patches_are_nhwc_as_it_is(built) -> None:
    net = built("convnext_tiny")
    raw = net.backbone.forward_features((IMAGES - net.mean) / net.std)
    torch.testing.assert_close(net.forward_features(IMAGES), net.backbone.head.norm(raw))
    net = built("test_vit")
    tokens = net.backbone.forward_features((IMAGES - net.mean) / net.std)
    assert tokens.shape[1] == net.backbone.num_prefix_tokens + 16
    patches = tokens[:, net.backbone.num_prefix_tokens :].unflatten(1, (4, 4))  # (B, h, w, C)
    torch.testing.assert_close(net.forward_features(IMAGES).permute(0, 2, 3, 1), patches)
    net = built("swin_tiny_patch4_window7_224")
    raw = net.backbone.forward_features((IMAGES - net.mean) / net.std)  # (B, h, w, C)
    torch.testing.assert_close(net.forward_features(IMAGES).permute(0, 2, 3, 1), raw)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_stays_in_float32_under_autocast(head: str, built, monkeypatch) -> None:
    """The backbone is shared: what differs is the head."""
    backbone = built("test_resnet").backbone
    monkeypatch.setattr(network, "load_network", lambda *arguments: (backbone, None))
    net = XrayNet(LABELS, "test_resnet", head=head, image_size=64).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = net.forward_features(IMAGES)
        logits, maps = net(IMAGES), net.maps(IMAGES)
    assert torch.equal(maps, net.head.maps(features.float()))
    assert logits.dtype == torch.float32
    assert torch.equal(logits, net.head(features.float()))
    assert (logits.bfloat16().float() != logits).any()  # finer than bfloat16


def test_construction_only_looks() -> None:
    """Finding out the layout changes no running mean, no mode and no random state."""
    torch.manual_seed(3)
    net = XrayNet(LABELS, "test_resnet", image_size=64)
    after = torch.rand(1)
    assert all(module.training for module in net.modules())
    assert all(int(value) == 0 for key, value in net.state_dict().items() if "batches" in key)
    assert all((value == 0).all() for key, value in net.state_dict().items() if "mean" in key)
    torch.manual_seed(3)
    backbone = timm.create_model("test_resnet", in_chans=1, num_classes=0, global_pool="")
    torch.nn.Linear(backbone.num_features, len(LABELS))
    assert torch.equal(torch.rand(1), after)
    found, wanted = net.backbone.state_dict(), backbone.state_dict()
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": "test_vit", "dropout": 0.25},
        {"mean": 0.3, "std": 0.2},
        {"head": "csra", "head_options": {"temperatures": [1, 99], "residual": 0.3}},
    ],
)
def test_config_rebuilds_the_network(settings) -> None:
    net = XrayNet(LABELS, **{"backbone": "test_resnet"} | settings, image_size=32).eval()
    assert net.config.items() >= settings.items()
    again = XrayNet(**net.config).eval()
    again.load_state_dict(net.state_dict())
    images = IMAGES[..., :32, :32]
    assert torch.equal(again(images), net(images))
    assert net.labels == again.labels == LABELS
    assert (again.head.dropout.p, net.load_report) == (settings.get("dropout", 0), None)


@pytest.mark.parametrize(
    ("name", "head", "after"), [("test_resnet", "gem", ["layer2.0"]), ("test_vit", "query", [])]
)
def test_export_for_any_batch_size(name: str, head: str, after: list[str]) -> None:
    """Hooks are recorded, and nothing on the way takes the batch size for a constant."""
    net = XrayNet(LABELS, name, head=head, cbam_after=after, image_size=64).eval()
    shapes = {"images": {0: torch.export.Dim("batch", min=1, max=64)}}
    program = torch.export.export(net, (IMAGES,), dynamic_shapes=shapes)
    images = torch.rand(5, 1, 64, 64)
    torch.testing.assert_close(program.module()(images), net(images))


def test_a_checkpoint_from_before_heads_could_be_chosen() -> None:
    """Its configuration has none of the newer keys, and its tensors have these names."""
    older = {"labels": list(LABELS), "backbone": "test_resnet", "dropout": 0.0, "image_size": 32}
    net = XrayNet(**older, mean=0.5, std=0.5)
    names = {key for key in net.state_dict() if not key.startswith("backbone.")}
    assert names == {"head.classifier.weight", "head.classifier.bias"}
    assert net.config.items() >= (older | {"mean": 0.5, "std": 0.5}).items()
    assert (net.config["head"], net.config["head_options"]) == ("average", {})
    assert (net.config["cbam_after"], len(net.attention)) == ([], 0)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"weights": None}, "weights must be imagenet, none or a file, got None"),
        ({"normalise": "none"}, r"model\.normalise must be one of .*, got 'none'"),
        ({"labels": ()}, "a network needs at least one label"),
        ({"dropout": 1.0}, r"model\.dropout must be a number of at least 0 and below 1, got 1\.0"),
        ({"dropout": -0.1}, r"model\.dropout must be .* got -0\.1"),
        ({"backbone": "resnet5O", "weights": "imagenet"}, "timm has no network 'resnet5O'"),
        ({"backbone": "densnet121"}, "no network 'densnet121'; near it are.*'densenet121'"),
        ({"backbone": "densenet121.no_tag"}, r"cannot build 'densenet121\.no_tag'.*no_tag"),
        ({"image_size": 50}, r"'test_vit' cannot take images of image_size=50 pixels \(.*50"),
        ({"backbone": "xcit_nano_12_p8_224"}, r"shape \(1, 65, 128\), which are neither a map"),
    ],
)
def test_what_cannot_work(settings, match: str) -> None:
    arguments = {"labels": LABELS, "backbone": "test_vit", "image_size": 64} | settings
    with pytest.raises(ConfigError, match=match):
        XrayNet(**arguments)


def test_each_image_standardise_as_tensorflow_does() -> None:
    images = torch.rand(3, 1, 5, 7, generator=torch.Generator().manual_seed(0))
    images[2] = 0.25
    for image, found in zip(images.numpy(), network.standardise(images).numpy(), strict=True):
        expected = (image - image.mean()) / max(image.std(), 1 / np.sqrt(image.size))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_normalisation_is_part_of_the_network() -> None:
    nets = [toy_net(LABELS, normalise=normalise).eval() for normalise in ("fixed", "image")]
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    brighter = 0.5 * images + 0.3
    torch.testing.assert_close(nets[1](images), nets[1](brighter), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(nets[0](images), nets[0](brighter), atol=1e-4)
    assert XrayNet(**nets[1].config).config == nets[1].config


def test_a_head_without_maps_says_so() -> None:
    def plain(channels: int, labels: int, *, dropout: float = 0.0) -> nn.Module:
        return nn.Identity()

    net = XrayNet(("Mass",), "test_resnet", image_size=32, head=plain)
    with pytest.raises(ConfigError, match="plain gives no maps"):
        net.maps(torch.zeros(1, 1, 32, 32))


NET = nn.Conv2d(1, 2, 3)


@pytest.mark.parametrize(
    ("count", "full", "sizes"),
    [(7, False, [3, 3, 1]), (7, True, [4, 3]), (2, True, [2]), (6, False, [3, 3])],
)
def test_batches_are_joined_in_order_without_gradient(count, full, sizes) -> None:
    images = torch.rand(count, 1, 5, 5)
    assert [len(batch) for batch in iterate_batches(NET, images, 3, full=full)] == sizes
    answer = run_batches(NET, images, batch_size=3, full=full)
    torch.testing.assert_close(answer, NET(images).detach())
    assert not answer.requires_grad
    sums = run_batches(NET, images, lambda batch: batch.sum(dim=(1, 2, 3)), batch_size=2)
    torch.testing.assert_close(sums, images.sum(dim=(1, 2, 3)))


def learn(net: XrayNet) -> tuple[set[str], dict[str, torch.Tensor]]:
    """What changed in one step of a large rate with decay, and the tensors before it."""
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    optimizer = make_optimizer(partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1), net, 0.1)
    net(IMAGES).square().sum().backward()
    optimizer.step()
    changed = {k for k, value in net.named_parameters() if not torch.equal(value, before[k])}
    return changed, before


def test_lora_adds_a_product_to_each_linear_layer() -> None:
    torch.manual_seed(0)
    net, full = (
        XrayNet(LABELS, "test_vit", image_size=64, finetune=how, lora_rank=2).eval()
        for how in ("lora", "full")
    )
    theirs = {name.removeprefix("backbone."): name for name, _ in full.named_parameters()}
    linear = [name for name, one in full.backbone.named_modules() if isinstance(one, nn.Linear)]
    assert len(linear) == 4 * len(full.backbone.blocks)
    for _ in range(2):  # at first the products are 0
        state = dict(net.named_parameters())
        with torch.no_grad():
            for key, name in theirs.items():
                layer = f"backbone.{key.removesuffix('.weight')}.parametrizations.weight"
                value = state.get(name, state.get(f"{layer}.original"))
                if key.removesuffix(".weight") in linear and key.endswith("weight"):
                    value = value + state[f"{layer}.0.up"] @ state[f"{layer}.0.down"]
                full.get_parameter(name).copy_(value)
        torch.testing.assert_close(net(IMAGES), full(IMAGES))
        changed, _ = learn(net)
        assert {name for name in state if name.endswith(".0.up")} < changed
        assert {name.split(".")[-1] for name in changed if "backbone" in name} <= {"up", "down"}
    again = XrayNet(**net.config).eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(IMAGES), net(IMAGES))


@pytest.mark.parametrize("name", ["test_vit", "densenet121"])
def test_bitfit_learns_biases(name: str) -> None:
    net = XrayNet(LABELS, name, image_size=64, finetune="bitfit").train()
    changed, before = learn(net)
    biases = {key for key in before if key.startswith("backbone.") and key.endswith(".bias")}
    assert {key for key in changed if key.startswith("backbone.")} <= biases
    assert len(changed & biases) > 0.7 * len(biases)  # a key's bias has no gradient, softmax's
    assert XrayNet(**net.config).config == net.config


def test_finetuning_that_cannot_be() -> None:
    for how, rank, message in [
        ("lora", 8, "model.finetune=lora: this backbone has no layer for it"),
        ("lora", 0, "model.lora_rank must be an integer of at least 1"),
        ("adapter", 8, "model.finetune must be one of full, bitfit, lora, got 'adapter'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            XrayNet(LABELS, "test_resnet", finetune=how, lora_rank=rank)
    task = Mock(net=XrayNet(LABELS, "test_resnet", finetune="bitfit"))
    with pytest.raises(ConfigError, match=r"freeze_epochs=2 and model.finetune: leave out one"):
        FreezeBackbone(2).on_fit_start(Mock(), task)
