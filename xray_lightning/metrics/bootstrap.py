"""Bootstrap over patients: how often each was drawn, and figures weighted by that.

A patient has up to 180 images, and a model errs alike on all of them, so images are no independent
draws: resampling images gives intervals that are too narrow. Here patients are drawn with
replacement (cluster bootstrap: Davison and Hinkley 1997, section 3.8; Field and Welsh 2007) and
bring all their images along. A draw is a row of counts, so a figure of a draw is a sum weighted by
counts; sums of small whole numbers are exact in float64.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import t

from xray_lightning.errors import ConfigError

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.float32]  # (D, P): how often draw d took patient p
Codes = npt.NDArray[np.intp]  # (N,): number of each image's patient, 0 to P - 1
Interval = tuple[float, float]

NONE: Interval = (float("nan"), float("nan"))
ROUNDING = 1e-12  # draws that differ by less are equal


def patient_codes(patients: npt.ArrayLike) -> Codes:
    """Number of each image's patient, (N,), from 0 to P - 1."""
    return np.unique(np.asarray(patients), return_inverse=True)[1].astype(np.intp)


def bootstrap_counts(clusters: int, draws: int, seed: int) -> Counts:
    """How often each patient is drawn when as many are drawn as there are, (D, P).

    Args:
        clusters: number of patients P, or of images for the image-level interval.
        draws: number of draws D.
        seed: equal seeds give equal draws, so that two models are compared on the same ones.

    Raises:
        ConfigError: fewer than one patient or draw.
    """
    if clusters < 1 or draws < 1:
        raise ConfigError(f"a bootstrap needs patients and draws, got {clusters} and {draws}")
    generator = np.random.default_rng(seed)
    counts = np.empty((draws, clusters), dtype=np.float32)
    for row in counts:
        row[:] = np.bincount(generator.integers(clusters, size=clusters), minlength=clusters)
    return counts


def patient_draws(codes: Codes, draws: int, seed: int) -> Counts:
    """The sample itself, every patient once, then its draws, (1 + D, P)."""
    drawn = bootstrap_counts(int(codes.max(initial=-1)) + 1, draws, seed)
    return np.vstack([np.ones_like(drawn[:1]), drawn])


def percentile_interval(values: Floats, level: float = 0.95, *, constant: bool = False) -> Interval:
    """The middle share of the draws; (NaN, NaN) where there is none.

    Draws without a positive (or a negative) are undefined and left out; where they are more than
    5 % of all, what is left is no sample of anything, and there is no interval. Nor is there one
    where all draws are equal: it would have no width, which says nothing of other patients; with
    ``constant`` there is, for a verdict's rule, not to be printed. Fewer than 39 draws have no end
    that 2.5 % lie beyond.
    """
    defined = _varied(values, -1.0 if constant else ROUNDING)
    if defined is None or len(defined) < 2 / (1 - level) - 1:
        return NONE
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _varied(draws: Floats, least: float = ROUNDING) -> Floats | None:
    """The defined draws; None where they are too few or all equal."""
    defined = draws[~np.isnan(draws)]
    if not len(defined) or len(defined) < 0.95 * len(draws) or np.ptp(defined) <= least:
        return None
    return defined


def effective_patients(images: npt.ArrayLike) -> float:
    """How many patients with equally many images would say as much (Kish 1965, section 11.7).

    >>> effective_patients([1, 1, 1]), effective_patients([9, 1, 0])
    (3.0, 1.2195121951219512)
    """
    weights = np.asarray(images, dtype=np.float64)
    return float(divided(weights.sum() ** 2, (weights**2).sum()))


@dataclass(frozen=True)
class Spread:
    """How far a figure strays from sample to sample; NaN where that cannot be told.

    Attributes:
        deviation: standard deviation.
        freedom: degrees of freedom of Student's t.
    """

    deviation: float
    freedom: float

    @classmethod
    def of(cls, draws: Floats, effective: float) -> "Spread":
        """Standard deviation of the draws (D,), corrected for few patients.

        A bootstrap of K patients gives (K - 1) / K of the variance (Davison and Hinkley 1997,
        section 2.3); K is their effective number. Its resolution does not hang on the draws.
        """
        defined = _varied(draws)
        if defined is None or len(defined) < 2 or not effective > 1:
            return cls(float("nan"), float("nan"))
        factor = np.sqrt(effective / (effective - 1))
        return cls(float(defined.std(ddof=1) * factor), min(effective, len(defined)) - 1)

    @classmethod
    def left_out(cls, values: Floats, effective: float) -> "Spread":
        """From a figure with each patient left out once, (P,): the jackknife."""
        if np.isnan(values).any() or not np.ptp(values) > ROUNDING or not effective > 1:
            return cls(float("nan"), float("nan"))
        return cls(float(np.sqrt((len(values) - 1) * values.var())), effective - 1)

    def around(self, value: float, level: float = 0.95) -> Interval:
        """Interval of a difference, or of anything that is not bound to [0, 1]."""
        reach = float(t.ppf((1 + level) / 2, self.freedom)) * self.deviation
        return value - reach, value + reach

    def p_value(self, difference: float) -> float:
        """Two-sided, of a difference from 0."""
        return float(2 * t.sf(abs(difference) / self.deviation, self.freedom))


def share_interval(
    value: float, spread: Spread, level: float = 0.95, *, bias: float = 0.0
) -> Interval:
    """Student's interval on the logit scale for a figure in (0, 1), by the delta method.

    Chosen by simulation, see the table in this folder's README. ``level`` is the share of the
    middle, ``bias`` that of the figure, to be taken off the middle.

    Returns:
        Low and high; (NaN, NaN) where undefined, and for 0 and 1, see :func:`exact_interval`.
    """
    if np.isnan(spread.deviation) or not 0 < value < 1:
        return NONE
    slope = value * (1 - value)  # d value / d logit
    scaled = Spread(spread.deviation / slope, spread.freedom)
    low, high = expit(scaled.around(float(logit(value)) - bias / slope, level))
    return float(low), float(high)


def exact_interval(value: float, patients: int, level: float = 0.95) -> Interval:
    """Bound where all patients agree on 0 or 1 (Clopper and Pearson 1934); else (NaN, NaN).

    >>> exact_interval(0.0, 1)
    (0.0, 0.975)
    """
    if patients < 1 or value not in (0, 1):
        return NONE
    bound = float(((1 - level) / 2) ** (1 / patients))
    return (bound, 1.0) if value == 1 else (0.0, 1 - bound)


def ratio_over(
    counts: Counts, codes: Codes, numerator: npt.ArrayLike, denominator: npt.ArrayLike
) -> Floats:
    """Sum of one quantity (N,) over that of another in each draw (D, P), (D,); NaN for a sum of 0.

    Sensitivity, specificity, predictive values, Brier's score: all are such ratios.
    """
    sums = sums_over(counts, codes, np.column_stack([numerator, denominator]))
    return divided(sums[:, 0], sums[:, 1])


def sums_over(counts: Counts, codes: Codes, weights: npt.ArrayLike) -> Floats:
    """Sums of K quantities (N, K) over the images of each draw (D, P): (D, K)."""
    columns = np.asarray(weights, dtype=np.float64).T
    by_patient = [counted(codes, each, counts.shape[1]) for each in columns]
    return np.asarray(counts.astype(np.float64) @ np.column_stack(by_patient))


def counted(codes: Codes, weights: npt.ArrayLike, patients: int) -> Floats:
    """Sum of the weights of each patient's images, (P,)."""
    return np.bincount(codes, weights, patients).astype(np.float64)


def divided(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Floats:
    """Quotient, NaN where the denominator is 0."""
    whole = np.asarray(denominator, dtype=np.float64)
    undefined = np.full(whole.shape, np.nan)
    return np.asarray(np.divide(numerator, whole, out=undefined, where=whole > 0))


def mean_of_defined(values: Floats) -> Floats:
    """Mean along the first axis over the values that are defined, NaN where none is."""
    defined = ~np.isnan(values)
    return divided(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0))
