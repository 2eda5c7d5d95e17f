"""What is told of a header, and what is not; what is refused by it before anything is allocated."""

import logging
import math
import pickle
import warnings
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pydicom
import pytest
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.misc import warn_and_log
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from xray_lightning.data.dicom import Acquisition, DicomImage, header, read_dicom, tally
from xray_lightning.data.dicom.acquisition import ALLOWED, COLUMNS, read_allowed
from xray_lightning.errors import InvalidImageError

Tell = Callable[..., dict[str, str]]

SECRET = "ZZSECRET"
TOLD = (  # attribute, value, column, cell
    ("Modality", "DX", "modality", "DX"),
    ("ViewPosition", "PA", "view", "PA"),
    ("ImageLaterality", "L", "laterality", "L"),
    ("Laterality", "R", "series_laterality", "R"),
    ("PatientAge", "058Y", "age", "58"),
    ("PatientSex", "F", "sex", "F"),
    ("PixelSpacing", [0.139, 0.14], "pixel_spacing_mm", "0.139 0.14"),
    ("ImagerPixelSpacing", ["0.2", "0.2"], "imager_pixel_spacing_mm", "0.2 0.2"),
    ("Manufacturer", "FUJIFILM Corporation", "manufacturer", "FUJIFILM Corporation"),
    ("WindowCenter", [2048, 1000], "window_center", "2048.0 1000.0"),
    ("WindowWidth", "4096", "window_width", "4096"),
    ("VOILUTFunction", "SIGMOID", "voi_function", "SIGMOID"),
    ("BitsStored", 12, "bits_stored", "12"),
)
RADIOGRAPH: dict[str, object] = {keyword: value for keyword, value, _, _ in TOLD}


@pytest.fixture
def tell(tmp_path, dicom) -> Tell:
    """The row of a file with attributes by keyword; reading it must not warn."""

    def read(**attributes: object) -> dict[str, str]:
        path = tmp_path / "a.dcm"
        path.write_bytes(dicom(np.zeros((4, 6)), **attributes))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return read_allowed(path)

    return read


def test_acquisition(dicom) -> None:
    wide = {**RADIOGRAPH, "WindowCenter": 2048}
    image = read_dicom(dicom([[0, 1]], **wide))
    assert image.acquisition == Acquisition(
        "DX", "PA", "L", 58.0, "F", "FUJIFILM Corporation", (0.2, 0.2), "ImagerPixelSpacing"
    )
    assert image.notes == ()


def test_the_row_of_a_table(tell: Tell) -> None:
    others = {"photometric": "MONOCHROME2", "rows": "4", "columns": "6", "bits_allocated": "16"}
    others |= {"signed": "0", "transfer_syntax": "Explicit VR Little Endian"}
    assert tell(**RADIOGRAPH) == {column: cell for _, _, column, cell in TOLD} | others


def test_what_is_absent_is_blank_or_nan(tell: Tell, dicom) -> None:
    row = tell()
    assert tuple(row) == COLUMNS
    assert row["view"] == row["age"] == row["window_center"] == ""
    told = read_dicom(dicom([[0, 1]], PatientAge="", ViewPosition="")).acquisition
    assert (told.view, told.laterality, told.sex, told.spacing_tag) == ("", "", "", "")
    assert all(map(math.isnan, (told.age, *told.spacing)))


CODES = ("view", "modality", "sex", "laterality", "voi_function", "photometric")
MAKERS = ["GE MEDICAL SYSTEMS", "Philips Medical Systems, Inc.", "FUJI PHOTO FILM Co., ltd."]
MAKERS += ["Agfa-Gevaert AG", "TOSHIBA_MEC"]


@pytest.mark.parametrize(
    ("column", "text", "told"),
    [
        *((column, name, "") for column in CODES for name in ("DOE JANE", "JANE")),
        *(("age", text, told) for text, told in (("018M", "1.5"), ("nan", ""))),
        ("age", "094Y", "90"),  # 90 and over
        *(("manufacturer", name, "") for name in ("Doe, Jane", "GE Jane", "GE 19570203", "GEGEMS")),
        *(("manufacturer", maker, maker) for maker in MAKERS),
    ],
)
def test_only_what_cannot_name_a_person_passes(tell, column, text, told) -> None:
    assert tell(**{ALLOWED[column][0]: text})[column] == told


def test_damaged_numbers_and_a_private_syntax_are_blank(tmp_path, dicom) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom([[0]], PixelSpacing=[0.5, 0.5]).replace(b"0.5\\0.5", b"JANEDOE"))
    assert read_allowed(path)["pixel_spacing_mm"] == ""
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = UID("1.2.34567.89")
    data.save_as(path, implicit_vr=False, little_endian=True)
    assert read_allowed(path)["transfer_syntax"] == ""
    path.write_bytes(dicom([[0]]).replace(b"\x28\0\x10\0US\2\0\1\0", b"\x28\0\x10\0US\1\0\1"))
    with pytest.raises(InvalidImageError, match=r"a\.dcm: "):
        read_allowed(path)


@pytest.mark.parametrize(
    ("text", "years", "note"),
    [
        ("071Y", 71.0, ""),
        ("018M", 1.5, ""),
        ("010W", 70 / 365.25, ""),
        ("030D", 30 / 365.25, ""),
        ("43", 43.0, "invalid PatientAge: no unit, read as years"),
        ("110Y", 110.0, ""),
        ("111", math.nan, "invalid PatientAge: above 110 years, ignored"),
        ("43Y", math.nan, "invalid PatientAge"),
        ("4 3", math.nan, "invalid PatientAge"),
    ],
)
def test_age(dicom, text: str, years: float, note: str) -> None:
    image = read_dicom(dicom([[0, 1]], BitsAllocated=8, PatientAge=text))
    np.testing.assert_allclose(image.acquisition.age, years)
    assert note in (*image.notes, "")


@pytest.mark.parametrize(
    ("keyword", "spacing", "told"),
    [
        ("PixelSpacing", [0.2, 0.3], (0.2, 0.3)),
        ("NominalScannedPixelSpacing", [0.4, 0.5], (0.4, 0.5)),
        ("PixelSpacing", [0.2], None),
        ("PixelSpacing", [0, 0.2], None),
        ("PixelSpacing", [7, "7x"], None),
    ],
)
def test_spacing_names_its_attribute(dicom, keyword, spacing, told) -> None:
    numbers = [7, 77] if "7x" in spacing else spacing
    data = dicom([[0, 1]], BitsAllocated=8, **{keyword: numbers})
    image = read_dicom(data.replace(b"\\77", b"\\7x") if "7x" in spacing else data)
    if told:
        assert (image.acquisition.spacing, image.acquisition.spacing_tag) == (told, keyword)
        assert ("pixels are not square" in str(image.notes)) == (told[1] > 1.01 * told[0])
    else:
        assert all(map(math.isnan, image.acquisition.spacing))
        assert f"invalid {keyword}" in image.notes


def test_codes_that_break_the_standard_are_dropped(dicom) -> None:
    wrong = {"ViewPosition": "Mr. Doe", "PatientSex": "X", "Laterality": "both sides of"}
    image = read_dicom(dicom([[0, 1]], BitsAllocated=8, **wrong))
    told = image.acquisition
    assert (told.view, told.sex, told.laterality) == ("", "", "")
    assert {f"invalid {keyword}" for keyword in wrong} <= set(image.notes)
    series = read_dicom(dicom([[0, 1]], BitsAllocated=8, Laterality="L"))
    assert series.acquisition.laterality == "L"


def test_overlays_and_burned_in_text_are_noted(dicom) -> None:
    data = dicom([[0, 1]], BitsAllocated=8, BurnedInAnnotation="YES")
    assert "burned-in annotation is not removed" in read_dicom(data).notes
    at = data.index(b"\xe0\x7f\x10\0OB")
    overlay = b"\x02\x60\x10\0US\2\0\1\0"  # the rows of plane 6002
    image = read_dicom(data[:at] + overlay + data[at:])
    assert "overlays are ignored" in image.notes
    np.testing.assert_array_equal(image.pixels, read_dicom(data).pixels)


def test_no_identifying_attribute_gets_out(dicom) -> None:
    names = ("PatientName", "PatientID", "StudyID", "InstitutionName", "OperatorsName")
    secrets = dict.fromkeys((*names, "Manufacturer"), SECRET)
    secrets |= {"PatientBirthDate": "19010203", "StudyInstanceUID": "1.2.98765.4"}
    secrets |= {"ViewPosition": SECRET.lower(), "PatientSex": SECRET, "PatientAge": SECRET[:4]}
    image = read_dicom(dicom([[0, 1]], BitsAllocated=8, **secrets))
    assert {field.name for field in fields(DicomImage)} == {"pixels", "acquisition", "notes"}
    content = pickle.dumps(image)
    for secret in (SECRET, SECRET.lower(), SECRET[:4], "19010203", "98765"):
        assert secret.encode() not in content


def test_tally_is_one_line() -> None:
    assert tally([(), ()]) == ""
    assert tally([("a", "b")] * 1200 + [("b",)]) == "1,201 files: b (1,201), a (1,200)"


PAIRS = {"PhotometricInterpretation": "YBR_FULL_422"}
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
        ({**PAIRS, "SamplesPerPixel": 3, "Columns": 3}, "3 columns are odd"),
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
def test_invalid_layouts(dicom, attributes: dict[str, object], match: str) -> None:
    refused(dicom([[0, 1]], **attributes), match)


def test_truncated_and_foreign_files(dicom) -> None:
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


def test_a_sequence_in_place_of_a_value(dicom) -> None:
    item = Dataset()
    item.Rows = 1
    data = dicom([[0, 1]], WindowCenter=50, WindowWidth=101, VOILUTSequence=[item])
    swapped = data.replace(b"\x28\0\x10\x30SQ", b"\x28\0\x51\x10SQ").replace(
        b"\x28\0\x51\x10DS", b"\x28\0\x10\x30DS"
    )
    refused(swapped, "its (WindowWidth|VOILUTSequence)")


def test_an_empty_value_of_an_unknown_vr_is_absent(dicom) -> None:
    data = dicom([[0, 1]], BitsAllocated=8)
    at = data.index(PIXEL_TAG)
    image = read_dicom(data[:at] + b"\x28\0\x52\x10O\0\0\0" + data[at:])  # RescaleIntercept
    np.testing.assert_array_equal(image.pixels, read_dicom(data).pixels)


def test_a_deflated_bomb_is_stopped(dicom, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (header.MAX_SIDE, header.MAX_PIXELS) == (20_000, 100_000_000)
    assert header.MAX_INFLATED >= 2 * header.MAX_PIXELS
    data = dicom(np.zeros((999, 999)), syntax=DeflatedExplicitVRLittleEndian)
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
