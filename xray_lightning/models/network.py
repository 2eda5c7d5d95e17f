"""XrayNet: a timm backbone and a head, normalisation inside."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xray_lightning.errors import ConfigError
from xray_lightning.models.heads import AveragePool
from xray_lightning.models.weights import (
    LoadReport,
    create_backbone,
    load_backbone,
    pretrained_backbone,
)


class XrayNet(nn.Module):
    """Radiographs in, one logit per label out.

    Takes images in [0, 1], (B, 1, H, W), and normalises inside with the mean and standard
    deviation the backbone was pretrained with, so a checkpoint needs no side knowledge.

    Args:
        labels: the L labels.
        backbone: any timm network that gives a feature map or patch tokens.
        weights: "imagenet", "none", or a path (.safetensors of timm, or our checkpoint).
        dropout: before the linear layer of the head.
        image_size: side in pixels; networks of fixed input size (ViT) are built for it.
        mean: subtracted from the images; None: what timm states for the backbone's weights.
        std: the images are divided by it; None: likewise.

    Raises:
        ConfigError: unknown backbone, no labels, or features that are no map.
        WeightsError: the weights cannot be had or fit only in part.
    """

    def __init__(
        self,
        labels: Sequence[str],
        backbone: str = "legacy_xception",
        *,
        weights: str = "none",
        dropout: float = 0.0,
        image_size: int = 224,
        mean: float | None = None,
        std: float | None = None,
    ) -> None:
        super().__init__()
        if not labels:
            raise ConfigError("a network needs at least one label")
        if not 0 <= dropout < 1:
            raise ConfigError(f"model.dropout must be at least 0 and below 1, got {dropout}")
        self.config: dict[str, Any] = {
            "labels": list(labels),
            "backbone": backbone,
            "dropout": dropout,
            "image_size": image_size,
        }
        self.load_report: LoadReport | None = None
        self.backbone = self._make_backbone(backbone, weights, image_size)
        self.layout, channels = _layout(self.backbone, image_size)
        facts = self.backbone.pretrained_cfg
        self.mean = sum(facts["mean"]) / len(facts["mean"]) if mean is None else mean
        self.std = sum(facts["std"]) / len(facts["std"]) if std is None else std
        self.config |= {"mean": self.mean, "std": self.std}  # a later timm may state others
        self.backbone.to(memory_format=torch.channels_last)  # faster convolutions on CPU and GPU
        self.head = AveragePool(channels, len(labels), dropout=dropout)

    def _make_backbone(self, name: str, weights: str, image_size: int) -> Any:
        if weights == "imagenet":
            backbone, self.load_report = pretrained_backbone(name, image_size=image_size)
            return backbone
        backbone = create_backbone(name, image_size=image_size)
        if weights != "none":
            self.load_report = load_backbone(backbone, Path(weights))
        return backbone

    @property
    def labels(self) -> tuple[str, ...]:
        """The L labels, in the order of the logits."""
        return tuple(self.config["labels"])

    def forward_features(self, images: Tensor) -> Tensor:
        """Feature map (B, C, h, w) of images (B, 1, H, W) in [0, 1]."""
        images = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        features = self.backbone.forward_features(images)
        features = self.backbone.forward_head(features, pre_logits=True)  # a last norm, if any
        return _to_map(features, self.layout, self.backbone)

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits (B, L) of a feature map (B, C, h, w), always in float32.

        Under bfloat16 autocast a logit near -4 would move in steps of 0.03 and make ties.
        """
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.head(features.float())
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, L) of images (B, 1, H, W) in [0, 1]."""
        return self.forward_head(self.forward_features(images))

    def maps(self, images: Tensor) -> Tensor:
        """What the head finds where, (B, L, h, w), of images (B, 1, H, W) in [0, 1]."""
        features = self.forward_features(images)
        with torch.autocast(features.device.type, enabled=False):
            maps: Tensor = self.head.maps(features.float())
        return maps


def _layout(backbone: Any, image_size: int) -> tuple[str, int]:
    """How the backbone gives its features, "NCHW", "NHWC" or "NLC" (tokens), and their channels."""
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            features = backbone.forward_features(torch.zeros(1, 1, image_size, image_size))
            features = backbone.forward_head(features, pre_logits=True)
    except Exception as error:  # each architecture refuses a size in its own way
        raise ConfigError(
            f"model.backbone: {backbone.pretrained_cfg['architecture']!r} cannot take images of "
            f"image_size={image_size} pixels ({error})"
        ) from error
    backbone.train(training)
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


def _token_count(backbone: Any) -> int | None:
    """Patch tokens and class tokens; None for a network that does not say how they lie."""
    grid = getattr(getattr(backbone, "patch_embed", None), "grid_size", None)
    prefix = getattr(backbone, "num_prefix_tokens", None)
    return None if grid is None or prefix is None else int(prefix + grid[0] * grid[1])


def _to_map(features: Tensor, layout: str, backbone: Any) -> Tensor:
    if layout == "NHWC":
        return features.permute(0, 3, 1, 2)
    if layout == "NLC":
        tokens: Tensor = features[:, backbone.num_prefix_tokens :]  # (B, h * w, C)
        height, width = backbone.patch_embed.grid_size
        return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)
    return features
