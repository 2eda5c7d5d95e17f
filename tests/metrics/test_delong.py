"""DeLong's test against its definition, corrections against SciPy and the textbook."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control, norm
from sklearn.metrics import roc_auc_score

from xray_lightning.metrics.delong import benjamini_hochberg, compare_auroc, delong, holm


def sample(images: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    positive = rng.random(images) < 0.3
    first = np.round(rng.normal(size=images) + positive, 1)  # with ties
    second = np.round(0.5 * first + rng.normal(size=images) + 0.5 * positive, 1)
    return np.stack([first, second]), positive


def naive(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equations 3 to 8 of the paper, all pairs."""
    kernels = []
    for row in scores:
        difference = row[positive][:, None] - row[~positive][None, :]
        kernels.append((difference > 0) + 0.5 * (difference == 0))
    ten, one = (np.array([k.mean(axis=axis) for k in kernels]) for axis in (1, 0))
    return ten.mean(axis=1), np.cov(ten) / ten.shape[1] + np.cov(one) / one.shape[1]


def test_equals_the_definition() -> None:
    scores, positive = sample()
    found = delong(scores, positive)
    aurocs, covariance = naive(scores, positive)
    np.testing.assert_allclose(found[0], aurocs, atol=1e-12)
    np.testing.assert_allclose(found[1:], covariance, atol=1e-12)
    np.testing.assert_allclose(found[0, 0], roc_auc_score(positive, scores[0]), atol=1e-12)


def test_comparison() -> None:
    scores, positive = sample()
    (one, two), covariance = naive(scores, positive)
    deviation = np.sqrt(np.array([1, -1]) @ covariance @ np.array([1, -1]))
    p_value = compare_auroc(*scores, positive)
    assert p_value == pytest.approx(2 * norm.cdf(-abs(one - two) / deviation), abs=1e-12)


def test_level_of_the_test() -> None:
    """Two equally good models: p below 0.05 in about 5 % of samples."""
    rng = np.random.default_rng(0)
    low = 0
    for _ in range(600):
        positive = np.arange(150) < 50
        noise = rng.normal(size=(2, 150))
        low += compare_auroc(*(positive + noise), positive) < 0.05
    assert 0.025 < low / 600 < 0.08


def test_limits_of_the_test() -> None:
    """Equal models; too few of a class; a difference without deviation."""
    scores, positive = sample()
    assert compare_auroc(scores[0], scores[0], positive) == 1
    assert np.isnan(delong(np.stack([np.arange(5.0)] * 2), np.arange(5) == 0)).all()
    assert np.isnan(compare_auroc(np.arange(5.0), -np.arange(5.0), np.arange(5) == 0))
    positive = np.array([True, True, False, False])
    pair = np.array([[1, 1, 0, 0.0], [0, 0, 1, 1.0]])
    np.testing.assert_array_equal(delong(pair, positive), [[1, 0], [0, 0], [0, 0]])
    assert np.isnan(compare_auroc(*pair, positive))


def test_corrections() -> None:
    values = np.random.default_rng(0).random(20) ** 3
    np.testing.assert_allclose(benjamini_hochberg(values), false_discovery_control(values))
    order = np.argsort(values)
    running, expected = 0.0, np.empty(20)
    for rank, index in enumerate(order):
        running = max(running, min(1, (20 - rank) * values[index]))
        expected[index] = running
    np.testing.assert_allclose(holm(values), expected)


@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
def test_undefined_values_do_not_count(correct: object) -> None:
    assert callable(correct)
    values = np.array([0.01, np.nan, 0.02])
    found = correct(values)
    assert np.isnan(found[1])
    np.testing.assert_allclose(found[[0, 2]], correct(values[[0, 2]]))
