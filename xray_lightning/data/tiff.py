"""TIFF pictures, by tifffile and imagecodecs.

OpenCV 5 gives another picture, or a black one, where a file is damaged or packed in a way it does
not know. Here every tag has to be readable, every strip has to be there and to unpack to its size.
Of several pages the first is taken.
"""

import io
import logging
import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from xray_lightning.data.dicom.header import AGAIN, MAX_SIDE, refusal
from xray_lightning.errors import InvalidImageError

if TYPE_CHECKING:
    from tifffile import TiffPage

_PACKED = (1, 5, 7, 8, 32773, 32946, 34712)
_PACKINGS = "none, LZW, JPEG, deflate, PackBits, JPEG 2000"  # the same by name
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6  # PhotometricInterpretation
_JPEG, _ORIENTATION = 7, 274
_CONVERT = "Convert it to 8-bit or 16-bit grey"

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # it logs what we raise


def decode_tiff(data: bytes) -> tuple[npt.NDArray[Any], int, int]:
    """The first page of a TIFF file.

    Returns:
        Codes, (H, W) or (H, W, 3) in OpenCV's order BGR, black 0; the code of white; and the
        orientation, 1 to 8 as EXIF counts.
    """
    import tifffile  # 0.1 s that only TIFF needs

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            _check_page(page, data)
            pixels, white = _map_codes(page.asarray(maxworkers=1), page)
            return pixels, white, int(page.tags.valueof(_ORIENTATION, 1))
    except InvalidImageError:
        raise
    except Exception as error:  # each codec has its own errors for damaged bytes
        reason = f"its TIFF data is damaged ({type(error).__name__})"
        raise refusal(reason, AGAIN) from error


def _check_page(page: "TiffPage", data: bytes) -> None:
    """Raise unless the page is of a kind that is read, and all its bytes are there."""
    if page.compression not in _PACKED:
        raise refusal(f"its TIFF compression is {page.compression}, none of {_PACKINGS}", _CONVERT)
    wide, high = page.imagewidth, page.imagelength
    if not (0 < wide <= MAX_SIDE and 0 < high <= MAX_SIDE):
        raise refusal(
            f"its size is {wide} x {high} pixels, sides must be 1 to {MAX_SIDE:,}", _CONVERT
        )
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
    if samples >= 3 and (kind == _RGB or (kind == _YCBCR and page.compression == _JPEG)):
        return codes[:, :, 2::-1], white
    raise refusal(
        f"its PhotometricInterpretation is {kind} with {samples} samples a pixel", _CONVERT
    )
