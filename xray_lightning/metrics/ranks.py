"""AUROC and average precision of one label in every draw of a bootstrap, sorted once.

A draw only changes how often an image counts, not the order of the scores. So the images are
sorted once, and a draw costs a sum of its counts between positive images, a few draws at a time so
that they stay in the cache. Counts are whole numbers below 2**24: float32 sums are exact.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy  # .stats, a second's import, loads at its first use

from xray_lightning.metrics.intervals import Array, Floats, Mask, divided, rarer_class
from xray_lightning.records import is_known

Counts = npt.NDArray[np.float32]  # (D, P): how often draw d took patient p
Codes = npt.NDArray[np.intp]  # (N,): number of each image's patient, 0 to P - 1

CHUNK = 32  # draws at a time
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

    @property
    def rarer(self) -> Mask:
        """The images of the rarer class, on which an AUROC rests, (n,)."""
        return rarer_class(self.positive)

    @cached_property
    def places(self) -> "_Places":
        """Where the sums of a draw are looked up."""
        falling = -self.scores
        levels = falling[self.positive]
        above, here = (np.searchsorted(falling, levels, side=side) for side in ("left", "right"))
        own = [np.searchsorted(levels, levels, side=side) for side in ("left", "right")]
        bounds = np.unique(np.concatenate([[0], above, here, [len(falling)]]))
        return _Places(
            bounds,
            above=np.searchsorted(bounds, above),
            here=np.searchsorted(bounds, here),
            own_above=own[0],
            own_here=own[1],
        )


@dataclass(frozen=True)
class _Places:
    """Of each of the m positive images, how many images lie above it, and at or above it."""

    bounds: Codes  # the numbers of images that occur, rising, 0 and n included, (K,)
    above: Codes  # position in ``bounds`` of the images above, (m,)
    here: Codes  # of the images at or above, (m,)
    own_above: Codes  # positive images above, (m,)
    own_here: Codes  # positive images at or above, (m,)


def curves_over(ranking: Ranking, counts: Counts) -> tuple[Floats, Floats]:
    """AUROC and average precision of each draw, (D,) each; NaN without a positive or a negative."""
    # Mann-Whitney statistic of the images repeated by whole ``counts`` (D, P), ties one half; sum
    # over thresholds of (R_n - R_(n-1)) P_n, as scikit-learn's.
    _require_exact(ranking, counts)
    if not len(ranking.codes):
        return np.full(len(counts), np.nan), np.full(len(counts), np.nan)
    parts = [
        _curves(ranking, counts[start : start + CHUNK]) for start in range(0, len(counts), CHUNK)
    ]
    auroc, precision = (np.concatenate(each) for each in zip(*parts, strict=True))
    return auroc, precision


def _require_exact(ranking: Ranking, counts: Counts) -> None:
    images = np.bincount(ranking.codes, minlength=counts.shape[1])
    most = float((counts.astype(np.float64) @ images).max())
    if most >= EXACT:
        raise ValueError(f"a draw holds {most:,.0f} images; up to {EXACT:,} are counted exactly")


def _curves(ranking: Ranking, counts: Counts) -> tuple[Floats, Floats]:
    """Of a few draws."""
    places = ranking.places
    every = np.zeros((len(counts), len(places.bounds)), dtype=np.float32)
    weights = np.take(counts, ranking.codes, axis=1)  # (d, n)
    # Sums between the bounds first: NumPy's cumulative sum is four times slower an element.
    np.cumsum(np.add.reduceat(weights, places.bounds[:-1], axis=1), axis=1, out=every[:, 1:])
    weights = weights[:, ranking.positive]  # (d, m)
    found = np.zeros((len(counts), weights.shape[1] + 1), dtype=np.float32)
    np.cumsum(weights, axis=1, out=found[:, 1:])
    reached, true = np.take(every, places.here, axis=1), np.take(found, places.own_here, axis=1)
    false = reached - true  # negatives at or above each positive
    false_above = np.take(every, places.above, axis=1) - np.take(found, places.own_above, axis=1)
    positives, total = found[:, -1].astype(np.float64), every[:, -1].astype(np.float64)
    lost = np.multiply(weights, false + false_above, dtype=np.float64).sum(axis=1) / 2
    pairs = positives * (total - positives)
    gained = np.multiply(weights, true, dtype=np.float64)
    precision = np.divide(gained, reached, out=np.zeros_like(gained), where=reached > 0)
    precision = np.where(pairs > 0, divided(precision.sum(axis=1), positives), np.nan)
    return divided(pairs - lost, pairs), precision


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
