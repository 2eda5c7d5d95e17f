"""DICOM file in, grey image and facts out. The rules of the grey scale are in ``grey.py``."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt

from xray_lightning.data.dicom.codecs import Codes
from xray_lightning.data.dicom.elements import BARE, Elements, PixelElement, read_elements, refusal
from xray_lightning.data.dicom.facts import Facts, read_facts
from xray_lightning.data.dicom.grey import grey_table, luma, strips
from xray_lightning.data.dicom.layout import MONOCHROME, Layout, read_layout
from xray_lightning.data.dicom.samples import read_codes
from xray_lightning.data.files import read_file
from xray_lightning.errors import ConfigError, InvalidImageError

_LUMA = "colour is turned to luma"

Pixels = npt.NDArray[np.float32]  # (H, W) in [0, 1]
T = TypeVar("T", np.float32, np.uint8)
Pixels8 = npt.NDArray[np.uint8]  # (H, W)


@dataclass(frozen=True)
class DicomImage:
    """A radiograph and what is known about it.

    Args:
        pixels: (H, W) float32 in [0, 1], black 0.
        facts: acquisition facts.
        notes: what was ignored or decided by a fall-back, in words without values, for ``tally``.
    """

    pixels: Pixels
    facts: Facts
    notes: tuple[str, ...]


def read_dicom(
    source: Path | bytes,
    *,
    name: str = "",
    window: int = 0,
    frame: int | None = None,
    colour: str | None = None,
) -> DicomImage:
    """The image of a DICOM file. Thread-safe.

    Args:
        source: the file, or its bytes.
        name: names it in messages; by default the path.
        window: which of several windows or VOI tables.
        frame: which of several frames, from 0; a file with several is refused without it.
        colour: "luma" turns colour to grey, ITU-R 601; colour is refused without it.

    Raises:
        InvalidImageError: the file holds no image that can be read faithfully; the message names
            the file, the reason and the remedy.
        ConfigError: an argument is out of range.
    """
    if colour not in (None, "luma"):
        raise ConfigError(f"colour must be None or 'luma', got {colour!r}")
    if window < 0 or (frame is not None and frame < 0):
        raise ConfigError(f"window and frame count from 0, got {window} and {frame}")
    data = source if isinstance(source, bytes) else read_file(Path(source))
    with _named(source, name):
        elements, pixels, layout = _open(data)
        _check_choice(layout, frame, colour)
        facts, notes = read_facts(elements)
        codes, stored = read_codes(elements, pixels, layout, frame or 0)
        if layout.photometric not in MONOCHROME:
            return DicomImage(luma(codes, stored, elements, layout), facts, (*notes, _LUMA))
        elements = elements.in_frame(frame or 0)
        table, more = grey_table(codes, stored, elements, layout, window)
        return DicomImage(_paint(codes, table.astype(np.float32)), facts, (*notes, *more))


def read_dicom8(data: bytes, *, name: str = "", notes: list[str] | None = None) -> Pixels8:
    """``to_uint8(read_dicom(data, name=name).pixels)``, (H, W), in less time.

    ``notes`` takes those on the grey scale.
    """
    with _named(data, name):
        elements, pixels, layout = _open(data)
        _check_choice(layout, None, None)
        codes, stored = read_codes(elements, pixels, layout, 0)
        table, more = grey_table(codes, stored, elements.in_frame(0), layout, 0)
        (notes if notes is not None else []).extend(more)
        return _paint(codes, to_uint8(table.astype(np.float32)))


def to_uint8(pixels: npt.NDArray[np.floating]) -> Pixels8:
    """``round(255 x)`` of values in [0, 1], any shape; a half goes to the even neighbour."""
    return np.asarray(np.rint(pixels * np.float32(255)), np.uint8)


def is_dicom(data: bytes, name: str = "") -> bool:
    """Whether the bytes of a file, or else its name, say that it is a DICOM file."""
    return (
        data[128:132] == b"DICM"
        or data.startswith(BARE)
        or name.lower().endswith((".dcm", ".dicom", ".ima"))
    )


def _paint(codes: Codes, table: npt.NDArray[T]) -> npt.NDArray[T]:
    """The entry of every code, (H, W)."""
    if codes.dtype == np.uint8:  # OpenCV is faster, but before OpenCV 5 takes no 16-bit codes
        return cast("npt.NDArray[T]", cv2.LUT(np.ascontiguousarray(codes), table))
    painted = np.empty(codes.shape, table.dtype)
    for rows in strips(codes):
        np.take(table, codes[rows], out=painted[rows], mode="clip")  # "raise" would buffer
    return painted


def _open(data: bytes) -> tuple[Elements, PixelElement, Layout]:
    elements, pixels = read_elements(data)
    return elements, pixels, read_layout(elements)


def _check_choice(layout: Layout, frame: int | None, colour: str | None) -> None:
    """Raise where the caller has to choose, or chose what is not there."""
    if layout.photometric not in MONOCHROME and colour is None:
        remedy = 'If they mean grey: xray convert --colour luma, or read_dicom(colour="luma")'
        raise refusal(f"it is in colour ({layout.photometric})", remedy)
    if frame is None and layout.frames > 1:
        remedy = "Choose one, from 0: xray convert --frame 0, or read_dicom(frame=0)"
        raise refusal(f"it has {layout.frames} frames", remedy)
    if frame is not None and frame >= layout.frames:
        raise refusal(f"frame {frame} is asked for, it has {layout.frames}, from 0", "Choose one")


@contextmanager
def _named(source: Path | bytes, name: str) -> Iterator[None]:
    """Put the file's name in front of the message of an error."""
    try:
        yield
    except InvalidImageError as error:
        shown = name or ("DICOM data" if isinstance(source, bytes) else str(source))
        raise InvalidImageError(f"{shown}: {error}") from error.__cause__
