"""From the full label table of ChestX-ray14 to a split by patient, in seconds."""

from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import pytest

from xray_lightning import ChestXray14, patient_split

pytestmark = pytest.mark.benchmark

TURNS = 5


def test_nih_table_and_split(metadata: Path, remark: Any, ratio: Any) -> None:
    seconds = []
    for _ in range(TURNS):
        start = perf_counter()
        source = ChestXray14(metadata)
        read = perf_counter()
        split = patient_split(source.records, source.official)
        seconds.append((perf_counter() - start, read - start))
        assert sum(map(len, split.subsets.values())) == 112_120
        del source, split
    total, reading = (median(column) for column in zip(*seconds, strict=True))
    first = seconds[0][0]
    remark(f"reading {reading:.2f} s, splitting {total - reading:.2f} s; first time {first:.2f} s")
    ratio("nih_table_and_split_seconds", total, "<=3")
