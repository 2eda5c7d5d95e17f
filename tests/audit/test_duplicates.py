"""What the duplicates of a data set do to a split."""

import numpy as np

from xray_lightning.audit.leakage import Pair, PairCount, count_duplicates
from xray_lightning.records import Record

SCENES = np.random.default_rng(0).integers(0, 256, (7, 128, 128), dtype=np.uint8)


def test_what_a_split_separates() -> None:
    """Eight images: 0 = 4 (train, test; two patients), 1 ~ 5 (val, test; one), 2 = 3 (train)."""
    near = np.clip(SCENES[1].astype(int) + 3, 0, 255).astype(np.uint8)
    squares = np.stack([*SCENES[:3], SCENES[2], SCENES[0], near, SCENES[6], near])
    owners = "abccxbdy"
    records = [Record(f"i{n}", owner, (0.0,)) for n, owner in enumerate(owners)]
    subsets = {"train": np.array([0, 2, 3]), "val": np.array([1]), "test": np.array([4, 5, 6])}
    found = count_duplicates(squares, records, subsets)  # 7, equal to 5, is in no subset
    assert (found.images, found.size, found.blank, found.test_images) == (8, 128, 0, 2)
    assert found.exact == PairCount(3, 2, learned_and_tested=1, leaked_unseen=1)
    assert found.near == PairCount(2, 1, learned_and_tested=1, leaked_unseen=0)
    first, second, *rest = found.closest
    assert first == Pair(("i0", "i4"), ("train", "test"), False, True, 1.0)
    assert (second.images, second.exact, second.same_patient) == (("i1", "i5"), False, True)
    assert {pair.subsets for pair in rest} == {("train", "train"), ("test", ""), ("val", "")}
