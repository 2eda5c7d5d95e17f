"""An evaluation in the terminal: tables of at most 80 columns, and what to know about them."""

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from xray_lightning.evaluation.evaluate import Evaluation
from xray_lightning.evaluation.published import Published
from xray_lightning.metrics.decisions import ALL_IMAGES, PREVALENCES, SIZE
from xray_lightning.metrics.estimates import CALIBRATED, FEW_PATIENTS, POINT, Metrics
from xray_lightning.metrics.intervals import Estimate
from xray_lightning.metrics.operating_points import Calls, OperatingPoints
from xray_lightning.metrics.subgroups import ANY, KINDS, MEAN, Gaps, Subgroup
from xray_lightning.records import patients_text
from xray_lightning.report.page import say
from xray_lightning.report.terminal import add_row, empty_table
from xray_lightning.wording import interval_text, number

if TYPE_CHECKING:  # torch
    from xray_lightning.evaluation.probe import BackboneProbe

POOLED = "+"  # beside a label or a figure that is pooled over hospitals


def evaluation_lines(
    evaluation: Evaluation, title: str, *, subgroups: bool = True
) -> list[Table | str]:
    """Tables and lines for the terminal; without ``subgroups`` only those that differ."""
    metrics, points = evaluation.metrics, evaluation.operating_points
    pooled = evaluation.pooled.hospital_alone if evaluation.pooled else {}
    lines: list[Table | str] = [auroc_table(metrics, title, pooled), *hospital_lines(evaluation)]
    lines += [frequency_table(metrics)] if metrics.groups else []
    lines.append(error_table(metrics))
    thresholds = points.thresholds if points else {}
    if points and evaluation.calls and thresholds:
        lines += point_tables(metrics, points, evaluation.calls)
        lines += say("calls", evaluation.calls)
    lines += use_lines(evaluation)
    if rows := [row for row in evaluation.subgroups if row.label == MEAN]:
        lines += [subgroup_table(rows)] if subgroups else say("subgroups", rows)
    if subgroups and evaluation.gaps:
        lines += [gap_table(evaluation.gaps), *say("gaps", evaluation.gaps, KINDS, ANY)]
    lines += say("evaluation", evaluation)
    lines += published_lines(evaluation.published, metrics.mean["auroc"].value)
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


def auroc_table(metrics: Metrics, title: str, pooled: Collection[str] = ()) -> Table:
    """A row a label: AUROC, its interval, AP beside the prevalence; a mark at pooled labels."""
    columns = ("positive", "AUROC", "95 % (patients)", "ratio", "AP", "prevalence")
    table = empty_table(title, "label", *columns)
    for name, label in metrics.labels.items():
        cells = _auroc_cells(label.estimates)
        mark = f" {POOLED}" if name in pooled else ""
        table.add_row(name + mark, f"{label.positives:,}", *cells, number(label.prevalence))
    name = f"mean of {metrics.defined['auroc']}/{len(metrics.labels)}"
    add_row(table, name, "", *_auroc_cells(metrics.mean), "", last=True)
    return table


def frequency_table(metrics: Metrics) -> Table:
    """Macro average precision of labels that are common, less so and rare in training."""
    table = empty_table("AP by frequency in training", "", "labels", "mean AP", "95 % (patients)")
    for name, group in metrics.groups.items():
        precision = group.average_precision
        table.add_row(name, str(len(group.labels)), number(precision.value), _ends(precision))
    return table


def hospital_lines(evaluation: Evaluation) -> list[Table | str]:
    """AUROC of each label in each hospital beside the pooled one; [] for images of one."""
    if (pooled := evaluation.pooled) is None:
        return []
    rows = [row for row in evaluation.subgroups if row.dimension == "hospital"]
    names = list(dict.fromkeys(row.group for row in rows))
    inside = {(row.label, row.group): row for row in rows}
    table = empty_table("AUROC by hospital", "label", "pooled", "alone", *names)
    for label, metric in evaluation.metrics.labels.items():
        alone = pooled.hospital_alone.get(label)
        cells = [f"{number(metric['auroc'].value)} {POOLED}", number(alone.value)] if alone else []
        cells = cells or ["-", "-"]
        for row in (inside[label, name] for name in names):
            cells.append("-" if row.note else f"{number(row.auroc)} {interval_text(row.interval)}")
        table.add_row(label, *cells)
    return [table, *say("hospitals", pooled.probe)]


def _auroc_cells(estimates: dict[str, Estimate]) -> list[str]:
    auroc, precision = estimates["auroc"], estimates["average_precision"]
    shown = number(auroc.width_ratio, 2), number(precision.value)
    return [number(auroc.value), _ends(auroc), *shown]


def error_table(metrics: Metrics) -> Table:
    """A row a label: Brier's score and the calibration error, raw and calibrated."""
    names = [name for name in ("brier", "calibration_error", *CALIBRATED) if name in metrics.mean]
    columns = ("Brier", "ECE", "Brier calibrated", "ECE calibrated")[: len(names)]
    table = empty_table("errors of the scores as probabilities", "label", *columns)
    for name, label in metrics.labels.items():
        table.add_row(name, *(number(label[metric].value) for metric in names))
    cells = [number(metrics.mean[metric].value) for metric in names]
    for place, metric in enumerate(names):  # a mean over fewer labels
        if 0 < (count := metrics.defined[metric]) < metrics.defined["brier"]:
            cells[place] += f" of {count}"
    add_row(table, "mean", *cells, last=True)
    return table


def use_lines(evaluation: Evaluation) -> list[Table | str]:
    """How far the best scores of a label hold, where acting on them helps, what calls mean."""
    lines: list[Table | str] = []
    if evaluation.reliability:
        table = empty_table("calibration", "label", "slope", "observed/expected", "ICI")
        lines.append(table)
        for label, kinds in evaluation.reliability.items():
            row = [*kinds.values()][-1]
            cells = [_cell(each, 2) for each in (row.slope, row.ratio)]
            table.add_row(label, *cells, _cell(row.ici))
    curves = evaluation.at_prevalence
    stated = next((curve.prevalences for curve in curves.values()), [])
    for place, share in enumerate(stated if tuple(stated) != PREVALENCES else []):
        title = f"operating points at a prevalence of {100 * share:g} %, images for one found"
        table = empty_table(title, "label", "PPV", "NPV", "calls in 100", "images")
        for label, curve in curves.items():
            parts = (curve.ppv, 3), (curve.npv, 3), (curve.alarms, 1)
            cells = [_cell(band.at(place), digits) for band, digits in parts]
            table.add_row(label, *cells, number(curve.images.value[place], 0))
        lines.append(table)
    lines += say("hierarchy", evaluation.hierarchy)
    lines += say("net_benefit", evaluation.net_benefit, evaluation.reliability)
    if (points := evaluation.operating_points) is None or not points.conformal:
        return lines
    columns = ("errors", "AURC", "to a person", "left out", "set")
    table = empty_table("uncertain images to a person; conformal sets", "label", *columns)
    for label in {**evaluation.selective, **evaluation.conformal}:
        cells, own = ["-"] * 3, evaluation.conformal.get(label, {})
        if kept := evaluation.selective.get(label):
            handed = _cell(kept.handed[f"{points.value:g}"])
            cells = [number(kept.risk.value[0]), number(kept.area.value), handed]
        missed, size = (own.get(key, Estimate(np.nan)) for key in (ALL_IMAGES, SIZE))
        table.add_row(label, *cells, _cell(missed), number(size.value, 2))
    return [*lines, table, *say("selection", points, evaluation.selective, evaluation.conformal)]


def point_tables(metrics: Metrics, points: OperatingPoints, calls: Calls) -> list[Table]:
    """A row a label: threshold, sensitivity, specificity, positives missed; PPV, NPV, F1."""
    rule = points.rule
    if rule in ("sensitivity", "specificity"):
        rule += f" of at least {points.value}"
    subset = "validation" if points.subset == "val" else points.subset
    title = f"operating points: {rule} on {subset}"
    one = empty_table(title, "label", "threshold", *POINT[:2], "missed")
    two = empty_table("at these points", "label", "PPV", "NPV", "F1")
    for name, label in metrics.labels.items():
        cells = [_cell(label[metric]) for metric in POINT]
        missed = "{}/{}".format(*calls.labels[name].missed) if name in calls.labels else "-"
        one.add_row(name, number(points.thresholds.get(name, np.nan)), *cells[:2], missed)
        two.add_row(name, *cells[2:])
    return [one, two]


def subgroup_table(rows: Sequence[Subgroup]) -> Table:
    """The mean AUROC in each group, and what sets it apart from all other images."""
    columns = ("images", "patients", "AUROC", "95 %", "diff.", "p corr.")
    table = empty_table("subgroups, mean AUROC; difference from all other images", "", *columns)
    for dimension, groups in groupby(rows, key=lambda row: row.dimension):
        table.add_row(dimension, style="bold")
        for row in groups:
            sizes = [number(size, 0) for size in (row.images, row.patients)]
            p_value = number(row.corrected).replace("0.000", "< 0.001")
            difference = number(row.difference, sign="+")
            cells = [number(row.auroc), interval_text(row.interval), difference, p_value]
            table.add_row(f"  {row.group}", *sizes, *(["too few"] if row.note else cells))
    return table


def gap_table(rows: Sequence[Gaps]) -> Table:
    """The largest gap of each kind: of any finding, and of that single label where it is most."""
    table = empty_table("largest gaps between groups", "", "higher", "lower", "gap", "95 %")
    known = [row for row in rows if row.gaps]
    for kind, labels in groupby(known, key=lambda row: row.kind):
        table.add_row(KINDS[kind], style="bold")
        for _, family in groupby(labels, key=lambda row: row.label == ANY):
            row = max(family, key=lambda row: row.gaps[0].gap)
            ends = interval_text(row.gaps[0].interval, between=" to ")
            table.add_row(f"  {row.label}", *row.gaps[0].groups, number(row.gaps[0].gap), ends)
    return table


def probe_lines(probe: "BackboneProbe") -> list[Table | str]:
    """AUROC of both probes of a backbone's features, and on what that rests."""
    names = "positive", "linear probe", f"{probe.neighbours} neighbours"
    table = empty_table(f"AUROC of frozen features: {probe.backbone}", "label", *names)
    sides = probe.linear, probe.nearest
    for label, metrics in probe.linear.labels.items():
        cells = (_cell(side.labels[label]["auroc"]) for side in sides)
        table.add_row(label, f"{metrics.positives:,}", *cells)
    name = f"mean of {probe.linear.defined['auroc']}/{len(probe.linear.labels)}"
    add_row(table, name, "", *(_cell(side.mean["auroc"]) for side in sides), last=True)
    return [table, *say("probe", probe, FEW_PATIENTS)]


def published_lines(rows: Sequence[Published], mean: float) -> list[Table | str]:
    """The published means, and the place of this one among those of the same images."""
    if not rows:
        return []
    table = empty_table(f"published, {rows[0].split} split", "work", "year", "mean AUROC")
    for row in rows:
        table.add_row(row.work + " *" * (not row.primary), str(row.year), number(row.mean))
    return [table, *say("place", mean, rows)]


def _cell(estimate: Estimate, digits: int = 3) -> str:
    """A figure and its interval; "-" where it is undefined, "*" where it is exact."""
    text = f"{number(estimate.value, digits)} {interval_text(estimate.interval, digits)}"
    return "-" if text == "- -" else text + "*" * estimate.exact


def _ends(estimate: Estimate) -> str:
    return interval_text(estimate.interval) + "*" * estimate.exact
