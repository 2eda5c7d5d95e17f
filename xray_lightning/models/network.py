"""XrayNet: a timm backbone, attention blocks (CBAM) and a head, normalisation inside."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrize

from xray_lightning.errors import ConfigError, require_choice, require_integer, require_number
from xray_lightning.models.backbones import layout_of, load_network, to_map, trial_features
from xray_lightning.models.batches import evaluation_mode, record_outputs, run_batches
from xray_lightning.models.heads import HeadFactory, describe_head, make_head
from xray_lightning.wording import fault

NORMALISATIONS = ("fixed", "image")
PARTS = ("both", "channel", "spatial")  # of a CBAM block


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
        self.convolution = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

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


class XrayNet(nn.Module):
    """Radiographs in, one logit per label out.

    Takes images in [0, 1], (B, 1, H, W), and normalises inside, so a checkpoint needs no side
    knowledge: with the mean and standard deviation the backbone was pretrained with, or each image
    with its own.

    Args:
        labels: the L labels.
        backbone: any timm network that gives a feature map or patch tokens.
        weights: "imagenet", "none", or a path (.safetensors of timm, or our checkpoint).
        head: how the feature map becomes logits: a key of :data:`~.heads.HEADS`, or a class or
            function of your own (see :data:`~.heads.HeadFactory`).
        head_options: keyword arguments of that head.
        cbam_after: modules of a convolutional backbone that get a CBAM block behind them, by
            their names in ``named_modules``; in Xception "block3" and "block12" is xray14-keras'
            design.
        cbam: parts of the blocks, "both", "channel" or "spatial".
        cbam_reduction: of their channel gates.
        dropout: in the head, before its linear layer.
        image_size: side in pixels; networks of fixed input size (ViT) are built for it.
        normalise: "fixed", by mean and std; or "image", each image by its own (xray14-keras).
        mean: subtracted from the images; None: what timm states for the backbone's weights.
        std: the images are divided by it; None: likewise.
        finetune: "full"; or what of the backbone learns: "bitfit", its biases (Ben Zaken 2022);
            "lora", a product added to the weight of each linear layer (Hu 2022).
        lora_rank: inner size of these products.
        ancestors: places of a label and of a wider finding, whose score is a factor of its own.

    Attributes:
        attention: the CBAM blocks; the backbone calls them by forward hooks, so its own tensors
            keep their names.
        config: the arguments that build this network again, as plain values.

    Raises:
        ConfigError: unknown backbone, head or module, no labels, or features that are no map.
        WeightsError: the weights cannot be had or fit only in part.
    """

    paths: Tensor

    def __init__(
        self,
        labels: Sequence[str],
        backbone: str = "legacy_xception",
        *,
        weights: str = "none",
        head: str | HeadFactory = "average",
        head_options: Mapping[str, Any] | None = None,
        cbam_after: Sequence[str] = (),
        cbam: str = "both",
        cbam_reduction: int = 8,
        dropout: float = 0.0,
        image_size: int = 224,
        normalise: str = "fixed",
        mean: float | None = None,
        std: float | None = None,
        ancestors: Sequence[tuple[int, int]] = (),
        finetune: str = "full",
        lora_rank: int = 8,
    ) -> None:
        super().__init__()
        _require_settings(labels, image_size, dropout, normalise, std)
        self.backbone, self.load_report = load_network(backbone, weights, image_size)
        self.layout, channels = layout_of(self.backbone, image_size)
        self.mean, self.std = _find_norm(self.backbone.pretrained_cfg, mean, std)
        restrict(self.backbone, finetune, lora_rank)
        self.backbone.to(memory_format=torch.channels_last)  # faster convolutions on CPU and GPU
        make = partial(make_head, dropout=dropout, options=head_options)
        self.head: Any = make(head, channels, len(labels))
        insert = partial(insert_cbam, parts=cbam, reduction=cbam_reduction)
        self.attention: Any = insert(self.backbone, cbam_after, image_size)
        self._head, (name, options) = head, describe_head(head, head_options)
        self.config: dict[str, Any] = {
            **{"labels": list(labels), "backbone": backbone, "head": name},
            **{"head_options": options, "dropout": dropout, "image_size": image_size},
            **{"cbam_after": list(cbam_after), "cbam": cbam, "cbam_reduction": cbam_reduction},
            **{"normalise": normalise, "mean": self.mean, "std": self.std},  # of this timm
            **({} if finetune == "full" else {"finetune": finetune, "lora_rank": lora_rank}),
        }
        self.condition(_mark(len(labels), ancestors))

    def condition(self, ancestors: Tensor) -> None:
        """Take scores as P(label | its wider findings): (L, L), whether j is a wider one of i."""
        self.register_buffer("paths", torch.eye(len(ancestors)) + ancestors, persistent=False)
        if ancestors.any():
            self.config["ancestors"] = ancestors.nonzero().tolist()

    def new(self) -> "XrayNet":
        """The same network with random weights."""
        return XrayNet(**{**self.config, "head": self._head})

    @property
    def labels(self) -> tuple[str, ...]:
        """The L labels, in the order of the logits."""
        return tuple(self.config["labels"])

    def forward_features(self, images: Tensor) -> Tensor:
        """Feature map (B, C, h, w) of images (B, 1, H, W) in [0, 1]."""
        if self.config["normalise"] == "image":
            images = standardise(images)
        else:
            images = (images - self.mean) / self.std
        images = images.contiguous(memory_format=torch.channels_last)
        features = self.backbone.forward_features(images)
        features = self.backbone.forward_head(features, pre_logits=True)  # a last norm, if any
        return to_map(features, self.layout, self.backbone)

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits (B, L) of a feature map (B, C, h, w), always in float32.

        Under bfloat16 autocast a logit near -4 would move in steps of 0.03 and make ties.
        """
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.head(features.float())
        return multiply_along(logits, self.paths) if "ancestors" in self.config else logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, L) of images (B, 1, H, W) in [0, 1]."""
        return self.forward_head(self.forward_features(images))

    def maps(self, images: Tensor) -> Tensor:
        """What the head finds where, (B, L, h, w), of images (B, 1, H, W) in [0, 1].

        Its class says what the values are, such as logits. ConfigError: it has no ``maps``.
        """
        if not hasattr(self.head, "maps"):
            raise ConfigError(fault("no_maps", self.config["head"]))
        features = self.forward_features(images)
        with torch.autocast(features.device.type, enabled=False):
            maps: Tensor = self.head.maps(features.float())
        return maps

    @torch.no_grad()
    def attention_maps(self, images: Tensor) -> dict[str, Tensor]:
        """Spatial gates (B, 1, h, w) of images (B, 1, H, W), both in [0, 1], in evaluation mode.

        By the module each CBAM block stands behind. All modes are restored. ConfigError: as
        :meth:`require_gates`.
        """
        with evaluation_mode(self), record_outputs(self.require_gates()) as outputs:
            self.forward_features(images)
        return {name: gates for name, (gates,) in outputs.items()}

    def require_gates(self) -> dict[str, nn.Module]:
        """The spatial gates of the CBAM blocks, by the module each block stands behind.

        ConfigError: no block has a spatial gate, or the gates are open.
        """
        blocks = zip(self.config["cbam_after"], self.attention.values(), strict=True)
        gates: dict[str, nn.Module] = {
            name: block.spatial for name, block in blocks if block.spatial and not block.open
        }
        if not gates:
            raise ConfigError(fault("no_gates"))
        return gates

    @contextmanager
    def open_gates(self) -> Iterator[None]:
        """Within it every gate of the CBAM blocks is 1: the network is that of its backbone."""
        before = [(block, block.open) for block in self.attention.values()]
        try:
            for block, _ in before:
                block.open = True
            yield
        finally:
            for block, state in before:
                block.open = state


class LowRank(nn.Module):
    """A weight (M, N) and a product of low rank, 0 at first, which alone learns: Hu 2022, eq. 3.

    Their factor alpha / r is 1.
    """

    def __init__(self, shape: Sequence[int], rank: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(shape[0], rank))
        self.down = nn.Parameter(torch.randn(rank, shape[1]) / rank)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that is used."""
        return weight + self.up @ self.down


def restrict(backbone: nn.Module, finetune: str, rank: int) -> None:
    """Let only a part of a backbone learn; ConfigError: it has no such part, or a rank below 1."""
    require_choice("model.finetune", finetune, ("full", "bitfit", "lora"))
    require_integer("model.lora_rank", rank, 1)
    if finetune == "full":
        return
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(finetune == "bitfit" and name.endswith("bias"))
    linear = [one for one in backbone.modules() if isinstance(one, nn.Linear)]
    for layer in linear if finetune == "lora" else ():
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight.shape, rank))
    if not any(parameter.requires_grad for parameter in backbone.parameters()):
        raise ConfigError(f"model.finetune={finetune}: this backbone has no layer for it")


def _require_settings(
    labels: Sequence[str], image_size: int, dropout: float, normalise: str, std: float | None
) -> None:
    if not labels or len(set(labels)) < len(labels):
        raise ConfigError(f"a network needs at least one label, each once, got {list(labels)}")
    if image_size < 8 or (std is not None and std <= 0):
        raise ConfigError(f"model: image_size={image_size} is below 8, or std={std} not above 0")
    require_number("model.dropout", dropout, 0, 1)
    require_choice("model.normalise", normalise, NORMALISATIONS)


def _find_norm(stated: Any, *given: float | None) -> tuple[float, float]:
    """Mean and standard deviation: those given, else of the backbone's channels."""
    mean, std = (
        sum(stated[key]) / len(stated[key]) if value is None else value
        for key, value in zip(("mean", "std"), given, strict=True)
    )
    return mean, std


def _mark(size: int, places: Sequence[tuple[int, int]]) -> Tensor:
    rows, columns = torch.tensor([*places], dtype=torch.long).reshape(-1, 2).T
    return torch.zeros(size, size).index_put((rows, columns), torch.ones(()))


def multiply_along(logits: Tensor, paths: Tensor) -> Tensor:
    """Logits of the product of each label's score and those of its wider ones, paths (L, L)."""
    log_p = (F.logsigmoid(logits) @ paths.T).clamp(max=-torch.finfo(logits.dtype).tiny)
    products = log_p - torch.log(-torch.expm1(log_p))
    return torch.where(paths.sum(dim=1) > 1, products, logits)


def pool_features(net: XrayNet, images: Tensor) -> npt.NDArray[np.float64]:
    """Mean over the feature map, (N, C); the network is in evaluation mode."""
    pooled = run_batches(net, images, lambda batch: net.forward_features(batch).mean(dim=(2, 3)))
    return pooled.double().numpy()


def standardise(images: Tensor) -> Tensor:
    """Each image (B, 1, H, W) less its mean, over its standard deviation."""
    # As TensorFlow's per_image_standardization: the deviation counts as at least 1 / sqrt(H W), so
    # that an empty image stays finite.
    deviation, mean = torch.std_mean(images, dim=(1, 2, 3), correction=0, keepdim=True)
    return (images - mean) / deviation.clamp(min=images[0].numel() ** -0.5)
