"""DeLong's covariance of AUROCs measured on the same images, in O(n log n)."""

import numpy as np
import numpy.typing as npt
from scipy.stats import false_discovery_control, norm, rankdata

from xray_lightning.metrics.intervals import NAN, Array, Floats, Mask


def delong(scores: Array, positive: Mask) -> Floats:
    """AUROCs of M models (M, n), below them the covariance, (1 + M, M); NaN without two a class."""
    # DeLong 1988, eqs. 3 to 8; ranks as Sun and Xu 2014. Images count as independent, which those
    # of one patient are not: read the patient bootstrap first.
    models, m, n = len(scores), int(positive.sum()), int((~positive).sum())
    if m < 2 or n < 2:
        return np.full((1 + models, models), np.nan)
    within_positive = rankdata(scores[:, positive], axis=1)
    within_negative = rankdata(scores[:, ~positive], axis=1)
    overall = rankdata(scores, axis=1)
    beaten = (overall[:, positive] - within_positive) / n  # V10, (M, m)
    lost = 1 - (overall[:, ~positive] - within_negative) / m  # V01, (M, n)
    covariance = np.cov(beaten).reshape(models, models) / m
    covariance = covariance + np.cov(lost).reshape(models, models) / n
    return np.vstack([beaten.mean(axis=1), covariance])


def compare_auroc(first: Array, second: Array, positive: Mask) -> float:
    """Two-sided p value of two models' AUROCs on the same images, scores (n,) each."""
    # 1 where the difference is 0, NaN where it has no deviation but is not 0.
    (one, two), (own, both), (_, other) = delong(np.stack([first, second]), positive)
    if one == two:
        return 1.0
    deviation = np.sqrt(max(own + other - 2 * both, 0.0))
    return float(2 * norm.sf(abs(one - two) / deviation)) if deviation > 0 else NAN


def holm(p_values: npt.ArrayLike) -> Floats:
    """P values corrected for several comparisons (Holm 1979); an undefined one stays undefined."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)  # NaN last
    count = int((~np.isnan(values)).sum())
    factors = np.maximum(count - np.arange(len(values)), 1)
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1)
    return np.where(np.isnan(values), np.nan, corrected)


def benjamini_hochberg(p_values: npt.ArrayLike) -> Floats:
    """P values corrected for the rate of false discoveries (Benjamini and Hochberg 1995)."""
    values = np.array(p_values, dtype=np.float64)
    known = ~np.isnan(values)
    values[known] = false_discovery_control(values[known]) if known.any() else np.nan
    return values
