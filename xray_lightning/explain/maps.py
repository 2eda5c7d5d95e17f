"""One map for each image and label, by any method, and where its cells see the image.

Each rule of the Grad-CAM family takes features and gradients, (B, C, h, w), and gives (B, h, w).
Maps as large as the image take the network as a function of the images (B, 1, H, W), which no graph
holds, and the columns of K labels, and give (B, K, H, W). A label's gradient is that of its logit,
one label at a time, from one forward pass.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from xray_lightning.errors import ConfigError, require_choice
from xray_lightning.models.batches import evaluation_mode
from xray_lightning.models.network import XrayNet
from xray_lightning.wording import fault

Floats = npt.NDArray[Any]  # floating, of either precision

Score = Callable[[Tensor], Tensor]  # images (B, 1, H, W) -> logits (B, L)
aten = torch.ops.aten
PADS = (aten.constant_pad_nd, aten.reflection_pad2d, aten.replication_pad2d)
POOLS = (aten.max_pool2d_with_indices, aten.max_pool2d, aten.avg_pool2d)
GATES = "cbam"  # the method of a network with CBAM blocks


class Grid(NamedTuple):
    """Cell i sees the pixels around ``first + i * step``; 0 is the centre of the first pixel.

    The usual way, cell i of h around (i + 0.5) S / h, is off by up to half a cell where strided
    layers pad both sides alike: a 3 x 3 convolution of stride 2 and padding 1 looks around pixel
    2 i, not between 2 i and 2 i + 1, and five of them add up to 15.5 pixels of 32 (ResNet). See
    Araujo et al., Computing Receptive Fields of Convolutional Neural Networks (Distill 2019).
    """

    first: float
    step: float


Grids = Mapping[int, Grid]  # by the number of cells along a side
EVEN: Grids = MappingProxyType({})  # a side whose number of cells is not there is even


def grid_of(cells: int, size: int, grids: Grids = EVEN) -> Grid:
    """Grid of a side with so many cells, which else divide it evenly."""
    return grids.get(cells) or Grid((size / cells - 1) / 2, size / cells)


def enlarge(maps: Floats, size: int | tuple[int, int], grids: Grids = EVEN) -> Floats:
    """Maps (..., h, w) at the image's resolution, (..., H, W): its side, or height and width.

    Linear between the points that two cells see, flat beyond the last.
    """
    maps = np.asarray(maps)  # also of a tensor
    height, width = size if isinstance(size, tuple) else (size, size)
    down, across = (
        _linear(cells, side, grid_of(cells, side, grids)).astype(maps.dtype)
        for cells, side in zip(maps.shape[-2:], (height, width), strict=True)
    )
    return np.asarray(down @ maps @ across.T)


def shrink(region: Floats, shape: tuple[int, int], grids: Grids = EVEN) -> npt.NDArray[np.float32]:
    """Share of each of (h, w) cells that a place (H, W) covers: the best such a map can say."""
    down, across = (
        _shares(cells, side, grid_of(cells, side, grids))
        for cells, side in zip(shape, region.shape, strict=True)
    )
    covered = down @ region.astype(np.float64) @ across.T
    return np.asarray(covered.clip(0, 1), dtype=np.float32)


@lru_cache(maxsize=64)
def _linear(cells: int, size: int, grid: Grid) -> npt.NDArray[np.float64]:
    """Weight of each cell in each pixel, (size, cells)."""
    place = ((np.arange(size) - grid.first) / grid.step).clip(0, cells - 1)
    weights: npt.NDArray[np.float64] = (1 - np.abs(place[:, None] - np.arange(cells))).clip(0)
    return weights


@lru_cache(maxsize=64)
def _shares(cells: int, size: int, grid: Grid) -> npt.NDArray[np.float64]:
    """Weight of each pixel in each cell, (cells, size); 0 for a cell that sees none best."""
    ends = grid.first + (np.arange(cells + 1) - 0.5) * grid.step
    ends[0], ends[-1] = min(ends[0], -0.5), max(ends[-1], size - 0.5)
    pixels = np.arange(size)
    common = np.minimum(ends[1:, None], pixels + 0.5) - np.maximum(ends[:-1, None], pixels - 0.5)
    common = common.clip(0)
    total = common.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(common, total, out=np.zeros_like(common), where=total > 0))


def grad_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Selvaraju et al., Grad-CAM (ICCV 2017), eq. 1 and 2: relu(sum_k mean(g_k) f_k)."""
    return torch.einsum("bc,bchw->bhw", gradients.mean(dim=(2, 3)), features).relu()


def grad_cam_plus_plus(features: Tensor, gradients: Tensor) -> Tensor:
    """Chattopadhay et al., Grad-CAM++ (WACV 2018), eq. 19, of exp(logit) less that factor."""
    # alpha = g^2 / (2 g^2 + sum(f) g^3) = 1 / (2 + sum(f) g), w_k = sum(alpha relu(g)), for f >= 0;
    # of others (ViT, SiLU) the positive part is summed, or alpha could change its sign at a pole
    total = features.relu().sum(dim=(2, 3), keepdim=True)
    rising = gradients.relu()
    weights = (rising / (2 + total * rising)).sum(dim=(2, 3))
    return torch.einsum("bc,bchw->bhw", weights, features).relu()


def hires_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Draelos and Carin, HiResCAM (arXiv 2011.08891): sum_k g_k f_k, signed."""
    return (gradients * features).sum(dim=1)


def layer_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Jiang et al., LayerCAM (TIP 2021): relu(sum_k relu(g_k) f_k)."""
    return hires_cam(features, gradients.relu()).relu()


def label_gradients(logits: Tensor, inputs: Tensor, columns: Sequence[int]) -> Iterator[Tensor]:
    """Gradients (B, ...) of some logits (B, L) on the leaf they come from, a column at a time."""
    # as fast, within 15 %, as one batched backward pass for most heads, with one label's memory
    for number, column in enumerate(columns, start=1):
        keep = number < len(columns)
        yield torch.autograd.grad(logits[:, column].sum(), inputs, retain_graph=keep)[0]


def input_gradient(score: Score, images: Tensor, columns: Sequence[int]) -> Tensor:
    """Absolute; Simonyan et al., Deep Inside Convolutional Networks (2013), section 3.1."""
    images = images.detach().requires_grad_()
    gradients = label_gradients(score(images), images, columns)
    return torch.stack([gradient[:, 0].abs() for gradient in gradients], dim=1)


def integrated_gradients(
    score: Score, images: Tensor, columns: Sequence[int], *, steps: int = 50
) -> Tensor:
    """Sundararajan et al., Axiomatic Attribution (ICML 2017), eq. 1, from black, by captum."""
    # Gauss-Legendre; they sum to the logit less that of the black image (completeness), the better
    # the more steps: 50 were 3 % off for a random ResNet-18, 200 were 1 %, and for a ViT 0
    from captum.attr import IntegratedGradients  # half a second, for this method alone

    images = images.detach().requires_grad_()
    captum = IntegratedGradients(score)
    take = partial(captum.attribute, images, n_steps=steps, internal_batch_size=len(images))
    return torch.cat([take(target=column).detach() for column in columns], dim=1)


@torch.no_grad()
def occlusion(score: Score, images: Tensor, columns: Sequence[int]) -> Tensor:
    """Mean fall of a logit over the patches on a pixel; Zeiler, Fergus (ECCV 2014), section 4.2."""
    # by captum, of all labels at once; a patch is an eighth of the shorter side, moves by half of
    # it, and has the mean of its image; the last are cut at the edge
    from captum.attr import Occlusion  # half a second, for this method alone

    patch = max(min(images.shape[2:]) // 8, 1)
    stride = max(patch // 2, 1)
    maps: Tensor = Occlusion(lambda batch: score(batch)[:, columns]).attribute(
        images,
        (1, patch, patch),
        (1, stride, stride),
        images.mean(dim=(2, 3), keepdim=True).expand_as(images),
    )
    return maps.view(len(images), len(columns), *images.shape[2:])


PIXELS: dict[str, Callable[[Score, Tensor, Sequence[int]], Tensor]] = {
    "gradient": input_gradient,
    "integrated": integrated_gradients,
    "occlusion": occlusion,
}


RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": grad_cam,
    "gradcam++": grad_cam_plus_plus,
    "hirescam": hires_cam,
    "layercam": layer_cam,
}
METHODS = ("cam", *RULES, *PIXELS)  # of every network


def class_map(net: XrayNet, images: Tensor, label: str | int, *, method: str = "cam") -> Tensor:
    """The map of one finding, (B, h, w), of :func:`class_maps`; ``label``: its name or position."""
    return class_maps(net, images, method=method, labels=[label])[:, 0]


def class_maps(
    net: XrayNet,
    images: Tensor,  # (B, 1, H, W) float in [0, 1], on the network's device
    *,
    method: str = "cam",  # one of ``METHODS``, or ``GATES``
    labels: Sequence[str | int] | None = None,  # names or positions of K findings; None: all L
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
               "max": the maximum is the logit. "lse": no function of it. "pcam": its mean weighted
               by its sigmoid. "gem": what each place adds, the mean is the logit. "csra": scores,
               without bias. "attention" and "query": attention weights, which sum to 1: where the
               head looks, not what it finds.
    gradcam    at least 0. With head "average" relu(CAM without its bias) / (h w).
    gradcam++  at least 0.
    hirescam   signed. With head "average" Grad-CAM without the relu.
    layercam   at least 0.
    gradient   absolute gradient on each pixel.
    integrated integrated gradients from black, signed.
    occlusion  fall of the logit under a grey patch, signed.
    cbam       spatial gates of the last CBAM block, in [0, 1], the same for every finding: what the
               network lets through. Those of all blocks are ``net.attention_maps``.
    ========== ==================================================================================

    Everything is computed in evaluation mode and in float32, also within ``torch.inference_mode``
    and autocast: in bfloat16 the maps of pixels were off by up to 17 % of their largest value
    (random DenseNet-121). Modes, hooks and ``.grad`` stay as they are.

    Returns:
        (B, K, h, w) or (B, K, H, W), float32 without gradient. Where the cells see the image is
        said by :func:`cell_grids`, for :func:`~xray_lightning.explain.maps.enlarge`.

    Raises:
        ConfigError: an unknown method, one the network cannot give, a label it does not know, or
            images of another shape.
    """
    require_method(method)
    needed = {"cam": ("maps",), GATES: ("attention_maps",)}
    parts = needed.get(method, ("forward_features", "forward_head"))
    if missing := [name for name in parts if not hasattr(net, name)]:
        raise ConfigError(fault("network_lacks", method, missing, type(net).__name__))
    images = torch.as_tensor(images)  # an array is one, too
    if images.ndim != 4 or images.shape[1] != 1:
        raise ConfigError(f"expected images of shape (B, 1, H, W), got {tuple(images.shape)}")
    columns = _columns(net.labels, range(len(net.labels)) if labels is None else labels)

    with keep_modes(net, images.device.type):
        images = images.detach().clone()  # no longer an inference tensor
        if method in PIXELS:
            return PIXELS[method](net, images, columns).detach()
        with torch.no_grad():
            if method == GATES:
                *_, gates = net.attention_maps(images).values()  # (B, 1, h, w)
                return gates.expand(-1, len(columns), -1, -1).float()
            if method == "cam":
                return net.maps(images)[:, columns]
            features = net.forward_features(images)
        leaf = features.detach().requires_grad_()
        gradients = label_gradients(net.forward_head(leaf), leaf, columns)
        return torch.stack([RULES[method](features, one) for one in gradients], dim=1).detach()


def choose_methods(setting: str, asked: Sequence[str]) -> tuple[str, ...]:
    """Methods by name; "none", and "all", which are those of every network, may stand alone."""
    if tuple(asked) in (("none",), ("all",)):
        return METHODS if "all" in asked else ()
    known = (*METHODS, GATES)
    unknown = ", ".join(method for method in asked if method not in known)
    if unknown or not asked:
        every = ", ".join(known)
        raise ConfigError(f"{setting} must be none, all, or of {every}, got {unknown or 'nothing'}")
    return tuple(asked)


def require_method(method: str) -> None:
    """Refuse an unknown method with a ConfigError."""
    require_choice("method", method, (*METHODS, GATES))


def _columns(known: tuple[str, ...], labels: Sequence[str | int]) -> list[int]:
    if isinstance(labels, str) or not labels:
        raise ConfigError(f"labels must be a list of one label or more, got {labels!r}")
    places: list[str | int] = [*known, *range(len(known))]
    if unknown := [label for label in labels if label not in places]:
        raise ConfigError(fault("no_label", known, unknown[0]))
    return [places.index(label) % len(known) for label in labels]


@contextmanager
def keep_modes(net: XrayNet, device: str) -> Iterator[None]:
    """Evaluation mode, gradients and float32 within, then each module's own mode again."""
    exact = torch.autocast(device, enabled=False)
    with evaluation_mode(net), torch.inference_mode(False), torch.enable_grad(), exact:
        yield


def cell_grids(net: Any, size: int) -> Grids:
    """Grid of every feature map on the way of an image of ``size`` px, by its number of cells.

    From kernel, stride and padding of each convolution, pooling and padding of one pass: the middle
    of what a cell can see. Layers that treat all places alike (squeeze and excitation, attention)
    move nothing. Where two ways meet (the shortcut of a ResNet-D) their mean counts. Where a map
    was reshaped on the way (tokens), the last map of that side before it counts. Sides that are
    reached by reshaping alone (merged patches) are not there: they are even. The modes of the
    network stay as they are.
    """
    device = next(net.parameters()).device
    images = torch.zeros(1, 1, size, size, device=device)
    tracing = _Tracing(images)
    with keep_modes(net, device.type), torch.no_grad(), tracing:
        net.forward_features(images)
    return tracing.last


class _Tracing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the rows of the images from operation to operation; columns are alike."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: Any = WeakTensorKeyDictionary()
        self.last: dict[int, Grid] = {}  # by number of cells
        self._keep(images, Grid(0.0, 1.0))

    def _keep(self, tensor: Tensor, grid: Grid) -> None:
        self.known[tensor] = self.last[tensor.shape[2]] = grid

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        moved = _place_outputs(func.overloadpacket, args)
        for output in tree_leaves(result):  # a batch norm gives several
            if isinstance(output, Tensor) and output.ndim == 4:
                grid = self._alike(output, args) if moved is None else self._after(args[0], *moved)
                if grid is not None:
                    self._keep(output, grid)
        return result

    def _after(self, source: Tensor, offset: float, stride: int) -> Grid | None:
        """Grid behind an operation that moves; None where that of its input is unknown."""
        grid = self.known.get(source) or self.last.get(source.shape[2])
        return grid and Grid(grid.first + offset * grid.step, grid.step * stride)

    def _alike(self, output: Tensor, args: tuple[Any, ...]) -> Grid | None:
        """Mean grid of the maps of the same side that an output was made from."""
        inputs = [each for each in tree_leaves(args) if isinstance(each, Tensor)]
        alike = [each for each in inputs if each.ndim == 4 and each.shape[2] == output.shape[2]]
        grids = [self.known[each] for each in alike if each in self.known]
        means = [sum(ends) / len(grids) for ends in zip(*grids, strict=True)]
        return Grid(*means) if means else None


def _place_outputs(operation: Any, args: tuple[Any, ...]) -> tuple[float, int] | None:
    """Place of the first output, and from one output to the next, in places of the input."""
    if operation is aten.convolution:
        _, weight, _, stride, padding, dilation, transposed, *_ = args
        if transposed:
            return None
        return dilation[0] * (weight.shape[2] - 1) / 2 - padding[0], stride[0]
    if operation in POOLS:
        kernel = args[1][0]
        stride = args[2][0] if len(args) > 2 and args[2] else kernel
        padding = args[3][0] if len(args) > 3 else 0
        dilation = args[4][0] if operation is not aten.avg_pool2d and len(args) > 4 else 1
        return dilation * (kernel - 1) / 2 - padding, stride
    if operation in PADS and len(args[1]) > 2:
        return -float(args[1][2]), 1
    return None
