"""Scores of a model beside the truth, in memory and as a table on disk; where they come from."""

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from xray_lightning.data.partition import Split
from xray_lightning.data.source import Source
from xray_lightning.data.tables import Table, binary, read_table, require_whole
from xray_lightning.errors import CheckpointError, TableError
from xray_lightning.records import Record, is_known, read_column, target_matrix
from xray_lightning.results import Result
from xray_lightning.wording import fault
from xray_lightning.writing import for_spreadsheet, open_replacing, read_json

TABLE = "predictions_test.csv"  # of a run
TARGET = "target_"
SCORE = "score_"
PROBABILITY, CALL = "probability_", "call_"  # beside the scores of new files


@dataclass(frozen=True)
class SplitName(Result):
    """A split by its name and fingerprint."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Origin(Result):
    """Where predictions come from; None and "" where that is not known."""

    data: str = ""  # title of the data set; beside published results only if it is NIH's
    data_images: int = 0  # images of its label table
    split: SplitName | None = None  # of which they are a subset
    subset: str | None = None  # "train", "val" or "test"
    tta: str | None = None  # test-time augmentation, "none" or "flip"
    weights_sha256: str | None = None  # of the network
    overlap_known: bool | None = None  # whether its training patients were looked for among these
    table: str | None = None  # the file of the scores
    notes: tuple[str, ...] | None = None  # of the data set and the split
    checkpoint: str | None = None  # its file, or hf://REPO@COMMIT; None: that of the run

    @classmethod
    def of(cls, source: Source, split: Split | None, subset: str | None, **more: Any) -> Self:
        """Of a subset of a data set, or of any of its images."""
        name = SplitName(split.name, split.fingerprint) if split else None
        return cls(source.title, len(source.records), name, subset, **more)


@dataclass(frozen=True)
class Predictions:
    """Scores of one model on one part of a data set; ValueError: shapes that do not fit."""

    labels: tuple[str, ...]  # the L labels
    image_ids: tuple[str, ...]  # N ids
    patient_ids: tuple[str, ...]  # N ids
    targets: npt.NDArray[np.float32]  # (N, L) float32, NaN where unknown, and for a share between
    scores: npt.NDArray[np.float32]  # (N, L) float32 in [0, 1]

    def __post_init__(self) -> None:
        shape = (len(self.image_ids), len(self.labels))
        if not (self.targets.shape == self.scores.shape == shape):
            raise ValueError(fault("shapes", shape, self))
        if len(self.patient_ids) != shape[0]:
            raise ValueError(f"{shape[0]} images but {len(self.patient_ids)} patient ids")
        decided = np.where(is_known(self.targets), self.targets, np.float32(np.nan))
        object.__setattr__(self, "targets", decided)

    @classmethod
    def of(
        cls,
        records: Sequence[Record],
        labels: Sequence[str],
        scores: npt.NDArray[np.float32],
        targets: npt.NDArray[np.float32] | None = None,
    ) -> Self:
        """Scores (N, L) of records beside ``targets`` (N, L), those of the records unless given."""
        images, patients = (tuple(read_column(records, k)) for k in ("image_id", "patient_id"))
        truth = target_matrix(records) if targets is None else targets
        return cls(tuple(labels), images, patients, truth, scores)

    @property
    def patients(self) -> int | None:
        """How many; None where they are unknown and each image counts as its own."""
        patients = tuple(self.patient_ids)
        return None if patients == tuple(self.image_ids) else len(set(patients))

    def keep(self, labels: Sequence[str]) -> "Predictions":
        """The same images with some of the labels alone."""
        columns = [self.labels.index(label) for label in labels]
        targets, scores = self.targets[:, columns], self.scores[:, columns]
        return replace(self, labels=tuple(labels), targets=targets, scores=scores)


def write_predictions(predictions: Predictions, path: str | Path) -> str:
    """Write image, patient, targets and scores as CSV.

    Scores are printed with the nine digits that a float32 needs, so reading them back gives the
    same numbers; an unknown target is an empty cell. An id that a spreadsheet would compute stands
    behind an apostrophe, which the reader takes off (:func:`~.writing.for_spreadsheet`).

    Returns:
        SHA-256 of the table, in hex.
    """
    columns = [prefix + label for prefix in (TARGET, SCORE) for label in predictions.labels]
    ids = zip(predictions.image_ids, predictions.patient_ids, strict=True)
    rows = zip(ids, predictions.targets.tolist(), predictions.scores, strict=True)
    with open_replacing(path := Path(path), newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "patient", *columns])
        for names, targets, scores in rows:
            known = ["" if value != value else str(int(value)) for value in targets]
            cells = [*map(for_spreadsheet, names), *known, *(f"{score:.9g}" for score in scores)]
            writer.writerow(cells)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_predictions(path: str | Path) -> Predictions:
    """Read a table written by :func:`write_predictions`.

    Raises:
        DataNotFoundError: there is no such file.
        TableError: a column is missing, the table is cut off, an image stands twice, or a cell is
            not a score in [0, 1] or not a target; names the row and the cell.
    """
    table = read_table(path := Path(path))
    labels = [name.removeprefix(SCORE) for name in table.columns if name.startswith(SCORE)]
    wanted = [TARGET + label for label in labels] or [SCORE + "<label>"]
    table.require("image", "patient", *wanted)
    require_whole(path)
    table.require(once="image")
    table.refuse_blanks("patient")
    targets = [table.convert(TARGET + label, binary, "1, 0 or blank") for label in labels]
    return Predictions(
        labels=tuple(labels),
        image_ids=tuple(table.text("image")),
        patient_ids=tuple(table.text("patient")),
        targets=np.array(targets, dtype=np.float32).T,
        scores=np.column_stack([read_score_column(table, SCORE + label) for label in labels]),
    )


def read_own(path: Path, metrics: Mapping[str, Any] | None = None) -> Predictions:
    """Read a table which, where figures lie beside it, must be the one they are of."""
    # Without metrics.json and environment.json beside it, it is no run's; ``metrics`` is what
    # metrics.json will say of a run that is about to finish.
    beside, resume = path.with_name("metrics.json"), f"python train.py resume={path.parent}"
    if metrics is None and beside.is_file():
        metrics = read_json(beside)
    if metrics is None and path.with_name("environment.json").is_file():
        raise TableError(fault("unfinished_run", path, resume))
    predictions = read_predictions(path)
    told = (metrics or {}).get(path.stem.removeprefix("predictions_"), {}).get("predictions_sha256")
    if told and told != (read := hashlib.sha256(path.read_bytes()).hexdigest()):
        raise TableError(fault("other_table", path, read, told, resume))
    return predictions


def read_score_column(table: Table, name: str) -> npt.NDArray[np.float32]:
    """Scores of one label, (N,)."""
    wanted = "a score in [0, 1]. Logits need a sigmoid first; an image without a score has no row"
    return np.array(table.convert(name, _score, wanted), dtype=np.float32)


def require_scores(scores: npt.NDArray[np.float32], images: Sequence[str]) -> None:
    """Check that a network gave numbers, (N, L); ``images`` names them in the message."""
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(bad):
        raise CheckpointError(fault("no_numbers", bad, scores, images))


def _score(cell: str) -> float:
    if not 0 <= (score := float(cell)) <= 1:
        raise ValueError
    return score
