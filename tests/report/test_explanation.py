"""What is shown of an explanation is what it holds; tables fit 80 columns."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib import image as mpl_image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from xray_lightning.evaluation.published import published_boxes
from xray_lightning.explain.localisation import AnnotatedMaps, Localisation, evaluate_localisation
from xray_lightning.explain.run import Explanation, SplitName
from xray_lightning.explain.saliency import TESTS, SaliencyTests, run_saliency_tests
from xray_lightning.report import explanation as module
from xray_lightning.report.explanation import explanation_lines, overlap_table, saliency_figure
from xray_lightning.report.page import say


def annotate(count: int) -> AnnotatedMaps:
    maps = np.random.default_rng(count).random((count, 4, 4), dtype=np.float32)
    boxes = [[(0.0, 0.0, 9.0, 9.0), (20.0, 20.0, 9.0, 9.0)]] * count
    return AnnotatedMaps({"cam": maps}, boxes, [f"p{row}" for row in range(count)])


def explain(places: Localisation) -> Explanation:
    split, auroc = SplitName("official", "123"), {"mean": None}
    of = "best.ckpt", "abc", "nih", split, "test", "f00d", 20, 20, auroc, ["cam"]
    return Explanation(*of, localisation=places)


def rows_of(table: Table) -> dict[str, list[str]]:
    cells = zip(*(column.cells for column in table.columns), strict=True)
    return {str(name): list(map(str, rest)) for name, *rest in cells}


@pytest.fixture(scope="module")
def places() -> Localisation:
    scored = {"Pleural_Thickening": annotate(12), "Hernia": annotate(1)}
    return evaluate_localisation(scored, size=32, draws=40)


def test_tables_of_localisation(places: Localisation) -> None:
    rows = rows_of(module.pointing_table(places, "cam", "test [f00d]"))
    mass = places.labels["Pleural_Thickening"].methods
    game = mass["cam"].pointing_game
    controls = [f"{mass[n].pointing_game.value:.3f}" for n in ("random", "centre", "mean box")]
    interval = f"{game.low:.3f}-{game.high:.3f}"
    assert rows["Pleural_Thickening"] == ["24", f"{game.value:.3f}", interval, *controls, "1.000"]
    assert rows["Hernia"][2] == "too few"
    assert rows["Hernia"][5] == "-", "no other patient, no mean box"
    assert (rows["mean"][0], rows["mean"][2]) == ("26", "too few")
    assert rows["mean"][5] == "-", "of one label: nothing beside it is"
    rows = rows_of(overlap_table(places, "cam", published_boxes("nih")))
    pairs = [f"{mass[n].t_iobb['0.1'].value:.3f} ({mass[n].afp['0.1'].value:.1f})"
             for n in ("cam", "random")]  # fmt: skip
    assert rows["Pleural_Thickening"][:2] == pairs
    assert rows["Hernia"][-1] == rows["mean"][-1] == "-"
    scored = evaluate_localisation({"Mass": annotate(12)}, size=32, draws=40)
    assert rows_of(overlap_table(scored, "cam", published_boxes("nih")))["Mass"][-1] == (
        "0.435 (0.6)"
    )
    assert len(overlap_table(scored, "cam", published_boxes("phantom")).columns) == 3


def test_means_over_fewer_labels_and_maps_are_said_to_be() -> None:
    dark = annotate(12)
    dark.maps["cam"][:5] -= 2
    places = evaluate_localisation({"Hernia": annotate(1), "Mass": dark}, size=32, draws=40)
    rows = rows_of(module.methods_table(places, module.SHOWN[0]))
    game = places.labels["Mass"].methods["mean box"].pointing_game
    assert rows["mean box, 1 labels"][0].startswith(f"{game.value:.3f}")
    assert {"cam", "random", "ceiling"} < set(rows)
    assert say("energy", places, ["cam"])[0].endswith("no energy, of 13: cam 5")
    assert say("energy", places, ["random"]) == []
    lines = say("localisation", explain(places), [])
    assert "place of Hernia, Mass: the union of its boxes" in lines


@pytest.fixture(scope="module")
def saliency() -> dict[str, SaliencyTests]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 10 * 10, 2))

    def features(net: nn.Module, images: Tensor) -> Tensor:
        made: Tensor = net[0](images)[:, 0]  # type: ignore[index]
        return made.detach()

    def flat(net: nn.Module, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 2, 2)

    images = torch.rand(20, 1, 12, 12)
    return {
        method.__name__: run_saliency_tests(
            net, method, images, range(20), label=1, draws=20, networks=4, steps=4
        )
        for method in (features, flat)
    }


def test_lines_fit_and_explanations_come_back(places, saliency) -> None:
    explanation = replace(
        explain(places),
        published=published_boxes("nih"),
        saliency=dict.fromkeys(("gradcam++", "integrated", *"abcd"), saliency["flat"]),
    )
    again = Explanation.from_json(explanation.to_json())
    assert again.to_json() == explanation.to_json()
    assert again.published == explanation.published
    console = Console(width=80, record=True, file=BytesIO())  # type: ignore[arg-type]
    for line in explanation_lines(explanation):
        if isinstance(line, Table):
            needed = console.measure(line, options=console.options.update(width=300)).maximum
            assert needed <= 80, [column.header for column in line.columns]
    lines = [line for line in explanation_lines(explanation) if isinstance(line, str)]
    assert any("published pointing game of random map: 0.228" in line for line in lines)
    assert sum("permutation was not run" in line for line in lines) == 1
    [table, *_] = [t for t in explanation_lines(explanation)[-20:] if isinstance(t, Table)
                   and t.columns[0].header == "test"]  # fmt: skip
    assert rows_of(table)["shifts"] == ["not run"] * 5


def test_a_row_for_each_method(saliency) -> None:
    figure = saliency_figure(saliency)
    panels = np.reshape(figure.axes, (2, 3))
    assert [row[0].get_ylabel() for row in panels] == ["features", "flat"]
    tests = saliency["features"]
    for axes, name in zip(panels[0], ("randomisation", "deletion", "insertion"), strict=True):
        assert axes.get_title("left").startswith(f"{name}: {tests.verdict_of(name)}")
    stages = tests.randomisation.stages
    drawn = panels[0, 0].get_lines()[0]
    assert drawn.get_label() == "rank correlation"
    np.testing.assert_allclose(drawn.get_ydata(), [1.0, *(one.spearman.value for one in stages)])
    ticks = [text.get_text() for text in panels[1, 0].get_xticklabels()]
    assert ticks == ["nothing", *(stage.name for stage in stages)]
    for axes, name in zip(panels[0, 1:], ("deletion", "insertion"), strict=True):
        lines, curves = axes.get_lines(), getattr(tests, name).curves
        drawn = {line.get_label(): line.get_ydata() for line in lines}
        np.testing.assert_allclose(drawn["the map's order"], curves["map"])
        np.testing.assert_allclose(drawn["random order"], curves["random"])
    assert set(TESTS) > {"deletion"}


def test_it_is_drawn(saliency) -> None:
    """Also where nothing is defined; the colours are there."""
    buffer = BytesIO()
    saliency_figure(saliency).savefig(buffer)
    buffer.seek(0)
    pixels = mpl_image.imread(buffer)
    assert pixels.shape[:2] == (720, 1320)
    blue = np.abs(pixels[..., :3] - np.array([0, 0.447, 0.698])).max(axis=2) < 0.02
    assert blue[:360].sum() > 200
