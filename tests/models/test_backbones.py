"""Weights from files and from timm: all of them or an error."""

import json
import pickle
from copy import deepcopy
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from running import xray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from toy import MODELS

from xray_lightning import WeightsError, XrayNet
from xray_lightning.models import backbones
from xray_lightning.models.backbones import create_backbone, load_backbone, trace_sizes

LABELS = ("a", "b")
NORM, CONV = "layer1.0.bn1.weight", "conv1.0.weight"
real_create_model = timm.create_model


def timm_model(name: str = "test_resnet", **settings) -> nn.Module:
    """A network as timm publishes it: colour images, 1000 classes."""
    return timm.create_model(name, pretrained=False, in_chans=3, **settings).eval()


def timm_file(folder: Path, change=None) -> Path:
    state = timm_model().state_dict()
    if change is not None:
        change(state)
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


def assert_unchanged(module: nn.Module, before: dict[str, Tensor]) -> None:
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", sorted({"test_resnet", *MODELS.values()} - {"eva_x_tiny"}))
def test_timm_file(name: str, tmp_path: Path) -> None:
    """Of every config: features are those of three equal channels, the classifier is dropped."""
    colour = timm_model(name, **({"img_size": 64} if name.startswith("vit") else {}))
    save_file(colour.state_dict(), path := tmp_path / "model.safetensors")
    net = XrayNet(LABELS, name, weights=str(path), image_size=64).eval()
    facts, count = colour.pretrained_cfg, len(net.backbone.state_dict())
    summed = colour.get_submodule(facts["first_conv"]).weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(net.backbone.get_submodule(facts["first_conv"]).weight, summed)
    head = facts["classifier"]
    report = f"{count} of {count} backbone tensors from {path}; dropped: {head}.bias, {head}.weight"
    assert net.load_report == report
    assert len(colour.state_dict()) == count + 2
    images = torch.rand(2, 1, 64, 64)
    grey = net.backbone.forward_features(images)
    wanted = colour.forward_features(images.expand(-1, 3, -1, -1))
    torch.testing.assert_close(grey, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layout", ["checkpoint", "net", "bare"])
def test_our_own_checkpoint(layout: str, tmp_path: Path) -> None:
    trained = XrayNet(LABELS, "test_vit", image_size=32)
    state = trained.state_dict()
    if layout != "bare":
        state = {f"net.{key}": value for key, value in state.items()}
    path = tmp_path / "best.ckpt"
    torch.save({"state_dict": state, "epoch": 3} if layout == "checkpoint" else state, path)
    net = XrayNet(("other",), "test_vit", weights=str(path), image_size=32)
    assert_unchanged(net.backbone, trained.backbone.state_dict())
    assert net.head.classifier.out_features == 1
    count = len(trained.backbone.state_dict())
    assert net.load_report == f"{count} of {count} backbone tensors from {path}"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x: x.pop(NORM), rf"nothing was loaded\. Not in the file, or .* \(1\): {NORM}\.$"),
        (lambda x: x.update(strange=torch.zeros(2)), r"\. In the file only, .* \(1\): strange\.$"),
        (lambda x: x.update({NORM: torch.zeros(3)}), rf"Not .*\(1\): {NORM}\. In .*\(1\): {NORM}"),
        (lambda x: [x.pop(key) for key in list(x)[:30]], r"\(30\): .* and 20 more\."),
        (lambda x: x.update({CONV: torch.zeros(16, 4, 3, 3)}), rf"another shape \(1\): {CONV}"),
    ],
)
def test_a_file_that_fits_in_part(change, match, tmp_path) -> None:
    path = timm_file(tmp_path, change)
    backbone = create_backbone("test_resnet", image_size=64)
    before = deepcopy(backbone.state_dict())
    with pytest.raises(WeightsError, match=match) as caught:
        load_backbone(backbone, path)
    assert str(caught.value).startswith(str(path))
    assert_unchanged(backbone, before)


def saved(path: Path, content: object, save=torch.save, **settings: int) -> Path:
    with path.open("wb") as file:
        save(content, file, **settings)
    return path


def cut(path: Path, end: int) -> Path:
    path.write_bytes(path.read_bytes()[:end])
    return path


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda folder: folder / "absent.pt", r"no file at '.*absent\.pt'; it must be"),
        (lambda folder: folder, r"model\.weights: no file at .*must be 'imagenet', 'none', or the"),
        (lambda f: cut(timm_file(f), -100), r"model\.safetensors is damaged \(SafetensorError"),
        (lambda f: cut(saved(f / "h", timm_model().state_dict()), 5000), "h is (damaged|no plain)"),
        (lambda f: saved(f / "object", {"path": f}), r"object is no plain .* \(UnpicklingError"),
        (lambda f: saved(f / "p", f, pickle.dump, protocol=2), r"p is no plain .*\(Unpickling"),
        (lambda f: saved(f / "empty", {"epoch": 3}), r"empty holds no tensors"),
    ],
)
def test_files_without_weights(make, match: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=match):
        XrayNet(LABELS, "test_resnet", weights=str(make(tmp_path)), image_size=64)


def pretend_download(untouched: str = "", error: Exception | None = None):
    """``timm.create_model`` with random numbers for pretrained weights, or an error."""

    def create_model(name: str, *, pretrained: bool, **settings) -> nn.Module:
        model: nn.Module = real_create_model(name, pretrained=False, **settings)
        if pretrained and error:
            raise error
        if pretrained:
            generator = torch.Generator().manual_seed(7)
            with torch.no_grad():
                for key, value in model.state_dict().items():
                    if value.is_floating_point() and key != untouched:
                        value.copy_(torch.rand(value.shape, generator=generator))
        return model

    return create_model


def test_imagenet_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", pretend_download())
    state = torch.get_rng_state()
    backbone, report = backbones.pretrained_backbone("test_resnet", image_size=64)
    assert torch.equal(torch.get_rng_state(), state)
    bare = {"in_chans": 1, "num_classes": 0, "global_pool": ""}
    expected = pretend_download()("test_resnet", pretrained=True, **bare)
    assert_unchanged(backbone, expected.state_dict())
    count = len(expected.state_dict())
    assert report == f"{count} of {count} backbone tensors from timm's test_resnet.r160_in1k"


@pytest.mark.parametrize("key", ["layer2.0.bn1.weight", "layer3.0.conv1.weight", "bn1.running_var"])
def test_a_tensor_that_timm_left_random_is_named(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", pretend_download(untouched=key))
    match = rf"timm's weights for 'test_resnet' fits .* nothing was loaded\..*\(1\): {key}\."
    with pytest.raises(WeightsError, match=match):
        XrayNet(LABELS, "test_resnet", weights="imagenet", image_size=64)


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("cannot find the file\nand more"), OSError("no route")]
)
def test_without_a_network(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", pretend_download(error=error))
    with pytest.raises(WeightsError, match="could not be fetched") as caught:
        XrayNet(LABELS, "test_resnet", weights="imagenet", image_size=64)
    text = str(caught.value)
    assert f"({type(error).__name__}: {str(error).splitlines()[0]})" in text
    assert "model.weights=none" in text
    assert "model.weights=/path/to/file.safetensors" in text
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("darknet17", "no pretrained weights for 'darknet17'; use model.weights=none"),
        ("eva_x_base", r"eva_x_base come as a file: use model.weights=FILE \(github.com/hustvl"),
    ],
)
def test_no_such_weights(name: str, match: str) -> None:
    with pytest.raises(WeightsError, match=match):
        XrayNet(LABELS, name, weights="imagenet", image_size=64)


@pytest.mark.parametrize(
    ("backbone", "size", "read", "side"),
    [
        ("vit_tiny_patch16_224", 100, 96, 16),
        ("vit_tiny_patch16_224", 96, 96, 16),
        ("convnext_atto", 100, 96, 32),  # a stem of 4, then 25 -> 12 cells and 6 -> 3
        ("convnext_atto", 64, 64, 32),
        ("resnet10t", 100, 100, 1),
        ("resnet10t", 64, 64, 1),
        ("resnet10t", 32, 32, 1),  # whose last map has one place
    ],
)
def test_what_patches_read_and_batch_norms_of_one_value(backbone, size, read, side) -> None:
    net = XrayNet(["Mass"], backbone, image_size=size)
    single = (backbone, size) == ("resnet10t", 32)
    assert trace_sizes(net, size) == (pytest.approx((read / size) ** 2), side, single)
    assert net.training


def test_plain_checkpoints_become_safe_files(tmp_path: Path) -> None:
    state = timm_model().state_dict()
    state["shared"] = state["fc.weight"][:, ::2]  # neither contiguous nor its own
    plain, pickled, out = (tmp_path / name for name in ("a.pth", "module.pth", "a.safetensors"))
    torch.save({"state_dict": state}, plain)
    told = json.loads(xray("weights", "convert", plain, "--out", out, "--json"))
    size = out.stat().st_size
    assert told == {"schema": 2, "path": str(out), "tensors": len(state), "bytes": size}
    assert all(torch.equal(value, state[key]) for key, value in load_file(out).items())
    torch.save(nn.Linear(2, 2), pickled)
    for words, message in [
        (("convert", pickled, "--out", out), "a pickled module is never loaded"),
        (("convert", tmp_path / "none.pth", "--out", out), "none.pth: no such file"),
        (("unpack", plain, "--out", out), "xray weights must be one of convert"),
        (("convert", plain, "--out", tmp_path / "a.pt"), "must be a file .safetensors"),
        (("convert", plain), "--out PATH"),
    ]:
        assert message in " ".join(xray("weights", *words, code=2).split())
