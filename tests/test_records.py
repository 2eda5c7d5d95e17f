"""Rows of a data set as arrays, and the words of a table as targets."""

import math

import numpy as np
import pytest

from xray_lightning import Record, TableError, records
from xray_lightning.records import ALIASES, CHEST_XRAY14, NO_FINDING, canonical, encode, patient_ids

RECORDS = [Record("a.png", "007", (1.0, 0.0, math.nan)), Record("b.png", "7", (0.0, math.nan, 1.0))]


def test_unknown_targets_stay_unknown_and_patients_text() -> None:
    matrix = records.target_matrix(RECORDS)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, [[1, 0, np.nan], [0, np.nan, 1]])
    assert patient_ids(iter(RECORDS)).tolist() == ["007", "7"]


def test_defaults_are_unknown() -> None:
    record = RECORDS[0]
    assert (record.path, record.boxes, record.box_frame) == (None, (), None)
    assert (record.sex, record.view) == ("", "")
    assert math.isnan(record.age)
    assert math.isnan(record.follow_up)


def test_fourteen_findings() -> None:
    assert len(set(CHEST_XRAY14)) == len(CHEST_XRAY14) == 14
    assert NO_FINDING not in CHEST_XRAY14
    assert set(ALIASES.values()) <= set(CHEST_XRAY14)
    for position, label in enumerate(CHEST_XRAY14):
        assert [i for i, target in enumerate(encode([label], CHEST_XRAY14)) if target] == [position]
        assert canonical(f" {label} ", CHEST_XRAY14, "here") == label


def test_order_repeats_spaces_and_aliases_do_not_matter() -> None:
    labels = ("Mass", "Nodule", "Edema")
    assert encode([" Edema", "Mass ", "Edema"], labels) == (1.0, 0.0, 1.0)
    assert encode([], labels) == encode([NO_FINDING], labels) == (0.0, 0.0, 0.0)
    aliases = encode(["Infiltrate", "Pleural Thickening"], CHEST_XRAY14)
    assert aliases == encode(["Infiltration", "Pleural_Thickening"], CHEST_XRAY14)


@pytest.mark.parametrize(
    ("words", "labels", "message"),
    [
        (["Infiltrate"], ("Mass",), r"^row 7: unknown label 'Infiltrate'.* Mass"),
        (["Masss"], CHEST_XRAY14, r"^row 7: unknown label 'Masss'.*\(and 'No Finding'\)"),
        ([NO_FINDING, "Mass"], CHEST_XRAY14, r"^row 7: 'No Finding' stands beside \['Mass'\]"),
    ],
)
def test_refused_words(words: list[str], labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(TableError, match=message):
        encode(words, labels, "row 7")
