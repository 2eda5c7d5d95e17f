"""Weights, weighted AUROC and the decomposition against scikit-learn, loops and known answers."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from xray_lightning.audit import decomposition
from xray_lightning.audit.decomposition import ScoredSubset, measure_auroc, reweight
from xray_lightning.audit.label_table import LabelTable
from xray_lightning.metrics.intervals import effective_patients


def test_weighted_auroc_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.random(200).round(1), rng.random(200) < 0.3  # with ties
    weights = rng.random((40, 200)) * (rng.random((40, 200)) < 0.7)
    aurocs = measure_auroc(scores, positive, weights)
    wanted = [roc_auc_score(positive, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(aurocs, wanted, atol=1e-12)
    assert np.isnan(measure_auroc(scores, positive, np.where(positive, 0.0, weights))).all()


def test_weights_give_the_other_mix() -> None:
    val, test = np.array([0, 0, 0, 1, 2]), np.array([0, 1, 1, 1, 3])
    weights = reweight(val, test, np.ones((1, 5)), np.ones((1, 5)))[0]
    np.testing.assert_allclose(weights, [3, 1 / 3, 1 / 3, 1 / 3, 0])
    assert effective_patients(weights) == pytest.approx(4**2 / (9 + 3 / 9))
    twice = reweight(val, test, np.ones((1, 5)), np.array([[2.0, 1, 1, 1, 1]]))[0]
    np.testing.assert_allclose(twice[0], 2 * (3 / 5) / (2 / 6))


def subset(share: float, seed: int, size: int = 6000, shift: float = 0.0) -> ScoredSubset:
    """A model that is worse on AP; ``share`` of the images are AP; ``shift``: worse everywhere."""
    rng = np.random.default_rng(seed)
    view = np.where(rng.random(size) < share, "AP", "PA")
    targets = (rng.random((size, 2)) < 0.3).astype(float)
    strength = np.where(view == "AP", 0.5, 2.0)[:, None] - shift
    scores = 1 / (1 + np.exp(-(strength * targets + rng.normal(size=(size, 2)))))
    unknown, words = np.full(size, np.nan), np.full(size, "")
    patients = np.arange(size) // 2
    table = LabelTable(
        ("Mass", "Nodule"), targets, patients, unknown, words, view, unknown, np.full(size, 2.0)
    )
    return ScoredSubset(table, scores)


def change(val: ScoredSubset, test: ScoredSubset):
    mask = np.arange(6000) < 3000
    return decomposition.decompose(val, test, {"first half": (mask, mask)}, draws=40, seed=0)


def test_only_the_mix_differs() -> None:
    val, test = subset(0.2, 0), subset(0.7, 1)
    result = change(val, test)
    assert result.change[0] == pytest.approx(result.case_mix[0] + result.rest[0])
    assert result.change[0] < -0.1
    assert abs(result.rest[0]) < 0.02
    assert result.rest[1][0] < 0 < result.rest[1][1]
    assert result.case_mix[1][1] < 0
    truth, scores = test.table.targets, test.scores
    wanted = np.mean([roc_auc_score(truth[:, i], scores[:, i]) for i in range(2)])
    assert (result.test, result.uncovered) == (pytest.approx(wanted), 0)
    ap = test.table.view == "AP"
    kish = 6000 / (0.2**2 / ap.mean() + 0.8**2 / (1 - ap.mean()))
    assert result.effective_images == pytest.approx(kish, rel=0.05)


def test_only_the_rest_differs() -> None:
    result = change(subset(0.4, 0), subset(0.4, 1, shift=0.4))
    assert abs(result.case_mix[0]) < 0.01
    assert result.rest[1][1] < 0


def test_matched_and_severity_against_loops() -> None:
    val, test = subset(0.2, 0), subset(0.7, 1)
    result = change(val, test)
    rows = {row.name: row for row in [*result.matched, *result.severity]}
    assert set(rows) >= {"view AP", "view PA", "first half", "0 other findings"}
    ap, half = test.table.view == "AP", np.arange(6000) < 3000
    for name, mask in (("view AP", ap), ("first half", half)):
        wanted = [
            roc_auc_score(test.table.targets[mask, i], test.scores[mask, i]) for i in range(2)
        ]
        assert rows[name].test == pytest.approx(np.mean(wanted))
        assert rows[name].test_images == mask.sum()
    alone = [test.table.targets[:, 1 - i] == 0 for i in range(2)]
    wanted = [
        roc_auc_score(test.table.targets[mask, i], test.scores[mask, i])
        for i, mask in enumerate(alone)
    ]
    assert rows["0 other findings"].test == pytest.approx(np.mean(wanted))
    empty = rows["2 other findings"]  # there are two labels
    assert (empty.labels, empty.test_images) == (0, 0)
    assert np.isnan(empty.change)
    for scored in (val, test):
        scored.table.follow_up[:] = np.arange(6000) % 2
    assert "first images" in [row.name for row in change(val, test).matched]
