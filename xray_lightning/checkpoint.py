"""What inference needs to know about a checkpoint, as plain values, and how it is stored."""

import hashlib
import inspect
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from xray_lightning.data.partition import describe_split
from xray_lightning.data.source import patient_keys
from xray_lightning.errors import CheckpointError, OutputError
from xray_lightning.formats import FACTS, upgrade_description, upgrade_settings
from xray_lightning.hub import find_checkpoint
from xray_lightning.models.backbones import fill, require_whole
from xray_lightning.models.gate import Gate
from xray_lightning.models.network import XrayNet
from xray_lightning.wording import fault
from xray_lightning.writing import entries_of, open_replacing, write_file

if TYPE_CHECKING:  # Lightning, which new files need not wait for
    from xray_lightning.data.datamodule import XrayDataModule

KEY = "xray_lightning"
GATE = "xray_lightning_gate"  # beside it, so that older versions read the file too
FORMAT = 2
TTA = ("none", "flip")  # scores of the image, or their mean with its mirror image
LEARNED = ("train", "val")  # val chose the checkpoint, so its patients are not new to it either

PLAIN = (str, int, float, bool, type(None), list, tuple, dict)
KINDS = {"text": (str,), "whole": (int,), "number": (int, float), "flag": (bool,)}
KINDS |= {"list": (list, tuple), "mapping": (dict,)}
TYPES = {name: KINDS[kind] for kind, names in FACTS["entries"].items() for name in names}
NEEDED, OF_A_RUN, OF_PATIENTS = FACTS["needed"].values()


@dataclass(frozen=True)
class Description:
    """The part of a checkpoint that rebuilds its model and names its data; plain values only."""

    # arguments of ``XrayNet`` (labels, backbone, ...); of another class, also its name, "class"
    net: dict[str, Any]
    preprocessing: dict[str, Any]  # image size in pixels and histogram equalisation
    # name, settings, fingerprint of the split and of its "subsets"; if the data names a population,
    # also keys of the patients in "train" and "val" (see ``patient_keys``)
    split: dict[str, Any]
    # the run's resolved configuration; empty outside the command line
    config: dict[str, Any] = field(default_factory=dict)
    # see ``store_operating_points``; empty until training has ended
    operating_points: dict[str, Any] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """The L labels, in the order of the scores."""
        return tuple(self.net["labels"])

    def to_plain(self) -> dict[str, Any]:
        """The entry of the checkpoint."""
        return {"format": FORMAT, **asdict(self)}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read from disk: its description and the tensors of its network.

    ``trust`` allows :meth:`build_net` to import a class that is not of this package.
    """

    path: Path
    description: Description
    state: Mapping[str, Tensor]
    epoch: int
    trust: bool = False
    gate: Gate | None = None  # stored at the end of training; None: nothing is known of new films

    @property
    def weights_sha256(self) -> str:
        """What its results carry."""
        return weights_sha256(self.state)

    def build_net(self, net: nn.Module | None = None) -> Any:
        """The trained network, in evaluation mode.

        Args:
            net: a network to fill; None: one is made as the description says.

        Raises:
            CheckpointError: the tensors do not fit the network the checkpoint describes, or are of
                another type: they would be rounded without a word; or its network or head is of a
                class that is not of this package, and the checkpoint was loaded without trust.
        """
        net = net or self._new_net()
        for name, wanted in net.state_dict().items():
            if name in self.state and self.state[name].dtype != wanted.dtype:
                raise CheckpointError(fault("kind_of_weights", self, name, wanted.dtype))
        fill(net, self.state, str(self.path))
        return net.eval()

    def _new_net(self) -> Any:
        settings = {**self.description.net}
        own = [name for name in ("class", "head") if "." in str(settings.get(name, ""))]
        if own and not self.trust:
            raise CheckpointError(fault("foreign_code", self.path, own[0], settings))
        try:
            for name in own:
                settings[name] = resolve_name(settings[name])  # runs its module's code
            if "class" in settings:
                network = settings.pop("class")
                taken = inspect.signature(network).parameters.values()
                if not any(p.name == "image_size" or p.kind == p.VAR_KEYWORD for p in taken):
                    del settings["image_size"]  # it need not ask for the size
                return network(**settings)
            return XrayNet(**{**settings, "weights": "none"})  # no file, no hub
        except Exception as error:  # a description may be wrong in any way
            raise CheckpointError(fault("no_network", self.path, error)) from error


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a network's tensors, in hex: of their names, types, shapes and values."""
    # The file's own would not do: ``store_operating_points`` writes it again with the same weights.
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_checkpoint(path: str | Path, *, trust: bool = False) -> Checkpoint:
    """Read a checkpoint of this package; nothing but plain values and tensors is ever unpickled.

    Checksums, types and ranges are checked. The checksums take 0.05 s of 28 MB (DenseNet-121).
    Of a run folder it is the best; ``hf://OWNER/NAME[@REVISION]`` is fetched from the hub.
    Files of format 1 are read too. ``trust``: see :class:`Checkpoint`.

    Raises:
        CheckpointError: no such file, a damaged file, a foreign one, a newer format, or an entry
            that is not what it must be.
    """
    path = find_checkpoint(path)
    try:
        raw = _read(path)
    except Exception as error:  # torch.load raises a dozen types on a damaged file
        raise CheckpointError(fault("no_plain_values", path, type(error).__name__)) from error
    if not isinstance(raw, dict) or KEY not in raw:
        raise CheckpointError(f"{path} was not written by xray_lightning: it has no entry {KEY!r}")
    plain = upgrade_description(raw[KEY])
    if plain.pop("format", None) != FORMAT:
        version = raw[KEY].get("format") if isinstance(raw[KEY], dict) else type(raw[KEY]).__name__
        raise CheckpointError(f"{path} has format {version}, this version reads 1 to {FORMAT}")
    if set(plain) != {entry.name for entry in fields(Description)} or "state_dict" not in raw:
        raise CheckpointError(f"{path} is incomplete: it has {sorted(map(str, {**raw, **plain}))}")
    for flaw in _faults({**plain, "epoch": raw.get("epoch", 0)}, raw["state_dict"]):
        raise CheckpointError(f"{path}: {flaw}")
    plain["config"] = upgrade_settings(plain["config"])
    tensors = raw["state_dict"].items()
    state = {name[4:]: tensor for name, tensor in tensors if str(name).startswith("net.")}
    gate = Gate.from_plain(raw[GATE]) if GATE in raw else None
    return Checkpoint(path, Description(**plain), state, raw.get("epoch", 0), trust, gate)


def write_safetensors(checkpoint: Checkpoint, path: Path) -> None:
    """Write the tensors, and as metadata what inference needs: no settings, split or patients."""
    whole = checkpoint.description
    points = whole.operating_points and {**whole.operating_points, "fingerprint": ""}
    tta = {"tta": whole.config.get("tta", "none")}
    bare = Description(whole.net, whole.preprocessing, {}, tta, points)
    gate = checkpoint.gate.to_plain() if checkpoint.gate else {}
    weights = {f"{GATE}.{k}": gate.pop(k) for k in [*gate] if isinstance(gate[k], Tensor)}
    own = {"description": bare.to_plain(), "epoch": checkpoint.epoch}
    own |= {GATE: gate} if gate else {}
    tensors = {name: t.contiguous() for name, t in {**checkpoint.state, **weights}.items()}
    write_file(path, save(tensors, {KEY: json.dumps(own)}))


def _read(path: Path) -> Any:
    """What is in the file, safetensors as torch.load gives a checkpoint."""
    if path.suffix != ".safetensors":
        require_whole(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    with safe_open(path, "pt") as file:
        own = json.loads((file.metadata() or {}).get(KEY, "{}"))
        tensors = {f"net.{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    start = f"net.{GATE}."
    gate = {name.removeprefix(start): tensors.pop(name) for name in [*tensors] if start in name}
    own |= {GATE: own[GATE] | gate} if gate else {}
    return {"state_dict": tensors, **({KEY: own.pop("description"), **own} if own else {})}


def _faults(plain: Mapping[str, Any], state: Any) -> Iterator[str]:
    """What is wrong with a checkpoint's entries; only the first can be relied on."""
    entries = dict(entries_of(plain))
    for name, entry in entries.items():
        kinds = TYPES.get(re.sub(r"\.\d+", ".*", name), PLAIN)
        if type(entry) not in kinds:
            yield f"{name} must be {', '.join(kind.__name__ for kind in kinds)}, got {entry!r:.80}"
        if isinstance(entry, float) and not math.isfinite(entry) and not name.startswith("config"):
            yield f"{name} is {entry}"
    needed = NEEDED + (OF_A_RUN if {*plain["config"]} - {"tta"} else [])
    needed += OF_PATIENTS if "split.population" in entries else []
    yield from (f"{name} is missing" for name in needed if name not in entries)
    sizes = [entries[f"{name}.image_size"] for name in ("net", "preprocessing")]
    if sizes[0] != sizes[1]:
        yield f"net.image_size is {sizes[0]}, but preprocessing.image_size {sizes[1]}"
    yield from _odd_tensors(state)


def _odd_tensors(state: Any) -> Iterator[str]:
    """What is not a tensor of a network, or not finite; a loss may hold a NaN."""
    entries = state.items() if isinstance(state, dict) else ()
    tensors = {str(name): tensor for name, tensor in entries if str(name).startswith("net.")}
    if not tensors:
        yield "state_dict has no tensors of a network"
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.is_quantized or tensor.layout != torch.strided:
            yield f"state_dict.{name} is not a plain tensor"
        elif not (tensor.is_cpu and torch.isfinite(tensor).all()):
            yield f"state_dict.{name} has values that are missing, NaN or infinite"


def describe_model(
    net: nn.Module, data: "XrayDataModule", config: Mapping[str, Any] | None = None
) -> Description:
    """What a checkpoint of this network, trained on this data, says about itself."""
    # Not an XrayNet: class, labels, size and, if it has one, its ``config``: the other arguments.
    own: dict[str, Any] = dict(getattr(net, "config", {}))
    if not isinstance(net, XrayNet):
        name = f"{type(net).__module__}.{type(net).__qualname__}"
        own = {"labels": list(data.labels), "image_size": data.image_size, **own, "class": name}
    split = describe_split(data.split) | patients_of(data)
    del split["parts"]  # of the files of schema 1
    return Description(own, dict(data.preprocessing), split, dict(config or {}))


def patients_of(data: "XrayDataModule") -> dict[str, object]:
    """Keys of each subset's patients as a checkpoint keeps them; empty without a population."""
    # Empty also where the data's patient ids must not leave it (see ``Source.population``).
    if not (population := data.source.population):
        return {}
    patients = {k: sorted({*patient_keys(population, data.subset_records(k))}) for k in LEARNED}
    return {"population": population, "patients": patients}


def store_operating_points(path: Path, points: Mapping[str, Any]) -> None:
    """Write what was fitted on the validation set, plain values, into a checkpoint in one step."""
    load_checkpoint(path)
    raw = torch.load(path, map_location="cpu", weights_only=True)
    raw[KEY] = {**upgrade_description(raw[KEY]), "operating_points": dict(points)}
    write_checkpoint(raw, path)


def store_gate(path: Path, gate: Gate) -> None:
    """Write a gate, fitted on the same weights, into a checkpoint in one step."""
    raw = torch.load(path, map_location="cpu", weights_only=True)
    write_checkpoint({**raw, GATE: gate.to_plain()}, path)


def require_labels(description: Description, labels: tuple[str, ...], place: str) -> None:
    """Refuse to score data with a label the checkpoint does not know; fewer ones can be scored."""
    if not labels or not set(labels) <= set(description.labels):
        raise CheckpointError(fault("unlike_labels", place, description.labels, labels))


def write_checkpoint(checkpoint: Mapping[str, Any], target: Path) -> None:
    """Write beside the target and rename, so that a kill never leaves half a checkpoint."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open_replacing(target, "wb") as file:
            torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:  # torch's own hides what the disk said
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        free = shutil.disk_usage(target.parent).free
        size = sum(e.nbytes for _, e in entries_of(checkpoint) if isinstance(e, Tensor))
        raise OutputError(fault("disk_full", target, reason.strerror, size, free)) from error
