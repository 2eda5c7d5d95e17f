"""The report of a run: one HTML page, the same numbers as JSON, a model card and checklists."""

import logging
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from xray_lightning.audit.run import Audit, audit_split
from xray_lightning.data.partition import Split
from xray_lightning.data.source import Source, used_records
from xray_lightning.errors import ConfigError
from xray_lightning.evaluation.evaluate import USE, Evaluation
from xray_lightning.evaluation.published import incomparable, read_published
from xray_lightning.folders import prepare_folder
from xray_lightning.metrics.estimates import FEW_PATIENTS
from xray_lightning.metrics.operating_points import OperatingPoints
from xray_lightning.metrics.subgroups import ANY, KINDS, MEAN
from xray_lightning.report.audit import audit_figures
from xray_lightning.report.drawings import run_figures
from xray_lightning.report.page import page, say
from xray_lightning.report.run import Run, read_run
from xray_lightning.writing import Json, to_plain, write_file, write_json

LOG = logging.getLogger(__name__)
Values = Json
DRAWS = 100  # of the audit, which xray audit does with more
TEST = (  # of evaluation.json
    *("fingerprint", "images", "patients", "patients_known", "draws", "seed", "tta"),
    *("labels", "mean", "defined", "calls", "weights_sha256", "pooled"),
)
FORMER = {"verdict": "summary", "unknown": "limitations", "points": "operating_points"}  # schema 1
SHEETS = ("claim", "tripod_ai")  # NAME.yaml has the items, and where their numbers are from
NO_AUDIT = "a card is made without the label table; report.html has the audit"


def write_report(
    run: Run, audit: Audit | None, audit_missing: str = "", out: Path | None = None
) -> Values:
    """Write report.html and report.json into the run's folder or ``out``; what the latter holds."""
    values, folder = report_values(run, audit, audit_missing), prepare_folder(out or run.folder)
    write_file(folder / "report.html", run_page(run, values))
    write_json(values, folder / "report.json")
    return values


def closing_report(source: Source, split: Split, metrics: Values, folder: Path) -> None:
    """The report at the end of training, ``metrics`` not yet written; a failure is only logged."""
    try:
        run = read_run(folder, metrics)
        write_report(run, audit_run(source, split, run))
    except Exception:  # whatever it is: the page can be made again, the run's figures must stay
        LOG.exception("no report.html; once this is repaired: xray report %s", folder)


def audit_run(source: Source, split: Split, run: Run) -> Audit:
    """The quick audit of a run's split, with its predictions."""
    predictions = run.predictions["val"], run.predictions["test"]
    return audit_split(used_records(source), split, predictions=predictions, draws=DRAWS)


def run_page(run: Run, values: Values) -> str:
    """The page of :func:`report_values`."""
    figures = run_figures(run, values)
    if values["audit"]:
        figures |= audit_figures(Audit.from_json(values["audit"]))
    return page("run.html.j2", {**values, "figures": figures})


def report_values(run: Run, audit: Audit | None, audit_missing: str = "") -> Values:
    """Everything the page of a run shows, as plain values."""
    evaluation = run.evaluation.to_json()
    values: Values = {
        "run": run.folder.resolve().name,
        "data": evaluation["data"],
        "split": run.environment["split"],
        "test": {key: evaluation[key] for key in TEST if key in evaluation},
        "val": run.metrics["val"],
        "published": compare_published(run.evaluation),
        **{key: evaluation[key] for key in (*USE, "conformal")},
        "operating_points": _describe_points(run.evaluation.operating_points),
        "subgroups": _choose_subgroups(evaluation),
        "gaps": evaluation["gaps"] and _choose_gaps(evaluation["gaps"]),
        "audit": audit and audit.to_json(),
        "audit_missing": audit_missing,
        "training": _describe_training(run),
        "compared": run.compared and run.compared.to_json(),
        "explain": run.explain,
        "explain_missing": run.explain_missing,
        "reproduce": _describe_surroundings(run),
    }
    plain: Values = to_plain(values)
    plain |= {subject: say(subject, plain) for subject in ("summary", "warnings")}
    plain["limitations"] = say("limitations", plain, FEW_PATIENTS)
    return plain | {former: plain[name] for former, name in FORMER.items()}


def compare_published(evaluation: Evaluation) -> Json:
    """Published results that may stand beside an evaluation, and those that may not."""
    origin, mean = evaluation.origin, evaluation.metrics.mean["auroc"].value
    reason = incomparable(origin, tuple(evaluation.metrics.labels), evaluation.images)
    beside = evaluation.published
    if mean != mean:  # NaN
        reason = reason or "it has no mean"
    works = {row.work for row in beside}
    others = [row for row in read_published() if origin.data == "nih" and row.work not in works]
    kept = ("work", "year", "split", "mean", "primary", "note")
    return {
        "sentence": say("published", reason, mean, beside)[0],
        "ranked": bool(beside) and beside[0].split == "official",
        "rows": to_plain(beside),
        "elsewhere": [{key: getattr(row, key) for key in kept} for row in others],
    }


def _describe_points(points: OperatingPoints | None) -> Values:
    """Thresholds of validation and what they do there; labels without one, and why."""
    labels = points.labels if points else {}
    defined = points.thresholds if points else {}
    methods = [point.calibration.method for point in labels.values() if point.calibration]
    return {
        **{key: getattr(points, key, None) for key in ("rule", "value", "fingerprint")},
        "conformal": points.conformal if points else {},
        "labels": {label: labels[label].to_json() for label in defined},
        "without": {k: point.note for k, point in labels.items() if k not in defined},
        "doubts": {k: labels[k].note for k in defined if labels[k].note},
        "calibration": methods[0] if methods else None,
    }


def _choose_subgroups(evaluation: Mapping[str, Any]) -> Values:
    """Mean AUROC of every group, single labels that differ, missed disease."""
    single = [row for row in evaluation["subgroups"] if row["label"] != MEAN]
    tested = [row for row in single if row["corrected"] is not None]
    return {
        "rows": [row for row in evaluation["subgroups"] if row["label"] == MEAN],
        "tested": len(tested),
        "differing": [row for row in tested if row["corrected"] < 0.05],
        "underdiagnosis": [row for row in evaluation["underdiagnosis"] if row["rate"] is not None],
    }


def _choose_gaps(rows: Sequence[Values]) -> Values:
    """Those of any finding, of AUROC the label's where it is largest; what all of them say."""
    known = [row for row in rows if row["gaps"] and (row["label"] == ANY or row["kind"] == "auroc")]
    known.sort(key=lambda row: row["gaps"][0]["gap"])
    largest = {row["kind"]: row for row in known}
    said = say("gaps", rows, KINDS, ANY)
    return {"rows": [largest[k] for k in KINDS if k in largest], "sentences": said, "kinds": KINDS}


def _describe_training(run: Run) -> Values:
    """The rows of metrics.csv and which of them the checkpoint is."""
    told: Values = run.metrics["val"].get("checkpoint", {})  # not of a run of an earlier version
    values: Values = {"choice": told.get("choice", "best val/auroc")}
    if (table := run.history) is None:
        return {**values, "epochs": 0, "best_epoch": None, "rows": []}
    best = told["epoch"] if told and not told["choice"].startswith("last epoch:") else None
    if not told and "val/auroc" in table and table["val/auroc"].notna().any():
        best = int(table["epoch"].iloc[table["val/auroc"].argmax()]) + 1
    return {**values, "epochs": len(table), "best_epoch": best, "rows": table.to_dict("records")}


def _describe_surroundings(run: Run) -> Values:
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


def card_text(run: Run) -> str:
    """A model card with metadata, README.md of a repository.

    Raises:
        ConfigError: the run's config.yaml is damaged.
    """
    return page("card.md.j2", _values(run))


def write_card(run: Run, folder: str | Path | None = None) -> list[Path]:
    """Write README.md, claim.md and tripod_ai.md into RUN/card; what only people know is blank.

    The numbers of the items are of Tejani et al., Radiology: AI 2024, and Collins et al., BMJ 2024,
    by public copies of the checklists: to be checked against the papers.
    """
    values, folder = _values(run), Path(folder or run.folder / "card")
    texts = {"README": page("card.md.j2", values)}
    for name in SHEETS:
        sheet = yaml.safe_load(files("xray_lightning.report").joinpath(f"{name}.yaml").read_text())
        texts[name] = page("sheet.md.j2", values | {"sheet": sheet})
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_file(folder / f"{name}.md", text)
    return [folder / f"{name}.md" for name in texts]


def _values(run: Run) -> Json:
    """What the templates see: the values of report.json, and the settings."""
    try:
        config = dict(yaml.safe_load(run.config))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ConfigError(f"{run.folder}/config.yaml is damaged or no plain settings") from error
    own = {"environment": run.environment, "listed": run.evaluation.origin.data_images}
    return {**report_values(run, None, NO_AUDIT), **own, "config": config}
