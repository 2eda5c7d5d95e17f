"""Drawing and exposure: outlines of the body's frame become density, density a film.

The frame: the image spans -0.5 to 0.5 on both axes, x grows towards the patient's left (the right
of the picture), y downwards. An outline is an array of points, (N, 2).
"""

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from xray_lightning.data.phantom.patients import Stream, Visit
from xray_lightning.data.source import Pixels

Points = npt.NDArray[np.float64]  # (N, 2)
Density = npt.NDArray[np.float32]  # (H, W)

FRACTION_BITS = 4  # OpenCV takes coordinates as integers with this many binary places
COARSE = 2.0  # pixels; wider blurs are computed on a smaller image


def points(x: npt.ArrayLike, y: npt.ArrayLike) -> Points:
    """Two coordinates, broadcast, as points, (..., 2)."""
    return np.stack(np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float)), axis=-1)


def disc(
    centre: npt.ArrayLike, radii: npt.ArrayLike, wobble: Iterable[float] = (), count: int = 40
) -> Points:
    """An ellipse, (count, 2); ``wobble`` is the depth of the first waves of its border."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    border = np.ones(count)
    for k, wave in enumerate(wobble):
        border += wave * np.cos((k + 2) * angle + 5 * k)
    unit = points(border * np.cos(angle), border * np.sin(angle))
    return np.asarray(np.asarray(centre, float) + unit * np.asarray(radii, float))


def round_corners(corners: Points, rounds: int = 3) -> Points:
    """A closed outline with its corners cut (Chaikin), (N, 2) to (N * 2**rounds, 2)."""
    for _ in range(rounds):
        following = np.roll(corners, -1, axis=0)
        cut = (0.75 * corners + 0.25 * following, 0.25 * corners + 0.75 * following)
        corners = np.stack(cut, axis=1).reshape(-1, 2)
    return corners


class Stroke(NamedTuple):
    """Lines drawn alike."""

    lines: Points  # (K, N, 2)
    width: float  # a share of the image
    shade: float = 1.0  # 0 to 1; a later stroke paints over an earlier one


class Canvas:
    """A square image of ``size`` pixels on which the body of a visit lies a little askew."""

    def __init__(self, visit: Visit, size: int) -> None:
        draw = visit.draws(Stream.FILM, visit.follow_up, 1)
        turn = np.deg2rad(draw.normal(0, 1.8 if visit.in_bed else 1.0))
        shift = draw.normal(0, 0.014 if visit.in_bed else 0.009, 2)
        scale = draw.uniform(0.95, 1.06) * (1.02 if visit.in_bed else 1.0)
        turn = np.clip(turn, -0.09, 0.09)
        cosine, sine = np.cos(turn), np.sin(turn)
        self.size = size
        self.matrix = size * scale * np.array([[cosine, sine], [-sine, cosine]])
        self.origin = size * (0.5 + np.clip(shift, -0.04, 0.04)) - 0.5

    def pixels(self, outline: Points) -> npt.NDArray[np.int32]:
        """Points as OpenCV wants them, (..., 2) to (..., 2)."""
        places = (outline @ self.matrix + self.origin) * (1 << FRACTION_BITS)
        return np.rint(places).astype(np.int32)

    def fill(self, outlines: Iterable[Points]) -> npt.NDArray[np.uint8]:
        """The union of outlines, 1 inside and 0 outside, (H, W)."""
        image = np.zeros((self.size, self.size), np.uint8)
        for outline in outlines:
            cv2.fillPoly(image, [self.pixels(outline)], 1.0, cv2.LINE_8, FRACTION_BITS)
        return image

    def blur_lines(self, strokes: Iterable[Stroke], width: float) -> Density:
        """Lines with soft borders, 0 to 1, (H, W); those thinner than a pixel are faint instead."""
        image = np.zeros((self.size, self.size), np.uint8)
        for lines, line_width, shade in strokes:
            thickness = max(1, round(line_width * self.size))
            grey = 255.0 * shade * min(1.0, line_width * self.size)
            ends = list(self.pixels(lines))
            cv2.polylines(image, ends, False, grey, thickness, cv2.LINE_AA, FRACTION_BITS)
        return blur(np.multiply(image, np.float32(1 / 255), dtype=np.float32), width)

    def cloud(self, draw: np.random.Generator, cells: int) -> Density:
        """Smooth noise in [0, 1] with ``cells`` random values along each side, (H, W)."""
        coarse = draw.random((cells, cells), dtype=np.float32)
        side = (self.size, self.size)
        return np.clip(cv2.resize(coarse, side, interpolation=cv2.INTER_CUBIC), 0, 1)


def blur(pixels: npt.NDArray[np.generic], share: float) -> Density:
    """A Gaussian blur whose sigma is a share of the image, (H, W); a wide one goes by a smaller."""
    image, sigma = np.asarray(pixels, np.float32), share * len(pixels)
    if sigma < 0.2:
        return image
    height, width = image.shape
    step = int(sigma / COARSE) + 1
    if step == 1:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))
    small_size = (max(width // step, 4), max(height // step, 4))
    small = cv2.resize(image, small_size, interpolation=cv2.INTER_AREA)
    sigma_small = sigma * small_size[0] / width
    small = cv2.GaussianBlur(small, (0, 0), sigma_small, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def add_layers(*weighted: tuple[Density, float]) -> Density:
    """The weighted sum of images, in one pass each, (H, W); temporary arrays cost page faults."""
    total = np.zeros_like(weighted[0][0])
    for image, weight in weighted:
        cv2.scaleAdd(image, weight, total, total)
    return total


def expose(density: Density, visit: Visit) -> tuple[Pixels, str]:
    """Turn density into grey values, (H, W) to (H, W) uint8; and the word burned in, "" if none."""
    # films taken in bed are flatter, more blurred and noisier; noise ~ sqrt(signal), as of photons
    draw = visit.draws(Stream.FILM, visit.follow_up, 2)
    gain, offset, gamma = draw.uniform([0.95, -0.03, 0.85], [1.12, 0.04, 1.2])
    noise = draw.uniform(0.018, 0.03) * (1.35 if visit.in_bed else 1.0)
    softness = draw.uniform(0.001, 0.0025) * (1.4 if visit.in_bed else 1.0)
    film = blur(density, softness)
    film = (film - np.float32(0.5)) * np.float32(gain * (0.93 if visit.in_bed else 1.0))
    film += 0.5 + offset
    np.clip(film, 0, 1, out=film)
    cv2.pow(film, gamma, film)
    grain = draw.standard_normal(film.shape, dtype=np.float32)
    spread = film + np.float32(0.05)
    grain *= np.sqrt(spread, out=spread)
    grain *= noise
    grain += film
    grain *= 255
    pixels: Pixels = np.clip(grain, 0, 255, out=grain).astype(np.uint8)
    return pixels, burn_letters(pixels, visit, draw)


def burn_letters(pixels: Pixels, visit: Visit, draw: np.random.Generator) -> str:
    """Burn in the side marker, and on most films taken in bed "AP" or "PORT", the word returned."""
    left = draw.random() < 0.6
    across, down = draw.uniform(0.0, 0.04), draw.uniform(0.08, 0.15)
    burn_text(pixels, "L" if left else "R", (0.9 - across if left else 0.05 + across, down))
    if not visit.in_bed or draw.random() >= 0.7:
        return ""
    word = "PORT" if draw.random() < 0.5 else "AP"
    burn_text(pixels, word, (0.8 - across if left else 0.05 + across, down + 0.07))
    return word


def burn_text(pixels: Pixels, text: str, place: tuple[float, float]) -> None:
    """Write on the film in place; the place is the text's lower left corner as shares."""
    size = len(pixels)
    corner = (round(place[0] * size), round(place[1] * size))
    height, stroke = size / 380, max(1, size // 160)
    cv2.putText(pixels, text, corner, cv2.FONT_HERSHEY_SIMPLEX, height, 235.0, stroke, cv2.LINE_AA)
