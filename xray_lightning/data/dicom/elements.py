"""The attributes of a DICOM file that are looked at, converted without pydicom's validation.

pydicom splits the file into elements and stops before the pixel data, which stays where it is.
Values are converted here, because pydicom warns for every value that breaks the standard (RSNA's
ages, for one) through a process-wide switch that threads cannot share. No message holds a value of
the file: it could be a name typed into the wrong field.
"""

import logging
import math
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from xray_lightning.errors import InvalidImageError

MAX_INFLATED = 256 * 2**20  # bytes of a deflated data set; 100 million pixels of 16 bits fit
AGAIN = "Download or copy the file again"
BARE = b"\2\0\0\0"  # group 2, element 0: the file begins with its meta group, without preamble

_IMPLICIT, _DEFLATED, _BIG_ENDIAN = (f"1.2.840.10008.1.2{end}" for end in ("", ".1.99", ".2"))
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # float, double, integer
_OVERLAYS = [0x60000010 + (plane << 17) for plane in range(16)]  # the rows of planes 6000 to 601E
_LONG = (b"OB", b"OW", b"OF", b"OD", b"UN")  # VRs with a length of 4 bytes; 'O' is odd
_UNDEFINED = 0xFFFFFFFF
_MACROS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

_KEYWORDS = """
    SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns
    BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit
    RescaleSlope RescaleIntercept ModalityLUTSequence WindowCenter WindowWidth VOILUTFunction
    VOILUTSequence PresentationLUTShape BurnedInAnnotation Modality ViewPosition ImageLaterality
    Laterality PatientAge PatientSex Manufacturer ImagerPixelSpacing PixelSpacing
    NominalScannedPixelSpacing RedPaletteColorLookupTableDescriptor
    GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor
    RedPaletteColorLookupTableData GreenPaletteColorLookupTableData
    BluePaletteColorLookupTableData SegmentedRedPaletteColorLookupTableData
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
"""
_WANTED: list[BaseTag | int] = [tag_for_keyword(word) or 0 for word in _KEYWORDS.split()]
_WANTED += _OVERLAYS


def refusal(reason: str, remedy: str) -> InvalidImageError:
    """The one way an error is worded here; the reader puts the file's name in front."""
    return InvalidImageError(f"{reason}. {remedy}")


class Elements:
    """Attributes of a data set or of a sequence item, by keyword.

    Args:
        dataset: what pydicom read.
        order: "<" or ">", the byte order of binary values.
        syntax: UID of the transfer syntax.
    """

    def __init__(self, dataset: Dataset, *, order: str, syntax: str) -> None:
        self.order = order
        self.syntax = syntax
        self._dataset = dataset

    def value(self, keyword: str) -> bytes | None:
        """The bytes of a value; None where it is absent or empty."""
        # without keep_deferred pydicom converts an empty value, and may fail over its VR
        element = self._dataset.get_item(keyword, keep_deferred=True)
        if element is None or not element.value:
            return None
        if not isinstance(element.value, bytes):
            raise refusal(f"its {keyword} is a sequence, not a value", AGAIN)
        return element.value

    def text(self, keyword: str) -> str:
        """The first value of a text attribute, '' where it is absent; non-ASCII becomes '?'."""
        text = (self.value(keyword) or b"").split(b"\\")[0].decode("ascii", "replace")
        return text.replace("\ufffd", "?").strip(" \0")

    def decimals(self, keyword: str) -> list[float]:
        """The values of a DS or IS attribute.

        Raises:
            InvalidImageError: a value is no finite number.
        """
        parts = [part.strip(b" \0") for part in (self.value(keyword) or b"").split(b"\\")]
        if parts == [b""]:
            return []
        numbers = [float(part) if _NUMBER.fullmatch(part) else math.nan for part in parts]
        if not all(map(math.isfinite, numbers)):
            raise refusal(f"its {keyword} is no finite number", "Correct the header")
        return numbers

    def integers(self, keyword: str, *, signed: bool = False) -> list[int]:
        """The 16-bit values of a US or SS attribute; ``signed`` decides, not the stated VR."""
        data = self.value(keyword) or b""
        if len(data) % 2:
            raise refusal(f"its {keyword} has {len(data)} bytes, an odd number", AGAIN)
        words = np.frombuffer(data, f"{self.order}{'i' if signed else 'u'}2")
        return [int(word) for word in words]

    def items(self, keyword: str) -> "list[Elements]":
        """The items of a sequence, [] where it is absent."""
        if keyword not in self._dataset:
            return []
        try:
            with _quiet_pydicom():
                items = list(self._dataset[keyword].value)
            return [Elements(item, order=self.order, syntax=self.syntax) for item in items]
        except Exception as error:  # damaged bytes can raise anything in pydicom
            raise refusal(f"its {keyword} is damaged ({type(error).__name__})", AGAIN) from error

    def in_frame(self, frame: int) -> "Elements":
        """With rescale and window of the functional groups, PS3.3 C.7.6.16.2.9 and .10, if any.

        What stands in the group of the frame, or else in the shared one, replaces the file's own.
        """
        own = self.items("PerFrameFunctionalGroupsSequence")[frame : frame + 1]
        groups = [*self.items("SharedFunctionalGroupsSequence")[:1], *own]
        macros = [item for group in groups for name in _MACROS for item in group.items(name)[:1]]
        if not macros:
            return self
        merged = Dataset()
        for part in (self, *macros):
            for tag in part._dataset.keys():  # noqa: SIM118 - iterating converts every value
                merged[tag] = part._dataset.get_item(tag, keep_deferred=True)
        return Elements(merged, order=self.order, syntax=self.syntax)

    def has_overlays(self) -> bool:
        """Whether any of the 16 overlay planes is there."""
        return any(tag in self._dataset for tag in _OVERLAYS)


@dataclass(frozen=True)
class PixelElement:
    """The pixel data element, its value still in place.

    Args:
        vr: the stated VR, b"" in implicit VR.
        data: the value; where it is encapsulated all that follows, delimiter included.
        encapsulated: whether its length is undefined.
    """

    vr: bytes
    data: memoryview
    encapsulated: bool


def read_elements(data: bytes) -> tuple[Elements, PixelElement]:
    """Split a DICOM file.

    Raises:
        InvalidImageError: it is no DICOM file, is damaged or truncated, or has no pixel data.
    """
    if data[128:132] != b"DICM" and not data.startswith(BARE):
        if re.match(rb"\x08\0.\0", data, re.DOTALL):
            reason = "it is a DICOM data set without file meta information"
            raise refusal(reason, "Rewrite it with DCMTK's dcmconv")
        raise refusal("it is no DICOM file: DICM is not at byte 128", AGAIN)
    try:
        with _quiet_pydicom():
            return _split(data)
    except InvalidImageError:
        raise
    except Exception as error:  # damaged bytes can raise anything in pydicom
        raise refusal(f"its header is damaged ({type(error).__name__})", AGAIN) from error


def syntax_name(uid: str) -> str:
    """The name of a transfer syntax, or the UID itself."""
    return str(UID(uid).name)


def _split(data: bytes) -> tuple[Elements, PixelElement]:
    stream = BytesIO(data)
    stream.seek(132 if data[128:132] == b"DICM" else 0)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    syntax = Elements(meta, order="<", syntax="").text("TransferSyntaxUID")
    if not re.fullmatch(r"[0-9.]{1,64}", syntax):
        raise refusal("it has no valid TransferSyntaxUID", "Rewrite it with DCMTK's dcmconv")
    if syntax == _DEFLATED:
        data = _inflate(memoryview(data)[stream.tell() :])
        stream = BytesIO(data)
    order = ">" if syntax == _BIG_ENDIAN else "<"
    dataset = read_dataset(
        stream,
        syntax == _IMPLICIT,
        order == "<",
        stop_when=lambda tag, *_: tag in _PIXELS,
        specific_tags=_WANTED,
    )
    elements = Elements(dataset, order=order, syntax=syntax)
    return elements, _pixel_element(data, stream.tell(), order)


def _inflate(data: memoryview) -> bytes:
    """Undo RFC 1951 deflation (PS3.5 A.5), up to a limit."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(data, MAX_INFLATED)
    if inflater.unconsumed_tail:
        limit = f"its deflated data set has more than {MAX_INFLATED:,} bytes"
        raise refusal(limit, "Rewrite it uncompressed")
    if not inflater.eof:
        raise refusal("it is truncated: the end of its deflated data set is missing", AGAIN)
    return inflated


def _pixel_element(data: bytes, start: int, order: str) -> PixelElement:
    """The element at ``start``, where pydicom stopped."""
    head = data[start : start + 12]
    if len(head) < 12:
        raise refusal("it has no pixel data, or is truncated before it", AGAIN)
    group, element = struct.unpack(f"{order}HH", head[:4])
    if group << 16 | element != _PIXELS[-1]:
        raise refusal("its pixels are floating-point numbers", "Convert them to 16-bit integers")
    vr = head[4:6] if head[4:6] in _LONG else b""  # in implicit VR the length's lower, even, half
    begin = start + (12 if vr else 8)
    (length,) = struct.unpack(f"{order}I", data[begin - 4 : begin])
    end = len(data) if length == _UNDEFINED else begin + length
    if end > len(data):
        raise refusal(f"it is truncated: its pixels end at byte {end:,} of {len(data):,}", AGAIN)
    return PixelElement(vr, memoryview(data)[begin:end], length == _UNDEFINED)


class _Silence(logging.Filter):
    """Drops the log records of threads that are reading: pydicom logs each of its warnings too."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(self.thread, "reading", False)


_silence = _Silence()
logging.getLogger("pydicom").addFilter(_silence)


@contextmanager
def _quiet_pydicom() -> Iterator[None]:
    _silence.thread.reading = True
    try:
        yield
    finally:
        _silence.thread.reading = False
