"""Hospitals beside each other: against pandas, sets, and answers that were planted."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from xray_lightning import ConfigError, Phantom, Several, audit_split, compare_hospitals
from xray_lightning.audit.leakage import count_duplicates
from xray_lightning.audit.run import Hospitals, say
from xray_lightning.data.splits import patient_split
from xray_lightning.records import Record

PHANTOM = Phantom(60)


def hospital(change, population=PHANTOM.population, seed=0):
    """The phantom's label table, changed."""
    source = Phantom(60, seed=seed)
    source.records = [change(record) for record in source.records]
    source.population = population
    return source


def compare(other: Phantom, **settings) -> tuple[Several, Hospitals]:
    source = Several({"a": PHANTOM, "b": other})
    return source, compare_hospitals(source, draws=20, **settings)


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
    bare = hospital(lambda r: Record(r.image_id, r.image_id, r.targets), "")
    hospitals = compare(bare)[1]
    assert hospitals.sizes["b"].patients is None
    assert hospitals.shifts["b"].separation.result is None
    said = " ".join(say("hospitals", hospitals))
    assert "patients were not compared" in said
    assert "pixels were not compared" in said
    assert "(one of them lacks: age, sex, view, follow-up number, images of the patient)" in said


def test_copies_across_hospitals() -> None:
    """Each film of b that is on disk is one of a under another name."""
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 256, (5, 64, 64), dtype=np.uint8)[[0, 1, 2, 0, 1, 3, 4]]
    records = [Record(f"a/{n}", f"a/p{n}", (0.0,), hospital="a") for n in range(3)]
    records += [Record(f"b/{n}", f"b/{n}", (0.0,), hospital="b") for n in range(4)]
    places = np.arange(7)
    subsets = {"train": places[:3], "val": places[:0], "test": places[3:]}
    duplicates = count_duplicates(squares, records, subsets)
    assert (duplicates.compared, duplicates.between) == ({"a": 3, "b": 4}, {"a and b": 2})
    assert duplicates.exact.pairs == 2
    assert duplicates.exact.other_patients is None, "b tells no patients"
    assert [pair.same_patient for pair in duplicates.closest] == [None, None]
    _, hospitals = compare(hospital(lambda r: r), duplicates=duplicates)
    (first, *_) = say("hospitals", hospitals)
    assert first.endswith("2 pairs of their images are copies (3 and 4 compared).")
    elsewhere = replace(duplicates, compared={"a": 7}, between={})
    assert compare(hospital(lambda r: r), duplicates=elsewhere)[1].pictures == {"a and b": None}


def test_one_data_set_has_no_hospitals() -> None:
    with pytest.raises(ConfigError, match="one data set alone, a"):
        compare_hospitals(Several({"a": PHANTOM}))
    assert audit_split(PHANTOM, patient_split(PHANTOM.records, None), draws=2).hospitals is None
