"""A phantom folder in ChestX-Det's layout, its masks by matplotlib's paths; the real tables."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.path import Path as Border

from xray_lightning import ChestXDet, UnknownPatientsWarning
from xray_lightning.data.chestxdet import LABELS, SIDE
from xray_lightning.data.source import readable_records
from xray_lightning.data.splits import official_split
from xray_lightning.errors import ConfigError, DataNotFoundError, TableError
from xray_lightning.records import Box, Record

pytestmark = pytest.mark.filterwarnings("ignore::xray_lightning.UnknownPatientsWarning")
SQUARE = [[10, 20], [110, 20], [110, 220], [10, 220]]
OVER = [[100, 200], [300, 200], [300, 400], [100, 400]]  # overlaps it
BEAN = [[500, 500], [560, 510], [600, 600], [570, 650], [555, 600], [520, 590]]


def entry(name: str, *outlines: tuple[str, list[list[int]]]) -> dict[str, Any]:
    """An image with the outlines of some findings, each with its box."""
    boxes = [[*np.min(border, axis=0).tolist(), *np.max(border, axis=0).tolist()]
             for _, border in outlines]  # fmt: skip
    labels = [label for label, _ in outlines]
    borders = [border for _, border in outlines]
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
    source = ChestXDet(chestxdet(tmp_path, *TRAIN))
    healthy, ill, _ = source.records
    assert [record.image_id for record in source.records] == ["7.png", "8.png", "9.png"]
    assert not any(healthy.targets)
    told = dict(zip(LABELS, ill.targets, strict=True))
    assert [label for label, x in told.items() if x] == ["Effusion", "Pleural Thickening"]
    assert ill.boxes[0] == Box("Effusion", 10, 20, 100, 200)
    assert ill.box_frame == (SIDE, SIDE)
    wanted = np.zeros((SIDE, SIDE), bool)
    wanted[20:221, 10:111] = wanted[200:401, 100:301] = True
    assert (source.mask(ill, "Effusion") == wanted).all(), "the overlap is no hole"
    assert not source.mask(ill, "Mass").any()
    assert not source.mask(healthy, "Effusion").any()
    table = {"train": 2, "test": 1, "outlines": 4, "without any": 1}
    assert source.counts["table"] == table
    assert source.counts["images"]["Effusion"] == 1
    assert "table: 3,025 train expected, 2 here" in source.notes
    assert source.official == {"train_val": {"7.png", "8.png"}, "test": {"9.png"}}
    assert official_split(source.records, source.official).subsets["test"].tolist() == [2]
    (tmp_path / "ChestX_Det_test.json").unlink()
    assert ChestXDet(tmp_path).official is None


def test_a_polygon_is_filled_as_another_library_does(tmp_path: Path) -> None:
    """Apart from the pixels of the border, which matplotlib counts by halves."""
    source = ChestXDet(chestxdet(tmp_path, *TRAIN))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    pixels = np.stack([columns.ravel(), rows.ravel()], axis=1)
    inside = Border(BEAN).contains_points(pixels).reshape(SIDE, SIDE)
    mask = source.mask(source.records[2], "Mass")
    assert mask[inside].all()
    near = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert not (mask & ~near).any()


@pytest.mark.parametrize("folder", ["train_data", "train", "train_data/train", "."])
def test_films_and_patients(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name in ("8.png", "stray.png"):
        cv2.imwrite(str(tmp_path / folder / name), np.full((8, 8), 9, np.uint8))
    with pytest.warns(UnknownPatientsWarning, match="renamed NIH's images"):
        source = ChestXDet(chestxdet(tmp_path, *TRAIN), allow_missing=True)
    assert [record.image_id for record in readable_records(source)] == ["8.png"]
    assert (source.read(source.records[1]) == 9).all()
    assert "Image files on disk that are not in the label table: 1" in source.notes
    assert source.population == ""
    for record, label in ((Record("x", "x", (0.0,)), "Mass"), (source.records[0], "Cough")):
        with pytest.raises(ConfigError, match="is not of"):
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
def test_entries_that_cannot_be(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    wrong = entry("10.png", ("Mass", BEAN)) | change
    with pytest.raises(TableError, match=message):
        ChestXDet(chestxdet(tmp_path, *TRAIN, wrong))


def test_tables_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"_train\.json \(nor \.gz\)\. A ChestX-Det folder"):
        ChestXDet(tmp_path)
    with pytest.raises(TableError, match=r"ChestX_Det_test\.json is not a list of entries"):
        ChestXDet(chestxdet(tmp_path, *TRAIN, test={}))
    with pytest.raises(TableError, match=r"entry 1: .* KeyError 'syms'"):
        ChestXDet(chestxdet(tmp_path, {"file_name": "1.png"}))


def test_figures_of_the_real_tables(tables: Path) -> None:
    root = tables / "chestxdet"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    source = ChestXDet(root)
    assert len((source.official or {})["test"]) == 553
    assert not [note for note in source.notes if "expected" in note]
