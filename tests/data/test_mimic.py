"""MIMIC-CXR-JPG and CXR-LT: phantom folders in their layouts."""

import gzip
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from xray_lightning import CsvTable, Mimic
from xray_lightning.data.chexpert import LABELS
from xray_lightning.data.splits import auto_split, official_split
from xray_lightning.errors import ConfigError, DataNotFoundError, TableError

EDEMA, OPACITY = LABELS.index("Edema"), LABELS.index("Lung Opacity")
TABLES = {
    "metadata": (
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,StudyDate,"
        "StudyTime,ViewCodeSequence_CodeMeaning",
        "a,10000032,1,CHEST (PA AND LAT),PA,21800506,213014.531,postero-anterior",
        "b,10000032,1,CHEST (PA AND LAT),LATERAL,21800506,213014.531,lateral",
        "c,10000032,2,CHEST (PORTABLE AP),,21800626,165500.3,antero-posterior",
        "d,10000764,3,CHEST (PORTABLE AP),,,,",
        "e,10000898,4,CHEST (PA AND LAT),,,,",
        "f,10000935,5,,AP,,,",
        "g,10000935,6,,AP,,,",
    ),
    "split": (
        "dicom_id,study_id,subject_id,split",
        *("a,1,10000032,train", "b,1,10000032,train", "c,2,10000032,train"),
        *("d,3,10000764,validate", "e,4,10000898,validate", "f,5,10000935,test"),
        "g,6,10000935,test",
    ),
    "chexpert": (
        "subject_id,study_id," + ",".join(LABELS),
        *(f"x,{study},{',' * EDEMA}{code}{',' * (13 - EDEMA)}" for study, code in
          {1: "1.0", 2: "-1.0", 3: "0.0", 5: "1.0", 6: "1.0"}.items()),
    ),
}  # fmt: skip
EXPERTS = "study_id,Airspace Opacity,Edema\n5,1,-1\n2,0,0\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rows in TABLES.items():
        text = "\n".join(rows) + "\n"
        (tmp_path / f"mimic-cxr-2.0.0-{name}.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "mimic-cxr-2.1.0-test-set-labeled.csv").write_text(EXPERTS)
    image = tmp_path / "files/p10/p10000032/s1/a.jpg"
    image.parent.mkdir(parents=True)
    cv2.imwrite(str(image), np.full((9, 8), 70, np.uint8))
    return tmp_path


def test_records_views_and_studies(folder: Path) -> None:
    source = Mimic(folder, views=None)
    about = {r.image_id: (r.view, r.follow_up, r.targets[EDEMA]) for r in source.records}
    assert about["a"] == ("PA", 0, 1)
    assert about["b"] == ("LL", 0, 1)
    assert about["c"][:2] == ("AP", 1)  # by the view code
    assert about["d"][0] == "AP"  # by the procedure's text
    assert about["e"][0] == ""  # two views are possible
    assert [math.isnan(about[image][2]) for image in "acde"] == [False, True, False, True]
    assert math.isnan(about["d"][1])
    first = source.records[0]
    assert (first.patient_id, first.study_id) == ("10000032", "1")
    assert first.path == folder / "files/p10/p10000032/s1/a.jpg"
    assert (first.targets[OPACITY], len(source.missing)) == (0, 6)
    assert all(map(math.isnan, source.records[4].targets))  # no report: not even absent
    assert source.counts["views"] == {"AP": 4, "PA": 1, "LL": 1, "unknown": 1}
    assert source.counts["present"]["Edema"] == 4
    notes = "\n".join(source.notes)
    for sentence in (
        *("1 image of studies that", "1 view told by the view code"),
        *("1 view told by the procedure's text", "377,110 images expected, 7 here"),
    ):
        assert sentence in notes
    assert [r.image_id for r in Mimic(folder).records] == ["a", "c", "d", "f", "g"]


def test_official_split_and_radiologists(folder: Path) -> None:
    source = Mimic(folder)
    split = official_split(source.records, source.official)
    assert {subset: len(rows) for subset, rows in split.subsets.items()} == {
        "train": 2, "val": 1, "test": 2,
    }  # fmt: skip
    experts = Mimic(folder, test="radiologists", uncertain="ones", blank="unknown")
    assert experts.title == (
        "mimic (labels: chexpert, test: radiologists, uncertain: ones, blank: unknown)"
    )
    assert [r.image_id for r in experts.records] == ["a", "c", "d", "f"]
    assert (experts.records[-1].targets[OPACITY], experts.records[-1].targets[EDEMA]) == (1, 1)
    assert experts.records[1].targets[EDEMA] == 1  # of training: as the report has it
    assert math.isnan(experts.records[-1].targets[0])  # they have no column of it
    assert "LEFT OUT: 1 image of the test part that no radiologist labelled; 1 that" in "\n".join(
        experts.notes
    )


def test_long_tail_labels_are_a_table_of_data_csv(folder: Path) -> None:
    """The line of data/README.md for CXR-LT."""
    rows = ("dicom_id,subject_id,study_id,ViewPosition,fpath,split,Edema,Hernia",
            "a,10000032,1,PA,p10/p10000032/s1/a.jpg,train,1,0",
            "d,10000764,3,AP,p10/p10000764/s3/d.jpg,development,0,1",
            "f,10000935,5,AP,p10/p10000935/s5/f.jpg,test,0,0")  # fmt: skip
    (folder / "labels.csv").write_text("\n".join(rows))
    columns = {"image": "fpath", "patient": "subject_id", "view": "ViewPosition"}
    source = CsvTable(folder / "labels.csv", root=folder / "files", columns=columns)
    assert source.labels == ("Edema", "Hernia")
    split = auto_split(source.records, source.official)
    assert {subset: len(rows) for subset, rows in split.subsets.items()} == {
        "train": 1, "val": 1, "test": 1,
    }  # fmt: skip
    assert source.records[0].path is not None


@pytest.mark.parametrize(
    ("settings", "value"),
    [({"labels": "chexbert"}, "chexbert"), ({"test": "all"}, "all"), ({"views": ["L"]}, "'L'")],
)
def test_wrong_choices(folder: Path, settings: dict[str, Any], value: str) -> None:
    with pytest.raises(ConfigError, match=value):
        Mimic(folder, **settings)


def test_faulty_folders(folder: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"negbio\.csv \(nor \.gz\)"):
        Mimic(folder, labels="negbio")
    split = folder / "mimic-cxr-2.0.0-split.csv"
    split.write_text("dicom_id,split\na,tune\n")
    with pytest.raises(TableError, match="'split' is 'tune'"):
        Mimic(folder)
    split.write_text("dicom_id,split\na,train\na,test\n")
    with pytest.raises(TableError, match="rows 2 and 3"):
        Mimic(folder)
