"""A heat map against the place of a finding: where it points, and what lies inside.

All figures are taken at the size of the image: a map is enlarged, a place never made coarser.
"""

import cv2
import numpy as np
import numpy.typing as npt

from xray_lightning.errors import ConfigError

Heat = npt.NDArray[np.float32]  # (h, w), or (S, S) once enlarged
Region = npt.NDArray[np.bool_]  # (S, S)

# Of a map in its average precision: within 5e-4 of exact for noise and its cube, and five times as
# fast as a sort; off by up to 5e-3 where single values tower above all others by a thousand times.
LEVELS = 8192
ROUNDING = 4 * float(np.finfo(np.float32).eps)  # of an enlarged map, relative to its largest value


def region_of(boxes: npt.ArrayLike, size: int) -> Region:
    """Pixels whose centre lies in one of the boxes; of a box that holds none, its middle pixel.

    Args:
        boxes: (K, 4): x, y, width, height in pixels of the square, from the edges of its pixels.
        size: side S of the square.

    Raises:
        ConfigError: a box without area, or outside the square.

    >>> region_of([(1, 0, 2, 1)], 3).astype(int)
    array([[0, 1, 1],
           [0, 0, 0],
           [0, 0, 0]])
    """
    region = np.zeros((size, size), dtype=np.bool_)
    for box in np.asarray(boxes, dtype=np.float64).reshape(-1, 4):
        x, y, width, height = box.tolist()
        inside = x < size and y < size and x + width > 0 and y + height > 0
        if not (inside and width > 0 and height > 0):
            raise ConfigError(
                f"a box must have area on the square of {size} px, got x, y, width, height = "
                f"{x:g}, {y:g}, {width:g}, {height:g}; is it in pixels of the original?"
            )
        region[_pixels(y, height, size), _pixels(x, width, size)] = True
    return region


def _pixels(low: float, extent: float, size: int) -> slice:
    first, end = int(np.ceil(low - 0.5)), int(np.ceil(low + extent - 0.5))
    if first >= end:
        first = int(low + extent / 2)
        end = first + 1
    first = min(max(first, 0), size - 1)
    return slice(first, max(min(end, size), first + 1))


def widened(region: Region, tolerance: float) -> Region:
    """All pixels at most ``tolerance`` pixels from a place, (S, S).

    Raises:
        ConfigError: a negative tolerance.
    """
    if not tolerance >= 0:
        raise ConfigError(f"tolerance must be a number of pixels of at least 0, got {tolerance}")
    if not tolerance:
        return region
    away = cv2.distanceTransform((~region).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(away <= tolerance)


def pointing_game(heat: Heat, region: Region) -> float:
    """Whether the map's maximum lies in the place: 1, 0, or the share of equal maxima that do.

    Zhang et al., Top-Down Neural Attention by Excitation Backprop (IJCV 2018), section 4.1, who
    allow 15 px beside it: pass :func:`widened`. A flat map gets what chance would get. Both are (S,
    S).
    """
    peak = heat.max()
    return float(region[heat >= peak - rounding(heat)].mean())


def energy_inside(heat: Heat, region: Region) -> float:
    """Share of the map's positive values that lies in the place; NaN if the map has none.

    The energy-based pointing game: Wang H. et al., Score-CAM (CVPR Workshops 2020), section 4.3.
    Their maps have no negative values; negative evidence is no energy here.
    """
    positive = np.maximum(heat, 0)
    whole = float(positive.sum())  # NumPy sums pairwise: float32 is good to 1e-6
    return float(positive[region].sum()) / whole if whole else float("nan")


def average_precision(heat: Heat, region: Region) -> float:
    """Average precision of the place's pixels, ranked by the map; its share of area for a flat one.

    As scikit-learn's, of values rounded to 8,192 levels between the least and the greatest.
    """
    low, span = float(heat.min()), float(heat.max()) - float(heat.min())
    scale = (LEVELS - 1) / span if span > rounding(heat) else 0.0
    levels = ((heat - np.float32(low)) * np.float32(scale)).astype(np.int32)
    called = np.bincount(levels.ravel(), minlength=LEVELS)[::-1].cumsum()
    found = np.bincount(levels[region], minlength=LEVELS)[::-1]
    steps = np.flatnonzero(found)
    precision = found[steps].cumsum() / called[steps]
    return float(found[steps] @ precision / found.sum())


def rounding(heat: Heat) -> float:
    """Differences of an enlarged map up to this come from rounding alone."""
    return ROUNDING * max(abs(float(heat.min())), abs(float(heat.max())))
