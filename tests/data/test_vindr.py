"""Phantom folders in the layouts of PhysioNet and Kaggle; the real table where it is."""

from itertools import product
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
from pydicom.uid import JPEG2000Lossless
from toy import present, write_lines

from xray_lightning import UnknownPatientsWarning, Vindr
from xray_lightning.data.source import readable_records
from xray_lightning.data.vindr import KAGGLE, PHYSIONET
from xray_lightning.errors import ConfigError, DataError, DataNotFoundError, TableError
from xray_lightning.records import Box

pytestmark = pytest.mark.filterwarnings("ignore::xray_lightning.UnknownPatientsWarning")
HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
ROWS = (  # a: two of three, and one alone; b: all three; c: nobody
    "a,Nodule/Mass,8,R9,10.0,20.0,40.0,60.0",
    "b,Cardiomegaly,3,R1,1,2,30,31",
    "a,Nodule/Mass,8,R9,12,20,40,60",
    "a,Nodule/Mass,8,R10,11,21,40,60",
    "a,Pleural effusion,10,R8,0,0,5,6",
    *(f"b,Cardiomegaly,3,{reader},2,2,30,31" for reader in ("R2", "R3")),
    *(f"c,No finding,14,{reader},,,," for reader in ("R8", "R9", "R10")),
)
COLUMNS = [*PHYSIONET.labels, "No finding"]


def kaggle(root: Path, *rows: str, header: str = HEADER) -> Path:
    return write_lines(root / "train.csv", header, *rows).parent


def physionet(root: Path) -> Path:
    """Films t1 (two of three: Edema; one: COPD) and t2 of training, s1 (COPD, Edema) of testing."""
    told = {("t1", "R1"): ["Edema"], ("t1", "R2"): ["Edema", "COPD"]}
    films = product(("t1", "t2"), ("R1", "R2", "R3"))
    rows = [[*f, *(int(c in told.get(f, ["No finding"])) for c in COLUMNS)] for f in films]
    header, folder = "class_name,x_min,y_min,x_max,y_max", root / "annotations"
    boxes = "t1,R1,Edema,1,2,3,4", "t1,R2,Edema,1,2,3,4", "t1,R2,COPD,,,,", "t2,R3,No finding,,,,"
    write_lines(folder / "annotations_train.csv", f"image_id,rad_id,{header}", *boxes)
    boxes = "s1,Edema,5,5,9,8", "s1,COPD,,,,"
    write_lines(folder / "annotations_test.csv", f"image_id,{header}", *boxes)
    train = pd.DataFrame(rows, columns=["image_id", "rad_id", *COLUMNS])
    train.to_csv(folder / "image_labels_train.csv", index=False)
    names = [column.replace("Other diseases", "Other disease") for column in COLUMNS]
    test = pd.DataFrame([["s1", *(int(c in ("COPD", "Edema")) for c in names)]])
    test.to_csv(folder / "image_labels_test.csv", index=False, header=["image_id", *names])
    return root


@pytest.mark.parametrize(
    ("readers", "nodule", "effusion"),
    [("any", 1, 1), ("majority", 1, 0), ("all", 0, 0), ("share", 2 / 3, 1 / 3)],
)
def test_readers(readers: str, nodule: float, effusion: float, tmp_path: Path) -> None:
    source = Vindr(kaggle(tmp_path, *ROWS), readers=readers)
    assert (source.labels, source.title) == (KAGGLE.labels, f"vindr (readers: {readers})")
    a, _, c = source.records
    assert (a.image_id, a.patient_id, a.view) == ("a", "a", "PA")
    told = dict(zip(source.labels, a.targets, strict=True))
    assert (told["Nodule/Mass"], told["Pleural effusion"]) == pytest.approx((nodule, effusion))
    assert sum(a.targets) == pytest.approx(nodule + effusion)
    assert present(source)["b"] == {"Cardiomegaly"}
    assert (any(c.targets), c.boxes) == (False, ())
    assert a.boxes[0] == Box("Nodule/Mass", 10, 20, 30, 40, "R9")
    assert [box.reader for box in a.boxes] == ["R9", "R9", "R10", "R8"]
    assert source.counts["table"] == {"rows": 10, "images": 3, "readers": 6, "three No finding": 1}
    assert [source.counts[name]["Nodule/Mass"] for name in ("any", "majority", "all")] == [1, 1, 0]
    single = {"majority": "1 finding with boxes on", "all": "2 findings with boxes on"}
    assert [n for n in source.notes if "with boxes on an image whose target is 0" in n] == [
        note for note in source.notes if note.startswith(single.get(readers, "-"))
    ]
    assert "table: 67,914 rows expected, 10 here" in source.notes


def test_patients_are_unknown_and_odd_readings_are_counted(tmp_path: Path) -> None:
    with pytest.warns(UnknownPatientsWarning, match="no table of VinDr-CXR names them"):
        source = Vindr(kaggle(tmp_path, *ROWS))
    assert any("both sides of a random split" in note for note in source.notes)
    assert (source.population, source.official) == ("", None)
    notes = Vindr(kaggle(tmp_path, *ROWS[:-1], "c,ILD,5,R9,1,1,2,2")).notes
    assert "1 image with other than three readers" in notes
    assert "1 reading with 'No finding' beside a finding, which counts" in notes


def test_physionet(tmp_path: Path) -> None:
    source = Vindr(physionet(tmp_path))
    assert source.labels == PHYSIONET.labels
    assert present(source) == {"t1": {"Edema"}, "t2": set(), "s1": {"Edema", "COPD"}}
    edema = Box("Edema", 1, 2, 2, 2, "R1"), Box("Edema", 1, 2, 2, 2, "R2")
    assert [record.boxes for record in source.records] == [edema, (), (Box("Edema", 5, 5, 4, 3),)]
    assert source.official == {"train_val": {"t1", "t2"}, "test": {"s1"}}
    assert source.counts["table"] == {"rows": 6, "images": 2, "readers": 3, "three No finding": 1}
    assert "table: 45,000 rows expected, 6 here" in source.notes
    (tmp_path / "annotations/image_labels_test.csv").unlink()
    alone = Vindr(tmp_path)
    assert (len(alone), alone.official) == (2, None)


def test_films(tmp_path: Path, write_dicom) -> None:
    """MONOCHROME1 is inverted, JPEG 2000 decoded; Kaggle's test films have no labels."""
    root = kaggle(tmp_path, *ROWS)
    pixels = np.arange(48 * 32, dtype=np.uint16).reshape(48, 32)
    write_dicom(root / "train/a.dicom", pixels, PhotometricInterpretation="MONOCHROME1")
    octets = pixels.astype(np.uint8)
    frames = [imagecodecs.jpeg2k_encode(octets, codecformat="J2K", reversible=True)]
    write_dicom(root / "train/b.dicom", octets, syntax=JPEG2000Lossless, frames=frames)
    write_dicom(root / "test/unlabelled.dicom", pixels)
    write_dicom(root / "train/stray.dicom", pixels)
    source = Vindr(root, allow_missing=True)
    a, b = readable_records(source)
    assert source.read(a)[0, 0] == 255
    assert (source.read(b) == pixels.astype(np.uint8)).all()
    assert "Image files on disk that are not in the label table: 1" in source.notes
    write_dicom(root / "a.dcm", pixels)
    with pytest.raises(DataError, match=r"a\.dcm and .*a\.dicom are one image"):
        Vindr(root)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,Cough,3,R9,1,2,3,4", "'Cough' of 'a': not one of Aortic enlargement"),
        (",Cardiomegaly,3,R9,1,2,3,4", "'Cardiomegaly' of ''"),
        ("a,Cardiomegaly,3,R9,,,,", r"row 12: 'Cardiomegaly' with .* \(nan, nan, nan, nan\)"),
        ("a,Cardiomegaly,3,R9,5,2,5,4", r"'Cardiomegaly' with .* \(5.0, 2.0, 5.0, 4.0\)"),
        ("a,Cardiomegaly,3,R9,-1,2,5,4", r"\(-1.0, 2.0, 5.0, 4.0\)"),
        ("c,No finding,14,R9,1,2,5,4", "'No finding' with .*a finding has a box"),
        ("b,Cardiomegaly,3,R1,1,2,30,31", "no box stands twice"),
        ("a,Cardiomegaly,3,R9,x,2,3,4", "'x_min' is 'x', not a number"),
    ],
)
def test_rows_that_cannot_be(row: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TableError, match=message):
        Vindr(kaggle(tmp_path, *ROWS, row))


def test_tables_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="any, majority, all, share, got 'two'"):
        Vindr(tmp_path, readers="two")
    with pytest.raises(DataNotFoundError, match=r"_labels_train\.csv \(nor \.gz, train\.csv\)"):
        Vindr(tmp_path)
    with pytest.raises(TableError, match="lacks 1 column: 'rad_id'"):
        Vindr(kaggle(tmp_path, "a,ILD,5,1,1,2,2", header=HEADER.replace("rad_id,", "")))
    folder = physionet(tmp_path) / "annotations"
    labels = (folder / "image_labels_train.csv").read_text().splitlines()
    boxes = folder / "annotations_train.csv"
    boxes.write_text(boxes.read_text() + "s1,R1,Edema,1,2,3,4\n")
    with pytest.raises(TableError, match=r"'Edema' of 's1'.* not in the label table"):
        Vindr(tmp_path)
    boxes.unlink()
    with pytest.raises(DataNotFoundError, match=r"annotations_train\.csv"):
        Vindr(tmp_path)
    for change, message in (("2", "'No finding' is '2', not 0 or 1"), ("", "'' by 'R3' is blank")):
        last = f"{labels[-1][:-1]}{change}" if change else labels[-1].replace("t2", "")
        (folder / "image_labels_train.csv").write_text("\n".join([*labels[:-1], last]))
        with pytest.raises(TableError, match=message):
            Vindr(tmp_path)
    (folder / "image_labels_train.csv").write_text("\n".join([*labels, labels[-1]]))
    with pytest.raises(TableError, match="'t2' by 'R3' is blank or stands twice"):
        Vindr(tmp_path)


def test_figures_of_the_real_table(tables: Path) -> None:
    """Kaggle's; the counts are pandas', of distinct readers by image and class."""
    source = Vindr(tables / "vindr")
    frame = pd.read_csv(tables / "vindr/train.csv")
    readers = frame.groupby(["class_name", "image_id"]).rad_id.nunique()
    for least, name in ((1, "any"), (2, "majority"), (3, "all")):
        images = (readers >= least).groupby("class_name").sum().drop("No finding")
        assert source.counts[name] == images.to_dict()
