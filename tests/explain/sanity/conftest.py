"""Images of patients, and a network whose evidence at each pixel is known."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from xray_lightning.explain.sanity import Explain, Sample, Study

SIDE = 16
PATIENTS = [number // 2 for number in range(24)]


class Plane(nn.Module):
    """Two logits, each a weighted sum of the pixels; the evidence of a pixel is its summand."""

    def __init__(self, *, trained: bool = True) -> None:
        super().__init__()
        self.head = nn.Linear(SIDE * SIDE, 2)
        with torch.no_grad():
            if trained:  # label 1 is the mean of the upper left 6 x 6 pixels
                weight = torch.zeros(SIDE, SIDE)
                weight[:6, :6] = 6 / 36
                self.head.weight[1] = weight.flatten()
                self.head.bias[1] = -3.0

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.flatten(1))
        return logits

    def evidence(self, images: Tensor) -> Tensor:
        return images[:, 0] * self.head.weight[1].reshape(SIDE, SIDE)


@pytest.fixture
def plane() -> Plane:
    torch.manual_seed(0)
    return Plane()


@pytest.fixture
def other_plane() -> Plane:
    torch.manual_seed(1)
    return Plane(trained=False)


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.5 + torch.rand(len(PATIENTS), 1, SIDE, SIDE, generator=generator) / 2


@pytest.fixture
def sample() -> Sample:
    return Sample.of(PATIENTS, draws=200, seed=0)


@pytest.fixture
def study_of(images: Tensor, sample: Sample) -> Callable[[Explain], Study]:
    return lambda explain: Study(images, sample, explain, 8)


@pytest.fixture
def evidence() -> Explain:
    """A map that depends on the weights."""
    return lambda net, images: net.evidence(images)


@pytest.fixture
def pixels() -> Explain:
    """A map that does not."""
    return lambda net, images: images[:, 0]
