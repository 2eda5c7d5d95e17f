"""One map for each image and label, by any method."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from xray_lightning.errors import ConfigError
from xray_lightning.explain.gradients import head_gradients
from xray_lightning.explain.pixels import PIXELS
from xray_lightning.explain.rules import RULES

METHODS = ("cam", *RULES, *PIXELS)  # of every network
GATES = "cbam"  # of one with CBAM blocks


class Mapped(Protocol):
    """What is asked of a network: its L labels, and its two halves."""

    head: Any

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the maps."""
        ...

    def maps(self, images: Tensor) -> Tensor:
        """(B, L, h, w) of images (B, 1, H, W) in [0, 1]."""
        ...

    def forward_features(self, images: Tensor) -> Tensor:
        """Feature map (B, C, h, w) of images (B, 1, H, W) in [0, 1]."""
        ...

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits (B, L) of a feature map (B, C, h, w)."""
        ...

    def attention_maps(self, images: Tensor) -> dict[str, Tensor]:
        """Spatial gates (B, 1, h, w) of each CBAM block, the last one last."""
        ...

    def modules(self) -> Iterator[Any]:
        """The network and all its parts."""
        ...


def class_map(net: Mapped, images: Tensor, label: str | int, *, method: str = "cam") -> Tensor:
    """Evidence for one finding at each place: its map of :func:`class_maps`.

    Args:
        net: an :class:`~xray_lightning.models.network.XrayNet`.
        images: (B, 1, H, W) float in [0, 1], on the network's device.
        label: name or position of the finding.
        method: one of ``METHODS``.

    Returns:
        (B, h, w), float32 without gradient.

    Raises:
        ConfigError: as :func:`class_maps`.
    """
    return class_maps(net, images, method=method, labels=[label])[:, 0]


def class_maps(
    net: Mapped,
    images: Tensor,
    *,
    method: str = "cam",
    labels: Sequence[str | int] | None = None,
) -> Tensor:
    """Evidence for findings at each place, by one of eight methods, or the gates of CBAM.

    The maps of the first five lie on the feature map, h x w, and come from one pass through the
    backbone whatever the number of labels; only the head is differentiated. For a network of
    tokens the grid of its patches is the feature map. The others are as large as the image. A
    label's gradient is that of its logit; nothing is scaled, so maps of a label can be compared
    between images.

    ========== ==================================================================================
    cam        what the head itself finds, signed. Head "average": the class activation map of
               Zhou et al., Learning Deep Features for Discriminative Localization (CVPR 2016),
               eq. 2, sum_k w_k f_k(x, y), plus its bias: the mean over the map is the logit.
               "max": the same, the maximum is the logit. "lse": the same, the logit is no function
               of it. "pcam": the same, the logit is its mean weighted by its sigmoid. "gem": what
               each place adds, the mean is the logit. "csra": scores, without bias. "attention"
               and "query": attention weights, which sum to 1: where the head looks, not what it
               finds.
    gradcam    Grad-CAM, at least 0. With head "average" relu(CAM without its bias) / (h w).
    gradcam++  Grad-CAM++, at least 0.
    hirescam   gradient times feature, signed. With head "average" Grad-CAM without the relu.
    layercam   LayerCAM, at least 0.
    gradient   absolute gradient on each pixel.
    integrated integrated gradients from a black image (0) in 50 steps, signed; one pass forward
               and back for each step and label.
    occlusion  fall of the logit under a patch of the image's mean, an eighth of the side wide,
               moved by half of that, signed; one pass forward for each of about 225 places.
    cbam       spatial gates of the last CBAM block, in [0, 1], the same for every finding: what the
               network lets through, not what it finds. Of a network that has such a block; those
               of all blocks are ``net.attention_maps``.
    ========== ==================================================================================

    The cells of a feature map need not lie evenly on the image: :func:`~.cells.cell_grids` says
    where they do, for :func:`~xray_lightning.grid.enlarged`.

    Everything is computed in evaluation mode and in
    float32, also within ``torch.inference_mode`` and autocast: in bfloat16 the maps of pixels were
    off by up to 17 % of their largest value (random DenseNet-121). Modes, hooks and ``.grad`` stay
    as they are.

    Args:
        net: an :class:`~xray_lightning.models.network.XrayNet`.
        images: (B, 1, H, W) float in [0, 1], on the network's device.
        method: one of ``METHODS``, or ``GATES``.
        labels: names or positions of K findings; None: all L.

    Returns:
        (B, K, h, w) or (B, K, H, W), float32 without gradient.

    Raises:
        ConfigError: an unknown method, one the network cannot give, a label it does not know, or
            images of another shape.
    """
    _check(net, images, method)
    columns = _columns(net.labels, range(len(net.labels)) if labels is None else labels)
    with undisturbed(net, images.device.type):
        images = images.detach().clone()  # no longer an inference tensor
        if method in PIXELS:
            found = PIXELS[method](_score(net), images, columns)
        else:
            found = _feature_maps(net, images, columns, method)
    return found.detach()


def _feature_maps(net: Mapped, images: Tensor, columns: Sequence[int], method: str) -> Tensor:
    with torch.no_grad():
        if method == GATES:
            *_, gates = net.attention_maps(images).values()  # (B, 1, h, w)
            return gates.expand(-1, len(columns), -1, -1).float()
        if method == "cam":
            return net.maps(images)[:, columns]
        features = net.forward_features(images)
    gradients = head_gradients(net, features, columns)
    return torch.stack([RULES[method](features, gradient) for gradient in gradients], dim=1)


def _score(net: Mapped) -> Any:
    return lambda images: net.forward_head(net.forward_features(images))


def require_method(method: str) -> None:
    """Refuse an unknown method.

    Raises:
        ConfigError: names those there are.
    """
    if method not in (*METHODS, GATES):
        raise ConfigError(f"method must be one of {', '.join((*METHODS, GATES))}, got {method!r}")


def _check(net: Mapped, images: Tensor, method: str) -> None:
    require_method(method)
    own = {"cam": ("maps",), GATES: ("attention_maps",)}
    needed = own.get(method, ("forward_features", "forward_head"))
    missing = [name for name in needed if not hasattr(net, name)]
    if missing:
        raise ConfigError(
            f"method {method!r} needs {' and '.join(missing)} of the network, which "
            f"{type(net).__name__} lacks; give an XrayNet"
        )
    if images.ndim != 4 or images.shape[1] != 1:
        raise ConfigError(f"expected images of shape (B, 1, H, W), got {tuple(images.shape)}")


def _columns(known: tuple[str, ...], labels: Sequence[str | int]) -> list[int]:
    if isinstance(labels, str) or not labels:
        raise ConfigError(f"labels must be a list of one label or more, got {labels!r}")
    return [_position(known, label) for label in labels]


def _position(labels: tuple[str, ...], label: str | int) -> int:
    if isinstance(label, str) and label in labels:
        return labels.index(label)
    if isinstance(label, int) and 0 <= label < len(labels):
        return label
    raise ConfigError(
        f"label must be one of {', '.join(labels)}, or 0 to {len(labels) - 1}, got {label!r}"
    )


@contextmanager
def undisturbed(net: Mapped, device: str) -> Iterator[None]:
    """Evaluation mode, gradients and float32 within, then each module's own mode again."""
    modes: list[tuple[nn.Module, bool]] = [(module, module.training) for module in net.modules()]
    try:
        for module, _ in modes:
            module.training = False
        exact = torch.autocast(device, enabled=False)
        with torch.inference_mode(False), torch.enable_grad(), exact:
            yield
    finally:
        for module, mode in modes:
            module.training = mode
