"""Bootstrap over patients: how often each was drawn, and figures weighted by that.

A patient has up to 180 images, and a model errs alike on all of them, so images are no independent
draws: resampling images gives intervals that are too narrow. Here patients are drawn with
replacement (cluster bootstrap: Davison and Hinkley 1997, section 3.8; Field and Welsh 2007) and
bring all their images along. A draw is a row of counts, so a figure of a draw is a sum weighted by
counts; sums of small whole numbers are exact in float64.
"""

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from xray_lightning.errors import ConfigError

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.float32]  # (D, P): how often draw d took patient p
Codes = npt.NDArray[np.intp]  # (N,): number of each image's patient, 0 to P - 1
Interval = tuple[float, float]

GROUPS = 400  # of patients in the jackknife; with fewer patients each is a group of its own


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


def jackknife_counts(clusters: int, groups: int = GROUPS) -> Counts:
    """Every patient once but one group of them, (G, P), for the acceleration of BCa."""
    groups = min(groups, clusters)
    left_out = np.arange(clusters) % groups == np.arange(groups)[:, None]
    return np.asarray(~left_out, dtype=np.float32)


def percentile_interval(values: Floats, level: float = 0.95) -> Interval:
    """The middle share of the draws; (NaN, NaN) where a draw is undefined too often.

    Draws without a positive (or a negative) are undefined and left out; where they are more than
    5 % of all, what is left is no sample of anything, and there is no interval.
    """
    defined = values[~np.isnan(values)]
    if len(defined) < 0.95 * len(values) or not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bca_interval(
    values: Floats, estimate: float, jackknife: Floats, level: float = 0.95
) -> Interval:
    """Bias-corrected and accelerated interval (Efron 1987, eqs. 6.4 to 6.8).

    Args:
        values: of the draws, (D,).
        estimate: of the sample.
        jackknife: with each group of patients left out, (G,).
        level: share of the middle.

    Returns:
        Low and high; (NaN, NaN) where undefined, see :func:`percentile_interval`.
    """
    defined = values[~np.isnan(values)]
    if len(defined) < 0.95 * len(values) or not len(defined) or np.isnan(jackknife).any():
        return float("nan"), float("nan")
    below = np.mean(defined < estimate) + np.mean(defined == estimate) / 2
    if not 0 < below < 1:  # all draws on one side: no correction can be estimated
        return percentile_interval(values, level)
    bias = norm.ppf(below)
    spread = jackknife.mean() - jackknife
    squares = (spread**2).sum()
    acceleration = (spread**3).sum() / (6 * squares**1.5) if squares > 0 else 0.0
    tails = bias + norm.ppf([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(defined, norm.cdf(bias + tails / (1 - acceleration * tails)))
    return float(low), float(high)


def ratio_over(
    counts: Counts, codes: Codes, numerator: npt.ArrayLike, denominator: npt.ArrayLike
) -> Floats:
    """Sum of one quantity over the sum of another in each draw, (D,); NaN for a sum of 0.

    Sensitivity, specificity, predictive values, Brier's score: all are such ratios.

    Args:
        counts: (D, P).
        codes: (N,).
        numerator: of each image, (N,).
        denominator: of each image, (N,).
    """
    sums = sums_over(counts, codes, np.column_stack([numerator, denominator]))
    return divided(sums[:, 0], sums[:, 1])


def sums_over(counts: Counts, codes: Codes, weights: npt.ArrayLike) -> Floats:
    """Sums of K quantities over the images of each draw, (D, K).

    Args:
        counts: (D, P).
        codes: (N,).
        weights: of each image, (N, K).
    """
    columns = np.asarray(weights, dtype=np.float64).T
    clusters = counts.shape[1]
    by_patient = [np.bincount(codes, weights=each, minlength=clusters) for each in columns]
    return np.asarray(counts.astype(np.float64) @ np.column_stack(by_patient))


def divided(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Floats:
    """Quotient, NaN where the denominator is 0."""
    whole = np.asarray(denominator, dtype=np.float64)
    undefined = np.full(whole.shape, np.nan)
    return np.asarray(np.divide(numerator, whole, out=undefined, where=whole > 0))


def mean_of_defined(values: Floats) -> Floats:
    """Mean along the first axis over the values that are defined, NaN where none is."""
    defined = ~np.isnan(values)
    return divided(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0))


def two_sided(draws: Floats) -> float:
    """Two-sided p value of a difference from its draws: how rarely they lie on the other side of 0.

    NaN where no draw is defined. (Davison and Hinkley 1997, section 4.2: one is added to both
    counts, so that it is never 0.)
    """
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return float("nan")
    side = min((defined <= 0).sum(), (defined >= 0).sum())
    return float(min(1.0, 2 * (side + 1) / (len(defined) + 1)))
