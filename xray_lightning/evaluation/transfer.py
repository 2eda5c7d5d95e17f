"""A model's labels on an external test set beside its internal one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xray_lightning.data.decoding import available_cores
from xray_lightning.evaluation.evaluate import estimate_predictions
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.metrics.estimates import LabelMetrics, Metrics
from xray_lightning.metrics.external import CalibrationLine, Sample, compare_samples, fit_line
from xray_lightning.metrics.intervals import NAN, Estimate
from xray_lightning.metrics.operating_points import OperatingPoint
from xray_lightning.records import is_known
from xray_lightning.results import Result

MINIMUM = 10  # patients with a label, and without: below, a figure would follow single patients
MEAN = "mean"
Points = Mapping[str, OperatingPoint]  # of each label that has one
UNKNOWN = Estimate(NAN)
NO_TEST = "no internal test set"


@dataclass(frozen=True)
class LabelTransfer(Result):
    """A label, or the mean, of a model on an external test set beside its internal one."""

    known: int  # images whose target is known
    positives: int
    positive_patients: int
    prevalence: float
    auroc: Estimate
    internal: Estimate  # AUROC on the internal test set
    difference: Estimate  # external less internal
    internal_prevalence: float = NAN
    sensitivity: Estimate = UNKNOWN  # at the operating point of the internal validation set
    internal_sensitivity: Estimate = UNKNOWN
    specificity: Estimate = UNKNOWN
    internal_specificity: Estimate = UNKNOWN
    calibration: CalibrationLine | None = None
    note: str = ""  # why a figure is missing; of the mean: over how many labels


def compare_labels(
    points: Points,  # of the internal validation set
    predictions: Predictions,  # of the external images
    inside: Predictions | None,  # of the internal test set; None: there is none
    names: tuple[Sequence[str], Sequence[str]],  # patient of each internal, each external image
    *,
    draws: int,  # of the bootstrap
    seed: int,  # of the bootstrap
) -> tuple[dict[str, LabelTransfer], LabelTransfer]:
    """Every label, and the mean over those with enough patients on both sides."""
    # Equal names are one patient, whatever the predictions call them.
    short = {label: say_too_few(predictions, label) for label in predictions.labels}
    inner = {label: say_too_few(inside, label) if inside else NO_TEST for label in short}
    enough = [label for label, note in short.items() if not note]
    both = [label for label in enough if not inner[label]]
    there = estimate_at_points(points, predictions, enough, draws, seed)
    here = estimate_at_points(points, inside, both, draws, seed)
    differences = _differences(predictions, inside, both, names, draws, seed)
    labels = {}
    for label, note in short.items():
        why = note or (inner[label] and f"internal: {inner[label]}")
        apart = differences.get(label, UNKNOWN)
        labels[label] = _describe_label(points, predictions, label, (there, here), apart, why)
    whole = there
    if both and both != enough:
        whole = estimate_at_points(points, predictions, both, draws, seed)
    positive, count = (predictions.targets == 1).any(axis=1), len(both or enough)
    mean = LabelTransfer(
        known=len(predictions.image_ids),
        positives=int(positive.sum()),
        positive_patients=len(set(np.array(predictions.patient_ids)[positive])),
        prevalence=NAN,
        auroc=whole.mean["auroc"] if whole else UNKNOWN,
        internal=here.mean["auroc"] if here else UNKNOWN,
        difference=differences.get(MEAN, UNKNOWN),
        note=f"{count} label{'s' * (count != 1)}",
    )
    return labels, mean


def say_too_few(predictions: Predictions, label: str) -> str:
    """Why a label has no figure: fewer than ``MINIMUM`` patients with or without it; else ""."""
    targets = predictions.targets[:, predictions.labels.index(label)]
    patients = np.array(predictions.patient_ids)
    for word, target in (("with", 1), ("without", 0)):
        count = len(np.unique(patients[targets == target]))
        if count < MINIMUM:
            return f"too few: {count} patients {word} it"
    return ""


def estimate_at_points(
    points: Points, predictions: Predictions | None, labels: Sequence[str], draws: int, seed: int
) -> Metrics | None:
    """Metrics of some labels at the model's operating points; None without labels."""
    if predictions is None or not labels:
        return None
    thresholds = {label: point.threshold for label, point in points.items()}
    return estimate_predictions(predictions.keep(labels), draws, seed, thresholds)


def _differences(
    predictions: Predictions,
    inside: Predictions | None,
    labels: Sequence[str],
    names: tuple[Sequence[str], Sequence[str]],
    draws: int,
    seed: int,
) -> dict[str, Estimate]:
    """External less internal AUROC of some labels, and of their mean."""
    if inside is None or not labels:
        return {}
    here, there = inside.keep(labels), predictions.keep(labels)
    sides = zip((here, there), names, strict=True)
    samples = [Sample(side.scores, side.targets, patients) for side, patients in sides]
    differences = compare_samples(*samples, draws=draws, seed=seed, threads=available_cores())
    return dict(zip([*labels, MEAN], differences, strict=True))


def _describe_label(
    points: Points,
    predictions: Predictions,
    label: str,
    metrics: tuple[Metrics | None, Metrics | None],
    difference: Estimate,
    note: str,
) -> LabelTransfer:
    column = predictions.labels.index(label)
    targets, scores = predictions.targets[:, column], predictions.scores[:, column]
    known, positive = is_known(targets), targets == 1
    there, here = (side.labels.get(label) if side else None for side in metrics)
    line = None
    if there:
        point = points.get(label)
        calibration, prior = (point.calibration, point.prevalence) if point else (None, NAN)
        line = fit_line(scores, targets, predictions.patient_ids, calibration, prior)

    def take(side: object, metric: str) -> Estimate:
        return side[metric] if isinstance(side, LabelMetrics) else UNKNOWN

    return LabelTransfer(
        known=int(known.sum()),
        positives=int(positive.sum()),
        positive_patients=len(set(np.array(predictions.patient_ids)[positive])),
        prevalence=float(positive.sum() / known.sum()) if known.any() else NAN,
        auroc=take(there, "auroc"),
        internal=take(here, "auroc"),
        difference=difference,
        internal_prevalence=here.prevalence if here else NAN,
        sensitivity=take(there, "sensitivity"),
        internal_sensitivity=take(here, "sensitivity"),
        specificity=take(there, "specificity"),
        internal_specificity=take(here, "specificity"),
        calibration=line,
        note=note,
    )
