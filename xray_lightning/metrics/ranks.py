"""AUROC and average precision of one label in every draw of a bootstrap, sorted once.

A draw only changes how often an image counts, not the order of the scores. So the images are
sorted once, and a draw costs two cumulative sums of its counts, a few draws at a time so that they
stay in the processor's cache. Counts are whole numbers below 2**24: float32 sums are exact.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from xray_lightning.metrics.clusters import Codes, Counts, Floats, divided

CHUNK = 32  # draws at a time
EXACT = 2**24  # float32 counts in whole numbers up to here


@dataclass(frozen=True)
class Ranking:
    """The images of one label whose target is known, ready to be judged in many draws.

    Attributes:
        codes: number of each image's patient, (n,).
        scores: (n,).
        positive: (n,) bool.
    """

    codes: Codes
    scores: npt.NDArray[np.floating]
    positive: npt.NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        scores: npt.NDArray[np.floating],
        targets: npt.NDArray[np.floating],
        codes: Codes,
    ) -> "Ranking":
        """Leave out the images whose target is unknown (NaN), and sort by falling score."""
        known = np.flatnonzero(~np.isnan(targets))
        order = known[np.argsort(-scores[known], kind="stable")]
        return cls(codes[order], scores[order], targets[order] == 1)

    @cached_property
    def places(self) -> tuple[Codes, ...]:
        """Of each positive image (m,): images and positives above it, and at or above it."""
        falling = -self.scores
        levels, own = falling[self.positive], falling[self.positive]
        return tuple(
            np.searchsorted(everything, levels, side=side)
            for side in ("left", "right")
            for everything in (falling, own)
        )


def curves_over(ranking: Ranking, counts: Counts) -> tuple[Floats, Floats]:
    """AUROC and average precision of each draw, (D,) each.

    AUROC is the Mann-Whitney statistic of the images repeated by their counts, ties one half;
    average precision is the sum over thresholds of (R_n - R_(n-1)) P_n, as scikit-learn's.

    Args:
        ranking: of one label.
        counts: (D, P), in whole numbers.

    Returns:
        NaN where a draw lacks a positive or, for AUROC, a negative.

    Raises:
        ValueError: a draw holds more than 2**24 images.
    """
    if counts.sum(axis=1).max(initial=0) * np.bincount(ranking.codes).max(initial=0) >= EXACT:
        _require_exact(ranking, counts)
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
    every = _summed(counts, ranking.codes)  # (d, n + 1)
    weights = np.take(counts, ranking.codes[ranking.positive], axis=1)  # (d, m)
    found = np.zeros((len(counts), weights.shape[1] + 1), dtype=np.float32)
    np.cumsum(weights, axis=1, out=found[:, 1:])
    above, found_above, to_here, found_to_here = ranking.places
    reached, true = np.take(every, to_here, axis=1), np.take(found, found_to_here, axis=1)
    false = reached - true  # negatives at or above each positive
    false_above = np.take(every, above, axis=1) - np.take(found, found_above, axis=1)
    positives, total = found[:, -1].astype(np.float64), every[:, -1].astype(np.float64)
    lost = np.multiply(weights, false + false_above, dtype=np.float64).sum(axis=1) / 2
    pairs = positives * (total - positives)
    gained = np.multiply(weights, true, dtype=np.float64)
    precision = np.divide(gained, reached, out=np.zeros_like(gained), where=reached > 0)
    return divided(pairs - lost, pairs), divided(precision.sum(axis=1), positives)


def _summed(counts: Counts, codes: Codes) -> Counts:
    sums = np.zeros((len(counts), len(codes) + 1), dtype=np.float32)
    np.cumsum(np.take(counts, codes, axis=1), axis=1, out=sums[:, 1:])
    return sums
