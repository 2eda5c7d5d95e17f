"""How a backbone gives its features, and how they become a map (B, C, h, w)."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from xray_lightning.errors import ConfigError


def trial_features(backbone: Any, image_size: int) -> Tensor:
    """Raw features of one black image, found in evaluation mode.

    Raises:
        ConfigError: the backbone cannot take images of that size.
    """
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            features = backbone.forward_features(torch.zeros(1, 1, image_size, image_size))
            raw: Tensor = backbone.forward_head(features, pre_logits=True)
    except Exception as error:  # each architecture refuses a size in its own way
        raise ConfigError(
            f"model.backbone: {backbone.pretrained_cfg['architecture']!r} cannot take images of "
            f"image_size={image_size} pixels ({error})"
        ) from error
    backbone.train(training)
    return raw


def traced_sizes(net: nn.Module, image_size: int) -> tuple[float, int, bool]:
    """What a network makes of the size of its images, from one black image in evaluation mode.

    Returns:
        The share of an image's area that convolutions without overlap (patches) read; the side in
        pixels that divides evenly; whether a batch norm sees one value a channel.
    """
    patches: dict[int, int] = {}  # side of the input -> of a patch
    single: list[bool] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            single.append(inputs[0].numel() == module.num_features)
        elif isinstance(module, nn.Conv2d) and module.kernel_size == module.stride != (1, 1):
            patches[inputs[0].shape[-1]] = module.stride[0]

    handles = [module.register_forward_pre_hook(look) for module in net.modules()]
    training = net.training
    with torch.no_grad():
        net.eval()(torch.zeros(1, 1, image_size, image_size))
    net.train(training)
    for handle in handles:
        handle.remove()
    share = math.prod((side // patch * patch / side) ** 2 for side, patch in patches.items())
    return share, math.prod(patches.values()), any(single)


def layout_of(backbone: Any, image_size: int) -> tuple[str, int]:
    """How the features lie, "NCHW", "NHWC" or "NLC" (tokens), and their channels.

    Raises:
        ConfigError: the features are neither a map nor patch tokens with a stated grid.
    """
    features = trial_features(backbone, image_size)
    if features.shape[1:-1] == (_token_count(backbone),):
        return "NLC", features.shape[2]
    if features.ndim == 4 and getattr(backbone, "output_fmt", "NCHW") == "NHWC":
        return "NHWC", features.shape[3]
    known = (backbone.num_features, getattr(backbone, "head_hidden_size", None))  # MobileNet's head
    if features.ndim == 4 and features.shape[1] in known:
        return "NCHW", features.shape[1]
    raise ConfigError(
        f"model.backbone: {backbone.pretrained_cfg['architecture']!r} gives features of shape "
        f"{tuple(features.shape)}, which are neither a map (B, C, h, w) nor patch tokens (B, N, C) "
        "whose grid it states"
    )


def to_map(features: Tensor, layout: str, backbone: Any) -> Tensor:
    """The raw features as a map (B, C, h, w)."""
    if layout == "NHWC":
        return features.permute(0, 3, 1, 2)
    if layout == "NLC":
        tokens: Tensor = features[:, backbone.num_prefix_tokens :]  # (B, h * w, C)
        height, width = backbone.patch_embed.grid_size
        return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, height, width)
    return features


def _token_count(backbone: Any) -> int | None:
    """Patch tokens and class tokens; None for a network that does not say how they lie."""
    grid = getattr(getattr(backbone, "patch_embed", None), "grid_size", None)
    prefix = getattr(backbone, "num_prefix_tokens", None)
    return None if grid is None or prefix is None else int(prefix + grid[0] * grid[1])
