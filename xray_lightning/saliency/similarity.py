"""How alike two maps of an image are: rank correlation, with and without sign, and SSIM.

A measure that is undefined is NaN: of a map that is the same everywhere or has a NaN, and SSIM of
a map below 3 x 3.
"""

import numpy as np
import torch
from scipy.stats import rankdata
from torch.nn import functional as F  # noqa: N812

from xray_lightning.metrics.clusters import Codes, Floats

MEASURES = ("spearman", "absolute", "ssim")
Prepared = dict[str, Floats]  # measure -> what of N maps does not depend on the other map

WINDOW = 7  # of SSIM, at most
CONSTANTS = 0.01**2, 0.03**2  # of SSIM, K1 and K2 of the paper, for maps from 0 to 1


def prepared(maps: Floats) -> Prepared:
    """What :func:`alike` needs of maps (N, h, w)."""
    return {"spearman": ranked(maps), "absolute": ranked(np.abs(maps)), "ssim": scaled(maps)}


def alike(first: Prepared, second: Prepared) -> Prepared:
    """Similarity of each map to its counterpart, (N,) of each measure.

    "spearman" is the rank correlation over places, "absolute" that of the absolute values (Adebayo
    et al., Sanity Checks for Saliency Maps, NeurIPS 2018, section 4.1: a map may only change its
    sign), and "ssim" the structural similarity of maps scaled to 0 to 1.
    """
    correlations = {
        name: np.asarray((first[name] * second[name]).sum(axis=1))
        for name in ("spearman", "absolute")
    }
    return {**correlations, "ssim": ssim(first["ssim"], second["ssim"])}


def rows_of(maps: Prepared, rows: Codes) -> Prepared:
    """The same of some of the maps, in that order."""
    return {name: values[rows] for name, values in maps.items()}


def ranked(maps: Floats) -> Floats:
    """Ranks of the places (ties share theirs) less their mean, of length 1: (N, h * w).

    The product of two rows is Spearman's correlation.
    """
    ranks = rankdata(maps.reshape(len(maps), -1), axis=1)
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    return np.asarray(ranks / _defined(np.sqrt((ranks**2).sum(axis=1, keepdims=True))))


def scaled(maps: Floats) -> Floats:
    """Each map from 0, its least value, to 1, its greatest."""
    low = maps.min(axis=(1, 2), keepdims=True)
    return np.asarray((maps - low) / _defined(maps.max(axis=(1, 2), keepdims=True) - low))


def ssim(first: Floats, second: Floats) -> Floats:
    """Structural similarity of maps (N, h, w) from 0 to 1, mean over whole windows: (N,).

    Wang et al., Image Quality Assessment (IEEE TIP 2004), eq. 13, in square windows of
    ``WINDOW`` places a side (or the largest odd side that fits) with unbiased variances.
    """
    side = min(WINDOW, *first.shape[1:])
    side -= 1 - side % 2
    if side < 3:
        return np.full(len(first), np.nan)
    one, two = torch.from_numpy(first)[:, None], torch.from_numpy(second)[:, None]
    mean_1, mean_2, square_1, square_2, product = (
        F.avg_pool2d(each, side, stride=1) for each in (one, two, one**2, two**2, one * two)
    )
    unbiased = side**2 / (side**2 - 1)
    variances = unbiased * (square_1 - mean_1**2 + square_2 - mean_2**2)
    covariance = unbiased * (product - mean_1 * mean_2)
    c_1, c_2 = CONSTANTS
    means = (2 * mean_1 * mean_2 + c_1) / (mean_1**2 + mean_2**2 + c_1)
    values = means * (2 * covariance + c_2) / (variances + c_2)
    return np.asarray(values.mean(dim=(1, 2, 3)).numpy())


def _defined(length: Floats) -> Floats:
    return np.where(length > 0, length, np.nan)
