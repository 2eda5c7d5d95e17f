"""Are maps of other networks alike, and maps of the same image moved a little?"""

from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from xray_lightning.errors import ConfigError
from xray_lightning.grid import enlarged
from xray_lightning.metrics.clusters import Floats, mean_of_defined
from xray_lightning.saliency.similarity import MEASURES, Prepared, alike, prepared, rows_of
from xray_lightning.saliency.study import Study
from xray_lightning.saliency.verdicts import Facts, Sample, of_measures, similarity_facts

SHIFTS = ((0, 1), (2, 0), (0, -3), (-4, 0))  # rows and columns, in pixels of the image


def permutation_facts(permuted: Prepared, original: Prepared, sample: Sample) -> Facts:
    """Maps of a network trained on the labels against those of one trained on permuted labels.

    Adebayo et al., Sanity Checks for Saliency Maps (NeurIPS 2018), section 5. Rule, for each
    measure: "passes" if the similarity is low by :mod:`~.verdicts`, "fails" if it is high;
    :func:`~.verdicts.together` makes one verdict. Of two networks: the interval is over patients.
    """
    same = alike(original, permuted)
    chance = alike(original, rows_of(permuted, sample.partners))
    measures = {
        name: similarity_facts(same[name], chance[name], sample, high=False) for name in MEASURES
    }
    return of_measures(measures)


def seed_facts(maps: Floats, sample: Sample) -> Facts:
    """Agreement of K networks that differ in their seed, the mean over pairs of networks.

    Rule: "passes" if the rank correlation is high by :mod:`~.verdicts`, "fails" if it is low.
    These networks are taken as given: the interval is over patients.

    Args:
        maps: (K, N, h, w).
        sample: the patients.

    Raises:
        ConfigError: fewer than two networks.
    """
    if len(maps) < 2:
        raise ConfigError(f"agreement needs maps of two networks, got {len(maps)}")
    pairs = list(combinations([prepared(each) for each in maps], 2))
    same = [alike(one, two)["spearman"] for one, two in pairs]
    chance = [alike(one, rows_of(two, sample.partners))["spearman"] for one, two in pairs]
    return {
        **similarity_facts(_mean(same), _mean(chance), sample, high=True),
        "networks": len(maps),
    }


def shift_facts(net: nn.Module, study: Study, original: Floats) -> Facts:
    """Stability when the image moves by one to four pixels; the map is moved back.

    What enters at an edge repeats the edge. Maps are compared at the image's resolution, without a
    margin of four pixels. Rule: "passes" if the rank correlation, the mean over four shifts, is
    high by :mod:`~.verdicts`, "fails" if it is low.

    Args:
        net: in evaluation mode.
        study: N images; takes four maps of each.
        original: maps (N, h, w) of the unmoved images.
    """
    margin = max(abs(step) for shift in SHIFTS for step in shift)
    side = study.images.shape[-1]
    if side <= 2 * margin + 1:
        raise ConfigError(f"images must have more than {2 * margin + 1} pixels a side, got {side}")

    def inner(maps: Floats) -> Prepared:
        return prepared(maps[:, margin:-margin, margin:-margin])

    still = inner(enlarged(original, side, study.grids))
    same, chance = [], []
    for rows, columns in SHIFTS:
        maps = study.maps(net, shifted(study.images, rows, columns))
        moved = enlarged(maps, side, study.grids)
        back = inner(np.roll(moved, (-rows, -columns), axis=(1, 2)))  # the margin is cut off
        same.append(alike(still, back)["spearman"])
        chance.append(alike(still, rows_of(back, study.sample.partners))["spearman"])
    facts = similarity_facts(_mean(same), _mean(chance), study.sample, high=True)
    return {**facts, "shifts": [list(shift) for shift in SHIFTS]}


def shifted(images: Tensor, rows: int, columns: int) -> Tensor:
    """Images (N, 1, S, S) moved down and right, their edges repeated."""
    height, width = images.shape[2:]
    down = (torch.arange(height) - rows).clamp(0, height - 1)
    right = (torch.arange(width) - columns).clamp(0, width - 1)
    return images[:, :, down][:, :, :, right]


def _mean(values: list[Floats]) -> Floats:
    return mean_of_defined(np.stack(values))
