"""Backbones of timm: made, filled with weights (all of them or an error), and what they give."""

import argparse
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import timm
import torch
import yaml  # type: ignore[import-untyped]
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from timm.models import adapt_input_conv
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from xray_lightning.errors import ConfigError, WeightsError
from xray_lightning.hub import locate, name_place
from xray_lightning.models.batches import evaluation_mode
from xray_lightning.results import Result
from xray_lightning.wording import fault, name_first
from xray_lightning.writing import write_file

State = dict[str, Tensor]
PLACES = ("teacher", "model", "module", "state_dict")  # of tensors in a file, one in the other
OURS = re.compile(r"^(net\.)?backbone\.")  # names in a checkpoint of this package
DAMAGE = (SafetensorError, BadZipFile, OSError, RuntimeError, EOFError, ValueError, KeyError)


@dataclass(frozen=True)
class Pretraining(Result):
    """How the file of a backbone goes into a network of timm; backbones.yaml tells the fields."""

    network: str
    options: Mapping[str, Any] = field(default_factory=dict)
    dropped: str = "$"
    renamed: Mapping[str, str] = field(default_factory=dict)
    norm: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""


@cache
def read_pretrainings() -> dict[str, Pretraining]:
    """The backbones trained on radiographs that are known by name."""
    table = yaml.safe_load(files(__package__).joinpath("backbones.yaml").read_text("utf-8"))
    return {name: Pretraining.from_json(row) for name, row in table.items()}


def find_pretraining(name: str) -> Pretraining:
    """That of a name of ours; of timm's the network itself."""
    return read_pretrainings().get(name) or Pretraining(name)


def create_backbone(name: str, *, image_size: int, pretrained: bool = False) -> Any:
    """A network for one-channel images without pool and classifier; timm's name, or one of ours."""
    known = find_pretraining(name)
    architecture = known.network.split(".")[0]
    if not timm.is_model(architecture):
        near = get_close_matches(architecture, [*read_pretrainings(), *timm.list_models()], n=8)
        raise ConfigError(f"model.backbone: timm has no network {name!r}; near it are {near}")
    try:
        fixed = getattr(timm.get_pretrained_cfg(known.network), "fixed_input_size", False)
        overlay, size = dict(known.norm), {"img_size": image_size} if fixed else {}
        return timm.create_model(
            known.network, pretrained=pretrained, pretrained_cfg_overlay=overlay,
            in_chans=1, num_classes=0, global_pool="", **(size | dict(known.options)),
        )  # fmt: skip
    except Exception as error:  # timm and its hub client share no base class
        if pretrained:
            raise
        raise ConfigError(fault("cannot_build", name, _first_line(error))) from error


def load_network(name: str, weights: str, image_size: int) -> tuple[Any, str | None]:
    """A backbone with weights: "imagenet", "none", or the path of a file; and what was loaded."""
    if not isinstance(weights, str | Path):
        raise ConfigError(f"weights must be imagenet, none or a file, got {weights!r}")
    if weights == "imagenet":
        return pretrained_backbone(name, image_size=image_size)
    backbone = create_backbone(name, image_size=image_size)
    return backbone, None if weights == "none" else load_backbone(backbone, locate(weights), name)


def pretrained_backbone(name: str, *, image_size: int) -> tuple[nn.Module, str]:
    """A backbone with timm's own (ImageNet) weights."""
    # timm loads them leniently. To prove that nothing was left random, the network is made twice
    # from one random state, and every floating-point tensor must differ from its initial value.
    known = find_pretraining(name)
    if known.file:
        raise WeightsError(fault("weights_as_file", name, known.file))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        initial = create_backbone(name, image_size=image_size).state_dict()
        facts = timm.get_pretrained_cfg(known.network)
        if facts is None or not facts.has_weights:
            raise WeightsError(fault("no_pretrained", name))
        torch.manual_seed(0)
        try:
            backbone = create_backbone(name, image_size=image_size, pretrained=True)
        except Exception as error:  # the hub client raises many unrelated types
            raise WeightsError(fault("not_fetched", name, _first_line(error))) from error
    state = backbone.state_dict()
    floats = {key: value for key, value in state.items() if value.is_floating_point()}
    if random := [key for key, value in floats.items() if torch.equal(value, initial[key])]:
        raise WeightsError(fault("in_part", f"timm's weights for {name!r}", random))
    return backbone, _report(state, f"timm's {name}.{facts.tag}")


def load_backbone(backbone: Any, path: Path, name: str = "") -> str:
    """Fill a backbone from a file of timm's, of its own authors or from our checkpoint."""
    # The first convolution of a three-channel file is summed over its inputs, timm's way; what the
    # file holds beside the backbone is dropped; everything else must match.
    state, remarks, known = read_state(path), "", find_pretraining(name)
    origin = f"{path}, for {name} of {known.file}," if known.file else str(path)
    ours = {OURS.sub("", key): value for key, value in state.items() if OURS.match(key)}
    if not ours:
        ours, remarks = _adapt(state, backbone, known, origin)
    fill(backbone, ours, origin)
    return _report(ours, name_place(path)) + remarks


def read_state(path: Path) -> State:
    """The tensors of a ``.safetensors`` file or a checkpoint."""
    if not path.is_file():
        raise WeightsError(fault("no_weights_file", str(path)))
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if is_zipfile(path):  # torch before 1.6 wrote none, and no checksums
            require_whole(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # settings, as MAE's
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling a foreign file can raise anything
        damaged = isinstance(error, DAMAGE)
        raise WeightsError(fault("bad_weights", path, damaged, _first_line(error))) from error
    state = loaded if isinstance(loaded, dict) else {}
    for place in PLACES:
        state = state[place] if isinstance(state.get(place), dict) else state
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"model.weights: {path} holds no tensors")
    return tensors


def convert_weights(path: Path, out: Path) -> int:
    """Write the tensors of a file or a checkpoint as ``.safetensors``; how many there are."""
    state = {name: tensor.contiguous().clone() for name, tensor in read_state(path).items()}
    write_file(out, save(state))
    return len(state)


def require_whole(path: Path) -> None:
    """Compare every entry of a zip, torch's checkpoints, with its CRC-32; torch does not."""
    with ZipFile(path) as archive:
        if name := archive.testzip():
            raise BadZipFile(f"{name} is not as it was written")


def fill(module: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load a state strictly."""
    wanted = module.state_dict()
    fits = {key for key, v in state.items() if key in wanted and v.shape == wanted[key].shape}
    missing = [key for key in wanted if key not in fits]
    extra = [key for key in state if key not in fits]
    if missing or extra:
        raise WeightsError(fault("in_part", origin, missing, extra))
    module.load_state_dict(dict(state))


def _adapt(state: State, backbone: Any, known: Pretraining, origin: str) -> tuple[State, str]:
    """A state in the backbone's names and sizes; what was dropped or resampled on the way."""
    facts = backbone.pretrained_cfg
    classifier, first = facts.get("classifier") or (), f"{facts.get('first_conv')}.weight"
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    others = "|".join([known.dropped, *(rf"{re.escape(head)}\." for head in heads)])
    dropped = [key for key in state if re.match(others, key)]
    state = {key: value for key, value in state.items() if key not in dropped}
    for old, new in known.renamed.items():
        state = {key.replace(old, new): value for key, value in state.items()}
    for key in [key for key in state if ".query." in key]:  # Hugging Face's
        names = [key.replace("query", part) for part in ("query", "key", "value")]
        if len({state[name].shape if name in state else None for name in names}) == 1:
            state[key.replace("query", "qkv")] = torch.cat([state.pop(name) for name in names])
    own = {value.data_ptr() for value in state.values()}
    adapt = getattr(import_module(type(backbone).__module__), "checkpoint_filter_fn", None)
    try:
        state = adapt(state, backbone) if adapt else state
    except Exception as error:  # of a tensor of another shape; anything
        text = f"{fault('in_part', origin)} timm cannot fit it ({_first_line(error)})"
        raise WeightsError(text) from error
    moved = [key for key, value in state.items() if value.data_ptr() not in own]
    if first in state and state[first].shape[1:2] == (3,):
        state[first] = adapt_input_conv(1, state[first])
    told = {"dropped": dropped, "resampled to this size": moved}
    remarks = (f"; {how}: {name_first(names, 10)}" for how, names in told.items() if names)
    return state, "".join(remarks)


def _report(state: State, origin: str) -> str:
    return f"{len(state)} of {len(state)} backbone tensors from {origin}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def trial_features(backbone: Any, image_size: int) -> Tensor:
    """Raw features of one black image, found in evaluation mode."""
    try:
        with torch.no_grad(), evaluation_mode(backbone):
            features = backbone.forward_features(torch.zeros(1, 1, image_size, image_size))
            raw: Tensor = backbone.forward_head(features, pre_logits=True)
            return raw
    except Exception as error:  # each architecture refuses a size in its own way
        raise ConfigError(fault("image_size", backbone, image_size, error)) from error


def trace_sizes(net: nn.Module, image_size: int) -> tuple[float, int, bool]:
    """What a network makes of the size of its images, from one black image in evaluation mode."""
    # The share of an image's area that convolutions without overlap (patches) read; the side in
    # pixels that divides evenly; whether a batch norm sees one value a channel.
    patches: dict[int, int] = {}  # side of the input -> of a patch
    single: list[bool] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            single.append(inputs[0].numel() == module.num_features)
        elif isinstance(module, nn.Conv2d) and module.kernel_size == module.stride != (1, 1):
            patches[inputs[0].shape[-1]] = module.stride[0]

    with register_module_forward_pre_hook(look), torch.no_grad(), evaluation_mode(net):
        net(torch.zeros(1, 1, image_size, image_size))
    share = math.prod((side // patch * patch / side) ** 2 for side, patch in patches.items())
    return share, math.prod(patches.values()), any(single)


def require_sizes(net: nn.Module, image_size: int, batch_size: int) -> None:
    """Refuse an image whose margin is never read, and a batch that batch norm cannot train on."""
    share, side, single = trace_sizes(net, image_size)
    name = getattr(net, "config", {}).get("backbone", type(net).__name__)
    if share < 1:
        low = image_size // side * side
        sizes = f"{low} or {low + side}" if low else side
        raise ConfigError(fault("unread_margin", image_size, name, 1 - share, sizes))
    if single and batch_size == 1:
        raise ConfigError(fault("single_value", image_size, name))


def layout_of(backbone: Any, image_size: int) -> tuple[str, int]:
    """How the features lie, "NCHW", "NHWC" or "NLC" (tokens), and their channels."""
    features = trial_features(backbone, image_size)
    grid: Any = getattr(getattr(backbone, "patch_embed", None), "grid_size", None)
    prefix: Any = getattr(backbone, "num_prefix_tokens", None)  # class tokens
    stated = grid is not None and prefix is not None
    if stated and features.shape[1:-1] == (prefix + math.prod(grid),):
        return "NLC", features.shape[2]
    if features.ndim == 4 and getattr(backbone, "output_fmt", "NCHW") == "NHWC":
        return "NHWC", features.shape[3]
    known = (backbone.num_features, getattr(backbone, "head_hidden_size", None))  # MobileNet's head
    if features.ndim == 4 and features.shape[1] in known:
        return "NCHW", features.shape[1]
    raise ConfigError(fault("no_map", backbone, tuple(features.shape)))


def to_map(features: Tensor, layout: str, backbone: Any) -> Tensor:
    """The raw features as a map (B, C, h, w)."""
    if layout == "NHWC":
        return features.permute(0, 3, 1, 2)
    if layout == "NLC":
        tokens: Tensor = features[:, backbone.num_prefix_tokens :]  # (B, h * w, C)
        height, width = backbone.patch_embed.grid_size
        return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, height, width)
    return features
