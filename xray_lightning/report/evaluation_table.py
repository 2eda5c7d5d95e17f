"""An evaluation in the terminal: tables of at most 80 columns, and what to know about them."""

from collections.abc import Sequence

from rich.table import Table

from xray_lightning.evaluation.evaluate import Evaluation
from xray_lightning.metrics.decisions import ALL_IMAGES, PREVALENCES, SIZE
from xray_lightning.metrics.estimates import FEW_PATIENTS, POINT
from xray_lightning.metrics.subgroups import ANY, KINDS, MEAN
from xray_lightning.report.page import say
from xray_lightning.report.terminal import tabulate
from xray_lightning.wording import patients_text


def evaluation_lines(
    evaluation: Evaluation, title: str, *, subgroups: bool = True
) -> list[Table | str]:
    """Tables and lines for the terminal; without ``subgroups`` only those that differ."""
    metrics, points = evaluation.metrics, evaluation.operating_points
    pooled = evaluation.pooled.hospital_alone if evaluation.pooled else {}
    lines: list[Table | str] = [tabulate("evaluation", metrics, title, pooled)]
    if evaluation.pooled:
        lines += [tabulate("hospitals", evaluation), *say("hospitals", evaluation.pooled.probe)]
    lines += [tabulate("frequency", metrics.groups)] if metrics.groups else []
    lines.append(tabulate("errors", metrics))
    thresholds = points.thresholds if points else {}
    if points and evaluation.calls and thresholds:
        lines.append(tabulate("points", metrics, points, evaluation.calls))
        lines += [tabulate("at_points", metrics), *say("calls", evaluation.calls)]
    lines += use_lines(evaluation)
    if rows := [row for row in evaluation.subgroups if row.label == MEAN]:
        lines += [tabulate("subgroups", rows)] if subgroups else say("subgroups", rows)
    if subgroups and evaluation.gaps:
        compared = "gaps", evaluation.gaps, KINDS, ANY
        lines += [tabulate(*compared), *say(*compared)]
    lines += say("evaluation", evaluation)
    if works := evaluation.published:
        lines += [tabulate("published", works), *say("place", metrics.mean["auroc"].value, works)]
    lines += say("doubts", evaluation.doubts, evaluation.origin.subset)
    names = ("auroc", *POINT) if thresholds else ("auroc",)
    shown = [*(label.estimates for label in metrics.labels.values()), metrics.mean]
    exact = any(row[name].exact for row in shown for name in names)
    exact |= any(own[ALL_IMAGES].exact for own in evaluation.conformal.values())
    return [*lines, *say("notes", metrics, FEW_PATIENTS, exact, points)]


def scored_lines(evaluation: Evaluation, title: str, notes: Sequence[str]) -> list[Table | str]:
    """The same, then the images and what is to be known of their source."""
    patients = patients_text(evaluation.patients)
    images = f"{evaluation.images:,} images of {patients} [{evaluation.fingerprint}]"
    said = [f"note: {text}" for text in notes if text]
    return [*evaluation_lines(evaluation, title), images, *said]


def use_lines(evaluation: Evaluation) -> list[Table | str]:
    """How far the best scores of a label hold, where acting on them helps, what calls mean."""
    reliability, curves = evaluation.reliability, evaluation.at_prevalence
    lines: list[Table | str] = [tabulate("calibration", reliability)] if reliability else []
    stated = next((curve.prevalences for curve in curves.values()), [])
    for place, share in enumerate(stated if tuple(stated) != PREVALENCES else []):
        lines.append(tabulate("at_prevalence", curves, place, share))
    lines += say("hierarchy", evaluation.hierarchy)
    lines += say("net_benefit", evaluation.net_benefit, reliability)
    if (points := evaluation.operating_points) is None or not points.conformal:
        return lines
    kept, sets = evaluation.selective, evaluation.conformal
    rows = [(label, kept.get(label), sets.get(label, {})) for label in {**kept, **sets}]
    table = tabulate("uncertain", rows, f"{points.value:g}", ALL_IMAGES, SIZE)
    return [*lines, table, *say("selection", points, kept, sets, evaluation.certainty)]
