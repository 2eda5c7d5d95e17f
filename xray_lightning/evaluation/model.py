"""A trained model away from its data: its findings, its internal test set, scores that are kept."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytorch_lightning as pl

from xray_lightning.checkpoint import Checkpoint
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.partition import Indices, fingerprint, replace_test
from xray_lightning.data.source import Source
from xray_lightning.data.vocabulary import find_wording, list_findings
from xray_lightning.errors import DataError, XrayError
from xray_lightning.evaluation.predict import predict_subset
from xray_lightning.evaluation.predictions import (
    Predictions,
    read_own,
    read_predictions,
    write_predictions,
)
from xray_lightning.metrics.operating_points import OperatingPoint, OperatingPoints
from xray_lightning.training.task import XrayTask
from xray_lightning.writing import read_json, write_json

TABLE = "predictions_test.csv"
OpenData = Callable[[Checkpoint], XrayDataModule]


@dataclass(frozen=True)
class Scoring:
    """How images are scored, and where the tables of scores stay."""

    folder: Path
    trainer: pl.Trainer
    batch_size: int = 32
    workers: int | None = None
    cache_dir: str | Path = "outputs/cache"


class Model:
    """A checkpoint with what its run and its own data tell of it."""

    def __init__(self, checkpoint: Checkpoint, open_data: OpenData | None = None) -> None:
        self.checkpoint, self._open_data = checkpoint, open_data
        path = checkpoint.path.resolve()
        inside = path.parent.name == "checkpoints"
        self.run = path.parents[1] if inside else path.parent
        self.name = self.run.name if inside else path.stem
        self.notes: list[str] = []  # why its own data, or its internal test set, is not at hand
        self.title = (
            self._read_metrics().get("data", "") or (self.own and self.own.source.title) or ""
        )
        self.trained_on = self.title.split(" (")[0]  # "" where that is not known
        own = checkpoint.description.labels
        self.labels = name_findings(self.trained_on, own)  # L names of the vocabulary
        plain = checkpoint.description.operating_points
        points = OperatingPoints.from_json(plain).labels if plain else {}
        self.points: dict[str, OperatingPoint] = {
            name: points[label]
            for name, label in zip(self.labels, own, strict=True)
            if label in points
        }

    @cached_property
    def own(self) -> XrayDataModule | None:
        """The data it was trained on, as it was split; None where it is not at hand."""
        if self._open_data is None:
            return None
        try:
            return open_own(self.checkpoint, self._open_data)
        except XrayError as error:
            self.notes.append(f"its own data is not at hand: {error}")
            return None

    def _read_metrics(self) -> dict[str, str]:
        """What metrics.json in its run says of this checkpoint on test; {} where it does not."""
        path = self.run / "metrics.json"
        told = read_json(path).get("test", {}) if path.is_file() else {}
        return told if told.get("weights_sha256") == self.checkpoint.weights_sha256 else {}

    def test_internally(self, scoring: Scoring) -> Predictions | None:
        """Scores of its internal test set: the table of its run, else scored; None without data."""
        if self._read_metrics() and (self.run / TABLE).is_file():
            return replace(read_own(self.run / TABLE), labels=self.labels)
        if self.own is None:
            self.notes.append(f"no internal test: {self.run} holds no {TABLE} of these weights")
            return None
        return replace(score_images(self, "internal", self.own, scoring)[1], labels=self.labels)


def open_own(checkpoint: Checkpoint, open_data: OpenData) -> XrayDataModule:
    """The data a checkpoint was trained on, as it was split; an error where it is not at hand."""
    data = open_data(checkpoint)
    here, there = data.split.fingerprint, checkpoint.description.split.get("fingerprint")
    if here != there:
        raise DataError(f"it changed: the split was [{there}], it is [{here}]")
    return data


def name_findings(data_set: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    """Labels of a data set by the names of the common vocabulary; others keep their own.

    >>> name_findings("chexpert", ("Pleural Effusion", "Edema", "Scar"))
    ('Effusion', 'Edema', 'Scar')
    """
    wordings = {
        name: find_wording(data_set, labels, name) for name in list_findings(data_set, labels)
    }
    called = {w.words[0]: name for name, w in wordings.items() if w and len(w.words) == 1}
    return tuple(called.get(label, label) for label in labels)


def select_test(source: Source, model: Model, scoring: Scoring) -> XrayDataModule:
    """A test set as a model's network takes it."""
    return XrayDataModule(
        source,
        **model.checkpoint.description.preprocessing,
        batch_size=scoring.batch_size,
        workers=scoring.workers,
        cache_dir=scoring.cache_dir,
    )


def score_images(
    model: Model,
    name: str,  # of the test set, for the name of the file
    data: XrayDataModule,  # whose labels are the model's own, or names of ``model.labels``
    scoring: Scoring,
    rows: Indices | None = None,  # of the test images (n,), ascending; None: those of the split
) -> tuple[Path, Predictions]:
    """Scores of test images, and the table they stay in."""
    # A table of the same weights, pixels and images is not made again; targets are the data's.
    if rows is not None:
        data.split = replace_test(data.split, data.records, rows)
    checkpoint = model.checkpoint
    own = checkpoint.description.labels
    records, targets = data.subset_records("test"), data.subset_targets("test")
    images = tuple(record.image_id for record in records)
    patients = tuple(record.patient_id for record in records)
    tta = checkpoint.description.config.get("tta", "none")
    about = {
        "weights_sha256": checkpoint.weights_sha256,
        "data": data.source.identity(),
        "images": fingerprint({"test": images}),
        "labels": list(data.labels),
        "tta": tta,
        **data.preprocessing,
    }
    slug = re.sub(r"[^\w.-]+", "_", name)
    path = scoring.folder / f"scores_{slug}_{checkpoint.weights_sha256[:8]}.csv"
    if (kept := _read_kept(path, about)) and kept.image_ids == images:
        predictions = replace(kept, targets=targets, patient_ids=patients)
        if np.array_equal(kept.targets, targets, equal_nan=True):
            return path, predictions
    else:
        labels = own if set(data.labels) <= set(own) else model.labels
        task = XrayTask(checkpoint.build_net(), labels=labels, tta=tta)
        predictions = predict_subset(scoring.trainer, task, data, "test")
    digest = write_predictions(predictions, path)
    write_json({**about, "predictions_sha256": digest}, path.with_suffix(".json"))
    return path, predictions


def _read_kept(path: Path, about: dict[str, object]) -> Predictions | None:
    """The scores of an earlier run if they are of the same weights, pixels and images."""
    beside = path.with_suffix(".json")
    if not (path.is_file() and beside.is_file()):
        return None
    told = read_json(beside)
    digest = told.pop("predictions_sha256", "")
    same = told == about and digest == hashlib.sha256(path.read_bytes()).hexdigest()
    return read_predictions(path) if same else None
