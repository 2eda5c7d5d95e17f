"""Figures of one label's order of scores in every draw of a bootstrap, sorted once.

A draw only changes how often an image counts, not the order of the scores. So the images are
sorted once, and a draw costs a sum of its counts between positive images, a few draws at a time so
that they stay in the cache. Counts are whole numbers below 2**24: float32 sums are exact.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy  # .stats, a second's import, loads at its first use

from xray_lightning.metrics.intervals import Array, Floats, Mask, divided
from xray_lightning.records import is_known

Counts = npt.NDArray[np.floating]  # (D, P): how often draw d took patient p
Codes = npt.NDArray[np.intp]  # (N,): number of each image's patient, 0 to P - 1

RANKED = (  # what only the order of the scores decides
    *("auroc", "average_precision", "average_precision_over_chance", "precision_recall_gain"),
    *("partial_auroc", "sensitivity_at_specificity"),
)
FALSE_ALARMS = 0.1  # share of the negatives that the last two allow: a specificity of 0.9
CHUNK, CELLS = 32, 2**22  # draws at a time, and their images together
EXACT = 2**24  # float32 counts in whole numbers up to here


@dataclass(frozen=True)
class Ranking:
    """The images of one label whose target is known, sorted once for many draws."""

    codes: Codes  # number of each image's patient, (n,)
    scores: Array  # (n,)
    positive: Mask  # (n,) bool

    @classmethod
    def of(cls, scores: Array, targets: Array, codes: Codes) -> "Ranking":
        """Leave out the images whose target is unknown, and sort by falling score."""
        known = np.flatnonzero(is_known(targets))
        order = known[np.argsort(-scores[known], kind="stable")]
        return cls(codes[order], scores[order], targets[order] == 1)

    @cached_property
    def places(self) -> tuple[Codes, ...]:
        """Where the sums of a draw are looked up, for each of the m positive images."""
        # Numbers of images that occur, rising, 0 and n included, (K,); positions there of how many
        # lie above an image, and at or above it, (m,); the same numbers of positive images, (m,).
        falling = -self.scores
        levels = falling[self.positive]
        every, own = (
            [np.searchsorted(those, levels), np.searchsorted(those, levels, side="right")]
            for those in (falling, levels)
        )
        bounds = np.unique(np.concatenate([[0], *every, [len(falling)]]))
        return bounds, *(np.searchsorted(bounds, numbers) for numbers in every), *own


def curves_over(ranking: Ranking, counts: Counts, *, auroc_only: bool = False) -> dict[str, Floats]:
    """The figures ``RANKED`` of each draw, (D,) each; NaN without a positive or a negative."""
    # Those of the images repeated by ``counts`` (D, P), whole ones in float32, any in float64.
    images = np.bincount(ranking.codes, minlength=counts.shape[1])
    step = max(1, min(CHUNK, CELLS // max(1, len(ranking.codes))))
    few = [counts[k : k + step] for k in range(0, len(counts), step)]
    most = max(float((some.astype(np.float64) @ images).max()) for some in few)
    if counts.dtype == np.float32 and most >= EXACT:
        raise ValueError(f"a draw holds {most:,.0f} images; up to {EXACT:,} are counted exactly")
    names = RANKED[:1] if auroc_only else RANKED
    if not len(ranking.codes):
        return dict.fromkeys(names, np.full(len(counts), np.nan))
    with np.errstate(divide="ignore", invalid="ignore"):  # of a draw without a class
        parts = [_curves(ranking, some, auroc_only) for some in few]
    return dict(zip(names, map(np.concatenate, zip(*parts, strict=True)), strict=True))


def _curves(ranking: Ranking, counts: Counts, auroc_only: bool) -> list[Floats]:
    """Of a few draws."""
    bounds, every_above, every_here, own_above, own_here = ranking.places
    every = np.zeros((len(counts), len(bounds)), dtype=counts.dtype)
    weights = np.take(counts, ranking.codes, axis=1)  # (d, n)
    # Sums between the bounds first: NumPy's cumulative sum is four times slower an element.
    np.cumsum(np.add.reduceat(weights, bounds[:-1], axis=1), axis=1, out=every[:, 1:])
    weights = weights[:, ranking.positive]  # (d, m)
    found = np.zeros((len(counts), weights.shape[1] + 1), dtype=counts.dtype)
    np.cumsum(weights, axis=1, out=found[:, 1:])
    # positives and negatives above each positive image, and at or above it, (d, m)
    above, true = (np.take(found, own, axis=1) for own in (own_above, own_here))
    false_above = np.take(every, every_above, axis=1) - above
    false = np.take(every, every_here, axis=1) - true
    positives, total = found[:, -1].astype(np.float64), every[:, -1].astype(np.float64)
    pairs = positives * (total - positives)
    # Mann-Whitney statistic, ties one half
    lost = np.multiply(weights, false + false_above, dtype=np.float64).sum(axis=1) / 2
    figures = [divided(pairs - lost, pairs)]
    if not auroc_only:
        five = (each.astype(np.float64) for each in (weights, above, true, false_above, false))
        figures += _more_curves(*five, positives=positives, negatives=total - positives)
    return [np.where(pairs > 0, figure, np.nan) for figure in figures]


def _more_curves(
    weights: Floats, above: Floats, true: Floats, false_above: Floats, false: Floats,  # (d, m)
    *, positives: Floats, negatives: Floats,  # (d,)
) -> list[Floats]:  # fmt: skip
    """The others of ``RANKED``."""
    # Average precision: sum over thresholds of (R_n - R_(n-1)) P_n, as scikit-learn's; over chance
    # it is 0 for the prevalence and 1 for a perfect order.
    precision = np.where(weights > 0, weights * true / (true + false), 0).sum(axis=1) / positives
    share = positives / (positives + negatives)
    # Precision-recall gain (Flach and Kull 2015): gains are 1 - odds FP / TP and 1 - odds FN / TP,
    # so a step of the ROC curve is a straight line; the area from a recall gain of 0 on is 1 less
    # what false positives cost. Tied positives, of one step, share it.
    odds = (positives / negatives)[:, None]
    least, block = (positives * share)[:, None], true - above
    first = np.clip(least, above, true)
    start = false_above + (first - above) / block * (false - false_above)
    first = np.maximum(first, least)
    cost = np.maximum(1 / first - 1 / true, 0) * (start / first + false / true) * weights / block
    gain = 1 - np.where(block > 0, cost, 0).sum(axis=1) * (odds**2)[:, 0] * positives / 2
    # Partial AUROC (McClish 1989), 0.5 for chance; a tie is crossed diagonally.
    limit = FALSE_ALARMS * negatives[:, None]
    room, width = np.maximum(limit - false_above, 0), false - false_above
    inside = np.minimum(room, width)
    lost = limit - room + inside * (1 - inside / (2 * np.maximum(width, 1)))
    most = FALSE_ALARMS * (2 - FALSE_ALARMS) * positives * negatives
    partial = 1 - (weights * lost).sum(axis=1) / most
    reached = (weights * (false <= limit * (1 + 1e-9))).sum(axis=1)  # of the fixed specificity
    return [precision, (precision - share) / (1 - share), gain, partial, reached / positives]


def auroc_left_out(ranking: Ranking, patients: int) -> Floats:
    """AUROC, then AUROC with each patient left out, (1 + P,): the jackknife without a draw."""
    # Of all pairs of a positive and a negative image that are won, those with an image of the
    # patient go; the pairs within the patient count twice in that. NaN where no pair is left.
    codes, positive = ranking.codes, ranking.positive
    place = np.unique(ranking.scores, return_inverse=True)[1]
    won, lost = _below(place, positive), positive.sum() - _below(place, ~positive)
    n, m = (sum_patients(codes, mask, patients) for mask in (~positive, positive))
    before = (np.cumsum(n) - n)[codes]  # negatives of the patients that come first
    within = _below(codes * len(codes) + place, positive) - before
    gone = sum_patients(codes, np.where(positive, won - within, lost), patients)
    total, pairs = won[positive].sum(), (m.sum() - m) * (n.sum() - n)
    return divided(np.append(total, total - gone), np.append(m.sum() * n.sum(), pairs))


def _below(order: Codes, chosen: Mask) -> Floats:
    """How many of the others lie below each chosen image, ties one half, (n,)."""
    below: Floats = scipy.stats.rankdata(order)
    below[chosen] -= scipy.stats.rankdata(order[chosen])
    return below


def sum_patients(codes: Codes, weights: npt.ArrayLike, patients: int) -> Floats:
    """Sum of the weights of each patient's images, (P,)."""
    return np.bincount(codes, weights, patients).astype(np.float64)
