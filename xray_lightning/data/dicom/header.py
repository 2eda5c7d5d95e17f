"""The header of a DICOM file, converted without pydicom's validation, and how its pixels lie.

pydicom splits the file into elements and stops before the pixel data, which stays where it is.
Values are converted here, because pydicom warns for every value that breaks the standard (RSNA's
ages, for one) through a process-wide switch that threads cannot share. No message holds a text of
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
from typing import BinaryIO, cast

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from xray_lightning.data.files import BARE
from xray_lightning.errors import InvalidImageError
from xray_lightning.wording import fault

MAX_SIDE = 20_000  # px; a detector has about 4,000, so a larger figure is a damaged header
MAX_PIXELS = 100_000_000  # of one frame; with MAX_SIDE the limit on memory: 600 MB at 16 bits
MAX_INFLATED = 256 * 2**20  # bytes of a deflated data set; MAX_PIXELS of 16 bits fit
AGAIN, CORRECT = "Download or copy the file again", "Correct the header"
REWRITE = "Rewrite it with DCMTK's dcmconv"
NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
MONOCHROME = ("MONOCHROME1", "MONOCHROME2")

_SAMPLES = {
    **dict.fromkeys((*MONOCHROME, "PALETTE COLOR"), 1),
    **dict.fromkeys(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"), 3),
}
_IMPLICIT, _DEFLATED, _BIG_ENDIAN = (f"1.2.840.10008.1.2{end}" for end in ("", ".1.99", ".2"))
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # float, double, integer
_OVERLAYS = range(0x60000010, 0x60200010, 0x20000)  # the rows of planes 6000 to 601E
_LONG = (b"OB", b"OW", b"OF", b"OD", b"UN")  # VRs with a length of 4 bytes; 'O' is odd
_UNDEFINED = 0xFFFFFFFF
_MACROS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")

_reading = threading.local()
logging.getLogger("pydicom").addFilter(lambda _: not getattr(_reading, "now", False))


def refusal(reason: str, remedy: str = AGAIN) -> InvalidImageError:
    """The one way an error is worded here; the reader puts the file's name in front."""
    return InvalidImageError(f"{reason}. {remedy}")


@contextmanager
def name_errors(name: str) -> Iterator[None]:
    """Put the file's name in front of the message of an error."""
    try:
        yield
    except InvalidImageError as error:
        raise InvalidImageError(f"{name}: {error}") from error.__cause__


@contextmanager
def guard(what: str, remedy: str = AGAIN) -> Iterator[None]:
    """Turn what a library raises of damaged bytes, anything, to one error; drop pydicom's log."""
    _reading.now = True
    try:
        yield
    except InvalidImageError:
        raise
    except Exception as error:
        raise refusal(f"{what} damaged ({type(error).__name__})", remedy) from error
    finally:
        _reading.now = False


class Header:
    """Attributes of a data set or of a sequence item, by keyword."""

    def __init__(self, dataset: Dataset, order: str, syntax: str) -> None:
        self.order, self.syntax = order, syntax  # "<" or ">" of binary values; the UID
        self._dataset = dataset

    def value(self, keyword: str) -> bytes | None:
        """The bytes of a value; None where it is absent or empty."""
        # without keep_deferred pydicom converts an empty value, and may fail over its VR
        element = self._dataset.get_item(keyword, keep_deferred=True)
        if element is None or not element.value:
            return None
        if not isinstance(element.value, bytes):
            raise refusal(f"its {keyword} is a sequence, not a value")
        return element.value

    def texts(self, keyword: str) -> list[str]:
        """The values of a text attribute, [] where it is absent."""
        text = (self.value(keyword) or b"").decode("ascii", "replace").strip(" \0")
        return [part.strip(" \0") for part in text.split("\\")] if text else []

    def text(self, keyword: str) -> str:
        """The first of the values, "" where there is none."""
        return next(iter(self.texts(keyword)), "")

    def decimals(self, keyword: str) -> list[float]:
        """The values of a DS or IS attribute, all finite."""
        texts = self.texts(keyword)
        numbers = [float(text) if re.fullmatch(NUMBER, text) else math.nan for text in texts]
        if not all(map(math.isfinite, numbers)):
            raise refusal(f"its {keyword} is not a finite number", CORRECT)
        return numbers

    def integers(self, keyword: str, *, signed: bool = False) -> list[int]:
        """The 16-bit values of a US or SS attribute; ``signed`` decides, not the stated VR."""
        data = self.value(keyword) or b""
        if len(data) % 2:
            raise refusal(f"its {keyword} has {len(data)} bytes, an odd number")
        return [*map(int, np.frombuffer(data, f"{self.order}{'i' if signed else 'u'}2"))]

    def number(self, keyword: str, low: int, high: int, default: int | None = None) -> int:
        """The first value of a US attribute, within its range."""
        number = next(iter(self.integers(keyword)), default)
        if number is None:
            raise refusal(f"it lacks {keyword}", "Ask for the original file")
        if not low <= number <= high:
            raise refusal(f"its {keyword} is {number}, not {low:,} to {high:,}")
        return number

    def items(self, keyword: str) -> "list[Header]":
        """The items of a sequence, [] where it is absent."""
        if keyword not in self._dataset:
            return []
        with guard(f"its {keyword} is"):
            items = list(self._dataset[keyword].value)
            return [Header(item, self.order, self.syntax) for item in items]

    def in_frame(self, frame: int) -> "Header":
        """With rescale and window of the frame's group or the shared (PS3.3 C.7.6.16.2.9, .10)."""
        own = self.items("PerFrameFunctionalGroupsSequence")[frame : frame + 1]
        groups = [*self.items("SharedFunctionalGroupsSequence")[:1], *own]
        macros = [item for group in groups for name in _MACROS for item in group.items(name)[:1]]
        if not macros:
            return self
        merged = Dataset()
        for header in (self, *macros):
            merged.update(header._dataset)  # which converts no value
        return Header(merged, self.order, self.syntax)

    def has_overlays(self) -> bool:
        """Whether any of the 16 overlay planes is there."""
        return any(tag in self._dataset for tag in _OVERLAYS)


@dataclass(frozen=True)
class PixelData:
    """The pixel data element, its value still in place."""

    vr: bytes  # as stated, b"" in implicit VR
    data: memoryview  # where it is encapsulated all that follows, delimiter included
    encapsulated: bool  # its length is undefined


@dataclass(frozen=True)
class Layout:
    """The Image Pixel module (PS3.3 C.7.6.3): how the pixels of a file are stored."""

    rows: int  # px, of a frame
    columns: int
    frames: int
    samples: int  # 1, or 3 for colour
    photometric: str
    planar: bool  # one colour lies behind the other
    allocated: int  # bits a sample takes in the file, 8 or 16
    stored: int  # bits of them that hold the value
    high: int  # index of the highest of these
    signed: bool  # two's complement

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) or (H, W, 3)."""
        return (self.rows, self.columns, self.samples)[: 2 if self.samples == 1 else 3]


def split_file(data: bytes) -> tuple[Header, PixelData]:
    """The header of a DICOM file, and its pixel data."""
    header, stream = read_header(BytesIO(data))
    data, start = cast(BytesIO, stream).getvalue(), stream.tell()  # inflated, if it was deflated
    head = data[start : start + 12]
    if len(head) < 12:
        raise refusal("it has no pixel data, or is truncated before it")
    group, element = struct.unpack(f"{header.order}HH", head[:4])
    if group << 16 | element != _PIXELS[-1]:
        raise refusal("its pixels are floating-point numbers", "Convert them to 16-bit integers")
    vr = head[4:6] if head[4:6] in _LONG else b""  # in implicit VR the length's lower, even, half
    begin = start + (12 if vr else 8)
    (length,) = struct.unpack(f"{header.order}I", data[begin - 4 : begin])
    end = len(data) if length == _UNDEFINED else begin + length
    if end > len(data):
        raise refusal(f"it is truncated: its pixels end at byte {end:,} of {len(data):,}")
    return header, PixelData(vr, memoryview(data)[begin:end], length == _UNDEFINED)


def read_header(file: BinaryIO, last: int = _UNDEFINED) -> tuple[Header, BinaryIO]:
    """The header of a file up to tag ``last``, and a stream that stands behind it."""
    start = file.read(132)
    file.seek(132 if start[128:] == b"DICM" else 0)
    if start[128:] != b"DICM" and not start.startswith(BARE):
        if re.match(rb"\x08\0.\0", start, re.DOTALL):
            raise refusal("it is a DICOM data set without file meta information", REWRITE)
        raise refusal("it is not a DICOM file: DICM is not at byte 128")
    with guard("its header is"):
        meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
        syntax = Header(meta, "<", "").text("TransferSyntaxUID")
        if not re.fullmatch(r"[0-9.]{1,64}", syntax):
            raise refusal("it has no valid TransferSyntaxUID", REWRITE)
        stream = BytesIO(_inflate(file.read())) if syntax == _DEFLATED else file
        order = ">" if syntax == _BIG_ENDIAN else "<"
        dataset = read_dataset(
            *(stream, syntax == _IMPLICIT, order == "<"),
            stop_when=lambda tag, *_: tag in _PIXELS or tag > last,
        )
        return Header(dataset, order, syntax), stream


def read_ids(data: bytes) -> tuple[str, str]:
    """StudyInstanceUID and PatientID, "" where there is none; to group by, never to be shown."""
    header, _ = read_header(BytesIO(data))
    return header.text("StudyInstanceUID"), header.text("PatientID")


def _inflate(data: bytes) -> bytes:
    """Undo RFC 1951 deflation (PS3.5 A.5), up to a limit."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(data, MAX_INFLATED)
    if inflater.unconsumed_tail:
        raise refusal(fault("inflated", MAX_INFLATED), "Rewrite it uncompressed")
    if not inflater.eof:
        raise refusal("it is truncated: the end of its deflated data set is missing")
    return inflated


def read_layout(header: Header) -> Layout:
    """The layout of a file, its attributes present, in range and without contradiction."""
    stored = header.number("BitsStored", 1, 32)
    frames = next(iter(header.decimals("NumberOfFrames")), 1.0)
    if not (frames.is_integer() and 1 <= frames < 2**31):
        raise refusal(f"its NumberOfFrames is {frames:g}, not a positive integer")
    layout = Layout(
        rows=header.number("Rows", 1, MAX_SIDE),
        columns=header.number("Columns", 1, MAX_SIDE),
        frames=int(frames),
        samples=header.number("SamplesPerPixel", 1, 4),
        photometric=header.text("PhotometricInterpretation"),
        planar=header.number("PlanarConfiguration", 0, 1, default=0) == 1,
        allocated=header.number("BitsAllocated", 1, 64),
        stored=stored,
        high=header.number("HighBit", 0, 63, default=stored - 1),
        signed=header.number("PixelRepresentation", 0, 1) == 1,
    )
    if layout.photometric not in _SAMPLES:
        raise refusal(fault("photometric", _SAMPLES), "Convert it to MONOCHROME2")
    if layout.samples != _SAMPLES[layout.photometric]:
        raise refusal(fault("samples", layout), CORRECT)
    if layout.photometric == "YBR_FULL_422" and layout.columns % 2:
        raise refusal(f"{layout.columns} columns are odd, YBR_FULL_422 has pairs")
    if layout.rows * layout.columns > MAX_PIXELS:
        raise refusal(fault("pixels", layout, MAX_PIXELS))
    bits = f"bits allocated {layout.allocated}, stored {layout.stored}, high bit {layout.high}"
    if layout.allocated not in (8, 16):
        raise refusal(f"{bits}: only 8 or 16 bits allocated are read", "Convert it to 16 bits")
    if not layout.stored <= layout.high + 1 <= layout.allocated:
        raise refusal(f"{bits}: they contradict each other", CORRECT)
    return layout
