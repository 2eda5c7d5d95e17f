"""CBAM, and how its blocks get behind modules of a backbone that knows nothing of them."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from xray_lightning.errors import ConfigError, require_choice, require_number
from xray_lightning.models.backbones import trial_features
from xray_lightning.models.batches import record_outputs
from xray_lightning.wording import fault

PARTS = ("both", "channel", "spatial")


class ChannelGate(nn.Module):
    """One gate per channel: sigmoid(MLP(mean over space) + MLP(max over space)).

    Woo et al., CBAM (ECCV 2018), eq. 2; the shared MLP has biases, as in the authors' code.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        place = f"model.cbam_reduction of a map of {channels} channels"
        require_number(place, reduction, 1, channels, "[]")
        inner = channels // reduction
        self.mlp = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels))

    def forward(self, features: Tensor) -> Tensor:
        """Gates (B, C, 1, 1) of a map (B, C, H, W)."""
        mean, peak = features.mean(dim=(2, 3)), features.amax(dim=(2, 3))  # (B, C)
        return torch.sigmoid(self.mlp(mean) + self.mlp(peak))[:, :, None, None]


class SpatialGate(nn.Module):
    """One gate per place: sigmoid(convolution([mean over channels; max over channels])).

    Woo et al., CBAM (ECCV 2018), eq. 3; the convolution has no bias.
    """

    def __init__(self, kernel_size: int = 7) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size of a spatial gate must be odd, got {kernel_size}")
        padding = kernel_size // 2
        self.convolution = nn.Conv2d(2, 1, kernel_size, padding=padding, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Gates (B, 1, H, W) of a map (B, C, H, W)."""
        mean, peak = features.mean(dim=1, keepdim=True), features.amax(dim=1, keepdim=True)
        return torch.sigmoid(self.convolution(torch.cat([mean, peak], dim=1)))


class CBAM(nn.Module):
    """Channel gate, then spatial gate, or one of them.

    Woo et al., CBAM (ECCV 2018), eq. 1: F' = Mc(F) F, F'' = Ms(F') F'.

    Args:
        parts: "both", "channel" or "spatial".
        reduction: of the channel gate.
        kernel_size: of the spatial gate.

    Attributes:
        open: if true the gates are 1 and the map passes unchanged.

    Raises:
        ConfigError: parts, reduction or kernel_size out of range.

    >>> CBAM(16, "spatial", kernel_size=3)(torch.rand(2, 16, 5, 5)).shape
    torch.Size([2, 16, 5, 5])
    """

    def __init__(
        self, channels: int, parts: str = "both", *, reduction: int = 8, kernel_size: int = 7
    ) -> None:
        super().__init__()
        require_choice("model.cbam", parts, PARTS)
        self.channel = ChannelGate(channels, reduction) if parts != "spatial" else None
        self.spatial = SpatialGate(kernel_size) if parts != "channel" else None
        self.open = False

    def forward(self, features: Tensor) -> Tensor:
        """The gated map (B, C, H, W), a new tensor unless the gates are open."""
        for gate in (self.channel, self.spatial):
            if gate is not None and not self.open:
                features = features * gate(features)
        return features

    def after(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Forward hook of the module in front of this block.

        A bound method, so that a deep copy or an unpickled network calls its own block.
        """
        gated: Tensor = self(output)
        return gated


def insert_cbam(
    backbone: Any, names: Sequence[str], image_size: int, *, parts: str, reduction: int
) -> nn.ModuleDict:
    """Put a CBAM block behind each named module; no tensor of the backbone changes or moves."""
    # A trial image of ``image_size`` px shows how many channels they give.
    if isinstance(names, str):
        raise ConfigError(f"model.cbam_after must be a list such as [{names}], got {names!r}")
    require_choice("model.cbam", parts, PARTS)
    known = dict(backbone.named_modules())
    del known[""]  # the backbone itself
    if strange := [name for name in names if name not in known]:
        near = get_close_matches(str(strange[0]), known, n=5)
        top = [key for key in known if "." not in key]
        raise ConfigError(fault("no_module", backbone, strange[0], near, top))
    modules = {name: known[name] for name in names}
    if len(modules) < len(names):
        raise ConfigError(f"model.cbam_after names a module twice: {list(names)}")
    with record_outputs(modules) as outputs:
        if names:
            trial_features(backbone, image_size)
    blocks, square = nn.ModuleDict(), getattr(backbone, "output_fmt", "NCHW") == "NCHW"
    channels = {name: _channels(name, outputs[name], channels_first=square) for name in names}
    for name, module in modules.items():
        block = CBAM(channels[name], parts, reduction=reduction)
        module.register_forward_hook(block.after)
        blocks[name.replace(".", "-")] = block
    return blocks


def _channels(name: str, outputs: list[Any], *, channels_first: bool) -> int:
    if len(outputs) != 1:
        raise ConfigError(fault("runs", name, len(outputs)))
    shape = tuple(outputs[0].shape) if isinstance(outputs[0], Tensor) else ()
    # The trial image is square, and so is a map; (B, H, W, C) shows itself by H = W != C.
    if len(shape) != 4 or not channels_first or shape[2] != shape[3]:
        raise ConfigError(fault("gives_no_map", name, shape))
    return int(shape[1])
