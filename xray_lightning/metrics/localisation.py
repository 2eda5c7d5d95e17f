"""Boxes from a heat map, their overlap with the boxes people drew, and all figures of one map."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from xray_lightning.errors import ConfigError
from xray_lightning.grid import EVEN, Grids, enlarged
from xray_lightning.metrics.clusters import Floats, divided
from xray_lightning.metrics.pointing import (
    Heat,
    Region,
    average_precision,
    energy_inside,
    pointing_game,
    rounding,
)

WANG = (60 / 255, 180 / 255)  # Wang 2017, section 3.3: shares of the map's range, both at once
OVERLAPS = tuple(tenth / 10 for tenth in range(1, 10))
GRID = tuple(twentieth / 20 for twentieth in range(2, 19))  # shares that tuning tries

# The figures of a map: (name,) or (name, overlap). Each is a sum over images or boxes.
FIGURES: tuple[tuple[str, ...], ...] = (
    ("pointing_game",),
    ("energy",),
    ("average_precision",),
    ("centre",),
    ("iou",),
    ("iobb",),
    *[(name, str(over)) for name in ("t_iou", "t_iobb", "afp") for over in OVERLAPS],
)


def detected_boxes(heat: Heat, shares: Sequence[float]) -> Floats:
    """Rectangles around the connected parts of a map that reach a share of its range.

    Wang et al., ChestX-ray8 (CVPR 2017), section 3.3. Pixels that touch at a corner are connected.
    A flat map gives no box: it points nowhere.

    Args:
        heat: (S, S).
        shares: thresholds in (0, 1] of the range from the least to the greatest value; the boxes of
            all of them are taken together, as in the paper with :data:`WANG`.

    Returns:
        (K, 4): x, y, width, height in pixels, from the edges of the pixels.

    Raises:
        ConfigError: no share, or one outside (0, 1].
    """
    low, high = float(heat.min()), float(heat.max())
    span = high - low
    boxes: list[Sequence[int]] = []
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ConfigError(f"thresholds are shares of the map's range in (0, 1], got {shares}")
    for share in shares if span > rounding(heat) else ():
        above = heat >= np.float32(min(low + share * span, high))
        outlines, nested = cv2.findContours(
            above.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
        )
        outer = [each for each, links in zip(outlines, nested[0], strict=True) if links[3] < 0]
        boxes += [cv2.boundingRect(outline) for outline in outer]
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def overlaps(detected: npt.ArrayLike, annotated: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Intersection over union, and over the DETECTED box's area (IoBB of Wang 2017, section 4).

    Boxes are rows of x, y, width, height, (K, 4) and (G, 4).

    Returns:
        IoU and IoBB, (K, G) each.
    """
    one = np.asarray(detected, dtype=np.float64).reshape(-1, 1, 4)
    other = np.asarray(annotated, dtype=np.float64).reshape(1, -1, 4)
    low = np.maximum(one[..., :2], other[..., :2])
    high = np.minimum(one[..., :2] + one[..., 2:], other[..., :2] + other[..., 2:])
    common = (high - low).clip(0).prod(axis=-1)
    area, theirs = one[..., 2:].prod(axis=-1), other[..., 2:].prod(axis=-1)
    return divided(common, area + theirs - common), common / area


def map_figures(
    heat: Heat, region: Region, annotated: npt.ArrayLike, *, shares: Sequence[float], near: Region
) -> tuple[Floats, Floats]:
    """All figures of one map, as sums and what they are sums over.

    Over 1 image: pointing game, energy inside (over 0 where the map has no positive value) and
    average precision of the place; "centre", whether the centre of the smallest detected box around
    the map's maximum (the first of equal ones) lies in an annotated box, 0 without a box; and
    "afp", detected boxes whose IoBB with every annotated box is at most each of :data:`OVERLAPS`.

    Over the annotated boxes: for each the highest IoU and the highest IoBB of any detected box
    ("iou", "iobb"), and whether they exceed each of :data:`OVERLAPS`: Wang 2017 calls a
    localisation correct if IoU > T(IoU), or IoBB > T(IoBB). Many small boxes have a high T(IoBB) by
    chance: read it beside "afp".

    Args:
        heat: (S, S).
        region: the place, (S, S).
        annotated: (G, 4): x, y, width, height.
        shares: thresholds of :func:`detected_boxes`.
        near: where the maximum counts as a hit, (S, S).

    Returns:
        Sums and weights, in the order of :data:`FIGURES`.
    """
    theirs = np.asarray(annotated, dtype=np.float64).reshape(-1, 4)
    detected = detected_boxes(heat, shares)
    iou, iobb = overlaps(detected, theirs)
    over = np.asarray(OVERLAPS)[:, None]
    best_iou, best_iobb = iou.max(axis=0, initial=0), iobb.max(axis=0, initial=0)
    most = iobb.max(axis=1, initial=0)
    energy, precision = energy_inside(heat, region), average_precision(heat, region)
    known = not np.isnan(energy)
    centre = len(detected) > 0 and _holds(theirs, _centre(heat, detected)).any()
    of_map = [pointing_game(heat, near), energy if known else 0.0, precision, centre]
    correct = [(best > over).sum(axis=1) for best in (best_iou, best_iobb)]
    of_boxes = [[best_iou.sum(), best_iobb.sum()], *correct]
    sums = np.concatenate([of_map, *of_boxes, (most <= over).sum(axis=1)])
    boxes = np.full(2 + 2 * len(OVERLAPS), len(theirs))
    weights = np.concatenate([[1, known, 1, 1], boxes, np.ones(len(OVERLAPS))])
    return sums.astype(np.float64), weights.astype(np.float64)


def _centre(heat: Heat, detected: Floats) -> Floats:
    """Of the smallest detected box around the map's maximum: x, y."""
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    around = detected[_holds(detected, np.array([column + 0.5, row + 0.5]))]
    box = around[around[:, 2:].prod(axis=1).argmin()]
    return np.asarray(box[:2] + box[2:] / 2)


def _holds(boxes: Floats, point: Floats) -> npt.NDArray[np.bool_]:
    """Whether each box holds a point, (K,)."""
    offset = point - boxes[:, :2]
    return np.asarray(((offset >= 0) & (offset < boxes[:, 2:])).all(axis=1))


def tuned_threshold(
    maps: Heat, boxes: Sequence[npt.ArrayLike], size: int, grids: Grids = EVEN
) -> float:
    """The share of the range whose boxes overlap the annotated ones best; of equals the lowest.

    The mean over annotated boxes of the highest IoU decides. Never tune on the boxes that are
    scored.

    Args:
        maps: of validation images, (N, h, w).
        boxes: of each image, (G, 4): x, y, width, height in pixels of the square.
        size: side of the square.
        grids: of the maps.

    Returns:
        One of :data:`GRID`; NaN without images.
    """
    gains = np.zeros(len(GRID))
    for heat, annotated in zip(maps, boxes, strict=True):
        larger = enlarged(heat, size, grids)
        for place, share in enumerate(GRID):
            iou, _ = overlaps(detected_boxes(larger, [share]), annotated)
            gains[place] += iou.max(axis=0, initial=0).sum()
    return GRID[int(gains.argmax())] if len(maps) else float("nan")
