"""Data sets whose tables name no patients, in phantom folders: ChestX-Det, SIIM and Open-I.

Masks are those of matplotlib's paths and of an independent decoder.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib.path import Path as Border
from toy import present, run_lengths, write_image, write_lines

import xray_lightning as xl
from xray_lightning.data.chestxdet import SIDE
from xray_lightning.data.openi import HEADERS
from xray_lightning.data.source import readable_records

pytestmark = pytest.mark.filterwarnings("ignore::xray_lightning.UnknownPatientsWarning")
SQUARE = [[10, 20], [110, 20], [110, 220], [10, 220]]
OVER = [[100, 200], [300, 200], [300, 400], [100, 400]]  # overlaps it
BEAN = [[500, 500], [560, 510], [600, 600], [570, 650], [555, 600], [520, 590]]


def entry(name: str, *outlines: tuple[str, list[list[int]]]) -> dict[str, object]:
    """An image with the outlines of some findings, each with its box."""
    borders = [border for _, border in outlines]
    boxes = [np.ravel([np.min(x, axis=0), np.max(x, axis=0)]).tolist() for x in borders]
    labels = [label for label, _ in outlines]
    return {"file_name": name, "syms": labels, "boxes": boxes, "polygons": borders}


TRAIN = (
    entry("7.png"),
    entry("8.png", ("Effusion", SQUARE), ("Effusion", OVER), ("Pleural Thickening", BEAN)),
)


def chestxdet(root: Path, *train: object, test: object = (entry("9.png", ("Mass", BEAN)),)) -> Path:
    (root / "ChestX_Det_train.json").write_text(json.dumps(train))
    (root / "ChestX_Det_test.json").write_text(json.dumps(test))
    return root


def test_records_masks_and_counts(tmp_path: Path) -> None:
    source = xl.ChestXDet(chestxdet(tmp_path, *TRAIN))
    healthy, ill, _ = source.records
    assert [record.image_id for record in source.records] == ["7.png", "8.png", "9.png"]
    assert not any(healthy.targets)
    assert present(source)["8.png"] == {"Effusion", "Pleural Thickening"}
    assert ill.boxes[0] == xl.Box("Effusion", 10, 20, 100, 200)
    assert ill.box_frame == (SIDE, SIDE)
    wanted = np.zeros((SIDE, SIDE), bool)
    wanted[20:221, 10:111] = wanted[200:401, 100:301] = True
    assert (source.mask(ill, "Effusion") == wanted).all(), "the overlap is no hole"
    assert not source.mask(ill, "Mass").any()
    assert not source.mask(healthy, "Effusion").any()
    table = {"train": 2, "test": 1, "outlines": 4, "without any": 1}
    assert (source.counts["table"], source.counts["images"]["Effusion"]) == (table, 1)
    assert "table: 3,025 train expected, 2 here" in source.notes
    assert source.official == {"train_val": {"7.png", "8.png"}, "test": {"9.png"}}
    (tmp_path / "ChestX_Det_test.json").unlink()
    assert xl.ChestXDet(tmp_path).official is None


def test_a_polygon_is_filled_as_another_library_does(tmp_path: Path) -> None:
    """Apart from the pixels of the border, which matplotlib counts by halves."""
    source = xl.ChestXDet(chestxdet(tmp_path, *TRAIN))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    pixels = np.stack([columns.ravel(), rows.ravel()], axis=1)
    inside = Border(BEAN).contains_points(pixels).reshape(SIDE, SIDE)
    mask = source.mask(source.records[2], "Mass")
    assert mask[inside].all()
    near = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert not (mask & ~near).any()


@pytest.mark.parametrize("folder", ["train_data", "train", "train_data/train", "."])
def test_films_and_patients(folder: str, tmp_path: Path) -> None:
    write_image(tmp_path / folder / "8.png", np.full((8, 8), 9, np.uint8))
    with pytest.warns(xl.UnknownPatientsWarning, match="renamed NIH's images"):
        source = xl.ChestXDet(chestxdet(tmp_path, *TRAIN), allow_missing=True)
    assert [record.image_id for record in readable_records(source)] == ["8.png"]
    assert (source.read(source.records[1]) == 9).all()
    assert source.population == ""
    for record, label in ((xl.Record("x", "x", (0.0,)), "Mass"), (source.records[0], "Cough")):
        with pytest.raises(xl.ConfigError, match="is not of"):
            source.mask(record, label)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"syms": ["Cough"]}, "entry 3: .* unknown label 'Cough'"),
        ({"syms": []}, "entry 3: file_name, syms, .* are not as published: ValueError"),
        ({"file_name": "8.png"}, "entry 3: '8.png' stands twice"),
        ({"boxes": [[5, 5, 5, 9]]}, r"box \[5, 5, 5, 9\] of Mass has no area"),
        ({"boxes": [[5, 5, 9, SIDE + 1]]}, "of Mass has no area in 1024 x 1024 px"),
        ({"polygons": [BEAN[:2]]}, "polygon of Mass with 2 points"),
        ({"polygons": [[[-1, 2], *BEAN]]}, "polygon of Mass with 7 points, or outside 1024 px"),
        ({"polygons": [[1, 2, 3]]}, "entry 3: .* ValueError"),
        ({"polygons": None}, "entry 3: .* TypeError"),
    ],
)
def test_entries_that_cannot_be(change: dict[str, object], message: str, tmp_path: Path) -> None:
    wrong = entry("10.png", ("Mass", BEAN)) | change
    with pytest.raises(xl.TableError, match=message):
        xl.ChestXDet(chestxdet(tmp_path, *TRAIN, wrong))


def test_tables_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(xl.TableError, match=r"ChestX_Det_test\.json is not a list of entries"):
        xl.ChestXDet(chestxdet(tmp_path, *TRAIN, test={}))
    with pytest.raises(xl.TableError, match=r"entry 1: .* KeyError 'syms'"):
        xl.ChestXDet(chestxdet(tmp_path, {"file_name": "1.png"}))


def decode(text: str) -> np.ndarray:
    """The other way, a pixel at a time."""
    mask, place, inside = np.zeros((SIDE, SIDE), bool), 0, False
    for word in map(int, text.split()):
        for pixel in range(place, place + word if inside else place):
            mask[pixel % SIDE, pixel // SIDE] = True
        place, inside = place + word, not inside
    return mask


ONE, TWO = np.zeros((2, SIDE, SIDE), bool)
ONE[100:300, 50:90] = ONE[250:400, 80:83] = True
TWO[900:, 700] = TWO[:7, 701] = True  # goes on
ROWS = ("1.2.3.4,-1", f"1.2.3.5,{run_lengths(ONE)}", "1.2.3.6,-1", f"1.2.3.5, {run_lengths(TWO)}")


def siim(root: Path, *rows: str, column: str = " EncodedPixels") -> Path:
    return write_lines(root / "train-rle.csv", f"ImageId,{column}", *rows).parent


def test_masks_boxes_and_counts(tmp_path: Path) -> None:
    source = xl.Siim(siim(tmp_path, *ROWS))
    assert [record.image_id for record in source.records] == ["1.2.3.4", "1.2.3.5", "1.2.3.6"]
    assert [record.targets for record in source.records] == [(0.0,), (1.0,), (0.0,)]
    boxes = [("Pneumothorax", 50, 100, 40, 300), ("Pneumothorax", 700, 0, 2, SIDE)]
    assert source.records[1].boxes == tuple(xl.Box(*box) for box in boxes)
    wanted = decode(run_lengths(ONE)) | decode(run_lengths(TWO))
    assert (wanted == (ONE | TWO)).all(), "the two decoders of this test"
    assert (source.mask(source.records[1], "Pneumothorax") == wanted).all()
    assert not source.mask(source.records[0], "Pneumothorax").any()
    assert source.counts == {"table": {"rows": 4, "images": 3, "positive": 1, "several rows": 1}}
    assert "table: 12,954 rows expected, 4 here" in source.notes
    assert {record.box_frame for record in source.records} == {(1024, 1024)}


@pytest.mark.parametrize("seed", range(3))
def test_random_outlines(seed: int, tmp_path: Path) -> None:
    random, mask = np.random.default_rng(seed), np.zeros((SIDE, SIDE), bool)
    for row, column in random.integers(0, SIDE - 60, (9, 2)):
        mask[row : row + 60, column : column + 3] = random.random((60, 3)) < 0.7
    source = xl.Siim(siim(tmp_path, f"a,{run_lengths(mask)}"))
    assert (source.mask(source.records[0], "Pneumothorax") == mask).all()


def test_tables_and_masks_need_no_torch(tmp_path: Path) -> None:
    code = (
        f"import sys, warnings; warnings.simplefilter('ignore'); from xray_lightning import Siim;"
        f"s = Siim({str(siim(tmp_path, *ROWS))!r}); print(s.mask(s.records[1], s.labels[0]).sum(),"
        f" 'torch' in sys.modules)"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert said.split() == [str((ONE | TWO).sum()), "False"]


def test_films_patients_and_studies(tmp_path, write_dicom, monkeypatch) -> None:
    films = siim(tmp_path, *ROWS) / "dicom-images-train"
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)
    write_dicom(films / "1.9/1.8/1.2.3.5.dcm", pixels, PatientSex="F", ViewPosition="AP")
    write_dicom(tmp_path / "1.2.3.6.dcm", pixels)
    monkeypatch.chdir(tmp_path)  # a flat file has two folders above it
    with pytest.warns(xl.UnknownPatientsWarning, match="SIIM's table names images alone"):
        source = xl.Siim(".", allow_missing=True)
    told = [(r.study_id, r.sex, r.view) for r in readable_records(source)]
    assert told == [("1.9", "F", "AP"), ("", "", "")]
    assert (source.read(source.records[1]) == pixels).all()
    assert (source.population, source.official, source.missing) == ("", None, ("1.2.3.4",))
    foreign = xl.Record("x", "x", (0.0,))
    for record, label in ((foreign, "Pneumothorax"), (source.records[0], "Mass")):
        with pytest.raises(xl.ConfigError, match="is not of"):
            source.mask(record, label)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1.2.3.4,1 2", "row 6: '1.2.3.4' is blank, or its row contradicts"),
        ("1.2.3.5,-1", "'1.2.3.5' is blank, or its row contradicts"),
        ("1.2.3.6,-1", "'1.2.3.6' is blank, or its row contradicts or repeats"),
        (f"1.2.3.5,{run_lengths(ONE)}", "'1.2.3.5' is blank, or its row contradicts or repeats"),
        (",-1", "'' is blank"),
        ("a,", "'EncodedPixels' is '', not -1, or pairs of start and length"),
        ("a,1 2 3", "'EncodedPixels' is '1 2 3', not -1"),
        *((f"a,{x}", f"is '{x}', not") for x in ("1 0", "-2 3", "1 x", f"5 {SIDE * SIDE}")),
    ],
)
def test_rows_that_cannot_be(row: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(xl.TableError, match=message):
        xl.Siim(siim(tmp_path, *ROWS, row))
    with pytest.raises(xl.TableError, match="lacks 1 column: 'EncodedPixels'"):
        xl.Siim(siim(tmp_path, *ROWS, column="Pixels"))


def test_figures_of_the_real_table(tables: Path) -> None:
    source = xl.Siim(tables / "siim")
    boxes = [len(record.boxes) for record in source.records]
    assert (np.count_nonzero(boxes), sum(boxes)) == (2_669, 3_576)
    rows = pd.read_csv(tables / "siim/train-rle.csv").groupby("ImageId", sort=False)
    for record, (_, texts) in zip(source.records[:550], rows[" EncodedPixels"], strict=False):
        wanted = np.any([decode(text if text != " -1" else "") for text in texts], axis=0)
        assert (source.mask(record, "Pneumothorax") == wanted).all()


VIEWS = {"CXR1_1": "PA", "CXR1_2": "LARGE LATERAL", "CXR2_1": "AP", "CXR3_1": "", "CXR4_1": "PA"}


def write_report(root: Path, number: int, terms: Sequence[str], images: Sequence[str]) -> None:
    major = "".join(f"<major>{term}</major>" for term in terms)
    parent = '<parentImage id="{}"><caption>PA</caption></parentImage>'
    parents = "".join(map(parent.format, images))
    mesh = f"<MeSH>{major}<automatic>Mass</automatic></MeSH>"
    text = f'<?xml version="1.0"?><eCitation><uId id="CXR{number}"/>{mesh}{parents}</eCitation>'
    write_lines(root / f"ecgen-radiology/{number}.xml", text)


@pytest.fixture
def openi(tmp_path: Path) -> Path:
    two = ["Thickening/pleura/apex", "Hydropneumothorax/right", "Nodule/thorax"]
    one = ["Nodule/lung/base/left", "Subcutaneous Emphysema/neck"]
    write_report(tmp_path, 1, one, ["CXR1_1", "CXR1_2"])
    write_report(tmp_path, 2, two, ["CXR2_1"])
    write_report(tmp_path, 3, ["normal"], ["CXR3_1"])
    write_report(tmp_path, 4, ["No Indexing"], ["CXR4_1"])
    write_report(tmp_path, 10, ["Pneumonia"], [])
    rows = [f"{image},x,{view}" for image, view in VIEWS.items()]
    return write_lines(tmp_path / HEADERS, "imageid,Rows,View Position", *rows).parent


def test_odd_reports(openi: Path) -> None:
    image = np.dstack([np.full((6, 5), 200, np.uint8)] * 3)  # grey stored as RGB
    write_image(openi / "NLMCXR_png" / "CXR1_1.png", image)
    source = xl.OpenI(openi, views=None)
    wanted = {"CXR1_1": "PA", "CXR1_2": "LL", "CXR2_1": "AP", "CXR3_1": ""}
    assert {r.image_id: r.view for r in source.records} == wanted
    assert all(r.image_id.startswith(f"{r.patient_id}_") for r in source.records)
    pleural = {"Pleural_Thickening", "Pneumothorax", "Effusion"}
    assert [*present(source).values()] == [{"Nodule"}, {"Nodule"}, pleural, set()]
    assert source.read(source.records[0]).tolist() == image[:, :, 0].tolist()
    assert "LEFT OUT: 1 image of reports that were not indexed" in source.notes
    assert source.counts["files"]["reports without image"] == 1
    with pytest.warns(xl.UnknownPatientsWarning, match="a report counts as a patient"):
        assert [r.image_id for r in xl.OpenI(openi).records] == ["CXR1_1", "CXR2_1"]


def test_faulty_reports(openi: Path) -> None:
    (openi / HEADERS).rename(openi / "elsewhere.csv")
    with pytest.raises(xl.ConfigError, match="views=null"):
        xl.OpenI(openi)
    assert len(xl.OpenI(openi, views=None).records) == 4
    write_report(openi, 5, ["normal"], ["CXR1_1"])
    with pytest.raises(xl.TableError, match=r"5\.xml: CXR1_1"):
        xl.OpenI(openi, views=None)
    for text, reason in (("<eCitation/>", "uId"), ("<eCitation>", "not XML")):
        (openi / "ecgen-radiology" / "5.xml").write_text(text)
        with pytest.raises(xl.TableError, match=rf"5\.xml.*{reason}"):
            xl.OpenI(openi, views=None)


def test_openi_counts(tables: Path) -> None:
    source = xl.OpenI(tables / "openi")
    assert len(source.records) == 3_893
    assert not source.official
