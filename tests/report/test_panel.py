"""The results figure, maps and boxes where they belong; every figure is drawn."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib import image as mpl_image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from sklearn import metrics
from toy import data_fixture, toy_net

from xray_lightning import ConfigError, Predictions, XrayDataModule, XrayNet, class_map
from xray_lightning.data.geometry import box_to_square
from xray_lightning.evaluation.sweep import SweepComparison, SweepRun
from xray_lightning.explain.overlays import Overlay
from xray_lightning.metrics.operating_points import choose_threshold
from xray_lightning.records import CHEST_XRAY14
from xray_lightning.report import figures
from xray_lightning.report import gallery as module
from xray_lightning.report.drawings import precision_steps, thin_curve
from xray_lightning.report.figures import distribution_figure, findings_text, sweep_figure
from xray_lightning.report.gallery import PLACES, Panel, gallery_figure, panel_figure, results_panel

data = data_fixture(60, size=64)
SCORES = np.array([0.9, 0.1, 0.5, 0.4, 0.7, 0.2, 0.6, 0.8], np.float32)
TARGETS = np.array([1, 1, 1, 0, 0, 0, np.nan, 1], np.float32)


def test_outcomes_and_the_most_confident() -> None:
    found = module.split_by_outcome(SCORES, TARGETS, 0.5)
    wanted = {"true positives": [0, 2, 7], "true negatives": [3, 5]}  # a score at the threshold too
    wanted |= {"false negatives": [1], "false positives": [4]}
    assert {kind: rows.tolist() for kind, rows in found.items()} == wanted
    picked = Panel(columns=2).choose(found, SCORES)
    wanted |= {"true positives": [0, 7], "true negatives": [5, 3]}
    assert {kind: rows.tolist() for kind, rows in picked.items()} == wanted


def test_drawn_at_random() -> None:
    scores = np.linspace(0, 1, 200, dtype=np.float32)
    found = module.split_by_outcome(scores, np.tile([0, 1], 100).astype(np.float32), 0.5)
    panels = (Panel(rule="random", seed=seed) for seed in (0, 0, 1))  # four of each kind
    first, again, other = (panel.choose(found, scores) for panel in panels)
    for kind in PLACES:
        assert first[kind].tolist() == again[kind].tolist() != other[kind].tolist()
        assert len(set(first[kind])) == 4
        assert set(first[kind]) <= set(found[kind])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "best"}, "panel.rule must be one of confident, random, got 'best'"),
        ({"columns": 0}, "panel.columns must be an integer of at least 1, got 0"),
        ({"seed": -1}, "panel.seed must be an integer of at least 0, got -1"),
        ({"seed": "x"}, "panel.seed must be an integer of at least 0, got 'x'"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Panel(**settings)


def test_finding() -> None:
    assert Panel().finding(("Mass",)) == "Mass"
    assert Panel().finding(("Mass", "Hernia")) is None
    assert Panel("Hernia").finding(("Mass", "Hernia")) == "Hernia"
    with pytest.raises(ConfigError, match=r"panel\.label must be one of Mass, Edema: 'Hernia'"):
        Panel("Hernia").finding(("Mass", "Edema"))


def rendered(figure: Figure) -> np.ndarray:
    """(height, width, 3) in [0, 1]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / np.float32(255)


def like(pixels: np.ndarray, colour: str) -> np.ndarray:
    return np.abs(pixels - np.array(to_rgb(colour))).max(axis=2) < 0.08


def cell(*boxes: tuple[float, float, float, float], size: int = 64, heat: float = 0) -> Overlay:
    image, values = np.zeros((size, size), "f4"), np.full((2, 2), heat, "f4")
    return Overlay("id", "Lung Opacity", image, values, boxes, 0.5, 1.0)


def extent(figure: Figure, axes: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what is blue in one cell, in edges of the image's pixels."""
    pixels = rendered(figure)
    place = figure.axes[axes].get_window_extent().extents.astype(int)
    rows, columns = np.nonzero(like(pixels, module.BLUE))
    rows = len(pixels) - 1 - rows  # matplotlib counts from below
    inside = (columns >= place[0]) & (columns <= place[2]) & (rows >= place[1]) & (rows <= place[3])
    corners = np.array([columns[inside], rows[inside]]).T + 0.5
    x, y = figure.axes[axes].transData.inverted().transform(corners).T + 0.5
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


@pytest.mark.parametrize(
    ("box", "frame"), [((100, 300, 200, 150), (512, 1024)), ((700, 40, 120, 400), (1024, 1024))]
)
def test_a_box_lies_where_it_was_drawn(box, frame) -> None:
    """To one pixel of the image the network sees, also on an image that was not square."""
    size = 64
    side, scale = max(frame), size / max(frame)
    left, top = (side - frame[0]) / 2 + box[0], (side - frame[1]) / 2 + box[1]
    wanted = [left * scale, top * scale, (left + box[2]) * scale, (top + box[3]) * scale]
    placed = cell(box_to_square(box, frame, size), size=size)
    for number, kind in enumerate(PLACES):
        drawn = {each: [placed] if each == kind else [] for each in PLACES}
        figure = panel_figure(drawn, dict.fromkeys(PLACES, 1), 1, "title")
        assert extent(figure, number) == pytest.approx(wanted, abs=1)


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_layout() -> None:
    drawn = {"true positives": [cell(), cell()], "true negatives": [cell()]}
    drawn |= {"false negatives": [], "false positives": [cell((1, 1, 9, 9))]}
    figure = panel_figure(drawn, dict(zip(PLACES, (7, 1, 0, 1), strict=True)), 2, "the title")
    text = texts(figure)
    assert "the title" in text
    for heading in ("true positives (7 in all)", "false negatives (0 in all)", "id\nscore 0.5"):
        assert heading in text
    assert text.count("no more\nfalse negatives") == 2
    assert text.count("no more\ntrue negatives") == 1
    pixels = rendered(figure)
    rows, columns = np.nonzero(like(pixels, module.RED))
    assert columns.mean() == pytest.approx(pixels.shape[1] / 2, abs=1.5)
    assert np.ptp(columns) < 6
    assert np.ptp(rows) > 0.7 * len(pixels)
    centres = [axes.get_position().x0 < 0.5 for axes in figure.axes[:8]]
    assert centres == [True] * 4 + [False] * 4  # right calls on the left


def test_a_dollar_in_a_name_is_no_formula() -> None:
    odd = replace(cell(), image_id="IMG$_$.png")
    drawn = {kind: [odd] for kind in PLACES}
    for figure in (
        panel_figure(drawn, dict.fromkeys(PLACES, 1), 1, "scans$_$.csv"),
        gallery_figure([odd], "scans$_$.csv"),
    ):
        assert rendered(figure).size
        assert {"IMG$_$.png", "scans$_$.csv"} <= set(texts(figure).split("\n"))


def test_maps_have_one_scale() -> None:
    """A dim map stays clear beside a bright one; one low value lights nothing up."""
    assert module.common_scale([]) == (0, 0)
    values = np.concatenate([np.arange(1e6, 1e6 + 101), [0]]).astype(np.float32)
    low, high = module.common_scale([values[:50], values[50:]])
    assert low >= 1e6
    assert (low, high) == pytest.approx(tuple(np.percentile(values, [50, 99])))
    drawn = {kind: [] for kind in PLACES}
    drawn |= {"true positives": [cell(heat=5)], "true negatives": [cell(heat=1)]}
    figure = panel_figure(drawn, dict.fromkeys(PLACES, 1), 1, "")
    pixels = rendered(figure)[::-1]
    left, top, right, bottom = figure.axes[0].get_window_extent().extents.astype(int)
    assert pixels[top + 9 : bottom - 9, left + 9 : right - 9].mean() > 0.4
    left, top, right, bottom = figure.axes[1].get_window_extent().extents.astype(int)
    assert pixels[top + 40 : bottom - 9, left + 9 : right - 9].max() == 0  # above the words


def test_evidence_against_a_finding_is_not_painted_hot() -> None:
    """Zero is clear whatever the values are; orange is for the finding, purple against it."""
    scale = module.common_scale([np.linspace(-8, 2, 1001, dtype=np.float32)])
    assert scale == pytest.approx((-7.9, 7.9))
    against, nothing, evidence = module.paint(np.array([[-4, 0, 4]], np.float32), scale)[0]
    assert nothing[3] == 0
    assert [against[3], evidence[3]] == pytest.approx([module.OPAQUE * 4 / 7.9] * 2)
    assert against[2] > against[0], "purple"
    assert evidence[0] > evidence[2], "orange"
    quiet = module.common_scale([np.ones((2, 2), np.float32)], signed=True)
    assert quiet == (-1, 1), "0 stays fixed where no map of a label tells against it"


def test_a_coarse_map_says_that_it_cannot_point_and_all_have_a_colour_bar(rng) -> None:
    for side, said in ((2, True), (3, True), (4, False), (8, False)):
        heat = rng.standard_normal((side, side)).astype(np.float32)
        drawn = {kind: [replace(cell(), heat=heat)] for kind in PLACES}
        for figure, count in (
            (panel_figure(drawn, dict.fromkeys(PLACES, 1), 1, ""), 4),
            (gallery_figure([replace(cell(), heat=heat)], ""), 1),
        ):
            text = texts(figure)
            assert (f"{side} x {side} cells: too few to point" in text) == said
            low, high = module.common_scale([heat] * count)
            assert f"{low:.2g}\n{high:.2g}" in text
            assert all(len(axes.child_axes) == 1 for axes in figure.axes)


@pytest.fixture(scope="module")
def net(data: XrayDataModule) -> XrayNet:
    return toy_net(data.labels).train()


@pytest.fixture
def predictions(data: XrayDataModule) -> dict[str, Predictions]:
    """Random scores of validation and test."""
    rng, made = np.random.default_rng(0), {}
    for subset in ("val", "test"):
        records, shape = data.subset_records(subset), data.subset_targets(subset).shape
        made[subset] = Predictions.of(records, data.labels, rng.random(shape, dtype=np.float32))
    return made


def test_every_map_is_of_the_image_below_it(data, net, predictions, tmp_path, monkeypatch) -> None:
    """Project A's figure showed one patient's map beside another patient's radiograph."""
    seen: dict[str, object] = {}

    def spy(*arguments) -> Figure:
        seen.update(zip(("drawn", "counts", "columns", "title"), arguments, strict=True))
        return panel_figure(*arguments)

    monkeypatch.setattr(module, "panel_figure", spy)
    scores, label = predictions, "Infiltration"
    path = tmp_path / "panel.png"
    assert results_panel(net, data, scores, Panel(label, columns=3), path)
    assert path.stat().st_size > 20_000
    column, test = data.labels.index(label), scores["test"]
    threshold = choose_threshold(
        scores["val"].scores[:, column], scores["val"].targets[:, column], minimum_positives=1
    )
    assert f"at a score of {threshold:.3g} or more (Youden's J on validation)" in seen["title"]
    assert "the most confident calls of each kind" in seen["title"]
    assert data.split.subset_fingerprints["test"] in seen["title"]
    shown = [(kind, each) for kind, cells in seen["drawn"].items() for each in cells]
    assert len(shown) == sum(min(3, count) for count in seen["counts"].values()) > 6
    for kind, each in shown:
        row = test.image_ids.index(each.image_id)
        record, image = data.subset_records("test")[row], data.dataset("test")[row]["image"]
        np.testing.assert_array_equal(each.image, image[0])
        np.testing.assert_allclose(each.heat, class_map(net, image[None], label)[0], atol=1e-5)
        assert each.score == test.scores[row, column]
        assert (each.score >= threshold) == (kind in ("true positives", "false positives"))
        assert record.targets[column] == (kind in ("true positives", "false negatives"))
        assert len(each.boxes) == sum(box.label == label for box in record.boxes)
    assert any(each.boxes for _, each in shown)
    assert net.training


def test_the_random_rule_is_printed(data, net, predictions, tmp_path, monkeypatch) -> None:
    titles: list[str] = []
    monkeypatch.setattr(module, "panel_figure", lambda *a: titles.append(a[3]) or Figure())
    panel = Panel("Mass", rule="random", seed=7)
    assert results_panel(net, data, predictions, panel, tmp_path / "panel.png")
    assert titles[0].endswith("images: drawn at random, seed 7")


def test_no_threshold_no_figure_no_target_an_empty_one(data, net, predictions, tmp_path) -> None:
    predictions["val"].targets[:, 0] = 0
    assert not results_panel(net, data, predictions, Panel(data.labels[0]), tmp_path / "panel.png")
    assert not (tmp_path / "panel.png").exists()
    with pytest.raises(ConfigError, match="none is named"):
        results_panel(net, data, predictions, Panel(), tmp_path / "panel.png")
    predictions["test"].targets[:] = np.nan  # a figure of empty cells, which say so
    assert results_panel(net, data, predictions, Panel("Infiltration"), tmp_path / "panel.png")


ODD = ("$\\frac{$", "a $x$ b_{2}")  # names that are no formulas


def drawing(path, width: float, height: float, dpi: int = 120) -> np.ndarray:
    """The pixels of a figure of so many inches, after a look at its size and contents."""
    pixels: np.ndarray = mpl_image.imread(path)
    size = pixels.shape[1], pixels.shape[0]
    assert size == pytest.approx((width * dpi, height * dpi), abs=1)
    assert (pixels[..., :3].min(axis=2) < 0.9).mean() > 0.002  # not a white sheet
    return pixels


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_the_area_under_the_steps_is_the_average_precision(levels: int) -> None:
    rng = np.random.default_rng(levels)
    scores = (rng.integers(0, levels, 80) / levels).astype(np.float32)
    targets = (rng.random(80) < 0.3).astype(np.float32)
    recall, precision = precision_steps(targets, scores)
    assert (np.diff(recall) > 0)[1:].all()
    area = (np.diff(recall, prepend=0) * precision).sum()
    assert area == pytest.approx(metrics.average_precision_score(targets, scores))


def test_a_thinned_curve_looks_the_same(rng) -> None:
    targets = (rng.random(20_000) < 0.2).astype(np.float32)
    scores = (rng.random(20_000) + 0.3 * targets).astype(np.float32)
    whole = np.stack(metrics.roc_curve(targets, scores)[:2], axis=1)
    few = np.stack(thin_curve(whole[:, 0], whole[:, 1], cells=50), axis=1)
    assert len(few) < 110 < len(whole)
    np.testing.assert_array_equal(few[[0, -1]], whole[[0, -1]])
    gaps = abs(whole[:, None] - few[None]).max(axis=2).min(axis=1)
    assert gaps.max() <= 1 / 50


def random_predictions(labels) -> Predictions:
    rng = np.random.default_rng(0)
    shape = 40, len(labels)
    targets = rng.integers(0, 2, shape).astype(np.float32)
    targets[:7] = np.nan
    names = tuple(map(str, range(40)))
    return Predictions(tuple(labels), names, names, targets, rng.random(shape, dtype=np.float32))


def test_roc(tmp_path) -> None:
    """Also where colours run out, and where nothing is defined."""
    many = random_predictions([*CHEST_XRAY14, *(f"Finding {number}" for number in range(10))])
    none = random_predictions(ODD)
    none.targets[:] = 0, np.nan
    for table, auroc in ((many, 0.5), (none, None)):
        figures.roc_figure(table, dict.fromkeys(table.labels, auroc), ODD[0], tmp_path / "roc.png")
        drawing(tmp_path / "roc.png", 9.5, 6)


@pytest.mark.parametrize(
    ("text", "grey"),
    [
        ("epoch,train/loss,val/auroc,val/auroc/Mass,val/auroc/Edema\n0,0.9,0.6,0.5,\n", True),
        ("epoch,train/loss,val/auroc,val/auroc/Mass\n0,0.9,0.6,0.5\n1,0.9,0.7,0.6\n", True),
        ("epoch,train/loss,val/loss\n0,0.9,0.8\n", False),
        ("epoch,train/loss,val/auroc\n0,0.9,\n1,0.8,\n", False),
    ],
)
def test_curves(text: str, grey: bool, tmp_path) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    figures.curves_figure(tmp_path / "metrics.csv", tmp_path / "curves.png")
    pixels = drawing(tmp_path / "curves.png", 10, 4)[40:-60, 680:-20, :3]  # amid the right half
    assert (np.abs(pixels - np.array(to_rgb("#BBBBBB"))).max(axis=2) < 0.01).any() == grey


def test_distribution(tmp_path, rng) -> None:
    sizes = {"train": 1000, "val": 10, "test": 50}
    targets = {p: rng.integers(0, 2, (n, 14)).astype(np.float32) for p, n in sizes.items()}
    targets["val"][:, 3] = np.nan  # a label that nobody knows
    path = tmp_path / "distribution.png"
    distribution_figure(targets, CHEST_XRAY14, path)
    drawing(path, 9.5, 0.42 * 14 + 1.6)
    distribution_figure({"train": np.ones((2, 1), np.float32)}, ODD[:1], path)
    drawing(path, 9.5, 0.42 + 1.6)


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (11, 8, 2), (40, 8, 4)])
def test_montage(count: int, columns: int, rows: int, tmp_path, rng) -> None:
    targets = rng.integers(0, 2, (count, 14)).astype(np.float32)
    targets[0] = np.nan
    ids = [f"{ODD[1]} {number:08d}_000.png" for number in range(count)]
    images = rng.random((count, 16, 16), dtype=np.float32)
    path = tmp_path / "montage.png"
    figures.montage_figure(images, targets, ids, [*CHEST_XRAY14[1:], ODD[0]], path)
    drawing(path, 1.7 * columns, 2.15 * rows, dpi=110)


def test_sweep(tmp_path) -> None:
    def run(settings: str, seed: int, val: float | None, mark: str = "f") -> SweepRun:
        where = {"val": val, "test": val, "data": ODD[0]}
        return SweepRun("0", settings, seed, "finished", "patient", mark, **where)

    several = [run("loss=bce", seed, 0.8 + seed / 50) for seed in range(3)]
    runs = [*several, run(ODD[1], 0, None), run("loss=bce", 0, None, "g")]
    sweep_figure(SweepComparison(tuple(runs)).leaderboards, tmp_path / "comparison.png")
    drawing(tmp_path / "comparison.png", 9, 0.5 * 3 + 1.2 * 2 + 0.3)
    sweep_figure(SweepComparison((runs[0],)).leaderboards, tmp_path / "comparison.png")
    drawing(tmp_path / "comparison.png", 9, 0.5 + 1.2 + 0.3)


def test_absent_labels_are_no_finding_only_where_all_findings_are_known() -> None:
    """A negative of RSNA may be abnormal without opacity."""
    zeros = np.zeros(14, np.float32)
    assert findings_text(zeros, CHEST_XRAY14) == "No Finding"
    assert findings_text(zeros[:1], ["Lung Opacity"]) == "no Lung Opacity"
    assert findings_text(zeros[:3], ["a", "b", "c"]) == "none of 3 labels"
    assert findings_text(np.array([0, np.nan], np.float32), ["a", "b"]) == "unknown"
    assert findings_text(np.array([1, np.nan], np.float32), ["a", "b"]) == "a"
