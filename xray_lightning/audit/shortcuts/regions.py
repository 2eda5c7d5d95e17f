"""Where no finding of the chest lies, where letters are, and how a region is covered."""

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xray_lightning.data.source import Pixels

Mask = npt.NDArray[np.bool_]  # (H, W)

BORDER = 0.1  # of the side: depth of the frame all round
CORNER = 0.15  # of the side: each of the four squares
WINDOW = 0.25  # of the side: of the median that fills what is covered
# Letters: what stands out by CONTRAST from an opening with a square of LETTER of the side; each
# piece at most LETTER high and WORD wide, its middle within NEAR of the border, outside the lungs.
CONTRAST, LETTER, WORD, NEAR = 0.2, 0.13, 0.22, 0.2
GROW = 0.02  # of the side, around the letters: their soft edges


def to_grey(images: Tensor) -> npt.NDArray[np.uint8]:
    """Images (N, 1, H, W) in [0, 1] as grey values, (N, H, W)."""
    return np.asarray(images[:, 0].mul(255).round().to(torch.uint8).numpy())


class Body(NamedTuple):
    """The body with everything in it, and the dark parts in it, (H, W) bool each."""

    inside: Mask
    lungs: Mask


def find_body(pixels: Pixels) -> Body:
    """The body: the largest piece above Otsu's threshold of the blurred image, rows filled."""
    # What was filled is the lungs, and a gap between trunk and arm. All, where nothing stands out.
    smooth = cv2.GaussianBlur(pixels, (0, 0), 0.015 * min(pixels.shape))
    _, bright = cv2.threshold(smooth, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    count, pieces, sizes, _ = cv2.connectedComponentsWithStats(bright)
    if count < 2:
        return Body(np.ones(pixels.shape, np.bool_), np.zeros(pixels.shape, np.bool_))
    largest = pieces == 1 + sizes[1:, cv2.CC_STAT_AREA].argmax()
    from_left, from_right = (
        np.logical_or.accumulate(largest[:, ::step], axis=1)[:, ::step] for step in (1, -1)
    )
    inside = from_left & from_right
    return Body(inside, inside & ~largest)


def mask_border(shape: tuple[int, int], depth: float = BORDER) -> Mask:
    """The border all round, (H, W)."""
    rows, columns = (round(depth * side) for side in shape)
    mask = np.ones(shape, np.bool_)
    mask[rows : shape[0] - rows, columns : shape[1] - columns] = False
    return mask


def mask_corners(shape: tuple[int, int]) -> Mask:
    """The four corners, (H, W)."""
    rows, columns = (
        np.minimum(np.arange(side), np.arange(side)[::-1]) < round(CORNER * side) for side in shape
    )
    return np.asarray(rows[:, None] & columns)


def mask_letters(pixels: Pixels, lungs: Mask) -> Mask:
    """Letters and plates burned into the film, by the rule above, (H, W)."""
    side = min(pixels.shape)
    square = np.ones((round(LETTER * side) | 1,) * 2, np.uint8)
    raised = cv2.morphologyEx(pixels, cv2.MORPH_TOPHAT, square) > 255 * CONTRAST
    _, pieces, sizes, middles = cv2.connectedComponentsWithStats(raised.astype(np.uint8))
    near = mask_border(pixels.shape, NEAR) & ~lungs
    columns, rows = np.rint(middles).astype(int).T
    high, wide = sizes[:, cv2.CC_STAT_HEIGHT], sizes[:, cv2.CC_STAT_WIDTH]
    kept = near[rows, columns] & (high <= LETTER * side) & (wide <= WORD * side)
    kept[0] = False  # the background
    grown = np.ones((2 * max(1, round(GROW * side)) + 1,) * 2, np.uint8)
    return np.asarray(cv2.dilate(kept[pieces].astype(np.uint8), grown) > 0)


def mask_elsewhere(mask: Mask, inside: Mask, draw: np.random.Generator) -> Mask:
    """A region as large as the mask (if there is room), random patches of body off it, (H, W)."""
    noise = cv2.GaussianBlur(draw.standard_normal(mask.shape), (0, 0), LETTER / 3 * min(mask.shape))
    allowed = inside & ~mask
    order = np.argsort(np.where(allowed, -noise, np.inf), axis=None)
    patches = np.zeros(mask.size, np.bool_)
    patches[order[: min(int(mask.sum()), int(allowed.sum()))]] = True
    return patches.reshape(mask.shape)


def cover(pixels: Pixels, mask: Mask) -> Pixels:
    """The image with the region filled by the local median, (H, W)."""
    fill = cv2.medianBlur(pixels, round(WINDOW * min(pixels.shape)) | 1)
    return np.where(mask, fill, pixels)
