"""A network without training, and its checkpoint."""

import numpy as np
import pytest
import torch
from toy import save_net, toy_net

from xray_lightning.deploy.classifier import Classifier, load_classifier
from xray_lightning.evaluation.evaluate import fit_operating_points
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.models.network import XrayNet

LABELS = ("Mass", "Nodule", "Effusion")


def random_net() -> XrayNet:
    """A network whose scores differ from image to image: normalised noise would give 0.5."""
    net = toy_net(LABELS).eval()
    torch.nn.init.normal_(net.head.classifier.weight, std=3.0)
    return net


@pytest.fixture
def net() -> XrayNet:
    return random_net()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory):
    return save_net(random_net(), tmp_path_factory.mktemp("checkpoint") / "best.ckpt")


@pytest.fixture(scope="session")
def classifier(checkpoint) -> Classifier:
    return load_classifier(checkpoint, device="cpu")


@pytest.fixture(scope="session")
def val() -> Predictions:
    """Scores that know Mass; Nodule has too few positives, Effusion is not there."""
    rng, shape = np.random.default_rng(0), (200, 2)
    targets = np.stack([rng.random(200) < 0.3, np.arange(200) < 3], axis=1).astype(np.float32)
    scores = (0.4 + 0.04 * targets + 0.09 * rng.random(shape)).astype(np.float32)
    ids = tuple(map(str, range(200)))
    return Predictions(LABELS[:2], ids, ids, targets, scores)


@pytest.fixture(scope="session")
def checkpoint_with_points(tmp_path_factory, val):
    points = fit_operating_points(val, draws=200).to_json()
    return save_net(random_net(), tmp_path_factory.mktemp("points") / "best.ckpt", points=points)
