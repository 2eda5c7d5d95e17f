"""A phantom folder in SIIM's layout, its masks by an independent decoder; the real table."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xray_lightning import Siim, UnknownPatientsWarning
from xray_lightning.data.siim import SIDE
from xray_lightning.data.source import readable_records
from xray_lightning.errors import ConfigError, DataNotFoundError, TableError
from xray_lightning.records import Record

pytestmark = pytest.mark.filterwarnings("ignore::xray_lightning.UnknownPatientsWarning")


def encode(mask: np.ndarray) -> str:
    """Relative run lengths, a pixel at a time."""
    words, last, start = [], 0, None
    for place, inside in enumerate([*mask.T.ravel().tolist(), False]):
        if inside and start is None:
            start = place
        elif not inside and start is not None:
            words += [start - last, place - start]
            last, start = place, None
    return " ".join(map(str, words))


def decode(text: str) -> np.ndarray:
    """The other way: a word at a time, a pixel at a time."""
    mask, place, inside = np.zeros((SIDE, SIDE), bool), 0, False
    for word in map(int, text.split()):
        for pixel in range(place, place + word if inside else place):
            mask[pixel % SIDE, pixel // SIDE] = True
        place, inside = place + word, not inside
    return mask


def outline(*slices: tuple[slice, slice]) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    for place in slices:
        mask[place] = True
    return mask


ONE = outline((slice(100, 300), slice(50, 90)), (slice(250, 400), slice(80, 83)))
TWO = outline((slice(900, SIDE), slice(700, 701)), (slice(0, 7), slice(701, 702)))  # goes on
ROWS = ("1.2.3.4,-1", f"1.2.3.5,{encode(ONE)}", "1.2.3.6,-1", f"1.2.3.5, {encode(TWO)}")


def siim(root: Path, *rows: str, column: str = " EncodedPixels") -> Path:
    (root / "train-rle.csv").write_text("\n".join([f"ImageId,{column}", *rows]) + "\n")
    return root


def test_masks_boxes_and_counts(tmp_path: Path) -> None:
    source = Siim(siim(tmp_path, *ROWS))
    assert [record.image_id for record in source.records] == ["1.2.3.4", "1.2.3.5", "1.2.3.6"]
    assert [record.targets for record in source.records] == [(0.0,), (1.0,), (0.0,)]
    first, second = source.records[1].boxes
    assert (first.x, first.y, first.width, first.height) == (50, 100, 40, 300)
    assert (second.x, second.y, second.width, second.height) == (700, 0, 2, SIDE)
    wanted = decode(encode(ONE)) | decode(encode(TWO))
    assert (wanted == (ONE | TWO)).all(), "the two decoders of this test"
    assert (source.mask(source.records[1], "Pneumothorax") == wanted).all()
    assert not source.mask(source.records[0], "Pneumothorax").any()
    table = {"rows": 4, "images": 3, "positive": 1, "several rows": 1}
    assert source.counts == {"table": table}
    assert "table: 12,954 rows expected, 4 here" in source.notes
    assert {record.box_frame for record in source.records} == {(1024, 1024)}


@pytest.mark.parametrize("seed", range(3))
def test_random_outlines(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    mask = np.zeros((SIDE, SIDE), bool)
    for row, column in random.integers(0, SIDE - 60, (9, 2)):
        mask[row : row + 60, column : column + 3] = random.random((60, 3)) < 0.7
    source = Siim(siim(tmp_path, f"a,{encode(mask)}"))
    assert (source.mask(source.records[0], "Pneumothorax") == mask).all()


def test_tables_and_masks_need_no_torch(tmp_path: Path) -> None:
    code = (
        f"import sys, warnings; warnings.simplefilter('ignore'); from xray_lightning import Siim;"
        f"s = Siim({str(siim(tmp_path, *ROWS))!r}); print(s.mask(s.records[1], s.labels[0]).sum(),"
        f" 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str((ONE | TWO).sum()), "False"]


def test_films_patients_and_studies(tmp_path, write_dicom, monkeypatch) -> None:
    films = siim(tmp_path, *ROWS) / "dicom-images-train"
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)
    write_dicom(films / "1.9/1.8/1.2.3.5.dcm", pixels, PatientSex="F", ViewPosition="AP")
    write_dicom(films / "1.9/1.8/1.2.3.7.dcm", pixels)
    write_dicom(tmp_path / "1.2.3.6.dcm", pixels)
    monkeypatch.chdir(tmp_path)  # a flat file has two folders above it
    with pytest.warns(UnknownPatientsWarning, match="SIIM's table names images alone"):
        source = Siim(".", allow_missing=True)
    told = [(r.study_id, r.sex, r.view) for r in readable_records(source)]
    assert told == [("1.9", "F", "AP"), ("", "", "")]
    assert (source.read(source.records[1]) == pixels).all()
    assert (source.population, source.official, source.missing) == ("", None, ("1.2.3.4",))
    assert "Image files on disk that are not in the label table: 1" in source.notes
    for record, label in ((Record("x", "x", (0.0,)), "Pneumothorax"), (source.records[0], "Mass")):
        with pytest.raises(ConfigError, match="is not of"):
            source.mask(record, label)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1.2.3.4,1 2", "row 6: '1.2.3.4' is blank, or its row contradicts"),
        ("1.2.3.5,-1", "'1.2.3.5' is blank, or its row contradicts"),
        ("1.2.3.6,-1", "'1.2.3.6' is blank, or its row contradicts or repeats"),
        (f"1.2.3.5,{encode(ONE)}", "'1.2.3.5' is blank, or its row contradicts or repeats"),
        (",-1", "'' is blank"),
        ("a,", "'EncodedPixels' is '', not -1, or pairs of start and length"),
        ("a,1 2 3", "'EncodedPixels' is '1 2 3', not -1"),
        ("a,1 0", "is '1 0', not"),
        ("a,-2 3", "is '-2 3', not"),
        ("a,1 x", "is '1 x', not"),
        (f"a,5 {SIDE * SIDE}", "is '5 1048576', not"),
    ],
)
def test_rows_that_cannot_be(row: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TableError, match=message):
        Siim(siim(tmp_path, *ROWS, row))


def test_tables_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        DataNotFoundError, match=r"train-rle\.csv \(nor \.gz\)\. A SIIM folder holds"
    ):
        Siim(tmp_path)
    with pytest.raises(TableError, match="lacks 1 column: 'EncodedPixels'"):
        Siim(siim(tmp_path, *ROWS, column="Pixels"))


def test_figures_of_the_real_table(tables: Path) -> None:
    source = Siim(tables / "siim")
    assert not [note for note in source.notes if "expected" in note]
    boxes = [len(record.boxes) for record in source.records]
    assert (np.count_nonzero(boxes), sum(boxes)) == (2_669, 3_576)
    rows = pd.read_csv(tables / "siim/train-rle.csv").groupby("ImageId", sort=False)
    for record, (_, texts) in zip(source.records[:550], rows[" EncodedPixels"], strict=False):
        wanted = np.any([decode(text if text != " -1" else "") for text in texts], axis=0)
        assert (source.mask(record, "Pneumothorax") == wanted).all()
