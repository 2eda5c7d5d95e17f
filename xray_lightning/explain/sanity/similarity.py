"""How compare maps are: of one image and two networks, of randomised networks, of a moved image.

A measure that is undefined is NaN: of a map that is the same everywhere or has a NaN, and SSIM of
a map below 3 x 3.
"""

from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from xray_lightning.errors import ConfigError
from xray_lightning.explain.grid import enlarge
from xray_lightning.explain.sanity.study import MeasuredTest, Sample, Similarity, Study
from xray_lightning.metrics.intervals import Floats, mean_of_defined
from xray_lightning.metrics.ranks import Codes

MEASURES = ("spearman", "absolute", "ssim")
Prepared = dict[str, Floats]  # measure -> what of N maps does not depend on the other map

WINDOW = 7  # of SSIM, at most
CONSTANTS = 0.01**2, 0.03**2  # of SSIM, K1 and K2 of the paper, for maps from 0 to 1

SHIFTS = ((0, 1), (2, 0), (0, -3), (-4, 0))  # rows and columns, in pixels of the image


def prepare(maps: Floats) -> Prepared:
    """What :func:`compare` needs of maps (N, h, w)."""
    return {
        "spearman": rank_places(maps),
        "absolute": rank_places(np.abs(maps)),
        "ssim": scale(maps),
    }


def compare(first: Prepared, second: Prepared) -> Prepared:
    """Similarity of each map to its counterpart, (N,) of each measure.

    "spearman" is the rank correlation over places, "absolute" that of the absolute values (Adebayo
    et al., Sanity Checks for Saliency Maps, NeurIPS 2018, section 4.1: a map may only change its
    sign), and "ssim" the structural similarity of maps scale to 0 to 1.
    """
    correlations = {
        name: np.asarray((first[name] * second[name]).sum(axis=1))
        for name in ("spearman", "absolute")
    }
    return {**correlations, "ssim": ssim(first["ssim"], second["ssim"])}


def take(maps: Prepared, rows: Codes) -> Prepared:
    """The same of some of the maps, in that order."""
    return {name: prepared[rows] for name, prepared in maps.items()}


def rank_places(maps: Floats) -> Floats:
    """Ranks of the places (ties share theirs) less their mean, of length 1: (N, h * w)."""
    ranks = rankdata(maps.reshape(len(maps), -1), axis=1)
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    return np.asarray(ranks / _defined(np.sqrt((ranks**2).sum(axis=1, keepdims=True))))


def scale(maps: Floats) -> Floats:
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


def compare_permuted(permuted: Prepared, original: Prepared, sample: Sample) -> MeasuredTest:
    """Maps of a network trained on the labels against those of one trained on permuted labels.

    Adebayo et al., Sanity Checks for Saliency Maps (NeurIPS 2018), section 5. Rule, for each
    measure: "passes" if the similarity is low by :mod:`~.study`, "fails" if it is high. Of two
    networks: the interval is over patients.
    """
    same = compare(original, permuted)
    chance = compare(original, take(permuted, sample.partners))
    return MeasuredTest.of(
        {name: sample.rate_similarity(same[name], chance[name], high=False) for name in MEASURES}
    )


def compare_seeds(maps: Floats, sample: Sample) -> Similarity:
    """Agreement of K networks that differ in their seed, the mean over pairs of networks.

    Rule: "passes" if the rank correlation is high by :mod:`~.study`, "fails" if it is low. These
    networks are taken as given: the interval is over patients. ``maps`` are (K, N, h, w), K > 1.
    """
    pairs = list(combinations([prepare(own) for own in maps], 2))
    same = [compare(one, two)["spearman"] for one, two in pairs]
    chance = [compare(one, take(two, sample.partners))["spearman"] for one, two in pairs]
    agreement = sample.rate_similarity(_average(same), _average(chance), high=True)
    return replace(agreement, networks=len(maps))


def compare_shifted(net: nn.Module, study: Study, original: Floats) -> Similarity:
    """Stability when the image moves by one to four pixels; the map is moved back.

    What enters at an edge repeats the edge. Maps are compared at the image's resolution, without a
    margin of four pixels. Rule: "passes" if the rank correlation, the mean over four shifts, is
    high by :mod:`~.study`, "fails" if it is low. Takes four maps of each image of the study;
    ``original`` (N, h, w) are those of the unmoved images.
    """
    margin = max(abs(step) for move in SHIFTS for step in move)
    side, partners = study.images.shape[-1], study.sample.partners
    if side <= 2 * margin + 1:
        raise ConfigError(f"images must have more than {2 * margin + 1} pixels a side, got {side}")

    def inner(maps: Floats) -> Prepared:
        return prepare(maps[:, margin:-margin, margin:-margin])

    still = inner(enlarge(original, side, study.grids))
    same, chance = [], []
    for rows, columns in SHIFTS:
        maps = study.maps(net, shift(study.images, rows, columns))
        moved = enlarge(maps, side, study.grids)
        back = inner(np.roll(moved, (-rows, -columns), axis=(1, 2)))  # the margin is cut off
        same.append(compare(still, back)["spearman"])
        chance.append(compare(still, take(back, partners))["spearman"])
    stability = study.sample.rate_similarity(_average(same), _average(chance), high=True)
    return replace(stability, shifts=list(SHIFTS))


def shift(images: Tensor, rows: int, columns: int) -> Tensor:
    """Images (N, 1, S, S) moved down and right, their edges repeated."""
    height, width = images.shape[2:]
    down = (torch.arange(height) - rows).clamp(0, height - 1)
    right = (torch.arange(width) - columns).clamp(0, width - 1)
    return images[:, :, down][:, :, :, right]


def _average(similarities: list[Floats]) -> Floats:
    return mean_of_defined(np.stack(similarities))
