"""Losses against PyTorch's own."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from xray_lightning.losses import BCE, WeightedBCE, binary_cross_entropy

HERNIA = 613.0  # (86,524 - 141) / 141, the largest weight of NIH's training list
NAN = torch.nan


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 6 * torch.randn(9, 14, generator=generator, dtype=torch.float64)
    targets = torch.bernoulli(torch.full((9, 14), 0.3, dtype=torch.float64), generator=generator)
    return logits.requires_grad_(), targets


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, logits)
    return found


WEIGHT = torch.linspace(0.5, HERNIA, 14, dtype=torch.float64)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_equals_torch(weight: Tensor | None) -> None:
    logits, targets = batch()
    ours = binary_cross_entropy(logits, targets, weight)
    theirs = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient(ours, logits), gradient(theirs, logits))


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_unknown_targets_add_nothing(weight: Tensor | None) -> None:
    logits, targets = batch()
    unknown = torch.rand(targets.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    ours = binary_cross_entropy(logits, targets.masked_fill(unknown, NAN), weight)
    theirs = F.binary_cross_entropy_with_logits(
        logits, targets, pos_weight=weight, reduction="none"
    )[~unknown].mean()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient(ours, logits), gradient(theirs, logits))
    assert (
        gradient(binary_cross_entropy(logits, targets.masked_fill(unknown, NAN)), logits)[unknown]
        == 0
    ).all()


def test_unknown_only() -> None:
    logits, targets = batch()
    loss = binary_cross_entropy(logits, torch.full_like(targets, NAN), WEIGHT)
    assert loss.item() == 0
    assert (gradient(loss, logits) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("logit", "target", "expected"),
    [(-100.0, 1.0, 100 * HERNIA), (100.0, 0.0, 100.0), (100.0, 1.0, 0.0), (-100.0, 0.0, 0.0)],
)
def test_extreme_logits(logit: float, target: float, expected: float, dtype: torch.dtype) -> None:
    logits = torch.full((2, 1), logit, dtype=dtype, requires_grad=True)
    loss = binary_cross_entropy(
        logits, torch.full((2, 1), target, dtype=dtype), torch.tensor([HERNIA], dtype=dtype)
    )
    assert loss.item() == pytest.approx(expected, abs=1e-30)
    assert torch.isfinite(gradient(loss, logits)).all()


def test_a_label_without_positives_has_no_weight() -> None:
    logits, targets = batch()
    targets[:, 3] = 0
    weight = WEIGHT.clone()
    expected = binary_cross_entropy(logits, targets, weight)
    weight[3] = NAN
    found = binary_cross_entropy(logits, targets, weight)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert torch.isfinite(gradient(found, logits)).all()


def test_modules_call_the_function() -> None:
    logits, targets = batch()
    assert BCE()(logits, targets) == binary_cross_entropy(logits, targets)
    assert WeightedBCE(WEIGHT)(logits, targets) == binary_cross_entropy(logits, targets, WEIGHT)


def test_the_weight_moves_with_its_module_but_stays_out_of_checkpoints() -> None:
    loss = WeightedBCE(torch.ones(3))
    assert not loss.state_dict()
    assert loss.double().positive_weight.dtype == torch.float64
