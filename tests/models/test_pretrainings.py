"""Backbones trained on radiographs, from files in their authors' names, of random tensors."""

import re
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from xray_lightning import WeightsError, XrayNet
from xray_lightning.models import backbones

TABLE = backbones.read_pretrainings()
WIDE = {"depth": 2, "embed_dim": 48, "num_heads": 2}
SWIN = {"depths": (2, 2, 2, 2), "embed_dim": 16, "num_heads": (1, 2, 2, 2), "window_size": 7}
SMALL = {"vit": WIDE, "eva": WIDE, "swi": SWIN, "den": {"block_config": (1, 1, 1, 1)}, "res": {}}
HUGGING = {  # Dinov2Model of transformers: part of a name of timm's -> of its own, in this order
    **{"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"},
    **{"blocks.": "encoder.layer.", "attn.proj": "attention.output.dense"},
    **{"patch_embed.proj": "embeddings.patch_embeddings.projection"},
    **{"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"},
}
EVA = {"fc1_g": "w1", "fc1_x": "w2", "fc2": "w3", "mlp.norm": "mlp.ffn_ln"}
EVA |= {"attn.norm": "attn.inner_attn_ln"}
CLIP = {  # openai/CLIP
    **{"patch_embed.proj": "conv1", "pos_embed": "positional_embedding", "norm_pre": "ln_pre"},
    **{"cls_token": "class_embedding", "blocks.": "transformer.resblocks.", "qkv.": "in_proj_"},
    **{"attn.proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"},
    **{"norm1": "ln_1", "norm2": "ln_2"},
}
State = dict[str, Tensor]


def call(state: State, names: dict[str, str], prefix: str = "") -> State:
    for own, other in names.items():
        state = {key.replace(own, other): value for key, value in state.items()}
    return {prefix + key: value for key, value in state.items()}


def write_hugging(state: State) -> State:
    named = {re.sub(r"^norm\.", "layernorm.", k): v for k, v in call(state, HUGGING).items()}
    for key in [key for key in named if "attn.qkv" in key]:
        parts = zip(("query", "key", "value"), named.pop(key).chunk(3), strict=True)
        named |= {key.replace("attn.qkv", f"attention.attention.{k}"): v for k, v in parts}
    return named | add("embeddings.mask_token")


def write_ark(state: State) -> dict[str, object]:
    """Swin's own code has a downsampling at the end of a stage, timm at the start of the next."""
    moved = call(state, {f"s.{stage}.down": f"s.{stage - 1}.down" for stage in (1, 2, 3)})
    more = add("head.weight", "omni_heads.0.bias", "projector.0.bias", "a.relative_position_index")
    return {"teacher": call(moved | more, {}, "module."), "state_dict": {}, "epoch": 3}


def write_clip(state: State) -> State:
    named = call(state, CLIP, "visual.")
    named["visual.class_embedding"] = named["visual.class_embedding"][0, 0]
    named["visual.positional_embedding"] = named["visual.positional_embedding"][0]
    return named | add("visual.proj", "logit_scale", "token.weight")


def add(*names: str) -> State:
    return {name: torch.zeros(2) for name in names}


WAYS = {  # network of the table, and what its authors' file holds of a state in timm's names
    "dinov2": ("rad_dino", lambda s: s | add("mask_token")),
    "hugging": ("rad_dino", write_hugging),
    "eva_x": (
        "eva_x_tiny",
        lambda s: {"module": call(s, EVA) | add("mask_token", "rope.freqs_cos", "lm_head.weight")},
    ),
    "ark": ("ark", write_ark),
    "ark_plus": ("ark_plus", write_ark),
    "xrv": ("xrv_densenet121", lambda s: s | add("classifier.weight", "op_threshs")),
    "mae": (
        "medical_mae_vit_b",
        lambda s: {"model": s | add("mask_token", "decoder_pred.bias"), "args": Namespace(lr=1.0)},
    ),
    "clip": ("chexzero", write_clip),
    "biomedclip": (
        "biomedclip",
        lambda s: call(s, {}, "visual.trunk.") | add("text.proj", "visual.head.proj.weight"),
    ),
}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch: pytest.MonkeyPatch) -> tuple[str, object]:
    """A name of the table, its network made small, and how its file is written."""
    name, write = WAYS[request.param]
    known = TABLE[name]
    small = {name: replace(known, options={**known.options, **SMALL[known.network[:3]]})}
    monkeypatch.setattr(backbones, "read_pretrainings", lambda: small)
    return name, write


def fill_at_random(name: str, size: int, channels: int) -> State:
    """A state in timm's names, the first convolution of a file of so many channels."""
    torch.manual_seed(3)
    made = backbones.create_backbone(name, image_size=size)
    first = f"{made.pretrained_cfg['first_conv']}.weight"
    state = {k: torch.rand_like(v.float()).to(v.dtype) for k, v in made.state_dict().items()}
    return state | {first: state[first].repeat(1, channels, 1, 1)}


def test_every_tensor_of_a_file(way, tmp_path) -> None:
    name, write = way
    state = fill_at_random(name, 224, 1 if name.startswith("xrv") else 3)
    torch.save(write(dict(state)), path := tmp_path / "file.pt")
    net = XrayNet(("a",), name, weights=str(path), image_size=224)
    for key, value in net.backbone.state_dict().items():
        wanted = state[key]
        if value.shape != wanted.shape:
            wanted = wanted.sum(dim=1, keepdim=True)  # of the equal channels
        torch.testing.assert_close(value, wanted, msg=key)
    assert net.load_report.count("; dropped: ") == 1
    assert "resampled" not in net.load_report
    for key, values in TABLE[name].norm.items():
        assert net.config[key] == pytest.approx(np.mean(values))
    again = XrayNet(**net.config)
    again.load_state_dict(net.state_dict())
    images = torch.rand(1, 1, 224, 224)
    torch.testing.assert_close(again.eval()(images), net.eval()(images))


@pytest.mark.parametrize("fault", ["missing", "more", "shape", "first"])
def test_a_file_that_does_not_fit(way, fault: str, tmp_path) -> None:
    """A matrix of the last layer, or the first convolution."""
    name, write = way
    content = write(fill_at_random(name, 224, 1))
    state = next((held for held in content.values() if isinstance(held, dict) and held), content)
    first = next(key for key, value in state.items() if value.ndim == 4)
    *_, last = (key for key, value in state.items() if value.ndim > 1)
    names = {"first": first, "more": last.replace("weight", "strange")}
    state[names.get(fault, last)] = torch.zeros(7)
    if fault == "missing":
        del state[last]
    torch.save(content, path := tmp_path / "file.pt")
    with pytest.raises(WeightsError, match=rf"file\.pt, for {name} of .*, fits .* only in part"):
        XrayNet(("a",), name, weights=str(path), image_size=224)


@pytest.mark.parametrize(("file", "size"), [("dinov2", 112), ("hugging", 448), ("clip", 128)])
def test_another_size(file: str, size: int, monkeypatch, tmp_path) -> None:
    name, write = WAYS[file]
    known = replace(TABLE[name], options=WIDE)
    monkeypatch.setattr(backbones, "read_pretrainings", lambda: {name: known})
    state = fill_at_random(name, 518 if name == "rad_dino" else 224, 3)
    torch.save(write(dict(state)), path := tmp_path / "file.pt")
    net = XrayNet(("a",), name, weights=str(path), image_size=size)
    said = r"; dropped: (\S*mask_token|visual\.proj, .*); resampled to this size: pos_embed$"
    assert re.search(said, net.load_report)
    grid = net.backbone.patch_embed.grid_size
    wanted = resample_abs_pos_embed(state["pos_embed"], new_size=list(grid))
    torch.testing.assert_close(net.backbone.pos_embed.data, wanted)
    assert net.maps(torch.rand(1, 1, size, size)).shape[2:] == grid
    assert grid == (size // (14 if name == "rad_dino" else 32),) * 2


def test_features_equal_those_of_torchxrayvision(tmp_path) -> None:
    """``pip install --no-deps torchxrayvision`` runs it: same images, in their grey of +-1024."""
    theirs = pytest.importorskip("torchxrayvision").models.DenseNet(weights=None).eval()
    torch.save(theirs.state_dict(), path := tmp_path / "file.pt")
    net = XrayNet(("a",), "xrv_densenet121", weights=str(path), image_size=64).eval()
    images = torch.rand(2, 1, 64, 64)
    wanted = theirs.features((2 * images - 1) * 1024)
    torch.testing.assert_close(net.forward_features(images), wanted.relu(), rtol=1e-3, atol=1e-3)
