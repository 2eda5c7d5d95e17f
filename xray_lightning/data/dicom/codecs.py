"""Transfer syntaxes and their decoders, chosen by licence, speed and what they do to damaged bytes.

==================================  ===========================================================
native, native in items, deflated   numpy, zlib
JPEG baseline, extended, lossless   imagecodecs with libjpeg-turbo 3: 8, 12 and 16 bit
JPEG-LS                             imagecodecs with CharLS, in a child process with a time limit
JPEG 2000, HTJ2K                    imagecodecs with OpenJPEG
RLE                                 imagecodecs
==================================  ===========================================================

imagecodecs is BSD-3, its wheels bring no GPL library. Left out: Pillow (the same libjpeg-turbo, as
fast, but neither 12-bit nor lossless), pylibjpeg-libjpeg (GPL-3, five times slower), python-gdcm
(Apache-2.0, five times slower, no 12-bit, and after 340 damaged files it aborted the process),
pyjpegls (the same CharLS) and OpenJPH (passes over damaged HTJ2K in silence). CharLS counts to two
billion on some truncated streams, hence the child.

A decoder allocates what the codestream asks for, so that is compared with the header first.
"""

import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

from xray_lightning.data.dicom.elements import AGAIN, refusal, syntax_name
from xray_lightning.data.dicom.layout import Layout
from xray_lightning.errors import InvalidImageError

Codes = npt.NDArray[np.unsignedinteger]  # uint8 or uint16, (H, W) or (H, W, 3)

CHILD_SECONDS = 30.0  # a 16-million-pixel image takes 2 s
_CHILD = """
import imagecodecs, sys
codes = imagecodecs.jpegls_decode(sys.stdin.buffer.read())
sys.exit(2) if str(codes.shape) != sys.argv[1] else sys.stdout.buffer.write(codes.tobytes())
"""
_JPEG = (0xC0, 0xC1, 0xC3)  # start of frame: baseline, extended, lossless; DICOM has no progressive
_JPEG_LS, _SCAN = (0xF7,), 0xDA
_OTHER_FRAMES = frozenset({*range(0xC0, 0xD0), 0xDA, 0xF7}) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length
# Without one of these libjpeg takes three components for YCbCr, whatever the DICOM header says.
_SPACE = re.compile(rb"JFIF\0|\xff\xee\0[\x0e-\xff]Adobe")
_BLOCK = 256  # px: the most a byte of baseline JPEG can hold, 64 in each block of 2 bits


@dataclass(frozen=True)
class Stream:
    """What the header of a codestream says.

    Args:
        rows: height in px.
        columns: width.
        samples: number of components.
        precision: bits of a sample.
    """

    rows: int
    columns: int
    samples: int
    precision: int


def decode_frame(frame: bytes, syntax: str, layout: Layout) -> tuple[Codes, int]:
    """Decompress one frame.

    Returns:
        The codes, (H, W) or (H, W, 3), as unsigned words, and how many of their bits count.

    Raises:
        InvalidImageError: the syntax is not supported, or the frame is damaged, truncated, or not
            what the header says.
    """
    decode = DECODERS.get(syntax)
    if decode is None:
        reason = f"its transfer syntax, {syntax_name(syntax)}, is not supported"
        raise refusal(reason, "Rewrite it uncompressed, with DCMTK or GDCM")
    try:
        codes, precision = decode(frame, layout)
    except InvalidImageError:
        raise
    except subprocess.TimeoutExpired as error:
        raise refusal(f"its decoder was stopped after {CHILD_SECONDS:g} s", AGAIN) from error
    except Exception as error:  # each library has its own errors for damaged bytes
        reason = f"its {syntax_name(syntax)} pixels are damaged ({type(error).__name__})"
        raise refusal(reason, AGAIN) from error
    if codes.shape != _shape(layout):
        reason = f"its pixels decode to {codes.shape}, the header says {_shape(layout)}"
        raise refusal(reason, AGAIN)
    return codes, precision


def _shape(layout: Layout) -> tuple[int, ...]:
    """(H, W) or (H, W, 3)."""
    size = layout.rows, layout.columns
    return size if layout.samples == 1 else (*size, layout.samples)


def _jpeg(frame: bytes, layout: Layout) -> tuple[Codes, int]:
    """JPEG, ITU-T T.81."""
    stream = _jpeg_header(frame, _JPEG)
    _compare(stream, layout)
    if layout.rows * layout.columns > _BLOCK * len(frame):
        raise refusal(f"{len(frame):,} bytes of JPEG are too few for its size", AGAIN)
    plain = layout.photometric == "RGB" and not _SPACE.search(frame[:512])
    space = "RGB" if plain else None
    codes = imagecodecs.jpeg8_decode(frame, colorspace=space, outcolorspace=space)
    return _unsigned(codes), stream.precision


def _jpeg_ls(frame: bytes, layout: Layout) -> tuple[Codes, int]:
    """JPEG-LS, ITU-T T.87, in a child process."""
    stream = _jpeg_header(frame, _JPEG_LS)
    _compare(stream, layout)
    command = [sys.executable, "-c", _CHILD, str(_shape(layout))]
    done = subprocess.run(command, input=frame, capture_output=True, timeout=CHILD_SECONDS)
    if done.returncode:
        what = "damaged" if done.returncode != 2 else "of another shape, or colour by plane"
        raise refusal(f"its JPEG-LS pixels are {what}", AGAIN)
    codes: Codes = np.frombuffer(done.stdout, "u1" if stream.precision <= 8 else "u2")
    return codes.reshape(_shape(layout)), stream.precision


def _jpeg2000(frame: bytes, layout: Layout) -> tuple[Codes, int]:
    """JPEG 2000, ITU-T T.800, and High-Throughput JPEG 2000, T.814."""
    start = frame.find(b"\xff\x4f\xff\x51", 0, 4096)  # SOC, SIZ; before them a JP2 box, if any
    if start < 0 or len(frame) < start + 43:
        raise refusal("its JPEG 2000 codestream has no header", AGAIN)
    width, height, left, top = struct.unpack_from(">4I", frame, start + 8)
    samples, depth = struct.unpack_from(">HB", frame, start + 40)
    stream = Stream(height - top, width - left, samples, (depth & 0x7F) + 1)
    _compare(stream, layout)
    return _unsigned(imagecodecs.jpeg2k_decode(frame[start:], numthreads=1)), stream.precision


def _rle(frame: bytes, layout: Layout) -> tuple[Codes, int]:
    """RLE, PS3.5 annex G: one segment a byte plane, the highest byte of each sample first."""
    planes, size = layout.samples * layout.allocated // 8, layout.rows * layout.columns
    (count, *starts) = struct.unpack_from("<16I", frame)
    if count != planes or not 64 <= min(starts[:count]) <= max(starts[:count]) <= len(frame):
        raise refusal(f"its RLE header has {count} segments, not {planes} in order", AGAIN)
    stops = [*starts[1:count], len(frame)]
    segments = []
    for start, stop in zip(starts, stops, strict=False):
        # 64 more than needed: some writers pad a segment by more than the standard's one byte
        segment = imagecodecs.packbits_decode(frame[start:stop], out=size + 64)
        if len(segment) < size:
            raise refusal(f"an RLE segment has {len(segment):,} of {size:,} bytes", AGAIN)
        segments.append(np.frombuffer(segment, np.uint8, size))
    codes = np.stack(segments, -1).reshape(size, layout.samples, -1)  # (H W, C, bytes)
    words: Codes = codes.view(">u2").astype(np.uint16) if layout.allocated == 16 else codes
    return words.reshape(_shape(layout)), layout.allocated


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and position of the segments of a JPEG up to its first scan, in which no marker is.

    Raises:
        InvalidImageError: a segment begins with no marker, or the end marker (EOI) is missing.
    """
    start, marker = 2, 0
    while marker != _SCAN:
        if start + 10 > len(data) or data[start] != 0xFF:  # a scan header has 8 bytes or more
            raise refusal(f"the JPEG is truncated or damaged at byte {start:,}", AGAIN)
        marker = data[start + 1]
        yield marker, start
        start += 1 if marker == 0xFF else 2  # a fill byte; a marker
        if marker != 0xFF and marker not in _BARE:
            start += int.from_bytes(data[start : start + 2])
    if data.find(b"\xff\xd9", start) < 0:
        raise refusal("the JPEG is truncated: its end marker (EOI) is missing", AGAIN)


def _jpeg_header(frame: bytes, kinds: tuple[int, ...]) -> Stream:
    """What the start of frame says."""
    stream = None
    for marker, start in jpeg_segments(frame):
        if stream is None and marker in _OTHER_FRAMES and marker not in kinds:
            raise refusal(f"it holds a JPEG of kind {marker:02X}, not its syntax's", "Re-encode it")
        if marker in kinds:
            precision, rows, columns, samples = struct.unpack_from(">BHHB", frame, start + 4)
            stream = Stream(rows, columns, samples, precision)
    if stream is None or frame[:2] != b"\xff\xd8":
        raise refusal("its JPEG header is damaged", AGAIN)
    return stream


def _compare(stream: Stream, layout: Layout) -> None:
    """Raise where the codestream is not what the header says: nothing is allocated yet."""
    said = (layout.rows, layout.columns, layout.samples)
    if (stream.rows, stream.columns, stream.samples) != said:
        found = f"{stream.columns} x {stream.rows} x {stream.samples}"
        reason = f"its codestream is {found}, the header says {said[1]} x {said[0]} x {said[2]}"
        raise refusal(reason, AGAIN)
    if stream.precision > layout.allocated:
        reason = f"its codestream has {stream.precision} bits, the header {layout.allocated}"
        raise refusal(reason, AGAIN)


def _unsigned(codes: npt.NDArray[Any]) -> Codes:
    """The same bits as unsigned words of 8 or 16 bits."""
    return codes.view(np.uint8 if codes.dtype.itemsize == 1 else np.uint16)


def gives_rgb(syntax: str) -> bool:
    """Whether the decoder of a transfer syntax turns YCbCr to RGB itself."""
    return DECODERS.get(syntax) is _jpeg


_UID = "1.2.840.10008.1.2."
DECODERS: dict[str, Callable[[bytes, Layout], tuple[Codes, int]]] = {
    **dict.fromkeys((f"{_UID}4.{end}" for end in (50, 51, 57, 70)), _jpeg),
    **dict.fromkeys((f"{_UID}4.{end}" for end in (80, 81)), _jpeg_ls),
    **dict.fromkeys((f"{_UID}4.{end}" for end in (90, 91, 201, 202, 203)), _jpeg2000),
    f"{_UID}5": _rle,
}
