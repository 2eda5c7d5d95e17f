"""Scores of new files and arrays, prepared exactly as the checkpoint's own images were."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from xray_lightning.checkpoint import load_checkpoint
from xray_lightning.data.decoding import available_cores, decode_ahead
from xray_lightning.data.dicom import to_uint8
from xray_lightning.data.geometry import fit_square
from xray_lightning.data.images import collect_notes, read_image
from xray_lightning.data.transforms import equalise
from xray_lightning.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    InvalidImageError,
    require_integer,
)
from xray_lightning.evaluation.predictions import require_scores
from xray_lightning.models.network import XrayNet
from xray_lightning.training.task import TTA

Pixels = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]
Image = str | Path | npt.NDArray[Any]  # a file, or (H, W) uint8 or float in [0, 1]

STEPS = {"image_size", "clahe"}  # of the preprocessing that this version can repeat


@dataclass(frozen=True, eq=False)
class FileScores:
    """What became of one file."""

    path: Path
    scores: Scores | None  # (L,) float32 in [0, 1]; None if it is not a readable image
    failure: str = ""  # why there are no scores
    notes: tuple[str, ...] = ()  # what its reader decided by a fall-back, without values


class Classifier:
    """A trained network with its preprocessing: images of any size in, scores out.

    The network runs in float32. On a CPU the scores of an image are those of the training run's
    test loader; other images in the batch do not matter, but its size can change the last bits of
    a sum (measured on five networks: scores moved by up to 1.3e-6). A run tested in bfloat16, as
    on a GPU by default, has coarser scores of its own.

    Args:
        net: the network; put into evaluation mode.
        preprocessing: ``image_size`` in pixels and ``clahe``, as a checkpoint stores them.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        tta: "none", or "flip": the mean of the scores of an image and its mirror image.
        split: fingerprint of the split it was trained on, if known.
        checkpoint: the file it is from, if any.

    Raises:
        ConfigError: an unknown device, or one that is not there.
        CheckpointError: a step of the preprocessing or a ``tta`` that this version does not know.
    """

    def __init__(
        self,
        net: XrayNet,
        preprocessing: Mapping[str, Any],
        *,
        device: str = "auto",
        tta: str = "none",
        split: str | None = None,
        checkpoint: Path | None = None,
    ) -> None:
        if set(preprocessing) != STEPS or tta not in TTA:
            raise CheckpointError(
                f"this version repeats the preprocessing {sorted(STEPS)} and tta {' or '.join(TTA)}"
                f"; the checkpoint needs {dict(preprocessing)} and tta={tta!r}: use the version "
                "that made it"
            )
        self.device = find_device(device)
        self.net = net.eval().to(self.device)
        self.preprocessing = dict(preprocessing)
        self.tta, self.split, self.checkpoint = tta, split, checkpoint

    @property
    def labels(self) -> tuple[str, ...]:
        """The L labels, in the order of the scores."""
        return self.net.labels

    def __call__(self, images: Image | Sequence[Image], *, batch_size: int = 32) -> Scores:
        """Scores of some images, (N, L) float32 in [0, 1].

        ``images`` are a path, an array (H, W) of uint8 or of floats in [0, 1], an array (N, H, W),
        or a sequence of paths and arrays (H, W).

        Raises:
            InvalidImageError: a file is unreadable, or an array is not a radiograph.
            CheckpointError: a score is NaN.
        """
        require_integer("batch_size", batch_size, 1)
        listed = _as_sequence(images)
        starts = range(0, len(listed), batch_size)
        batches = [[self.prepare(x) for x in listed[i : i + batch_size]] for i in starts]
        empty = np.empty((0, len(self.labels)), np.float32)
        scores = np.concatenate([empty, *(self.score(np.stack(batch)) for batch in batches)])
        require_scores(scores, [f"number {row + 1}" for row in range(len(scores))])
        return scores

    def stream(
        self, paths: Iterable[str | Path], *, batch_size: int = 32, workers: int | None = None
    ) -> Iterator[FileScores]:
        """Scores of many files, in their order; the next ones are decoded while the network runs.

        An unreadable file does not stop the others: it comes back with the reason. ``workers`` are
        decoding threads; None: one for each available core.

        Raises:
            CheckpointError: a score is NaN.
        """
        workers = available_cores() if workers is None else workers
        require_integer("batch_size", batch_size, 1)
        require_integer("workers", workers, 1)
        files, ahead = map(Path, paths), 2 * batch_size
        with closing(decode_ahead(self._read, files, workers=workers, ahead=ahead)) as decoded:
            while batch := [file for _, file in islice(decoded, batch_size)]:
                readable = [(square, file) for square, file in batch if square is not None]
                if readable:
                    scores = self.score(np.stack([square for square, _ in readable]))
                    require_scores(scores, [str(file.path) for _, file in readable])
                    rows = iter(scores)
                for square, file in batch:
                    yield file if square is None else replace(file, scores=next(rows))

    def prepare(self, image: Image) -> Pixels:
        """A file or an array as the square the network sees, (S, S) uint8."""
        pixels = read_image(Path(image)) if isinstance(image, str | Path) else _to_grey8(image)
        square = fit_square(pixels, self.preprocessing["image_size"])
        return equalise(square) if self.preprocessing["clahe"] else square

    def score(self, squares: Pixels) -> Scores:
        """Scores (N, L) of prepared squares, (N, S, S) uint8."""
        images = torch.from_numpy(squares).unsqueeze(1).to(self.device)  # (N, 1, S, S)
        images = images.to(torch.float32).div_(255)
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # TF32 keeps 10 bits
        with torch.inference_mode(), exact:
            scores = torch.sigmoid(self.net(images))
            if self.tta == "flip":
                scores = (scores + torch.sigmoid(self.net(images.flip(3)))) / 2
        return scores.cpu().numpy()

    def _read(self, path: Path) -> tuple[Pixels | None, FileScores]:
        """A file's square, if it is readable, and what is known of it before it has scores."""
        with collect_notes() as notes:
            try:
                square = self.prepare(path)
            except DataError as error:
                return None, FileScores(path, None, str(error).removeprefix(f"{path}: "))
        return square, FileScores(path, None, notes=tuple(notes))


def load_classifier(checkpoint: str | Path, *, device: str = "auto") -> Classifier:
    """A classifier from a checkpoint alone, such as RUN/checkpoints/best.ckpt.

    Raises:
        CheckpointError: not a checkpoint of this package, or one that needs another version.
        ConfigError: an unknown device, or one that is not there.
    """
    loaded = load_checkpoint(checkpoint)
    description = loaded.description
    return Classifier(
        loaded.build_net(),
        description.preprocessing,
        device=device,
        tta=description.config.get("tta", "none"),  # older checkpoints have no such setting
        split=description.split.get("fingerprint"),
        checkpoint=Path(checkpoint),
    )


def find_device(name: str) -> torch.device:
    """The device of that name; ConfigError for an unknown one, or cuda without a GPU."""
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu or cuda, got {name!r}")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("device=cuda, but torch sees no GPU; use auto or cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def _as_sequence(images: Image | Sequence[Image]) -> Sequence[Image]:
    if isinstance(images, str | Path):
        return [images]
    if isinstance(images, np.ndarray):  # (N, H, W); (H, W), or refused by its shape
        return list(images) if images.ndim == 3 and images.shape[2] > 4 else [images]
    if isinstance(images, Sequence):
        return images
    raise _invalid(f"expected paths or arrays, got {type(images).__name__}")


def _to_grey8(image: object) -> Pixels:
    """An array as (H, W) uint8; floats are rounded as the reader of files does."""
    if not isinstance(image, np.ndarray):
        raise _invalid(f"expected a path or an array, got {type(image).__name__}")
    if image.ndim != 2 or not image.size:
        raise _invalid(f"expected a grey image (H, W), got an array of shape {image.shape}")
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise _invalid(f"expected uint8, or floats from 0 to 1, got {image.dtype}")
    low, high = image.min(), image.max()
    if not (low >= 0 and high <= 1):  # also NaN
        raise _invalid(f"expected floats from 0 to 1, got {low} to {high}")
    return to_uint8(image)


def _invalid(reason: str) -> InvalidImageError:
    return InvalidImageError(
        f"{reason}. Give a path, an array (H, W) of uint8 or of floats in [0, 1], an array "
        "(N, H, W), or a list of them"
    )
