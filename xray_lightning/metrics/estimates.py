"""Every metric of a set of predictions with its intervals, patients resampled."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from xray_lightning.metrics import intervals
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.calibration import Calibration, calibration_errors
from xray_lightning.metrics.intervals import ROUNDING, Array, Estimate, Floats, Mask, Spread
from xray_lightning.metrics.ranks import FALSE_ALARMS, RANKED, Ranking, curves_over, sum_patients
from xray_lightning.records import NAN, is_known
from xray_lightning.results import Json, Result

SQUARES = ("brier", "calibration_error")
CURVES = (*RANKED, *SQUARES)  # what needs no threshold
CALIBRATED = ("calibrated_brier", "calibrated_error")  # after a map fitted on validation
POINT = ("sensitivity", "specificity", "ppv", "npv", "f1")
ERRORS = ("calibration_error", "calibrated_error")
PRECISION = "average_precision"
BIASED = (PRECISION, *ERRORS)  # upwards where positives are few: taken off the middle
LOWER = ("loss", *SQUARES, *CALIBRATED)  # the less the better
FLOORS = {  # the least value; of the gain, which has none, one that nothing useful falls below
    "partial_auroc": (1 - FALSE_ALARMS) / (2 - FALSE_ALARMS),
    "precision_recall_gain": -1.0,
}
IMAGE_DRAWS = 500  # of the image-level interval, which is only there to be compared with
FEW_PATIENTS = 20  # with a positive image: below, the simulation in the README warns of intervals

Draws = dict[str, Floats]  # metric -> of the sample and each draw


@dataclass(frozen=True)
class LabelMetrics(Result):
    """Metrics of one label."""

    positives: int  # positive images
    known: int  # images whose target is known
    positive_patients: int  # patients with a positive image
    estimates: dict[str, Estimate]  # metric -> estimate

    def __getitem__(self, metric: str) -> Estimate:
        return self.estimates[metric]

    @property
    def prevalence(self) -> float:
        """Share of positives among the images whose target is known, NaN without any."""
        return self.positives / self.known if self.known else NAN

    @property
    def undefined(self) -> str:
        """Why AUROC is undefined, "" if it is defined."""
        if not self.known:
            return "no image's target is known"
        if self.positives == 0:
            return "no positive image"
        return "no negative image" if self.positives == self.known else ""

    def to_json(self) -> Json:
        """Counts and metrics side by side."""
        counts = super().to_json()
        estimates = counts.pop("estimates")
        known = {"prevalence": self.prevalence if self.known else None}
        return {**counts, **known, "undefined": self.undefined or None, **estimates}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` gave."""
        estimates = {k: v for k, v in values.items() if isinstance(v, Mapping)}
        return super().from_json({**values, "estimates": estimates})


@dataclass(frozen=True)
class LabelGroup(Result):
    """Some of the labels, such as the rare ones."""

    labels: list[str]
    average_precision: Estimate  # mean over those of them where it is defined


@dataclass(frozen=True)
class Metrics(Result):
    """Metrics of every label and their means."""

    labels: dict[str, LabelMetrics]  # label -> its metrics
    mean: dict[str, Estimate]  # metric -> estimate of the mean over the labels where it is defined
    defined: dict[str, int]  # metric -> over how many labels that is
    groups: dict[str, LabelGroup] = field(default_factory=dict)  # as they were asked for
    also = ("few_positive_patients",)

    @property
    def few_positive_patients(self) -> dict[str, int]:
        """Labels whose AUROC rests on fewer than ``FEW_PATIENTS`` positive patients: how many."""
        counts = {k: v.positive_patients for k, v in self.labels.items() if not v.undefined}
        return {label: count for label, count in counts.items() if count < FEW_PATIENTS}


@dataclass(frozen=True)
class _Drawn:
    """Every metric of a label, or of L labels for their mean, and what it rests on."""

    values: dict[str, Floats]  # metric -> of the sample and each draw, of each label, (L, 1 + D)
    images: dict[str, list[Floats]]  # metric -> of each label, images of each patient, (P,)

    def estimate(self, metric: str) -> Estimate:
        by_label, images = self.values[metric], self.images[metric]
        value, floor = _mean(by_label), FLOORS.get(metric, 0.0)
        if metric.endswith("over_chance") and (precision := _mean(self.values[PRECISION])) < 1:
            floor = float((value - precision) / (1 - precision))  # of an average precision of 0
        shares = (by_label - floor) / (1 - floor)  # of what is possible
        share = 0.0 if abs(_mean(shares)) <= ROUNDING else _mean(shares)
        spread = Spread.of_mean(shares, images)
        biased = metric in BIASED and not np.isnan(spread.deviation)
        bias = float(np.nanmean(shares[:, 1:], axis=1).mean()) - share if biased else 0.0
        agreed = 0 if metric in ERRORS else min(int((own > 0).sum()) for own in images)
        ends = intervals.share_interval(share, spread, bias=bias, patients=agreed)
        low, high = (floor + (1 - floor) * end for end in ends)
        return Estimate(value, low, high, metric not in ERRORS and share in (0, 1))


def estimate_metrics(
    labels: Sequence[str],  # the L labels
    scores: Array,  # (N, L) in [0, 1]
    targets: Array,  # (N, L), NaN where unknown
    patients: npt.ArrayLike,  # N ids
    *,
    thresholds: Mapping[str, float] | None = None,  # chosen elsewhere; NaN or absent: none
    calibrations: Mapping[str, Calibration | None] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,  # name -> labels
    draws: int = 2000,  # of the bootstrap
    seed: int = 0,  # of the bootstrap
    threads: int = 2,  # labels at a time
) -> Metrics:
    """Metrics of every label and their means, with 95 % intervals."""
    # What calibrations give stands beside the raw figures, NaN for a label without one.
    by_patient = PatientBootstrap(patients, draws, seed)
    by_image = PatientBootstrap(np.arange(len(scores)), min(draws, IMAGE_DRAWS), seed)

    def draw(index: int) -> tuple[_Drawn, ...]:
        label, column = labels[index], (scores[:, index], targets[:, index])
        threshold = (thresholds or {}).get(label, NAN)
        asked = () if calibrations is None else (calibrations.get(label),)
        return tuple(_draw(side, *column, threshold, *asked) for side in (by_patient, by_image))

    with ThreadPoolExecutor(threads) as pool:  # NumPy lets go of the lock while it sums
        drawn = list(pool.map(draw, range(len(labels))))
    metrics = {}
    for label, column, pair in zip(labels, targets.T, drawn, strict=True):
        positive, known = column == 1, int(is_known(column).sum())
        people = len(np.unique(by_patient.codes[positive]))
        metrics[label] = LabelMetrics(int(positive.sum()), known, people, _estimates([pair]))
    mean, by_label = _estimates(drawn), dict(zip(labels, drawn, strict=True))
    values = [label.values for label, _ in drawn]
    defined = {k: sum(bool(np.isfinite(own[k][0, 0])) for own in values) for k in mean}
    some = {
        name: LabelGroup([*own], _estimates([by_label[label] for label in own])[PRECISION])
        for name, own in (groups or {}).items()
    }
    return Metrics(metrics, mean, defined, some)


def _estimates(labels: Sequence[tuple[_Drawn, ...]]) -> dict[str, Estimate]:
    """Of the mean over labels, each drawn by patient and by image."""
    by_patient, by_image = map(_join, zip(*labels, strict=True))
    ends = {metric: by_image.estimate(metric).interval for metric in by_patient.values}
    return {k: replace(by_patient.estimate(k), image_interval=ends[k]) for k in ends}


def _draw(
    bootstrap: PatientBootstrap,
    scores: Array,
    targets: Array,
    threshold: float,  # a score is called from it on, NaN: undefined
    *calibrations: Calibration | None,  # one, None where the label has none, or none asked for
) -> _Drawn:
    """Every metric of one label."""
    ranking = Ranking.of(scores, targets, bootstrap.codes)
    ranked = PatientBootstrap.of(ranking.codes, bootstrap.counts)
    values = curves_over(ranking, bootstrap.counts)
    called = ranking.scores >= threshold
    for names, calibrate in zip((SQUARES, CALIBRATED), (np.float64, *calibrations), strict=False):
        values |= dict.fromkeys(names, np.full(len(bootstrap.counts), np.nan))
        if calibrate is not None:
            told = np.asarray(calibrate(ranking.scores))
            values[names[0]] = ranked.mean((told - ranking.positive) ** 2)
            values[names[1]] = calibration_errors(ranked, told, ranking.positive)
    positive, rarer = ranking.positive, intervals.rarer_class(ranking.positive)
    values |= _at_threshold(ranked, positive, called, threshold)
    masks = dict(zip(POINT, (positive, ~positive, called, ~called, positive), strict=True))
    masks |= dict.fromkeys((*SQUARES, *CALIBRATED), np.ones_like(positive))
    masks |= dict.fromkeys(RANKED, rarer) | {"sensitivity_at_specificity": positive}
    count = partial(sum_patients, ranking.codes, patients=bootstrap.patients)
    counts = {id(mask): [count(mask)] for mask in masks.values()}  # of each once
    images = {metric: counts[id(mask)] for metric, mask in masks.items()}
    return _Drawn({metric: own[None] for metric, own in values.items()}, images)


def _at_threshold(
    bootstrap: PatientBootstrap, positive: Mask, called: Mask, threshold: float
) -> Draws:
    """Sensitivity, specificity, predictive values and F1, (1 + D,) each."""
    if np.isnan(threshold):
        return {metric: np.full(len(bootstrap.counts), np.nan) for metric in POINT}
    hit, cleared = positive & called, ~positive & ~called
    parts = hit, cleared, hit, cleared, 2 * hit
    wholes = positive, ~positive, called, ~called, positive * 1 + called
    part, whole = np.hsplit(bootstrap.sums(np.column_stack([*parts, *wholes])), 2)  # (1 + D, 5)
    values = dict(zip(POINT, intervals.divided(part, whole).T, strict=True))
    values["f1"][whole[:, 0] == 0] = np.nan  # F1 of no positive is not an F1 of 0
    return values


def _join(labels: Sequence[_Drawn]) -> _Drawn:
    """The labels where each metric is defined; all where it is nowhere."""
    values, images = {}, {}
    for metric in labels[0].values:
        known = [one for one in labels if np.isfinite(one.values[metric][0, 0])] or labels
        values[metric] = np.vstack([label.values[metric] for label in known])
        images[metric] = [own for label in known for own in label.images[metric]]
    return _Drawn(values, images)


def _mean(figures: Floats) -> float:
    """Over L figures of the sample and its draws, (L, 1 + D): of the sample."""
    return float(intervals.mean_of_defined(figures[:, :1])[0])


def mean_metric(name: str, scores: Array, targets: Array, *, columns: slice = slice(None)) -> float:
    """One of ``CURVES`` of scores and targets (N, L), mean over the labels where it is defined."""
    alone = PatientBootstrap.of(np.arange(len(scores)), np.ones((1, len(scores)), np.float32))
    pairs = zip(scores.T[columns], targets.T[columns], strict=True)
    return _mean(np.vstack([_draw(alone, *pair, NAN).values[name] for pair in pairs]))


def best_of(metric: str) -> str:
    """Whether "min" or "max" of a metric is best, such as of val/loss or val/auroc/Mass."""
    return "min" if {*metric.split("/")} & {*LOWER} else "max"
