"""Losses from logits; an unknown target (NaN) adds no loss and no gradient."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


def binary_cross_entropy(
    logits: Tensor, targets: Tensor, positive_weight: Tensor | None = None
) -> Tensor:
    """Mean over the known targets of -w y log p - (1 - y) log(1 - p), p = sigmoid(logit).

    Computed from logits as w y softplus(-z) + (1 - y) softplus(z), which is finite for any
    logit, also with Hernia's weight of 613.

    Args:
        logits: (B, L).
        targets: (B, L), 1 present, 0 absent, NaN unknown.
        positive_weight: w, (L,); NaN where a label has no positive in training, where it is
            never used.

    Returns:
        A scalar; 0 if every target is unknown.

    >>> float(binary_cross_entropy(torch.tensor([[0.0, 9.0]]), torch.tensor([[1.0, torch.nan]])))
    0.6931471824645996
    """
    known = ~torch.isnan(targets)
    positive = targets == 1
    weight = (
        torch.ones_like(logits) if positive_weight is None else positive_weight.expand_as(logits)
    )
    losses = torch.where(positive, weight.nan_to_num(1.0) * F.softplus(-logits), F.softplus(logits))
    return (losses * known).sum() / known.sum().clamp(min=1)


class BCE(nn.Module):
    """Binary cross-entropy, see :func:`binary_cross_entropy`."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss of logits (B, L) and targets (B, L)."""
        return binary_cross_entropy(logits, targets)


class WeightedBCE(nn.Module):
    """Binary cross-entropy with positives weighted by (N - n) / n of the training part.

    The class weights of xray14-keras (and of CheXNet's paper, eq. 1, up to a factor).

    Args:
        positive_weight: (L,), NaN for a label without positives.
    """

    positive_weight: Tensor

    def __init__(self, positive_weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("positive_weight", positive_weight, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss of logits (B, L) and targets (B, L)."""
        return binary_cross_entropy(logits, targets, self.positive_weight)
