"""A finished run from its folder: its files, read and checked against each other."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import yaml  # type: ignore[import-untyped]

from xray_lightning.data.partition import fingerprint
from xray_lightning.errors import CheckpointError, ConfigError, DataError
from xray_lightning.evaluation.compare import Comparison
from xray_lightning.evaluation.evaluate import Evaluation
from xray_lightning.evaluation.predictions import Predictions, read_own
from xray_lightning.report.page import say
from xray_lightning.wording import fault

Values = Mapping[str, Any]
T = TypeVar("T")
HASH = "weights_sha256"  # of the checkpoint that a file is about
NEEDED: Values = yaml.safe_load(Path(__file__).with_name("needed.yaml").read_bytes())


@dataclass(frozen=True, eq=False)
class Run:
    """What a run left."""

    folder: Path  # of the run
    config: str  # config.yaml as text
    environment: Values  # environment.json
    metrics: Values  # metrics.json
    evaluation: Evaluation  # evaluation.json
    predictions: Mapping[str, Predictions]  # of "val" and "test"
    history: pd.DataFrame | None  # metrics.csv, None without one
    explain: Values | None  # what ``xray explain`` wrote, None before it was run
    explain_missing: str  # why what it wrote is not of this model
    compared: Comparison | None  # with another model, compare.json; None before xray compare


def read_run(folder: str | Path, metrics: Values | None = None) -> Run:
    """Read a run's folder; ``metrics`` is what metrics.json will say of a run about to finish."""
    if not ((folder := Path(folder)) / "config.yaml").is_file():
        raise ConfigError(fault("no_run", folder))
    if metrics is None and not (folder / "metrics.json").is_file():
        raise ConfigError(fault("run_without_metrics", folder))
    metrics = _read(folder / "metrics.json", _load) if metrics is None else metrics
    tables = {
        subset: _read(folder / f"predictions_{subset}.csv", lambda path: read_own(path, metrics))
        for subset in ("val", "test")
    }
    evaluation = _read(folder / "evaluation.json", lambda path: Evaluation.from_json(_load(path)))
    run = Run(
        folder,
        _read(folder / "config.yaml", lambda path: path.read_text(encoding="utf-8")),
        _read(folder / "environment.json", _load),
        metrics,
        evaluation,
        tables,
        _read(folder / "metrics.csv", _load_history),
        *_read_explain(folder / "explain" / "explain.json", metrics),
        _read_compared(folder / "compare.json", evaluation),
    )
    require_one_run(run)
    return run


def require_one_run(run: Run) -> None:
    """Files of two runs in one folder would make a page about neither."""
    folder, evaluation, remedy = run.folder, run.evaluation, say("remedy", run.folder)[0]
    hashes = {run.metrics["val"].get(HASH), run.metrics["test"].get(HASH)}
    hashes.add(evaluation.origin.weights_sha256)
    if len(hashes) > 1:
        raise ConfigError(fault("several_weights", folder, remedy))
    for subset, table in run.predictions.items():
        images = fingerprint({subset: table.image_ids})
        told = {run.environment["split"]["parts"][subset], run.metrics[subset]["fingerprint"]}
        told |= {evaluation.fingerprint} if subset == "test" else set()
        if told != {images} or table.labels != tuple(evaluation.metrics.labels):
            raise ConfigError(fault("several_runs", run, subset, images, told, remedy))
    if run.explain and run.explain["fingerprint"] != evaluation.fingerprint:
        raise ConfigError(fault("other_maps", run))


def _read_explain(path: Path, metrics: Values) -> tuple[Values | None, str]:
    """explain.json; None where a run that was taken further is another model than it explains."""
    explain = _read(path, _load) if path.is_file() else None
    weights = metrics["test"].get(HASH)  # None: the run is of a version that kept none
    if explain is not None and weights not in (None, explain.get(HASH)):
        return None, f"explain.json is of another checkpoint; {say('remedy', path.parent)[0]}"
    return explain, ""


def _read_compared(path: Path, evaluation: Evaluation) -> Comparison | None:
    """compare.json, where it is of these scores."""
    if not path.is_file():
        return None
    compared = _read(path, lambda path: Comparison.from_json(json.loads(path.read_text("utf-8"))))
    here = evaluation.metrics.labels
    same = [
        label in here and np.isclose(here[label]["auroc"].value, row.first, 0, 1e-6, equal_nan=True)
        for label, row in compared.labels.items()
    ]
    if all(same) and compared.fingerprint == evaluation.fingerprint:
        return compared
    (remedy,) = say("remedy", path)
    raise ConfigError(f"{path} does not compare this run's scores with another's: {remedy}")


def _load(path: Path) -> Values:
    values = json.loads(path.read_text(encoding="utf-8"))
    known = values if isinstance(values, dict) else {}
    if lacking := [key for key in NEEDED[path.name] if key not in known]:
        raise ValueError(f"it lacks {', '.join(lacking)}")
    return known


def _load_history(path: Path) -> pd.DataFrame | None:
    table = pd.read_csv(path) if path.is_file() else None
    if table is not None and "epoch" not in table:
        raise ValueError("it has no column epoch")
    return table


def _read(path: Path, load: Callable[[Path], T]) -> T:
    try:
        return load(path)
    except (AttributeError, KeyError, TypeError) as error:
        reason = repr(error)
    except (OSError, ValueError, DataError, CheckpointError) as error:
        reason = str(error)
    (remedy,) = say("remedy", path if path.name == "compare.json" else path.parent)
    raise ConfigError(f"{path} is damaged or not there: {reason}. {remedy}")
