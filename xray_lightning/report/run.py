"""The files of a finished run, read and checked against each other."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from xray_lightning.data.partition import fingerprint
from xray_lightning.errors import ConfigError, DataError
from xray_lightning.evaluation.predictions import Predictions, read_own

Facts = Mapping[str, Any]
HASH = "weights_sha256"  # of the checkpoint that a file is about
NEEDED = {  # what a page could not do without
    "environment.json": ("command", "seed", "split", "data", "device", "versions"),
    "metrics.json": ("val", "test"),
    "evaluation.json": (
        *("labels", "mean", "defined", "fingerprint", "images", "patients", "data", "data_images"),
        *("split", "subset", "draws", "validation", "subgroups", "underdiagnosis", "published"),
    ),
    "explain.json": (
        *("checkpoint", "fingerprint", "images", "patients", "methods", "gallery"),
        *("localisation", "localisation_missing", "published", "saliency", "shortcuts"),
    ),
}


@dataclass(frozen=True, eq=False)
class RunFiles:
    """What a run left.

    Attributes:
        folder: of the run.
        config: config.yaml as text.
        environment: environment.json.
        metrics: metrics.json.
        evaluation: evaluation.json.
        predictions: of "val" and "test".
        history: metrics.csv, None without one.
        explain: what ``xray explain`` found, None before it was run.
        explain_missing: why what it found is not of this model.
    """

    folder: Path
    config: str
    environment: Facts
    metrics: Facts
    evaluation: Facts
    predictions: Mapping[str, Predictions]
    history: pd.DataFrame | None
    explain: Facts | None
    explain_missing: str


def read_run(folder: Path, metrics: Facts | None = None) -> RunFiles:
    """Read a run's folder.

    Args:
        folder: of the run.
        metrics: what metrics.json will say of a run that is about to finish; None: read it.

    Raises:
        ConfigError: the folder holds no run or an unfinished one, a file is damaged, or its files
            are of different runs.
    """
    if not (folder / "config.yaml").is_file():
        raise ConfigError(
            f"{folder} holds no run: it has no config.yaml; name the folder of a training run, "
            "such as outputs/2026-01-31_12-00-00_xception_patient"
        )
    if metrics is None and not (folder / "metrics.json").is_file():
        raise ConfigError(
            f"{folder} is not finished: it has no metrics.json; continue it with python train.py "
            f"resume={folder}"
        )
    metrics = _facts(folder / "metrics.json") if metrics is None else metrics
    tables = {
        subset: _table(folder / f"predictions_{subset}.csv", metrics) for subset in ("val", "test")
    }
    evaluation = _facts(folder / "evaluation.json")
    looked = folder / "explain" / "explain.json"
    explain = _facts(looked) if looked.is_file() else None
    # A run that was taken further is another model than the one that was explained.
    weights = metrics["test"].get(HASH)  # None: the run is of a version that kept none
    stale = explain is not None and weights not in (None, explain.get(HASH))
    run = RunFiles(
        folder,
        _text(folder / "config.yaml"),
        _facts(folder / "environment.json"),
        metrics,
        evaluation,
        tables,
        _history(folder / "metrics.csv"),
        None if stale else explain,
        f"explain.json is of another checkpoint; {_remedy(looked.parent)}" if stale else "",
    )
    if {metrics["val"].get(HASH), evaluation.get(HASH)} != {weights}:
        raise ConfigError(
            f"{folder} holds results of different checkpoints: val and test of metrics.json and "
            f"evaluation.json name other weights. {_remedy(folder)}"
        )
    for subset, table in tables.items():
        _require_same(run, subset, table)
    if run.explain and run.explain["fingerprint"] != evaluation["fingerprint"]:
        raise ConfigError(
            f"{looked} is of other images [{run.explain['fingerprint']}] than the run's test set "
            f"[{evaluation['fingerprint']}]: remove it, or run xray explain again"
        )
    return run


def _require_same(run: RunFiles, subset: str, table: Predictions) -> None:
    """Files of two runs in one folder would make a page about neither.

    Raises:
        ConfigError: a table has other images or labels than the figures are of.
    """
    found = fingerprint({subset: table.image_ids})
    told = {run.environment["split"]["parts"][subset], run.metrics[subset]["fingerprint"]}
    if subset == "test":
        told.add(run.evaluation["fingerprint"])
    if told != {found} or table.labels != tuple(run.evaluation["labels"]):
        raise ConfigError(
            f"{run.folder} holds files of different runs: predictions_{subset}.csv is of the "
            f"images [{found}] and {len(table.labels)} labels, the other files are of "
            f"{sorted(told)} and "
            f"{len(run.evaluation['labels'])}. {_remedy(run.folder)}"
        )


def _facts(path: Path) -> Facts:
    text = _text(path)
    try:
        values = json.loads(text)
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    known = values if isinstance(values, dict) else {}
    known.pop("schema", None)
    if lacking := [key for key in NEEDED[path.name] if key not in known]:
        raise _damaged(path, f"it lacks {', '.join(lacking)}")
    return known


def _table(path: Path, metrics: Facts) -> Predictions:
    try:
        return read_own(path, metrics)
    except (DataError, ValueError) as error:  # pandas raises kinds of ValueError
        raise _damaged(path, str(error)) from error


def _history(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        table = pd.read_csv(path)
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if "epoch" not in table:
        raise _damaged(path, "it has no column epoch")
    return table


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # a UnicodeDecodeError is a ValueError
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> ConfigError:
    return ConfigError(f"{path} is damaged or not there: {reason}. {_remedy(path.parent)}")


def _remedy(folder: Path) -> str:
    if folder.name == "explain":
        return f"xray explain {folder.parent / 'checkpoints' / 'best.ckpt'} makes it again"
    return f"python train.py resume={folder} makes it again from the checkpoints"
