"""Scores of a model beside the truth, in memory and as a table on disk."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from xray_lightning.errors import DataNotFoundError, TableError
from xray_lightning.writing import for_spreadsheet, from_spreadsheet, open_replacing

TARGET = "target_"
SCORE = "score_"


@dataclass(frozen=True)
class Predictions:
    """Scores of one model on one part of a data set.

    Attributes:
        labels: the L labels.
        image_ids: N ids.
        patient_ids: N ids.
        targets: (N, L) float32, NaN where unknown.
        scores: (N, L) float32 in [0, 1].

    Raises:
        ValueError: the shapes do not belong together.
    """

    labels: tuple[str, ...]
    image_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    targets: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        shape = (len(self.image_ids), len(self.labels))
        if not (self.targets.shape == self.scores.shape == shape):
            raise ValueError(
                f"{shape[0]} images and {shape[1]} labels need arrays of shape {shape}, got "
                f"targets {self.targets.shape} and scores {self.scores.shape}"
            )
        if len(self.patient_ids) != shape[0]:
            raise ValueError(f"{shape[0]} images but {len(self.patient_ids)} patient ids")

    @property
    def patients(self) -> int | None:
        """How many; None where they are unknown and each image counts as its own."""
        return None if self.patient_ids == self.image_ids else len(set(self.patient_ids))


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write image, patient, targets and scores as CSV.

    Scores are printed with the nine digits that a float32 needs, so reading them back gives the
    same numbers; an unknown target is an empty cell. An id that a spreadsheet would compute stands
    behind an apostrophe, which the reader takes off (:func:`~.writing.for_spreadsheet`).
    """
    header = ["image", "patient"]
    header += [TARGET + label for label in predictions.labels]
    header += [SCORE + label for label in predictions.labels]
    rows = zip(
        predictions.image_ids,
        predictions.patient_ids,
        predictions.targets.tolist(),
        predictions.scores,
        strict=True,
    )
    with open_replacing(path, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for image, patient, targets, scores in rows:
            known = ["" if value != value else str(int(value)) for value in targets]
            ids = for_spreadsheet(image), for_spreadsheet(patient)
            writer.writerow([*ids, *known, *(f"{score:.9g}" for score in scores)])


def read_predictions(path: Path) -> Predictions:
    """Read a table written by :func:`write_predictions`.

    Raises:
        DataNotFoundError: there is no such file.
        TableError: a column is missing.
    """
    if not path.is_file():
        raise DataNotFoundError(f"no predictions table at {path}")
    text = {"image": str, "patient": str}  # also an id such as "NA"
    table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])
    labels = [name.removeprefix(SCORE) for name in table.columns if name.startswith(SCORE)]
    wanted = ["image", "patient", *(TARGET + label for label in labels)]
    lacking = [name for name in wanted if name not in table.columns]
    if lacking or not labels:
        raise TableError(f"{path} lacks the columns {lacking or [SCORE + '<label>']}")
    return Predictions(
        labels=tuple(labels),
        image_ids=tuple(map(from_spreadsheet, table["image"])),
        patient_ids=tuple(map(from_spreadsheet, table["patient"])),
        targets=_columns(table, TARGET, labels),
        scores=_columns(table, SCORE, labels),
    )


def _columns(table: pd.DataFrame, prefix: str, labels: Sequence[str]) -> npt.NDArray[np.float32]:
    return table[[prefix + label for label in labels]].to_numpy(dtype=np.float32)
