"""Every figure of a set of predictions with its intervals, patients resampled."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xray_lightning.metrics.bootstrap import (
    Codes,
    Counts,
    Floats,
    Interval,
    Spread,
    counted,
    divided,
    effective_patients,
    exact_interval,
    mean_of_defined,
    patient_codes,
    patient_draws,
    ratio_over,
    share_interval,
    sums_over,
)
from xray_lightning.metrics.calibration import Calibration, calibration_error_over
from xray_lightning.metrics.ranks import Ranking, curves_over

CURVES = ("auroc", "average_precision", "brier", "calibration_error")
CALIBRATED = ("calibrated_brier", "calibrated_error")  # after a map fitted on validation
POINT = ("sensitivity", "specificity", "ppv", "npv", "f1")
ERRORS = ("calibration_error", "calibrated_error")
BIASED = ("average_precision", *ERRORS)  # upwards where positives are few: taken off the middle
IMAGE_DRAWS = 500  # of the image-level interval, which is only there to be compared with
FEW_PATIENTS = 20  # with a positive image: below, the simulation in the README warns of intervals

Figures = dict[str, Floats]  # name -> value in each draw, or images of each patient


@dataclass(frozen=True)
class Estimate:
    """A figure and how far it can be trusted; NaN where undefined.

    Attributes:
        value: on the sample.
        patient_interval: Student's on the logit scale, patients resampled, with their effective
            number, see :func:`~xray_lightning.metrics.bootstrap.share_interval`.
        image_interval: as the first, images resampled as if they were independent: too narrow.
        exact: whether the first is Clopper and Pearson's bound over patients, since all agree.
    """

    value: float
    patient_interval: Interval
    image_interval: Interval
    exact: bool = False

    @property
    def width_ratio(self) -> float:
        """Width of the patients' interval over that of the images'; NaN where one is exact."""
        wide, narrow = (high - low for low, high in (self.patient_interval, self.image_interval))
        return wide / narrow if narrow > 0 and not self.exact else float("nan")


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
class _Drawn:
    """Every figure of a label, or of the mean, and what it rests on.

    Attributes:
        figures: name -> on the sample, then in each draw, (1 + D,).
        behind: name -> images of each patient that it rests on, of each label, (L, P).
    """

    figures: Figures
    behind: Figures

    def interval(self, name: str, level: float) -> tuple[Interval, bool]:
        """Of one figure, and whether it is exact."""
        value, draws = float(self.figures[name][0]), self.figures[name][1:]
        behind = self.behind[name]
        spread = Spread.of(draws, effective_patients(behind.sum(axis=0)))
        biased = name in BIASED and not np.isnan(spread.deviation)
        bias = float(np.nanmean(draws)) - value if biased else 0.0
        ends = share_interval(value, spread, level, bias=bias)
        if name in ERRORS or not np.isnan(ends).any():
            return ends, False
        poorest = int((behind > 0).sum(axis=1).min())
        return exact_interval(value, poorest, level), value in (0, 1)


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
    codes = patient_codes(patients)
    by_images = np.arange(len(scores)), min(draws, IMAGE_DRAWS)
    sides = [(each, patient_draws(each, n, seed)) for each, n in ((codes, draws), by_images)]
    points, maps = thresholds or {}, calibrations

    def of_label(index: int) -> tuple[_Drawn, _Drawn]:
        threshold = points.get(labels[index], float("nan"))
        column = scores[:, index], targets[:, index]
        by_patient, by_image = (
            _Drawn(
                figures_over(*column, *side, threshold)
                | ({} if maps is None else _calibrated(*column, *side, maps.get(labels[index]))),
                _behind(Ranking.of(*column, side[0]), side[1].shape[1], threshold),
            )
            for side in sides
        )
        return by_patient, by_image

    with ThreadPoolExecutor(threads) as pool:  # NumPy lets go of the lock while it sums
        drawn = list(pool.map(of_label, range(len(labels))))
    positive = targets == 1
    return Verdict(
        labels={label: _estimates(*pair, level) for label, pair in zip(labels, drawn, strict=True)},
        mean=_estimates(
            _mean([pair[0] for pair in drawn]), _mean([pair[1] for pair in drawn]), level
        ),
        defined={
            name: sum(bool(np.isfinite(first.figures[name][0])) for first, _ in drawn)
            for name in drawn[0][0].figures
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

    Scores (N,) lie in [0, 1], targets (N,) are NaN where unknown, ``counts`` is (D, P). A score is
    called from ``threshold`` on; NaN: its figures are undefined.
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
    ratios[-1][sums[:, 1] == 0] = np.nan  # F1 of no positive is no F1 of 0
    return dict(zip(pairs, ratios, strict=True))


def _behind(ranking: Ranking, patients: int, threshold: float) -> Figures:
    """Images of each patient behind a figure, (1, P): its denominator, or the rarer class."""
    positive, called = ranking.positive, ranking.scores >= threshold
    masks = dict(zip(POINT, (positive, ~positive, called, ~called, positive), strict=True))
    masks |= dict.fromkeys((*CURVES[2:], *CALIBRATED), np.ones_like(positive))
    masks |= dict.fromkeys(CURVES[:2], ranking.rarer)
    return {name: counted(ranking.codes, mask, patients)[None] for name, mask in masks.items()}


def _calibrated(
    scores: npt.NDArray[np.floating],
    targets: npt.NDArray[np.floating],
    codes: Codes,
    counts: Counts,
    calibration: Calibration | None,
) -> Figures:
    """Brier's score and calibration error after a map, (D,) each."""
    if calibration is None:
        return {name: np.full(len(counts), np.nan) for name in CALIBRATED}
    known = ~np.isnan(targets)
    kept, positive = calibration(scores[known]), targets[known] == 1
    brier = ratio_over(counts, codes[known], (kept - positive) ** 2, np.ones(len(kept)))
    error = calibration_error_over(counts, codes[known], kept, positive)
    return dict(zip(CALIBRATED, (brier, error), strict=True))


def _mean(labels: Sequence[_Drawn]) -> _Drawn:
    """Over the labels defined in each draw; it rests on the images of all that are defined."""
    figures, behind = {}, {}
    for name in labels[0].figures:
        figures[name] = mean_of_defined(np.stack([each.figures[name] for each in labels]))
        known = [each for each in labels if np.isfinite(each.figures[name][0])] or labels
        behind[name] = np.vstack([each.behind[name] for each in known])
    return _Drawn(figures, behind)


def _estimates(by_patient: _Drawn, by_image: _Drawn, level: float) -> dict[str, Estimate]:
    found = {}
    for name, values in by_patient.figures.items():
        ends, exact = by_patient.interval(name, level)
        images, _ = by_image.interval(name, level)
        found[name] = Estimate(float(values[0]), ends, images, exact)
    return found
