"""Cross-validation: the folds of a sweep pooled, each image scored by a run that never saw it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from xray_lightning.data.decoding import available_cores
from xray_lightning.errors import DataNotFoundError, TableError
from xray_lightning.evaluation.predictions import Predictions, read_own, write_predictions
from xray_lightning.evaluation.sweep import SweepRun
from xray_lightning.metrics.estimates import Metrics, estimate_metrics
from xray_lightning.metrics.intervals import Estimate
from xray_lightning.results import Json, Result
from xray_lightning.writing import read_json, write_json

POOLED = "pooled.json"


@dataclass(frozen=True)
class CrossValidation(Result):
    """The folds of one model with one seed, pooled once all are finished."""

    settings: str  # what sets it apart in its sweep, "" for nothing
    seed: int | None  # of the trainings
    title: str  # for people
    folds: int  # into how many the patients were divided
    fingerprint: str  # of the data and how the patients were divided
    missing: list[int]  # folds without a finished run; the rest is empty while there is one
    predictions: str | None = None  # name of the table of all images
    metrics: Metrics | None = None  # of all images, ranked at once
    images: int = 0  # how many
    patients: int | None = None  # how many; None where unknown
    data: str = ""  # title of the data set
    # label -> AUROC of each fold on its own
    fold_auroc: dict[str, list[float | None]] | None = None
    fold_mean: list[float | None] | None = None  # mean AUROC of each fold

    @property
    def rows(self) -> list[tuple[str, int | None, Estimate, list[float | None]]]:
        """Label, positives, AUROC of all images and of each fold; last the mean, no positives."""
        if self.metrics is None or self.fold_auroc is None or self.fold_mean is None:
            return []
        labels = self.metrics.labels.items()
        rows = [(k, row.positives, row["auroc"], self.fold_auroc[k]) for k, row in labels]
        return [*rows, ("mean", None, self.metrics.mean["auroc"], self.fold_mean)]

    def to_json(self) -> Json:
        """Plain values of pooled.json: the metrics are not nested."""
        values = super().to_json()
        metrics = values.pop("metrics")
        if metrics is None:
            return {key: values[key] for key in list(values)[:7]}
        values |= metrics
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` gave, of this schema or the one before."""
        metrics = {"metrics": values} if "labels" in values else {}
        return super().from_json({**values, **metrics})


def pool_folds(runs: Sequence[SweepRun], folder: Path) -> list[CrossValidation]:
    """Pool the complete cross-validations of a sweep into predictions.csv and pooled.json.

    The names of the tables get a number where there are several.

    Raises:
        DataNotFoundError, TableError: a run's predictions are not there, or do not fit together.
    """
    models = group_folds(runs)
    for stale in (*folder.glob("predictions*.csv"), *folder.glob("pooled*.*")) if models else ():
        stale.unlink()
    pooled = []
    for number, folds in enumerate(models):
        name = f"predictions_{number}.csv" if models[1:] else "predictions.csv"
        pooled.append(_pool(folds, folder, name))
    if pooled:
        values = {"cross_validations": [validation.to_json() for validation in pooled]}
        write_json(values, folder / POOLED)
    return pooled


def group_folds(runs: Sequence[SweepRun]) -> list[dict[int, SweepRun]]:
    """The finished folds of each model and seed, in the order of their first runs."""
    models: dict[tuple[str, str, int | None], dict[int, SweepRun]] = {}
    for run in runs:
        if run.fold is not None:
            models.setdefault((run.fingerprint, run.settings, run.seed), {})[run.fold] = run
    return list(models.values())


def _pool(runs: dict[int, SweepRun], folder: Path, name: str) -> CrossValidation:
    first = next(iter(runs.values()))
    validation = CrossValidation(
        first.settings,
        first.seed,
        f"cross-validation of {first.settings or 'all runs'}, seed {first.seed}",
        first.folds,
        first.fingerprint,
        [fold for fold in range(first.folds) if fold not in runs],
    )
    if validation.missing:
        return validation
    places = [folder / runs[fold].folder for fold in range(first.folds)]
    predictions = join_folds([place / "predictions_test.csv" for place in places])
    columns = predictions.labels, predictions.scores, predictions.targets
    folds = [read_json(place / "metrics.json")["test"]["auroc"] for place in places]
    write_predictions(predictions, folder / name)
    return replace(
        validation,
        predictions=name,
        metrics=estimate_metrics(*columns, predictions.patient_ids, threads=available_cores()),
        images=len(predictions.image_ids),
        patients=predictions.patients,
        data=runs[0].data,
        fold_auroc={k: [fold["labels"][k] for fold in folds] for k in predictions.labels},
        fold_mean=[fold["mean"] for fold in folds],
    )


def join_folds(tables: Sequence[Path]) -> Predictions:
    """The predictions of all folds as one table."""
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
    """The pooled predictions in a sweep's folder, all seeds of one model; none where none are."""
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
