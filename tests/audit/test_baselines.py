"""Scores without an image against loops written out, and scikit-learn's AUROC."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from xray_lightning.audit.baselines import (
    METADATA,
    METHODS,
    PREVIOUS,
    baselines,
    mean_scores,
    metadata_scores,
    prevalence_of,
    previous_scores,
)
from xray_lightning.audit.columns import Columns, discrimination
from xray_lightning.metrics.bootstrap import bootstrap_counts
from xray_lightning.records import Record

LABELS = ("Mass", "Nodule", "Hernia")
Parts = dict[str, np.ndarray]


def naive_mean(
    records: list[Record], row: int, label: int, known_rows: np.ndarray, prior: float
) -> float:
    others = [
        records[other].targets[label]
        for other in known_rows.tolist()
        if other != row and records[other].patient_id == records[row].patient_id
    ]
    others = [value for value in others if not np.isnan(value)]
    return (sum(others) + prior) / (len(others) + 1)


@pytest.mark.parametrize("place", ["train", "test"])
def test_mean_of_the_other_images(records: list[Record], subsets: Parts, place: str) -> None:
    columns, test = Columns.of(records, LABELS), subsets["test"]
    prior = prevalence_of(columns, subsets["train"])
    scores = mean_scores(columns, subsets[place], test, prior)
    for index, row in enumerate(test.tolist()):
        for label in range(3):
            wanted = naive_mean(records, row, label, subsets[place], prior[label])
            assert scores[index, label] == pytest.approx(wanted)


def test_previous_label(records: list[Record], subsets: Parts) -> None:
    columns, test = Columns.of(records, LABELS), subsets["test"]
    prior = prevalence_of(columns, subsets["train"])
    scores = previous_scores(columns, test, prior)
    assert scores is not None
    by_key = {(r.patient_id, r.follow_up): r.targets for r in records}
    for index, row in enumerate(test.tolist()):
        before = by_key.get((records[row].patient_id, records[row].follow_up - 1), (np.nan,) * 3)
        for label in range(3):
            known = not np.isnan(before[label])
            assert scores[index, label] == (before[label] if known else prior[label])


def test_auroc_against_scikit_learn(records: list[Record], subsets: Parts) -> None:
    columns, test = Columns.of(records, LABELS), subsets["test"]
    counts = bootstrap_counts(columns.patient_count, 40, 0)
    found = {row.name: row for row in baselines(columns, subsets, counts, seed=0)}
    assert list(found) == list(METHODS)
    prior = prevalence_of(columns, subsets["train"])
    scores = mean_scores(columns, test, test, prior)
    result = found["other images"].result
    assert result is not None
    draws = []
    for label, name in enumerate(LABELS):
        known = ~np.isnan(columns.targets[test, label])
        truth, score = columns.targets[test, label][known], scores[known, label]
        assert result.labels[name] == pytest.approx(roc_auc_score(truth, score))
        codes = columns.patients[test][known]
        draws.append([roc_auc_score(truth, score, sample_weight=d[codes]) for d in counts])
    assert result.mean == pytest.approx(np.mean(list(result.labels.values())))
    wanted = np.quantile(np.mean(draws, axis=0), [0.025, 0.975])
    assert result.interval == pytest.approx(wanted)


def test_no_shared_patient_gains_nothing(records: list[Record], subsets: Parts) -> None:
    apart = [replace(r, patient_id=f"{i}") for i, r in enumerate(records)]
    counts = bootstrap_counts(len(apart), 5, 0)
    found = baselines(Columns.of(apart, LABELS), subsets, counts, seed=0)
    assert found[-1].result is not None
    assert set(found[-1].result.labels.values()) == {0.5}


def test_metadata_scores_learn_from_train_only(records: list[Record], subsets: Parts) -> None:
    told = [replace(r, targets=(float(r.view == "AP"), *r.targets[1:])) for r in records]
    columns = Columns.of(told, LABELS)
    scores = metadata_scores(columns, subsets["train"], subsets["test"], seed=0)
    assert scores is not None
    assert roc_auc_score(columns.targets[subsets["test"], 0], scores[:, 0]) == 1.0
    turned = columns.targets.copy()
    turned[subsets["test"]] = 1 - turned[subsets["test"]]
    again = metadata_scores(replace(columns, targets=turned), subsets["train"], subsets["test"], 0)
    np.testing.assert_array_equal(scores, again)


def test_a_label_without_positives_in_train(records: list[Record], subsets: Parts) -> None:
    columns = Columns.of(records, LABELS)
    targets = columns.targets.copy()
    targets[subsets["train"], 2] = 0
    scores = metadata_scores(
        replace(columns, targets=targets), subsets["train"], subsets["test"], 0
    )
    assert scores is not None
    assert np.isnan(scores[:, 2]).all()
    result = discrimination(
        LABELS,
        scores,
        targets[subsets["test"]],
        columns.patients[subsets["test"]],
        bootstrap_counts(columns.patient_count, 3, 0),
    )
    assert result.defined == 2
    assert np.isnan(result.labels["Hernia"])


def test_what_the_table_lacks_has_a_reason(subsets: Parts) -> None:
    bare = [Record(f"{n}.png", f"p{n % 50}", (float(n % 3 == 0),)) for n in range(240)]
    columns = Columns.of(bare, ("Mass",))
    found = {b.name: b for b in baselines(columns, subsets, bootstrap_counts(50, 3, 0), 0)}
    assert found[METADATA].result is None
    assert "no metadata" in found[METADATA].undefined
    assert "no follow-up numbers" in found[PREVIOUS].undefined
