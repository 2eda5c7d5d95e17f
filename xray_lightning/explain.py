"""Where a network sees a finding: one map for each image."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from xray_lightning.errors import ConfigError


class Mapped(Protocol):
    """What is asked of a network: its L labels, and evidence for each at each place."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the maps."""
        ...

    def maps(self, images: Tensor) -> Tensor:
        """(B, L, h, w) of images (B, 1, H, W) in [0, 1]."""
        ...

    def modules(self) -> Iterator[Any]:
        """The network and all its parts."""
        ...


@torch.no_grad()
def class_map(net: Mapped, images: Tensor, label: str | int) -> Tensor:
    """Evidence for one finding at each place of the network's feature map.

    Of a network with the average-pool head this is the class activation map of Zhou et al.,
    Learning Deep Features for Discriminative Localization (CVPR 2016), eq. 2, sum_k w_k f_k(x, y)
    with the weights of that label, plus its bias: the mean over the map is the label's logit. Other
    heads give the map their ``maps`` describes.

    One pass through the network in evaluation mode; the mode of each module is restored.

    Args:
        net: an :class:`~xray_lightning.models.network.XrayNet`.
        images: (B, 1, H, W) float in [0, 1], on the network's device.
        label: name or position of the finding.

    Returns:
        (B, h, w), without gradient.

    Raises:
        ConfigError: a label the network does not know, or images of another shape.
    """
    index = _position(net.labels, label)
    if images.ndim != 4 or images.shape[1] != 1:
        raise ConfigError(f"expected images of shape (B, 1, H, W), got {tuple(images.shape)}")
    with _evaluating(net):
        return net.maps(images)[:, index]


def _position(labels: tuple[str, ...], label: str | int) -> int:
    if isinstance(label, str) and label in labels:
        return labels.index(label)
    if isinstance(label, int) and 0 <= label < len(labels):
        return label
    raise ConfigError(
        f"label must be one of {', '.join(labels)}, or 0 to {len(labels) - 1}, got {label!r}"
    )


@contextmanager
def _evaluating(net: Mapped) -> Iterator[None]:
    """Evaluation mode, then each module's own mode again (frozen layers have their own)."""
    modes: list[tuple[nn.Module, bool]] = [(module, module.training) for module in net.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode
