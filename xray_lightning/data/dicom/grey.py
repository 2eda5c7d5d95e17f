"""From stored values to grey: a table with one entry for each code.

Modality, VOI, inversion and padding each map one pixel's value and look at no neighbour, so they
are worked out once for each of the at most 65,536 codes, in double precision, in the order of
PS3.4 N.2; the pixels are then looked up. Only the percentiles look at the image. The rules stand
in ``data/README.md``, "DICOM files".
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt
from pydicom.uid import JPEGTransferSyntaxes

from xray_lightning.data.dicom.header import CORRECT, Header, Layout, refusal
from xray_lightning.data.dicom.pixels import Codes, StoredValues
from xray_lightning.wording import fault

UNUSED_BITS = 2  # of a VOI LUT whose white would be below a quarter
MAX_RESCALE = 1e30  # of slope and intercept, so that nothing below overflows
PERCENTILES = (0.5, 99.5)  # of the pixels that are not padding

Greys = npt.NDArray[np.floating]  # (N,), an entry a code
T = TypeVar("T", np.float32, np.uint8)

# ITU-R 601 luma, Y = 0.299 R + 0.587 G + 0.114 B (PS3.3 C.7.6.3.1.2)
WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)


def grey_table(
    codes: Codes,  # (H, W)
    stored: StoredValues,  # the value of every code, (N,)
    header: Header,  # of the frame
    layout: Layout,  # of the file
    window: int,  # which of several VOI tables or windows, from 0
) -> tuple[Greys, list[str]]:
    """The grey of every code, (N,) in [0, 1], and notes."""
    values = _apply_modality(stored, header, signed=layout.signed)
    pads = header.integers("PixelPaddingValue", signed=layout.signed)[:1]  # a value, or a range
    pads += header.integers("PixelPaddingRangeLimit", signed=layout.signed)[:1] if pads else []
    padding = (stored >= min(pads, default=1)) & (stored <= max(pads, default=0))  # (N,)
    notes = ["pixel padding is black"] if padding.any() else []
    grey = _apply_voi(values, header, window, notes)
    if grey is None:
        low, high = values.min(), values.max()
        how = "the full range is used"
        if np.ptp(stored) >= 256:
            ends = weighted_percentiles(values, _count(codes, padding), PERCENTILES)
            if ends[0] < ends[1]:
                (low, high), how = ends, "percentiles are used"
        if low == high:
            raise refusal("its modality LUT maps every value to one", CORRECT)
        grey = np.clip((values - low) / (high - low), 0, 1)
        notes.append(f"no window: {how}")
    if layout.photometric == "MONOCHROME1" or header.text("PresentationLUTShape") == "INVERSE":
        grey = 1 - grey
    return np.where(padding, 0.0, grey), notes


def paint(codes: Codes, table: npt.NDArray[T]) -> npt.NDArray[T]:
    """The entry of every code, (H, W)."""
    if codes.dtype == np.uint8:  # OpenCV is faster, but before OpenCV 5 takes no 16-bit codes
        return cast("npt.NDArray[T]", cv2.LUT(np.ascontiguousarray(codes), table))
    painted = np.empty(codes.shape, table.dtype)
    for rows in _strips(codes):
        np.take(table, codes[rows], out=painted[rows], mode="clip")  # "raise" would buffer
    return painted


def _strips(codes: Codes) -> Iterator[slice]:
    """Rows, 64 at a time: NumPy makes an int64 copy of what it counts or looks up."""
    return (slice(start, start + 64) for start in range(0, len(codes), 64))


def _count(codes: Codes, padding: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Pixels of each code, (N,), those of padding left out."""
    counts = np.zeros(len(padding), np.int64)
    for rows in _strips(codes):
        counts += np.bincount(codes[rows].ravel(), minlength=len(padding))
    counts[padding] = 0
    return counts


def _apply_modality(stored: StoredValues, header: Header, *, signed: bool) -> Greys:
    """Modality LUT, PS3.3 C.11.1, (N,)."""
    tables = header.items("ModalityLUTSequence")
    if tables:
        first, entries, _ = _read_lut(tables[0], "LUT", signed=signed)
        return look_up(stored, first, entries)
    slope = next(iter(header.decimals("RescaleSlope")), 1.0)
    intercept = next(iter(header.decimals("RescaleIntercept")), 0.0)
    if slope == 0:
        raise refusal("its RescaleSlope is 0", CORRECT)
    if max(abs(slope), abs(intercept)) > MAX_RESCALE:
        raise refusal(f"its rescale, {slope:g} x + {intercept:g}, is beyond any unit", CORRECT)
    return stored * slope + intercept


def _apply_voi(values: Greys, header: Header, window: int, notes: list[str]) -> Greys | None:
    """VOI LUT, PS3.3 C.11.2, (N,) in [0, 1]; None where the file has none that is valid."""
    tables = header.items("VOILUTSequence")
    if tables:
        _check_choice(window, len(tables), "VOI tables")
        first, entries, bits = _read_lut(tables[window], "LUT", signed=bool(values.min() < 0))
        needed = max(int(entries.max()).bit_length(), 1)
        if needed <= bits - UNUSED_BITS:
            notes.append(f"VOI LUT of {needed}-bit entries, not {bits}: their own range is used")
            bits = needed
        return np.asarray(look_up(values, first, entries) / (2**bits - 1))
    centers, widths = header.decimals("WindowCenter"), header.decimals("WindowWidth")
    if len(centers) != len(widths):
        raise refusal(f"it has {len(centers)} window centers, {len(widths)} widths", CORRECT)
    if not centers:
        return None
    _check_choice(window, len(centers), "windows")
    function = header.text("VOILUTFunction") or "LINEAR"
    if widths[window] <= 0 or (function == "LINEAR" and widths[window] < 1):
        notes.append("invalid WindowWidth: the window is ignored")
        return None
    return apply_window(values, centers[window], widths[window], function)


def _check_choice(window: int, count: int, kind: str) -> None:
    if window >= count:
        raise refusal(f"window {window} is asked for, it has {count} {kind}, from 0", "Choose one")


def apply_window(values: Greys, center: float, width: float, function: str) -> Greys:
    """A window, PS3.3 C.11.2.1.2 and .3, of [0, 1]; its width is positive, LINEAR's at least 1."""
    with np.errstate(over="ignore"):  # e ** 1000 is infinite: black; a very narrow window
        if function == "SIGMOID":
            return np.asarray(1 / (1 + np.exp(-4 * (values - center) / width)))
        if function == "LINEAR":
            center, width = center - 0.5, width - 1
        elif function != "LINEAR_EXACT":
            raise refusal("its VOILUTFunction is none of LINEAR, LINEAR_EXACT, SIGMOID", CORRECT)
        if width == 0:
            return (values > center).astype(float)
        return np.asarray(np.clip((values - center) / width + 0.5, 0, 1))


def _read_lut(header: Header, prefix: str, *, signed: bool) -> tuple[int, Greys, int]:
    """A table, PS3.3 C.11.1.1: its first input, negative only if ``signed``; entries (M,); bits."""
    numbers = header.integers(f"{prefix}Descriptor")
    if len(numbers) != 3 or not 8 <= numbers[2] <= 16:
        raise refusal(f"its {prefix}Descriptor is corrupt: {numbers}", CORRECT)
    count, bits = numbers[0] or 65536, numbers[2]
    first = header.integers(f"{prefix}Descriptor", signed=signed)[1]
    data = header.value(f"{prefix}Data") or b""
    packed = bits == 8 and count <= len(data) <= count + 1
    if len(data) < count * (1 if packed else 2):
        raise refusal(fault("table_bytes", prefix, data, count), CORRECT)
    entries = np.frombuffer(data, "u1" if packed else f"{header.order}u2", count)
    if entries.max() >= 2**bits:
        raise refusal(f"its {prefix}Data exceeds its {bits} bits: it is corrupt", CORRECT)
    return first, entries.astype(float), bits


def look_up(values: npt.NDArray[Any], first: int, entries: Greys) -> Greys:
    """Entries for values; those below ``first`` or past the end get the first or last entry."""
    positions = np.clip(np.rint(values) - float(first), 0, len(entries) - 1)  # before the cast
    return np.asarray(entries[positions.astype(np.int64)])


def weighted_percentiles(
    values: Greys, counts: npt.NDArray[np.int64], percents: Sequence[float]
) -> list[float]:
    """For each q the least value with at least q % of the counts at or below it."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(counts[order])
    if not total[-1]:
        raise refusal("all its pixels are padding", CORRECT)
    at = np.searchsorted(total, [total[-1] * percent / 100 for percent in percents])
    return [float(value) for value in values[order[at]]]


def luma(
    codes: Codes, stored: StoredValues, header: Header, layout: Layout
) -> npt.NDArray[np.float32]:
    """Grey of a colour frame, (H, W) in [0, 1]; neither VOI nor padding apply to colour."""
    # codes are (H, W, 3), (H, W, 1) of YBR_FULL_422, or (H, W) of a palette
    if layout.signed:
        raise refusal("its colour samples are signed", CORRECT)
    if layout.photometric == "PALETTE COLOR":
        return np.take(_read_palette(stored, header), codes)
    scaled = (stored / stored.max()).astype(np.float32)  # (N,)
    decoded = header.syntax in JPEGTransferSyntaxes  # to RGB already
    if decoded or layout.photometric in ("RGB", "YBR_ICT", "YBR_RCT"):
        return np.take(scaled, codes) @ WEIGHTS
    return np.take(scaled, codes[:, :, 0])  # Y is luma already


def _read_palette(stored: StoredValues, header: Header) -> npt.NDArray[np.float32]:
    """Luma of every code, (N,)."""
    if header.value("SegmentedRedPaletteColorLookupTableData") is not None:
        raise refusal("its palette is segmented", "Convert it to RGB")
    grey = np.zeros(len(stored), np.float32)
    for name, weight in zip(("Red", "Green", "Blue"), WEIGHTS, strict=True):
        first, entries, bits = _read_lut(header, f"{name}PaletteColorLookupTable", signed=False)
        grey += weight * (look_up(stored, first, entries) / (2**bits - 1)).astype(np.float32)
    return grey
