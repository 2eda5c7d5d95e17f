"""Stored values of every syntax and layout: files made with pydicom, values known beforehand."""

import struct
import subprocess
from collections.abc import Callable
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder

from xray_lightning.data.dicom import codecs, elements, layout, read_dicom
from xray_lightning.data.dicom.elements import read_elements
from xray_lightning.data.dicom.layout import read_layout
from xray_lightning.data.dicom.samples import read_codes
from xray_lightning.errors import InvalidImageError

Make = Callable[..., bytes]

UID = "1.2.840.10008.1.2"
GENERATOR = np.random.default_rng(0)
SMOOTH = np.add.outer(np.arange(24), np.arange(40)) * 60 + GENERATOR.integers(0, 40, (24, 40))
WORDS = SMOOTH.astype(np.uint16)  # up to 12 bits
BYTES = (SMOOTH >> 4).astype(np.uint8)
COLOUR = GENERATOR.integers(0, 256, (6, 8, 3), dtype=np.uint8)
LUMA = COLOUR @ np.array([0.299, 0.587, 0.114]) / 255


def stored(data: bytes, frame: int = 0) -> np.ndarray:
    """The stored values of one frame."""
    header, pixels = read_elements(data)
    codes, values = read_codes(header, pixels, read_layout(header), frame)
    return values[codes]


def rle(pixels: np.ndarray) -> bytes:
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    return RLELosslessEncoder.encode(
        pixels.tobytes(),
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        samples_per_pixel=samples,
        bits_allocated=pixels.itemsize * 8,
        bits_stored=pixels.itemsize * 8,
        pixel_representation=0,
        photometric_interpretation="RGB" if samples == 3 else "MONOCHROME2",
        number_of_frames=1,
        planar_configuration=0,
    )


def jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    return imagecodecs.jpeg8_encode(pixels, **options)


def jpeg_2000(pixels: np.ndarray, **options: Any) -> bytes:
    return imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", **options)


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


def rebuilt(data: bytes, pieces: bytes) -> bytes:
    """The file with other items in its encapsulated pixel data."""
    start = data.index(b"\xe0\x7f\x10\0OB") + 12
    return data[:start] + pieces + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def colour(dicom: Make, photometric: str, **more: Any) -> bytes:
    more = {"PlanarConfiguration": 0, "SamplesPerPixel": 3, "BitsAllocated": 8, **more}
    return dicom(COLOUR, PhotometricInterpretation=photometric, **more)


def refused(data: bytes, match: str) -> None:
    with pytest.raises(InvalidImageError, match=f"^folder/x: {match}"):
        read_dicom(data, name="folder/x")


@pytest.mark.parametrize("end", ["", ".1", ".2", ".1.99"])
@pytest.mark.parametrize(("bits", "signed"), [(8, 0), (8, 1), (16, 0), (16, 1)])
def test_uncompressed(dicom: Make, end: str, bits: int, signed: int) -> None:
    low = -(1 << bits - 1) if signed else 0
    values = GENERATOR.integers(low, low + (1 << bits), (5, 7))  # 35 bytes: odd
    data = dicom(values, syntax=UID + end, BitsAllocated=bits, PixelRepresentation=signed)
    np.testing.assert_array_equal(stored(data), values)


@pytest.mark.parametrize(("bits", "signed"), [(8, 0), (8, 1), (16, 0), (16, 1)])
def test_native_pixels_in_items(dicom: Make, bits: int, signed: int) -> None:
    """Encapsulated Uncompressed Explicit VR Little Endian, PS3.5 A.4.11; an odd frame is padded."""
    low = -(1 << bits - 1) if signed else 0
    values = GENERATOR.integers(low, low + (1 << bits), (2, 5, 7))
    words = values.astype(f"<{'i' if signed else 'u'}{bits // 8}")
    more = {"BitsAllocated": bits, "PixelRepresentation": signed, "NumberOfFrames": 2}
    frames = [each.tobytes() for each in words]
    data = dicom(values[0], syntax=f"{UID}.1.98", frames=frames, **more)
    for index in range(2):
        np.testing.assert_array_equal(stored(data, index), values[index])
    one = dicom(values[0], syntax=f"{UID}.1.98", frames=frames[:1], **{**more, "NumberOfFrames": 1})
    np.testing.assert_array_equal(stored(one), values[0])


def test_golden_native_pixels_in_items(dicom: Make) -> None:
    """Written out byte by byte: an empty offset table, one item in two fragments, a delimiter."""
    data = dicom([[0, 0, 0]], syntax=f"{UID}.1.98", frames=[b"ab"])
    items = "feff00e000000000 feff00e002000000 0100 feff00e004000000 0002ff01"
    np.testing.assert_array_equal(stored(rebuilt(data, bytes.fromhex(items))), [[1, 512, 511]])
    short = rebuilt(data, bytes.fromhex("feff00e000000000 feff00e004000000 01000200"))
    refused(short, "its pixel data has 4 bytes, the header says 1 x 6: it is truncated")


@pytest.mark.parametrize("codec", LOSSLESS)
@pytest.mark.parametrize("pixels", [BYTES, WORDS], ids=["8 bits", "16 bits"])
def test_lossless(dicom: Make, codec: str, pixels: np.ndarray) -> None:
    syntax, encode = LOSSLESS[codec]
    frame = encode(pixels)
    data = dicom(pixels, syntax=syntax, frames=[frame], BitsAllocated=pixels.itemsize * 8)
    np.testing.assert_array_equal(stored(data), pixels)


@pytest.mark.parametrize("codec", ["jpeg lossless sv1", "jpeg-ls", "rle", "htj2k"])
def test_lossless_signed(dicom: Make, codec: str) -> None:
    """Signed values that a codec without a sign carries as unsigned words."""
    values = (SMOOTH - 2000).astype(np.int16)
    syntax, encode = LOSSLESS[codec]
    data = dicom(
        values, syntax=syntax, frames=[encode(values.view(np.uint16))], PixelRepresentation=1
    )
    np.testing.assert_array_equal(stored(data), values)


def test_signed_jpeg_2000(dicom: Make) -> None:
    values = (SMOOTH - 2000).astype(np.int16)
    frame = jpeg_2000(values)
    data = dicom(values, syntax=f"{UID}.4.90", frames=[frame], PixelRepresentation=1)
    np.testing.assert_array_equal(stored(data), values)


@pytest.mark.parametrize("codec", ["jpeg lossless sv1", "jpeg 2000"])
def test_12_bits_signed_in_an_unsigned_codestream(dicom: Make, codec: str) -> None:
    values = SMOOTH - 2000
    words = (values & 0xFFF).astype(np.uint16)
    options = {"bitspersample": 12}
    if codec == "jpeg 2000":
        frame = jpeg_2000(words, **options)
    else:
        frame = jpeg(words, lossless=True, predictor=1, **options)
    more = {"PixelRepresentation": 1, "BitsStored": 12}
    data = dicom(words, syntax=LOSSLESS[codec][0], frames=[frame], **more)
    np.testing.assert_array_equal(stored(data), values)


def test_baseline_jpeg_as_pillow_decodes_it(dicom: Make) -> None:
    frame = jpeg(BYTES, level=80)
    data = dicom(BYTES, syntax=f"{UID}.4.50", frames=[frame], BitsAllocated=8)
    np.testing.assert_array_equal(stored(data), np.asarray(Image.open(BytesIO(frame))))


@pytest.mark.parametrize(
    ("syntax", "frame", "bound"),
    [
        (f"{UID}.4.51", jpeg(WORDS, level=98, bitspersample=12), 25),
        (f"{UID}.4.81", imagecodecs.jpegls_encode(WORDS, 3), 3),  # near-lossless by 3
        (f"{UID}.4.91", jpeg_2000(WORDS, level=70, bitspersample=12), 6),
        (f"{UID}.4.203", imagecodecs.htj2k_encode(WORDS, 0.0001), 10),
    ],
    ids=["extended, 12 bits", "jpeg-ls", "jpeg 2000", "htj2k"],
)
def test_lossy(dicom: Make, syntax: str, frame: bytes, bound: int) -> None:
    data = dicom(WORDS, syntax=syntax, frames=[frame], BitsStored=12)
    difference = np.abs(stored(data) - SMOOTH)
    assert 0 < difference.max() <= bound


def test_bits_above_the_stored_ones_are_cut_off(dicom: Make) -> None:
    data = dicom([[0xF123, 0x0FFF]], BitsStored=12)
    np.testing.assert_array_equal(stored(data), [[0x123, 0xFFF]])


def test_the_sign_is_extended_from_the_stored_bits(dicom: Make) -> None:
    data = dicom([[0x0800, 0x07FF, 0x1FFF]], BitsStored=12, PixelRepresentation=1)
    np.testing.assert_array_equal(stored(data), [[-2048, 2047, -1]])


def test_a_high_bit_of_15_holds_12_bits_further_up(dicom: Make) -> None:
    data = dicom([[0x123F, 0xFFF0]], BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(stored(data), [[0x123, 0xFFF]])


def test_8_bits_in_big_endian_words(dicom: Make) -> None:
    data = dicom([[1, 2, 3]], syntax=f"{UID}.2", BitsAllocated=8, pixel_bytes=b"\2\1\0\3")
    data = data.replace(b"\x7f\xe0\0\x10OB", b"\x7f\xe0\0\x10OW")
    np.testing.assert_array_equal(stored(data), [[1, 2, 3]])
    start = data.rindex(b"\x7f\xe0\0\x10OW") + 8
    refused(data[:start] + b"\0\0\0\3" + data[start + 4 : -1], "its 3 bytes of pixel data are no")


def test_colour_jpeg_ls(dicom: Make) -> None:
    frame = imagecodecs.jpegls_encode(COLOUR)
    data = colour(dicom, "RGB", syntax=f"{UID}.4.80", frames=[frame])
    np.testing.assert_allclose(read_dicom(data, colour="luma").pixels, LUMA, atol=1e-6)


@pytest.mark.parametrize("codec", [None, "rle", "jpeg 2000"])
def test_frames_are_chosen(dicom: Make, codec: str | None) -> None:
    movie = np.stack([WORDS, WORDS[::-1], WORDS // 2])
    more: dict[str, Any] = {"NumberOfFrames": 3, "pixel_bytes": movie.tobytes()}
    if codec:
        syntax, encode = LOSSLESS[codec]
        more = {"NumberOfFrames": 3, "syntax": syntax, "frames": [encode(x) for x in movie]}
    data = dicom(WORDS, **more)
    for index, expected in enumerate(movie):
        np.testing.assert_array_equal(stored(data, index), expected)
    assert read_dicom(data, frame=2).pixels.shape == WORDS.shape
    with pytest.raises(
        InvalidImageError, match=r"it has 3 frames\. Choose one, from 0: xray convert --frame 0"
    ):
        read_dicom(data)
    with pytest.raises(InvalidImageError, match="frame 3 is asked for, it has 3, from 0"):
        read_dicom(data, frame=3)


@pytest.mark.parametrize("codec", ["jpeg 2000", "htj2k", "jpeg lossless", "jpeg-ls"])
@pytest.mark.parametrize("signed", [0, 1])
def test_the_codestream_knows_its_precision(codec: str, signed: int, dicom: Make) -> None:
    """PS3.5 A.4: 12-bit values under a header that says 10."""
    syntax, encode = LOSSLESS[codec]
    values = WORDS.astype(np.int32) - (2000 if signed else 0)
    words = values.astype(np.int16).view(np.uint16)
    more = {"BitsStored": 10, "PixelRepresentation": signed, "syntax": syntax}
    np.testing.assert_array_equal(stored(dicom(words, frames=[encode(words)], **more)), values)


def test_zeros_above_a_signed_value_are_no_part_of_it(dicom: Make) -> None:
    words = np.array([[0x3FF, 1, 0x200]], np.uint16)  # ten bits of -1, 1, -512
    more = {"BitsStored": 10, "PixelRepresentation": 1, "syntax": LOSSLESS["jpeg 2000"][0]}
    assert stored(dicom(words, frames=[jpeg_2000(words)], **more)).tolist() == [[-1, 1, -512]]


def test_fragments_are_joined_by_the_offset_table(dicom: Make) -> None:
    syntax, encode = LOSSLESS["jpeg 2000"]
    frames = [encode(WORDS), encode(WORDS[::-1])]
    single = dicom(WORDS, syntax=syntax, frames=[b"ab"])
    np.testing.assert_array_equal(stored(rebuilt(single, encapsulate(frames[:1], 3))), WORDS)
    double = dicom(WORDS, syntax=syntax, frames=[b"ab", b"ab"], NumberOfFrames=2)
    data = rebuilt(double, encapsulate(frames, 3))
    np.testing.assert_array_equal(stored(data, 0), WORDS)
    np.testing.assert_array_equal(stored(data, 1), WORDS[::-1])
    bare = rebuilt(double, encapsulate(frames, 3, has_bot=False))
    with pytest.raises(InvalidImageError, match="its 6 fragments do not tell 2 frames apart"):
        stored(bare, 1)


def test_damaged_items(dicom: Make) -> None:
    syntax, encode = LOSSLESS["jpeg 2000"]
    data = dicom(WORDS, syntax=syntax, frames=[encode(WORDS)])
    np.testing.assert_array_equal(stored(data[:-8]), WORDS)  # only the delimiter is missing
    for cut in (9, 300):
        with pytest.raises(InvalidImageError, match="it is truncated: its compressed pixel data"):
            stored(data[:-cut])
    with pytest.raises(InvalidImageError, match="its pixel data is damaged at item 1"):
        stored(rebuilt(data, encapsulate([encode(WORDS)])[:12] + bytes(40)))
    with pytest.raises(InvalidImageError, match="its compressed pixel data is empty"):
        stored(rebuilt(data, struct.pack("<HHI", 0xFFFE, 0xE000, 0)))


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("codec", [None, "rle"])
def test_rgb_to_luma(dicom: Make, planar: int, codec: str | None) -> None:
    pixels = COLOUR.transpose(2, 0, 1) if planar and not codec else COLOUR
    more: dict[str, Any] = {"pixel_bytes": pixels.tobytes()}
    if codec:
        more = {"syntax": LOSSLESS[codec][0], "frames": [rle(COLOUR)]}
    data = colour(dicom, "RGB", PlanarConfiguration=planar, **more)
    with pytest.raises(InvalidImageError, match=r"in colour \(RGB\)\. If .* --colour luma"):
        read_dicom(data)
    image = read_dicom(data, colour="luma")
    np.testing.assert_allclose(image.pixels, LUMA, atol=1e-6)
    assert image.notes == ("colour is turned to luma",)


def test_ybr_is_luma_already(dicom: Make) -> None:
    data = colour(dicom, "YBR_FULL", pixel_bytes=COLOUR.tobytes())
    found = read_dicom(data, colour="luma").pixels
    np.testing.assert_allclose(found, COLOUR[:, :, 0] / 255, atol=1e-6)
    pairs = np.concatenate([COLOUR[:, ::2, 0:1], COLOUR[:, 1::2, 0:1], COLOUR[:, ::2, 1:]], 2)
    half = colour(dicom, "YBR_FULL_422", pixel_bytes=pairs.tobytes())
    found = read_dicom(half, colour="luma").pixels
    np.testing.assert_allclose(found, COLOUR[:, :, 0] / 255, atol=1e-6)


def test_colour_jpeg_of_three_kinds(dicom: Make) -> None:
    flat = np.repeat(np.repeat(COLOUR, 8, 0), 8, 1)
    expected = np.repeat(np.repeat(LUMA, 8, 0), 8, 1)
    marked = jpeg(flat, level=100, colorspace="RGB", outcolorspace="RGB")  # an Adobe marker
    bare = marked.replace(marked[2:18], b"")
    assert marked[2:4] == b"\xff\xee"
    assert b"Adobe" not in bare
    ybr = jpeg(flat, level=100, subsampling="444")
    for photometric, frame in (("RGB", marked), ("RGB", bare), ("YBR_FULL_422", ybr)):
        data = colour(dicom, photometric, syntax=f"{UID}.4.50", frames=[frame], Rows=48, Columns=64)
        found = read_dicom(data, colour="luma").pixels
        np.testing.assert_allclose(found, expected, atol=2.5 / 255)


def test_colour_jpeg_2000(dicom: Make) -> None:
    frame = jpeg_2000(COLOUR)
    data = colour(dicom, "YBR_RCT", syntax=f"{UID}.4.90", frames=[frame])
    np.testing.assert_allclose(read_dicom(data, colour="luma").pixels, LUMA, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_palette(dicom: Make, bits: int) -> None:
    palette = GENERATOR.integers(0, 1 << bits, (3, 4))
    more: dict[str, Any] = {}
    for name, entries in zip(("Red", "Green", "Blue"), palette, strict=True):
        word = "u1" if bits == 8 else "<u2"
        more[f"{name}PaletteColorLookupTableDescriptor"] = [4, 2, bits]
        more[f"{name}PaletteColorLookupTableData"] = entries.astype(word).tobytes()
    data = dicom([[0, 2, 3, 5, 9]], PhotometricInterpretation="PALETTE COLOR", **more)
    luma = np.array([0.299, 0.587, 0.114]) @ palette / ((1 << bits) - 1)
    found = read_dicom(data, colour="luma").pixels
    np.testing.assert_allclose(found[0], luma[[0, 0, 1, 3, 3]], atol=1e-6)


def test_what_colour_is_refused(dicom: Make) -> None:
    more = {"SegmentedRedPaletteColorLookupTableData": b"\1\0"}
    data = dicom([[0]], PhotometricInterpretation="PALETTE COLOR", **more)
    with pytest.raises(InvalidImageError, match=r"its palette is segmented\. Convert it to RGB"):
        read_dicom(data, colour="luma")
    data = colour(dicom, "RGB", PixelRepresentation=1, pixel_bytes=COLOUR.tobytes())
    with pytest.raises(InvalidImageError, match="its colour samples are signed"):
        read_dicom(data, colour="luma")


@pytest.mark.parametrize(
    ("attributes", "match"),
    [
        ({"Rows": 0}, "its Rows is 0, not 1 to 20,000. Download"),
        ({"Columns": 20_001}, "its Columns is 20001, not 1 to 20,000"),
        ({"Rows": 20_000, "Columns": 20_000}, "a frame has 20,000 x 20,000 pixels, more than 100,"),
        ({"Rows": 20_000, "Columns": 4_000}, "its pixel data has 4 bytes, the header says 1 x 160"),
        ({"BitsStored": 17}, "bits allocated 16, stored 17, high bit 16: they contradict"),
        ({"HighBit": 3}, "bits allocated 16, stored 16, high bit 3: they contradict each other"),
        ({"BitsStored": 12, "HighBit": 16}, "bits allocated 16, stored 12, high bit 16: they con"),
        (
            {"PhotometricInterpretation": "YBR_FULL_422", "SamplesPerPixel": 3, "Columns": 3},
            "3 columns are odd, YBR_FULL_422 has pairs",
        ),
        ({"BitsAllocated": 32}, "bits allocated 32, stored 32, high bit 31: only 8 or 16"),
        ({"SamplesPerPixel": 3}, "3 samples per pixel contradict MONOCHROME2. Correct the header"),
        ({"PhotometricInterpretation": "CMYK"}, "its PhotometricInterpretation is none of MONO"),
        ({"PixelRepresentation": 2}, "its PixelRepresentation is 2, not 0 to 1"),
        ({"NumberOfFrames": 0}, "its NumberOfFrames is 0, no positive integer"),
        ({"NumberOfFrames": 2_000_000_000}, "it has 2000000000 frames"),
        ({"Rows": [1, 1], "Columns": None}, "it lacks Columns. Ask for the original file"),
    ],
)
def test_invalid_layouts(dicom: Make, attributes: dict[str, Any], match: str) -> None:
    refused(dicom([[0, 1]], **attributes), match)


@pytest.mark.parametrize("keyword", ["Rows", "BitsAllocated", "BitsStored", "PixelRepresentation"])
def test_missing_attributes(dicom: Make, keyword: str) -> None:
    refused(dicom([[0, 1]], without=(keyword,)), f"it lacks {keyword}. Ask for the original file")


def test_too_few_bytes_for_the_frames(dicom: Make) -> None:
    data = dicom([[0, 1]], NumberOfFrames=2)
    with pytest.raises(InvalidImageError, match="has 4 bytes, the header says 2 x 4: it is trunc"):
        read_dicom(data, frame=0)


def test_no_dicom_no_pixels_truncated(dicom: Make) -> None:
    data = dicom(WORDS)
    refused(b"", "it is no DICOM file: DICM is not at byte 128. Download")
    refused(data[:100], "it is no DICOM file")
    refused(data[:140], "it has no valid TransferSyntaxUID")
    refused(data[:300], "it has no pixel data, or is truncated before it")
    refused(data[:-1], r"it is truncated: its pixels end at byte [\d,]+ of [\d,]+. Download")
    refused(dicom(WORDS, without=("PixelData",)), "it has no pixel data")
    floats = data.replace(b"\xe0\x7f\x10\0", b"\xe0\x7f\x08\0")
    refused(floats, "its pixels are floating-point numbers. Convert them to 16-bit integers")
    odd = data.replace(b"\x28\0\x10\0US\2\0", b"\x28\0\x10\0US\3\0")
    refused(odd, "")  # everything after it is out of step


def test_deep_nesting_is_no_crash(dicom: Make) -> None:
    data = dicom(WORDS)
    at = data.index(b"\x28\0\x02\0US")
    nested = (b"\x08\0\x40\x11SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\0\xe0" + b"\xff" * 4) * 5000
    refused(data[:at] + nested + data[at:], "its header is damaged")


def test_syntax_and_pixel_data_must_agree(dicom: Make) -> None:
    plain = dicom(WORDS)
    refused(
        plain.replace(f"{UID}.1\0".encode(), f"{UID}.5\0".encode()), "its pixel data is not enc"
    )
    packed = dicom(WORDS, syntax=f"{UID}.5", frames=[rle(WORDS)])
    refused(packed.replace(f"{UID}.5\0".encode(), f"{UID}.1\0".encode()), "its pixel data is encap")


def test_unsupported_syntax_is_named(dicom: Make) -> None:
    data = dicom(WORDS, syntax=f"{UID}.4.100", frames=[b"1234"])
    refused(data, "its transfer syntax, MPEG2 Main Profile / Main Level, is not supported. Rewrite")
    nameless = dicom(WORDS).replace(f"{UID}.1\0".encode(), b"John Doe".ljust(20, b" "))
    refused(nameless, "it has no valid TransferSyntaxUID. Rewrite")


def test_a_deflated_bomb_is_stopped(dicom: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dicom(np.zeros((999, 999)), syntax=f"{UID}.1.99")
    assert read_dicom(data).pixels.shape == (999, 999)
    refused(data[:-5], "it is truncated: the end of its deflated data set is missing")
    monkeypatch.setattr(elements, "MAX_INFLATED", 1_000_000)
    refused(data, "its deflated data set has more than 1,000,000 bytes. Rewrite it uncompressed")


@pytest.mark.parametrize("codec", ["jpeg lossless", "jpeg-ls", "jpeg 2000", "htj2k", "rle"])
def test_codestream_of_another_size(dicom: Make, codec: str) -> None:
    syntax, encode = LOSSLESS[codec]
    data = dicom(WORDS, syntax=syntax, frames=[encode(WORDS)], Rows=25)
    refused(
        data, "its codestream is 40 x 24 x 1, the header says 40 x 25|an RLE segment has 960 of"
    )


def test_codestream_of_more_bits(dicom: Make) -> None:
    syntax, encode = LOSSLESS["jpeg 2000"]
    data = dicom(WORDS, syntax=syntax, frames=[encode(WORDS)], BitsAllocated=8)
    refused(data, "its codestream has 16 bits, the header 8")


@pytest.mark.parametrize(
    ("end", "frame", "match"),
    [
        (".4.50", b"\xff\xd8\xff\xc0", "the JPEG is truncated or damaged at byte"),
        (".4.50", b"JPEG" * 9, "the JPEG is truncated or damaged at byte"),
        (".4.50", jpeg(BYTES)[:-2] + b"\0\0", r"the JPEG is truncated: its end marker \(EOI\)"),
        (".4.50", jpeg(BYTES).replace(b"\xff\xc0", b"\xff\xc2"), "it holds a JPEG of kind C2"),
        (".4.80", jpeg(BYTES), "it holds a JPEG of kind C0, not its syntax's. Re-encode it"),
        (".4.50", imagecodecs.jpegls_encode(BYTES), "it holds a JPEG of kind F7"),
        (".4.90", b"\xff\x4f\xff\x51" + bytes(30), "its JPEG 2000 codestream has no header"),
        (".4.90", b"nothing of the kind", "its JPEG 2000 codestream has no header"),
        (".5", struct.pack("<16I", 2, 64, 70, *[0] * 13), "its RLE header has 2 segments, not 1"),
        (".5", struct.pack("<16I", 1, 999, *[0] * 14), "its RLE header has 1 segments, not 1 in o"),
        (".5", struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\7", "an RLE segment has 128 of 960"),
        (".5", b"short", r"its RLE Lossless pixels are damaged \(error\)"),
        (".5", rle(BYTES)[:64] + b"\x7f" * 9, r"its RLE Lossless pixels are damaged \(ImcdError"),
    ],
)
def test_damaged_codestreams(dicom: Make, end: str, frame: bytes, match: str) -> None:
    refused(dicom(BYTES, syntax=UID + end, frames=[frame], BitsAllocated=8), match)


def test_jpeg_too_short_for_its_size(dicom: Make) -> None:
    frame = jpeg(BYTES)
    at = frame.index(b"\xff\xc0") + 5
    big = frame[:at] + struct.pack(">HH", 9000, 9000) + frame[at + 4 :]
    data = dicom(
        BYTES, syntax=f"{UID}.4.50", frames=[big], BitsAllocated=8, Rows=9000, Columns=9000
    )
    refused(data, r"[\d,]+ bytes of JPEG are too few for its size")


def test_a_damaged_scan_is_refused(dicom: Make) -> None:
    syntax, encode = LOSSLESS["jpeg 2000"]
    frame = encode(WORDS)
    data = dicom(WORDS, syntax=syntax, frames=[frame[: len(frame) // 2] + b"\xff\xd9"])
    refused(data, r"its JPEG 2000 .* pixels are damaged \(Jpeg2kError\)")


def test_jpeg_ls_runs_in_a_child(dicom: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = imagecodecs.jpegls_encode(WORDS)
    damaged = frame[:200] + b"\xff\xd9"
    refused(dicom(WORDS, syntax=f"{UID}.4.80", frames=[damaged]), "its JPEG-LS pixels are damaged")
    monkeypatch.setattr(codecs, "CHILD_SECONDS", 0.01)
    data = dicom(WORDS, syntax=f"{UID}.4.80", frames=[frame])
    refused(data, "its decoder was stopped after 0.01 s")
    with pytest.raises(InvalidImageError) as caught:
        read_dicom(data)
    assert isinstance(caught.value.__cause__, subprocess.TimeoutExpired)


def test_limits_are_the_stated_ones() -> None:
    assert (layout.MAX_SIDE, layout.MAX_PIXELS) == (20_000, 100_000_000)
    assert elements.MAX_INFLATED >= 2 * layout.MAX_PIXELS


def test_a_sequence_in_place_of_a_value(dicom: Make) -> None:
    item = Dataset()
    item.Rows = 1
    data = dicom([[0, 1]], WindowCenter=50, WindowWidth=101, VOILUTSequence=[item])
    swapped = data.replace(b"\x28\0\x10\x30SQ", b"\x28\0\x51\x10SQ").replace(
        b"\x28\0\x51\x10DS", b"\x28\0\x10\x30DS"
    )
    refused(swapped, "its (WindowWidth|VOILUTSequence)")
