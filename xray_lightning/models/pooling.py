"""Heads that pool a feature map by a formula: average, max, generalised mean, log-sum-exp."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from xray_lightning.errors import ConfigError, require_integer


class PoolingHead(nn.Module):
    """Pooling, dropout, then one linear layer; a subclass says how it pools.

    Args:
        channels: C of the feature map.
        labels: number of labels L.
        dropout: probability of dropping a pooled feature.
    """

    kind_of_dropout: type[nn.Module] = nn.Dropout

    def __init__(self, channels: int, labels: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = self.kind_of_dropout(dropout)
        self.classifier = nn.Linear(channels, labels)

    def pool(self, features: Tensor) -> Tensor:
        """(B, C) of a feature map (B, C, H, W)."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, L) of a feature map (B, C, H, W)."""
        logits: Tensor = self.classifier(self.dropout(self.pool(features)))
        return logits

    def maps(self, features: Tensor) -> Tensor:
        """The linear layer at every place: logits (B, L, H, W), a class activation map."""
        return F.conv2d(features, self.classifier.weight[:, :, None, None], self.classifier.bias)


class AveragePool(PoolingHead):
    """Mean over space, then one linear layer: the head of Xception, DenseNet and CheXNet.

    The logit is the mean of its map.
    """

    def pool(self, features: Tensor) -> Tensor:
        """Mean over space."""
        return features.mean(dim=(2, 3))


class MaxPool(PoolingHead):
    """A linear layer at every place, then the maximum over space.

    Oquab et al., Is object localization for free? (CVPR 2015), section 3. The logit is the
    maximum of its map. Dropout drops whole channels.
    """

    kind_of_dropout = nn.Dropout2d

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, L) of a feature map (B, C, H, W)."""
        return self.maps(self.dropout(features)).amax(dim=(2, 3))


class GeneralisedMean(PoolingHead):
    """Generalised mean (GeM) over space, (mean of x^p)^(1/p), with a learned power.

    Radenovic et al., Fine-tuning CNN Image Retrieval with No Human Annotation (TPAMI 2018), eq. 3.
    A power of 1 gives the mean, a large one the maximum. Negative features, as a ViT gives them,
    count as 0 (x is not below 1e-6). The maps are what each place adds: w x^p / pooled^(p - 1) + b;
    the logit is their mean.

    Args:
        power: p before training.

    Raises:
        ConfigError: p is not above 0.
    """

    def __init__(
        self, channels: int, labels: int, *, dropout: float = 0.0, power: float = 3.0
    ) -> None:
        super().__init__(channels, labels, dropout=dropout)
        self.power = nn.Parameter(torch.tensor([require_positive("power", power)]))

    def pool(self, features: Tensor) -> Tensor:
        """Generalised mean over space; divided by the largest value first, no power overflows."""
        features = features.clamp(min=1e-6)
        peak = features.amax(dim=(2, 3), keepdim=True).detach()  # cancels, so it needs no gradient
        mean = (features / peak).pow(self.power).mean(dim=(2, 3))
        return peak[:, :, 0, 0] * mean.pow(1 / self.power)

    def maps(self, features: Tensor) -> Tensor:
        """What each place adds to the logits: (B, L, H, W)."""
        pooled = self.pool(features)[:, :, None, None]
        share = (features.clamp(min=1e-6) / pooled).pow(self.power)  # its mean over space is 1
        return super().maps(pooled * share)


class LogSumExp(PoolingHead):
    """Log-sum-exp pooling, (1 / r) log(mean of exp(r x)) over space, then one linear layer.

    Wang et al., ChestX-ray8 (CVPR 2017), eq. 1, without overflow: between the mean (r to 0) and the
    maximum. The maps are the linear layer at every place, the heat maps of Wang et al.; the logit
    lies near their maximum, but is no function of them.

    Args:
        sharpness: r.

    Raises:
        ConfigError: r is not above 0.
    """

    def __init__(
        self, channels: int, labels: int, *, dropout: float = 0.0, sharpness: float = 10.0
    ) -> None:
        super().__init__(channels, labels, dropout=dropout)
        self.sharpness = require_positive("sharpness", sharpness)

    def pool(self, features: Tensor) -> Tensor:
        """Log-sum-exp over space."""
        total = torch.logsumexp(self.sharpness * features, dim=(2, 3))
        return (total - math.log(features.shape[2] * features.shape[3])) / self.sharpness


def require_positive(option: str, value: Any, *, or_zero: bool = False) -> float:
    """An option that must be a finite number above 0, or also 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and (0 < value < math.inf or (or_zero and value == 0)):
        return float(value)
    bound = "of at least 0" if or_zero else "above 0"
    raise ConfigError(f"model.head_options.{option} must be a number {bound}, got {value!r}")


def require_count(option: str, value: int) -> int:
    """An option that must be an integer of at least 1."""
    require_integer(f"model.head_options.{option}", value, 1)
    return value
