"""Real files: pydicom's own test data against pydicom, and RSNA's against NIH's."""

import csv
import gzip
import warnings
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

from xray_lightning.data.dicom import read_dicom, tally
from xray_lightning.data.dicom.header import read_layout, split_file
from xray_lightning.data.dicom.pixels import read_codes
from xray_lightning.errors import InvalidImageError

# Chest and projection radiographs among them, by name or by folder.
RADIOGRAPHS = {"6154", "6247", "6278"} | {
    f"{name}_{end}.dcm" for name in ("RG1", "RG3") for end in ("J2KI", "J2KR", "UNCI", "UNCR")
}
REFUSALS = {
    "is not a DICOM file": 1,
    "without file meta information": 2,
    "has no pixel data": 60,
    "is in colour": 30,
    "frames. Choose one": 5,
    "only 8 or 16 bits allocated": 8,
    "its pixels end at byte": 1,
    "its codestream is": 1,
    "no valid TransferSyntaxUID": 1,
    "its NumberOfFrames is not a finite number": 1,
}


def pydicom_files() -> list[Path]:
    """The test files on disk: of pydicom itself and of the package pydicom-data."""
    folders = [Path(pydicom.__file__).parent / "data/test_files"]
    if spec := find_spec("data_store"):  # pydicom-data
        folders += [Path(place) for place in spec.submodule_search_locations or []]
    names = (path for folder in folders for path in sorted(folder.rglob("*")))
    return [path for path in names if path.is_file() and path.suffix in ("", ".dcm")]


def test_every_file_is_an_image_or_refused_for_a_known_reason() -> None:
    reasons: Counter[str] = Counter()
    read = set()
    for path in pydicom_files():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # one of them mixes explicit and implicit VR
                image = read_dicom(path)
        except InvalidImageError as error:
            (reason,) = (reason for reason in REFUSALS if reason in str(error))
            reasons[reason] += 1
            continue
        read.add(path.name)
        assert image.pixels.ndim == 2
        assert image.pixels.dtype == np.float32
        assert 0 <= image.pixels.min() <= image.pixels.max() <= 1
    assert all(reasons[reason] >= least for reason, least in REFUSALS.items()), reasons
    assert read >= RADIOGRAPHS & {path.name for path in pydicom_files()}
    assert len(read) >= 50


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_stored_values_and_colours_are_pydicoms() -> None:
    compared: Counter[str] = Counter()
    for path in pydicom_files():
        data = path.read_bytes()
        try:
            elements, pixels = split_file(data)
            layout = read_layout(elements)
            frame = layout.frames - 1
            codes, values = read_codes(elements, pixels, layout, frame)
        except (InvalidImageError, UserWarning):
            continue
        expected = pydicoms(path, frame)
        if expected is None:  # pydicom needs a plug-in that is not installed
            continue
        found = values[codes]
        lossy = elements.syntax.endswith((".4.50", ".4.51", ".4.91"))
        if not layout.photometric.startswith("YBR_F"):  # we give RGB for some, pydicom never
            np.testing.assert_allclose(found, expected, atol=1 if lossy else 0, err_msg=str(path))
        compared[elements.syntax.removeprefix("1.2.840.10008.1.2")] += 1
    assert set(compared) >= {"", ".1", ".2", ".1.99", ".5", ".4.50", ".4.90", ".4.91"}, compared
    assert sum(compared.values()) > 60


def pydicoms(path: Path, frame: int) -> np.ndarray | None:
    try:
        return pydicom.pixels.pixel_array(pydicom.dcmread(path), index=frame, raw=True)
    except (RuntimeError, NotImplementedError, AttributeError):
        return None


def twins(real_data: Callable[[str], Path], folder: str, suffix: str) -> list[tuple[Path, Path]]:
    """(RSNA's DICOM file, NIH's PNG of the same exposure)."""
    table = real_data("rsna-metadata") / "rsna_to_nih.csv.gz"
    images = {path.name: path for path in real_data(folder).rglob(suffix)}
    with gzip.open(table, "rt") as file:
        rows = {row["patientId"]: row["Image Index"] for row in csv.DictReader(file)}
    files = sorted(real_data("rsna-sample").rglob("*.dcm"))
    return [(path, images[rows[path.stem]]) for path in files if rows[path.stem] in images]


def test_rsna_and_nih_agree(real_data: Callable[[str], Path]) -> None:
    """Same pixels but for the JPEG. Measured on all 11 pairs at 1024 px: mean 1.13, most 14."""
    pairs = twins(real_data, "nih-1024", "*.png")
    assert len(pairs) == 11
    for dicom, png in pairs:
        difference = cv2.imread(str(png), cv2.IMREAD_GRAYSCALE) - 255 * read_dicom(dicom).pixels
        assert np.abs(difference).mean() < 1.5
        assert np.abs(difference).max() < 20


def test_rsna_and_nih_agree_at_512(real_data: Callable[[str], Path]) -> None:
    """Measured on all pairs at 512 px, reduced by area: mean 0.5, correlation 0.99993."""
    pairs = twins(real_data, "nih-sample", "*.png")
    assert len(pairs) > 300
    for dicom, png in pairs[::30]:
        theirs = cv2.imread(str(png), cv2.IMREAD_GRAYSCALE)
        ours = cv2.resize(
            read_dicom(dicom).pixels, theirs.shape[::-1], interpolation=cv2.INTER_AREA
        )
        assert np.abs(theirs - 255 * ours).mean() < 1
        assert np.corrcoef(theirs.ravel(), ours.ravel())[0, 1] > 0.9995


def test_rsna_facts_are_nihs_and_their_notes_one_line(real_data: Callable[[str], Path]) -> None:
    table = real_data("nih-metadata") / "Data_Entry_2017_v2020.csv.gz"
    with gzip.open(table, "rt") as file:
        rows = {row[0]: row[4:7] for row in csv.reader(file)}  # age, sex, view
    pairs = twins(real_data, "nih-sample", "*.png")[:25]
    images = [read_dicom(dicom) for dicom, _ in pairs]
    for image, (_, png) in zip(images, pairs, strict=True):
        age, sex, view = rows[png.name]
        assert (image.acquisition.sex, image.acquisition.view) == (sex, view)
        assert abs(image.acquisition.age - float(age)) <= 1  # NIH has corrected ages since
    line = tally(image.notes for image in images)
    assert line.startswith("25 files: ")
    assert "invalid PatientAge: no unit, read as years (25)" in line
    assert "no window: the full range is used (25)" in line


CASES = Path(__file__).parents[3] / "../shared/cases/dicom"


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not there")
def test_the_shared_cases() -> None:
    images = {path.stem: read_dicom(path) for path in sorted(CASES.glob("*.dcm"))}
    for name, like in {
        "j2k_prec16_stored10": "j2k_prec16_stored12",
        "jll_prec12_stored10": "j2k_prec16_stored12",
        "agfa_voi_lut": "voi_lut_12",
    }.items():
        np.testing.assert_array_equal(images[name].pixels, images[like].pixels)
    assert images["agfa_voi_lut"].notes == (
        "VOI LUT of 12-bit entries, not 16: their own range is used",
    )
    header = pydicom.dcmread(CASES / "functional_groups.dcm")
    values = header.pixel_array - 100.0  # the group: slope 1, intercept -100, window 1000 by 500
    expected = np.clip((values - 999.5) / 499 + 0.5, 0, 1)
    np.testing.assert_allclose(images["functional_groups"].pixels, expected, atol=1e-6)
    assert images["functional_groups"].notes == ()
    bare = pydicom.dcmread(CASES / "no_preamble_meta.dcm", force=True)
    expected = np.clip((bare.pixel_array - 999.5) / 499 + 0.5, 0, 1)
    np.testing.assert_allclose(images["no_preamble_meta"].pixels, expected, atol=1e-6)
    assert images["ww_zero"].notes[0] == "invalid WindowWidth: the window is ignored"
