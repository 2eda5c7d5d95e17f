"""Google's labels of NIH images in both layouts, and the counts of the real table."""

import gzip
import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from toy import present

from xray_lightning.data.nih_expert import GOOGLE, RSNA, TEXT_MINER, NihExperts, Truth
from xray_lightning.errors import ConfigError, DataNotFoundError, TableError
from xray_lightning.records import CHEST_XRAY14

NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
HEADER = f"{NIH},Fracture,Pneumothorax,Airspace opacity,Nodule or mass"
ROWS = (
    "00000013_008.png,Pneumothorax|Mass,8,13,60,M,AP,3056,2544,0.139,0.139,NO,NO,YES,YES",
    "00000013_026.png,No Finding,26,13,155,M,AP,2500,2048,0.168,0.168,NO,YES,NO,NO",
    "00000032_002.png,Nodule|Edema,2,32,55,F,PA,2500,2048,0.168,0.168,YES,NO,,NO",
)
SETS = ("test", "test", "val")


def write_one(root: Path, *rows: str) -> Path:
    """Both subsets in one compressed table, as others packed it."""
    lines = rows or [f"{row},{subset}" for row, subset in zip(ROWS, SETS, strict=True)]
    text = "\n".join([f"{HEADER},Set Id", *lines])
    (root / "google2019_nih-chest-xray-labels.csv.gz").write_bytes(gzip.compress(text.encode()))
    return root


def write_own(root: Path, joint: str) -> Path:
    """Google's two files, in their folder or flat."""
    for name, rows in (("test_labels", ROWS[:2]), ("validation_labels", ROWS[2:])):
        path = root / f"four_findings_expert_labels{joint}{name}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([HEADER, *rows]))
    return root


@pytest.mark.parametrize(
    "write", [write_one, lambda p: write_own(p, "/"), lambda p: write_own(p, "_")]
)
def test_layouts(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    (write(tmp_path) / "images_001" / "images").mkdir(parents=True)
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    cv2.imwrite(str(tmp_path / "images_001" / "images" / "00000013_008.png"), image)
    source = NihExperts(tmp_path)
    records = {record.image_id: record for record in source.records}
    first, second, third = (records[row.split(",")[0]] for row in ROWS)
    assert source.labels == ("Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass")
    assert first.targets == (0, 0, 1, 1)
    assert math.isnan(third.targets[2])  # it was not put to the radiologists
    assert (first.patient_id, first.view, first.age, first.follow_up) == ("13", "AP", 60, 8)
    assert math.isnan(second.age)
    assert (source.read(first) == image).all()
    assert source.official == {
        "train_val": {"00000032_002.png"},
        "test": {"00000013_008.png", "00000013_026.png"},
    }
    assert source.population == "nih"
    assert source.title == "nih_expert (truth: experts)"
    assert source.counts["Nodule or mass"] == {TEXT_MINER: 2, GOOGLE: 1, "both": 1}
    assert source.counts["Pneumothorax"] == {TEXT_MINER: 1, GOOGLE: 1, "both": 0}
    assert "table: 4,376 images expected, 3 here" in source.notes


def test_text_mined_labels_of_the_same_images(tmp_path: Path) -> None:
    source = NihExperts(write_one(tmp_path), truth="text")
    assert source.labels == CHEST_XRAY14
    assert [*present(source).values()] == [{"Pneumothorax", "Mass"}, set(), {"Nodule", "Edema"}]


def test_a_union_is_unknown_where_one_part_is() -> None:
    nan = math.nan
    targets = {"a": (1.0, nan), "b": (0.0, nan), "c": (0.0, 0.0)}
    truth = Truth("somebody", ("Nodule", "Mass"), targets)
    told = [truth.tell("Nodule or mass", image) for image in "abcd"]
    np.testing.assert_array_equal(told, [1, nan, 0, nan])
    assert math.isnan(truth.tell("Fracture", "a"))


def test_rsna_is_a_third_truth(tmp_path: Path) -> None:
    rsna = tmp_path / "rsna"
    rsna.mkdir()
    (rsna / "stage_2_train_labels.csv").write_text(
        "patientId,x,y,width,height,Target\nr1,1,2,3,4,1\nr2,,,,,0\nr3,,,,,0\n"
    )
    names = {"r1": "00000013_026.png", "r2": "00000032_002.png", "r3": "00000099_000.png"}
    lines = [f"{image},{nih}" for image, nih in names.items()]
    (tmp_path / "map.csv").write_text("\n".join(["patientId,Image Index", *lines]))
    source = NihExperts(write_one(tmp_path), rsna=rsna, nih_map=tmp_path / "map.csv")
    truth = source.truths[2]
    assert (truth.name, truth.labels) == (RSNA, ("Pneumonia",))
    assert truth.targets == {"00000013_026.png": (1,), "00000032_002.png": (0,)}


@pytest.mark.parametrize(
    ("row", "place"),
    [(f"{ROWS[0]},train", "train"), (f"{ROWS[0].replace('YES', 'HEDGE')},test", "HEDGE")],
)
def test_bad_cells(tmp_path: Path, row: str, place: str) -> None:
    with pytest.raises(TableError, match=f"row 2.*{place}"):
        NihExperts(write_one(tmp_path, row))


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="validation_labels"):
        NihExperts(tmp_path)
    write_own(tmp_path, "/")
    path = tmp_path / "four_findings_expert_labels" / "validation_labels.csv"
    path.write_text("\n".join([HEADER, ROWS[0]]))
    with pytest.raises(TableError, match=r"00000013_008\.png"):
        NihExperts(tmp_path)
    path.unlink()
    with pytest.raises(DataNotFoundError, match="validation_labels"):
        NihExperts(tmp_path)
    with pytest.raises(ConfigError, match="panel"):
        NihExperts(tmp_path, truth="panel")
    with pytest.raises(ConfigError, match="nih_map"):
        NihExperts(tmp_path, rsna=tmp_path)


def test_real_counts(tables: Path) -> None:
    source = NihExperts(tables / "nih_expert")
    assert not any("expected" in note for note in source.notes)
    patients = {
        name: {r.patient_id for r in source.records if r.image_id in ids}
        for name, ids in (source.official or {}).items()
    }
    assert {name: len(ids) for name, ids in patients.items()} == {"train_val": 835, "test": 860}
    assert not patients["train_val"] & patients["test"]


def test_real_third_truth(tables: Path, shared_data: Path) -> None:
    rsna = shared_data / "rsna-metadata"
    source = NihExperts(tables / "nih_expert", rsna=rsna, nih_map=rsna / "rsna_to_nih.csv.gz")
    assert len(source.truths[2].targets) == 1_140
