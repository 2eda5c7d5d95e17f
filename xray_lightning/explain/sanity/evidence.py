"""Does the score follow the map when pixels vanish or appear in its order?

Petsiuk et al., RISE (BMVC 2018), section 4.1. Pixels vanish into, and appear from, a blurred image,
which is closer to a radiograph than black or grey.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from xray_lightning.errors import require_integer
from xray_lightning.explain.grid import enlarge
from xray_lightning.explain.sanity import study as rules
from xray_lightning.explain.sanity.study import Mean, Study
from xray_lightning.metrics.intervals import Floats, mean_of_defined
from xray_lightning.metrics.ranks import Codes
from xray_lightning.results import Result

BLUR = 1 / 16  # standard deviation of the baseline's Gaussian, as a share of the side
CONTROLS = ("random", "centre")


@dataclass(frozen=True)
class ControlOrder(Result):
    """Area under the curve of a control's order, and the map's advantage over it."""

    area: Mean
    advantage: Mean
    verdict: str


@dataclass(frozen=True)
class Perturbation(Result):
    """Deletion or insertion: area under the map's curve, the controls, and all curves."""

    verdict: str
    area: Mean
    controls: dict[str, ControlOrder]
    curves: dict[str, list[float]]


def perturb(
    net: nn.Module, study: Study, maps: Floats, label: int, steps: int
) -> dict[str, Perturbation]:
    """Deletion and insertion, each against a random order and an order from the centre outwards."""
    # An area lies under the score (after the sigmoid) by the share of pixels changed; the advantage
    # is the map's insertion less the control's, or the control's deletion less the map's. Random is
    # the order of noise of the map's resolution, enlarged alike, as the grain alone moves areas; it
    # also breaks ties: a flat map is exactly random. "passes": better than both by :mod:`~.study`;
    # "fails": worse than random (worse than the centre may be the grain). NaN: areas undefined.
    require_integer("steps", steps, 2)
    blurred = blur(study.images)
    ends = study.scores(net, label), study.scores(net, label, blurred)
    orders = _orders(maps, study)
    tests = {}
    for name, (first, last), scores in (
        ("deletion", (study.images, blurred), ends),
        ("insertion", (blurred, study.images), ends[::-1]),
    ):
        curves = {}
        for order, ranks in orders.items():
            mixed = (mix(first, last, ranks, step / steps) for step in range(1, steps))
            middle = [study.scores(net, label, images) for images in mixed]
            curves[order] = np.stack([scores[0], *middle, scores[1]])  # (1 + steps, N)
        curves["map"][:, np.isnan(maps).any(axis=(1, 2))] = np.nan
        tests[name] = compare_curves(curves, study, 1 if name == "insertion" else -1)
    return tests


def blur(images: Tensor) -> Tensor:
    """The baseline: images (N, 1, S, S) under a Gaussian of ``BLUR`` of their side."""
    sigma = BLUR * images.shape[-1]
    return torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="nearest"))


def mix(first: Tensor, last: Tensor, ranks: Codes, share: float) -> Tensor:
    """The first images (N, 1, S, S), with a share of the pixels, by rank, of the last ones."""
    changed = torch.from_numpy(ranks < round(share * ranks.shape[1]))
    return torch.where(changed.view_as(first), last, first)


def rank_pixels(maps: Floats, ties: Floats) -> Codes:
    """Rank of each place in its map, 0 the greatest, (N, S * S)."""
    count = len(maps)
    order = np.lexsort((-ties.reshape(count, -1), -maps.reshape(count, -1)), axis=1)
    return np.argsort(order, axis=1)


def _orders(maps: Floats, study: Study) -> dict[str, Codes]:
    side = study.images.shape[-1]
    generator = np.random.default_rng(study.sample.seed)
    from_centre = np.abs(np.arange(side) - (side - 1) / 2)
    centre = -np.hypot(from_centre[:, None], from_centre)
    noise = enlarge(generator.random(maps.shape), side, study.grids)
    orders = {
        "map": enlarge(maps, side, study.grids),
        "random": noise,
        "centre": np.broadcast_to(centre, noise.shape),
    }
    return {name: rank_pixels(order, noise) for name, order in orders.items()}


def compare_curves(curves: Mapping[str, Floats], study: Study, sign: int) -> Perturbation:
    """Verdict on curves (1 + steps, N) of each order; sign: 1 if a large area is good, else -1."""
    areas = {name: (curve[1:] + curve[:-1]).mean(axis=0) / 2 for name, curve in curves.items()}
    mean, controls = study.sample.mean, {}
    for name in CONTROLS:
        advantage = mean(sign * (areas["map"] - areas[name]))
        controls[name] = ControlOrder(mean(areas[name]), advantage, rules.rate_advantage(advantage))
    verdict = rules.combine_verdicts(control.verdict for control in controls.values())
    if verdict == rules.FAILS != controls["random"].verdict:
        verdict = rules.UNDECIDED
    drawn = {name: mean_of_defined(curve.T).tolist() for name, curve in curves.items()}
    return Perturbation(verdict, mean(areas["map"]), controls, drawn)
