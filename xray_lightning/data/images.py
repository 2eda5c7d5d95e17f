"""A picture file becomes (H, W) uint8, by stated rules, or an error that names the file.

The rules, so that a number computed from pixels can be traced back to the file:

- 8-bit grey: as it is.
- 16-bit grey: the full range, ``round(value * 255 / 65535)``; never stretched per image.
- 1-bit and palette: expanded, black 0 and white 255.
- Colour: ITU-R 601 luma, 0.299 R + 0.587 G + 0.114 B; alpha is ignored.
- The EXIF orientation is ignored, and of several pages the first is taken.
- DICOM: the grey scale of ``data/dicom/grey.py`` in [0, 1], ``round(255 x)``.

OpenCV decodes, but the file is checked first: some of its releases return a truncated picture
half grey, and all of them write to stderr. PNG is checked by its checksums, so no damaged byte gets
through; JPEG has none, so only its frame is checked: size, and that the end is there.
"""

import zlib
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from xray_lightning.data.dicom import is_dicom, read_dicom8
from xray_lightning.data.dicom.layout import MAX_SIDE
from xray_lightning.errors import InvalidImageError, MissingImagesError
from xray_lightning.records import Record

READER_VERSION = 1  # raise it when a rule above changes: caches of pixels then become stale

MAX_FILE = 2**30  # bytes; a larger one would fill the memory

Pixels = npt.NDArray[np.uint8]  # (H, W)
Decoded = npt.NDArray[np.integer | np.floating]  # (H, W) or (H, W, C), C in OpenCV's order BGRA

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_OTHERS = (b"BM", b"II*\x00", b"MM\x00*")  # BMP, TIFF of either byte order
_JPEG_SIZE = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the start-of-frame markers
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length
_AGAIN = "Download or copy the file again"


def read_image(path: Path) -> Pixels:
    """The picture in a file, (H, W) uint8, at its own size.

    Raises:
        InvalidImageError: the file is unreadable or no intact picture; the message names the file,
            the reason and the remedy.
    """
    try:
        if Path(path).stat().st_size > MAX_FILE:
            raise _invalid(path, f"the file is larger than {MAX_FILE:,} bytes", "Split it")
        data = Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise _invalid(path, f"cannot be opened ({reason})", "Check the path") from error
    return decode_image(data, str(path))


def read_record(record: Record) -> Pixels:
    """The picture of a record that is a file, (H, W) uint8.

    Raises:
        MissingImagesError: the record has no file.
        InvalidImageError: the file is no intact picture.
    """
    if record.path is None:
        raise MissingImagesError(
            f"image {record.image_id} of the label table is not on disk. Complete the download, or "
            "leave out the records named in `missing`"
        )
    return read_image(record.path)


def decode_image(data: bytes, name: str) -> Pixels:
    """The picture in the bytes of a PNG, JPEG, BMP, TIFF or DICOM file, (H, W) uint8.

    Args:
        data: the whole file.
        name: names the file in messages.

    Raises:
        InvalidImageError: the bytes are no intact picture of up to 20,000 pixels a side, or its
            pixels are neither 8 nor 16 bit.
    """
    if is_dicom(data, name) and not data.startswith((_PNG, _JPEG)):
        return read_dicom8(data, name=name)
    _check_frame(data, name)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise _invalid(name, f"OpenCV cannot decode it ({error.err})", _AGAIN) from error
    if pixels is None:
        raise _invalid(name, "its compressed pixels are damaged", _AGAIN)
    return _to_grey8(pixels, name)


def _to_grey8(pixels: Decoded, name: str) -> Pixels:
    """Any decoded picture as (H, W) uint8."""
    if pixels.dtype not in (np.uint8, np.uint16):
        remedy = "Convert it to 8-bit or 16-bit grey with a window you choose"
        raise _invalid(name, f"its pixels are {pixels.dtype}, not 8-bit or 16-bit integers", remedy)
    _check_size(pixels.shape[1], pixels.shape[0], name)
    if pixels.ndim == 3:
        pixels = _luma(pixels, name)  # (H, W)
    if pixels.dtype == np.uint16:
        # 65535 = 257 * 255; adding half of 257 rounds to the nearest.
        pixels = (pixels.astype(np.uint32) + 128) // 257
    return pixels.astype(np.uint8, copy=False)


def _luma(pixels: Decoded, name: str) -> Decoded:
    """ITU-R 601 luma of (H, W, C) with C = 1, 3 or 4, (H, W) of the same type."""
    channels = pixels.shape[2]
    if channels == 1:
        return pixels[:, :, 0]
    codes = {3: cv2.COLOR_BGR2GRAY, 4: cv2.COLOR_BGRA2GRAY}
    if channels not in codes:
        raise _invalid(name, f"it has {channels} channels, not 1, 3 or 4", "Convert it to grey")
    return np.asarray(cv2.cvtColor(pixels, codes[channels]))


def _check_frame(data: bytes, name: str) -> None:
    """Raise unless the bytes are a complete file of a format that is read here."""
    if not data:
        raise _invalid(name, "the file is empty", _AGAIN)
    if data.startswith(_PNG):
        _check_png(data, name)
    elif data.startswith(_JPEG):
        _check_jpeg(data, name)
    elif not data.startswith(_OTHERS):
        reason = "it is no PNG, JPEG, BMP, TIFF or DICOM by its first bytes"  # which may be a name
        raise _invalid(name, reason, "Convert or download the file again")


def _check_png(data: bytes, name: str) -> None:
    """Walk the chunks (length, type, content, CRC) from the signature to IEND."""
    view = memoryview(data)
    start, kind = len(_PNG), b""
    while kind != b"IEND":
        end = start + 12 + int.from_bytes(view[start : start + 4])
        if end > len(data):
            reason = f"the PNG is truncated: a chunk ends at byte {end:,} of {len(data):,}"
            raise _invalid(name, reason, _AGAIN)
        kind = bytes(view[start + 4 : start + 8])
        if zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            reason = f"the PNG is damaged: wrong checksum of the chunk at byte {start:,}"
            raise _invalid(name, reason, _AGAIN)
        if start == len(_PNG):
            _check_png_header(kind, view[start + 8 : end - 4], name)
        start = end


def _check_png_header(kind: bytes, content: memoryview, name: str) -> None:
    if kind != b"IHDR" or len(content) != 13:
        raise _invalid(name, "the PNG does not begin with its header (IHDR)", _AGAIN)
    _check_size(int.from_bytes(content[:4]), int.from_bytes(content[4:8]), name)


def _check_jpeg(data: bytes, name: str) -> None:
    """Walk the segments up to the first scan, then look for the end marker.

    Inside a scan 0xFF is always followed by 0x00 or a restart marker, so a thumbnail's end marker
    in an earlier segment cannot be taken for the picture's.
    """
    start, sized, marker = 2, False, 0
    while marker != 0xDA:  # start of scan
        if start + 10 > len(data) or data[start] != 0xFF:  # a scan header has 8 bytes or more
            raise _invalid(name, f"the JPEG is truncated or damaged at byte {start:,}", _AGAIN)
        marker = data[start + 1]
        if marker in _JPEG_SIZE:
            height, width = data[start + 5 : start + 7], data[start + 7 : start + 9]
            _check_size(int.from_bytes(width), int.from_bytes(height), name)
            sized = True
        start += _jpeg_step(data, start, marker)
    if not sized or data.find(b"\xff\xd9", start) < 0:
        reason = "the JPEG is truncated: its end marker (EOI) is missing"
        raise _invalid(name, reason if sized else "the JPEG has no frame header", _AGAIN)


def _jpeg_step(data: bytes, start: int, marker: int) -> int:
    """Bytes from one marker to the next."""
    if marker == 0xFF:  # a fill byte
        return 1
    if marker in _JPEG_BARE:
        return 2
    return 2 + int.from_bytes(data[start + 2 : start + 4])


def _check_size(width: int, height: int, name: str) -> None:
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        reason = f"its size is {width} x {height} pixels, sides must be 1 to {MAX_SIDE:,}"
        raise _invalid(name, reason, _AGAIN)


def _invalid(name: str | Path, reason: str, remedy: str) -> InvalidImageError:
    return InvalidImageError(f"{name}: {reason}. {remedy}")
