"""Every metric of a set of predictions with its intervals, patients resampled."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.calibration import Calibration, calibration_errors
from xray_lightning.metrics.intervals import (
    NAN,
    Array,
    Estimate,
    Floats,
    Mask,
    divided,
    estimate_share,
    mean_of_defined,
)
from xray_lightning.metrics.ranks import Ranking, curves_over, sum_patients
from xray_lightning.records import is_known
from xray_lightning.results import Json, Result

CURVES = ("auroc", "average_precision", "brier", "calibration_error")
CALIBRATED = ("calibrated_brier", "calibrated_error")  # after a map fitted on validation
POINT = ("sensitivity", "specificity", "ppv", "npv", "f1")
ERRORS = ("calibration_error", "calibrated_error")
BIASED = ("average_precision", *ERRORS)  # upwards where positives are few: taken off the middle
IMAGE_DRAWS = 500  # of the image-level interval, which is only there to be compared with
FEW_PATIENTS = 20  # with a positive image: below, the simulation in the README warns of intervals

Draws = dict[str, Floats]  # metric -> of the sample and each draw, or images of each patient


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

    @property
    def few_positive_patients(self) -> dict[str, int]:
        """Labels whose AUROC rests on fewer than ``FEW_PATIENTS`` positive patients: how many."""
        counts = {k: v.positive_patients for k, v in self.labels.items() if not v.undefined}
        return {label: count for label, count in counts.items() if count < FEW_PATIENTS}

    def to_json(self) -> Json:
        """``{"labels", "mean", "defined", "few_positive_patients"}``."""
        return super().to_json() | {"few_positive_patients": self.few_positive_patients}


@dataclass(frozen=True)
class _Drawn:
    """Every metric of a label, or of the mean, and what it rests on."""

    values: Draws  # metric -> of the sample and each draw, (1 + D,)
    images: Draws  # metric -> images of each patient that it rests on, of each label, (L, P)

    def estimate(self, metric: str) -> Estimate:
        how = {"biased": metric in BIASED, "bounded": metric not in ERRORS}
        return estimate_share(self.values[metric], self.images[metric], **how)


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
    # A draw of a mean is over the labels defined in that draw; what calibrations give stands beside
    # the raw figures, NaN for a label without one.
    by_patient = PatientBootstrap(patients, draws, seed)
    by_image = PatientBootstrap(np.arange(len(scores)), min(draws, IMAGE_DRAWS), seed)

    def draw(index: int) -> tuple[_Drawn, _Drawn]:
        label, column = labels[index], (scores[:, index], targets[:, index])
        threshold = (thresholds or {}).get(label, NAN)
        first, second = (_draw(side, *column, threshold) for side in (by_patient, by_image))
        if calibrations is not None:
            for side, drawn in ((by_patient, first), (by_image, second)):
                drawn.values.update(_draw_calibrated(side, *column, calibrations.get(label)))
        return first, second

    with ThreadPoolExecutor(threads) as pool:  # NumPy lets go of the lock while it sums
        drawn = list(pool.map(draw, range(len(labels))))
    first, second = zip(*drawn, strict=True)
    pairs = zip(labels, targets.T, drawn, strict=True)
    metrics = {label: _count(by_patient, column, pair) for label, column, pair in pairs}
    mean = _estimates(_mean(first), _mean(second))
    defined = {
        metric: sum(bool(np.isfinite(label.values[metric][0])) for label in first)
        for metric in mean
    }
    by_label = dict(zip(labels, drawn, strict=True))
    some = {name: _group(by_label, own) for name, own in (groups or {}).items()}
    return Metrics(metrics, mean, defined, some)


def _count(
    bootstrap: PatientBootstrap, targets: Array, drawn: tuple[_Drawn, _Drawn]
) -> LabelMetrics:
    positive, known = targets == 1, int(is_known(targets).sum())
    patients = len(np.unique(bootstrap.codes[positive]))
    return LabelMetrics(int(positive.sum()), known, patients, _estimates(*drawn))


def _group(drawn: Mapping[str, tuple[_Drawn, _Drawn]], labels: Sequence[str]) -> LabelGroup:
    by_patient, by_image = zip(*(drawn[label] for label in labels), strict=True)
    means = _estimates(_mean(by_patient), _mean(by_image))
    return LabelGroup(list(labels), means["average_precision"])


def _estimates(by_patient: _Drawn, by_image: _Drawn) -> dict[str, Estimate]:
    return {
        metric: replace(
            by_patient.estimate(metric), image_interval=by_image.estimate(metric).interval
        )
        for metric in by_patient.values
    }


def _draw(bootstrap: PatientBootstrap, scores: Array, targets: Array, threshold: float) -> _Drawn:
    """Every metric of one label; a score is called from ``threshold`` on, NaN: undefined."""
    ranking = bootstrap.ranking(scores, targets)
    ranked = PatientBootstrap.of(ranking.codes, bootstrap.counts)
    auroc, precision = curves_over(ranking, bootstrap.counts)
    errors = _errors(ranked, ranking.scores.astype(np.float64), ranking.positive)
    values = dict(zip(CURVES, (auroc, precision, *errors), strict=True))
    called = ranking.scores >= threshold
    images = _images(ranking, called, bootstrap.patients)
    return _Drawn(values | _at_threshold(ranked, ranking.positive, called, threshold), images)


def _errors(bootstrap: PatientBootstrap, scores: Array, positive: Mask) -> tuple[Floats, Floats]:
    """Brier's score and the calibration error, (1 + D,) each."""
    brier = bootstrap.ratio((scores - positive) ** 2, np.ones(len(scores)))
    return brier, calibration_errors(bootstrap, scores, positive)


def _at_threshold(
    bootstrap: PatientBootstrap, positive: Mask, called: Mask, threshold: float
) -> Draws:
    """Sensitivity, specificity, predictive values and F1, (1 + D,) each."""
    if np.isnan(threshold):
        return {metric: np.full(len(bootstrap.counts), np.nan) for metric in POINT}
    pairs = (
        *(positive & called, positive),
        *(~positive & ~called, ~positive),
        *(positive & called, called),
        *(~positive & ~called, ~called),
        *(2 * (positive & called), positive * 1 + called * 1),
    )
    sums = bootstrap.sums(np.column_stack(pairs))
    values = dict(zip(POINT, divided(sums[:, ::2], sums[:, 1::2]).T, strict=True))
    values["f1"][sums[:, 1] == 0] = np.nan  # F1 of no positive is not an F1 of 0
    return values


def _images(ranking: Ranking, called: Mask, patients: int) -> Draws:
    """Images of each patient behind a metric, (1, P): its denominator, or the rarer class."""
    positive = ranking.positive
    masks = dict(zip(POINT, (positive, ~positive, called, ~called, positive), strict=True))
    masks |= dict.fromkeys((*CURVES[2:], *CALIBRATED), np.ones_like(positive))
    masks |= dict.fromkeys(CURVES[:2], ranking.rarer)
    return {
        metric: sum_patients(ranking.codes, mask, patients)[None] for metric, mask in masks.items()
    }


def _draw_calibrated(
    bootstrap: PatientBootstrap, scores: Array, targets: Array, calibration: Calibration | None
) -> Draws:
    """Brier's score and calibration error after a map, (1 + D,) each."""
    if calibration is None:
        return {metric: np.full(len(bootstrap.counts), np.nan) for metric in CALIBRATED}
    known = is_known(targets)
    errors = _errors(bootstrap.subset(known), calibration(scores[known]), targets[known] == 1)
    return dict(zip(CALIBRATED, errors, strict=True))


def _mean(labels: Sequence[_Drawn]) -> _Drawn:
    """Over the labels defined in each draw; it rests on the images of all that are defined."""
    values, images = {}, {}
    for metric in labels[0].values:
        values[metric] = mean_of_defined(np.stack([label.values[metric] for label in labels]))
        defined = [label for label in labels if np.isfinite(label.values[metric][0])] or labels
        images[metric] = np.vstack([label.images[metric] for label in defined])
    return _Drawn(values, images)
