"""Heads against their formula."""

import pytest
import torch

from xray_lightning.models.heads import AveragePool


def test_mean_over_space_then_linear() -> None:
    head = AveragePool(5, 3)
    features = torch.randn(4, 5, 2, 7)
    pooled = torch.stack([image.flatten(1).sum(dim=1) / 14 for image in features])
    expected = pooled @ head.classifier.weight.T + head.classifier.bias
    torch.testing.assert_close(head(features), expected)


def test_place_does_not_matter() -> None:
    head = AveragePool(5, 3)
    features = torch.randn(2, 5, 3, 3)
    torch.testing.assert_close(head(features), head(features.flip(2, 3).transpose(2, 3)))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_acts_in_training_only(dropout: float) -> None:
    head = AveragePool(64, 3, dropout=dropout)
    features = torch.randn(2, 64, 2, 2)
    torch.manual_seed(0)
    assert torch.equal(head(features), head(features)) == (dropout == 0)
    head.eval()
    assert torch.equal(head(features), head(features))
