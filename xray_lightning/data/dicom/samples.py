"""Pixel data -> the integer codes of one frame, and what the codes mean."""

import numpy as np
import numpy.typing as npt

from xray_lightning.data.dicom.codecs import Codes, decode_frame
from xray_lightning.data.dicom.elements import AGAIN, Elements, PixelElement, refusal
from xray_lightning.data.dicom.encapsulation import encapsulated_frame
from xray_lightning.data.dicom.layout import Layout

Values = npt.NDArray[np.int32]  # (N,), the stored value of each code 0 to N - 1

_NATIVE = ("1.2.840.10008.1.2", *(f"1.2.840.10008.1.2.{end}" for end in ("1", "1.99", "2")))
_NATIVE_IN_ITEMS = "1.2.840.10008.1.2.1.98"  # PS3.5 A.4.11: the native pixels of a frame in an item


def read_codes(
    elements: Elements, pixels: PixelElement, layout: Layout, frame: int
) -> tuple[Codes, Values]:
    """The words of one frame as they are stored, and their meaning.

    Returns:
        Codes, (H, W) or (H, W, 3), unsigned; and the stored value of each possible code, (N,) with
        N = 256 or 65,536: bits above the stored ones cut off, the sign extended (PS3.5 8.1.1).

    Raises:
        InvalidImageError: the pixels are damaged, truncated or of an unsupported syntax.
    """
    if elements.syntax in _NATIVE:
        codes = _native(pixels, layout, frame, elements.order)
        return codes, _meaning(codes, layout.stored, layout.high, signed=layout.signed)
    if not pixels.encapsulated:
        raise refusal("its pixel data is not encapsulated as its transfer syntax says", AGAIN)
    data = encapsulated_frame(pixels.data, frame, layout.frames)
    if elements.syntax == _NATIVE_IN_ITEMS:
        codes = _words(memoryview(data), layout, 1, 0, "<")
        return codes, _meaning(codes, layout.stored, layout.high, signed=layout.signed)
    codes, precision = decode_frame(data, elements.syntax, layout)
    bits = min(precision, layout.stored)
    if precision > bits == layout.high + 1 and codes.max() >> bits:
        bits = precision  # PS3.5 A.4: the codestream's own precision, where its values need it
    high = layout.high if precision == layout.allocated else bits - 1
    return codes, _meaning(codes, bits, max(high, bits - 1), signed=layout.signed)


def _native(pixels: PixelElement, layout: Layout, frame: int, order: str) -> Codes:
    """One frame of uncompressed pixel data."""
    if pixels.encapsulated:
        raise refusal("its pixel data is encapsulated, which its transfer syntax rules out", AGAIN)
    data = pixels.data
    if layout.allocated == 8 and order == ">" and pixels.vr == b"OW":
        data = _swapped(data)
    return _words(data, layout, layout.frames, frame, order)


def _words(data: memoryview, layout: Layout, frames: int, frame: int, order: str) -> Codes:
    """One of the frames that lie one behind the other."""
    halved = layout.photometric == "YBR_FULL_422"  # Y Y B R for each two pixels
    count = layout.rows * layout.columns * (2 if halved else layout.samples)
    size = count * layout.allocated // 8
    if len(data) < frames * size:
        reason = f"its pixel data has {len(data):,} bytes, the header says "
        raise refusal(f"{reason}{frames} x {size:,}: it is truncated", AGAIN)
    data = data[frame * size : (frame + 1) * size]
    codes = np.frombuffer(data, f"{order}u{layout.allocated // 8}")
    return _shaped(codes.astype(codes.dtype.newbyteorder("="), copy=False), layout)


def _swapped(data: memoryview) -> memoryview:
    """Bytes that were written as big-endian words, in their own order."""
    if len(data) % 2:
        raise refusal(f"its {len(data):,} bytes of pixel data are no 16-bit words", AGAIN)
    return np.frombuffer(data, ">u2").astype("<u2").view(np.uint8).data


def _shaped(codes: Codes, layout: Layout) -> Codes:
    """(H, W), or (H, W, 3); of YBR_FULL_422 only Y, (H, W, 1)."""
    size = layout.rows, layout.columns
    if layout.samples == 1:
        return codes.reshape(size)
    if layout.photometric == "YBR_FULL_422":
        return codes.reshape(-1, 4)[:, :2].reshape(*size, 1)
    if layout.planar:
        return codes.reshape(3, *size).transpose(1, 2, 0)
    return codes.reshape(*size, 3)


def _meaning(codes: Codes, bits: int, high: int, *, signed: bool) -> Values:
    """The stored value of every code: ``bits`` of it below and including bit ``high``."""
    words = np.arange(1 << 8 * codes.itemsize, dtype=np.int32)  # (N,)
    values = (words >> (high + 1 - bits)) & ((1 << bits) - 1)
    if signed:
        values -= (values >> (bits - 1)) << bits
    return values
