"""AUROC and average precision of one label in every draw of a bootstrap, sorted once.

For a draw with counts c the AUROC is a bilinear form, sum over p, q of c_p c_q A[p, q], where
A[p, q] says how often a positive image of patient p beats a negative one of patient q (ties count
one half). A is made once; a draw costs a product with it. Only patients with a positive image have
a row, so rare findings are almost free.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xray_lightning.metrics.clusters import Codes, Counts, Floats, divided

BLOCK = 1024  # thresholds at a time: bounds the memory to BLOCK x patients


@dataclass(frozen=True)
class Ranking:
    """The images of one label whose target is known, ready to be judged in many draws.

    Attributes:
        codes: number of each image's patient, (n,).
        clusters: number of patients P, those without a known image included.
        scores: (n,).
        positive: (n,) bool.
    """

    codes: Codes
    clusters: int
    scores: npt.NDArray[np.floating]
    positive: npt.NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        scores: npt.NDArray[np.floating],
        targets: npt.NDArray[np.floating],
        codes: Codes,
        clusters: int,
    ) -> "Ranking":
        """Leave out the images whose target is unknown (NaN)."""
        known = ~np.isnan(targets)
        return cls(codes[known], clusters, scores[known], targets[known] == 1)

    def totals(self, counts: Counts) -> tuple[Floats, Floats]:
        """Positive and negative images in each draw, (D,) each."""
        positive = np.bincount(self.codes[self.positive], minlength=self.clusters)
        negative = np.bincount(self.codes[~self.positive], minlength=self.clusters)
        return np.asarray(counts @ positive, dtype=np.float64), np.asarray(
            counts @ negative, dtype=np.float64
        )


def auroc_over(ranking: Ranking, counts: Counts) -> Floats:
    """AUROC of each draw, (D,); NaN where a draw lacks a positive or a negative.

    Equal to the Mann-Whitney statistic of the images repeated by their counts (ties one half).
    """
    winners, wins = patient_wins(ranking)
    positives, negatives = ranking.totals(counts)
    products: npt.NDArray[np.floating] = counts @ wins.T.astype(
        np.float32
    )  # (D, W), in halves: exact below 2**23
    if products.max(initial=0) >= 2**23:
        products = counts @ wins.T
    beaten = np.einsum("dw,dw->d", counts[:, winners], products, dtype=np.float64)
    return divided(beaten, positives * negatives)


def patient_wins(ranking: Ranking) -> tuple[Codes, Floats]:
    """How often each patient's positive images beat each patient's negative ones.

    Returns:
        The W patients with a positive image, and A, (W, P).
    """
    winners, rows = np.unique(ranking.codes[ranking.positive], return_inverse=True)
    wins = np.zeros((len(winners), ranking.clusters))
    scores, codes = ranking.scores[~ranking.positive], ranking.codes[~ranking.positive]
    positives = ranking.scores[ranking.positive]
    order = np.argsort(positives, kind="stable")
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        below = _cumulative(positives[block], scores, codes, ranking.clusters)  # (b, P)
        by_patient = np.argsort(rows[block], kind="stable")
        owners, first = np.unique(rows[block][by_patient], return_index=True)
        wins[owners] += np.add.reduceat(below[by_patient], first, axis=0)
    return winners, wins


def _cumulative(
    thresholds: npt.NDArray[np.floating],
    scores: npt.NDArray[np.floating],
    codes: Codes,
    clusters: int,
) -> Counts:
    """Images of each patient below each rising threshold, half for those equal to it, (b, P)."""
    table = np.zeros((len(thresholds) + 1, clusters), dtype=np.float32)
    for side in ("left", "right"):
        place = np.searchsorted(thresholds, scores, side=side)  # the first threshold it is below
        np.add.at(table, (place, codes), 0.5)
    return np.asarray(np.cumsum(table[:-1], axis=0, dtype=np.float32))


def average_precision_over(ranking: Ranking, counts: Counts) -> Floats:
    """Average precision of each draw, (D,); NaN where a draw has no positive.

    Sum over the thresholds of (R_n - R_(n-1)) P_n, without interpolation, as scikit-learn's.
    Counts of images are whole numbers below 2**24, so float32 products are exact.
    """
    positives, _ = ranking.totals(counts)
    areas = np.zeros(len(counts))
    for here, above, positive_above in _thresholds(ranking):
        gained = counts @ here.T  # (D, b): positive images at the threshold
        precision = divided(counts @ positive_above.T, counts @ above.T)
        areas += np.nansum(gained * precision, axis=1)
    return divided(areas, positives)


def _thresholds(ranking: Ranking) -> Iterator[tuple[Counts, Counts, Counts]]:
    """Per patient: positives at, images at or above, positives at or above, (b, P) each."""
    levels = -np.unique(-ranking.scores[ranking.positive])  # falling
    chosen = ranking.positive
    for start in range(0, len(levels), BLOCK):
        part = levels[start : start + BLOCK]
        above = _at_or_above(part, ranking.scores, ranking.codes, ranking.clusters)
        codes, scores = ranking.codes[chosen], ranking.scores[chosen]
        positive_above = _at_or_above(part, scores, codes, ranking.clusters)
        inside = (scores <= part[0]) & (scores >= part[-1])
        here = np.zeros_like(above)
        np.add.at(here, (np.searchsorted(-part, -scores[inside]), codes[inside]), 1)
        yield here, above, positive_above


def _at_or_above(
    levels: npt.NDArray[np.floating],
    scores: npt.NDArray[np.floating],
    codes: Codes,
    clusters: int,
) -> Counts:
    table = np.zeros((len(levels) + 1, clusters), dtype=np.float32)
    np.add.at(table, (np.searchsorted(-levels, -scores), codes), 1)
    return np.asarray(np.cumsum(table[:-1], axis=0, dtype=np.float32))
