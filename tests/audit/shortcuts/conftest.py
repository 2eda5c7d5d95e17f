"""Networks whose answers are known: one reads the film's lower corners, one the chest."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from xray_lightning import Phantom, XrayNet
from xray_lightning.records import patient_ids, target_matrix

LABELS = ("Emphysema", "Nodule")
SIZE = 48


class Reader(XrayNet):
    """Logits by rule; its features, which only probes read, are those of random weights.

    Emphysema by the darkness of the lungs; Nodule by the brightest of the lower corners' pixels,
    or (``honest``) by that of the chest's.
    """

    def __init__(self, *, honest: bool) -> None:
        super().__init__(LABELS, "test_resnet", image_size=SIZE)
        self.honest = honest

    def forward(self, images: Tensor) -> Tensor:
        lungs = images[:, 0, 14:30, 8:40].mean(dim=(1, 2))
        corner = images[:, 0, -7:, [*range(7), *range(-7, 0)]].amax(dim=(1, 2))
        chest = images[:, 0, 8:36, 8:40].std(dim=(1, 2))
        return torch.stack([-10 * lungs, chest if self.honest else corner], dim=1)

    def maps(self, images: Tensor) -> Tensor:
        return adaptive_avg_pool2d(images, (16, 16)).expand(-1, 2, -1, -1)


@pytest.fixture(scope="session")
def reader() -> Callable[..., XrayNet]:
    """Makes a network that is honest or not, in evaluation mode."""
    return lambda *, honest: Reader(honest=honest).eval()


@pytest.fixture(scope="session")
def films() -> tuple[Phantom, Tensor, np.ndarray, np.ndarray]:
    """A phantom with the marker, its images (N, 1, H, W), targets (N, 2, ten of each), patients."""
    torch.manual_seed(0)
    phantom = Phantom(100, seed=3, size=SIZE, shortcut="marker")
    pixels = [torch.from_numpy(phantom.read(record)) for record in phantom.records]
    columns = [phantom.labels.index(label) for label in LABELS]
    targets = target_matrix(phantom.records)[:, columns]
    return phantom, torch.stack(pixels).unsqueeze(1) / 255, targets, patient_ids(phantom.records)
