"""What subsets and hospitals share and how they differ: by hand, pandas, sets and loops."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import xray_lightning as xl
from xray_lightning.audit import leakage, shift
from xray_lightning.audit.leakage import Pair, count_duplicates, count_overlap
from xray_lightning.audit.run import Hospitals, say
from xray_lightning.audit.shift import BOTH, add_train_val, compare_prevalence, separate_by_metadata
from xray_lightning.data.source import patient_keys
from xray_lightning.data.summary import summarise_data

Subsets = dict[str, np.ndarray]
SUBSETS = {"train": np.array([0, 1]), "val": np.array([2]), "test": np.array([3, 4, 5])}


def test_by_hand() -> None:
    overlap = count_overlap("abbacb", SUBSETS)
    assert overlap.between == {"train and val": 1, "train and test": 2, "val and test": 1}
    assert (overlap.shared, overlap.in_train, overlap.in_train_or_val) == (2, 2, 2)
    assert (overlap.shares, overlap.to_json()["shares"]) == ((2 / 3, 2 / 3), [2 / 3, 2 / 3])
    of_val = count_overlap("abccde", SUBSETS)  # val chose the checkpoint
    assert (of_val.in_train, of_val.in_train_or_val, of_val.test_images) == (0, 1, 3)
    unknown = count_overlap(None, SUBSETS)
    assert unknown.shared is unknown.in_train is unknown.to_json()["shares"] is None
    assert unknown.shares is None


def test_against_pandas(records: list[xl.Record], subsets: Subsets) -> None:
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
    match = leakage.match_list("a list", ["i0", "nih3", "i3", "elsewhere"], aliases, SUBSETS)
    assert (match.listed, match.present, match.absent, match.first_absent) == (4, 2, 1, "elsewhere")
    assert match.subsets == match.to_json()["parts"] == {"train": 1, "val": 0, "test": 1}


def test_what_a_checkpoint_has_seen(monkeypatch) -> None:
    phantom = xl.Phantom(patients=60)
    split = xl.patient_split(phantom.records, None)
    train = [phantom.records[row] for row in split.subsets["train"]]
    own = {"subsets": dict(split.subset_fingerprints), "population": phantom.population}
    own["patients"] = {"train": patient_keys(phantom.population, train), "val": []}
    loaded = SimpleNamespace(description=SimpleNamespace(split=own))
    monkeypatch.setattr("xray_lightning.checkpoint.load_checkpoint", lambda path: loaded)
    match = leakage.match_checkpoint(Path("best.ckpt"), phantom, split)
    assert match.comparable is match.same_training_images is True
    assert match.seen == {"train": len(train), "val": 0, "test": 0}
    own["population"] = "other people"
    match = leakage.match_checkpoint(Path("best.ckpt"), phantom, split)
    assert (match.comparable, match.seen) == (False, None)


def test_data_sets_that_tell_no_patients_are_not_counted() -> None:
    """Neither where all images are anonymous, nor where only reports are told; they are named."""
    anonymous, reports = xl.Phantom(20), xl.Phantom(20, seed=1)
    anonymous.records = [xl.Record(r.image_id, r.image_id, r.targets) for r in anonymous.records]
    anonymous.population, reports.owner = "", "report"
    whole = xl.Several({"a": xl.Phantom(30), "b": anonymous, "c": reports})
    split = xl.patient_split(whole.records, None)
    audit = xl.audit_split(whole, split, draws=2)
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
        alone = xl.audit_split(source, xl.patient_split(source.records, None), draws=2)
        assert alone.leakage.patients.drawn == f"{owner}s"
        assert (leakage.name_untold(source), leakage.name_untold(whole)) == ([""], ["b", "c"])
        assert f"every {owner} counts as its own" in alone.gist[0]
        assert "0 patients" not in " ".join(alone.gist)


SCENES = np.random.default_rng(0).integers(0, 256, (7, 128, 128), dtype=np.uint8)


def test_what_a_split_separates() -> None:
    """Eight images: 0 = 4 (train, test; two patients), 1 ~ 5 (val, test; one), 2 = 3 (train)."""
    near = np.clip(SCENES[1].astype(int) + 3, 0, 255).astype(np.uint8)
    squares = np.stack([*SCENES[:3], SCENES[2], SCENES[0], near, SCENES[6], near])
    records = [xl.Record(f"i{n}", owner, (0.0,)) for n, owner in enumerate("abccxbdy")]
    subsets = {"train": np.array([0, 2, 3]), "val": np.array([1]), "test": np.array([4, 5, 6])}
    found = count_duplicates(squares, records, subsets)  # 7, equal to 5, is in no subset
    assert (found.images, found.size, found.blank, found.test_images) == (8, 128, 0, 2)
    assert found.exact == leakage.PairCount(3, 2, learned_and_tested=1, leaked_unseen=1)
    assert found.near == leakage.PairCount(2, 1, learned_and_tested=1, leaked_unseen=0)
    first, second, *rest = found.closest
    assert first == Pair(("i0", "i4"), ("train", "test"), False, True, 1.0)
    assert (second.images, second.exact, second.same_patient) == (("i1", "i5"), False, True)
    assert {pair.subsets for pair in rest} == {("train", "train"), ("test", ""), ("val", "")}
    assert "; 2 test images have such a copy in train or val" in say("duplicates", found)[0]
    alone = count_duplicates(squares[4:7], records, {**subsets, "train": [], "val": []})
    assert say("duplicates", alone)[0].endswith("not an image of train or val was compared.")
    reports = count_duplicates(squares, records, subsets, [""])  # owners may be one person
    assert reports.exact == leakage.PairCount(3, None, learned_and_tested=1, leaked_unseen=None)
    assert {pair.same_patient for pair in reports.closest} == {None}


def frame(records: list[xl.Record], labels: tuple[str, ...]) -> pd.DataFrame:
    table = pd.DataFrame(
        {"patient": r.patient_id, "age": r.age, "sex": r.sex or None, "view": r.view}
        | {"follow_up": r.follow_up, **dict(zip(labels, r.targets, strict=True))}
        for r in records
    )
    table["code"] = table["patient"].astype("category").cat.codes
    return table


def test_prevalence_and_metadata_against_pandas(records, subsets: Subsets, tabled) -> None:
    table, bootstrap = tabled(records)
    frames, groups = frame(records, table.labels), add_train_val(subsets)
    rows = compare_prevalence(table, groups, bootstrap)
    for row in rows:
        for subset, places in groups.items():
            column = frames[row.name].iloc[places]
            assert row.value[subset] == pytest.approx(column.mean())
            assert (row.count[subset], row.known[subset]) == (column.sum(), column.count())
        assert row.ratio == pytest.approx(row.value["test"] / row.value[BOTH])
        assert row.ratio_to_train == pytest.approx(row.value["test"] / row.value["train"])
    smallest = min(row.p_value for row in rows)
    assert min(row.corrected for row in rows) == pytest.approx(min(1, 3 * smallest))
    rows = {row.name: row for row in shift.compare_metadata(table, groups, bootstrap)}
    for subset, places in groups.items():
        here = frames.iloc[places]
        wanted = {
            "age": here["age"].mean(),
            "follow-up number": here["follow_up"].mean(),
            "sex F": (here["sex"].dropna() == "F").mean(),
            "view AP": (here["view"] == "AP").mean(),
            "images per patient": len(here) / here["patient"].nunique(),
        }
        assert {name: rows[name].value[subset] for name in wanted} == pytest.approx(wanted)


def test_intervals_against_a_loop_over_the_same_draws(records, subsets, tabled) -> None:
    table, bootstrap = tabled(records, seed=3)
    frames = frame(records, table.labels)
    row = compare_prevalence(table, add_train_val(subsets), bootstrap)[0]
    ratios = []
    for draw in bootstrap.counts[1:]:
        shares = []
        for places in (subsets["test"], add_train_val(subsets)[BOTH]):
            known = frames.iloc[places].dropna(subset="Mass")
            shares.append(np.average(known["Mass"], weights=draw[known["code"]]))
        ratios.append(shares[0] / shares[1])
    assert row.ratio_interval == pytest.approx(np.quantile(ratios, [0.025, 0.975]))


@pytest.mark.parametrize("films", [1, 3])
def test_a_group_without_a_positive_image_may_be_so_by_chance(films: int) -> None:
    """Of 200 of 1,000 patients, all of alike films: the p value of a score test of shares."""
    patients = np.repeat(np.arange(1000), films)
    groups = {"a": np.flatnonzero(patients >= 200), "b": np.flatnonzero(patients < 200)}
    for positives, differs in (5, False), (60, True):
        told = (patients >= 1000 - positives).astype(float)[:, None]
        table = SimpleNamespace(labels=["Hernia"], targets=told, patients=patients)
        (row,) = compare_prevalence(table, groups, xl.PatientBootstrap(patients, 50))
        share = positives / 1000
        z = positives / 800 / np.sqrt(share * (1 - share) * (1 / 200 + 1 / 800))
        assert row.p_value == pytest.approx(2 * norm.sf(z))
        assert (row.ratio, row.corrected < 0.05) == (0, differs)


def test_what_is_unknown_everywhere_is_nan(records, subsets, tabled) -> None:
    bare = tabled([replace(r, age=float("nan")) for r in records])
    age = shift.compare_metadata(*arguments(bare, subsets))[0]
    assert np.isnan([age.value["test"], age.p_value]).all()
    assert age.to_json()["ratio"] is None


def arguments(pair, subsets: Subsets):
    return pair[0], add_train_val(subsets), pair[1]


def test_the_classifier_finds_what_differs(records, subsets, tabled, monkeypatch) -> None:
    test = set(subsets["test"].tolist())
    told = [replace(r, view="AP" if i in test else "PA") for i, r in enumerate(records)]
    separation = separate_by_metadata(*arguments(tabled(told), subsets), seed=0)
    assert separation.result.mean > 0.99
    assert max(separation.used, key=separation.used.__getitem__) == "view"
    assert set(separation.used) == {"age", "sex", "view", "follow-up number", shift.PER_PATIENT}
    alike = separate_by_metadata(*arguments(tabled(records), subsets), seed=0).result
    monkeypatch.setattr(shift, "replace", lambda result, interval: result)  # as drawn
    narrow = separate_by_metadata(*arguments(tabled(records), subsets), seed=0).result.interval
    assert np.ptp(alike.interval) == pytest.approx(1.5 * np.ptp(narrow))
    assert alike.mean < 0.65


def test_nothing_to_tell_by_and_too_few_patients(records, subsets, tabled) -> None:
    bare = [xl.Record(f"{n}.png", f"p{n}", (0.0,)) for n in range(240)]
    few = [replace(r, patient_id=f"p{i % 4}") for i, r in enumerate(records)]
    for made, reason in (
        (tabled(bare, ("Mass",)), "no metadata that varies"),
        (tabled(few), "5 folds need as many patients"),
    ):
        separation = separate_by_metadata(*arguments(made, subsets), seed=0)
        assert separation.result is None
        assert reason in separation.undefined


PHANTOM = xl.Phantom(60)


def hospital(change, population=PHANTOM.population, seed=0):
    """The phantom's label table, changed."""
    source = xl.Phantom(60, seed=seed)
    source.records = [change(record) for record in source.records]
    source.population = population
    return source


def compare(other: xl.Phantom, **settings) -> tuple[xl.Several, Hospitals]:
    source = xl.Several({"a": PHANTOM, "b": other})
    return source, xl.compare_hospitals(source, draws=20, **settings)


def test_values_against_pandas() -> None:
    """The other hospital has half of the patients, two years older, and no films from above."""
    owners = sorted({record.patient_id for record in PHANTOM.records})[::2]
    other = hospital(lambda r: replace(r, age=r.age + 2, view="PA"))
    other.records = [record for record in other.records if record.patient_id in owners]
    source, hospitals = compare(other)
    assert Hospitals.from_json(hospitals.to_json()).to_json() == hospitals.to_json()
    assert hospitals.patients == {"a and b": len(owners)}
    assert (hospitals.base, hospitals.sizes["b"].patients) == ("a", len(owners))
    rows = [(r.hospital, r.age, r.view == "AP", r.targets[0]) for r in source.records]
    means = pd.DataFrame(rows, columns=["home", "age", "view AP", source.labels[0]])
    wanted = means.groupby("home").mean()
    shift = hospitals.shifts["b"]
    for row in (*shift.metadata, *shift.prevalence):
        if row.name in wanted:
            assert row.value == pytest.approx(wanted[row.name].to_dict())
            assert row.ratio == pytest.approx(wanted[row.name]["b"] / wanted[row.name]["a"])


@pytest.mark.parametrize("view", ["AP", ""])
def test_what_tells_the_hospital(view: str) -> None:
    """A view of its own does; a column that a table lacks would, and is left out."""
    other = hospital(lambda r: replace(r, view=view), seed=1, population="others")
    separation = compare(other)[1].shifts["b"].separation
    assert separation.left_out == ([] if view else ["view"])
    assert (separation.result.mean > 0.7) == bool(view)
    assert max(separation.used, key=separation.used.get) == "view" or not view


def test_what_could_not_be_found_is_not_none() -> None:
    """No common ids, no patients at all, no pixels: "not compared", never 0."""
    for change, population in ((lambda r: r, "others"), (lambda r: r, "")):
        assert compare(hospital(change, population))[1].patients == {"a and b": None}
    bare = hospital(lambda r: xl.Record(r.image_id, r.image_id, r.targets), "")
    hospitals = compare(bare)[1]
    assert hospitals.sizes["b"].patients is hospitals.shifts["b"].separation.result is None
    said = " ".join(say("hospitals", hospitals))
    assert "patients were not compared" in said
    assert "pixels were not compared" in said
    assert "(one of them lacks: age, sex, view, follow-up number, images of the patient)" in said


def test_copies_across_hospitals(rng) -> None:
    """Each film of b that is on disk is one of a under another name."""
    squares = rng.integers(0, 256, (5, 64, 64), dtype=np.uint8)[[0, 1, 2, 0, 1, 3, 4]]
    records = [xl.Record(f"a/{n}", f"a/p{n}", (0.0,), hospital="a") for n in range(3)]
    records += [xl.Record(f"b/{n}", f"b/{n}", (0.0,), hospital="b") for n in range(4)]
    places = np.arange(7)
    subsets = {"train": places[:3], "val": places[:0], "test": places[3:]}
    duplicates = count_duplicates(squares, records, subsets)
    assert (duplicates.compared, duplicates.between) == ({"a": 3, "b": 4}, {"a and b": 2})
    assert duplicates.exact == leakage.PairCount(2, None, 2, None), "b tells no patients"
    assert [pair.same_patient for pair in duplicates.closest] == [None, None]
    _, hospitals = compare(hospital(lambda r: r), duplicates=duplicates)
    (first, *_) = say("hospitals", hospitals)
    assert first.endswith("2 pairs of their images are copies (3 and 4 compared).")
    elsewhere = replace(duplicates, compared={"a": 7}, between={})
    assert compare(hospital(lambda r: r), duplicates=elsewhere)[1].pictures == {"a and b": None}


def test_one_data_set_has_no_hospitals() -> None:
    with pytest.raises(xl.ConfigError, match="one data set alone, a"):
        xl.compare_hospitals(xl.Several({"a": PHANTOM}))
    split = xl.patient_split(PHANTOM.records, None)
    assert xl.audit_split(PHANTOM, split, draws=2).hospitals is None
