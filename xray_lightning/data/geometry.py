"""One rule from any radiograph to a square: pad to a centred square with black, then resize.

Exact masks as runs down the columns: COCO's text of them, their pixels, the box around.
"""

import cv2
import numpy as np
import numpy.typing as npt

from xray_lightning.data.source import Mask, Pixels
from xray_lightning.errors import InvalidImageError
from xray_lightning.records import Box
from xray_lightning.wording import fault

Rectangle = tuple[float, float, float, float]  # x, y, width, height

RULE = "square 1: centred black padding, INTER_AREA down, INTER_LINEAR up"


def padding(height: int, width: int) -> tuple[int, int]:
    """Rows above, columns left of an image centred in its square; an odd one is below or right."""
    side = max(height, width)
    return (side - height) // 2, (side - width) // 2


def pad_square(image: Pixels) -> Pixels:
    """An image (H, W) centred in its square, black around it."""
    height, width = image.shape
    (top, left), side = padding(height, width), max(height, width)
    return np.pad(image, ((top, side - height - top), (left, side - width - left)))


def fit_square(image: Pixels, size: int) -> Pixels:
    """The whole image (H, W) in a square (size, size), uint8, its aspect preserved."""
    if image.ndim != 2 or image.dtype != np.uint8 or not image.size:
        raise InvalidImageError(fault("no_grey_image", image))
    image = pad_square(image)
    if len(image) == size:
        return image
    method = cv2.INTER_AREA if size < len(image) else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=method), np.uint8)


def box_to_square(box: Rectangle, frame: tuple[int, int], size: int) -> Rectangle:
    """A rectangle in pixels of ``frame``, (width, height), in pixels of the ``fit_square``."""
    width, height = frame
    top, left = padding(height, width)
    scale = size / max(width, height)
    x, y, extent, depth = box
    return (x + left) * scale, (y + top) * scale, extent * scale, depth * scale


Runs = npt.NDArray[np.int64]  # pixels outside, inside, outside, ... down one column after another
Packed = tuple[Runs, int, int]  # those that fill an image, its height and its width


def unpack_mask(counts: str, height: int, width: int) -> Packed:
    """A mask of a COCO run-length string; a ValueError where it does not fill the image."""
    runs = unpack_runs(counts)
    if (total := runs.sum()) != height * width or (runs < 0).any():
        raise ValueError(f"its runs hold {total:,} pixels, not {height} x {width}")
    return runs, height, width


def draw_runs(runs: Runs, height: int, width: int) -> Mask:
    """The mask of runs that fill an image, (H, W).

    >>> draw_runs(np.array([1, 2, 3]), 2, 3).astype(int).tolist()
    [[0, 1, 0], [1, 0, 0]]
    """
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T  # odd: inside


def surround_runs(runs: Runs, height: int, label: str) -> Box | None:
    """The smallest box around the pixels inside; None where there are none.

    >>> surround_runs(unpack_runs("52203"), 4, "Mass")
    Box(label='Mass', x=1.0, y=1.0, width=2.0, height=2.0, reader='')
    """
    ends, lengths = np.cumsum(runs)[1::2], runs[1::2]
    lasts, starts = ends[lengths > 0] - 1, (ends - lengths)[lengths > 0]
    if not len(lasts):
        return None
    left, right = starts[0] // height, lasts[-1] // height
    whole = (starts // height != lasts // height).any()  # over a column's end
    top, bottom = (0, height - 1) if whole else (min(starts % height), max(lasts % height))
    x, y, width, tall = map(float, (left, top, right - left + 1, bottom - top + 1))
    return Box(label, x, y, width, tall)


def unpack_runs(text: str) -> Runs:
    """The runs in a COCO string: 5 bits a character, the lowest first, differences from the third.

    >>> unpack_runs("52203").tolist()
    [5, 2, 2, 2, 5]
    """
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("no COCO run-length string")
    ends = np.flatnonzero(codes & 32 == 0)  # the sixth bit: the number goes on
    starts = np.r_[0, ends[:-1] + 1]
    places = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    runs = np.add.reduceat((codes & 31) << 5 * places, starts)
    runs -= ((codes[ends] & 16) >> 4) << 5 * (ends - starts + 1)  # two's complement
    for first in (1, 2):  # from the third on, what is more than two runs before
        runs[first::2] = np.cumsum(runs[first::2])
    return np.asarray(runs)
