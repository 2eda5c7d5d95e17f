"""A network without training, and its checkpoint."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from xray_lightning.checkpoint import KEY, Description
from xray_lightning.models.network import XrayNet

LABELS = ("Mass", "Nodule", "Effusion")


def random_net(labels: Sequence[str] = LABELS) -> XrayNet:
    """A network whose scores differ from image to image: normalised noise would give 0.5."""
    torch.manual_seed(0)
    net = XrayNet(labels, "test_resnet", image_size=32).eval()
    torch.nn.init.normal_(net.head.classifier.weight, std=3.0)
    return net


@pytest.fixture
def net() -> XrayNet:
    return random_net()


@pytest.fixture(scope="session")
def save() -> Callable[..., Path]:
    """Writes a checkpoint as a run leaves it."""

    def write(net: XrayNet, path: Path, *, clahe: bool = False, **config: Any) -> Path:
        split = {"name": "patient", "fingerprint": "0123456789abcdef"}
        split["subsets"] = dict.fromkeys(("train", "val", "test"), "0")
        description = Description(net.config, {"image_size": 32, "clahe": clahe}, split, config)
        state = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
        torch.save({KEY: description.to_plain(), "state_dict": state, "epoch": 0}, path)
        return path

    return write


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, save: Callable[..., Path]) -> Path:
    return save(random_net(), tmp_path_factory.mktemp("checkpoint") / "best.ckpt")
