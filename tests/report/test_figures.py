"""Every figure is drawn, also where something is undefined."""

import numpy as np
import pytest
from matplotlib import image as mpl_image
from sklearn import metrics

from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.evaluation.sweep import SweepComparison, SweepRun
from xray_lightning.records import CHEST_XRAY14
from xray_lightning.report import figures
from xray_lightning.report.drawings import precision_steps, thin_curve
from xray_lightning.report.figures import distribution_figure, findings_text, sweep_figure


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


def test_a_thinned_curve_looks_the_same() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random(20_000) < 0.2).astype(np.float32)
    scores = (rng.random(20_000) + 0.3 * targets).astype(np.float32)
    whole = np.stack(metrics.roc_curve(targets, scores)[:2], axis=1)
    few = np.stack(thin_curve(whole[:, 0], whole[:, 1], cells=50), axis=1)
    assert len(few) < 110 < len(whole)
    np.testing.assert_array_equal(few[[0, -1]], whole[[0, -1]])
    gaps = abs(whole[:, None] - few[None]).max(axis=2).min(axis=1)
    assert gaps.max() <= 1 / 50


def predictions(labels) -> Predictions:
    rng = np.random.default_rng(0)
    shape = 40, len(labels)
    targets = rng.integers(0, 2, shape).astype(np.float32)
    targets[:7] = np.nan
    names = tuple(map(str, range(40)))
    return Predictions(tuple(labels), names, names, targets, rng.random(shape, dtype=np.float32))


def test_roc(tmp_path) -> None:
    """Also where colours run out, and where nothing is defined."""
    many = predictions([*CHEST_XRAY14, *(f"Finding {number}" for number in range(10))])
    none = predictions(("Mass", "Hernia"))
    none.targets[:] = 0, np.nan
    for table, auroc in ((many, 0.5), (none, None)):
        aurocs = dict.fromkeys(table.labels, auroc)
        figures.roc_figure(table, aurocs, "title", tmp_path / "roc.png")
        drawing(tmp_path / "roc.png", 9.5, 6)


@pytest.mark.parametrize(
    "lines",
    [
        [
            "epoch,train/loss,val/loss,val/auroc,val/auroc/Mass,val/auroc/Hernia",
            "0,0.9,0.8,0.6,0.6,",
            "1,0.7,0.75,0.65,0.65,",
        ],
        ["epoch,train/loss", "0,0.9"],
        ["epoch,train/loss,val/auroc", "0,0.9,", "1,0.8,"],
    ],
)
def test_curves(lines: list[str], tmp_path) -> None:
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    figures.curves_figure(tmp_path / "metrics.csv", tmp_path / "curves.png")
    drawing(tmp_path / "curves.png", 10, 4)


def test_distribution(tmp_path) -> None:
    rng = np.random.default_rng(0)
    sizes = {"train": 1000, "val": 10, "test": 50}
    targets = {p: rng.integers(0, 2, (n, 14)).astype(np.float32) for p, n in sizes.items()}
    targets["val"][:, 3] = np.nan  # a label that nobody knows
    path = tmp_path / "distribution.png"
    distribution_figure(targets, CHEST_XRAY14, path)
    drawing(path, 9.5, 0.42 * 14 + 1.6)
    distribution_figure({"train": np.ones((2, 1), np.float32)}, ("Mass",), path)
    drawing(path, 9.5, 0.42 + 1.6)


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (11, 8, 2), (40, 8, 4)])
def test_montage(count: int, columns: int, rows: int, tmp_path) -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (count, 14)).astype(np.float32)
    targets[0] = np.nan
    ids = [f"{number:08d}_000.png" for number in range(count)]
    images = rng.random((count, 16, 16), dtype=np.float32)
    figures.montage_figure(images, targets, ids, CHEST_XRAY14, tmp_path / "montage.png")
    drawing(tmp_path / "montage.png", 1.7 * columns, 2.15 * rows, dpi=110)


def test_sweep(tmp_path) -> None:
    def run(settings: str, seed: int, val: float | None, mark: str = "f") -> SweepRun:
        return SweepRun("0", settings, seed, "finished", "patient", mark, val=val, test=val)

    several = [run("loss=bce", seed, 0.8 + seed / 50) for seed in range(3)]
    runs = [*several, run("loss=auc", 0, None), run("loss=bce", 0, None, "g")]
    sweep_figure(SweepComparison(tuple(runs)).leaderboards, tmp_path / "comparison.png")
    drawing(tmp_path / "comparison.png", 9, 0.5 * 3 + 1.2 * 2 + 0.3)
    sweep_figure(SweepComparison((runs[0],)).leaderboards, tmp_path / "comparison.png")
    drawing(tmp_path / "comparison.png", 9, 0.5 + 1.2 + 0.3)


def test_names_are_not_formulas(tmp_path) -> None:
    names = ("$\\frac{$", "a $x$ b_{2}")
    targets = np.array([[1, 0], [0, 1]], dtype=np.float32)
    predictions = Predictions(names, names, names, targets, targets)
    figures.roc_figure(predictions, dict.fromkeys(names, 1.0), names[0], tmp_path / "roc.png")
    distribution_figure({"test": targets}, names, tmp_path / "shares.png")
    figures.montage_figure(
        np.zeros((2, 4, 4), np.float32), targets, names, names, tmp_path / "montage.png"
    )
    run = SweepRun("0", names[0], 0, "finished", val=0.5, data=names[0])
    sweep_figure(SweepComparison((run,)).leaderboards, tmp_path / "comparison.png")


def test_absent_labels_are_no_finding_only_where_all_findings_are_known() -> None:
    """A negative of RSNA may be abnormal without opacity."""
    zeros = np.zeros(14, np.float32)
    assert findings_text(zeros, CHEST_XRAY14) == "No Finding"
    assert findings_text(zeros[:1], ["Lung Opacity"]) == "no Lung Opacity"
    assert findings_text(zeros[:3], ["a", "b", "c"]) == "none of 3 labels"
    assert findings_text(np.array([0, np.nan], np.float32), ["a", "b"]) == "unknown"
    assert findings_text(np.array([1, np.nan], np.float32), ["a", "b"]) == "a"
