"""A picture file becomes (H, W) uint8, by stated rules, or an error that names the file.

The rules stand in ``data/README.md``, "Images". 16-bit grey is never stretched per image: values
that need at most 14 bits, as of a 12-bit detector, give a dark picture and a note, unless the data
set says how many bits are stored: then ``round(value * 255 / (2**bits - 1))``.

OpenCV decodes PNG, JPEG and BMP (16-bit grey PNG: libpng by imagecodecs), but the file is checked
first: some of its releases return a truncated picture half grey, and all of them write to stderr.
PNG is checked by its checksums, so no damaged byte gets through; JPEG has none, so only its frame
is checked: size, and that the end is there.

TIFF is read by tifffile and imagecodecs. OpenCV 5 gives another picture, or a black one, where a
file is damaged or packed in a way it does not know; here every tag has to be readable, every strip
has to be there and to unpack to its size.
"""

import io
import logging
import math
import struct
import zlib
from collections.abc import Iterator, Set
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt

from xray_lightning.data.dicom import read_dicom8
from xray_lightning.data.dicom.header import AGAIN, MAX_SIDE, guard, name_errors, refusal
from xray_lightning.data.dicom.pixels import jpeg_segments
from xray_lightning.data.files import JPEG, PNG, TIFF, is_dicom, read_file
from xray_lightning.errors import MissingImagesError
from xray_lightning.records import Record
from xray_lightning.wording import fault

if TYPE_CHECKING:
    from tifffile import TiffPage

DARK_BITS = 14  # detectors have 10 to 14; a picture that uses 16 has brighter values

TINT = 16  # of 255; a pixel is coloured if its channels differ by more, as those of a JPEG do not
COLOURED = "colour picture: more than 1 % of its pixels are coloured"  # a note

Pixels = npt.NDArray[np.uint8]  # (H, W)
Decoded = npt.NDArray[np.integer | np.floating]  # (H, W) or (H, W, C), C in OpenCV's order BGRA

_GREY16 = b"\x10\0"  # bit depth and colour type of a PNG's header
_JPEG_SIZE = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the start-of-frame markers
_FLAGS = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR  # as stored, but upright and without alpha
_PACKED = (1, 5, 7, 8, 32773, 32946, 34712)  # Compression of TIFF
_PACKINGS = "none, LZW, JPEG, deflate, PackBits, JPEG 2000"  # the same by name
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6  # PhotometricInterpretation
_PACKED_JPEG, _ORIENTATION = 7, 274
_CONVERT = "Convert it to 8-bit or 16-bit grey"

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # it logs what we raise
_notes: ContextVar[list[str] | None] = ContextVar("notes", default=None)


@contextmanager
def collect_notes() -> Iterator[list[str]]:
    """Collects what was decided by a fall-back in the pictures read inside, in this thread."""
    notes: list[str] = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def read_image(path: Path, bits: int = 16) -> Pixels:
    """The picture in a file, (H, W) uint8, at its own size; ``bits`` as in :func:`decode_image`."""
    return decode_image(read_file(Path(path)), str(path), bits)


def read_record(record: Record, bits: int = 16) -> Pixels:
    """The picture of a record that is a file, (H, W) uint8."""
    if record.path is None:
        raise MissingImagesError(fault("no_file", record.image_id))
    return read_image(record.path, bits)


def decode_image(data: bytes, name: str, bits: int = 16) -> Pixels:
    """The picture in the bytes of a file, (H, W) uint8; ``bits``: those stored in a 16-bit PNG."""
    notes = [] if (collected := _notes.get()) is None else collected
    if is_dicom(data, name):
        return read_dicom8(data, name=name, notes=notes)
    with name_errors(name):
        if data.startswith(TIFF):
            pixels, white, orientation = _decode_tiff(data, notes)
        else:
            pixels = _decode(data, _check_file(data))
            white, orientation = 255 if pixels.dtype == np.uint8 else 2**bits - 1, 1
        most = int(pixels.max()) if white > 255 else 0
        if most > white:
            raise refusal(f"it holds the value {most:,}, more than its {bits} bits can")
        if white == 65535 and 0 < (used := most.bit_length()) <= DARK_BITS:
            notes.append(f"16-bit picture of {used}-bit values: dark, for it is not stretched")
        return _turn_upright(to_grey8(pixels, white), orientation)


def _decode(data: bytes, chunks: Set[bytes]) -> Decoded:
    if chunks and data[24:26] == _GREY16 and b"eXIf" not in chunks:  # a little faster than OpenCV
        with guard("its compressed pixels are"):
            codes = np.asarray(imagecodecs.png_decode(data))
            return codes[..., 0] if codes.ndim == 3 else codes  # alpha is ignored
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS)
    except cv2.error as error:
        raise refusal(f"OpenCV cannot decode it ({error.err})") from error
    if pixels is None:
        raise refusal("its compressed pixels are damaged")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise refusal(fault("kind_of_pixels", pixels), f"{_CONVERT} with a window you choose")
    return pixels


def to_grey8(pixels: Decoded, white: int) -> Pixels:
    """Any decoded picture as (H, W) uint8; ``white`` is the code that becomes 255."""
    _check_size(pixels.shape[1], pixels.shape[0])
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    elif pixels.ndim == 3 and pixels.shape[2] == 3:  # ITU-R 601 luma
        sample, notes = pixels[::4, ::4], _notes.get()
        tinted = sample.max(axis=2) - sample.min(axis=2) > TINT * white / 255
        if notes is not None and tinted.mean() > 0.01:
            notes.append(COLOURED)
        pixels = np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_BGR2GRAY))
    elif pixels.ndim == 3:
        raise refusal(f"it has {pixels.shape[2]} channels, not 1 or 3", "Convert it to grey")
    if white != 255:  # the nearest of value * 255 / white, for every value of 8 to 16 bits
        pixels = np.asarray(cv2.convertScaleAbs(pixels, alpha=255 / white))
    return pixels.astype(np.uint8, copy=False)


def _turn_upright(pixels: Pixels, orientation: int) -> Pixels:
    """As EXIF's Orientation says (TIFF 6.0); what is none of 2 to 8 means as it is."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.T
    flips = -1 if orientation in (2, 3, 6, 7) else 1, -1 if orientation in (3, 4, 7, 8) else 1
    return np.ascontiguousarray(pixels[:: flips[1], :: flips[0]])


def _check_file(data: bytes) -> Set[bytes]:
    """The kinds of a PNG's chunks; an error unless it is a complete file of a format read here."""
    if not data:
        raise refusal("the file is empty")
    if data.startswith(PNG):
        return _check_png(data)
    if data.startswith(JPEG):  # by its segments: a thumbnail's end marker is not the picture's
        frames = [start for marker, start in jpeg_segments(data) if marker in _JPEG_SIZE]
        if not frames:
            raise refusal("the JPEG has no frame header")
        for start in frames:
            height, width = struct.unpack_from(">HH", data, start + 5)
            _check_size(width, height)
    elif not data.startswith(b"BM"):  # never say the bytes: they may be a patient's name
        raise refusal(fault("first_bytes"), "Convert or download the file again")
    return frozenset()


def _check_png(data: bytes) -> Set[bytes]:
    """Walk the chunks (length, type, content, CRC) from the signature to IEND."""
    view = memoryview(data)
    start, kind, kinds = len(PNG), b"", set[bytes]()
    while kind != b"IEND":
        end = start + 12 + int.from_bytes(view[start : start + 4])
        if end > len(data):
            raise refusal(f"the PNG is truncated: a chunk ends at byte {end:,} of {len(data):,}")
        kind, content = bytes(view[start + 4 : start + 8]), view[start + 8 : end - 4]
        if zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            raise refusal(f"the PNG is damaged: wrong checksum of the chunk at byte {start:,}")
        if start == len(PNG):
            if kind != b"IHDR" or len(content) != 13:
                raise refusal("the PNG does not begin with its header (IHDR)")
            _check_size(int.from_bytes(content[:4]), int.from_bytes(content[4:8]))
        kinds.add(kind)
        start = end
    return kinds


def _check_size(width: int, height: int, remedy: str = AGAIN) -> None:
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise refusal(fault("sides", width, height, MAX_SIDE), remedy)


def _decode_tiff(data: bytes, notes: list[str]) -> tuple[npt.NDArray[Any], int, int]:
    """The first page: codes, (H, W) or BGR (H, W, 3); the code of white; EXIF's orientation."""
    import tifffile  # 0.1 s that only TIFF needs

    with guard("its TIFF data is"), tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        _check_page(page, data)
        notes += ["TIFF of several pages: the first is taken"] if len(file.pages) > 1 else []
        pixels, white = _map_codes(page.asarray(maxworkers=1), page)
        return pixels, white, int(page.tags.valueof(_ORIENTATION, 1))


def _check_page(page: "TiffPage", data: bytes) -> None:
    """Raise unless the page is of a kind that is read, and all its bytes are there."""
    if page.compression not in _PACKED:
        raise refusal(f"its TIFF compression is {page.compression}, none of {_PACKINGS}", _CONVERT)
    _check_size(page.imagewidth, page.imagelength, _CONVERT)
    if page.sampleformat != 1 or page.bitspersample > 16:
        raise refusal(f"its pixels are {page.dtype}, not integers of up to 16 bits", _CONVERT)
    strips = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    there = all(start > 0 and size > 0 and start + size <= len(data) for start, size in strips)
    (tags,) = struct.unpack_from("<H" if data.startswith(b"II") else ">H", data, page.offset)
    if tags != len(page.tags) or not there or len(strips) < math.prod(page.chunked):
        raise ValueError("a tag or a strip is missing")


def _map_codes(codes: npt.NDArray[Any], page: "TiffPage") -> tuple[npt.NDArray[Any], int]:
    """(H, W) or (H, W, 3) with black 0, and the code of white."""
    white = 2**page.bitspersample - 1
    codes = codes.astype(np.uint8 if white < 256 else np.uint16, copy=False)
    if page.axes == "SYX":
        codes = np.moveaxis(codes, 0, -1)
    elif page.axes not in ("YX", "YXS"):
        raise refusal(f"its axes are {page.axes}, not one picture", _CONVERT)
    kind, samples = page.photometric, codes.shape[2] if codes.ndim == 3 else 1
    if kind in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
        grey = codes if codes.ndim == 2 else codes[:, :, 0]
        return (white - grey if kind == _WHITE_IS_ZERO else grey), white
    if kind == _PALETTE and samples == 1 and page.colormap is not None:
        return np.moveaxis(page.colormap[::-1, codes], 0, -1), 2**16 - 1
    if samples >= 3 and (kind == _RGB or (kind == _YCBCR and page.compression == _PACKED_JPEG)):
        return codes[:, :, 2::-1], white
    raise refusal(fault("photometric_of", kind, samples), _CONVERT)
