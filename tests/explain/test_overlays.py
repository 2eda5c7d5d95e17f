"""Which images are looked at, and that each carries its own map and boxes."""

import numpy as np
import pytest
import torch

from xray_lightning import ConfigError, XrayDataModule, XrayNet, class_map
from xray_lightning.explain.overlays import BATCH, Choice, make_overlays, order_rows

SCORES = np.array([0.9, 0.1, 0.5, 0.4, 0.7, 0.2, np.nan], np.float32)
TARGETS = np.array([1, 1, 0, 0, np.nan, 1, 1], np.float32)
BOXED = np.array([0, 1, 0, 0, 0, 1, 0], bool)


@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        ("fixed", [0, 1, 5, 6]),
        ("boxes", [1, 5]),
        ("confident", [0, 4, 2, 3, 5, 1]),
        ("errors", [1, 2, 5, 3, 0]),  # missed, falsely called, and so on in turn
    ],
)
def test_rows_of_a_rule(rule: str, rows: list[int]) -> None:
    assert order_rows(rule, SCORES, TARGETS, BOXED).tolist() == rows


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "best"}, "rule must be one of fixed, confident, errors, boxes, got 'best'"),
        ({"images": 0}, "images must be an integer of at least 1, got 0"),
        ({"images": "2"}, "images must be an integer of at least 1, got '2'"),
    ],
)
def test_a_choice_that_cannot_work(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Choice(**settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def net(data: XrayDataModule) -> XrayNet:
    torch.manual_seed(0)
    return XrayNet(data.labels, "test_resnet", image_size=32).eval()


def test_places_go_label_by_label(data: XrayDataModule) -> None:
    scores = np.full((len(data.split.subsets["test"]), 14), np.nan, np.float32)
    places = Choice(images=3, labels=("Mass", "Effusion")).places(data, "test", scores)
    assert [label for _, label in places] == ["Mass"] * 3 + ["Effusion"] * 3
    targets = data.subset_targets("test")
    assert all(targets[row, data.labels.index(label)] == 1 for row, label in places)
    with pytest.raises(ConfigError, match=r"labels must be of Atelectasis, .*, got Cough"):
        Choice(labels=("Cough", "Mass")).places(data, "test", scores)


@pytest.mark.parametrize("method", ["cam", "gradcam"])
def test_each_image_has_its_own_map(data: XrayDataModule, net: XrayNet, method: str) -> None:
    """Also over the border of a batch."""
    rng = np.random.default_rng(0)
    scores = rng.random((len(data.split.subsets["test"]), 14), dtype=np.float32)
    places = Choice("boxes", images=2).places(data, "test", scores)
    assert len(places) > BATCH
    for (row, label), each in zip(
        places, make_overlays(net, data, "test", places, scores, method=method), strict=True
    ):
        record = data.subset_records("test")[row]
        column = data.labels.index(label)
        assert (each.image_id, each.label) == (record.image_id, label)
        assert (each.score, each.target) == (scores[row, column], record.targets[column])
        image = data.dataset("test")[row]["image"]
        np.testing.assert_array_equal(each.image, image[0])
        heat = class_map(net, image[None], label, method=method)[0]
        np.testing.assert_allclose(each.heat, heat, atol=1e-5)
        halves = [(b.x / 2, b.y / 2, b.width / 2, b.height / 2) for b in record.boxes
                  if b.label == label]  # fmt: skip
        assert each.boxes == tuple(halves)
        assert halves
