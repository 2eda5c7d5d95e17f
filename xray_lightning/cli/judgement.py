"""A verdict as plain values for JSON, and as a table for the terminal."""

from typing import Any

import numpy as np
from rich.table import Table

from xray_lightning.metrics.bootstrap import Interval
from xray_lightning.metrics.estimates import CALIBRATED, FEW_PATIENTS, POINT, Estimate, Verdict
from xray_lightning.report.terminal import empty_table, number

EXACT = "* no patient differs: exact bound over the number of patients (Clopper and Pearson)"


def verdict_facts(verdict: Verdict, facts: dict[str, Any]) -> dict[str, Any]:
    """Plain values: ``{"labels": {label: {"positives", "auroc": {...}, ...}}, "mean", ...}``.

    Args:
        verdict: of :func:`~xray_lightning.metrics.estimates.judge`.
        facts: what else is to stand there: fingerprint, images, patients.
    """
    labels = {}
    for label, figures in verdict.labels.items():
        positives, known = verdict.positives[label], verdict.known[label]
        labels[label] = {
            "positives": positives,
            "known": known,
            "positive_patients": verdict.positive_patients[label],
            "prevalence": positives / known if known else None,
            "undefined": reason(verdict, label),
            **{name: estimate_facts(estimate) for name, estimate in figures.items()},
        }
    mean = {name: estimate_facts(estimate) for name, estimate in verdict.mean.items()}
    counts = {"defined": dict(verdict.defined), "few_positive_patients": few(verdict)}
    return {"labels": labels, "mean": mean, **counts, **facts}


def estimate_facts(estimate: Estimate) -> dict[str, Any]:
    """One figure as plain values, None where undefined."""
    return {
        "value": _plain(estimate.value),
        "patient_interval": _pair(estimate.patient_interval),
        "exact": estimate.exact,
        "image_interval": _pair(estimate.image_interval),
        "width_ratio": _plain(estimate.width_ratio),
    }


def reason(verdict: Verdict, label: str) -> str | None:
    """Why a label's AUROC is undefined, None if it is defined."""
    positives, known = verdict.positives[label], verdict.known[label]
    if not known:
        return "no image's target is known"
    if positives == 0:
        return "no positive image"
    return "no negative image" if positives == known else None


def verdict_table(verdict: Verdict, title: str) -> Table:
    """A row a label: AUROC with both intervals and their ratio, AP beside the prevalence, ...

    Brier's score and ECE of calibrated scores, where there are some, stand beside the raw ones.
    """
    columns = ("positive", "AUROC", "95 % (patients)", "(images)", "ratio", "AP", "prevalence")
    calibrated = ("Brier cal.", "ECE cal.") if CALIBRATED[0] in verdict.mean else ()
    table = empty_table(title, "label", *columns, "Brier", "ECE", *calibrated)
    for label, figures in verdict.labels.items():
        positives, known = verdict.positives[label], verdict.known[label]
        share = f"{positives / known:.3f}" if known else "-"
        table.add_row(label, f"{positives:,}", *_cells(figures, share))
    table.add_section()
    defined = f"{verdict.defined['auroc']}/{len(verdict.labels)} defined"
    cells = _cells(verdict.mean, "")
    if calibrated and 0 < (count := verdict.defined[CALIBRATED[0]]) < verdict.defined["brier"]:
        cells[-2:] = [f"{text} of {count}" for text in cells[-2:]]  # a mean over fewer labels
    table.add_row("mean", defined, *cells, style="bold")
    return table


def _cells(figures: dict[str, Estimate], share: str) -> list[str]:
    auroc = figures["auroc"]
    ratio = auroc.width_ratio
    return [
        _text(auroc.value),
        _ends(auroc),
        interval(auroc.image_interval),
        _text(ratio, 2),
        _text(figures["average_precision"].value),
        share,
        _text(figures["brier"].value),
        _text(figures["calibration_error"].value),
        *(_text(figures[name].value) for name in CALIBRATED if name in figures),
    ]


def point_table(
    verdict: Verdict, thresholds: dict[str, float], calls: dict[str, Any], title: str
) -> Table:
    """A row a label: threshold, sensitivity, specificity, PPV, NPV, F1, positives missed."""
    table = empty_table(title, "label", "threshold", *POINT, "missed")
    for label, figures in verdict.labels.items():
        cells = [f"{_text(figures[name].value)} {_ends(figures[name])}".strip() for name in POINT]
        missed = "{}/{}".format(*calls[label]["missed"]) if label in calls else "-"
        table.add_row(label, _text(thresholds.get(label, float("nan"))), *cells, missed)
    return table


def calls_line(calls: dict[str, Any]) -> str:
    """Misses and false alarms of all labels together."""
    (missed, sick), (false, healthy) = calls["missed"], calls["false_alarms"]
    return (
        f"at these points {false:,} of {healthy:,} images without any finding are called abnormal "
        f"(false alarms), and {missed:,} of {sick:,} with one reach no label's point (missed)"
    )


def fit_notes(labels: dict[str, Any]) -> list[str]:
    """Labels without an operating point, and calibrations not to be trusted, with the reason."""
    found: dict[str, list[str]] = {}
    for label, each in labels.items():
        if each["note"]:
            what = "no operating point, " if each["threshold"] is None else ""
            found.setdefault(what + each["note"], []).append(label)
    return [f"{', '.join(names)}: {text}" for text, names in found.items()]


def interval(pair: Interval) -> str:
    """Both ends, or "-".

    >>> interval((0.5, 0.75))
    '0.500-0.750'
    """
    return "-" if np.isnan(pair).any() else f"{pair[0]:.3f}-{pair[1]:.3f}"


def undefined_notes(verdict: Verdict, *, points: bool = False) -> list[str]:
    """What is undefined and why, which intervals are exact, and which are rough.

    Args:
        verdict: as judged.
        points: whether the table of operating points is shown too.
    """
    reasons = {label: reason(verdict, label) for label in verdict.labels}
    notes = [f"{label}: AUROC is undefined, {why}" for label, why in reasons.items() if why]
    bare = [
        label
        for label, figures in verdict.labels.items()
        if np.isnan(figures["auroc"].patient_interval).any() and not reasons[label]
    ]
    if bare:
        notes.append(f"no interval, the positives are of too few patients: {', '.join(bare)}")
    if counts := few(verdict):
        named = ", ".join(f"{label} ({count})" for label, count in counts.items())
        notes.append(f"intervals are rough below {FEW_PATIENTS} positive patients: {named}")
    names = ("auroc", *POINT) if points else ("auroc",)
    if any(f[name].exact for f in (*verdict.labels.values(), verdict.mean) for name in names):
        notes.append(EXACT)
    return notes


def few(verdict: Verdict) -> dict[str, int]:
    """Labels whose AUROC rests on fewer than ``FEW_PATIENTS`` positive patients, and how many."""
    counts = verdict.positive_patients
    return {k: n for k, n in counts.items() if n < FEW_PATIENTS and not reason(verdict, k)}


def _ends(estimate: Estimate) -> str:
    return interval(estimate.patient_interval) + "*" * estimate.exact


def _text(value: float, digits: int = 3) -> str:
    return number(_plain(value), digits)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _pair(values: Interval) -> list[float] | None:
    return None if np.isnan(values).any() else [float(value) for value in values]
