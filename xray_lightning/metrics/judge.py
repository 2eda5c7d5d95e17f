"""Every figure of a set of predictions with its intervals, patients resampled."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xray_lightning.metrics.calibration import Calibration, calibration_error_over
from xray_lightning.metrics.clusters import (
    Codes,
    Counts,
    Floats,
    Interval,
    bca_interval,
    bootstrap_counts,
    divided,
    jackknife_counts,
    mean_of_defined,
    patient_codes,
    percentile_interval,
    ratio_over,
    sums_over,
)
from xray_lightning.metrics.ranks import Ranking, curves_over

CURVES = ("auroc", "average_precision", "brier", "calibration_error")
CALIBRATED = ("calibrated_brier", "calibrated_error")  # after a map fitted on validation
POINT = ("sensitivity", "specificity", "ppv", "npv", "f1")
IMAGE_DRAWS = 500  # of the image-level interval, which is only there to be compared with

Figures = dict[str, Floats]  # name -> value in each draw


@dataclass(frozen=True)
class Estimate:
    """A figure and how far it can be trusted; NaN where undefined.

    Attributes:
        value: on the sample.
        patient_interval: bias-corrected and accelerated, patients resampled.
        percentile_interval: the same draws without correction.
        image_interval: percentile, images resampled as if they were independent: too narrow.
    """

    value: float
    patient_interval: Interval
    percentile_interval: Interval
    image_interval: Interval

    @property
    def width_ratio(self) -> float:
        """Width of the patients' percentile interval over that of the images'."""
        wide, narrow = (high - low for low, high in (self.percentile_interval, self.image_interval))
        return wide / narrow if narrow > 0 else float("nan")


@dataclass(frozen=True)
class Verdict:
    """What a set of predictions is worth.

    Attributes:
        labels: label -> figure -> estimate.
        mean: figure -> estimate of the mean over the labels where it is defined.
        defined: figure -> over how many labels that is.
        positives: label -> positive images.
        known: label -> images whose target is known.
        positive_patients: label -> patients with a positive image.
    """

    labels: dict[str, dict[str, Estimate]]
    mean: dict[str, Estimate]
    defined: dict[str, int]
    positives: dict[str, int]
    known: dict[str, int]
    positive_patients: dict[str, int]


@dataclass(frozen=True)
class _Draws:
    """Weights of the clusters: of the sample itself, of the bootstrap, of the jackknife."""

    codes: Codes
    counts: Counts  # (1 + D + G, P)
    bootstrap: int  # D

    def split(self, values: Floats) -> tuple[float, Floats, Floats]:
        return float(values[0]), values[1 : 1 + self.bootstrap], values[1 + self.bootstrap :]


def judge(
    labels: tuple[str, ...],
    scores: npt.NDArray[np.floating],
    targets: npt.NDArray[np.floating],
    patients: npt.ArrayLike,
    *,
    thresholds: Mapping[str, float] | None = None,
    calibrations: Mapping[str, Calibration | None] | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    threads: int = 2,
) -> Verdict:
    """Figures of every label and their means, with intervals.

    A draw of a mean is the mean over the labels that are defined in that draw.

    Args:
        labels: the L labels.
        scores: (N, L) in [0, 1].
        targets: (N, L), NaN where unknown.
        patients: N ids.
        thresholds: operating point of each label, chosen elsewhere (validation), NaN or absent:
            none.
        calibrations: map of each label, fitted elsewhere (validation); if given, Brier's score and
            the calibration error after it stand beside the raw ones, NaN for a label without one.
        draws: of the bootstrap.
        seed: of the bootstrap.
        level: of the intervals.
        threads: labels judged at a time.

    Raises:
        ConfigError: no draws or no images.
    """
    sides = (
        _draws(patient_codes(patients), draws, seed, jackknife=True),
        _draws(np.arange(len(scores)), min(draws, IMAGE_DRAWS), seed, jackknife=False),
    )
    points, maps = thresholds or {}, calibrations

    def of_label(index: int) -> tuple[Figures, Figures]:
        threshold = points.get(labels[index], float("nan"))
        column = scores[:, index], targets[:, index]
        by_patient, by_image = (
            figures_over(*column, side.codes, side.counts, threshold)
            | ({} if maps is None else _calibrated(*column, side, maps.get(labels[index])))
            for side in sides
        )
        return by_patient, by_image

    with ThreadPoolExecutor(threads) as pool:  # NumPy lets go of the lock while it sums
        figures = list(pool.map(of_label, range(len(labels))))
    mean = _mean([first for first, _ in figures]), _mean([second for _, second in figures])
    positive = targets == 1
    codes = sides[0].codes
    return Verdict(
        labels={
            label: _estimates(*pair, sides, level)
            for label, pair in zip(labels, figures, strict=True)
        },
        mean=_estimates(*mean, sides, level),
        defined={
            name: sum(bool(np.isfinite(first[name][0])) for first, _ in figures)
            for name in figures[0][0]
        },
        positives=dict(zip(labels, positive.sum(axis=0).tolist(), strict=True)),
        known=dict(zip(labels, (~np.isnan(targets)).sum(axis=0).tolist(), strict=True)),
        positive_patients={
            label: len(np.unique(codes[positive[:, index]])) for index, label in enumerate(labels)
        },
    )


def figures_over(
    scores: npt.NDArray[np.floating],
    targets: npt.NDArray[np.floating],
    codes: Codes,
    counts: Counts,
    threshold: float = float("nan"),
) -> Figures:
    """Every figure of one label in every draw, (D,) each; NaN where undefined.

    Args:
        scores: (N,) in [0, 1].
        targets: (N,), NaN where unknown.
        codes: number of each image's patient, (N,).
        counts: (D, P).
        threshold: operating point, score >= threshold; NaN: its figures are undefined.
    """
    ranking = Ranking.of(scores, targets, codes)
    auroc, precision = curves_over(ranking, counts)
    kept, positive = ranking.scores.astype(np.float64), ranking.positive
    brier = ratio_over(counts, ranking.codes, (kept - positive) ** 2, np.ones(len(kept)))
    error = calibration_error_over(counts, ranking.codes, kept, positive)
    figures = dict(zip(CURVES, (auroc, precision, brier, error), strict=True))
    return figures | _point_figures(ranking, counts, threshold)


def _point_figures(ranking: Ranking, counts: Counts, threshold: float) -> Figures:
    """Sensitivity, specificity, predictive values and F1 of one threshold, (D,) each."""
    if np.isnan(threshold):
        return {name: np.full(len(counts), np.nan) for name in POINT}
    positive, called = ranking.positive, ranking.scores >= threshold
    pairs = {
        "sensitivity": (positive & called, positive),
        "specificity": (~positive & ~called, ~positive),
        "ppv": (positive & called, called),
        "npv": (~positive & ~called, ~called),
        "f1": (2 * (positive & called), positive * 1 + called * 1),
    }
    sums = sums_over(counts, ranking.codes, np.column_stack(sum(pairs.values(), ())))
    ratios = [divided(sums[:, 2 * k], sums[:, 2 * k + 1]) for k in range(len(pairs))]
    return dict(zip(pairs, ratios, strict=True))


def _calibrated(
    scores: npt.NDArray[np.floating],
    targets: npt.NDArray[np.floating],
    side: _Draws,
    calibration: Calibration | None,
) -> Figures:
    """Brier's score and calibration error after a map, (D,) each."""
    if calibration is None:
        return {name: np.full(len(side.counts), np.nan) for name in CALIBRATED}
    known = ~np.isnan(targets)
    kept, positive, codes = calibration(scores[known]), targets[known] == 1, side.codes[known]
    brier = ratio_over(side.counts, codes, (kept - positive) ** 2, np.ones(len(kept)))
    error = calibration_error_over(side.counts, codes, kept, positive)
    return dict(zip(CALIBRATED, (brier, error), strict=True))


def _draws(codes: Codes, draws: int, seed: int, *, jackknife: bool) -> _Draws:
    clusters = int(codes.max(initial=-1)) + 1
    drawn = bootstrap_counts(clusters, draws, seed)
    rows = [np.ones((1, clusters), dtype=np.float32), drawn]
    return _Draws(
        codes, np.concatenate(rows + [jackknife_counts(clusters)] * jackknife), len(drawn)
    )


def _mean(figures: list[Figures]) -> Figures:
    """Over the labels defined in each draw."""
    return {
        name: mean_of_defined(np.stack([each[name] for each in figures])) for name in figures[0]
    }


def _estimates(
    by_patient: Figures, by_image: Figures, sides: tuple[_Draws, _Draws], level: float
) -> dict[str, Estimate]:
    found = {}
    for name, values in by_patient.items():
        value, draws, jackknife = sides[0].split(values)
        _, image_draws, _ = sides[1].split(by_image[name])
        found[name] = Estimate(
            value,
            bca_interval(draws, value, jackknife, level),
            percentile_interval(draws, level),
            percentile_interval(image_draws, level),
        )
    return found
