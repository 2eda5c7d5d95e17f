"""Stored values of every syntax and layout: files made with pydicom, values known beforehand."""

import struct
import subprocess
from functools import partial
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder

from xray_lightning import InvalidImageError, read_dicom
from xray_lightning.data.dicom import pixels as module
from xray_lightning.data.dicom.header import read_layout, split_file
from xray_lightning.data.dicom.pixels import read_codes

UID = "1.2.840.10008.1.2"
GENERATOR = np.random.default_rng(0)
SMOOTH = np.add.outer(np.arange(24), np.arange(40)) * 60 + GENERATOR.integers(0, 40, (24, 40))
WORDS = SMOOTH.astype(np.uint16)  # up to 12 bits
BYTES = (SMOOTH >> 4).astype(np.uint8)
COLOUR = GENERATOR.integers(0, 256, (6, 8, 3), dtype=np.uint8)
LUMA = COLOUR @ np.array([0.299, 0.587, 0.114]) / 255
KINDS = [(8, 0), (8, 1), (16, 0), (16, 1)]  # bits, signed


def stored(data: bytes, frame: int = 0) -> np.ndarray:
    """The stored values of one frame."""
    header, pixels = split_file(data)
    codes, values = read_codes(header, pixels, read_layout(header), frame)
    return values[codes]


def rle(pixels: np.ndarray) -> bytes:
    samples, bits = pixels.shape[2] if pixels.ndim == 3 else 1, pixels.itemsize * 8
    about: dict[str, object] = {"rows": pixels.shape[0], "columns": pixels.shape[1]}
    about |= {"bits_allocated": bits, "bits_stored": bits, "pixel_representation": 0}
    about |= {"samples_per_pixel": samples, "planar_configuration": 0, "number_of_frames": 1}
    about |= {"photometric_interpretation": "RGB" if samples == 3 else "MONOCHROME2"}
    return RLELosslessEncoder.encode(pixels.tobytes(), **about)


jpeg = imagecodecs.jpeg8_encode
jpeg_2000 = partial(imagecodecs.jpeg2k_encode, codecformat="j2k")
LOSSLESS = {
    "jpeg lossless": (f"{UID}.4.57", lambda x: jpeg(x, lossless=True, predictor=4)),
    "jpeg lossless sv1": (f"{UID}.4.70", lambda x: jpeg(x, lossless=True, predictor=1)),
    "jpeg-ls": (f"{UID}.4.80", imagecodecs.jpegls_encode),
    "jpeg 2000": (f"{UID}.4.90", jpeg_2000),
    "jpeg 2000 in a box": (f"{UID}.4.90", imagecodecs.jpeg2k_encode),
    "htj2k": (f"{UID}.4.201", imagecodecs.htj2k_encode),
    "htj2k rpcl": (f"{UID}.4.202", imagecodecs.htj2k_encode),
    "rle": (f"{UID}.5", rle),
}


def packed(dicom, codec: str, pixels: np.ndarray, **attributes) -> bytes:
    """A file of one compressed frame; the codec sees unsigned words, but for JPEG 2000."""
    syntax, encode = LOSSLESS[codec]
    if pixels.dtype == np.int16 and codec != "jpeg 2000":
        pixels = pixels.view(np.uint16)
    more = {"BitsAllocated": pixels.itemsize * 8, **attributes}
    return dicom(pixels, syntax=syntax, frames=[encode(pixels)], **more)


def with_items(data: bytes, items: bytes) -> bytes:
    """The file with other items in its encapsulated pixel data."""
    start = data.index(b"\xe0\x7f\x10\0OB") + 12
    return data[:start] + items + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def colour(dicom, photometric: str, **more) -> bytes:
    more = {"PlanarConfiguration": 0, "SamplesPerPixel": 3, "BitsAllocated": 8, **more}
    return dicom(COLOUR, PhotometricInterpretation=photometric, **more)


def luma(data: bytes) -> np.ndarray:
    return read_dicom(data, colour="luma").pixels


def refused(data: bytes, match: str, **options) -> None:
    with pytest.raises(InvalidImageError, match=f"^folder/x: .*{match}"):
        read_dicom(data, name="folder/x", **options)


@pytest.mark.parametrize("end", ["", ".1", ".2", ".1.99"])
@pytest.mark.parametrize(("bits", "signed"), KINDS)
def test_uncompressed(dicom, end: str, bits: int, signed: int) -> None:
    low = -(1 << bits - 1) if signed else 0
    values = GENERATOR.integers(low, low + (1 << bits), (5, 7))  # 35 bytes: odd
    data = dicom(values, syntax=UID + end, BitsAllocated=bits, PixelRepresentation=signed)
    np.testing.assert_array_equal(stored(data), values)


@pytest.mark.parametrize(("bits", "signed"), KINDS)
def test_native_pixels_in_items(dicom, bits: int, signed: int) -> None:
    """Encapsulated Uncompressed Explicit VR Little Endian, PS3.5 A.4.11; an odd frame is padded."""
    low = -(1 << bits - 1) if signed else 0
    values = GENERATOR.integers(low, low + (1 << bits), (2, 5, 7))
    words = values.astype(f"<{'i' if signed else 'u'}{bits // 8}")
    more = {"BitsAllocated": bits, "PixelRepresentation": signed, "syntax": f"{UID}.1.98"}
    for count in (1, 2):
        frames = [frame.tobytes() for frame in words[:count]]
        data = dicom(values[0], frames=frames, NumberOfFrames=count, **more)
        for index in range(count):
            np.testing.assert_array_equal(stored(data, index), values[index])


def test_golden_native_pixels_in_items(dicom) -> None:
    """Written out byte by byte: an empty offset table, one item in two fragments, a delimiter."""
    data = dicom([[0, 0, 0]], syntax=f"{UID}.1.98", frames=[b"ab"])
    items = "feff00e000000000 feff00e002000000 0100 feff00e004000000 0002ff01"
    np.testing.assert_array_equal(stored(with_items(data, bytes.fromhex(items))), [[1, 512, 511]])
    short = with_items(data, bytes.fromhex("feff00e000000000 feff00e004000000 01000200"))
    refused(short, "4 bytes, the header says 1 x 6")


@pytest.mark.parametrize("codec", LOSSLESS)
@pytest.mark.parametrize("pixels", [BYTES, WORDS], ids=["8 bits", "16 bits"])
def test_lossless(dicom, codec: str, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(stored(packed(dicom, codec, pixels)), pixels)


@pytest.mark.parametrize("codec", ["jpeg lossless sv1", "jpeg-ls", "rle", "htj2k", "jpeg 2000"])
def test_lossless_signed(dicom, codec: str) -> None:
    values = (SMOOTH - 2000).astype(np.int16)
    data = packed(dicom, codec, values, PixelRepresentation=1)
    np.testing.assert_array_equal(stored(data), values)


@pytest.mark.parametrize(
    ("end", "encode"), [(".4.70", partial(jpeg, lossless=True, predictor=1)), (".4.90", jpeg_2000)]
)
def test_12_bits_signed_in_an_unsigned_codestream(dicom, end: str, encode) -> None:
    values = SMOOTH - 2000
    words = (values & 0xFFF).astype(np.uint16)
    frames, signed = [encode(words, bitspersample=12)], {"PixelRepresentation": 1, "BitsStored": 12}
    data = dicom(words, syntax=UID + end, frames=frames, **signed)
    np.testing.assert_array_equal(stored(data), values)


def test_baseline_jpeg_as_pillow_decodes_it(dicom) -> None:
    frame = jpeg(BYTES, level=80)
    data = dicom(BYTES, syntax=f"{UID}.4.50", frames=[frame], BitsAllocated=8)
    np.testing.assert_array_equal(stored(data), np.asarray(Image.open(BytesIO(frame))))


@pytest.mark.parametrize(
    ("end", "frame", "bound"),
    [
        (".4.51", jpeg(WORDS, level=98, bitspersample=12), 25),
        (".4.81", imagecodecs.jpegls_encode(WORDS, 3), 3),  # near-lossless by 3
        (".4.91", jpeg_2000(WORDS, level=70, bitspersample=12), 6),
        (".4.203", imagecodecs.htj2k_encode(WORDS, 0.0001), 10),
    ],
    ids=["extended, 12 bits", "jpeg-ls", "jpeg 2000", "htj2k"],
)
def test_lossy(dicom, end: str, frame: bytes, bound: int) -> None:
    data = dicom(WORDS, syntax=UID + end, frames=[frame], BitsStored=12)
    assert 0 < np.abs(stored(data) - SMOOTH).max() <= bound


@pytest.mark.parametrize(
    ("words", "attributes", "values"),
    [
        ([0xF123, 0x0FFF], {}, [0x123, 0xFFF]),  # bits above the stored ones are cut off
        ([0x0800, 0x07FF, 0x1FFF], {"PixelRepresentation": 1}, [-2048, 2047, -1]),
        ([0x123F, 0xFFF0], {"HighBit": 15}, [0x123, 0xFFF]),  # 12 bits further up
    ],
)
def test_stored_bits(dicom, words, attributes, values) -> None:
    data = dicom([words], BitsStored=12, pixel_bytes=np.array(words, "<u2").tobytes(), **attributes)
    np.testing.assert_array_equal(stored(data), [values])


def test_8_bits_in_big_endian_words(dicom) -> None:
    data = dicom([[1, 2, 3]], syntax=f"{UID}.2", BitsAllocated=8, pixel_bytes=b"\2\1\0\3")
    data = data.replace(b"\x7f\xe0\0\x10OB", b"\x7f\xe0\0\x10OW")
    np.testing.assert_array_equal(stored(data), [[1, 2, 3]])
    start = data.rindex(b"\x7f\xe0\0\x10OW") + 8
    refused(data[:start] + b"\0\0\0\3" + data[start + 4 : -1], "2 bytes, the header says 1 x 3")


@pytest.mark.parametrize("codec", [None, "rle", "jpeg 2000"])
def test_frames_are_chosen(dicom, codec: str | None) -> None:
    movie = np.stack([WORDS, WORDS[::-1], WORDS // 2])
    more: dict[str, object] = {"pixel_bytes": movie.tobytes()}
    if codec:
        syntax, encode = LOSSLESS[codec]
        more = {"syntax": syntax, "frames": [encode(frame) for frame in movie]}
    data = dicom(WORDS, NumberOfFrames=3, **more)
    for index, expected in enumerate(movie):
        np.testing.assert_array_equal(stored(data, index), expected)
    assert read_dicom(data, frame=2).pixels.shape == WORDS.shape
    refused(data, "it has 3 frames. Choose one, from 0: xray convert frame=0")
    refused(data, "frame 3 is asked for, it has 3", frame=3)
    if not codec:
        refused(dicom([[0, 1]], NumberOfFrames=2), "4 bytes, the header says 2 x 4", frame=0)


@pytest.mark.parametrize("codec", ["jpeg 2000", "htj2k", "jpeg lossless", "jpeg-ls"])
@pytest.mark.parametrize("signed", [0, 1])
def test_the_codestream_knows_its_precision(codec: str, signed: int, dicom) -> None:
    """PS3.5 A.4: 12-bit values under a header that says 10."""
    values = WORDS.astype(np.int32) - (2000 if signed else 0)
    words = values.astype(np.int16).view(np.uint16)
    data = packed(dicom, codec, words, BitsStored=10, PixelRepresentation=signed)
    np.testing.assert_array_equal(stored(data), values)


def test_zeros_above_a_signed_value_are_no_part_of_it(dicom) -> None:
    words = np.array([[0x3FF, 1, 0x200]], np.uint16)  # ten bits of -1, 1, -512
    data = packed(dicom, "jpeg 2000", words, BitsStored=10, PixelRepresentation=1)
    assert stored(data).tolist() == [[-1, 1, -512]]


def test_fragments_are_joined(dicom) -> None:
    """By the offset table; without one, pydicom looks for the end mark of a codestream."""
    frames = [jpeg_2000(WORDS), jpeg_2000(WORDS[::-1])]
    syntax = f"{UID}.4.90"
    single = dicom(WORDS, syntax=syntax, frames=[b"ab"])
    np.testing.assert_array_equal(stored(with_items(single, encapsulate(frames[:1], 3))), WORDS)
    double = dicom(WORDS, syntax=syntax, frames=[b"ab", b"ab"], NumberOfFrames=2)
    for has_table in (True, False):
        data = with_items(double, encapsulate(frames, 3, has_bot=has_table))
        np.testing.assert_array_equal(stored(data, 0), WORDS)
        np.testing.assert_array_equal(stored(data, 1), WORDS[::-1])
    unmarked = encapsulate([rle(WORDS), rle(WORDS)], 3, has_bot=False)
    more = {"syntax": f"{UID}.5", "frames": [b"ab", b"ab"], "NumberOfFrames": 2}
    data = with_items(dicom(WORDS, **more), unmarked)
    refused(data, "its 2 frames cannot be told apart, or are damaged", frame=1)


def test_damaged_items(dicom) -> None:
    data = packed(dicom, "jpeg 2000", WORDS)
    np.testing.assert_array_equal(stored(data[:-8]), WORDS)  # only the delimiter is missing
    for cut in (9, 300):
        refused(data[:-cut], "it is truncated: its compressed pixel data")
    refused(with_items(data, encapsulate([jpeg_2000(WORDS)])[:12] + bytes(40)), "damaged")
    for items in (b"", struct.pack("<HHI", 0xFFFE, 0xE000, 0)):
        refused(with_items(data, items), "(is empty|damaged)")


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("codec", [None, "rle"])
def test_rgb_to_luma(dicom, planar: int, codec: str | None) -> None:
    pixels = COLOUR.transpose(2, 0, 1) if planar else COLOUR
    more: dict[str, object] = {"pixel_bytes": pixels.tobytes()}
    if codec:
        more = {"syntax": LOSSLESS[codec][0], "frames": [rle(COLOUR)]}
    data = colour(dicom, "RGB", PlanarConfiguration=planar, **more)
    refused(data, r"in colour \(RGB\)\. If .* colour=luma")
    image = read_dicom(data, colour="luma")
    np.testing.assert_allclose(image.pixels, LUMA, atol=1e-6)
    assert image.notes == ("colour is turned to luma",)
    data = colour(dicom, "RGB", PixelRepresentation=1, PlanarConfiguration=planar, **more)
    refused(data, "its colour samples are signed", colour="luma")


def test_ybr_is_luma_already(dicom) -> None:
    pairs = np.concatenate([COLOUR[:, ::2, 0:1], COLOUR[:, 1::2, 0:1], COLOUR[:, ::2, 1:]], 2)
    for photometric, pixels in (("YBR_FULL", COLOUR), ("YBR_FULL_422", pairs)):
        data = colour(dicom, photometric, pixel_bytes=pixels.tobytes())
        np.testing.assert_allclose(luma(data), COLOUR[:, :, 0] / 255, atol=1e-6)


def test_colour_jpeg_of_three_kinds(dicom) -> None:
    flat, expected = (np.repeat(np.repeat(x, 8, 0), 8, 1) for x in (COLOUR, LUMA))
    marked = jpeg(flat, level=100, colorspace="RGB", outcolorspace="RGB")  # an Adobe marker
    bare = marked.replace(marked[2:18], b"")
    assert marked[2:4] == b"\xff\xee"
    assert b"Adobe" not in bare
    ybr = jpeg(flat, level=100, subsampling="444")
    for photometric, frame in (("RGB", marked), ("RGB", bare), ("YBR_FULL_422", ybr)):
        data = colour(dicom, photometric, syntax=f"{UID}.4.50", frames=[frame], Rows=48, Columns=64)
        np.testing.assert_allclose(luma(data), expected, atol=2.5 / 255)


@pytest.mark.parametrize(
    ("photometric", "end", "encode"),
    [("YBR_RCT", ".4.90", jpeg_2000), ("RGB", ".4.80", imagecodecs.jpegls_encode)],
)
def test_other_colour_codecs(dicom, photometric, end, encode) -> None:
    data = colour(dicom, photometric, syntax=UID + end, frames=[encode(COLOUR)])
    np.testing.assert_allclose(luma(data), LUMA, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_palette(dicom, bits: int) -> None:
    palette = GENERATOR.integers(0, 1 << bits, (3, 4))
    more: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, entries in zip(("Red", "Green", "Blue"), palette, strict=True):
        word = "u1" if bits == 8 else "<u2"
        more[f"{name}PaletteColorLookupTableDescriptor"] = [4, 2, bits]
        more[f"{name}PaletteColorLookupTableData"] = entries.astype(word).tobytes()
    expected = np.array([0.299, 0.587, 0.114]) @ palette / ((1 << bits) - 1)
    data = dicom([[0, 2, 3, 5, 9]], **more)
    np.testing.assert_allclose(luma(data)[0], expected[[0, 0, 1, 3, 3]], atol=1e-6)
    segmented = dicom([[0]], SegmentedRedPaletteColorLookupTableData=b"\1\0", **more)
    refused(segmented, r"its palette is segmented\. Convert it to RGB", colour="luma")


def test_the_syntax_must_be_known_and_fit_the_pixel_data(dicom) -> None:
    plain, coded = dicom(WORDS), dicom(WORDS, syntax=f"{UID}.5", frames=[rle(WORDS)])
    native, run_length = f"{UID}.1\0".encode(), f"{UID}.5\0".encode()
    refused(plain.replace(native, run_length), "its pixel data is not encapsulated")
    refused(coded.replace(run_length, native), "its pixel data is encapsulated")
    refused(plain.replace(native, b"John Doe".ljust(20, b" ")), "no valid TransferSyntaxUID")
    film = dicom(WORDS, syntax=f"{UID}.4.100", frames=[b"1234"])
    refused(film, "MPEG2 Main Profile / Main Level, is not supported. Rewrite")


@pytest.mark.parametrize("codec", ["jpeg lossless", "jpeg-ls", "jpeg 2000", "htj2k", "rle"])
def test_codestream_of_another_size(dicom, codec: str) -> None:
    refused(packed(dicom, codec, WORDS, Rows=25), "(40 x 24 x 1, .* 40 x 25|has 960 of)")


J2K, LS = jpeg_2000(WORDS), imagecodecs.jpegls_encode(WORDS)
SEGMENTS = "<16I"


@pytest.mark.parametrize(
    ("end", "frame", "match"),
    [
        (".4.50", b"\xff\xd8\xff\xc0", "truncated or damaged at byte"),
        (".4.50", b"JPEG" * 9, "truncated or damaged at byte"),
        (".4.50", jpeg(BYTES)[:-2] + b"\0\0", r"end marker \(EOI\) is missing"),
        (".4.50", jpeg(BYTES).replace(b"\xff\xc0", b"\xff\xc2"), "JPEG of kind C2"),
        (".4.80", jpeg(BYTES), "JPEG of kind C0, not its syntax's. Re-encode it"),
        (".4.50", imagecodecs.jpegls_encode(BYTES), "JPEG of kind F7"),
        (".4.80", imagecodecs.jpegls_encode(BYTES)[:200] + b"\xff\xd9", "JPEG-LS pixels are dam"),
        (".4.90", J2K, "codestream has 16 bits, the header 8"),
        (".4.90", jpeg_2000(BYTES.astype(np.int8)), "codestream is signed, the header says unsig"),
        (".4.90", jpeg_2000(BYTES)[:400] + b"\xff\xd9", r"damaged \(Jpeg2kError\)"),
        (".4.90", b"\xff\x4f\xff\x51" + bytes(30), "JPEG 2000 codestream has no header"),
        (".4.90", b"nothing of the kind", "JPEG 2000 codestream has no header"),
        (".5", struct.pack(SEGMENTS, 2, 64, 70, *[0] * 13), "has 2 segments, not 1"),
        (".5", struct.pack(SEGMENTS, 1, 999, *[0] * 14), "has 1 segments, not 1 in order"),
        (".5", struct.pack(SEGMENTS, 1, 64, *[0] * 14) + b"\x81\7", "RLE segment has 128 of 960"),
        (".5", b"short", r"RLE Lossless pixels are damaged \(error\)"),
        (".5", rle(BYTES)[:64] + b"\x7f" * 9, r"RLE Lossless pixels are damaged \(ImcdError"),
    ],
)
def test_damaged_codestreams(dicom, end: str, frame: bytes, match: str) -> None:
    refused(dicom(BYTES, syntax=UID + end, frames=[frame], BitsAllocated=8), match)


def test_jpeg_too_short_for_its_size(dicom) -> None:
    frame = jpeg(BYTES)
    at = frame.index(b"\xff\xc0") + 5
    big = frame[:at] + struct.pack(">HH", 9000, 9000) + frame[at + 4 :]
    size = {"BitsAllocated": 8, "Rows": 9000, "Columns": 9000}
    refused(dicom(BYTES, syntax=f"{UID}.4.50", frames=[big], **size), "bytes of JPEG are too few")


def test_jpeg_ls_is_stopped_in_time(dicom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHILD_SECONDS", 0.01)
    with pytest.raises(InvalidImageError, match=r"stopped after 0\.01 s") as caught:
        read_dicom(packed(dicom, "jpeg-ls", WORDS))
    assert isinstance(caught.value.__cause__, subprocess.TimeoutExpired)
