"""The end of a training run: what is fitted on validation, kept, and applied to test."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from xray_lightning.checkpoint import load_checkpoint, store_operating_points
from xray_lightning.cli.judging import Judged, fitted, verdict_of
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.writing import write_json


def conclude(
    config: DictConfig, data: XrayDataModule, predictions: Mapping[str, Predictions], run: Path
) -> Judged:
    """Fit operating points and calibrations on validation, keep them, apply them to test."""
    validation = fitted(predictions["val"], data.split.subset_fingerprints["val"], config)
    best = run / "checkpoints" / "best.ckpt"
    store_operating_points(best, validation)
    weights = load_checkpoint(best).weights_sha256
    write_json({**validation, "weights_sha256": weights}, run / "operating_points.json")
    found = verdict_of(
        predictions["test"],
        data.subset_records("test"),
        subset_facts(data, "test", config.tta, weights),
        validation=validation,
        draws=config.draws,
    )
    write_json(found.facts, run / "evaluation.json")
    return found


def subset_facts(
    data: XrayDataModule, subset: str, tta: str, weights: str, *, overlap_known: bool = True
) -> dict[str, Any]:
    """What is judged, for :func:`verdict_of`; ``overlap_known``: its patients were looked for."""
    return {
        "fingerprint": data.split.subset_fingerprints[subset],
        "data": data.source.title,
        "data_images": len(data.source.records),
        "split": {"name": data.split.name, "fingerprint": data.split.fingerprint},
        "subset": subset,
        "tta": tta,
        "weights_sha256": weights,
        "overlap_known": overlap_known,
    }
