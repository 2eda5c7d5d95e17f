"""Pixel data becomes the integer codes of one frame, by numpy, imagecodecs and pydicom's fragments.

A decoder allocates what the codestream asks for, so that is compared with the header first. CharLS
counts to two billion on some truncated streams, hence its child process with a time limit. Which
decoders were compared: ``data/README.md``.
"""

import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.encaps import generate_fragments, get_frame, parse_basic_offsets, parse_fragments

from xray_lightning.data.dicom.header import REWRITE, Header, Layout, PixelData, guard, refusal
from xray_lightning.wording import fault

Codes = npt.NDArray[np.unsignedinteger]  # uint8 or uint16, (H, W) or (H, W, 3)
StoredValues = npt.NDArray[np.int32]  # (N,), the stored value of each code 0 to N - 1

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
_UID = "1.2.840.10008.1.2"
_NATIVE_IN_ITEMS = f"{_UID}.1.98"  # PS3.5 A.4.11: the native pixels of a frame in an item


def read_codes(
    header: Header, pixels: PixelData, layout: Layout, frame: int
) -> tuple[Codes, StoredValues]:
    """The words of a frame as they are stored, and the value of each possible code, (N,)."""
    # (H, W) or (H, W, 3), unsigned; of YBR_FULL_422 perhaps only Y, (H, W, 1). Values have no bits
    # above the stored ones, and their sign extended (PS3.5 8.1.1); N is 256 or 65,536
    if pixels.encapsulated == (header.syntax in uid.UncompressedTransferSyntaxes):
        raise refusal(fault("encapsulated", pixels))
    bits, high = layout.stored, layout.high
    if not pixels.encapsulated:
        data = pixels.data
        if layout.allocated == 8 and header.order == ">" and pixels.vr == b"OW":
            data = data[: len(data) // 2 * 2]  # bytes that were written as big-endian words
            data = np.frombuffer(data, ">u2").astype("<u2").view(np.uint8).data
        codes = _shape_frame(data, layout, layout.frames, frame, header.order)
    else:
        joined = join_fragments(pixels.data, frame, layout.frames)
        if header.syntax == _NATIVE_IN_ITEMS:
            codes = _shape_frame(memoryview(joined), layout, 1, 0, "<")
        else:
            codes, precision = decode_frame(joined, header.syntax, layout)
            bits = min(precision, bits)
            if precision > bits == high + 1 and codes.max() >> bits:
                bits = precision  # PS3.5 A.4: the codestream's own, where its values need it
            high = max(high if precision == layout.allocated else 0, bits - 1)
    words = np.arange(1 << 8 * codes.itemsize, dtype=np.int32)  # (N,)
    stored = (words >> (high + 1 - bits)) & ((1 << bits) - 1)
    if layout.signed:
        stored -= (stored >> (bits - 1)) << bits
    return codes, stored


def join_fragments(data: memoryview, frame: int, frames: int) -> bytes:
    """The compressed bytes of one frame (PS3.5 A.4): an offset table, fragments, a delimiter."""
    stream = BytesIO(data)
    with guard(f"the fragments of its {frames} frames cannot be told apart, or are", REWRITE):
        parse_basic_offsets(stream)
        count, starts = parse_fragments(stream)
        if not count:
            raise refusal("its compressed pixel data is empty")
        (length,) = struct.unpack_from("<I", data, starts[-1] + 4)
        if starts[-1] + 8 + length > len(data):  # pydicom would give what there is
            raise refusal("it is truncated: its compressed pixel data breaks off")
        if frames == 1:  # whatever the offset table says
            return b"".join(generate_fragments(stream))
        stream.seek(0)
        return get_frame(stream, frame, number_of_frames=frames)


def _shape_frame(data: memoryview, layout: Layout, frames: int, frame: int, order: str) -> Codes:
    """One of the uncompressed frames that lie one behind the other; of YBR_FULL_422 only Y."""
    halved = layout.photometric == "YBR_FULL_422"  # Y Y B R for each two pixels
    count = layout.rows * layout.columns * (2 if halved else layout.samples)
    size = count * layout.allocated // 8
    if len(data) < frames * size:
        raise refusal(fault("frame_bytes", data, frames, size))
    stored = np.frombuffer(data, f"{order}u{layout.allocated // 8}", count, frame * size)
    codes = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if halved:
        return codes.reshape(-1, 4)[:, :2].reshape(layout.rows, layout.columns, 1)
    if layout.planar and layout.samples == 3:
        return codes.reshape(3, layout.rows, layout.columns).transpose(1, 2, 0)
    return codes.reshape(layout.shape)


def decode_frame(frame: bytes, syntax: str, layout: Layout) -> tuple[Codes, int]:
    """Decompress one frame: (H, W) or (H, W, 3), and how many of the bits count."""
    decode, name = _DECODERS.get(syntax), uid.UID(syntax).name
    if decode is None:
        raise refusal(fault("syntax", name), "Rewrite it uncompressed, with DCMTK or GDCM")
    with guard(f"its {name} pixels are"):  # each library has its own errors for damaged bytes
        decoded, precision = decode(frame, layout)
    if decoded.shape != layout.shape:
        raise refusal(f"its pixels decode to {decoded.shape}, the header says {layout.shape}")
    return decoded.view(np.uint8 if decoded.itemsize == 1 else np.uint16), precision


def _decode_jpeg(frame: bytes, layout: Layout) -> tuple[npt.NDArray[Any], int]:
    """JPEG, ITU-T T.81."""
    precision = _read_jpeg_header(frame, _JPEG, layout)
    if layout.rows * layout.columns > _BLOCK * len(frame):
        raise refusal(f"{len(frame):,} bytes of JPEG are too few for its size")
    space = "RGB" if layout.photometric == "RGB" and not _SPACE.search(frame[:512]) else None
    return imagecodecs.jpeg8_decode(frame, colorspace=space, outcolorspace=space), precision


def _decode_jpeg_ls(frame: bytes, layout: Layout) -> tuple[npt.NDArray[Any], int]:
    """JPEG-LS, ITU-T T.87, in a child process."""
    precision = _read_jpeg_header(frame, _JPEG_LS, layout)
    command = [sys.executable, "-c", _CHILD, str(layout.shape)]
    try:
        done = subprocess.run(command, input=frame, capture_output=True, timeout=CHILD_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise refusal(f"its decoder was stopped after {CHILD_SECONDS:g} s") from error
    if done.returncode:
        what = "damaged" if done.returncode != 2 else "of another shape, or colour by plane"
        raise refusal(f"its JPEG-LS pixels are {what}")
    codes = np.frombuffer(done.stdout, "u1" if precision <= 8 else "u2")
    return codes.reshape(layout.shape), precision


def _decode_jpeg_2000(frame: bytes, layout: Layout) -> tuple[npt.NDArray[Any], int]:
    """JPEG 2000, ITU-T T.800, and High-Throughput JPEG 2000, T.814."""
    start = frame.find(b"\xff\x4f\xff\x51", 0, 4096)  # SOC, SIZ; before them a JP2 box, if any
    if start < 0 or len(frame) < start + 43:
        raise refusal("its JPEG 2000 codestream has no header")
    width, height, left, top = struct.unpack_from(">4I", frame, start + 8)
    samples, depth = struct.unpack_from(">HB", frame, start + 40)
    precision = (depth & 0x7F) + 1
    _check_stream(height - top, width - left, samples, precision, layout)
    if depth & 0x80 and not layout.signed:  # its negative values would be the brightest
        raise refusal("its codestream is signed, the header says unsigned", "Correct either")
    return imagecodecs.jpeg2k_decode(frame[start:], numthreads=1), precision


def _decode_rle(frame: bytes, layout: Layout) -> tuple[npt.NDArray[Any], int]:
    """RLE, PS3.5 annex G: one segment a byte plane, the highest byte of each sample first."""
    planes, size = layout.samples * layout.allocated // 8, layout.rows * layout.columns
    (count, *starts) = struct.unpack_from("<16I", frame)
    if count != planes or not 64 <= min(starts[:count]) <= max(starts[:count]) <= len(frame):
        raise refusal(f"its RLE header has {count} segments, not {planes} in order")
    segments = []
    for start, stop in zip(starts, [*starts[1:count], len(frame)], strict=False):
        # 64 more than needed: some writers pad a segment by more than the standard's one byte
        segment = imagecodecs.packbits_decode(frame[start:stop], out=size + 64)
        if len(segment) < size:
            raise refusal(f"an RLE segment has {len(segment):,} of {size:,} bytes")
        segments.append(np.frombuffer(segment, np.uint8, size))
    codes = np.stack(segments, -1).reshape(size, layout.samples, -1)  # (H W, C, bytes)
    words = codes.view(">u2").astype(np.uint16) if layout.allocated == 16 else codes
    return words.reshape(layout.shape), layout.allocated


_DECODERS: dict[str, Callable[[bytes, Layout], tuple[npt.NDArray[Any], int]]] = {
    **dict.fromkeys(uid.JPEGTransferSyntaxes, _decode_jpeg),
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, _decode_jpeg_ls),
    **dict.fromkeys((f"{_UID}.4.{end}" for end in (90, 91, 201, 202, 203)), _decode_jpeg_2000),
    uid.RLELossless: _decode_rle,
}


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and position of the segments of a JPEG up to its first scan, in which no marker is."""
    start, marker = 2, 0
    while marker != _SCAN:
        if start + 10 > len(data) or data[start] != 0xFF:  # a scan header has 8 bytes or more
            raise refusal(f"the JPEG is truncated or damaged at byte {start:,}")
        marker = data[start + 1]
        yield marker, start
        start += 1 if marker == 0xFF else 2  # a fill byte; a marker
        if marker != 0xFF and marker not in _BARE:
            start += int.from_bytes(data[start : start + 2])
    if data.rfind(b"\xff\xd9", start) < 0:  # from the end, where it is as a rule
        raise refusal("the JPEG is truncated: its end marker (EOI) is missing")


def _read_jpeg_header(frame: bytes, kinds: tuple[int, ...], layout: Layout) -> int:
    """The precision in the start of frame, which is of one of these kinds and fits the header."""
    precision = 0
    for marker, start in jpeg_segments(frame):
        if not precision and marker in _OTHER_FRAMES and marker not in kinds:
            raise refusal(f"it holds a JPEG of kind {marker:02X}, not its syntax's", "Re-encode it")
        if marker in kinds:
            precision, rows, columns, samples = struct.unpack_from(">BHHB", frame, start + 4)
            _check_stream(rows, columns, samples, precision, layout)
    if not precision or frame[:2] != b"\xff\xd8":
        raise refusal("its JPEG header is damaged")
    return precision


def _check_stream(rows: int, columns: int, samples: int, precision: int, layout: Layout) -> None:
    """Raise where the codestream is not what the header says: nothing is allocated yet."""
    if (rows, columns, samples) != (layout.rows, layout.columns, layout.samples):
        raise refusal(fault("codestream", columns, rows, samples, layout))
    if precision > layout.allocated:
        raise refusal(f"its codestream has {precision} bits, the header {layout.allocated}")
