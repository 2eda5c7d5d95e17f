import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID

from xray_lightning.data.headers import COLUMNS, read_headers

PIXELS = np.zeros((4, 6), np.uint16)
Write = Callable[..., Path]


def test_what_may_pass(tmp_path: Path, write_dicom: Write) -> None:
    path = write_dicom(
        tmp_path / "a.dcm",
        PIXELS,
        Modality="DX",
        ViewPosition="PA",
        ImageLaterality="L",
        Laterality="R",
        PatientAge="058Y",
        PatientSex="F",
        PixelSpacing=[0.139, 0.14],
        ImagerPixelSpacing=["0.2", "0.2"],
        Manufacturer="FUJIFILM Corporation",
        WindowCenter=[2048, 1000],
        WindowWidth="4096",
        VOILUTFunction="SIGMOID",
        BitsStored=12,
        HighBit=11,
    )
    assert read_headers(path) == {
        "modality": "DX",
        "view": "PA",
        "laterality": "L",
        "series_laterality": "R",
        "age": "58",
        "sex": "F",
        "pixel_spacing_mm": "0.139 0.14",
        "imager_pixel_spacing_mm": "0.2 0.2",
        "manufacturer": "FUJIFILM Corporation",
        "photometric": "MONOCHROME2",
        "window_center": "2048.0 1000.0",
        "window_width": "4096",
        "voi_function": "SIGMOID",
        "rows": "4",
        "columns": "6",
        "bits_allocated": "16",
        "bits_stored": "12",
        "signed": "0",
        "transfer_syntax": "Explicit VR Little Endian",
    }


def test_what_is_absent_is_blank(tmp_path: Path, write_dicom: Write) -> None:
    facts = read_headers(write_dicom(tmp_path / "a.dcm", PIXELS))
    assert tuple(facts) == COLUMNS
    assert facts["view"] == facts["age"] == facts["window_center"] == ""


@pytest.mark.parametrize(
    ("keyword", "column", "value", "told"),
    [
        ("ViewPosition", "view", "DOE JANE", ""),
        ("PatientSex", "sex", "JANE", ""),
        ("ImageLaterality", "laterality", "DOE", ""),
        ("Modality", "modality", "JANE DOE", ""),
        ("PhotometricInterpretation", "photometric", "JANE", ""),
        ("VOILUTFunction", "voi_function", "JANE", ""),
        ("PatientAge", "age", "55", "55"),  # as RSNA writes it
        ("PatientAge", "age", "018M", "1.5"),
        ("PatientAge", "age", "094Y", "90"),  # 90 and over
        ("PatientAge", "age", "150Y", ""),
        ("PatientAge", "age", "JANE", ""),
        ("Manufacturer", "manufacturer", "Doe, Jane", ""),
        ("Manufacturer", "manufacturer", "GE Jane", ""),
        ("Manufacturer", "manufacturer", "GE 19570203", ""),
        ("Manufacturer", "manufacturer", "GE MEDICAL SYSTEMS", "GE MEDICAL SYSTEMS"),
        (
            "Manufacturer",
            "manufacturer",
            "Philips Medical Systems, Inc.",
            "Philips Medical Systems, Inc.",
        ),
        ("Manufacturer", "manufacturer", "FUJI PHOTO FILM Co., ltd.", "FUJI PHOTO FILM Co., ltd."),
        ("Manufacturer", "manufacturer", "Agfa-Gevaert AG", "Agfa-Gevaert AG"),
        ("Manufacturer", "manufacturer", "TOSHIBA_MEC", "TOSHIBA_MEC"),
        ("PatientAge", "age", "nan", ""),
    ],
)
@pytest.mark.filterwarnings("ignore:(Invalid value|Value) .*VR:UserWarning")  # on writing it
def test_values_that_could_name_somebody_do_not_pass(
    tmp_path: Path, write_dicom: Write, keyword: str, column: str, value: str, told: str
) -> None:
    path = write_dicom(tmp_path / "a.dcm", PIXELS, **{keyword: value})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_headers(path)[column] == told


def test_numbers_that_are_none(tmp_path: Path, write_dicom: Write) -> None:
    path = write_dicom(tmp_path / "a.dcm", PIXELS, PixelSpacing=[0.5, 0.5])
    path.write_bytes(path.read_bytes().replace(b"0.5\\0.5", b"JANEDOE"))
    assert read_headers(path)["pixel_spacing_mm"] == ""


def test_unknown_transfer_syntax(tmp_path: Path, write_dicom: Write) -> None:
    path = write_dicom(tmp_path / "a.dcm", PIXELS)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = UID("1.2.34567.89")
    data.save_as(path, implicit_vr=False, little_endian=True)
    assert read_headers(path)["transfer_syntax"] == ""
