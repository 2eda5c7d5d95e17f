"""The figure of the tests of map methods: what it draws is what the facts say."""

from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib import image as mpl_image
from torch import Tensor, nn

from xray_lightning.explain.sanity.facts import saliency_facts
from xray_lightning.explain.sanity.verdicts import Facts
from xray_lightning.report.saliency import saliency_figure


@pytest.fixture(scope="module")
def facts() -> dict[str, Facts]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 10 * 10, 2))

    def features(net: nn.Module, images: Tensor) -> Tensor:
        made: Tensor = net[0](images)[:, 0]  # type: ignore[index]
        return made.detach()

    def flat(net: nn.Module, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 2, 2)

    images = torch.rand(20, 1, 12, 12)
    return {
        method.__name__: saliency_facts(
            net, method, images, range(20), label=1, draws=20, networks=4, steps=4
        )
        for method in (features, flat)
    }


def test_a_row_for_each_method(facts: dict[str, Facts]) -> None:
    figure = saliency_figure(facts)
    panels = np.reshape(figure.axes, (2, 3))
    assert [row[0].get_ylabel() for row in panels] == ["features", "flat"]
    found = facts["features"]
    for axes, name in zip(panels[0], ("randomisation", "deletion", "insertion"), strict=True):
        assert axes.get_title("left").startswith(f"{name}: {found[name]['verdict']}")
    stages = found["randomisation"]["stages"]
    drawn = panels[0, 0].get_lines()[0]
    assert drawn.get_label() == "rank correlation"
    np.testing.assert_allclose(
        drawn.get_ydata(), [1.0, *(stage["spearman"]["value"] for stage in stages)]
    )
    ticks = [text.get_text() for text in panels[1, 0].get_xticklabels()]
    assert ticks == ["nothing", *(stage["name"] for stage in stages)]
    for axes, name in zip(panels[0, 1:], ("deletion", "insertion"), strict=True):
        drawn = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
        np.testing.assert_allclose(drawn["the map's order"], found[name]["curves"]["map"])
        np.testing.assert_allclose(drawn["random order"], found[name]["curves"]["random"])


def test_it_is_drawn(facts: dict[str, Facts]) -> None:
    """Also where nothing is defined; the colours are there."""
    buffer = BytesIO()
    saliency_figure(facts).savefig(buffer)
    buffer.seek(0)
    pixels = mpl_image.imread(buffer)
    assert pixels.shape[:2] == (720, 1320)
    blue = np.abs(pixels[..., :3] - np.array([0, 0.447, 0.698])).max(axis=2) < 0.02
    assert blue[:360].sum() > 200
