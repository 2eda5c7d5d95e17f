"""Where the cells of a network's feature maps see the image."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from xray_lightning.explain.maps import undisturbed
from xray_lightning.grid import Grid, Grids

aten = torch.ops.aten
PADS = (aten.constant_pad_nd, aten.reflection_pad2d, aten.replication_pad2d)
POOLS = (aten.max_pool2d_with_indices, aten.max_pool2d, aten.avg_pool2d)


def cell_grids(net: Any, size: int) -> Grids:
    """Grid of every feature map on the way of an image of ``size`` px, by its number of cells.

    From kernel, stride and padding of each convolution, pooling and padding of one pass: the middle
    of what a cell can see. Layers that treat all places alike (squeeze and excitation, attention)
    move nothing. Where two ways meet (the shortcut of a ResNet-D) their mean counts. Where a map
    was reshaped on the way (tokens), the last map of that side before it counts. Sides that are
    reached by reshaping alone (merged patches) are not there: they are even.

    Args:
        net: has ``forward_features``; its modes stay as they are.
        size: side of the image.
    """
    device = next(net.parameters()).device
    images = torch.zeros(1, 1, size, size, device=device)
    tracing = _Tracing(images)
    with undisturbed(net, device.type), torch.no_grad(), tracing:
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
        moved = _moved(func.overloadpacket, args)
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
        return _mean(grids) if grids else None


def _moved(operation: Any, args: tuple[Any, ...]) -> tuple[float, int] | None:
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


def _mean(grids: list[Grid]) -> Grid:
    first, step = (sum(values) / len(grids) for values in zip(*grids, strict=True))
    return Grid(first, step)
