"""Scores of new files and arrays, prepared exactly as the checkpoint's own images were."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from xray_lightning.checkpoint import TTA, load_checkpoint
from xray_lightning.data.decoding import available_cores, decode_ahead
from xray_lightning.data.dicom.header import read_ids
from xray_lightning.data.files import is_dicom, read_file
from xray_lightning.data.geometry import fit_square
from xray_lightning.data.images import collect_notes, decode_image
from xray_lightning.deploy.gate import GateOpinion, check_file, check_film
from xray_lightning.deploy.inputs import Image, Pixels, Range, list_images, read_input
from xray_lightning.deploy.interpretation import Floats, Interpretation, Scores, interpret
from xray_lightning.errors import CheckpointError, ConfigError, DataError, require_integer
from xray_lightning.evaluation.predictions import require_scores
from xray_lightning.evaluation.priors import VALIDATION, Prior
from xray_lightning.explain.maps import Grids, cell_grids, class_maps
from xray_lightning.hub import find_run, name_place
from xray_lightning.models.gate import Gate, run_watched
from xray_lightning.models.network import XrayNet
from xray_lightning.wording import fault

Told = tuple[str, ...]  # what the gate remarks on a file before its film is seen
STEPS = {"image_size", "clahe"}  # of the preprocessing that this version can repeat


@dataclass(frozen=True, eq=False)
class FileScores:
    """What became of one file."""

    path: Path
    scores: Scores | None  # (L,) float32 in [0, 1]; None if it is not a readable image
    failure: str = ""  # why there are no scores
    notes: tuple[str, ...] = ()  # what its reader decided by a fall-back, without values
    study: str = field(default="", repr=False)  # StudyInstanceUID of DICOM: it tells who it is
    patient: str = field(default="", repr=False)  # PatientID of DICOM, likewise
    gate: GateOpinion | None = None  # None: no gate, or no readable image; nothing is known


@dataclass(frozen=True, eq=False)
class Findings:
    """What a classifier says of N images and its L labels."""

    scores: Scores  # (N, L) float32 in [0, 1]
    interpretation: Interpretation  # operating points and prior behind the other two
    squares: Pixels = field(repr=False)  # (N, S, S), what the network saw
    classifier: "Classifier" = field(repr=False)
    # N opinions, of an array on the film alone; None: the checkpoint has no gate, nothing is known
    gate: tuple[GateOpinion | None, ...] = ()

    @property
    def probabilities(self) -> Floats:
        """Calibrated, (N, L); NaN where a label has no calibration."""
        return self.interpretation.probabilities(self.scores)

    @property
    def calls(self) -> Floats:
        """1 at the operating point or above it, else 0, (N, L); NaN where there is none."""
        return self.interpretation.calls(self.scores)

    def maps(self, labels: Sequence[str] | None = None, method: str = "cam") -> Scores:
        """Maps of K findings (None: all L) over the squares, (N, K, h, w); see ``class_maps``."""
        names = self.classifier.labels if labels is None else labels
        return self.classifier.map_squares(self.squares, names, method)


class Classifier:
    """A trained network with its preprocessing: images of any size in, findings out.

    Threads may share one: they decode side by side, and the network takes a batch at a time.

    The network runs in float32. On a CPU the scores of an image are those of the training run's
    test loader; other images in the batch do not matter, but its size can change the last bits of
    a sum (measured on five networks: scores moved by up to 1.3e-6). A run tested in bfloat16, as
    on a GPU by default, has coarser scores of its own.

    Raises:
        ConfigError: an unknown device, or one that is not there.
        CheckpointError: a step of the preprocessing or a ``tta`` that this version does not know.
    """

    def __init__(
        self,
        net: XrayNet,  # put into evaluation mode
        preprocessing: Mapping[str, Any],  # ``image_size`` and ``clahe``, as a checkpoint has them
        *,
        device: str = "auto",  # a GPU if there is one; "cpu" or "cuda"
        tta: str = "none",  # or "flip": the mean of the scores of an image and its mirror image
        split: str | None = None,  # fingerprint of the split it was trained on, if known
        checkpoint: Path | None = None,  # the file it is from, if any
        interpretation: Interpretation | None = None,  # of the scores; None: not at all
        gate: Gate | None = None,  # says which films are unlike those of training; None: none does
    ) -> None:
        if set(preprocessing) != STEPS or tta not in TTA:
            raise CheckpointError(fault("preprocessing", STEPS, TTA, preprocessing, tta))
        self.device = find_device(device)
        self.net = net.eval().to(self.device)
        self.preprocessing = dict(preprocessing)
        self.tta, self.split, self.checkpoint, self.gate = tta, split, checkpoint, gate
        self.interpretation = interpretation or Interpretation(net.labels)
        self._lock = Lock()  # cuDNN's switch for TF32 is the process's, and maps use hooks

    @property
    def labels(self) -> tuple[str, ...]:
        """The L labels, in the order of the scores."""
        return self.interpretation.labels

    def __call__(
        self,
        # a path, an array or tensor (H, W), (N, H, W) or (N, 1, H, W), a PIL image or a pydicom
        # dataset, these two by the rules of files; or a sequence of these
        images: Image | Sequence[Image],
        *,
        # values of arrays and tensors that mean black and white. None: 0 and 255 of uint8, 0 and 1
        # of floats; other integers need it
        value_range: Range | None = None,
        batch_size: int = 32,  # images that go through the network at once
    ) -> Findings:
        """Findings of some images, however many; ``prior=estimate`` is that of these N.

        Raises:
            InvalidImageError: an image that cannot be read, or a value outside the range.
            ConfigError: a range or batch size that is none.
            CheckpointError: a score is NaN.
        """
        require_integer("batch_size", batch_size, 1)
        if value_range is not None and not -np.inf < value_range[0] < value_range[1] < np.inf:
            raise ConfigError(fault("value_range", value_range))
        listed, size = list_images(images), self.preprocessing["image_size"]
        squares = np.empty((len(listed), size, size), np.uint8)
        told: list[Told] = []
        for row, image in enumerate(listed):
            with collect_notes() as notes:
                pixels, dicom = read_input(image, value_range)
                squares[row] = self.fit(pixels)
            told.append(check_file(self.gate, dicom, notes))
        batches = [slice(row, row + batch_size) for row in range(0, len(listed), batch_size)]
        checked = [self.score_and_check(squares[batch], told[batch]) for batch in batches]
        empty = np.empty((0, len(self.labels)), np.float32)
        scores = np.concatenate([empty, *(scores for scores, _ in checked)])
        require_scores(scores, [f"number {row + 1}" for row in range(len(scores))])
        opinions = tuple(opinion for _, opinions in checked for opinion in opinions)
        return Findings(scores, self.interpretation.at_prior(scores), squares, self, opinions)

    def stream(
        self, paths: Iterable[str | Path], *, batch_size: int = 32, workers: int | None = None
    ) -> Iterator[FileScores]:
        """Scores of many files, in their order; the next ones are decoded while the network runs.

        An unreadable file comes back with the reason. ``workers`` are decoding threads; None: one
        for each available core. A score that is NaN is a CheckpointError.
        """
        workers = available_cores() if workers is None else workers
        require_integer("batch_size", batch_size, 1)
        require_integer("workers", workers, 1)
        files, ahead = map(Path, paths), 2 * batch_size
        with closing(decode_ahead(self._read, files, workers=workers, ahead=ahead)) as decoded:
            while batch := list(islice(decoded, batch_size)):
                readable = [(square, *row) for square, *row in batch if square is not None]
                if readable:
                    squares, listed, told = zip(*readable, strict=True)
                    scores, gate = self.score_and_check(np.stack(squares), told)
                    require_scores(scores, [str(file.path) for file in listed])
                    rows = zip(scores, gate, strict=True)
                for square, file, _ in batch:
                    row = (None, None) if square is None else next(rows)
                    yield replace(file, scores=row[0], gate=row[1])

    @cached_property
    def grids(self) -> Grids:
        """Where the cells of a map see the square; of an XrayNet."""
        return cell_grids(self.net, self.preprocessing["image_size"])

    def fit(self, pixels: Pixels) -> Pixels:
        """A picture (H, W) uint8 as the square the network sees, (S, S) uint8."""
        square = fit_square(pixels, self.preprocessing["image_size"])
        if not self.preprocessing["clahe"]:
            return square
        from xray_lightning.data.transforms import equalise  # albumentations: 0.4 s

        return equalise(square)

    def score(self, squares: Pixels) -> Scores:
        """Scores (N, L) of prepared squares, (N, S, S) uint8."""
        return self.score_and_check(squares)[0]

    def score_and_check(
        self, squares: Pixels, told: Sequence[Told] = ()
    ) -> tuple[Scores, list[GateOpinion | None]]:
        """Scores (N, L) of prepared squares, and N opinions of the gate behind what is ``told``."""
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # TF32 keeps 10 bits
        opinions: list[GateOpinion | None] = [None] * len(squares)
        with self._lock, torch.inference_mode(), exact:
            images = self._to_images(squares)
            if self.gate is None:
                logits = self.net(images)
            else:
                logits, features = run_watched(self.net, self.gate.layer, images)
                films = zip(features.cpu(), told or [()] * len(squares), strict=True)
                opinions = [check_film(self.gate, film, reasons) for film, reasons in films]
            scores = torch.sigmoid(logits)
            if self.tta == "flip":
                scores = (scores + torch.sigmoid(self.net(images.flip(3)))) / 2
            return scores.cpu().numpy(), opinions

    def map_squares(self, squares: Pixels, labels: Sequence[str], method: str = "cam") -> Scores:
        """Maps (N, K, h, w) of prepared squares, (N, S, S) uint8; see ``class_maps``."""
        batches = []
        for start in range(0, len(squares), 16):
            with self._lock:
                images = self._to_images(squares[start : start + 16])
                maps = class_maps(self.net, images, method=method, labels=labels)
            batches.append(maps.cpu().numpy())
        return np.concatenate(batches) if batches else np.empty((0, len(labels), 0, 0), np.float32)

    def require_maps(self, method: str) -> tuple[int, ...]:
        """(h, w) of a map; refuses a method that this network lacks, before long work."""
        if not isinstance(self.net, XrayNet):
            raise ConfigError(f"no maps: {type(self.net).__name__} is not an XrayNet")
        square = self.fit(np.zeros((1, 1), np.uint8))[None]
        return self.map_squares(square, self.labels[:1], method).shape[2:]

    def _to_images(self, squares: Pixels) -> Tensor:
        """(N, 1, S, S) in [0, 1] on the device."""
        images = torch.from_numpy(squares).unsqueeze(1).to(self.device)
        return images.to(torch.float32).div_(255)

    def _read(self, path: Path) -> tuple[Pixels | None, FileScores, Told]:
        """A file's square, if it is readable, and what is known of it before it has scores."""
        with collect_notes() as notes:
            try:
                data = read_file(path)
                square = self.fit(decode_image(data, str(path)))
                study, patient = read_ids(data) if is_dicom(data) else ("", "")
            except DataError as error:
                return None, FileScores(path, None, str(error).removeprefix(f"{path}: ")), ()
        told = check_file(self.gate, data if is_dicom(data, str(path)) else None, notes)
        return square, FileScores(path, None, "", tuple(notes), study, patient), told


def load_classifier(
    checkpoint: str | Path,
    *,
    device: str = "auto",  # a GPU if there is one; "cpu" or "cuda"
    # operating points and calibrations: "none", or a file: JSON (operating_points.json, that of an
    # evaluation), or predictions (CSV) of this network to fit them on
    points: str | Path = "checkpoint",
    prior: Prior = VALIDATION,  # the prevalence probabilities hold for, see evaluation/priors.py
    trust: bool = False,  # whether it may name classes that are not of this package
    **fit: Any,  # rule, value, calibration of ``fit_operating_points``, for a CSV
) -> Classifier:
    """A classifier from a checkpoint alone: a file, a run's folder, or hf://OWNER/NAME.

    Raises:
        CheckpointError: not a checkpoint of this package, or one that needs another version.
        ConfigError: an unknown device, or one that is not there; points or a prior that do not fit.
        DataNotFoundError, TableError: no such file of points, or a damaged one.
    """
    loaded = load_checkpoint(checkpoint, trust=trust)
    description, net = loaded.description, loaded.build_net()
    for layer in [one for one in net.modules() if is_parametrized(one, "weight")]:
        remove_parametrizations(layer, "weight")  # the products of LoRA are added for good
    own, chosen = description.operating_points, {"points": points, "prior": prior, **fit}
    return Classifier(
        net,
        description.preprocessing,
        device=device,
        tta=description.config.get("tta", "none"),  # older checkpoints have no such setting
        split=description.split.get("fingerprint"),
        checkpoint=loaded.path,
        interpretation=interpret(description.labels, own, loaded.weights_sha256, **chosen),
        gate=loaded.gate,
    )


def load_models(paths: Sequence[Path], **how: Any) -> dict[str, Classifier]:
    """Classifiers of several checkpoints, see :func:`load_classifier`, by names of their own."""
    models: dict[str, Classifier] = {}
    for path in paths:
        run = find_run(path)
        name = run.name if run else Path(name_place(path)).stem
        while name in models:
            name += f"_{len(models) + 1}"
        models[name] = load_classifier(path, **how)
    return models


def find_device(name: str) -> torch.device:
    """The device of that name; ConfigError for an unknown one, or cuda without a GPU."""
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu or cuda, got {name!r}")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("device=cuda, but torch sees no GPU; use auto or cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")
