"""Decoding against Pillow, and every kind of damage."""

import io
import os
import struct
import zlib
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from pydicom import dcmread

from xray_lightning import CsvTable, InvalidImageError, open_cache
from xray_lightning.data.images import MAX_SIDE, collect_notes, decode_image, read_image

GENERATOR = np.random.default_rng(0)
GREY = GENERATOR.integers(0, 256, (11, 7), dtype=np.uint8)
COLOUR = GENERATOR.integers(0, 256, (11, 7, 3), dtype=np.uint8)
LUMA = np.rint(COLOUR @ [0.299, 0.587, 0.114])
DEEP = np.arange(65536, dtype=np.uint16).reshape(256, 256)
RAMP = np.add.outer(np.arange(40) * 3, np.arange(64) * 2).astype(np.uint8)
RAMP16 = RAMP.astype(np.uint16) * 257


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **{"photometric": "minisblack", **options})
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    ends = struct.pack(">I", len(content)), struct.pack(">I", zlib.crc32(kind + content))
    return ends[0] + kind + content + ends[1]


def png(width: int, height: int, compressed: bytes, *before: bytes, bits: int = 8) -> bytes:
    """A grey PNG, every checksum right, whatever its pixels and the chunks before them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    parts = header, *before, chunk(b"IDAT", compressed), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


BMP = encoded(Image.fromarray(GREY), "BMP")
TIFF = encoded(Image.fromarray(GREY), "TIFF")
TAG = struct.pack("<HH", 262, 3)  # PhotometricInterpretation, a short
PNG = encoded(Image.fromarray(GREY))
JPEG = encoded(Image.fromarray(np.full((64, 48), 90, np.uint8)), "JPEG")
FRAME = JPEG.index(b"\xff\xc0") + 5  # the height in its frame header


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        *((encoded(Image.fromarray(GREY), kind), GREY) for kind in ("PNG", "BMP", "TIFF")),
        (encoded(Image.fromarray(DEEP)), np.rint(DEEP * (255 / 65535))),
        *((tiff(codes, photometric="miniswhite"), 255 - RAMP) for codes in (RAMP, RAMP16)),
    ],
)
def test_8_bits_are_kept_16_scaled_by_the_full_range_and_white_may_be_zero(data, expected) -> None:
    pixels = decode_image(data, "x")
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_expanded(bits: int) -> None:
    grey = Image.fromarray(GREY)
    image = grey.convert("1") if bits == 1 else grey.quantize(2**bits)
    pixels = decode_image(encoded(image, bits=bits), "x")
    np.testing.assert_allclose(pixels, np.asarray(image.convert("L"), float), atol=bits > 1)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_becomes_luma(mode: str) -> None:
    image = Image.fromarray(COLOUR)
    image = image.quantize(256) if mode == "P" else image.convert(mode)
    pixels = decode_image(encoded(image), "x")
    expected = np.asarray(image.convert("RGB").convert("L"), float)
    np.testing.assert_allclose(pixels, expected, atol=1)  # Pillow rounds its coefficients
    if mode != "P":
        np.testing.assert_allclose(pixels, LUMA, atol=1)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_equal_channels_give_that_grey_exactly_and_alpha_is_ignored(mode: str) -> None:
    image = Image.fromarray(GREY).convert(mode)
    if mode != "RGB":
        image.putalpha(Image.fromarray(COLOUR[..., 0]))
    np.testing.assert_array_equal(decode_image(encoded(image), "x"), GREY)


def test_colour_of_16_bit() -> None:
    ok, data = cv2.imencode(".png", COLOUR.astype(np.uint16) * 257)
    assert ok
    expected = COLOUR @ [0.114, 0.587, 0.299]  # OpenCV writes BGR
    np.testing.assert_allclose(decode_image(data.tobytes(), "x"), expected, atol=1)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_as_pillow_decodes_it(mode: str, options: dict[str, object]) -> None:
    smooth = cv2.resize(COLOUR, (64, 48), interpolation=cv2.INTER_CUBIC)
    data = encoded(Image.fromarray(smooth).convert(mode), "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("L"), float)
    np.testing.assert_allclose(decode_image(data, "x"), expected, atol=4)  # chroma upsampling


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_the_orientation_is_applied_to_every_format(kind: str, orientation: int) -> None:
    """As Pillow turns it; 0 and 9 mean nothing."""
    smooth = np.add.outer(np.arange(24) * 9, np.arange(40)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(smooth), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    pixels = decode_image(data, "x")
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.shape == ((40, 24) if orientation in (5, 6, 7, 8) else (24, 40))
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("data", [PNG, JPEG])
def test_every_truncated_file_is_refused(data: bytes) -> None:
    for size in range(len(data)):
        with pytest.raises(InvalidImageError, match=r"^x\.png: "):
            decode_image(data[:size], "x.png")


def test_a_flipped_byte_in_a_png_never_changes_pixels() -> None:
    for position in range(len(PNG)):
        for mask in (0x01, 0x55, 0xFF):
            damaged = bytearray(PNG)
            damaged[position] ^= mask
            try:
                pixels = decode_image(bytes(damaged), "x.png")
            except InvalidImageError:
                continue
            np.testing.assert_array_equal(pixels, GREY)


def test_end_marker_of_a_thumbnail_does_not_hide_truncation() -> None:
    thumbnail = b"Exif\x00\x00" + JPEG
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = JPEG[:2] + segment + JPEG[2:]
    assert decode_image(whole, "x").shape == (64, 48)
    padded = JPEG[:2] + b"\xff\xff" + JPEG[2:]  # fill bytes before a marker
    np.testing.assert_array_equal(decode_image(padded, "x"), decode_image(JPEG, "x"))
    with pytest.raises(InvalidImageError, match="truncated: its end marker"):
        decode_image(whole[:-2], "x")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "the file is empty. Download"),
        (b"<html>not found</html>", "not a PNG, JPEG, BMP, TIFF or DICOM file by its first bytes"),
        (PNG[:-20], "the PNG is truncated: a chunk ends at byte"),
        (PNG[:60] + b"?" + PNG[61:], "the PNG is damaged: wrong checksum of the chunk at byte 33"),
        (PNG[:8] + chunk(b"IEND", b""), "does not begin with its header"),
        (PNG[:33] + chunk(b"IEND", b""), "its compressed pixels are damaged"),
        (png(4, 4, zlib.compress(bytes(7))), "its compressed pixels are damaged"),
        (png(0, 4, b""), "its size is 0 x 4 pixels"),
        (png(4, MAX_SIDE + 1, b""), "its size is 4 x 20001 pixels, sides must be 1 to 20,000"),
        (JPEG[:FRAME] + bytes(2) + JPEG[FRAME + 2 :], "its size is 48 x 0 pixels"),
        (JPEG[:-2], "the JPEG is truncated: its end marker"),
        (JPEG[:2] + JPEG[2:40], "the JPEG is truncated or damaged at byte"),
        (b"\xff\xd8\xff\x01" + b"\xff\xda" + JPEG[-40:], "the JPEG is truncated"),
        (b"\xff\xd8\xff\x01\xff\xda\0\x08" + bytes(6) + b"\xff\xd9", "JPEG has no frame header"),
        (bytes(128) + b"DICM" + bytes(50), "it has no valid TransferSyntaxUID"),
        (b"BM" + bytes(60), "damaged|cannot decode"),
        (BMP[:40], "its compressed pixels are damaged"),
        (BMP[:-1], "its compressed pixels are damaged"),
        (TIFF[:-1], "TIFF"),
        (TIFF.replace(TAG, TAG[:2] + b"c\0"), "its TIFF data is damaged"),  # of no type
        (encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "its pixels are float32, not"),
        (encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "its pixels are int32, not"),
    ],
)
def test_damage_is_named_and_prints_nothing(data: bytes, match: str, capfd) -> None:
    with pytest.raises(InvalidImageError, match=match) as caught:
        decode_image(data, "folder/x")
    assert str(caught.value).startswith("folder/x: ")
    printed = capfd.readouterr() != ("", "")
    assert not printed or "compressed" in match or "cannot decode" in match  # OpenCV's own lines


def test_what_opencv_may_give(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [np.zeros((3, 3, 2), np.uint8), cv2.error("as of an empty image"), GREY[:, :, None]]
    monkeypatch.setattr(cv2, "imdecode", Mock(side_effect=given))
    with pytest.raises(InvalidImageError, match="it has 2 channels, not 1 or 3"):
        decode_image(PNG, "x")
    with pytest.raises(InvalidImageError, match="x: OpenCV cannot decode it"):
        decode_image(PNG, "x")
    np.testing.assert_array_equal(decode_image(PNG, "x"), GREY)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InvalidImageError, match=r"absent\.png: cannot be opened \(No such file"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(InvalidImageError, match=r"cannot be opened \(Is a directory"):
        read_image(tmp_path)
    with (tmp_path / "big.dcm").open("wb") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(InvalidImageError, match="larger than 1,073,741,824 bytes"):
        read_image(tmp_path / "big.dcm")
    with pytest.raises(InvalidImageError, match="it is not a DICOM file: DICM is not at byte 128"):
        decode_image(b"no preamble", "x.dcm")  # by its name
    (tmp_path / "scan").write_bytes(b"DOE^JANE" + bytes(200))
    with pytest.raises(InvalidImageError) as caught:
        read_image(tmp_path / "scan")
    assert "DOE" not in str(caught.value)  # an error repeats no byte of the file
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.dcm").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.dcm"):
        with pytest.raises(InvalidImageError, match=f"{name}: is a pipe, a socket or a device"):
            read_image(tmp_path / name)


def test_real_files_as_pydicom_and_pillow_decode_them(shared_data: Path) -> None:
    path = next((shared_data / "rsna-sample").rglob("*.dcm"))
    np.testing.assert_array_equal(read_image(path), dcmread(path).pixel_array)
    paths = sorted((shared_data / "nih-1024").glob("*.png"))
    opened = {path: Image.open(io.BytesIO(path.read_bytes())) for path in paths}
    colour = [path for path in paths if opened[path].mode == "RGBA"]
    assert (len(paths), len(colour)) == (40, 1)
    for path in [*paths[:4], *colour]:
        pixels = read_image(path)
        assert pixels.shape == (1024, 1024)
        np.testing.assert_array_equal(pixels, np.asarray(opened[path].convert("RGB"))[..., 0])


CASES = Path(os.environ["XRAY_DATA"]).with_name("cases") / "tiff"
PACKINGS = [None, "lzw", "deflate", "packbits", "jpeg2000"]
STRIPS = [{}, {"rowsperstrip": 7}, {"tile": (16, 16)}]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("strips", STRIPS)
def test_tiff_is_read_or_refused(packing: str | None, strips: dict[str, object]) -> None:
    data, pages = (tiff(x, compression=packing, **strips) for x in (RAMP, np.stack([RAMP, ~RAMP])))
    with collect_notes() as notes:
        np.testing.assert_array_equal([decode_image(one, "x") for one in (data, pages)], [RAMP] * 2)
    assert notes == ["TIFF of several pages: the first is taken"]
    if packing != "jpeg2000":  # Pillow does not read that
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), RAMP)
    for size in range(0, len(data), 5):
        try:
            pixels = decode_image(data[:size], "x")
        except InvalidImageError as error:
            assert str(error).startswith("x: ")  # noqa: PT017
            continue
        np.testing.assert_array_equal(pixels, RAMP)  # what was cut is no pixel


def test_a_flipped_bit_in_deflated_pixels_is_an_error() -> None:
    data = tiff(RAMP, compression="deflate")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        start, size = file.pages.first.dataoffsets[0], file.pages.first.databytecounts[0]
    for at in range(start + 2, start + size, 3):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        with pytest.raises(InvalidImageError, match="x: its TIFF data is damaged"):
            decode_image(bytes(damaged), "x")


@pytest.mark.parametrize("bits", [1, 4, 12])
def test_tiff_of_other_bits_fills_the_range(bits: int) -> None:
    codes = RAMP16 >> (16 - bits)
    data = tiff(codes if bits > 8 else codes.astype(np.uint8), bitspersample=bits)
    expected = np.rint(codes * (255 / (2**bits - 1)))
    with collect_notes() as notes:
        np.testing.assert_array_equal(decode_image(data, "x"), expected)
    assert notes == []


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("alpha", [False, True])
def test_colour_tiff_becomes_luma(planar: str, alpha: bool) -> None:
    samples = np.dstack([COLOUR, GREY]) if alpha else COLOUR
    if planar == "separate":
        samples = np.moveaxis(samples, -1, 0)
    more = {"extrasamples": ["unassalpha"]} if alpha else {}
    data = tiff(samples, photometric="rgb", planarconfig=planar, **more)
    np.testing.assert_allclose(decode_image(data, "x"), LUMA, atol=1)


def test_tiff_with_a_palette_or_jpeg_as_pillow_reads_it() -> None:
    image = Image.fromarray(COLOUR).quantize(16)
    expected = np.asarray(image.convert("RGB").convert("L"), float)
    np.testing.assert_allclose(decode_image(encoded(image, "TIFF"), "x"), expected, atol=1)
    smooth = Image.fromarray(cv2.resize(COLOUR, (64, 48), interpolation=cv2.INTER_CUBIC))
    data = encoded(smooth, "TIFF", compression="jpeg")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("L"), float)
    np.testing.assert_allclose(decode_image(data, "x"), expected, atol=4)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (tiff(RAMP, compression="zstd"), "its TIFF compression is 50000, none of none, LZW, JPEG"),
        (encoded(Image.new("CMYK", (4, 4)), "TIFF"), "its PhotometricInterpretation is 5 with 4"),
        (tiff(np.zeros((2, 8, 8), np.uint8), volumetric=True, tile=(16, 16)), "its axes are ZYX"),
        (tiff(np.zeros((1, 20001), np.uint8)), "its size is 20001 x 1 pixels"),
        (tiff(RAMP.astype(np.int16)), "its pixels are int16, not integers of up to 16 bits"),
    ],
)
def test_tiff_of_another_kind_is_refused(data: bytes, match: str) -> None:
    with pytest.raises(InvalidImageError, match=f"folder/x: {match}"):
        decode_image(data, "folder/x")


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not there")
def test_the_shared_tiff_cases() -> None:
    grey = read_image(CASES / "grey8.tif")
    np.testing.assert_array_equal(grey, np.asarray(Image.open(CASES / "grey8.tif")))
    np.testing.assert_array_equal(read_image(CASES / "jpeg2000.tif"), grey)
    # the codes are those of grey8.tif, and in WhiteIsZero 0 is white
    np.testing.assert_array_equal(read_image(CASES / "miniswhite16.tif"), 255 - grey)
    with pytest.raises(InvalidImageError, match=r"deflate_one_bit\.tif: its TIFF data is damaged"):
        read_image(CASES / "deflate_one_bit.tif")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(("white", "bits"), [(1023, 10), (4095, 12), (16383, 14), (32767, None)])
def test_fewer_bits_in_a_16_bit_picture_are_noted(kind: str, white: int, bits: int | None) -> None:
    codes = np.linspace(0, white, 60).astype(np.uint16).reshape(6, 10)
    with collect_notes() as notes:
        pixels = decode_image(encoded(Image.fromarray(codes), kind), "x")
    np.testing.assert_array_equal(pixels, np.rint(codes * (255 / 65535)))
    wanted = f"16-bit picture of {bits}-bit values: dark, for it is not stretched"
    assert notes == ([] if bits is None else [wanted])


def test_a_cache_says_how_its_images_were_read(tmp_path, caplog) -> None:
    for number in range(3):
        codes = np.full((8, 8), 4000 if number else 60000, np.uint16)
        (tmp_path / f"{number}.png").write_bytes(encoded(Image.fromarray(codes)))
    os.mkfifo(tmp_path / "3.png")
    (tmp_path / "t.csv").write_text("image,Mass\n0.png,1\n1.png,0\n2.png,0\n3.png,0\n")
    source = CsvTable(tmp_path / "t.csv")
    with pytest.raises(InvalidImageError, match=r"3\.png: is a pipe, a socket or a device"):
        open_cache(source, source.records, size=8, root=tmp_path / "cache", progress=False)
    note = "2 files: 16-bit picture of 12-bit values: dark, for it is not stretched (2)"
    assert f"how images were read: {note}" in caplog.text


def test_16_bit_png_by_its_stored_bits_damaged_and_transparent() -> None:
    rows = b"".join(b"\0" + struct.pack(">4H", *row) for row in ((0, 1, 512, 1023), (8, 7, 6, 5)))
    expected = [[0, 0, 128, 255], [2, 2, 1, 1]]
    more = [chunk(b"tRNS", b"\0\1")], [chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0")]
    for before in ([], *more):
        whole = png(4, 2, zlib.compress(rows), *before, bits=16)
        assert decode_image(whole, "x.png", 10).tolist() == expected
    for pixels in (zlib.compress(rows[:9]), zlib.compress(rows)[:9], b"no zlib"):
        with pytest.raises(InvalidImageError, match=r"x\.png.*damaged"):
            decode_image(png(4, 2, pixels, bits=16), "x.png", 10)
