"""Small random networks, whose biases are not 0 and whose logits differ."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from xray_lightning.models.network import XrayNet

LABELS = ("Mass", "Nodule", "Effusion")
SMALL = {"query": {"width": 32, "attention_heads": 2, "feedforward": 32}}


@pytest.fixture(scope="session")
def network() -> Callable[..., XrayNet]:
    """A network in evaluation mode."""

    def build(backbone: str = "test_resnet", head: str = "average", **settings: Any) -> XrayNet:
        torch.manual_seed(0)
        defaults = {"image_size": 32, "dropout": 0.5, "head_options": SMALL.get(head)}
        return XrayNet(LABELS, backbone, head=head, **(defaults | settings)).eval()

    return build


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
