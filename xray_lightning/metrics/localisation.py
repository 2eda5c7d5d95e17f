"""A heat map against the place of a finding: where it points, what lies inside, its boxes.

All figures are taken at the size of the image: a map is enlarged, a place never made coarser.
"""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from xray_lightning.errors import ConfigError, require_number
from xray_lightning.metrics.intervals import Floats, divided
from xray_lightning.wording import fault

Heat = npt.NDArray[np.float32]  # (h, w), or (S, S) once enlarged
Region = npt.NDArray[np.bool_]  # (S, S)

# Of a map in its average precision: within 5e-4 of exact for noise and its cube, and five times as
# fast as a sort; off by up to 5e-3 where single values tower above all others by a thousand times.
LEVELS = 8192
ROUNDING = 4 * float(np.finfo(np.float32).eps)  # of an enlarged map, relative to its largest value

WANG = (60 / 255, 180 / 255)  # Wang 2017, section 3.3: shares of the map's range, both at once
OVERLAPS = tuple(tenth / 10 for tenth in range(1, 10))
TRIED = tuple(twentieth / 20 for twentieth in range(2, 19))  # shares that tuning tries

# The figures of a map: (name,) or (name, overlap). Each is a sum over images or boxes.
METRICS: tuple[tuple[str, ...], ...] = (
    *[(name,) for name in ("pointing_game", "energy", "average_precision", "centre")],
    *[(name,) for name in ("iou", "iobb")],
    *[(name, str(over)) for name in ("t_iou", "t_iobb", "afp") for over in OVERLAPS],
)


def region_of(boxes: npt.ArrayLike, size: int) -> Region:
    """Pixels whose centre lies in a box (K, 4); of a box that holds none, its middle pixel."""
    # Boxes are x, y, width, height in pixels of the square, from the edges of its pixels.
    region = np.zeros((size, size), dtype=np.bool_)
    for box in np.asarray(boxes, dtype=np.float64).reshape(-1, 4):
        x, y, width, height = box.tolist()
        inside = x < size and y < size and x + width > 0 and y + height > 0
        if not (inside and width > 0 and height > 0):
            raise ConfigError(fault("box_on_square", size, (x, y, width, height)))
        region[_pixels(y, height, size), _pixels(x, width, size)] = True
    return region


def _pixels(low: float, extent: float, size: int) -> slice:
    first, end = int(np.ceil(low - 0.5)), int(np.ceil(low + extent - 0.5))
    if first >= end:
        first = int(low + extent / 2)
        end = first + 1
    first = min(max(first, 0), size - 1)
    return slice(first, max(min(end, size), first + 1))


def widen(region: Region, tolerance: float) -> Region:
    """All pixels at most ``tolerance`` pixels from a place, (S, S)."""
    if not require_number("tolerance in pixels", tolerance, 0):
        return region
    away = cv2.distanceTransform((~region).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(away <= tolerance)


def pointing_game(heat: Heat, region: Region) -> float:
    """Whether the map's maximum lies in the place: 1, 0, or the share of equal maxima that do."""
    # Zhang et al., Top-Down Neural Attention by Excitation Backprop (IJCV 2018), section 4.1, who
    # allow 15 px beside it: pass :func:`widen`. A flat map gets what chance would get.
    return float(region[heat >= heat.max() - rounding(heat)].mean())


def energy_inside(heat: Heat, region: Region) -> float:
    """Share of the map's positive values that lies in the place; NaN if the map has none."""
    # Energy-based pointing game: Wang H. et al., Score-CAM (CVPR Workshops 2020), section 4.3,
    # whose maps have no negative values; negative evidence is no energy here.
    positive = np.maximum(heat, 0)
    whole = float(positive.sum())  # NumPy sums pairwise: float32 is good to 1e-6
    return float(positive[region].sum()) / whole if whole else float("nan")


def average_precision(heat: Heat, region: Region) -> float:
    """Average precision of the place's pixels, ranked by the map; a flat one: share of area."""
    # As scikit-learn's, of values rounded to 8,192 levels between the least and the greatest.
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


def detect_boxes(heat: Heat, shares: Sequence[float]) -> Floats:
    """Boxes (K, 4) of a map's parts that reach each share (0, 1] of its range; a flat one: none."""
    # Wang et al., ChestX-ray8 (CVPR 2017), section 3.3, with :data:`WANG`, the boxes of all taken
    # together. Pixels that touch at a corner are connected.
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
    """IoU, and intersection over the DETECTED box's area (IoBB of Wang 2017, section 4), (K, G)."""
    one = np.asarray(detected, dtype=np.float64).reshape(-1, 1, 4)
    other = np.asarray(annotated, dtype=np.float64).reshape(1, -1, 4)
    low = np.maximum(one[..., :2], other[..., :2])
    high = np.minimum(one[..., :2] + one[..., 2:], other[..., :2] + other[..., 2:])
    common = (high - low).clip(0).prod(axis=-1)
    area, theirs = one[..., 2:].prod(axis=-1), other[..., 2:].prod(axis=-1)
    return divided(common, area + theirs - common), common / area


def score_map(
    heat: Heat, region: Region, annotated: npt.ArrayLike, *, shares: Sequence[float], near: Region
) -> tuple[Floats, Floats]:
    """All metrics of one map, as sums and what they are sums over, in the order of ``METRICS``."""
    # Wang 2017: correct if IoU > T(IoU), or IoBB > T(IoBB), of any box. Many small boxes give a
    # high T(IoBB) by chance: read it beside "afp", the boxes of IoBB at most T with every annotated
    # one. "centre": whether that of the smallest box around the (first) maximum lies in one.
    theirs = np.asarray(annotated, dtype=np.float64).reshape(-1, 4)
    detected = detect_boxes(heat, shares)
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


def tune_threshold(maps: Iterable[Heat], boxes: Sequence[npt.ArrayLike]) -> float:
    """The share of ``TRIED`` of the highest mean best IoU, lowest of equals; NaN without maps."""
    # Maps (S, S) of validation: never tune on the boxes (G, 4) that are scored.
    gains = np.zeros(len(TRIED))
    for heat, annotated in zip(maps, boxes, strict=True):
        for place, share in enumerate(TRIED):
            iou, _ = overlaps(detect_boxes(heat, [share]), annotated)
            gains[place] += iou.max(axis=0, initial=0).sum()
    return TRIED[int(gains.argmax())] if len(boxes) else float("nan")
