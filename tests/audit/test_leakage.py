"""Leaks against sets written out by hand, and against pandas on a random table."""

import numpy as np
import pandas as pd

from xray_lightning.audit.leakage import exposure_leak, leak, listed
from xray_lightning.records import Record

SUBSETS = {"train": np.array([0, 1]), "val": np.array([2]), "test": np.array([3, 4, 5])}


def record(image: str, patient: str) -> Record:
    return Record(image_id=image, patient_id=patient, targets=(0.0,))


def test_by_hand() -> None:
    found = leak([record(f"i{n}", p) for n, p in enumerate("abbacb")], SUBSETS)
    assert found.shared == 2
    assert found.between == {"train and val": 1, "train and test": 2, "val and test": 1}
    assert (found.in_train, found.in_train_or_val, found.test_images) == (2, 2, 3)
    assert found.shares == (2 / 3, 2 / 3)


def test_a_patient_of_val_counts_as_learned() -> None:
    found = leak([record(f"i{n}", p) for n, p in enumerate("abccde")], SUBSETS)
    assert (found.in_train, found.in_train_or_val) == (0, 1)


def test_against_pandas(records: list[Record], subsets: dict[str, np.ndarray]) -> None:
    subset_of = {row: subset for subset, rows in subsets.items() for row in rows.tolist()}
    table = pd.DataFrame(
        {"patient": r.patient_id, "part": subset_of[i]} for i, r in enumerate(records)
    )
    homes = table.groupby("patient")["part"].agg(set)
    found = leak(records, subsets)
    assert found.shared == (homes.map(len) > 1).sum()
    assert found.between["train and test"] == homes.map({"train", "test"}.issubset).sum()
    test = table[table["part"] == "test"]["patient"]
    assert found.in_train == test.map(homes).map(lambda home: "train" in home).sum()


def test_exposures() -> None:
    found = exposure_leak(["x", "y", "z", "x", "z", "w"], SUBSETS)
    assert (found.shared, found.in_train, found.in_train_or_val) == (2, 1, 2)


def test_a_known_list_under_either_name() -> None:
    aliases = [(f"i{n}", f"nih{n}") for n in range(6)]
    found = listed("a list", ["i0", "nih3", "i3", "elsewhere"], aliases, SUBSETS)
    assert (found.listed, found.found, found.absent) == (4, 2, 1)
    assert found.first_absent == "elsewhere"
    assert found.parts == {"train": 1, "val": 0, "test": 1}
