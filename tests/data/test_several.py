"""Several data sets as one."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import xray_lightning as xl
from xray_lightning.data.source import patient_keys, readable_records


@pytest.fixture
def nih_and_rsna(nih_folder, rsna_folder) -> xl.Several:
    """NIH's patients 1 to 3 and RSNA's 1 to 9, told by the map."""
    rsna = xl.Rsna(rsna_folder.root, nih_map=rsna_folder.nih_map())
    return xl.Several({"nih": xl.ChestXray14(nih_folder.root), "rsna": rsna})


def test_patients_of_one_population_stay_together(nih_and_rsna: xl.Several) -> None:
    records = nih_and_rsna.records
    assert [record.image_id for record in records[:1]] == ["nih/00000001_000.png"]
    assert {record.hospital for record in records} == {"nih", "rsna"}
    hospitals: dict[str, set[str]] = {}
    for record in records:
        hospitals.setdefault(record.patient_id, set()).add(record.hospital)
    both = [patient for patient, where in hospitals.items() if len(where) == 2]
    assert both == ["nih/1", "nih/2", "nih/3"]
    assert "3 patients are in both nih and rsna: no split sets them apart" in nih_and_rsna.notes
    split = xl.patient_split(records, None, fractions=(0.4, 0.3, 0.3))
    assert split.leaked_patients == 0
    assert nih_and_rsna.population == "nih"
    keys = dict(zip(patient_keys("nih", records), records, strict=True))
    assert patient_keys("nih", [replace(records[0], patient_id="1", hospital="")])[0] in keys


def test_labels_unknown_elsewhere(nih_and_rsna: xl.Several) -> None:
    labels = nih_and_rsna.labels
    assert len(labels) == 14
    positive = next(r for r in nih_and_rsna.records if r.image_id == "rsna/id-00")
    told = {label for label, t in zip(labels, positive.targets, strict=True) if not math.isnan(t)}
    assert told == {"Pneumonia"}
    assert {box.label for box in positive.boxes} == {"Pneumonia"}
    assert nih_and_rsna.title == "nih + rsna (negatives: all)"
    assert any(
        note.startswith("rsna: labels it does not tell: Atelectasis") for note in nih_and_rsna.notes
    )
    assert nih_and_rsna.official is None  # RSNA has none here


def test_without_the_map_patients_are_apart(nih_folder, rsna_folder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rsna = xl.Rsna(rsna_folder.root)
    both = xl.Several({"nih": xl.ChestXray14(nih_folder.root), "rsna": rsna}, labels="shared")
    assert both.labels == ("Pneumonia",)
    assert both.population == ""
    assert {r.patient_id for r in both.records if r.hospital == "rsna"} == {
        r.image_id for r in both.records if r.hospital == "rsna"
    }


def test_pixels_masks_and_official_lists_of_each() -> None:
    here, there = xl.Phantom(patients=20, size=32), xl.Phantom(patients=20, size=48, seed=1)
    both = xl.Several({"here": here, "there": there}, labels=["Mass", "Nodule/Mass"])
    first, last = both.records[0], both.records[-1]
    np.testing.assert_array_equal(both.read(first), here.read(here.records[0]))
    np.testing.assert_array_equal(both.read(last), there.read(there.records[-1]))
    boxed = next(r for r in both.records if r.hospital == "there" and r.targets[0] == 1)
    own = next(r for r in there.records if f"there/{r.image_id}" == boxed.image_id)
    np.testing.assert_array_equal(both.mask(boxed, "Mass"), there.mask(own, "Mass"))
    assert both.population == "phantom-0,phantom-1"
    assert set(both.official) == set(here.official)
    split = xl.official_split(both.records, both.official)
    tested = {both.records[i].image_id for i in split.subsets["test"]}
    assert tested == {f"here/{i}" for i in here.official["test"]} | {
        f"there/{i}" for i in there.official["test"]
    }
    assert both.identity()["there.size"] == 48
    assert both.choices == {}


def test_lists_of_two_kinds_and_missing_images(csv_folder: Callable[..., Path]) -> None:
    table = csv_folder("image,patient,split,Mass,Own", *(
        f"{image},{k},{subset},{k % 2},1" for k, (image, subset) in enumerate(
            [("a.png", "train"), ("sub/b.png", "val"), ("c.png", "test")])))  # fmt: skip
    mine, phantom = xl.CsvTable(table), xl.Phantom(patients=20, size=32)
    both = xl.Several({"mine": mine, "phantom": phantom}, labels=["Own", "Mass"])
    assert set(both.official) == {"train_val", "test"}
    assert {"mine/a.png", "mine/sub/b.png"} < both.official["train_val"]
    assert both.missing == ("mine/c.png",)
    with pytest.raises(xl.MissingImagesError, match=r"mine/c\.png"):
        readable_records(both)
    both = xl.Several({"mine": mine, "phantom": phantom}, allow_missing=True)
    assert len(readable_records(both)) == len(phantom) + 2
    assert both.labels[-1] == "Own"


def test_several_of_what() -> None:
    phantom = xl.Phantom(patients=3)
    other = xl.Phantom(patients=3)
    other.labels = tuple(f"other {label}" for label in other.labels)
    with pytest.raises(xl.ConfigError, match=r"data\.sets="):
        xl.Several({})
    with pytest.raises(xl.ConfigError, match="no label is shared"):
        xl.Several({"here": phantom, "there": other}, labels="shared")
    with pytest.raises(xl.ConfigError, match="tells Support Devices"):
        xl.Several({"here": phantom}, labels=["Mass", "Support Devices"])
