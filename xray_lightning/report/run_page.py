"""The report of a run: one self-contained HTML page, and the same numbers as JSON."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xray_lightning.audit.run import Audit
from xray_lightning.metrics.calibration import reliability
from xray_lightning.metrics.operating_points import OperatingPoint
from xray_lightning.metrics.subgroups import MEAN
from xray_lightning.report.audit_page import audit_figures
from xray_lightning.report.drawings import run_figures
from xray_lightning.report.page import page
from xray_lightning.report.run import Run
from xray_lightning.report.sentences import (
    list_limitations,
    list_warnings,
    published_rows,
    summarise_run,
)
from xray_lightning.writing import open_replacing, to_plain, write_json

Values = dict[str, Any]
TEST = (  # of evaluation.json
    *("fingerprint", "images", "patients", "patients_known", "draws", "seed", "tta"),
    *("labels", "mean", "defined", "calls", "weights_sha256"),
)
FORMER = {"verdict": "summary", "unknown": "limitations", "points": "operating_points"}  # schema 1


@dataclass(frozen=True)
class Section:
    """A part of the page, drawn by ``sections/<name>.html.j2`` from the values and figures.

    Attributes:
        name: its id on the page.
        title: its heading.
        needs: the value without which it is left out; "": always there.
    """

    name: str
    title: str
    needs: str = ""


SECTIONS = (  # in the order of the page
    Section("summary", "Summary"),
    Section("results", "Results on the test set"),
    Section("published", "Published results"),
    Section("curves", "ROC and precision-recall curves"),
    Section("calibration", "Calibration"),
    Section("operating_points", "Operating points"),
    Section("subgroups", "Subgroups"),
    Section("audit", "Audit of the split"),
    Section("explain", "Where does it look?", "explain"),
    Section("training", "Training"),
    Section("pictures", "Pictures"),
    Section("reproduce", "How to reproduce"),
    Section("limitations", "Limitations"),
)


def write_report(run: Run, audit: Audit | None, audit_missing: str = "") -> Values:
    """Write report.html and report.json into the run's folder, each in one step.

    Args:
        run: its files.
        audit: of its split; None: there is none.
        audit_missing: why.

    Returns:
        What stands in report.json.
    """
    values = report_values(run, audit, audit_missing)
    with open_replacing(run.folder / "report.html") as file:
        file.write(run_page(run, values))
    write_json(values, run.folder / "report.json")
    return values


def run_page(run: Run, values: Values) -> str:
    """The page of :func:`report_values`."""
    figures = run_figures(run, values)
    if values["audit"]:
        figures |= audit_figures(Audit.from_json(values["audit"]))
    shown = [section for section in SECTIONS if not section.needs or values.get(section.needs)]
    return page("run.html.j2", {**values, "sections": shown, "figures": figures})


def report_values(run: Run, audit: Audit | None, audit_missing: str = "") -> Values:
    """Everything the page of a run shows, as plain values."""
    evaluation = run.evaluation
    values: Values = {
        "run": run.folder.resolve().name,
        "data": evaluation["data"],
        "split": run.environment["split"],
        "test": {key: evaluation[key] for key in TEST if key in evaluation},
        "val": run.metrics["val"],
        "published": published_rows(evaluation),
        "reliability": _reliability(run),
        "operating_points": _operating_points(evaluation["validation"]),
        "subgroups": _subgroups(evaluation),
        "audit": audit and audit.to_json(),
        "audit_missing": audit_missing,
        "training": _training(run),
        "explain": run.explain,
        "explain_missing": run.explain_missing,
        "reproduce": _reproduction(run),
    }
    values |= {"summary": summarise_run(values), "warnings": list_warnings(values)}
    values["limitations"] = list_limitations(values)
    plain: Values = to_plain(values)
    return plain | {former: plain[name] for former, name in FORMER.items()}


def _reliability(run: Run) -> Values:
    """Mean score and share of positives of each bin of a label, raw and calibrated."""
    table, bins = run.predictions["test"], {}
    points = run.evaluation["validation"].get("labels", {})
    for label, scores, targets in zip(table.labels, table.scores.T, table.targets.T, strict=True):
        known = ~np.isnan(targets)
        calibration = (
            OperatingPoint.from_json(points[label]).calibration if label in points else None
        )
        kinds = {"raw": scores[known], "calibrated": calibration and calibration(scores[known])}
        bins[label] = {
            kind: dict(zip(("score", "share", "images"), reliability(kept, targets[known] == 1),
                           strict=True)) if kept is not None and len(kept) else None
            for kind, kept in kinds.items()
        }  # fmt: skip
    return bins


def _operating_points(chosen: Values) -> Values:
    """Thresholds of validation and what they do there; labels without one, and why."""
    labels = chosen.get("labels", {})
    maps = [point["calibration"]["method"] for point in labels.values() if point["calibration"]]
    defined = {label: point for label, point in labels.items() if point["threshold"] is not None}
    return {
        **{key: chosen.get(key) for key in ("rule", "value", "fingerprint")},
        "labels": defined,
        "without": {k: point["note"] for k, point in labels.items() if k not in defined},
        "doubts": {k: point["note"] for k, point in defined.items() if point["note"]},
        "calibration": maps[0] if maps else None,
    }


def _subgroups(evaluation: Mapping[str, Any]) -> Values:
    """Mean AUROC of every group, single labels that differ, missed disease."""
    single = [row for row in evaluation["subgroups"] if row["label"] != MEAN]
    tested = [row for row in single if row["corrected"] is not None]
    return {
        "rows": [row for row in evaluation["subgroups"] if row["label"] == MEAN],
        "tested": len(tested),
        "differing": [row for row in tested if row["corrected"] < 0.05],
        "underdiagnosis": [row for row in evaluation["underdiagnosis"] if row["rate"] is not None],
    }


def _training(run: Run) -> Values:
    """The rows of metrics.csv and which of them the checkpoint is."""
    if (table := run.history) is None:
        return {"epochs": 0, "best_epoch": None, "rows": []}
    best = None
    if "val/auroc" in table and table["val/auroc"].notna().any():
        best = int(table["epoch"].iloc[table["val/auroc"].argmax()]) + 1
    return {"epochs": len(table), "best_epoch": best, "rows": table.to_dict("records")}


def _reproduction(run: Run) -> Values:
    """Command, settings, surroundings."""
    environment: Mapping[str, Any] = run.environment
    command = [str(word) for word in environment["command"]]
    folder = shlex.quote(str(run.folder))
    return {
        "command": shlex.join(["python"] * command[0].endswith(".py") + command),
        "again": f"python train.py --config-dir {folder} --config-name config",
        "check": f"xray evaluate {folder}/checkpoints/best.ckpt",
        "config": run.config,
        "resumed": len(environment.get("resumed", [])),
        **{key: environment[key] for key in ("seed", "device", "versions", "data")},
        **{key: environment.get(key) for key in ("git_commit", "python", "platform", "threads")},
    }
