"""Share of a map's energy where no finding lies, against the area and against the body.

A blunt test: on networks that had learned the phantom's planted marker, input gradients put 4 to
5 % of their energy into the corners, twice as much as on one that had not, but half of what the
area alone would give. So a map that is clear clears nobody.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from xray_lightning.audit.shortcuts.regions import BORDER, CORNER, Mask, body_of, corners, frame
from xray_lightning.audit.shortcuts.verdicts import UNDECIDED, Check
from xray_lightning.explain.grid import EVEN, Grids, enlarge
from xray_lightning.metrics.bootstrap import Codes, Counts, Floats, divided, ratio_over

DEPTHS = {"outside": BORDER, "border": BORDER, "corners": CORNER}  # of the thinnest part


@dataclass(frozen=True)
class Energy:
    """Where the maps of a label's positives lie.

    Attributes:
        share: mean share of a map's energy in the region.
        area: mean share of the image that the region is: what an even map would give.
        density: of the energy an area there and in the rest of the body, the share there: 0.5 where
            they are alike, 1 where the body has none; flagged above 0.5.
        undefined: maps without any energy, which are left out.
        grid: places of the map, height and width.
        verdict: that of ``density``; undecided where a place of the map is larger than the region.
    """

    share: float
    area: float
    density: Check
    undefined: int
    grid: tuple[int, int]
    verdict: str


def energy(values: Floats, shape: tuple[int, int], grids: Grids = EVEN) -> Floats:
    """A map (h, w) as energy on the image, (H, W), summing to 1; NaN for an even map.

    Enlarged bilinearly; what lies above the map's own median counts, so that a constant added to
    the map (the bias of a class activation map) changes nothing.
    """
    large = enlarge(values.astype(np.float64), shape, grids)
    above = np.maximum(large - np.median(large), 0)
    total = above.sum()
    return np.asarray(above / total if total > 0 else np.full(shape, np.nan))


def zones(inside: Mask) -> dict[str, Mask]:
    """The regions of an image whose body is known, (H, W) each."""
    return {"outside": ~inside, "border": frame(inside.shape), "corners": corners(inside.shape)}


def energy_of(
    maps: Floats, images: Tensor, codes: Codes, counts: Counts, grids: Grids = EVEN
) -> dict[str, Energy]:
    """Energy of maps (n, h, w) of images (n, 1, H, W) in each region.

    The images, in [0, 1], are those that have the label of the maps; ``codes`` (n,) are their
    patients, ``counts`` (1 + D, P) the sample, then bootstrap draws.
    """
    rows: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in DEPTHS}
    for values, image in zip(maps, images[:, 0].mul(255).round().byte().numpy(), strict=True):
        inside = body_of(image).inside
        lit = energy(values, image.shape, grids)
        for name, mask in zones(inside).items():
            rest = inside & ~mask
            rows[name].append((lit[mask].sum(), mask.mean(), lit[rest].sum(), rest.mean()))
    grid = maps.shape[1], maps.shape[2]
    return {
        name: _judged(np.array(each), grid, DEPTHS[name], codes, counts)
        for name, each in rows.items()
    }


def _judged(
    rows: Floats, grid: tuple[int, int], depth: float, codes: Codes, counts: Counts
) -> Energy:
    defined = ~np.isnan(rows[:, 0])
    share, area, rest_share, rest_area = rows[defined].T
    there, body = (
        ratio_over(counts, codes[defined], *pair)
        for pair in ((share, area), (rest_share, rest_area))
    )
    density = Check.of(divided(there, there + body), 0.5)
    resolved = 1 / min(grid) <= depth
    return Energy(
        share=float(share.mean()) if defined.any() else np.nan,
        area=float(area.mean()) if defined.any() else np.nan,
        density=density,
        undefined=int((~defined).sum()),
        grid=grid,
        verdict=density.verdict if resolved else UNDECIDED,
    )
