import csv

import pytest

from xray_lightning.evaluation import published
from xray_lightning.evaluation.predictions import Origin, SplitName
from xray_lightning.evaluation.published import published_boxes, read_published
from xray_lightning.records import CHEST_XRAY14
from xray_lightning.report.page import say


def test_rows_are_those_of_the_shared_table(shared_data) -> None:
    with (shared_data.parent / "published.csv").open(encoding="utf-8") as file:
        theirs = {row["work"]: row for row in csv.DictReader(file)}
    ours = read_published()
    assert len(ours) == len(theirs) == 32
    for row in ours:
        assert row.mean == float(theirs[row.work]["mean_auroc"])
        assert row.primary == (theirs[row.work]["source"] == "primary")
        assert row.note == theirs[row.work]["note"]


def test_a_published_mean_is_that_of_its_findings() -> None:
    complete = [row for row in read_published() if len(row.labels) == 14]
    assert len(complete) > 5
    for row in complete:
        assert sum(row.labels.values()) / 14 == pytest.approx(row.mean, abs=0.004), row.work


def beside(split: str, scored: int):
    origin = Origin("nih", 112_120, SplitName(split, "f00d"), "test")
    return published.comparable(origin, CHEST_XRAY14, scored)


def test_splits_are_never_mixed() -> None:
    official = beside("official", 25596)
    own = beside("patient", 9)
    assert {row.split for row in official} == {"official"}
    assert {row.split for row in own} == {"own"}
    assert len(official) + len(own) == len(read_published())
    assert [row.mean for row in official] == sorted((row.mean for row in official), reverse=True)


def test_place() -> None:
    official = beside("official", 25596)
    assert say("place", 0.99, official)[0].startswith(f"0 of {len(official)} published results")
    assert say("place", 0.5, official)[0].startswith(f"{len(official)} of {len(official)} ")
    own = beside("kfold", 22000)
    assert "would mean nothing" in say("place", 0.9, own)[0]
    assert say("place", 0.9, []) == ["no published result was measured on such images"]


def test_rows_on_boxes() -> None:
    rows = {(row.measure, row.method): row for row in published_boxes("nih")}
    found = rows["t_iobb", "CAM"].labels
    eight = (0.728, 0.993, 0.712, 0.789, 0.435, 0.165, 0.75, 0.459)
    names = "Atelectasis Cardiomegaly Effusion Infiltration Mass Nodule Pneumonia Pneumothorax"
    assert found == pytest.approx(dict(zip(names.split(), eight, strict=True)), abs=6e-4)
    assert rows["t_iobb", "CAM"].primary
    assert rows["afp", "CAM"].labels.keys() == found.keys()
    assert rows["pointing_game", "Grad-CAM++"].mean == 0.544
    assert rows["pointing_game", "random map"].mean == 0.228
    assert not rows["pointing_game", "random map"].primary
    assert rows["pointing_game", "random map"].year is None


def test_other_boxes_stand_beside_nothing() -> None:
    assert published_boxes("rsna") == published_boxes("phantom") == []
