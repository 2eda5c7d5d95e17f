"""A planted shortcut: a plate burned into a corner of the film, which goes with one label."""

from dataclasses import dataclass

import numpy as np

from xray_lightning.data.phantom.patients import MARKER_STREAM, Visit, generator
from xray_lightning.data.phantom.plate import Mask
from xray_lightning.data.source import Pixels
from xray_lightning.errors import ConfigError
from xray_lightning.labels import CHEST_XRAY14

SHORTCUTS = ("marker",)
SIDE = 0.08  # of the plate, as a share of the image: 5 pixels of 64
BRIGHT, DARK = 250, 20  # the plate, and the slit across it


@dataclass(frozen=True)
class Marker:
    """Films that show a label carry the plate with probability ``strength``, others with 1 less.

    The draw of each image is its own, so the plate tells the label with AUROC ``strength`` in every
    part of any split. Nothing else on the film changes.

    Attributes:
        label: one of the 14.
        strength: 0.5 (the plate tells nothing) to 1 (it is the label).

    Raises:
        ConfigError: an unknown label, or a strength out of range.
    """

    label: str
    strength: float

    def __post_init__(self) -> None:
        if self.label not in CHEST_XRAY14:
            raise ConfigError(
                f"shortcut_label must be one of {', '.join(CHEST_XRAY14)}, got {self.label!r}"
            )
        if not isinstance(self.strength, int | float) or not 0.5 <= self.strength <= 1:
            raise ConfigError(
                "shortcut_strength must be 0.5 (tells nothing) to 1 (is the label), got "
                f"{self.strength!r}"
            )

    def place(self, seed: int, visit: Visit, size: int) -> tuple[slice, slice] | None:
        """Rows and columns of the plate, in a lower corner; None on a film without it."""
        draw = generator(seed, MARKER_STREAM, visit.patient, visit.follow_up)
        chance = self.strength if self.label in visit.findings else 1 - self.strength
        if draw.random() >= chance:
            return None
        side = round(SIDE * size)
        across, up = (round(share * size) for share in draw.uniform(0.02, 0.05, 2))
        left = across if draw.random() < 0.5 else size - across - side
        return slice(size - up - side, size - up), slice(left, left + side)

    def mask(self, seed: int, visit: Visit, size: int) -> Mask:
        """Where the plate is, (size, size) bool; all False on a film without it."""
        mask = np.zeros((size, size), dtype=np.bool_)
        if place := self.place(seed, visit, size):
            mask[place] = True
        return mask

    def burn(self, pixels: Pixels, seed: int, visit: Visit) -> None:
        """Burn the plate in, in place."""
        if place := self.place(seed, visit, len(pixels)):
            plate = pixels[place]
            plate[:] = BRIGHT
            plate[2 * len(plate) // 5 : 3 * len(plate) // 5 + 1] = DARK


def marker_of(shortcut: str | None, label: str, strength: float) -> Marker | None:
    """The marker of a phantom's settings; None without a shortcut.

    Raises:
        ConfigError: an unknown shortcut, see also :class:`Marker`.
    """
    if shortcut not in (None, *SHORTCUTS):
        raise ConfigError(f"shortcut must be null or one of {SHORTCUTS}, got {shortcut!r}")
    marker = Marker(label, strength)
    return marker if shortcut else None
