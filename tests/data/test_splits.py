import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import permutations

import numpy as np
import pytest
from toy import write_lines, write_lists

import xray_lightning as xl
from xray_lightning.data.partition import SUBSETS, FaultySplitError, fingerprint
from xray_lightning.data.splits import balanced_assignment, count_groups
from xray_lightning.records import target_matrix

NAN = float("nan")
FOUR = [xl.Record(f"i{n}", f"p{n}", (0.0,)) for n in range(4)]


def make_records(patients: int, seed: int = 0, labels: int = 3) -> list[xl.Record]:
    """Patients with 1 to 20 images, findings that stay with the patient, one common, one rare."""
    rng = np.random.default_rng(seed)
    records = []
    for patient in range(patients):
        rate = rng.random() * np.array([0.8, 0.3, 0.1, 0.5, 0.2])[:labels]
        for image in range(int(1 / (0.05 + 0.95 * rng.random()))):
            targets = tuple((rng.random(labels) < rate).astype(float).tolist())
            records.append(xl.Record(f"{patient:05d}_{image:03d}.png", f"p{patient}", targets))
    return records


def prevalence(records: Sequence[xl.Record], split: xl.Split) -> dict[str, np.ndarray]:
    targets = target_matrix(records)
    return {name: np.nanmean(targets[rows], axis=0) for name, rows in split.subsets.items()}


def patients_of(records: Sequence[xl.Record], split: xl.Split, subset: str) -> set[str]:
    return {records[i].patient_id for i in split.subsets[subset]}


def ids_of(records: Sequence[xl.Record], split: xl.Split, subset: str) -> frozenset[str]:
    return frozenset(records[i].image_id for i in split.subsets[subset])


def sizes_of(split: xl.Split) -> list[int]:
    """Images of train, val and test."""
    return [len(split.subsets[subset]) for subset in SUBSETS]


def naive_assignment(counts: np.ndarray, fractions, order) -> list[int]:
    """The greedy rule, evaluated as the chi-square itself each time."""
    target = np.outer(fractions, counts.sum(axis=0))
    total, assignment = np.zeros_like(target), [0] * len(counts)
    for group in order:
        trials = total + np.eye(len(fractions))[:, :, None] * counts[group]  # (choice, subset, C)
        assignment[group] = int(((trials - target) ** 2 / target).sum(axis=(1, 2)).argmin())
        total = trials[assignment[group]]
    return assignment


def test_assignment_minimises_chi_square_step_by_step() -> None:
    counts = np.array([[19 - i, (7 * i) % 5 + 1, (3 * i) % 4 + 1] for i in range(19)])
    rng = np.random.default_rng(3)
    order = np.argsort(-counts[:, 0] * (0.5 + np.random.default_rng(3).random(19)))
    fractions = (0.6, 0.15, 0.25)
    found = balanced_assignment(counts, fractions, rng)  # 19 groups: none is dealt by lot
    assert found.tolist() == naive_assignment(counts, fractions, order)


@pytest.mark.parametrize("groups", [3, 4, 5, 12, 30])
@pytest.mark.parametrize("seed", range(5))
def test_no_part_is_empty(groups: int, seed: int) -> None:
    counts = [[9]] + [[1]] * (groups - 1)
    found = balanced_assignment(counts, (0.98, 0.01, 0.01), np.random.default_rng(seed))
    assert set(found.tolist()) == {0, 1, 2}


def test_group_counts() -> None:
    targets = np.array([[1, 0], [0, 0], [NAN, 1], [0, NAN]], dtype=np.float32)
    counts = count_groups(np.array([0, 0, 1, 1]), targets)
    # images, patient, no finding, positives of both labels, known targets of both labels
    assert counts.tolist() == [[2, 1, 1, 1, 0, 2, 2], [2, 1, 0, 0, 1, 1, 1]]


def test_fingerprint_is_sha256_of_sorted_ids() -> None:
    text = json.dumps({"test": ["c"], "train": ["a", "ä"], "val": ["b"]}).replace(" ", "")
    expected = sha256(text.encode()).hexdigest()[:16]
    assert fingerprint({"train": ["ä", "a"], "val": ["b"], "test": ["c"]}) == expected
    assert expected == "1e0bf669f73753d9"  # the same on every platform
    assert fingerprint({"train": ["a"], "val": ["ä", "b"], "test": ["c"]}) != expected


def test_make_split_keeps_sorted_frozen_parts() -> None:
    split = xl.make_split("x", FOUR, {"train": [3, 0], "val": [1], "test": [2]}, settings={"a": 1})
    assert (split.subsets["train"].tolist(), split.settings) == ([0, 3], {"a": 1})
    assert split.subset_fingerprints["val"] == fingerprint({"val": ["i1"]})
    assert list(split.subsets) == list(SUBSETS)
    with pytest.raises(ValueError, match="read-only"):
        split.subsets["train"][0] = 9


@pytest.mark.parametrize(
    ("subsets", "message"),
    [
        ({"train": [0], "test": [1]}, r"the subsets train, val, test, got \['test', 'train'\]"),
        ({"train": [0], "val": [], "test": [1]}, "the val set is empty: give it a larger"),
        ({"train": [0], "val": [1], "test": [4]}, "test set has positions 4 to 4, .* 0 to 3"),
        ({"train": [0, 2], "val": [1], "test": [2]}, r"1 images .* first is i2 \(train and test"),
        ({"train": [0, 0], "val": [1], "test": [2]}, "1 images stand twice .* i0"),
    ],
)
def test_make_split_refuses(subsets: Mapping[str, list[int]], message: str) -> None:
    with pytest.raises(xl.SplitError, match=message):
        xl.make_split("x", FOUR, subsets)


def test_shared_patients_are_refused_but_in_an_image_split_which_says_how_much() -> None:
    records = [xl.Record(f"i{n}", f"p{n % 2}", (0.0,)) for n in range(5)]
    with pytest.raises(xl.SplitError, match=r"2 patients .* the first is p0 \(train and val\)"):
        xl.make_split("x", records, {"train": [0, 1], "val": [2], "test": [3]})
    with pytest.warns(xl.LeakySubsetsWarning, match="2 patients .* of 50.0% of the test images"):
        split = xl.make_split("image", records, {"train": [0], "val": [1], "test": [2, 3]})
    assert split.leaked_patients == 2
    unknown = [replace(record, patient_id=record.image_id) for record in FOUR]
    split = xl.make_split("x", unknown, {"train": [3, 0], "val": [1], "test": [2]})
    assert split.leaked_patients is None, "not 0"


def test_patient_split_balances_labels() -> None:
    records = make_records(3000)
    split = xl.patient_split(records, None, seed=1)
    shares = np.divide(sizes_of(split), len(records))
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.002)
    rates = prevalence(records, split)
    np.testing.assert_allclose(rates["test"], rates["train"], rtol=0.02)
    np.testing.assert_allclose(rates["val"], rates["train"], rtol=0.02)
    assert (split.leaked_patients, split.settings) == (0, {"fractions": [0.7, 0.1, 0.2], "seed": 1})
    records = [xl.Record(f"{n}.png", f"{n // 2}", (float(n % 2),)) for n in range(24)]
    split = xl.patient_split(records, None, fractions=(0.5, 0.25, 0.25))
    assert sizes_of(split) == [12, 6, 6]


def test_unknown_targets_count_as_neither() -> None:
    records = [
        r if hash_of(r.patient_id) % 3 else replace(r, targets=(NAN, *r.targets[1:]))
        for r in make_records(3000)  # a third of the patients lack the label
    ]
    split = xl.patient_split(records, None)
    rates = prevalence(records, split)
    np.testing.assert_allclose(rates["test"], rates["train"], rtol=0.02)
    missing = np.isnan(target_matrix(records)[:, 0])
    shares = [missing[split.subsets[subset]].mean() for subset in ("train", "test")]
    assert shares[1] == pytest.approx(shares[0], rel=0.02)


def hash_of(text: str) -> int:
    return int(sha256(text.encode()).hexdigest(), 16)


@pytest.mark.parametrize("splitter", [xl.patient_split, xl.kfold_split, xl.image_split])
@pytest.mark.filterwarnings("ignore::xray_lightning.data.partition.LeakySubsetsWarning")  # image
def test_the_seed_decides_and_not_the_order_of_the_records(splitter) -> None:
    records = make_records(200)
    shuffled = random.Random(0).sample(records, len(records))
    prints = [splitter(records, None, seed=seed).fingerprint for seed in (0, 1)]
    assert splitter(shuffled, None).fingerprint == prints[0] != prints[1]


def test_patient_split_refuses_too_few() -> None:
    with pytest.raises(xl.SplitError, match=r"2 patients .* cannot fill 3 subsets"):
        xl.patient_split(make_records(2), None)
    with pytest.raises(xl.SplitError, match="no images to split: check the label table"):
        xl.patient_split([], None)
    with pytest.raises(xl.SplitError, match=r"4 patients .* cannot fill 5 subsets"):
        xl.kfold_split(make_records(4), None)


FRACTIONS = [(0.8, 0.2), (0.8, 0.0, 0.2), (0.7, 0.2, 0.2), (1.1, -0.3, 0.2), (0.7, NAN, 0.3), None]
SUM = r"three positive numbers .* sum to 1, got"
SHARES, OPEN = (0, 1, -0.1, NAN, "x"), "above 0 and below 1, got"


@pytest.mark.parametrize(
    ("splitter", "settings", "message"),
    [
        *((xl.patient_split, {"fractions": fractions}, SUM) for fractions in FRACTIONS),
        *((xl.image_split, {"fractions": fractions}, SUM) for fractions in FRACTIONS),
        *((xl.official_split, {"val_fraction": x}, f"{OPEN} {x!r}") for x in SHARES),
        *((xl.kfold_split, {"val_fraction": x}, f"{OPEN} {x!r}") for x in SHARES),
        *((xl.patient_split, {"seed": x}, "split's seed must be an int") for x in (-1, "x", 0.5)),
        (xl.kfold_split, {"folds": 1}, "folds must be an integer of at least 2, got 1"),
        (xl.kfold_split, {"fold": 5}, r"fold must be from 0 to 4 \(folds=5\), got 5"),
        (xl.kfold_split, {"fold": -1}, "got -1"),
        (xl.lists_split, {"train": "x"}, r"needs split\.train=FILE and split\.test=FILE"),
    ],
)
def test_settings_that_cannot_work(splitter, settings: dict[str, object], message: str) -> None:
    with pytest.raises(xl.ConfigError, match=message):
        splitter(make_records(20), None, **settings)


def test_official_split_carves_validation_by_patient() -> None:
    records = make_records(1000)
    test = {r.image_id for r in records if hash_of(r.patient_id) % 4 == 0}
    listed = {r.image_id for r in records} | {"not_on_disk.png"}
    lists = {"train_val": frozenset(listed - test), "test": frozenset(test)}
    split = xl.official_split(records, lists, val_fraction=0.2)
    assert ids_of(records, split, "test") == lists["test"]
    train, val = len(split.subsets["train"]), len(split.subsets["val"])
    assert val / (train + val) == pytest.approx(0.2, abs=0.002)
    rates = prevalence(records, split)
    np.testing.assert_allclose(rates["val"], rates["train"], rtol=0.03)
    again = xl.official_split(records, lists, val_fraction=0.2, seed=1)
    assert again.subset_fingerprints["test"] == split.subset_fingerprints["test"]
    assert again.subset_fingerprints["val"] != split.subset_fingerprints["val"]


@pytest.mark.parametrize("splitter", [xl.official_split, xl.csv_split])
def test_three_lists_of_the_data_set_are_used(splitter) -> None:
    lists = {"train": frozenset({"i0", "i3"}), "val": frozenset({"i1"}), "test": frozenset({"i2"})}
    split = splitter(FOUR, lists)
    assert [split.subsets[subset].tolist() for subset in SUBSETS] == [[0, 3], [1], [2]]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (None, "no official split: put train_val_list.txt and test_list.txt .* split=patient"),
        ({"train_val": {"i0", "i1"}, "test": {"i2"}}, "1 of 4 images are in no list .* is i3"),
        ({"train_val": {"i0", "i1", "i2"}, "test": {"i3", "i1"}}, r"twice .* i1 \(train and test"),
        ({"train_val": {"i0"}, "test": {"i1", "i2", "i3"}}, "cannot fill 2 subsets"),
        ({"train_val": set(), "test": {"i0", "i1", "i2", "i3"}}, "no images to split"),
        ({"train": {"i0", "i1"}, "test": {"i2", "i3"}}, "got .'test', 'train'"),
    ],
)
def test_official_split_refuses(lists, message: str) -> None:
    with pytest.raises(xl.SplitError, match=message):
        xl.official_split(FOUR, lists)


def test_folds_partition_the_data() -> None:
    records = make_records(1000)
    splits = [xl.kfold_split(records, None, folds=5, fold=fold) for fold in range(5)]
    tests = np.concatenate([split.subsets["test"] for split in splits])
    assert sorted(tests.tolist()) == list(range(len(records)))
    for split in splits:
        shares = np.divide(sizes_of(split), len(records))
        np.testing.assert_allclose(shares[1:], [0.1, 0.2], atol=0.002)
        rates = prevalence(records, split)
        np.testing.assert_allclose(rates["test"], rates["train"], rtol=0.05)


def test_image_split_counts_leaked_patients() -> None:
    records = make_records(300)
    with pytest.warns(xl.LeakySubsetsWarning, match="leaky split") as caught:
        split = xl.image_split(records, None)
    assert caught[0].filename == __file__
    homes = [patients_of(records, split, subset) for subset in SUBSETS]
    pairs = [one & two for one, two in permutations(homes, 2)]
    assert split.leaked_patients == len(set().union(*pairs)) > 0
    assert len(split.subsets["test"]) / len(records) == pytest.approx(0.2, abs=0.01)


def test_csv_split_reads_a_table(tmp_path) -> None:
    """Names as lists have them: with folders, of other kinds, of images that are not there."""
    text = "\ufeffimage,split\nx/i0.png,Train\ni1,validation\ni2.jpg,TEST\ni3, valid \ni7,test\n"
    path = write_lines(tmp_path / "split.csv", text, end="")
    split = xl.csv_split(FOUR, None, path=path)
    assert [split.subsets[subset].tolist() for subset in SUBSETS] == [[0], [1, 3], [2]]
    assert split.settings == {"path": str(path)}
    assert "'i7'" in split.notes[0]


@pytest.mark.parametrize("lists", [None, {"train_val": {"i0"}, "test": {"i1"}}])
def test_csv_split_needs_a_table(lists) -> None:
    with pytest.raises(xl.SplitError, match=r"no split column .* image,split in split\.path"):
        xl.csv_split(FOUR, lists)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("image,part\ni0,train\n", xl.TableError, "lacks 1 column: 'split'"),
        ("image,split\ni0,train\ni0,val\n", xl.TableError, "the first is i0 in rows 2 and 3"),
        ("image,split\ni0,holdout\n", xl.TableError, "row 2: 'split' is 'holdout', not train, val"),
        ("image,split\ni0,train\ni1,val\ni2,test\n", xl.SplitError, "1 of 4 .* no list .* i3"),
    ],
)
def test_csv_split_refuses(tmp_path, text: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        xl.csv_split(FOUR, None, path=write_lines(tmp_path / "split.csv", text, end=""))


def test_nih_patient_splits_match_prevalence_and_seeds_really_differ(shared_data) -> None:
    start = time.process_time()
    records = xl.ChestXray14(shared_data / "nih-metadata").records
    splits = [xl.patient_split(records, None, seed=0)]
    assert time.process_time() - start < 15  # of this process; 3 s on an idle machine
    splits += [xl.patient_split(records, None, seed=seed) for seed in range(1, 10)]
    targets = target_matrix(records)
    frequent = targets.sum(axis=0) >= 500
    assert frequent.sum() == 13
    for split in splits:
        assert sum(map(len, split.subsets.values())) == 112_120
        np.testing.assert_allclose(np.divide(sizes_of(split), 112_120), [0.7, 0.1, 0.2], atol=0.005)
        homes = [patients_of(records, split, subset) for subset in SUBSETS]
        assert sum(map(len, homes)) == len(set().union(*homes)) == 30_805
        test, train = (targets[split.subsets[name]].mean(axis=0) for name in ("test", "train"))
        ratio = (test / train)[frequent]
        assert ratio.min() > 0.99
        assert ratio.max() < 1.01
    tests = [patients_of(records, split, "test") for split in splits]
    overlaps = [len(a & b) / len(a) for a, b in permutations(tests, 2)]
    assert 0.15 < min(overlaps) < max(overlaps) < 0.30
    patients, images = np.unique([r.patient_id for r in records], return_counts=True)
    heavy = [test & {*patients[np.argsort(-images)[:100]].tolist()} for test in tests]
    # 90 pairs of about 20 patients: chance gives 20 % within about 5 %
    assert 0.12 < np.mean([len(a & b) / len(a) for a, b in permutations(heavy, 2)]) < 0.28
    assert 0.15 < np.mean([len(test) for test in heavy]) / 100 < 0.25


def test_lists_split(tmp_path) -> None:
    paths = write_lists(tmp_path, train="x/i0.png 1\nx/i3.png 0", val="i1", test="image\ni2\ni9\n")
    split = xl.lists_split(FOUR, None, **paths)
    assert [rows.tolist() for rows in split.subsets.values()] == [[0, 3], [1], [2]]
    assert split.settings == {subset: str(path) for subset, path in paths.items()}
    (note,) = split.notes
    assert note.startswith(f"1 of the 2 names in {paths['test']} mean no image of this data")
    assert "'i9'" in note
    paths = write_lists(tmp_path, train="i0 i3", val="i1", test="i2")
    with pytest.raises(xl.SplitError, match=r"1 of the 1 names in .*train\.txt .* called 'i0'"):
        xl.lists_split(FOUR, None, **paths)


def test_without_a_list_for_validation_it_is_carved_by_patient(tmp_path) -> None:
    records = make_records(40)
    ids = [record.image_id for record in records if int(record.patient_id[1:]) < 30]
    rest = [record.image_id for record in records if record.image_id not in ids]
    paths = write_lists(tmp_path, train="\n".join(ids), test="\n".join(rest))
    split = xl.lists_split(records, None, **paths, val_fraction=0.2)
    official = {"train_val": frozenset(ids), "test": frozenset(rest)}
    same = xl.official_split(records, official, val_fraction=0.2)
    assert (split.fingerprint, split.settings["val_fraction"]) == (same.fingerprint, 0.2)


@pytest.mark.parametrize(
    ("lists", "message", "counts"),
    [
        ({"train": "i0\ni1", "val": "i2", "test": "i3"}, "1 patient has images in", (0, 1)),
        ({"train": "i0\ni1", "val": "i2", "test": "i3\ni0"}, "1 images stand twice", (1, 1)),
        ({"train": "i0", "val": "i2", "test": "i3"}, "1 of 4 images are in no list .* i1", (0, 0)),
    ],
)
def test_a_faulty_split_is_refused_with_what_it_is(tmp_path, lists, message, counts) -> None:
    """Whoever only counts gets it from the error; i1 and i3 are of one patient."""
    records = [xl.Record(f"i{n}", "p1" if n == 3 else f"p{n}", (0.0,)) for n in range(4)]
    with pytest.raises(FaultySplitError, match=message) as caught:
        xl.lists_split(records, None, **write_lists(tmp_path, **lists))
    split = caught.value.split
    everything = np.concatenate(list(split.subsets.values()))
    assert len(everything) - len(set(everything.tolist())) == counts[0]
    assert split.leaked_patients == counts[1] + counts[0]
    assert any("no training may use this split" in note for note in split.notes)


def test_auto_split_takes_the_column_of_the_data_set() -> None:
    records = make_records(30)
    whole = xl.patient_split(records, None, seed=5)
    lists = {subset: ids_of(records, whole, subset) for subset in SUBSETS}
    assert xl.auto_split(records, lists).name == "csv"
    assert xl.auto_split(records, lists).subset_fingerprints == whole.subset_fingerprints
    with pytest.raises(xl.ConfigError, match=r"split\.seed has no effect on .* split=patient"):
        xl.auto_split(records, lists, seed=5)
    with pytest.raises(xl.SplitError, match="no split column of its own with train, val and test"):
        xl.auto_split(records, {"train": lists["train"] | lists["val"], "test": lists["test"]})


@pytest.mark.parametrize("official", [None, {"train_val": frozenset("a"), "test": frozenset("b")}])
def test_auto_split_without_a_column_is_by_patient(official) -> None:
    records = make_records(30)
    assert xl.auto_split(records, official).name == "patient"
    for settings in ({}, {"fractions": (0.5, 0.25, 0.25), "seed": 5}):
        expected = xl.patient_split(records, None, **settings)
        assert xl.auto_split(records, official, **settings).fingerprint == expected.fingerprint
