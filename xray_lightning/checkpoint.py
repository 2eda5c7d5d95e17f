"""What inference needs to know about a checkpoint, as plain values, and how it is stored."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from xray_lightning.errors import CheckpointError, ConfigError, OutputError
from xray_lightning.models.network import XrayNet
from xray_lightning.models.weights import fill
from xray_lightning.writing import open_replacing

KEY = "xray_lightning"
FORMAT = 1


@dataclass(frozen=True)
class Bundle:
    """The part of a checkpoint that rebuilds its model and names its data; plain values only.

    Attributes:
        net: arguments of :class:`XrayNet` (labels, backbone, ...).
        preprocessing: image size in pixels and histogram equalisation.
        split: name, settings, fingerprint of the split and of its parts; if the data names a
            population, also keys of the patients in "train" and "val" (see ``patient_keys``).
        config: the run's resolved configuration; empty outside the command line.
        validation: operating points and calibrations, see :func:`store_validation`; empty until
            training has ended.
    """

    net: dict[str, Any]
    preprocessing: dict[str, Any]
    split: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """The L labels, in the order of the scores."""
        return tuple(self.net["labels"])

    def to_plain(self) -> dict[str, Any]:
        """The entry of the checkpoint."""
        return {"format": FORMAT, **asdict(self)}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read from disk: its bundle and the tensors of its network."""

    path: Path
    bundle: Bundle
    state: Mapping[str, Tensor]
    epoch: int

    def build_net(self) -> XrayNet:
        """The trained network, in evaluation mode.

        Raises:
            CheckpointError: the tensors do not fit the network the checkpoint describes.
        """
        try:
            net = XrayNet(**self.bundle.net)
        except (ConfigError, TypeError) as error:
            raise CheckpointError(
                f"{self.path} describes no network of this version: {error}"
            ) from error
        fill(net, self.state, str(self.path))
        return net.eval()


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of ours; nothing but plain values and tensors is ever unpickled.

    Raises:
        CheckpointError: no such file, a damaged file, a foreign one, or a newer format.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a folder; name the file, for a run {path / 'checkpoints' / 'best.ckpt'}"
        )
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen types on a damaged file
        raise CheckpointError(
            f"{path} is damaged or no checkpoint of plain values ({type(error).__name__})"
        ) from error
    if not isinstance(raw, dict) or KEY not in raw:
        raise CheckpointError(f"{path} was not written by xray_lightning: it has no entry {KEY!r}")
    plain = dict(raw[KEY])
    version = plain.pop("format", None)
    if version != FORMAT:
        raise CheckpointError(f"{path} has format {version}, this version reads {FORMAT}")
    tensors = raw.get("state_dict", {})
    state = {k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")}
    plain.setdefault("validation", {})  # format 1 did not always have it
    if not state or set(plain) != {entry.name for entry in fields(Bundle)}:
        raise CheckpointError(
            f"{path} is incomplete: {len(state)} tensors, entries {sorted(plain)}"
        )
    return Checkpoint(path, Bundle(**plain), state, int(raw.get("epoch", 0)))


def store_validation(path: Path, validation: Mapping[str, Any]) -> None:
    """Write what was fitted on the validation part into a checkpoint, in one step.

    Args:
        path: a checkpoint of ours.
        validation: plain values: "rule", "value", "fingerprint" of the validation part, and
            "labels": label -> :meth:`~xray_lightning.metrics.points.Fitted.to_plain`.

    Raises:
        CheckpointError: see :func:`load_checkpoint`.
    """
    load_checkpoint(path)
    raw = torch.load(path, map_location="cpu", weights_only=True)
    raw[KEY]["validation"] = dict(validation)
    AtomicCheckpointIO().save_checkpoint(raw, path)


def require_labels(bundle: Bundle, labels: tuple[str, ...], place: str) -> None:
    """Refuse to score data with a label the checkpoint does not know; fewer ones can be scored.

    Raises:
        CheckpointError: a label is not one of the checkpoint's, or there is none.
    """
    if not labels or not set(labels) <= set(bundle.labels):
        raise CheckpointError(
            f"{place} was trained on the {len(bundle.labels)} labels {', '.join(bundle.labels)}; "
            f"the data has {len(labels)}: {', '.join(labels)}. Give the data's label the name of "
            "the one to score it by (RSNA: data.label=Pneumonia)"
        )


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames, so a kill never leaves half a checkpoint."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint, replacing an older one in one step.

        Raises:
            OutputError: the disk is full, or the file would be larger than is allowed.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open_replacing(target, "wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's own hides what the disk said
            reason = error if isinstance(error, OSError) else error.__context__
            if not isinstance(reason, OSError):
                raise
            free = shutil.disk_usage(target.parent).free
            raise OutputError(
                f"{target} cannot be written ({reason.strerror}): it needs about "
                f"{_size(checkpoint) / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free there"
            ) from error


def _size(entry: Any) -> int:
    """Bytes of the tensors in nested mappings and lists."""
    if isinstance(entry, Tensor):
        return entry.nbytes
    entries = entry.values() if isinstance(entry, Mapping) else entry
    return sum(map(_size, entries)) if isinstance(entry, Mapping | list | tuple) else 0
