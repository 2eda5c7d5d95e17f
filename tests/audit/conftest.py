"""A small table with everything in it: leaks, unknown targets, several images a patient."""

import numpy as np
import pytest

from xray_lightning import PatientBootstrap, Record
from xray_lightning.audit.label_table import LabelTable

LABELS = ("Mass", "Nodule", "Hernia")


@pytest.fixture
def records() -> list[Record]:
    """240 images of 60 patients."""
    rng = np.random.default_rng(0)
    seen = dict.fromkeys(range(60), 0)
    records = []
    for number, owner in enumerate(rng.integers(60, size=240).tolist()):
        targets = (rng.random(3) < (0.2 + 0.5 * (owner % 2), 0.4, 0.3)).astype(float)
        targets[rng.random(3) < 0.1] = np.nan
        about = {"sex": "FM"[owner % 2] if number % 13 else "", "follow_up": float(seen[owner])}
        about["age"] = float("nan") if number % 17 == 0 else float(rng.integers(20, 90))
        about["view"] = "AP" if rng.random() < 0.4 else "PA"
        records.append(Record(f"{number:04d}.png", f"p{owner}", tuple(targets.tolist()), **about))
        seen[owner] += 1
    return [records[row] for row in rng.permutation(240)]


@pytest.fixture
def subsets(records: list[Record]) -> dict[str, np.ndarray]:
    rows = np.split(np.random.default_rng(1).permutation(len(records)), [140, 170])
    return dict(zip(("train", "val", "test"), map(np.sort, rows), strict=True))


@pytest.fixture(scope="session")
def tabled():
    """The table of records and draws of its patients."""

    def make(records, labels=LABELS, draws=40, seed=0):
        table = LabelTable.of(records, labels)
        return table, PatientBootstrap(table.patients, draws, seed)

    return make
