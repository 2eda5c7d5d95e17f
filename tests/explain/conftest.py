"""Small random networks, whose biases are not 0 and whose logits differ."""

import numpy as np
import pytest
import torch

from xray_lightning.explain.localisation import AnnotatedMaps
from xray_lightning.explain.maps import shrink
from xray_lightning.metrics.localisation import region_of
from xray_lightning.models.network import XrayNet

SIZE = 48  # three times the maps: a cell has a middle pixel, which keeps its value
LABELS = ("Mass", "Nodule", "Effusion")
SMALL = {"query": {"width": 32, "attention_heads": 2, "feedforward": 32}}


@pytest.fixture(scope="session")
def network():
    """A network in evaluation mode."""

    def build(backbone: str = "test_resnet", head: str = "average", **settings) -> XrayNet:
        torch.manual_seed(0)
        defaults = {"image_size": 32, "dropout": 0.5, "head_options": SMALL.get(head)}
        return XrayNet(LABELS, backbone, head=head, **(defaults | settings)).eval()

    return build


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def annotated():
    """Images with one box each; "sees" is the box in 16 x 16 cells and noise, "blind" noise."""

    def make(count: int, *, seed: int = 0, first: int = 0, images: int = 2) -> AnnotatedMaps:
        rng = np.random.default_rng(seed)
        boxes = [[tuple(box)] for box in rng.uniform([2, 2, 8, 8], [28, 28, 16, 16], (count, 4))]
        noise = rng.random((2, count, 16, 16), dtype=np.float32)
        cells = np.stack([shrink(region_of(box, SIZE), (16, 16)) for box in boxes])
        patients = [f"p{first + row // images}" for row in range(count)]
        return AnnotatedMaps({"sees": cells + noise[0] / 2, "blind": noise[1]}, boxes, patients)

    return make
