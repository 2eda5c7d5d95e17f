"""Losses from logits, label by label; an unknown target (NaN) adds no loss and no gradient.

Each is called with logits (B, L) and targets (B, L), 1 present, 0 absent, NaN unknown, and gives
the mean over the known targets, a scalar; 0 if there are none. A share y, between 0 and 1, costs y
times what a present label costs, plus 1 - y times what an absent one does. Logarithms of
p = sigmoid(logit) are taken from the logit, in float32 at least, so that value and gradient are
finite for any logit.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from xray_lightning.errors import ConfigError, require_integer, require_number
from xray_lightning.wording import fault


class WeightedBCE(nn.Module):
    """Mean of -w t log p - (1 - t) log(1 - p), p = sigmoid(logit); w = (N - n) / n of training.

    The class weights of xray14-keras (and of CheXNet's paper, eq. 1, up to a factor). Computed as
    w t softplus(-z) + (1 - t) softplus(z), which is finite for any logit z, also with Hernia's
    weight of 613. Label smoothing e (Szegedy 2016, "Rethinking the Inception Architecture", Sect.
    7, with two classes) makes t = y (1 - e) + e / 2.

    Args:
        positive_weight: w, (L,); NaN, which counts as 1, for a label without positives.
        label_smoothing: e.

    Raises:
        ConfigError: label_smoothing is not in [0, 1).
    """

    positive_weight: Tensor | None

    def __init__(self, positive_weight: Tensor | None, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        weight = None if positive_weight is None else torch.as_tensor(positive_weight)
        self.register_buffer("positive_weight", weight, persistent=False)
        self.label_smoothing = require_number("loss.label_smoothing", label_smoothing, 0, 1)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss of logits (B, L) and targets (B, L)."""
        logits, smoothing = _precise(logits), self.label_smoothing
        present = _share(logits, targets) * (1 - smoothing) + smoothing / 2  # t
        weight = 1.0 if self.positive_weight is None else self.positive_weight.nan_to_num(1.0)
        losses = weight * present * F.softplus(-logits) + (1 - present) * F.softplus(logits)
        return _mean_of_known(losses, targets)


class BCE(WeightedBCE):
    """Binary cross-entropy, as :class:`WeightedBCE`, every weight 1.

    >>> float(BCE()(torch.tensor([[0.0, 9.0]]), torch.tensor([[1.0, torch.nan]])))
    0.6931471824645996
    """

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__(None, label_smoothing=label_smoothing)


class Focal(nn.Module):
    """Mean of -a_t (1 - p_t)^gamma log p_t, times a plain factor.

    Lin 2017, "Focal Loss for Dense Object Detection", eq. 4, with a_t eq. 5: p_t = p for a present
    label, 1 - p for an absent one.

    Args:
        gamma: how much an easy target loses; 0 is binary cross-entropy.
        alpha: a_t = alpha for a present label, 1 - alpha for an absent one; None: 1 for both.
        scale: factor of the whole loss; xray14-keras calls its factor of 2 "alpha".

    Raises:
        ConfigError: gamma or scale is negative, or alpha is not in [0, 1].
    """

    def __init__(
        self, *, gamma: float = 2.0, alpha: float | None = None, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.gamma = require_number("loss.gamma", gamma, 0)
        self.alpha = None if alpha is None else require_number("loss.alpha", alpha, 0, 1, "[]")
        self.scale = require_number("loss.scale", scale, 0)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss of logits (B, L) and targets (B, L)."""
        present, absent = (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)
        return self.scale * _focal(logits, targets, self.gamma, present, absent)


class Asymmetric(nn.Module):
    """Mean of the asymmetric loss, by default with the paper's settings.

    Ridnik 2021, "Asymmetric Loss for Multi-Label Classification", eq. 4 to 7: a present label costs
    -(1 - p)^gamma_positive log p, an absent one -q^gamma_negative log(1 - q), q = max(p - clip, 0).
    The paper sums over the labels, which only scales the loss.

    Args:
        gamma_positive: focusing of the present labels.
        gamma_negative: focusing of the absent ones.
        clip: probability below which an absent label costs nothing; 0: none.
        constant_focus: the powers count as constants in the gradient (not so by timm's default).

    Raises:
        ConfigError: a gamma is negative, or clip is not in [0, 1).
    """

    def __init__(
        self,
        *,
        gamma_positive: float = 0.0,
        gamma_negative: float = 4.0,
        clip: float = 0.05,
        constant_focus: bool = False,
    ) -> None:
        super().__init__()
        self.gamma_positive = require_number("loss.gamma_positive", gamma_positive, 0)
        self.gamma_negative = require_number("loss.gamma_negative", gamma_negative, 0)
        self.clip = require_number("loss.clip", clip, 0, 1)
        self.constant_focus = constant_focus

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss of logits (B, L) and targets (B, L)."""
        logits = _precise(logits)
        # log(1 - q) = min(0, log(1 - p + clip)), finite also where 1 - p underflows and clip = 0.
        margin = torch.full_like(logits, self.clip).log()
        log_rest = -F.relu(-torch.logaddexp(F.logsigmoid(-logits), margin))
        shifted = -torch.expm1(log_rest)  # q, (B, L)
        # q ** (gamma - 1), which overflows in the gradient for a tiny q, is kept out by the clamp
        easy = shifted.clamp(min=torch.finfo(logits.dtype).tiny) ** self.gamma_negative
        hard = torch.exp(self.gamma_positive * F.logsigmoid(-logits))
        if self.constant_focus:
            easy, hard = easy.detach(), hard.detach()
        share = _share(logits, targets)
        losses = share * -hard * F.logsigmoid(logits) + (1 - share) * -easy * log_rest
        return _mean_of_known(losses, targets)


class ClassBalanced(nn.Module):
    """Mean of w_y times the focal loss (Cui 2019, Sect. 4.2 and 4.3).

    The weights w are those of :func:`effective_number_weights`.

    Args:
        class_counts: training images without (row 0) and with (row 1) each label, (2, L).
        beta: see there.
        gamma: of the focal loss; 0: binary cross-entropy.

    Raises:
        ConfigError: class_counts is not (2, L), beta is not in [0, 1), or gamma is negative.
    """

    weights: Tensor

    def __init__(self, class_counts: Tensor, *, beta: float = 0.9999, gamma: float = 0.0) -> None:
        super().__init__()
        class_counts = torch.as_tensor(class_counts)  # lists and arrays too
        if class_counts.ndim != 2 or len(class_counts) != 2 or bool((class_counts < 0).any()):
            raise ConfigError(fault("class_counts", class_counts.tolist()))
        weights = effective_number_weights(class_counts, require_number("loss.beta", beta, 0, 1))
        self.register_buffer("weights", weights, persistent=False)
        self.gamma = require_number("loss.gamma", gamma, 0)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss of logits (B, L) and targets (B, L)."""
        absent, present = self.weights
        return _focal(logits, targets, self.gamma, present, absent)


class ConditionalBCE(nn.Module):
    """Cross-entropy of each label among the images that have its wider findings.

    Pham 2021, "Interpreting chest X-rays via CNNs that exploit hierarchical disease dependencies
    and uncertainty labels" (arXiv:1911.06475), conditional training: the network learns P(finding |
    its wider ones), and a score is the product along the path, which :class:`XrayNet` takes when
    :class:`XrayTask` meets this loss. So no score exceeds that of a wider finding. An image counts
    as much as it is known to have the wider findings; one that has a finding has these too. Pham's
    second stage, the last layer alone on all images, is ``freeze_epochs`` with another loss.

    Args:
        ancestors: whether label j is a wider finding of label i, (L, L).
    """

    ancestors: Tensor
    inverse: Tensor

    def __init__(self, ancestors: Tensor) -> None:
        super().__init__()
        self.register_buffer("ancestors", torch.as_tensor(ancestors).bool(), persistent=False)
        paths = torch.eye(len(self.ancestors), dtype=torch.float64) + self.ancestors
        self.register_buffer("inverse", torch.linalg.inv(paths).round(), persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss of logits (B, L), those of products, and targets (B, L)."""
        logits = _precise(logits)
        log_p = F.logsigmoid(logits.double()) @ self.inverse.T  # of the finding, given wider ones
        log_p = log_p - (log_p + 1e-7).clamp(min=0).detach()  # a product is rounded; not above 1
        share = _share(logits, targets)
        there = torch.maximum(share, (share[..., None] * self.ancestors).amax(dim=1))  # (B, L)
        weight = there[:, None].masked_fill(~self.ancestors, 1.0).prod(2) * ~torch.isnan(targets)
        log_q = torch.log(-torch.expm1(log_p)).where(self.ancestors.any(1), F.logsigmoid(-logits))
        losses = -share * log_p - (1 - share) * log_q  # the widest finding's logit is its own
        return ((losses * weight).sum() / weight.sum().clamp(min=1)).to(logits.dtype)


class PairwiseAUC(nn.Module):
    """Mean over the labels of the mean of R over each label's pairs, on scores = sigmoid(logits).

    1 - AUROC is the share of (positive, negative) pairs in the wrong order, which has no gradient.
    Yan 2003, "Optimizing Classifier Performance via an Approximation to the Wilcoxon-Mann-Whitney
    Statistic", replaces the step by R(x, y) = (margin - (x - y))^power where x - y < margin, else
    0, for the scores x of a positive and y of a negative. Pairs are those within a batch (of one
    process): a rare finding needs large batches, or a sampler that shows it. Shares are in no pair;
    the loss is 0 if no label has both a known positive and a known negative.

    Args:
        margin: by which a positive's score should exceed a negative's.
        power: of what lacks.

    Raises:
        ConfigError: margin is not in [0, 1], or power is not an integer of at least 1.

    >>> PairwiseAUC(margin=0.5, power=2)(torch.zeros(2, 1), torch.tensor([[1.0], [0.0]]))
    tensor(0.2500)
    """

    def __init__(self, *, margin: float = 0.2, power: int = 3) -> None:
        super().__init__()
        self.margin = require_number("loss.margin", margin, 0, 1, "[]")
        self.power = require_integer("loss.power", power, 1)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss of logits (B, L) and targets (B, L)."""
        scores = torch.sigmoid(_precise(logits))
        pairs = (targets == 1)[:, None] & (targets == 0)[None]  # (B, B, L): positive, negative
        missing = F.relu(self.margin - (scores[:, None] - scores[None]))  # (B, B, L)
        counts = pairs.sum(dim=(0, 1))  # (L,)
        means = (missing**self.power * pairs).sum(dim=(0, 1)) / counts.clamp(min=1)
        return means.sum() / (counts > 0).sum().clamp(min=1)


def effective_number_weights(class_counts: Tensor, beta: float) -> Tensor:
    """Class weights (1 - beta) / (1 - beta^n), (2, L), which sum to the number that occur."""
    # Cui 2019, "Class-Balanced Loss Based on Effective Number of Samples", Proposition 1 and Sect.
    # 4. Absence and presence of each label are two classes; 1 for one that does not occur.
    counts = class_counts.double()
    log_beta = torch.tensor(beta, dtype=torch.float64, device=counts.device).log()
    weights = (1 - beta) / -torch.expm1(counts * log_beta)  # no cancellation for beta near 1
    weights = weights.masked_fill(counts == 0, torch.nan)
    return (weights / weights.nanmean()).nan_to_num(1.0).float()


def _focal(
    logits: Tensor, targets: Tensor, gamma: float, present: Tensor | float, absent: Tensor | float
) -> Tensor:
    """Mean of -w_t (1 - p_t)^gamma log p_t with the weights w_t of ``present`` and ``absent``."""
    # The power is taken by its logarithm, whose gradient stays finite.
    logits = _precise(logits)
    share, log_p, log_rest = _share(logits, targets), F.logsigmoid(logits), F.logsigmoid(-logits)
    shown = share * (present * (torch.exp(gamma * log_rest) * log_p))
    losses = -(shown + (1 - share) * (absent * (torch.exp(gamma * log_p) * log_rest)))
    return _mean_of_known(losses, targets)


def _share(logits: Tensor, targets: Tensor) -> Tensor:
    """The targets, 0 where unknown, in the logits' precision."""
    return targets.nan_to_num(0.0).to(logits.dtype)


def _mean_of_known(losses: Tensor, targets: Tensor) -> Tensor:
    known = ~torch.isnan(targets)
    return (losses * known).sum() / known.sum().clamp(min=1)


def _precise(logits: Tensor) -> Tensor:
    """In float32 at least: bfloat16 has two to three digits, float16 ends at 65,504."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
