"""From a feature map to one logit per label: the heads by name.

Each is a module with ``forward(features)``, logits (B, L) of a feature map (B, C, H, W), and
``maps(features)``, (B, L, H, W), whose meaning its class states.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from xray_lightning.errors import ConfigError, require_integer, require_number
from xray_lightning.wording import fault

OPTION = "model.head_options."


class AveragePool(nn.Module):
    """Mean over space, then one linear layer: the head of Xception, DenseNet and CheXNet.

    The heads below that pool in another way, with the same dropout and linear layer, derive of it.
    """

    kind_of_dropout: type[nn.Module] = nn.Dropout

    def __init__(self, channels: int, labels: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = self.kind_of_dropout(dropout)
        self.classifier = nn.Linear(channels, labels)

    def pool(self, features: Tensor) -> Tensor:
        """(B, C) of a feature map (B, C, H, W): its mean over space."""
        return features.mean(dim=(2, 3))

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, L) of a feature map (B, C, H, W)."""
        logits: Tensor = self.classifier(self.dropout(self.pool(features)))
        return logits

    def maps(self, features: Tensor) -> Tensor:
        """The linear layer at every place: logits (B, L, H, W), a class activation map."""
        return F.conv2d(features, self.classifier.weight[:, :, None, None], self.classifier.bias)


class MaxPool(AveragePool):
    """A linear layer at every place, then the maximum over space.

    Oquab et al. (CVPR 2015), section 3. Dropout drops whole channels.
    """

    kind_of_dropout = nn.Dropout2d

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, L) of a feature map (B, C, H, W)."""
        return self.maps(self.dropout(features)).amax(dim=(2, 3))


class GeneralisedMean(AveragePool):
    """Generalised mean (GeM) over space, (mean of x^p)^(1/p), with a learned power.

    Radenovic et al. (TPAMI 2018), eq. 3. p = 1 is the mean. Negative features, as of a ViT, count
    as 0 (x >= 1e-6). Maps: w x^p / pooled^(p - 1) + b; the logit is their mean.
    """

    def __init__(
        self, channels: int, labels: int, *, dropout: float = 0.0, power: float = 3.0
    ) -> None:
        super().__init__(channels, labels, dropout=dropout)
        power = require_number(OPTION + "power", power, 0, ends="()")
        self.power = nn.Parameter(torch.tensor([power]))

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


class LogSumExp(AveragePool):
    """Log-sum-exp pooling, (1 / r) log(mean of exp(r x)) over space, then one linear layer.

    Wang et al., ChestX-ray8 (CVPR 2017), eq. 1, without overflow: from mean (r to 0) to maximum.
    Maps: the linear layer at every place; the logit lies near their maximum, no function of them.
    """

    def __init__(
        self, channels: int, labels: int, *, dropout: float = 0.0, sharpness: float = 10.0
    ) -> None:
        super().__init__(channels, labels, dropout=dropout)
        self.sharpness = require_number(OPTION + "sharpness", sharpness, 0, ends="()")

    def pool(self, features: Tensor) -> Tensor:
        """Log-sum-exp over space."""
        total = torch.logsumexp(self.sharpness * features, dim=(2, 3))
        return (total - math.log(features.shape[2] * features.shape[3])) / self.sharpness


MAXIMUM = 99.0  # the temperature that stands for the maximum, as in the code of CSRA's authors


class WeightingHead(AveragePool):
    """A weighted mean over space for each label, dropout, then the label's own linear unit."""

    def weights(self, features: Tensor) -> Tensor:
        """Weights (B, L, H, W) of a feature map (B, C, H, W); those of a label sum to 1."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, L) of a feature map (B, C, H, W)."""
        pooled = torch.einsum("blhw,bchw->blc", self.weights(features), features)
        logits: Tensor = self.dropout(pooled) * self.classifier.weight  # (B, L, C)
        return logits.sum(dim=2) + self.classifier.bias


class AttentionPool(WeightingHead):
    """Attention pooling with one map for each label.

    Ilse et al. (ICML 2018), eq. 7 and 8: weights, which are the maps, softmax over space of
    u tanh(V x); gated, eq. 9: of u (tanh(V x) sigmoid(U x)). The logit is no function of them.
    """

    def __init__(
        self,
        channels: int,
        labels: int,
        *,
        dropout: float = 0.0,
        hidden: int = 128,  # rows of V
        gated: bool = False,  # eq. 9
    ) -> None:
        super().__init__(channels, labels, dropout=dropout)
        if not isinstance(gated, bool):
            raise ConfigError(f"{OPTION}gated must be true or false, got {gated!r}")
        require_integer(OPTION + "hidden", hidden, 1)
        self.content = nn.Linear(channels, hidden, bias=False)  # V
        self.gate = nn.Linear(channels, hidden, bias=False) if gated else None  # U
        self.score = nn.Linear(hidden, labels, bias=False)  # u of each label

    def weights(self, features: Tensor) -> Tensor:
        """Attention weights (B, L, H, W); those of a label sum to 1."""
        places = features.flatten(2).transpose(1, 2)  # (B, H * W, C)
        hidden = torch.tanh(self.content(places))
        if self.gate is not None:
            hidden = hidden * torch.sigmoid(self.gate(places))
        return _softmax(self.score(hidden).transpose(1, 2), features)

    maps = weights


class PCAM(WeightingHead):
    """Probabilistic class activation maps.

    Ye et al., Probabilistic-CAM Pooling (2020): the weights are sigmoid(w x + b) over its sum, with
    the classifier's w and b. Maps: w x + b; the logit is their mean under the weights.
    """

    def weights(self, features: Tensor) -> Tensor:
        """Sigmoid of the maps over its sum (B, L, H, W)."""
        # softmax(log s) = s / sum(s), also where every s is too small for a float32
        return _softmax(F.logsigmoid(self.maps(features)), features)


class CSRA(nn.Module):
    """Class-specific residual attention.

    Zhu and Wu (ICCV 2021), eq. 2 to 6: scores s of a classifier of unit length without bias; the
    logit is mean(s) + lambda sum(softmax(T s) s) over space, summed over T, each with a classifier
    of its own. The maps are the scores, summed likewise. Dropout drops whole channels.
    """

    def __init__(
        self,
        channels: int,
        labels: int,
        *,
        dropout: float = 0.0,
        temperatures: Sequence[float] = (1.0,),  # T; 99: maximum; the paper's: 1, 2, 4, 99
        residual: float = 0.1,  # lambda
    ) -> None:
        super().__init__()
        if not isinstance(temperatures, list | tuple) or not temperatures:
            raise ConfigError(fault("temperatures", temperatures))
        self.temperatures = [
            require_number(OPTION + "temperatures", value, 0, ends="()") for value in temperatures
        ]
        self.residual = require_number(OPTION + "residual", residual, 0)
        self.dropout = nn.Dropout2d(dropout)
        units = (nn.Linear(channels, labels, bias=False) for _ in self.temperatures)
        self.classifiers = nn.ModuleList(units)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, L) of a feature map (B, C, H, W)."""
        logits = []
        scores = self._scores(self.dropout(features))
        for places, temperature in zip(scores, self.temperatures, strict=True):
            s = places.flatten(2)  # (B, L, H * W)
            if temperature == MAXIMUM:
                attended = s.amax(dim=2)
            else:
                attended = (s * (temperature * s).softmax(dim=2)).sum(dim=2)
            logits.append(s.mean(dim=2) + self.residual * attended)
        return torch.stack(logits).sum(dim=0)

    def maps(self, features: Tensor) -> Tensor:
        """Scores (B, L, H, W), summed over the temperatures."""
        return torch.stack(self._scores(features)).sum(dim=0)

    def _scores(self, features: Tensor) -> list[Tensor]:
        units = [F.normalize(weight, dim=1) for weight in self.classifiers.parameters()]  # (L, C)
        return [F.conv2d(features, unit[:, :, None, None]) for unit in units]


def _softmax(scores: Tensor, features: Tensor) -> Tensor:
    """Softmax over space; (B, L, H, W)."""
    return scores.flatten(2).softmax(dim=2).reshape(*scores.shape[:2], *features.shape[2:])


class QueryDecoder(nn.Module):
    """One decoder layer without self-attention, with one fixed query for each label.

    Ridnik et al., ML-Decoder (WACV 2023), section 2.4: queries that are not learned attend to the
    places, embedded by a linear layer and a ReLU; groups of one. The maps are the attention weights
    averaged over the heads, which say where the head looks; the logit is no function of them.
    """

    queries: Tensor  # (L, D)

    def __init__(
        self,
        channels: int,
        labels: int,
        *,
        dropout: float = 0.0,
        width: int = 768,  # D of the embedded places and the queries
        attention_heads: int = 8,
        feedforward: int = 2048,  # units
    ) -> None:
        super().__init__()
        require_integer(OPTION + "width", width, 1)
        require_integer(OPTION + "attention_heads", attention_heads, 1)
        if width % attention_heads:
            raise ConfigError(f"{OPTION}width={width} is no multiple of {attention_heads=}")
        self.embedding = nn.Linear(channels, width)
        self.register_buffer("queries", torch.randn(labels, width))
        self.attention = nn.MultiheadAttention(width, attention_heads, dropout, batch_first=True)
        self.expand = nn.Linear(width, require_integer(OPTION + "feedforward", feedforward, 1))
        self.contract = nn.Linear(feedforward, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, labels)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, L) of a feature map (B, C, H, W)."""
        asked, places = self._embed(features)
        answer, _ = self.attention(asked, places, places, need_weights=False)
        asked = self.norms[1](asked + self.dropout(answer))
        hidden = self.dropout(torch.relu(self.expand(asked)))
        asked = self.norms[2](asked + self.dropout(self.contract(hidden)))  # (B, L, D)
        logits: Tensor = asked * self.classifier.weight
        return logits.sum(dim=2) + self.classifier.bias

    def maps(self, features: Tensor) -> Tensor:
        """Attention weights (B, L, H, W); those of a label sum to 1."""
        asked, places = self._embed(features)
        weights: Tensor = self.attention(asked, places, places)[1]  # (B, L, H * W)
        return weights.reshape(*weights.shape[:2], *features.shape[2:])

    def _embed(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, L, D) and places (B, H * W, D)."""
        # not len(features), which torch.export takes for a constant
        queries = self.queries.expand(features.shape[0], -1, -1)
        asked = self.norms[0](queries + self.dropout(queries))
        return asked, torch.relu(self.embedding(features.flatten(2).transpose(1, 2)))


# Takes (channels, labels, dropout=..., **options); gives a module with forward(features), logits
# (B, L) of a feature map (B, C, H, W), and, if it is to be asked for maps, maps(features),
# (B, L, H, W).
HeadFactory = Callable[..., nn.Module]

HEADS: dict[str, HeadFactory] = {
    "average": AveragePool,
    "max": MaxPool,
    "gem": GeneralisedMean,
    "lse": LogSumExp,
    "attention": AttentionPool,
    "pcam": PCAM,
    "csra": CSRA,
    "query": QueryDecoder,
}


def make_head(
    head: str | HeadFactory,
    channels: int,
    labels: int,
    *,
    dropout: float = 0.0,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A head by its name, or of a class or function of your own (see :data:`HeadFactory`)."""
    if isinstance(head, str) and head not in HEADS:
        raise ConfigError(f"model.head must be one of {sorted(HEADS)}, got {head!r}")
    if not isinstance(options, Mapping | None):
        raise ConfigError(f"model.head_options must be a mapping of options, got {options!r}")
    factory = HEADS[head] if isinstance(head, str) else head
    parameters = inspect.signature(factory).parameters.values()
    known = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY and p.name != "dropout"]
    if unknown := sorted(set(options or {}) - set(known)):
        raise ConfigError(fault("head_options", head, unknown, known))
    return factory(channels, labels, dropout=dropout, **(options or {}))


def describe_head(
    head: str | HeadFactory, options: Mapping[str, Any] | None
) -> tuple[str, dict[str, Any]]:
    """Name and options as plain values; of a class of your own "module.Class"."""
    given = dict(options or {})
    if isinstance(head, str):
        return head, given
    if isinstance(head, partial):
        return describe_head(head.func, {**head.keywords, **given})
    return f"{head.__module__}.{head.__qualname__}", given
