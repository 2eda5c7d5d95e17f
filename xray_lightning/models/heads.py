"""From a feature map to one logit per label: the heads by name.

Each is a module with ``forward(features)``, logits (B, L) of a feature map (B, C, H, W), and
``maps(features)``, (B, L, H, W), whose meaning its class states.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from xray_lightning.errors import ConfigError
from xray_lightning.models.pooling import AveragePool, GeneralisedMean, LogSumExp, MaxPool
from xray_lightning.models.query import QueryDecoder
from xray_lightning.models.weighting import CSRA, PCAM, AttentionPool

HEADS: dict[str, type[nn.Module]] = {
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
    name: str,
    channels: int,
    labels: int,
    *,
    dropout: float = 0.0,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A head by its name.

    Args:
        name: a key of ``HEADS``.
        channels: C of the feature map.
        labels: number of labels L.
        dropout: probability of dropping a feature.
        options: the head's own keyword arguments, as plain values.

    Raises:
        ConfigError: unknown head, an option it does not have, or a value it refuses.
    """
    if name not in HEADS:
        raise ConfigError(f"model.head must be one of {sorted(HEADS)}, got {name!r}")
    if not isinstance(options, Mapping | None):
        raise ConfigError(f"model.head_options must be a mapping of options, got {options!r}")
    known = _options(HEADS[name])
    unknown = sorted(set(options or {}) - set(known))
    if unknown:
        raise ConfigError(
            f"model.head_options: the head {name!r} has no {unknown}; it takes "
            f"{known or 'no options'}"
        )
    return HEADS[name](channels, labels, dropout=dropout, **(options or {}))


def _options(head: type[nn.Module]) -> list[str]:
    """Keyword-only arguments other than the dropout, which all have."""
    parameters = inspect.signature(head).parameters.values()
    return [p.name for p in parameters if p.kind == p.KEYWORD_ONLY and p.name != "dropout"]
