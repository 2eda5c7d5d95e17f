"""Share of a map's energy where no finding lies, against the area and against the body.

A blunt test: on networks that had learned the phantom's planted marker, input gradients put 4 to
5 % of their energy into the corners, twice as much as on one that had not, but half of what the
area alone would give. So a map that is clear proves nothing.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from xray_lightning.audit.shortcuts.checks import UNDECIDED, Check
from xray_lightning.audit.shortcuts.regions import (
    BORDER,
    CORNER,
    find_body,
    mask_border,
    mask_corners,
    to_grey,
)
from xray_lightning.explain.grid import EVEN, Grids, enlarge
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.intervals import Floats, divided, mean_of_defined
from xray_lightning.results import Result

DEPTHS = {"outside": BORDER, "border": BORDER, "corners": CORNER}  # of the thinnest part


@dataclass(frozen=True)
class Energy(Result):
    """Where the maps of a label's positives lie."""

    share: float  # mean share of a map's energy in the region
    area: float  # mean share of the image that the region is: what an even map would give
    density: Check  # energy an area there, of that and the rest of the body's: 0.5 where alike
    undefined: int  # maps without any energy, which are left out
    grid: tuple[int, int]  # places of the map, height and width
    verdict: str  # of the density; undecided where a place of the map is larger than the region


def normalise_map(values: Floats, shape: tuple[int, int], grids: Grids = EVEN) -> Floats:
    """A map (h, w) as energy on the image, (H, W), summing to 1; NaN for an even map.

    Enlarged bilinearly; what lies above the map's own median counts, so that a constant added to
    the map (the bias of a class activation map) changes nothing.
    """
    large = enlarge(values.astype(np.float64), shape, grids)
    above = np.maximum(large - np.median(large), 0)
    total = above.sum()
    return np.asarray(above / total if total > 0 else np.full(shape, np.nan))


def measure_energy(
    maps: Floats, images: Tensor, bootstrap: PatientBootstrap, grids: Grids = EVEN
) -> dict[str, Energy]:
    """Energy of maps (n, h, w) of images (n, 1, H, W) in [0, 1] with their label, by region."""
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in DEPTHS}
    for values, pixels in zip(maps, to_grey(images), strict=True):
        inside, shape = find_body(pixels).inside, pixels.shape
        energy = normalise_map(values, shape, grids)
        masks = ~inside, mask_border(shape), mask_corners(shape)
        for name, mask in zip(DEPTHS, masks, strict=True):
            rest = inside & ~mask
            rows[name].append((energy[mask].sum(), mask.mean(), energy[rest].sum(), rest.mean()))
    grid = maps.shape[1], maps.shape[2]
    return {name: _summarise(np.array(rows[name]), grid, DEPTHS[name], bootstrap) for name in rows}


def _summarise(
    rows: Floats, grid: tuple[int, int], depth: float, bootstrap: PatientBootstrap
) -> Energy:
    """Of the energy and area there, and of the rest of the body, (n, 4)."""
    defined = ~np.isnan(rows[:, 0])
    rows, drawn = rows[defined], bootstrap.subset(defined)
    there, body = (drawn.ratio(rows[:, first], rows[:, first + 1]) for first in (0, 2))
    density = Check.of(divided(there, there + body), 0.5)
    verdict = density.verdict if 1 / min(grid) <= depth else UNDECIDED
    share, area = mean_of_defined(rows[:, :2]).tolist()
    return Energy(share, area, density, int((~defined).sum()), grid, verdict)
