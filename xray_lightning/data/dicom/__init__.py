"""DICOM radiographs: a file becomes a grey image in [0, 1] and what identifies nobody.

``data/README.md`` draws the way from bytes to grey, and says why pydicom does not decode.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xray_lightning.data.dicom import header as headers
from xray_lightning.data.dicom.acquisition import Acquisition, read_acquisition, tally
from xray_lightning.data.dicom.grey import grey_table, luma, paint
from xray_lightning.data.dicom.header import MONOCHROME, Header, Layout, name_errors, refusal
from xray_lightning.data.dicom.pixels import Codes, StoredValues, read_codes
from xray_lightning.data.files import read_file
from xray_lightning.errors import ConfigError
from xray_lightning.wording import fault

__all__ = ["Acquisition", "DicomImage", "read_dicom", "read_dicom8", "tally", "to_uint8"]


@dataclass(frozen=True)
class DicomImage:
    """A radiograph and what is known about it."""

    pixels: npt.NDArray[np.float32]  # (H, W) in [0, 1], black 0
    acquisition: Acquisition
    notes: tuple[str, ...]  # what was ignored or decided by a fall-back, without values; for tally


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
    with name_errors(name or ("DICOM data" if isinstance(source, bytes) else str(source))):
        header, layout, codes, stored = _read(data, frame, colour)
        acquisition, notes = read_acquisition(header)
        if layout.photometric not in MONOCHROME:
            pixels = luma(codes, stored, header, layout)
            return DicomImage(pixels, acquisition, (*notes, "colour is turned to luma"))
        table, more = grey_table(codes, stored, header.in_frame(frame or 0), layout, window)
        return DicomImage(paint(codes, table.astype(np.float32)), acquisition, (*notes, *more))


def read_dicom8(
    data: bytes, *, name: str = "", notes: list[str] | None = None
) -> npt.NDArray[np.uint8]:
    """``to_uint8(read_dicom(data, name=name).pixels)``, (H, W), in less time."""
    with name_errors(name or "DICOM data"):
        header, layout, codes, stored = _read(data, None, None)
        table, more = grey_table(codes, stored, header.in_frame(0), layout, 0)
        (notes if notes is not None else []).extend(more)
        return paint(codes, to_uint8(table.astype(np.float32)))


def to_uint8(pixels: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """``round(255 x)`` of values in [0, 1], any shape; a half goes to the even neighbour."""
    return np.asarray(np.rint(pixels * np.float32(255)), np.uint8)


def _read(
    data: bytes, frame: int | None, colour: str | None
) -> tuple[Header, Layout, Codes, StoredValues]:
    """Header, layout, codes and their values, where the caller's choice is clear and possible."""
    header, pixels = headers.split_file(data)
    layout = headers.read_layout(header)
    if layout.photometric not in MONOCHROME and colour is None:
        raise refusal(f"it is in colour ({layout.photometric})", fault("choose_colour"))
    if frame is None and layout.frames > 1:
        raise refusal(f"it has {layout.frames} frames", fault("choose_frame"))
    if frame is not None and frame >= layout.frames:
        raise refusal(f"frame {frame} is asked for, it has {layout.frames}, from 0", "Choose one")
    return header, layout, *read_codes(header, pixels, layout, frame or 0)
