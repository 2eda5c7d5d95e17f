"""Overlaps against sets written out by hand, and against pandas on a random table."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from xray_lightning import Phantom, Record, Several, audit_split, patient_split
from xray_lightning.audit.leakage import count_overlap, match_checkpoint, match_list
from xray_lightning.data.source import patient_keys
from xray_lightning.data.summary import summarise_data

SUBSETS = {"train": np.array([0, 1]), "val": np.array([2]), "test": np.array([3, 4, 5])}


def test_by_hand() -> None:
    overlap = count_overlap("abbacb", SUBSETS)
    assert overlap.between == {"train and val": 1, "train and test": 2, "val and test": 1}
    assert (overlap.shared, overlap.in_train, overlap.in_train_or_val) == (2, 2, 2)
    assert overlap.shares == (2 / 3, 2 / 3)
    assert overlap.to_json()["shares"] == [2 / 3, 2 / 3]
    of_val = count_overlap("abccde", SUBSETS)  # val chose the checkpoint
    assert (of_val.in_train, of_val.in_train_or_val, of_val.test_images) == (0, 1, 3)
    unknown = count_overlap(None, SUBSETS)
    assert (
        unknown.shared is unknown.in_train is unknown.shares is unknown.to_json()["shares"] is None
    )


def test_against_pandas(records: list[Record], subsets: dict[str, np.ndarray]) -> None:
    subset_of = {row: subset for subset, rows in subsets.items() for row in rows.tolist()}
    owners = [record.patient_id for record in records]
    table = pd.DataFrame({"patient": owners, "subset": [subset_of[i] for i in range(len(owners))]})
    homes = table.groupby("patient")["subset"].agg(set)
    overlap = count_overlap(owners, subsets)
    assert overlap.shared == (homes.map(len) > 1).sum()
    assert overlap.between["train and test"] == homes.map({"train", "test"}.issubset).sum()
    test = table[table["subset"] == "test"]["patient"]
    assert overlap.in_train == test.map(homes).map(lambda home: "train" in home).sum()


def test_a_known_list_under_either_name() -> None:
    aliases = [(f"i{n}", f"nih{n}") for n in range(6)]
    match = match_list("a list", ["i0", "nih3", "i3", "elsewhere"], aliases, SUBSETS)
    assert (match.listed, match.present, match.absent) == (4, 2, 1)
    assert match.first_absent == "elsewhere"
    assert match.subsets == match.to_json()["parts"] == {"train": 1, "val": 0, "test": 1}


def test_what_a_checkpoint_has_seen(monkeypatch) -> None:
    phantom = Phantom(patients=60)
    split = patient_split(phantom.records, None)
    train = [phantom.records[row] for row in split.subsets["train"]]
    own = {"subsets": dict(split.subset_fingerprints), "population": phantom.population}
    own["patients"] = {"train": patient_keys(phantom.population, train), "val": []}
    loaded = SimpleNamespace(description=SimpleNamespace(split=own))
    monkeypatch.setattr("xray_lightning.checkpoint.load_checkpoint", lambda path: loaded)
    match = match_checkpoint(Path("best.ckpt"), phantom, split)
    assert match.comparable
    assert match.same_training_images
    assert match.seen == {"train": len(train), "val": 0, "test": 0}
    own["population"] = "other people"
    match = match_checkpoint(Path("best.ckpt"), phantom, split)
    assert not match.comparable
    assert match.seen is None


def test_data_sets_that_tell_no_patients_are_not_counted() -> None:
    """Neither where all images are anonymous, nor where only reports are told; they are named."""
    anonymous, reports = Phantom(20), Phantom(20, seed=1)
    anonymous.records = [Record(r.image_id, r.image_id, r.targets) for r in anonymous.records]
    anonymous.population, reports.owner = "", "report"
    whole = Several({"a": Phantom(30), "b": anonymous, "c": reports})
    split = patient_split(whole.records, None)
    audit = audit_split(whole, split, draws=2)
    patients = audit.leakage.patients
    assert patients.untold == {"b": "image", "c": "report"}
    told = [whole.records[row].hospital == "a" for row in split.subsets["test"]]
    assert (patients.test_images, patients.drawn) == (sum(told), "patients, images, reports")
    assert summarise_data(whole, split).patients is None
    assert audit.patients is audit.subsets["test"].patients is None
    assert [name for name, size in audit.hospitals.sizes.items() if size.patients] == ["a"]
    assert "Not counted is b, c: no patients are told" in audit.gist[0]
    assert "images of the patient" in audit.hospitals.shifts["c"].separation.left_out
    for source, owner in ((anonymous, "image"), (reports, "report")):
        alone = audit_split(source, patient_split(source.records, None), draws=2)
        assert alone.leakage.patients.drawn == f"{owner}s"
        assert f"every {owner} counts as its own" in alone.gist[0]
        assert "0 patients" not in " ".join(alone.gist)
