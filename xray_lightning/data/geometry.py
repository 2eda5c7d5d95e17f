"""One rule from any radiograph to a square: pad to a centred square with black, then resize."""

import cv2
import numpy as np
import numpy.typing as npt

from xray_lightning.errors import InvalidImageError

Pixels = npt.NDArray[np.uint8]
Rectangle = tuple[float, float, float, float]  # x, y, width, height

RULE = "square 1: centred black padding, INTER_AREA down, INTER_LINEAR up"


def padding(height: int, width: int) -> tuple[int, int]:
    """Rows above, columns left of an image centred in its square; an odd one is below or right."""
    side = max(height, width)
    return (side - height) // 2, (side - width) // 2


def fit_square(image: Pixels, size: int) -> Pixels:
    """The whole image (H, W) in a square (size, size), uint8, its aspect preserved."""
    if image.ndim != 2 or image.dtype != np.uint8 or not image.size:
        raise InvalidImageError(
            f"expected a grey image, (H, W) uint8, got {image.shape} {image.dtype}"
        )
    height, width = image.shape
    if height != width:
        top, left = padding(height, width)
        side = max(height, width)
        square = np.zeros((side, side), dtype=np.uint8)
        square[top : top + height, left : left + width] = image
        image = square
    if len(image) == size:
        return image
    method = cv2.INTER_AREA if size < len(image) else cv2.INTER_LINEAR
    resized: Pixels = cv2.resize(image, (size, size), interpolation=method)  # type: ignore[assignment]
    return resized


def box_to_square(box: Rectangle, frame: tuple[int, int], size: int) -> Rectangle:
    """A rectangle in pixels of ``frame``, (width, height), in pixels of the ``fit_square``."""
    width, height = frame
    top, left = padding(height, width)
    scale = size / max(width, height)
    x, y, extent, depth = box
    return (x + left) * scale, (y + top) * scale, extent * scale, depth * scale
