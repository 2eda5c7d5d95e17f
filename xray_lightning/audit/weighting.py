"""AUROC of weighted images, and the weights that give one sample another's mix."""

import numpy as np
import numpy.typing as npt

from xray_lightning.metrics.clusters import Codes, Floats, divided

CHUNK = 16  # draws at a time


def reweighting(
    val_cells: Codes, test_cells: Codes, val_weights: Floats, test_weights: Floats
) -> Floats:
    """Weights of the test images that give them validation's mix of cells, (D, m).

    Args:
        val_cells: cell of each validation image, (n,).
        test_cells: of each test image, (m,).
        val_weights: how often each draw has each validation image, (D, n).
        test_weights: each test image, (D, m).
    """
    count = int(max(val_cells.max(), test_cells.max())) + 1
    found = np.empty(test_weights.shape)
    for row, wanted, have in zip(found, val_weights, test_weights, strict=True):
        shares = [
            np.bincount(cells, weights=each, minlength=count) / each.sum()
            for cells, each in ((val_cells, wanted), (test_cells, have))
        ]
        row[:] = have * np.nan_to_num(divided(*shares))[test_cells]
    return found


def effective_size(weights: Floats) -> float:
    """(sum w)^2 / sum w^2 (Kish 1965): how many equally weighted ones tell as much.

    >>> effective_size(np.array([1.0, 1.0, 0.0]))
    2.0
    """
    return float(divided(weights.sum() ** 2, (weights**2).sum()))


def weighted_auroc(scores: Floats, positive: npt.NDArray[np.bool_], weights: Floats) -> Floats:
    """Weighted share of pairs of a positive and a negative in the right order, ties half, (D,).

    Args:
        scores: (n,).
        positive: (n,).
        weights: of each image in each draw, (D, n).

    Returns:
        NaN where a draw has no positive or no negative.
    """
    order = np.argsort(scores, kind="stable")
    ordered, positive = scores[order], positive[order]
    below, upto = (np.searchsorted(ordered, ordered[positive], side=s) for s in ("left", "right"))
    found = []
    for start in range(0, len(weights), CHUNK):
        chunk = weights[start : start + CHUNK][:, order]
        negative = np.zeros((len(chunk), len(order) + 1))
        np.cumsum(np.where(positive, 0, chunk), axis=1, out=negative[:, 1:])
        own = chunk[:, positive]
        won = (own * (negative[:, below] + negative[:, upto])).sum(axis=1) / 2
        found.append(divided(won, own.sum(axis=1) * negative[:, -1]))
    return np.concatenate(found)
