"""Everything the page of a run shows, as plain values: report.json."""

import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

from xray_lightning.evaluation.published import incomparable
from xray_lightning.metrics.calibration import reliability
from xray_lightning.metrics.operating_points import Fitted
from xray_lightning.metrics.subgroups import MEAN
from xray_lightning.report.run import RunFiles
from xray_lightning.report.sentences import published_facts, unknown, verdict, warnings
from xray_lightning.writing import to_plain

Facts = dict[str, Any]
TEST = (
    *("fingerprint", "images", "patients", "patients_known", "draws", "seed", "tta"),
    *("labels", "mean", "defined", "calls", "weights_sha256"),
)


def run_facts(run: RunFiles, audit: Mapping[str, Any] | None, audit_missing: str = "") -> Facts:
    """The facts of a run.

    Args:
        run: its files.
        audit: of its split, the values of :class:`~xray_lightning.audit.run.Audit`.
        audit_missing: why there is none.
    """
    evaluation = run.evaluation
    reason = incomparable(
        evaluation["data"],
        list(evaluation["labels"]),
        evaluation["split"]["name"],
        evaluation["subset"],
        known=evaluation["data_images"],
        scored=evaluation["images"],
    )
    facts: Facts = {
        "run": run.folder.resolve().name,
        "data": evaluation["data"],
        "split": run.environment["split"],
        "test": {key: evaluation[key] for key in TEST if key in evaluation},
        "val": run.metrics["val"],
        "published": published_facts(evaluation, reason),
        "reliability": reliability_facts(run),
        "points": point_facts(evaluation),
        "subgroups": group_facts(evaluation),
        "audit": audit,
        "audit_missing": audit_missing,
        "training": training_facts(run),
        "explain": run.explain,
        "explain_missing": run.explain_missing,
        "reproduce": reproduce_facts(run),
    }
    facts |= {"verdict": verdict(facts), "warnings": warnings(facts), "unknown": unknown(facts)}
    values: Facts = to_plain(facts)
    return values


def reliability_facts(run: RunFiles) -> Facts:
    """Mean score and share of positives of each bin of a label, raw and calibrated."""
    table = run.predictions["test"]
    fitted = run.evaluation["validation"].get("labels", {})
    found: Facts = {}
    for index, label in enumerate(table.labels):
        known = ~np.isnan(table.targets[:, index])
        scores, positive = table.scores[known, index], table.targets[known, index] == 1
        mapping = Fitted.from_plain(fitted[label]).calibration if label in fitted else None
        kinds = {"raw": scores, "calibrated": None if mapping is None else mapping(scores)}
        found[label] = {
            kind: None
            if values is None or not len(values)
            else {
                name: column.tolist()
                for name, column in zip(
                    ("score", "share", "images"), reliability(values, positive), strict=True
                )
            }
            for kind, values in kinds.items()
        }
    return found


def point_facts(evaluation: Mapping[str, Any]) -> Facts:
    """Thresholds of validation and what they do there; labels without one, and why."""
    validation = evaluation["validation"]
    labels = validation.get("labels", {})
    maps = {each["calibration"]["method"] for each in labels.values() if each["calibration"]}
    return {
        "rule": validation.get("rule"),
        "value": validation.get("value"),
        "fingerprint": validation.get("fingerprint"),
        "labels": {k: each for k, each in labels.items() if each["threshold"] is not None},
        "without": {k: each["note"] for k, each in labels.items() if each["threshold"] is None},
        "doubts": {
            k: v["note"] for k, v in labels.items() if v["note"] and v["threshold"] is not None
        },
        "calibration": next(iter(maps), None),
    }


def group_facts(evaluation: Mapping[str, Any]) -> Facts:
    """Mean AUROC of every group, single labels that differ, missed disease."""
    rows = evaluation["subgroups"]
    sure = [row for row in rows if row["corrected"] is not None and row["corrected"] < 0.05]
    return {
        "rows": [row for row in rows if row["label"] == MEAN],
        "tested": sum(row["label"] != MEAN and row["corrected"] is not None for row in rows),
        "differing": [row for row in sure if row["label"] != MEAN],
        "underdiagnosis": [row for row in evaluation["underdiagnosis"] if row["rate"] is not None],
    }


def training_facts(run: RunFiles) -> Facts:
    """The rows of metrics.csv and which of them the checkpoint is."""
    table = run.history
    if table is None:
        return {"epochs": 0, "best_epoch": None, "rows": []}
    best = None
    if "val/auroc" in table and table["val/auroc"].notna().any():
        best = int(table["epoch"].iloc[table["val/auroc"].argmax()]) + 1
    return {
        "epochs": len(table),
        "best_epoch": best,
        "rows": table.to_dict("records"),
    }


def reproduce_facts(run: RunFiles) -> Facts:
    """Command, settings, surroundings."""
    environment = run.environment
    script = str(environment["command"][0]).endswith(".py")
    place = shlex.quote(str(run.folder))
    return {
        "command": shlex.join(["python"] * script + [str(part) for part in environment["command"]]),
        "again": f"python train.py --config-dir {place} --config-name config",
        "check": f"xray evaluate {place}/checkpoints/best.ckpt",
        "config": run.config,
        "resumed": len(environment.get("resumed", [])),
        **{key: environment[key] for key in ("seed", "device", "versions")},
        **{key: environment.get(key) for key in ("git_commit", "python", "platform", "threads")},
        "data": environment["data"],
    }
