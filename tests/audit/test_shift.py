"""Shares, means, ratios and their draws against pandas and a loop; the separating classifier."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from xray_lightning.audit.columns import Columns, plain
from xray_lightning.audit.shift import (
    BOTH,
    PER_PATIENT,
    metadata,
    prevalence,
    separation,
    with_both,
)
from xray_lightning.metrics.bootstrap import bootstrap_counts
from xray_lightning.records import Record

LABELS = ("Mass", "Nodule", "Hernia")
Parts = dict[str, np.ndarray]


def frame(records: list[Record]) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "patient": r.patient_id,
            "age": r.age,
            "sex": r.sex or None,
            "view": r.view,
            "follow_up": r.follow_up,
            **dict(zip(LABELS, r.targets, strict=True)),
        }
        for r in records
    )
    table["code"] = table["patient"].astype("category").cat.codes
    return table


def test_prevalence_against_pandas(records: list[Record], subsets: Parts) -> None:
    table, columns = frame(records), Columns.of(records, LABELS)
    counts = bootstrap_counts(columns.patient_count, 40, 0)
    for row in prevalence(columns, subsets, counts):
        for subset, rows in with_both(subsets).items():
            values = table[row.name].iloc[rows]
            assert row.value[subset] == pytest.approx(values.mean())
            assert (row.count[subset], row.known[subset]) == (values.sum(), values.count())
        assert row.ratio == pytest.approx(row.value["test"] / row.value[BOTH])
        assert row.ratio_to_train == pytest.approx(row.value["test"] / row.value["train"])


def test_intervals_against_a_loop_over_the_same_draws(
    records: list[Record], subsets: Parts
) -> None:
    table, columns = frame(records), Columns.of(records, LABELS)
    counts = bootstrap_counts(columns.patient_count, 40, 3)
    row = prevalence(columns, subsets, counts)[0]
    both, test = table.iloc[with_both(subsets)[BOTH]], table.iloc[subsets["test"]]
    ratios, differences = [], []
    for draw in counts:
        shares = []
        for subset in (test, both):
            known = subset[subset["Mass"].notna()]
            weights = draw[known["code"]]
            shares.append(np.average(known["Mass"], weights=weights))
        ratios.append(shares[0] / shares[1])
        differences.append(shares[0] - shares[1])
    assert row.ratio_interval == pytest.approx(np.quantile(ratios, [0.025, 0.975]))
    z = abs(row.value["test"] - row.value[BOTH]) / np.std(differences)
    assert row.p_value == pytest.approx(2 * (1 - norm.cdf(z)))


def test_metadata_against_pandas(records: list[Record], subsets: Parts) -> None:
    table, columns = frame(records), Columns.of(records, LABELS)
    rows = {row.name: row for row in metadata(columns, subsets, bootstrap_counts(60, 10, 0))}
    for subset, places in with_both(subsets).items():
        here = table.iloc[places]
        wanted = {
            "age": here["age"].mean(),
            "follow-up number": here["follow_up"].mean(),
            "sex F": (here["sex"].dropna() == "F").mean(),
            "view AP": (here["view"] == "AP").mean(),
            "images per patient": len(here) / here["patient"].nunique(),
        }
        for name, value in wanted.items():
            assert rows[name].value[subset] == pytest.approx(value), (name, subset)


def test_holm_over_the_rows(records: list[Record], subsets: Parts) -> None:
    rows = prevalence(Columns.of(records, LABELS), subsets, bootstrap_counts(60, 30, 0))
    smallest = min(row.p_value for row in rows)
    assert min(row.corrected for row in rows) == pytest.approx(min(1, 3 * smallest))


def test_what_is_unknown_everywhere_is_nan(records: list[Record], subsets: Parts) -> None:
    blank = [replace(record, age=float("nan")) for record in records]
    age = metadata(Columns.of(blank, LABELS), subsets, bootstrap_counts(60, 10, 0))[0]
    assert np.isnan(age.value["test"])
    assert np.isnan(age.p_value)
    assert plain(age)["ratio"] is None


def test_the_classifier_finds_what_differs(records: list[Record], subsets: Parts) -> None:
    test = set(subsets["test"].tolist())
    told = [replace(r, view="AP" if i in test else "PA") for i, r in enumerate(records)]
    counts = bootstrap_counts(60, 10, 0)
    found = separation(Columns.of(told, LABELS), subsets, counts, seed=0)
    assert found.result is not None
    assert found.result.mean > 0.99
    assert max(found.used, key=found.used.__getitem__) == "view"
    assert set(found.used) == {"age", "sex", "view", "follow-up number", PER_PATIENT}
    alike = separation(Columns.of(records, LABELS), subsets, counts, seed=0)
    assert alike.result is not None
    assert alike.result.mean < 0.65


def test_nothing_to_tell_by(subsets: Parts) -> None:
    bare = [Record(f"{n}.png", f"p{n}", (0.0,)) for n in range(240)]
    found = separation(Columns.of(bare, ("Mass",)), subsets, bootstrap_counts(240, 2, 0), 0)
    assert found.result is None
    assert "no metadata that varies" in found.undefined


def test_too_few_patients(records: list[Record], subsets: Parts) -> None:
    few = [replace(r, patient_id=f"p{i % 4}") for i, r in enumerate(records)]
    found = separation(Columns.of(few, LABELS), subsets, bootstrap_counts(4, 2, 0), 0)
    assert "5 folds need as many patients" in found.undefined
