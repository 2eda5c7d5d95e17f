"""Loss over pairs of images: within each label, a positive should score above every negative.

1 - AUROC is the share of (positive, negative) pairs in the wrong order, which has no gradient. Yan
2003, "Optimizing Classifier Performance via an Approximation to the Wilcoxon-Mann-Whitney
Statistic", replaces the step by R(x, y) = (margin - (x - y))^power where x - y < margin, else 0.

No tensor of pairs: for sorted scores x_1 <= x_2 <= ..., all the sums over the positives below,
M_k(t) = sum of (x_t - x_i)^k, follow from the gaps d_t = x_t - x_(t-1) by the binomial theorem,

    M_k(t) - M_k(t-1) = sum over m < k of binomial(k, m) d_t^(k-m) M_m(t-1),

that is one cumulative sum for each k. Nothing is subtracted but neighbours, so no digits are lost,
which prefix sums of the scores' own powers would (a difference of 0.01 to the third power is 1e-6).
"""

from math import comb
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from xray_lightning.errors import ConfigError


def pairwise_auc(logits: Tensor, targets: Tensor, *, margin: float = 0.2, power: int = 3) -> Tensor:
    """Mean over the labels of the mean of R over each label's pairs, on scores = sigmoid(logits).

    O(B log B) time and O(B) memory for each label, in float32 at least. Pairs are those within a
    batch (of one process): a rare finding needs large batches, or a sampler that shows it.

    Args:
        logits: (B, L).
        targets: (B, L), 1 present, 0 absent, NaN unknown.
        margin: by which a positive's score should exceed a negative's, from 0 to 1.
        power: a whole number from 1.

    Returns:
        A scalar; 0 if no label has both a known positive and a known negative.

    >>> pairwise_auc(torch.zeros(2, 1), torch.tensor([[1.0], [0.0]]), margin=0.5, power=2)
    tensor(0.2500)
    """
    scores = torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)))
    positive, negative = targets == 1, targets == 0
    pairs = positive.sum(dim=0) * negative.sum(dim=0)  # (L,)
    sums: Tensor = _SumOverPairs.apply(scores, positive, negative, margin, power)  # (L,)
    return (sums / pairs.clamp(min=1)).sum() / (pairs > 0).sum().clamp(min=1)


class PairwiseAUC(nn.Module):
    """Pairwise ranking loss, see :func:`pairwise_auc`.

    Args:
        margin: by which a positive's score should exceed a negative's.
        power: of what is missing to the margin.

    Raises:
        ConfigError: margin is not in [0, 1], or power is no whole number from 1.
    """

    def __init__(self, *, margin: float = 0.2, power: int = 3) -> None:
        super().__init__()
        if not isinstance(margin, int | float) or not 0 <= margin <= 1:
            raise ConfigError(f"loss.margin must be a number from 0 to 1, got {margin!r}")
        if not isinstance(power, int) or power < 1:
            raise ConfigError(f"loss.power must be a whole number from 1, got {power!r}")
        self.margin, self.power = margin, power

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss of logits (B, L) and targets (B, L)."""
        return pairwise_auc(logits, targets, margin=self.margin, power=self.power)


class _SumOverPairs(torch.autograd.Function):
    """Sum of R over each label's pairs, (L,), of scores (B, L).

    The gradient is written down, not left to autograd: dR/dy = -dR/dx = power (y + margin -
    x)^(power-1), again sums over what lies below (of a negative) and above (of a positive).
    """

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, positive: Tensor, negative: Tensor, margin: float, power: int
    ) -> Tensor:
        keys = torch.where(
            positive, scores - margin, scores
        )  # a pair costs if the negative's is higher
        first = positive.byte().argsort(dim=0, stable=True)  # in a tie, the negative: it costs 0
        order = first.gather(0, keys.gather(0, first).argsort(dim=0, stable=True))
        keys, positive, negative = (x.gather(0, order) for x in (keys, positive, negative))
        below = _power_sums(keys, positive, power)
        above = _power_sums(-keys.flip(0), negative.flip(0), power - 1)[-1].flip(0)
        slope = power * (below[power - 1] * negative - above * positive)  # (B, L), sorted
        ctx.save_for_backward(torch.zeros_like(slope).scatter(0, order, slope))
        return (below[power] * negative).sum(dim=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None, None, None


def _power_sums(keys: Tensor, chosen: Tensor, power: int) -> list[Tensor]:
    """M_0 to M_power, each (B, L): sums over the chosen rows up to each row of ascending keys."""
    gaps = keys.diff(dim=0, prepend=keys[:1])  # (B, L); the first is 0
    sums = [chosen.to(keys.dtype).cumsum(dim=0)]
    before = [sums[0].roll(1, dims=0)]  # what rolls into the first row meets a gap of 0
    for k in range(1, power + 1):
        steps = sum(comb(k, m) * gaps ** (k - m) * before[m] for m in range(k))
        sums.append(torch.as_tensor(steps).cumsum(dim=0))
        before.append(sums[k].roll(1, dims=0))
    return sums
