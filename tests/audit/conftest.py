"""A small table with everything in it: leaks, unknown targets, several images a patient."""

import numpy as np
import pytest

from xray_lightning.records import Record


def random_records(count: int = 240, patients: int = 60, seed: int = 0) -> list[Record]:
    rng = np.random.default_rng(seed)
    owners = rng.integers(patients, size=count)
    seen = dict.fromkeys(range(patients), 0)
    records = []
    for number, owner in enumerate(owners.tolist()):
        targets = (rng.random(3) < (0.2 + 0.5 * (owner % 2), 0.4, 0.3)).astype(float)
        targets[rng.random(3) < 0.1] = np.nan
        records.append(
            Record(
                image_id=f"{number:04d}.png",
                patient_id=f"p{owner}",
                targets=tuple(targets.tolist()),
                age=float("nan") if number % 17 == 0 else float(rng.integers(20, 90)),
                sex="FM"[owner % 2] if number % 13 else "",
                view="AP" if rng.random() < 0.4 else "PA",
                follow_up=float(seen[owner]),
            )
        )
        seen[owner] += 1
    return [records[row] for row in rng.permutation(count)]


@pytest.fixture
def records() -> list[Record]:
    return random_records()


@pytest.fixture
def subsets(records: list[Record]) -> dict[str, np.ndarray]:
    order = np.random.default_rng(1).permutation(len(records))
    cuts = np.split(order, [140, 170])
    return {
        subset: np.sort(rows) for subset, rows in zip(("train", "val", "test"), cuts, strict=True)
    }
