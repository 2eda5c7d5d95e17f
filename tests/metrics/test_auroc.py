"""AUROC per label against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from xray_lightning.metrics.auroc import PerLabelAUROC, auroc_per_label, defined_mean

COUNT, LABELS = 300, 6


def data(seed: int, unknown: float = 0.0):
    """Scores in steps of 1/20, so with many ties, and targets of growing prevalence."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 21, (COUNT, LABELS)) / 20
    targets = (rng.random((COUNT, LABELS)) < np.linspace(0.02, 0.6, LABELS)).astype(float)
    scores = np.clip(scores + 0.2 * targets, 0, 1)
    targets[rng.random((COUNT, LABELS)) < unknown] = np.nan
    return torch.tensor(scores, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32)


def by_sklearn(scores, targets) -> list[float]:
    values = []
    for score, target in zip(scores.T.numpy(), targets.T.numpy(), strict=True):
        known = ~np.isnan(target)
        both = len(np.unique(target[known])) == 2
        values.append(roc_auc_score(target[known], score[known]) if both else math.nan)
    return values


def assert_equal(found, expected: list[float]) -> None:
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("unknown", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_equals_sklearn(seed: int, unknown: float) -> None:
    scores, targets = data(seed, unknown)
    expected = by_sklearn(scores, targets)
    assert not np.isnan(expected).any()
    assert_equal(auroc_per_label(scores, targets), expected)


@pytest.mark.parametrize("only", [0.0, 1.0, math.nan])
def test_a_label_of_one_kind_is_undefined(only: float) -> None:
    scores, targets = data(0, 0.2)
    targets[:, 2] = only
    targets[0, 2] = math.nan
    values = auroc_per_label(scores, targets)
    assert values.isnan().tolist() == [False, False, True, False, False, False]
    assert_equal(values, by_sklearn(scores, targets))
    metric = PerLabelAUROC(LABELS)
    metric.update(scores, targets)
    torch.testing.assert_close(metric.compute(), values, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize(("images", "only"), [(COUNT, 0.0), (COUNT, math.nan), (0, 0.0)])
def test_nothing_is_defined(images: int, only: float) -> None:
    values = auroc_per_label(data(0)[0][:images], torch.full((images, LABELS), only))
    assert values.isnan().tolist() == [True] * LABELS
    assert_equal(torch.tensor(defined_mean(values)), [math.nan, 0])


def test_a_single_label() -> None:
    scores, targets = (each[:, 4:5] for each in data(1, 0.3))
    values = auroc_per_label(scores, targets)
    assert_equal(values, by_sklearn(scores, targets))
    metric = PerLabelAUROC(1)
    metric.update(scores, targets)
    assert torch.equal(metric.compute().reshape(-1), values)  # torchmetrics squeezes it


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_metric_over_batches_is_the_function(size: int) -> None:
    scores, targets = data(2, 0.4)
    metric = PerLabelAUROC(LABELS)
    for start in range(0, COUNT, size):
        metric.update(scores[start : start + size], targets[start : start + size])
    assert torch.equal(metric.compute(), auroc_per_label(scores, targets))
    metric.reset()
    metric.update(scores[:100], targets[:100])
    expected = auroc_per_label(scores[:100], targets[:100])
    torch.testing.assert_close(metric.compute(), expected, equal_nan=True, rtol=0, atol=0)


def test_mean_over_what_is_defined() -> None:
    found = defined_mean(torch.tensor([0.5, math.nan, 1.0, math.nan, 0.9]))
    assert found == pytest.approx((0.8, 3))


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan])
def test_no_logits(value: float) -> None:
    scores, targets = data(0)
    scores[3, 1] = value
    with pytest.raises(ValueError, match=r"scores must lie in \[0, 1\]: apply the sigmoid before"):
        auroc_per_label(scores, targets)
    with pytest.raises(ValueError, match=r"scores must lie in \[0, 1\]"):
        PerLabelAUROC(LABELS).update(scores, targets)
