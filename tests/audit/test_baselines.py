"""Scores without an image against loops written out, and scikit-learn's AUROC."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from xray_lightning.audit import shift as baselines
from xray_lightning.audit.label_table import MeanAuroc
from xray_lightning.audit.shift import measure_prevalence, score_baselines, score_by_metadata
from xray_lightning.records import Record

Subsets = dict[str, np.ndarray]


@pytest.mark.parametrize("place", ["train", "test"])
def test_mean_of_the_other_images(records, subsets, place, tabled) -> None:
    table, _ = tabled(records)
    prior = measure_prevalence(table, subsets["train"])
    scores = baselines.score_by_mean(table, subsets[place], subsets["test"], prior)
    for index, row in enumerate(subsets["test"].tolist()):
        others = [
            records[other].targets
            for other in subsets[place].tolist()
            if other != row and records[other].patient_id == records[row].patient_id
        ]
        for label in range(3):
            known = [targets[label] for targets in others if not np.isnan(targets[label])]
            assert scores[index, label] == pytest.approx(
                (sum(known) + prior[label]) / (len(known) + 1)
            )


def test_previous_label(records: list[Record], subsets: Subsets, tabled) -> None:
    table, _ = tabled(records)
    prior = measure_prevalence(table, subsets["train"])
    scores = baselines.score_by_previous(table, subsets["test"], prior)
    by_key = {(r.patient_id, r.follow_up): r.targets for r in records}
    wanted = [
        by_key.get((records[row].patient_id, records[row].follow_up - 1), (np.nan,) * 3)
        for row in subsets["test"]
    ]
    np.testing.assert_array_equal(scores, np.where(np.isnan(wanted), prior, wanted))


def test_auroc_against_scikit_learn(records: list[Record], subsets: Subsets, tabled) -> None:
    table, bootstrap = tabled(records)
    test = subsets["test"]
    rows = {row.name: row for row in score_baselines(table, subsets, bootstrap, seed=0)}
    assert list(rows) == list(baselines.METHODS)
    scores = baselines.score_by_mean(table, test, test, measure_prevalence(table, subsets["train"]))
    result = rows[baselines.OTHERS].result
    draws = []
    for label, name in enumerate(table.labels):
        known = ~np.isnan(table.targets[test, label])
        truth, score = table.targets[test, label][known], scores[known, label]
        assert result.labels[name] == pytest.approx(roc_auc_score(truth, score))
        codes = table.patients[test][known]
        weights = [drawn[codes] for drawn in bootstrap.counts[1:]]
        draws.append([roc_auc_score(truth, score, sample_weight=w) for w in weights])
    assert result.mean == pytest.approx(np.mean(list(result.labels.values())))
    assert result.interval == pytest.approx(np.quantile(np.mean(draws, axis=0), [0.025, 0.975]))


def test_no_shared_patient_gains_nothing(records, subsets, tabled) -> None:
    table, bootstrap = tabled([replace(r, patient_id=f"{i}") for i, r in enumerate(records)])
    assert set(score_baselines(table, subsets, bootstrap, 0)[-1].result.labels.values()) == {0.5}


def test_metadata_learns_from_train_only(records, subsets, tabled) -> None:
    table, _ = tabled(
        [replace(r, targets=(float(r.view == "AP"), *r.targets[1:])) for r in records]
    )
    scores = score_by_metadata(table, subsets["train"], subsets["test"], seed=0)
    assert roc_auc_score(table.targets[subsets["test"], 0], scores[:, 0]) == 1.0
    turned = table.targets.copy()
    turned[subsets["test"]] = 1 - turned[subsets["test"]]
    again = score_by_metadata(replace(table, targets=turned), subsets["train"], subsets["test"], 0)
    np.testing.assert_array_equal(scores, again)


def test_a_label_without_positives_in_train(records, subsets, tabled) -> None:
    table, bootstrap = tabled(records, draws=3)
    table.targets[subsets["train"], 2] = 0
    scores = score_by_metadata(table, subsets["train"], subsets["test"], 0)
    assert np.isnan(scores[:, 2]).all()
    test = subsets["test"]
    result = MeanAuroc.of(table.labels, scores, table.targets[test], bootstrap.subset(test))
    assert result.defined == 2
    assert np.isnan(result.labels["Hernia"])


def test_labels_of_a_hospital_without_metadata(records, subsets, tabled) -> None:
    """Mass is known where nothing else is (SIIM beside NIH): no trees, no score; one film each."""
    half = [
        replace(r, patient_id=f"{i}", targets=(r.targets[0], np.nan, r.targets[2]))
        if i % 2
        else Record(r.image_id, f"{i}", (np.nan, r.targets[1], r.targets[2]))
        for i, r in enumerate(records)
    ]
    table, bootstrap = tabled(half)
    scores = score_by_metadata(table, subsets["train"], subsets["test"], 0)
    assert np.isnan(scores).all(axis=0).tolist() == [False, True, False]
    rows = {row.name: row for row in score_baselines(table, subsets, bootstrap, 0)}
    assert rows[baselines.OTHERS].result is None
    assert "no patient has two images in test" in rows[baselines.OTHERS].undefined


def test_what_the_table_lacks_has_a_reason(subsets: Subsets, tabled) -> None:
    bare = [Record(f"{n}.png", f"p{n % 50}", (float(n % 3 == 0),)) for n in range(240)]
    table, bootstrap = tabled(bare, ("Mass",))
    rows = {row.name: row for row in score_baselines(table, subsets, bootstrap, 0)}
    assert rows[baselines.METADATA].result is None
    assert "no metadata" in rows[baselines.METADATA].undefined
    assert "no follow-up numbers" in rows[baselines.PREVIOUS].undefined
