"""Where the cells of a network's feature maps see the image."""

from collections import defaultdict
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from xray_lightning.explain.maps import undisturbed
from xray_lightning.grid import Grid, Grids

aten = torch.ops.aten
PADS = (aten.constant_pad_nd, aten.reflection_pad2d, aten.replication_pad2d)
POOLS = (aten.max_pool2d_with_indices, aten.max_pool2d, aten.avg_pool2d)


def cell_grids(net: Any, size: int) -> Grids:
    """Grid of every feature map on the way of an image of ``size`` px, by its number of cells.

    From kernel, stride and padding of each convolution, pooling and padding of one pass: the middle
    of what a cell can see. Layers that treat all places alike (squeeze and excitation, attention)
    move nothing. Of two ways from one resolution to the next (the shortcut of a ResNet-D) the mean
    counts. Sides reached by other steps (patches merged by reshaping) are not there: they are even.

    Args:
        net: has ``forward_features``; its modes stay as they are.
        size: side of the image.
    """
    device = next(net.parameters()).device
    tracing = _Tracing(size)
    with undisturbed(net, device.type), torch.no_grad(), tracing:
        net.forward_features(torch.zeros(1, 1, size, size, device=device))
    return tracing.grids()


class _Tracing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the rows of the images; columns are alike."""

    def __init__(self, size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[int, list[Grid]] = defaultdict(list)
        self.found[size].append(Grid(0.0, 1.0))

    def grids(self) -> dict[int, Grid]:
        return {cells: _mean(found) for cells, found in self.found.items()}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        moved = _moved(func.overloadpacket, args)
        if moved is not None and args[0].ndim == 4 and args[0].shape[2] in self.found:
            offset, stride = moved
            source = _mean(self.found[args[0].shape[2]])
            output = result[0] if isinstance(result, tuple) else result
            grid = Grid(source.first + offset * source.step, source.step * stride)
            if output.shape[2] != args[0].shape[2]:
                self.found[output.shape[2]].append(grid)
        return result


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
