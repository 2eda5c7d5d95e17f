"""What the device that trains can do with images: keep them, and augment whole batches."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from xray_lightning.progress import show_progress


@dataclass(frozen=True)
class Changes:
    """How far an image is changed at most; equal in distribution to :mod:`.transforms`."""

    flip: float = 1.0  # probability of the mirror image
    rotate: float = 0.0  # degrees
    shear: float = 0.0  # degrees, along x
    shift: float = 0.0  # share of the side, to a whole pixel
    zoom: tuple[float, float] = (1.0, 1.0)
    keep_ratio: bool = True  # one zoom for both axes
    single: bool = False  # one of the six kinds, each as often; a blur is none of the others

    def draw(self, seed: int, size: int) -> dict[str, Tensor]:
        """Where each pixel comes from, (2, 3) as of ``affine_grid``; weights of a blur, (5,)."""
        rng = random.Random(seed)
        kind = rng.randrange(6) if self.single else None  # of 5: nothing
        mirror, turn, blur, lean, move = (kind in (None, one) for one in range(5))
        sign = -1 if mirror and rng.random() < self.flip else 1
        angle = math.radians(turn * rng.uniform(-self.rotate, self.rotate))
        slope = math.tan(math.radians(lean * rng.uniform(-self.shear, self.shear)))
        zooms = [rng.uniform(*self.zoom) for _ in "xy"]
        zooms = zooms[:1] * 2 if self.keep_ratio else zooms
        shifts = [int(move * rng.uniform(-self.shift, self.shift) * size) for _ in "xy"]
        turned = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
        back = np.linalg.inv([[1, slope], [0, 1]] @ np.array(turned) * zooms * [sign, 1])
        there = back @ shifts * (-2 / (size - 1))
        drawn = {"places": np.column_stack([back, there])}
        if self.single:
            deviation, reach = rng.uniform(0.5, 3), rng.choice((1, 2, 2))
            steps = np.arange(-2, 3)
            weights = np.exp(-0.5 * (steps / deviation) ** 2) * (abs(steps) <= reach * blur)
            drawn["blurs"] = weights / weights.sum()
        return {name: torch.from_numpy(values).float() for name, values in drawn.items()}


def change(images: Tensor, places: Tensor, blurs: Tensor | None = None) -> Tensor:
    """Images (B, 1, S, S), linear between pixels and black where they moved away."""
    # not affine_grid: its product would be of TF32's ten bits, a tenth of a pixel
    line = torch.linspace(-1, 1, images.shape[-1], device=images.device)
    right, down, off = places[:, None, None].unbind(dim=-1)
    grid = right * line[None, None, :, None] + down * line[None, :, None, None] + off
    images = F.grid_sample(images, grid, "bilinear", "zeros", align_corners=True)
    if blurs is None:
        return images
    rows = F.pad(images.transpose(0, 1), (2, 2, 2, 2), "reflect")  # (1, B, S + 4, S + 4)
    kernels, groups = blurs[:, None, None], len(images)
    rows = F.conv2d(F.conv2d(rows, kernels, groups=groups), kernels.mT, groups=groups)
    return rows.transpose(0, 1)


def keep_images(
    square: Callable[[int], npt.NDArray[np.uint8]], count: int, device: torch.device
) -> Tensor:
    """All images of a cache in the device's memory, (N, 1, S, S) uint8."""
    kept = torch.empty(count, 1, *square(0).shape, dtype=torch.uint8, device=device)
    with show_progress(f"images to {device}", unit="images") as report:
        for row in range(count):
            kept[row, 0] = torch.from_numpy(square(row))
            report(row + 1, count)
    return kept
