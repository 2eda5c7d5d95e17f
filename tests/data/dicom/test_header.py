"""What is refused by the header alone, before anything is allocated."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.misc import warn_and_log

from xray_lightning.data.dicom import header, read_dicom
from xray_lightning.errors import InvalidImageError

Make = Callable[..., bytes]

UID = "1.2.840.10008.1.2"
SECRET = "ZZSECRET"
PIXEL_TAG = b"\xe0\x7f\x10\0"


def refused(data: bytes, match: str) -> None:
    with pytest.raises(InvalidImageError, match=f"^folder/x: .*{match}"):
        read_dicom(data, name="folder/x")


@pytest.mark.parametrize(
    ("attributes", "match"),
    [
        ({"Rows": 0}, r"Rows is 0, not 1 to 20,000\. Download"),
        ({"Columns": 20_001}, "Columns is 20001, not 1 to 20,000"),
        ({"Rows": 20_000, "Columns": 20_000}, "20,000 x 20,000 pixels, more than 100,000,000"),
        ({"Rows": 20_000, "Columns": 4_000}, "4 bytes, the header says 1 x 160,000,000"),
        ({"BitsStored": 17}, "allocated 16, stored 17, high bit 16"),
        ({"HighBit": 3}, "allocated 16, stored 16, high bit 3"),
        ({"BitsStored": 12, "HighBit": 16}, "allocated 16, stored 12, high bit 16"),
        (
            {"PhotometricInterpretation": "YBR_FULL_422", "SamplesPerPixel": 3, "Columns": 3},
            "3 columns are odd",
        ),
        ({"BitsAllocated": 32}, "allocated 32, stored 32, high bit 31: only 8 or 16"),
        ({"SamplesPerPixel": 3}, "3 samples per pixel contradict MONOCHROME2"),
        ({"PhotometricInterpretation": "CMYK"}, "PhotometricInterpretation is none of MONO"),
        ({"PixelRepresentation": 2}, "PixelRepresentation is 2, not 0 to 1"),
        ({"NumberOfFrames": 0}, "NumberOfFrames is 0"),
        ({"NumberOfFrames": 2_000_000_000}, "it has 2000000000 frames"),
        ({"Rows": [1, 1], "Columns": None}, "it lacks Columns"),
        ({"without": ("Rows",)}, "it lacks Rows. Ask for the original file"),
        ({"without": ("BitsAllocated",)}, "it lacks BitsAllocated"),
        ({"without": ("BitsStored",)}, "it lacks BitsStored"),
        ({"without": ("PixelRepresentation",)}, "it lacks PixelRepresentation"),
        ({"without": ("PixelData",)}, "it has no pixel data"),
    ],
)
def test_invalid_layouts(dicom: Make, attributes: dict[str, Any], match: str) -> None:
    refused(dicom([[0, 1]], **attributes), match)


def test_truncated_and_foreign_files(dicom: Make) -> None:
    data = dicom(np.zeros((24, 40)))
    refused(b"", "not a DICOM file: DICM is not at byte 128. Download")
    refused(data[:100], "not a DICOM file")
    refused(b"\x08\0\x05\0CS\x0a\0ISO_IR 100" + bytes(100), "without file meta information")
    refused(data[:140], "no valid TransferSyntaxUID")
    refused(data[:300], "no pixel data, or is truncated before it")
    refused(data[:-1], r"its pixels end at byte [\d,]+ of [\d,]+")
    refused(data.replace(PIXEL_TAG, b"\xe0\x7f\x08\0"), "floating-point numbers")
    refused(data.replace(b"\x28\0\x10\0US\2\0", b"\x28\0\x10\0US\3\0"), "")  # out of step
    nested = (b"\x08\0\x40\x11SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\0\xe0" + b"\xff" * 4) * 5000
    at = data.index(b"\x28\0\x02\0US")
    refused(data[:at] + nested + data[at:], "its header is damaged")
    at = data.index(PIXEL_TAG)
    half_an_item = b"\x28\0\x10\x30SQ\0\0\4\0\0\0\xfe\xff\0\xe0"
    refused(data[:at] + half_an_item + data[at:], "its VOILUTSequence is damaged")


def test_a_sequence_in_place_of_a_value(dicom: Make) -> None:
    item = Dataset()
    item.Rows = 1
    data = dicom([[0, 1]], WindowCenter=50, WindowWidth=101, VOILUTSequence=[item])
    swapped = data.replace(b"\x28\0\x10\x30SQ", b"\x28\0\x51\x10SQ").replace(
        b"\x28\0\x51\x10DS", b"\x28\0\x10\x30DS"
    )
    refused(swapped, "its (WindowWidth|VOILUTSequence)")


def test_an_empty_value_of_an_unknown_vr_is_absent(dicom: Make) -> None:
    data = dicom([[0, 1]], BitsAllocated=8)
    at = data.index(PIXEL_TAG)
    image = read_dicom(data[:at] + b"\x28\0\x52\x10O\0\0\0" + data[at:])  # RescaleIntercept
    np.testing.assert_array_equal(image.pixels, read_dicom(data).pixels)


def test_a_deflated_bomb_is_stopped(dicom: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (header.MAX_SIDE, header.MAX_PIXELS) == (20_000, 100_000_000)
    assert header.MAX_INFLATED >= 2 * header.MAX_PIXELS
    data = dicom(np.zeros((999, 999)), syntax=f"{UID}.1.99")
    assert read_dicom(data).pixels.shape == (999, 999)
    refused(data[:-5], "the end of its deflated data set is missing")
    monkeypatch.setattr(header, "MAX_INFLATED", 1_000_000)
    refused(data, "more than 1,000,000 bytes. Rewrite it uncompressed")


@pytest.mark.parametrize(
    ("keyword", "value", "bad"),
    [
        ("WindowCenter", b"7777", b"ZZSE"),
        ("NumberOfFrames", b"7777", b"ZZSE"),
        ("PhotometricInterpretation", b"MONOCHROME2", b"ZZSECRET123"),
        ("VOILUTFunction", b"LINEAR", b"ZZSECR"),
    ],
)
def test_no_message_repeats_a_text_of_the_file(dicom, keyword, value, bad) -> None:
    window = {"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "LINEAR"}
    number = {keyword: 7777} if value == b"7777" else {}
    data = dicom([[0, 1]], **{**window, **number})
    with pytest.raises(InvalidImageError) as caught:
        read_dicom(data.replace(value, bad, 1), frame=0)
    assert "ZZ" not in str(caught.value)


def test_irregular_values_neither_warn_nor_log(dicom, caplog) -> None:
    data = dicom([[0, 1]], BitsAllocated=8, PatientAge="43", PatientName="A" * 99, StudyDate="x")
    mode = config.settings.reading_validation_mode
    with caplog.at_level(logging.DEBUG):
        read_dicom(data)
    assert not caplog.records
    assert config.settings.reading_validation_mode == mode


@pytest.mark.filterwarnings("ignore:Unknown encoding:UserWarning")
def test_what_pydicom_logs_while_we_read_is_dropped(dicom, caplog) -> None:
    data = dicom([[0, 1]], BitsAllocated=8, SpecificCharacterSet="ISO_IR 100")
    with caplog.at_level(logging.DEBUG):
        read_dicom(data.replace(b"ISO_IR 100", b"KLINGON 99"))
        assert not caplog.records
        with pytest.warns(UserWarning, match="of others"):
            warn_and_log("of others")
    assert [record.message for record in caplog.records] == ["of others"]
