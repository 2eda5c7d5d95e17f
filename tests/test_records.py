"""Rows of a data set as arrays."""

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from xray_lightning.records import Record, patient_ids, target_matrix

RECORDS = [
    Record("a.png", "007", (1.0, 0.0, math.nan)),
    Record("b.png", "7", (0.0, math.nan, 1.0)),
]


def test_targets_keep_what_is_unknown() -> None:
    matrix = target_matrix(RECORDS)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, [[1, 0, np.nan], [0, np.nan, 1]])


def test_patients_stay_text() -> None:
    assert patient_ids(RECORDS).tolist() == ["007", "7"]
    assert patient_ids(iter(RECORDS)).shape == (2,)


def test_defaults_are_unknown() -> None:
    record = RECORDS[0]
    assert (record.path, record.boxes, record.box_frame) == (None, (), None)
    assert (record.sex, record.view) == ("", "")
    assert math.isnan(record.age)
    assert math.isnan(record.follow_up)


def test_records_are_facts() -> None:
    with pytest.raises(FrozenInstanceError, match="age"):
        RECORDS[0].age = 3.0  # type: ignore[misc]
