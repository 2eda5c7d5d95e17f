"""Where the cells of a map see the image, and maps at the image's resolution.

The usual way, cell i of h around (i + 0.5) S / h, is off by up to half a cell where strided layers
pad both sides alike: a 3 x 3 convolution of stride 2 and padding 1 looks around pixel 2 i, not
between 2 i and 2 i + 1, and five of them add up to 15.5 pixels of 32 (ResNet). See Araujo et al.,
Computing Receptive Fields of Convolutional Neural Networks (Distill 2019).
"""

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]  # floating, of either precision
Size = int | tuple[int, int]  # of an image: its side, or height and width


class Grid(NamedTuple):
    """Cell i sees the pixels around ``first + i * step``; 0 is the centre of the first pixel."""

    first: float
    step: float

    @classmethod
    def even(cls, cells: int, size: int) -> "Grid":
        """Cells that divide the image among themselves."""
        return cls((size / cells - 1) / 2, size / cells)


Grids = Mapping[int, Grid]  # by the number of cells along a side
EVEN: Grids = MappingProxyType({})  # a side whose number of cells is not there is even


def grid_of(cells: int, size: int, grids: Grids = EVEN) -> Grid:
    """Grid of a side with so many cells."""
    return grids.get(cells) or Grid.even(cells, size)


def enlarge(maps: Floats, size: Size, grids: Grids = EVEN) -> Floats:
    """Maps (..., h, w) at the image's resolution, (..., H, W).

    Linear between the points that two cells see, flat beyond the last.
    """
    height, width = size if isinstance(size, tuple) else (size, size)
    down, across = (
        _linear(cells, side, grid_of(cells, side, grids)).astype(maps.dtype)
        for cells, side in zip(maps.shape[-2:], (height, width), strict=True)
    )
    return np.asarray(down @ maps @ across.T)


def shrink(region: Floats, shape: tuple[int, int], grids: Grids = EVEN) -> npt.NDArray[np.float32]:
    """Share of each of (h, w) cells that a place (H, W) covers: the best such a map can say."""
    down, across = (
        _shares(cells, side, grid_of(cells, side, grids))
        for cells, side in zip(shape, region.shape, strict=True)
    )
    covered = down @ region.astype(np.float64) @ across.T
    return np.asarray(covered.clip(0, 1), dtype=np.float32)


@lru_cache(maxsize=64)
def _linear(cells: int, size: int, grid: Grid) -> npt.NDArray[np.float64]:
    """Weight of each cell in each pixel, (size, cells)."""
    place = ((np.arange(size) - grid.first) / grid.step).clip(0, cells - 1)
    weights: npt.NDArray[np.float64] = (1 - np.abs(place[:, None] - np.arange(cells))).clip(0)
    return weights


@lru_cache(maxsize=64)
def _shares(cells: int, size: int, grid: Grid) -> npt.NDArray[np.float64]:
    """Weight of each pixel in each cell, (cells, size); 0 for a cell that sees none best."""
    ends = grid.first + (np.arange(cells + 1) - 0.5) * grid.step
    ends[0], ends[-1] = min(ends[0], -0.5), max(ends[-1], size - 0.5)
    pixels = np.arange(size)
    common = np.minimum(ends[1:, None], pixels + 0.5) - np.maximum(ends[:-1, None], pixels - 0.5)
    common = common.clip(0)
    total = common.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(common, total, out=np.zeros_like(common), where=total > 0))
