"""Cross-validation: the folds of a sweep pooled, each image scored by a run that never saw it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xray_lightning.errors import DataNotFoundError, TableError
from xray_lightning.evaluation.predictions import Predictions, read_own
from xray_lightning.evaluation.sweep import SweepRun
from xray_lightning.writing import read_json

POOLED = "pooled.json"


@dataclass(frozen=True)
class CrossValidation:
    """The finished folds of one model with one seed.

    Attributes:
        settings: what sets it apart in its sweep, "" for nothing.
        seed: of the trainings.
        folds: into how many the patients were divided.
        runs: fold -> its finished run.
    """

    settings: str
    seed: int | None
    folds: int
    runs: dict[int, SweepRun]

    @property
    def missing(self) -> list[int]:
        """Folds without a finished run."""
        return [fold for fold in range(self.folds) if fold not in self.runs]

    @property
    def fingerprint(self) -> str:
        """Of the data and how the patients were divided into folds."""
        return next(iter(self.runs.values())).fingerprint

    @property
    def title(self) -> str:
        """For people."""
        return f"cross-validation of {self.settings or 'all runs'}, seed {self.seed}"


def find_cross_validations(runs: Sequence[SweepRun]) -> list[CrossValidation]:
    """Those of a sweep, in the order of their first runs."""
    found: dict[tuple[str, str, int | None], CrossValidation] = {}
    for run in runs:
        if run.fold is not None:
            key = run.fingerprint, run.settings, run.seed
            new = CrossValidation(run.settings, run.seed, run.folds, {})
            found.setdefault(key, new).runs[run.fold] = run
    return list(found.values())


def join_folds(tables: Sequence[Path]) -> Predictions:
    """The predictions of all folds as one table.

    Raises:
        TableError: other labels, or an image that several folds tested.
    """
    folds = [read_own(table) for table in tables]
    for table, fold in zip(tables, folds, strict=True):
        if fold.labels != folds[0].labels:
            raise TableError(f"{table} and {tables[0]} have different labels")
    images = tuple(image for fold in folds for image in fold.image_ids)
    if len({*images}) < len(images):
        twice = next(image for image in images if images.count(image) > 1)
        raise TableError(f"{twice} is a test image of several folds: they are of different splits")
    return Predictions(
        folds[0].labels,
        images,
        tuple(patient for fold in folds for patient in fold.patient_ids),
        np.concatenate([fold.targets for fold in folds]),
        np.concatenate([fold.scores for fold in folds]),
    )


def read_data_title(table: Path) -> str:
    """What a run, or a sweep of its folds, says of its data; "" for a bare table."""
    metrics, pooled = table.with_name("metrics.json"), table.with_name(POOLED)
    if metrics.is_file():
        return str(read_json(metrics)["test"].get("data", ""))
    entries = read_json(pooled)["cross_validations"] if pooled.is_file() else []
    for entry in entries:
        if entry["predictions"] == table.name:
            return f"{entry['data']}, {entry['folds']} folds [{entry['fingerprint']}]"
    return ""


def find_pooled(folder: Path, settings: str | None = None) -> list[Path]:
    """The pooled predictions in a sweep's folder, all seeds of one model; none where none are.

    Raises:
        DataNotFoundError: folds are missing, or several models stand there and none is named.
    """
    if not (folder / POOLED).is_file():
        return []
    entries = read_json(folder / POOLED)["cross_validations"]
    chosen = [entry for entry in entries if settings in (None, entry["settings"])]
    if len(names := sorted({entry["settings"] for entry in chosen})) > 1:
        rows = ", ".join(f'"{folder}/{name}"' for name in names)
        raise DataNotFoundError(f"{folder} holds several cross-validations; name one: {rows}")
    for entry in chosen:
        if entry["missing"]:
            missing = f"{entry['title']} lacks the folds {entry['missing']}"
            raise DataNotFoundError(f"{folder}: {missing}")
    return [folder / entry["predictions"] for entry in chosen]
