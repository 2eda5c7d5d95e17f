"""The ranking loss against the tensor of all pairs; what all losses share is in test_losses."""

import pytest
import torch
from torch import Tensor

from xray_lightning.errors import ConfigError
from xray_lightning.training.ranking import PairwiseAUC, pairwise_auc

NAN = torch.nan


def naive(logits: Tensor, targets: Tensor, margin: float, power: int) -> Tensor:
    """The paper's double sum, by a (positives, negatives) tensor for each label."""
    means = []
    for score, target in zip(torch.sigmoid(logits).T, targets.T, strict=True):
        x, y = score[target == 1], score[target == 0]
        if len(x) and len(y):
            gaps = x.unsqueeze(1) - y
            means.append(torch.where(gaps < margin, (margin - gaps) ** power, 0.0).mean())
    return torch.stack(means).mean()


def batch(rows: int = 60, spread: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and targets with every kind of column: mixed, all absent, all present, all unknown."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(rows, 9, generator=generator, dtype=torch.float64)
    targets = torch.bernoulli(torch.full((rows, 9), 0.2, dtype=torch.float64), generator=generator)
    targets[torch.rand(targets.shape, generator=generator) < 0.2] = NAN
    targets[:, 3], targets[:, 4], targets[:, 5] = 0, 1, NAN
    return logits.requires_grad_(), targets


def assert_equals_naive(logits: Tensor, targets: Tensor, margin: float, power: int) -> None:
    ours = pairwise_auc(logits, targets, margin=margin, power=power)
    theirs = naive(logits, targets, margin, power)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    found, expected = (torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs))
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("margin", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("power", [1, 2, 3, 7])
@pytest.mark.parametrize("spread", [0.01, 2.0, 20.0])
def test_equals_all_pairs(margin: float, power: int, spread: float) -> None:
    logits, targets = batch(spread=spread)
    assert_equals_naive(logits, targets, margin, power)


@pytest.mark.parametrize("margin", [0.0, 0.2])
@pytest.mark.parametrize("power", [1, 2, 3])
def test_ties(margin: float, power: int) -> None:
    """Rounded logits: many images share a score, positives with negatives among them."""
    logits, targets = batch(rows=200)
    tied = logits.detach().round().requires_grad_()
    assert len(tied.detach()[:, 0].unique()) < 20
    assert_equals_naive(tied, targets, margin, power)


def test_few_small_violations_keep_their_digits() -> None:
    """Nearly perfect scores: a power of 1e-4 beside sums of order 1."""
    scores = torch.cat([torch.linspace(0.05, 0.4, 300), torch.linspace(0.6 - 1e-4, 0.95, 200)])
    logits = torch.logit(scores.double()).unsqueeze(1).requires_grad_()
    targets = (torch.arange(500) >= 300).double().unsqueeze(1)
    loss = pairwise_auc(logits, targets)
    assert 0 < loss.item() < 1e-15
    assert_equals_naive(logits, targets, 0.2, 3)


def test_gradient_passes_torch_s_check() -> None:
    logits, targets = batch(rows=12)
    for power in (2, 3):
        assert torch.autograd.gradcheck(
            lambda z, p=power: pairwise_auc(z, targets, power=p), logits, atol=1e-7
        )


@pytest.mark.parametrize("value", [0.0, 1.0, NAN])
def test_without_pairs_it_is_zero(value: float) -> None:
    logits, _ = batch()
    loss = pairwise_auc(logits, torch.full_like(logits, value))
    assert loss.item() == 0
    assert (torch.autograd.grad(loss, logits)[0] == 0).all()


def test_perfect_order_beyond_the_margin_costs_nothing() -> None:
    logits = torch.tensor([[2.0], [3.0], [-2.0], [-3.0]], requires_grad=True)
    assert pairwise_auc(logits, torch.tensor([[1.0], [1.0], [0.0], [0.0]])).item() == 0


def test_no_tensor_of_pairs() -> None:
    """Saved for backward: a multiple of the batch, not its square."""
    logits, targets = batch(rows=1000)
    saved: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        pairwise_auc(logits, targets)
    assert max(saved) <= logits.numel()
    assert len(saved) <= 8


def test_module_calls_the_function() -> None:
    logits, targets = batch()
    found = PairwiseAUC(margin=0.1, power=2)(logits, targets)
    assert found == pairwise_auc(logits, targets, margin=0.1, power=2)


@pytest.mark.parametrize("margin", [-0.1, 1.1, NAN, "x"])
def test_bad_margin(margin: float) -> None:
    with pytest.raises(ConfigError, match=r"loss\.margin must be a number from 0 to 1, got"):
        PairwiseAUC(margin=margin)


@pytest.mark.parametrize("power", [0, -1, 2.0, "x"])
def test_bad_power(power: int) -> None:
    with pytest.raises(ConfigError, match=r"loss\.power must be a whole number from 1, got"):
        PairwiseAUC(power=power)
