"""Scores of a trained network on a part of a data set, and their summary."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.dataset import Sample
from xray_lightning.errors import ConfigError
from xray_lightning.metrics.auroc import auroc_per_label, defined_mean
from xray_lightning.predictions import Predictions
from xray_lightning.task import XrayTask

Summary = dict[str, Any]


def predict_part(
    trainer: pl.Trainer, task: XrayTask, data: XrayDataModule, part: str
) -> Predictions:
    """Scores of every image of "val" or "test", each exactly once, in table order.

    Raises:
        ConfigError: another part; training images are augmented and not scored here.
        ValueError: the network does not know one of the data's labels.
    """
    if part not in ("val", "test"):
        raise ConfigError(f"part must be val or test, got {part!r}")
    loader: DataLoader[Sample] = data.val_dataloader() if part == "val" else data.test_dataloader()
    batches = cast(list[Tensor], trainer.predict(task, dataloaders=loader))
    records = data.part_records(part)
    columns = [task.net.labels.index(label) for label in data.labels]  # of a larger label set
    return Predictions(
        labels=data.labels,
        image_ids=tuple(record.image_id for record in records),
        patient_ids=tuple(record.patient_id for record in records),
        targets=data.part_targets(part),
        scores=torch.cat(batches).float().numpy()[:, columns],
    )


def summarise(predictions: Predictions, fingerprint: str) -> Summary:
    """AUROC per label and its mean over the defined ones, with images, patients and positives.

    Returns:
        ``{"auroc": {"mean", "defined", "labels"}, "positives", "images", "patients",
        "fingerprint"}``; None where AUROC is undefined.
    """
    scores, targets = torch.from_numpy(predictions.scores), torch.from_numpy(predictions.targets)
    values = auroc_per_label(scores, targets)
    mean, defined = defined_mean(values)
    positives = np.nansum(predictions.targets == 1, axis=0).tolist()
    by_label = zip(predictions.labels, values.tolist(), strict=True)
    return {
        "auroc": {
            "mean": _plain(mean),
            "defined": defined,
            "labels": {label: _plain(value) for label, value in by_label},
        },
        "positives": dict(zip(predictions.labels, positives, strict=True)),
        "images": len(predictions.image_ids),
        "patients": len(set(predictions.patient_ids)),
        "fingerprint": fingerprint,
    }


def write_json(values: Mapping[str, Any], path: Path) -> None:
    """Write plain values as JSON, replacing the file in one step."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
