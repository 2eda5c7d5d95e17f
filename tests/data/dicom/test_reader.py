"""Facts, notes, privacy, threads, silence."""

import logging
import math
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import config
from pydicom.misc import warn_and_log

from xray_lightning.data import files
from xray_lightning.data.dicom import (
    DicomImage,
    Facts,
    is_dicom,
    read_dicom,
    read_dicom8,
    tally,
    to_uint8,
)
from xray_lightning.data.images import decode_image, read_image
from xray_lightning.errors import ConfigError, InvalidImageError

Make = Callable[..., bytes]

FULL = "no window: the full range is used"
SECRET = "ZZSECRET"


def facts(data: bytes) -> Facts:
    return read_dicom(data).facts


def test_facts(dicom: Make) -> None:
    data = dicom(
        [[0, 1]],
        BitsAllocated=8,
        Modality="DX",
        ViewPosition="PA",
        ImageLaterality="U",
        PatientAge="071Y",
        PatientSex="F",
        Manufacturer="ACME Imaging",
        ImagerPixelSpacing=[0.143, 0.144],
        PixelSpacing=[0.1, 0.1],
    )
    image = read_dicom(data)
    assert image.facts == Facts(
        "DX", "PA", "U", 71.0, "F", "ACME Imaging", (0.143, 0.144), "ImagerPixelSpacing"
    )
    assert image.notes == (FULL,)


def test_unknown_is_nan_or_empty(dicom: Make) -> None:
    found = facts(dicom([[0, 1]], BitsAllocated=8, PatientAge="", ViewPosition=""))
    assert (found.view, found.laterality, found.sex, found.spacing_tag) == ("", "", "", "")
    assert math.isnan(found.age)
    assert all(map(math.isnan, found.spacing))


@pytest.mark.parametrize(
    ("text", "years", "note"),
    [
        ("071Y", 71.0, ""),
        ("018M", 1.5, ""),
        ("010W", 70 / 365.25, ""),
        ("030D", 30 / 365.25, ""),
        ("43", 43.0, "invalid PatientAge: no unit, read as years"),
        ("120Y", 120.0, ""),
        ("148", math.nan, "invalid PatientAge: above 120 years, ignored"),
        ("43Y", math.nan, "invalid PatientAge"),
        ("4 3", math.nan, "invalid PatientAge"),
        ("old", math.nan, "invalid PatientAge"),
    ],
)
def test_age(dicom: Make, text: str, years: float, note: str) -> None:
    image = read_dicom(dicom([[0, 1]], BitsAllocated=8, PatientAge=text))
    np.testing.assert_allclose(image.facts.age, years)
    assert note in (*image.notes, "")


def test_spacing_names_its_attribute(dicom: Make) -> None:
    data = dicom([[0, 1]], BitsAllocated=8, PixelSpacing=[0.2, 0.3])
    assert (facts(data).spacing, facts(data).spacing_tag) == ((0.2, 0.3), "PixelSpacing")
    film = dicom([[0, 1]], BitsAllocated=8, NominalScannedPixelSpacing=[0.4, 0.5])
    assert facts(film).spacing_tag == "NominalScannedPixelSpacing"
    wrong = [dicom([[0, 1]], BitsAllocated=8, PixelSpacing=x) for x in ([0.2], [0, 0.2], [7, 77])]
    for data in [*wrong[:2], wrong[2].replace(b"\\77", b"\\7x")]:
        image = read_dicom(data)
        assert all(map(math.isnan, image.facts.spacing))
        assert "invalid PixelSpacing" in image.notes


def test_laterality_of_the_series_where_the_image_has_none(dicom: Make) -> None:
    assert facts(dicom([[0, 1]], BitsAllocated=8, Laterality="L")).laterality == "L"


def test_codes_that_break_the_standard_are_dropped(dicom: Make) -> None:
    wrong = {"ViewPosition": "Mr. Doe", "PatientSex": "X", "Laterality": "both sides of"}
    image = read_dicom(dicom([[0, 1]], BitsAllocated=8, **wrong))
    assert (image.facts.view, image.facts.sex, image.facts.laterality) == ("", "", "")
    assert {f"invalid {keyword}" for keyword in wrong} <= set(image.notes)


def test_overlays_and_burned_in_text_are_noted(dicom: Make) -> None:
    data = dicom([[0, 1]], BitsAllocated=8, BurnedInAnnotation="YES")
    assert "burned-in annotation is not removed" in read_dicom(data).notes
    at = data.index(b"\xe0\x7f\x10\0OB")
    overlay = b"\x02\x60\x10\0US\2\0\1\0"  # the rows of plane 6002
    image = read_dicom(data[:at] + overlay + data[at:])
    assert "overlays are ignored" in image.notes
    np.testing.assert_array_equal(image.pixels, read_dicom(data).pixels)


def test_tally_is_one_line() -> None:
    assert tally([(), ()]) == ""
    many = [("a", "b")] * 1200 + [("b",)]
    assert tally(many) == "1,201 files: b (1,201), a (1,200)"


def test_no_identifying_attribute_gets_out(dicom: Make) -> None:
    names = ("PatientName", "PatientID", "StudyID", "InstitutionName", "OperatorsName")
    secrets = dict.fromkeys(names, SECRET)
    secrets |= {"PatientBirthDate": "19010203", "StudyInstanceUID": "1.2.98765.4"}
    secrets |= {"ViewPosition": SECRET.lower(), "PatientSex": SECRET, "PatientAge": SECRET[:4]}
    data = dicom([[0, 1]], BitsAllocated=8, **secrets)
    image = read_dicom(data)
    assert {field.name for field in fields(DicomImage)} == {"pixels", "facts", "notes"}
    content = pickle.dumps(image)
    for secret in (SECRET, SECRET.lower(), SECRET[:4], "19010203", "98765"):
        assert secret.encode() not in content


@pytest.mark.parametrize(
    "keyword",
    ["PhotometricInterpretation", "VOILUTFunction", "WindowCenter", "NumberOfFrames"],
)
def test_no_message_repeats_a_text_of_the_file(dicom: Make, keyword: str) -> None:
    more: dict[str, Any] = {"WindowCenter": 5, "WindowWidth": 9, "NumberOfFrames": 7777}
    more |= {"PhotometricInterpretation": "PHOTO123", "VOILUTFunction": "FUNC1234"}
    value = {"WindowCenter": b"5 ", "NumberOfFrames": b"7777"}.get(keyword, b"")
    known = {"PhotometricInterpretation": "MONOCHROME2", "VOILUTFunction": "LINEAR"}
    data = dicom([[0, 1]], **{**more, **known, keyword: more[keyword]})
    data = data.replace(value, SECRET.encode()[: len(value)]) if value else data
    with pytest.raises(InvalidImageError) as caught:
        read_dicom(data, frame=0)
    for text in (SECRET[:2], "PHOTO123", "FUNC1234"):
        assert text not in str(caught.value)


def test_files_and_names(dicom: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dicom([[0, 51, 255]], BitsAllocated=8)
    path = tmp_path / "a.dcm"
    path.write_bytes(data)
    np.testing.assert_array_equal(read_dicom(path).pixels, read_dicom(data).pixels)
    with pytest.raises(InvalidImageError, match=r"absent\.dcm: cannot be opened \(No such file"):
        read_dicom(tmp_path / "absent.dcm")
    with pytest.raises(InvalidImageError, match=r"^DICOM data: it is no DICOM file"):
        read_dicom(b"")
    monkeypatch.setattr(files, "MAX_FILE", 100)
    with pytest.raises(InvalidImageError, match=r"a\.dcm: the file is larger than 100 bytes"):
        read_dicom(path)


def test_a_file_without_preamble(dicom: Make, tmp_path: Path) -> None:
    data = dicom([[0, 51, 255]], BitsAllocated=8)
    (tmp_path / "bare").write_bytes(data[132:])
    np.testing.assert_array_equal(read_image(tmp_path / "bare"), [[0, 51, 255]])
    np.testing.assert_array_equal(read_dicom(data[132:]).pixels, read_dicom(data).pixels)
    with pytest.raises(InvalidImageError, match="without file meta information"):
        read_dicom(b"\x08\0\x05\0CS\x0a\0ISO_IR 100" + bytes(100))


def test_arguments_are_checked(dicom: Make) -> None:
    with pytest.raises(ConfigError, match="colour must be None or 'luma', got 'red'"):
        read_dicom(dicom([[0]]), colour="red")
    with pytest.raises(ConfigError, match="window and frame count from 0, got 0 and -1"):
        read_dicom(dicom([[0]]), frame=-1)


def test_to_uint8_rounds_to_the_nearest() -> None:
    values = np.array([0, 0.4, 0.6, 127.5, 254.6, 255]) / 255
    np.testing.assert_array_equal(to_uint8(values.astype(np.float32)), [0, 0, 1, 128, 255, 255])


def test_the_image_reader_reads_dicom(dicom: Make, tmp_path: Path) -> None:
    data = dicom([[0, 1000, 4095]], BitsStored=12, WindowCenter=2048, WindowWidth=4096)
    path = tmp_path / "without_suffix"
    path.write_bytes(data)
    for pixels in (read_image(path), decode_image(data, "x"), read_dicom8(data)):
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, [[0, 62, 255]])
    assert is_dicom(b"", "x.DCM")
    assert is_dicom(data)
    assert not is_dicom(b"\x89PNG", "x.png")


def test_irregular_values_neither_warn_nor_log(
    dicom: Make, caplog: pytest.LogCaptureFixture
) -> None:
    data = dicom([[0, 1]], BitsAllocated=8, PatientAge="43", PatientName="A" * 99, StudyDate="x")
    with caplog.at_level(logging.DEBUG):
        read_dicom(data)
    assert not caplog.records


@pytest.mark.filterwarnings("ignore:Unknown encoding:UserWarning")
def test_what_pydicom_logs_while_we_read_is_dropped(
    dicom: Make, caplog: pytest.LogCaptureFixture
) -> None:
    data = dicom([[0, 1]], BitsAllocated=8, SpecificCharacterSet="ISO_IR 100")
    with caplog.at_level(logging.DEBUG):
        read_dicom(data.replace(b"ISO_IR 100", b"KLINGON 99"))
        assert not caplog.records
        with pytest.warns(UserWarning, match="of others"):
            warn_and_log("of others")
    assert [record.message for record in caplog.records] == ["of others"]


def test_an_empty_value_of_an_unknown_vr_is_absent(dicom: Make) -> None:
    data = dicom([[0, 1]], BitsAllocated=8)
    at = data.index(b"\xe0\x7f\x10\0OB")
    image = read_dicom(data[:at] + b"\x28\0\x52\x10O\0\0\0" + data[at:])  # RescaleIntercept
    np.testing.assert_array_equal(image.pixels, read_dicom(data).pixels)


def test_threads_agree(dicom: Make) -> None:
    generator = np.random.default_rng(0)
    files = [dicom(generator.integers(0, 4096, (40, 30)), BitsStored=12) for _ in range(20)]
    alone = [read_dicom(data).pixels for data in files]
    before = config.settings.reading_validation_mode
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(read_dicom, files * 5))
    for expected, found in zip(alone * 5, together, strict=True):
        np.testing.assert_array_equal(found.pixels, expected)
    assert config.settings.reading_validation_mode == before


def test_a_damaged_sequence_is_refused(dicom: Make) -> None:
    data = dicom([[0, 1]])
    at = data.index(b"\xe0\x7f\x10\0OW")
    sequence = b"\x28\0\x10\x30SQ\0\0\4\0\0\0\xfe\xff\0\xe0"  # half of an item's header
    with pytest.raises(InvalidImageError, match="its VOILUTSequence is damaged"):
        read_dicom(data[:at] + sequence + data[at:])
