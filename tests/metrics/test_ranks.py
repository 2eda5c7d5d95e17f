"""AUROC and average precision over bootstrap draws against scikit-learn on the repeated images."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from xray_lightning.metrics import ranks
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.ranks import Codes, Ranking, auroc_left_out, curves_over


def sample(seed=0, images=400, clusters=60, levels=40):
    """Scores (with ties, unless levels is None), targets with unknowns, patients."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(clusters, size=images)
    scores = rng.random(images)
    targets = (rng.random(images) < 0.1 + 0.4 * scores).astype(np.float32)
    targets[rng.random(images) < 0.1] = np.nan
    if levels:
        scores = np.floor(scores * levels) / levels
    return scores.astype(np.float32), targets, codes


def repeated(counts: np.ndarray, codes: Codes, targets: np.ndarray) -> np.ndarray:
    """Positions of the images of a draw, each as often as its patient was drawn."""
    rows = np.repeat(np.arange(len(codes)), counts[codes].astype(int))
    return rows[~np.isnan(targets[rows])]


@pytest.mark.parametrize("levels", [40, 3, None])
@pytest.mark.parametrize("chunk", [7, 32])
def test_equal_to_scikit_learn_on_the_same_draws(levels, chunk, monkeypatch) -> None:
    monkeypatch.setattr(ranks, "CHUNK", chunk)
    scores, targets, codes = sample(levels=levels)
    counts = PatientBootstrap(np.arange(60), 25, seed=3).counts
    aurocs, precisions = curves_over(Ranking.of(scores, targets, codes), counts)
    for draw, row in enumerate(counts):
        rows = repeated(row, codes, targets)
        assert aurocs[draw] == pytest.approx(roc_auc_score(targets[rows], scores[rows]), abs=1e-12)
        expected = average_precision_score(targets[rows], scores[rows])
        assert precisions[draw] == pytest.approx(expected, abs=1e-9)


def test_large_sums_are_exact_too() -> None:
    """A patient with thousands of images: past float32's whole numbers."""
    scores, targets, codes = sample(images=20_000, clusters=3)
    counts = np.array([[1, 1, 1], [40, 0, 2]], dtype=np.float32)
    found, _ = curves_over(Ranking.of(scores, targets, codes), counts)
    known = ~np.isnan(targets)
    for draw, row in enumerate(counts):
        weights = row[codes][known]
        expected = roc_auc_score(targets[known], scores[known], sample_weight=weights)
        assert found[draw] == pytest.approx(expected, abs=1e-12)


def test_a_draw_without_a_class_is_undefined() -> None:
    scores = np.array([0.1, 0.9, 0.4], dtype=np.float32)
    targets = np.array([0.0, 1.0, np.nan], dtype=np.float32)
    counts = np.array([[1, 1, 1], [2, 0, 1], [0, 2, 1], [0, 0, 3]], dtype=np.float32)
    auroc, precision = curves_over(Ranking.of(scores, targets, np.arange(3)), counts)
    np.testing.assert_array_equal(auroc, [1, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(precision, auroc)
    for target in (0.0, 1.0, np.nan):  # with positives alone the precision is always 1
        ranking = Ranking.of(np.full(4, 0.5), np.full(4, target), np.arange(4))
        assert np.isnan(curves_over(ranking, np.ones((3, 4), dtype=np.float32))).all()


def test_more_images_than_float32_counts() -> None:
    ranking = Ranking.of(np.array([0.1, 0.9]), np.array([0.0, 1.0]), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"a draw holds 20,000,000 images; up to 16,777,216"):
        curves_over(ranking, np.full((1, 2), 10_000_000, dtype=np.float32))


def test_auroc_without_each_patient() -> None:
    rng = np.random.default_rng(0)
    codes, scores = rng.integers(12, size=100), rng.integers(20, size=100) / 20  # with ties
    targets = (rng.random(100) < 0.3).astype(float)
    targets[:5] = np.nan
    found = auroc_left_out(Ranking.of(scores, targets, codes), 13)
    known = ~np.isnan(targets)
    assert found[0] == pytest.approx(roc_auc_score(targets[known], scores[known]))
    theirs = [
        roc_auc_score(targets[known & (codes != k)], scores[known & (codes != k)])
        for k in range(13)
    ]
    np.testing.assert_allclose(found[1:], theirs, rtol=0, atol=1e-12)
    alone = Ranking.of(np.arange(4.0), np.array([0.0, 1, 1, 0]), np.array([0, 1, 1, 2]))
    assert np.isnan(auroc_left_out(alone, 3)).tolist() == [False, False, True, False]
