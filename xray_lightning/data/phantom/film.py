"""Exposure of the film: contrast, quantum noise, blur, and the letters burned into its corner."""

import cv2
import numpy as np

from xray_lightning.data.phantom.patients import FILM_STREAM, Visit, generator
from xray_lightning.data.phantom.plate import Density, Plate, blurred
from xray_lightning.data.source import Pixels


def expose(density: Density, seed: int, visit: Visit, plate: Plate) -> tuple[Pixels, str]:
    """Turn density into grey values, (H, W) to (H, W) uint8; and the word burned in, "" if none.

    Brightness, contrast and gamma vary from film to film; films taken in bed are flatter, more
    blurred and noisier. The noise grows with the square root of the signal, as photons do.
    """
    draw = generator(seed, FILM_STREAM, visit.patient, visit.follow_up, 2)
    bed = visit.view == "AP"
    gain, offset, gamma = draw.uniform([0.95, -0.03, 0.85], [1.12, 0.04, 1.2])
    noise = draw.uniform(0.018, 0.03) * (1.35 if bed else 1.0)
    sharp = draw.uniform(0.001, 0.0025) * (1.4 if bed else 1.0)
    film = blurred(density, sharp * plate.size)
    contrast = np.float32(gain * (0.93 if bed else 1.0))
    film = (film - np.float32(0.5)) * contrast
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
    return pixels, mark(pixels, visit, draw)


def mark(pixels: Pixels, visit: Visit, draw: np.random.Generator) -> str:
    """Burn in the side marker, and on most films taken in bed "AP" or "PORT", the word returned."""
    left = draw.random() < 0.6
    across, down = draw.uniform(0.0, 0.04), draw.uniform(0.08, 0.15)
    letter(pixels, "L" if left else "R", (0.9 - across if left else 0.05 + across, down))
    if visit.view != "AP" or draw.random() >= 0.7:
        return ""
    word = "PORT" if draw.random() < 0.5 else "AP"
    letter(pixels, word, (0.8 - across if left else 0.05 + across, down + 0.07))
    return word


def letter(pixels: Pixels, text: str, place: tuple[float, float]) -> None:
    """Write on the film in place; the place is the text's lower left corner as shares."""
    size = pixels.shape[0]
    corner = (round(place[0] * size), round(place[1] * size))
    height, stroke = size / 380, max(1, size // 160)
    face = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(pixels, text, corner, face, height, 235.0, stroke, cv2.LINE_AA)
