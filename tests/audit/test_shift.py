"""Shares, means, ratios and their draws against pandas and a loop; the separating classifier."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from xray_lightning.audit import shift
from xray_lightning.audit.shift import BOTH, add_train_val, compare_prevalence, separate_by_metadata
from xray_lightning.records import Record

Subsets = dict[str, np.ndarray]


def frame(records: list[Record], labels: tuple[str, ...]) -> pd.DataFrame:
    table = pd.DataFrame(
        {"patient": r.patient_id, "age": r.age, "sex": r.sex or None, "view": r.view}
        | {"follow_up": r.follow_up, **dict(zip(labels, r.targets, strict=True))}
        for r in records
    )
    table["code"] = table["patient"].astype("category").cat.codes
    return table


def test_prevalence_against_pandas(records: list[Record], subsets: Subsets, tabled) -> None:
    table, bootstrap = tabled(records)
    frames = frame(records, table.labels)
    rows = compare_prevalence(table, add_train_val(subsets), bootstrap)
    for row in rows:
        for subset, places in add_train_val(subsets).items():
            column = frames[row.name].iloc[places]
            assert row.value[subset] == pytest.approx(column.mean())
            assert (row.count[subset], row.known[subset]) == (column.sum(), column.count())
        assert row.ratio == pytest.approx(row.value["test"] / row.value[BOTH])
        assert row.ratio_to_train == pytest.approx(row.value["test"] / row.value["train"])
    smallest = min(row.p_value for row in rows)
    assert min(row.corrected for row in rows) == pytest.approx(min(1, 3 * smallest))


def test_intervals_against_a_loop_over_the_same_draws(records, subsets, tabled) -> None:
    table, bootstrap = tabled(records, seed=3)
    frames = frame(records, table.labels)
    row = compare_prevalence(table, add_train_val(subsets), bootstrap)[0]
    ratios, differences = [], []
    for draw in bootstrap.counts[1:]:
        shares = []
        for places in (subsets["test"], add_train_val(subsets)[BOTH]):
            known = frames.iloc[places].dropna(subset="Mass")
            shares.append(np.average(known["Mass"], weights=draw[known["code"]]))
        ratios.append(shares[0] / shares[1])
        differences.append(shares[0] - shares[1])
    assert row.ratio_interval == pytest.approx(np.quantile(ratios, [0.025, 0.975]))
    z = abs(row.value["test"] - row.value[BOTH]) / np.std(differences)
    assert row.p_value == pytest.approx(2 * (1 - norm.cdf(z)))


def test_metadata_against_pandas(records: list[Record], subsets: Subsets, tabled) -> None:
    table, bootstrap = tabled(records)
    rows = {
        row.name: row for row in shift.compare_metadata(table, add_train_val(subsets), bootstrap)
    }
    for subset, places in add_train_val(subsets).items():
        here = frame(records, table.labels).iloc[places]
        wanted = {
            "age": here["age"].mean(),
            "follow-up number": here["follow_up"].mean(),
            "sex F": (here["sex"].dropna() == "F").mean(),
            "view AP": (here["view"] == "AP").mean(),
            "images per patient": len(here) / here["patient"].nunique(),
        }
        assert {name: rows[name].value[subset] for name in wanted} == pytest.approx(wanted)


def test_what_is_unknown_everywhere_is_nan(records, subsets, tabled) -> None:
    age = shift.compare_metadata(
        *arguments(tabled([replace(r, age=float("nan")) for r in records]), subsets)
    )[0]
    assert np.isnan([age.value["test"], age.p_value]).all()
    assert age.to_json()["ratio"] is None


def arguments(pair, subsets: Subsets):
    return pair[0], add_train_val(subsets), pair[1]


def test_the_classifier_finds_what_differs(records, subsets, tabled) -> None:
    test = set(subsets["test"].tolist())
    told = [replace(r, view="AP" if i in test else "PA") for i, r in enumerate(records)]
    separation = separate_by_metadata(*arguments(tabled(told), subsets), seed=0)
    assert separation.result.mean > 0.99
    assert max(separation.used, key=separation.used.__getitem__) == "view"
    assert set(separation.used) == {"age", "sex", "view", "follow-up number", shift.PER_PATIENT}
    alike = separate_by_metadata(*arguments(tabled(records), subsets), seed=0)
    assert alike.result.mean < 0.65


def test_nothing_to_tell_by_and_too_few_patients(records, subsets, tabled) -> None:
    bare = [Record(f"{n}.png", f"p{n}", (0.0,)) for n in range(240)]
    few = [replace(r, patient_id=f"p{i % 4}") for i, r in enumerate(records)]
    for made, reason in (
        (tabled(bare, ("Mass",)), "no metadata that varies"),
        (tabled(few), "5 folds need as many patients"),
    ):
        separation = separate_by_metadata(*arguments(made, subsets), seed=0)
        assert separation.result is None
        assert reason in separation.undefined
