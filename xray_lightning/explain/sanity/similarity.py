"""How alike maps are: of one image and two networks, of randomised networks, of a moved image.

A measure that is undefined is NaN: of a map that is the same everywhere or has a NaN, and SSIM of
a map below 3 x 3.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from xray_lightning.errors import ConfigError
from xray_lightning.explain.grid import enlarge
from xray_lightning.explain.sanity.layers import Stage, batch_norms, calibrate, reset, stages
from xray_lightning.explain.sanity.study import Study, copied
from xray_lightning.explain.sanity.verdicts import Facts, Sample, of_measures, similarity_facts
from xray_lightning.metrics.bootstrap import Codes, Floats, mean_of_defined

MEASURES = ("spearman", "absolute", "ssim")
Prepared = dict[str, Floats]  # measure -> what of N maps does not depend on the other map

WINDOW = 7  # of SSIM, at most
CONSTANTS = 0.01**2, 0.03**2  # of SSIM, K1 and K2 of the paper, for maps from 0 to 1

FEWEST_NETWORKS = 4  # of which a bootstrap draws the same one only in 2 % of cases
SHIFTS = ((0, 1), (2, 0), (0, -3), (-4, 0))  # rows and columns, in pixels of the image


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


def randomisation_facts(net: nn.Module, study: Study, original: Prepared, networks: int) -> Facts:
    """Do maps change when what the network learned is taken away, from the head to the input?

    Adebayo et al., Sanity Checks for Saliency Maps (NeurIPS 2018), sections 3 and 4. A map that
    stays is a picture of the image, not of the network.

    Each stage (:func:`~.layers.stages`) is reset (:func:`~.layers.reset`) and stays so; batch norms
    that were reset take their statistics from the study's images (:func:`~.layers.calibrate`).
    One network goes through the cascade; for the verdict, ``networks`` of them are wholly random.

    Rule, for each measure: "passes" if the similarity of the random networks' maps to the
    original's is low by :mod:`~.verdicts` and is not shown to exceed that between two random
    networks; "fails" if it is high; else "undecided". Networks and patients are resampled.
    :func:`~.verdicts.together` makes one verdict. Takes S + R - 1 maps of each image of the study
    for S stages and R ``networks``, and as many scoreless passes where there are batch norms;
    ``original`` are the maps of ``net``, which is left alone.

    Raises:
        ConfigError: fewer than four networks.
    """
    if networks < FEWEST_NETWORKS:
        raise ConfigError(f"networks must be at least {FEWEST_NETWORKS}, got {networks}")
    parts = stages(net)
    generator = np.random.default_rng(study.sample.seed)
    cascade = randomised_maps(net, study, [(part,) for part in parts], generator)
    random = [cascade[-1]]
    for _ in range(networks - 1):
        random += randomised_maps(net, study, [parts], generator)
    measures = _against_random(original, random, study.sample)
    steps = [alike(original, maps) for maps in cascade]
    return {
        **of_measures(measures),
        "networks": networks,
        "stages": [
            {"name": part.name, "layers": len(part.layers)}
            | {name: study.sample.estimate(step[name]).facts() for name in MEASURES}
            for part, step in zip(parts, steps, strict=True)
        ],
    }


def randomised_maps(
    net: nn.Module, study: Study, steps: Sequence[Sequence[Stage]], generator: np.random.Generator
) -> list[Prepared]:
    """Maps after each step, at which these stages become random beside those before."""
    random, device = copied(net), next(net.parameters()).device
    done: list[str] = []
    found = []
    for step in steps:
        layers = [layer for stage in step for layer in stage.layers]
        reset(random.cpu(), layers, generator)
        random.to(device)
        done += layers
        if batch_norms(random, done):
            calibrate(random, done, study.batches(random))
            study.advance(len(study.images))
        found.append(prepared(study.maps(random)))
    return found


def _against_random(original: Prepared, random: Sequence[Prepared], sample: Sample) -> Facts:
    """Facts of each measure, on (R, N) similarities."""
    partners = sample.partners
    similarity = [alike(original, maps) for maps in random]
    chance = [alike(original, rows_of(maps, partners)) for maps in random]
    pairs = {
        (one, two): alike(random[one], random[two])
        for one in range(len(random))
        for two in range(one)
    }

    def among(measure: str, network: int) -> np.ndarray:
        others = [found[measure] for pair, found in pairs.items() if network in pair]
        return mean_of_defined(np.stack(others))  # of one random network to the others, (N,)

    return {
        measure: similarity_facts(
            np.stack([each[measure] for each in similarity]),
            np.stack([each[measure] for each in chance]),
            sample,
            high=False,
            control=np.stack([among(measure, network) for network in range(len(random))]),
        )
        for measure in MEASURES
    }


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

    Rule: "passes" if the rank correlation is high by :mod:`~.verdicts`, "fails" if it is low. These
    networks are taken as given: the interval is over patients. ``maps`` are (K, N, h, w).

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
    high by :mod:`~.verdicts`, "fails" if it is low. Takes four maps of each image of the study;
    ``original`` (N, h, w) are those of the unmoved images.
    """
    margin = max(abs(step) for shift in SHIFTS for step in shift)
    side = study.images.shape[-1]
    if side <= 2 * margin + 1:
        raise ConfigError(f"images must have more than {2 * margin + 1} pixels a side, got {side}")

    def inner(maps: Floats) -> Prepared:
        return prepared(maps[:, margin:-margin, margin:-margin])

    still = inner(enlarge(original, side, study.grids))
    same, chance = [], []
    for rows, columns in SHIFTS:
        maps = study.maps(net, shifted(study.images, rows, columns))
        moved = enlarge(maps, side, study.grids)
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
