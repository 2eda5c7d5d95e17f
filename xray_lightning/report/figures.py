"""Figures of a run, of a sweep and of folds, as PNG; colours of Okabe and Ito, readable in grey."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.metrics import roc_curve

from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.evaluation.sweep import CrossValidation, Leaderboard
from xray_lightning.records import CHEST_XRAY14, NO_FINDING, is_known
from xray_lightning.wording import shorten
from xray_lightning.writing import save_figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":")
GREY = "#777777"
MARKS = {"o": COLOURS[0], ".": GREY, "D": COLOURS[4]}
BARE = ("axes.spines.top", "axes.spines.right", "legend.frameon")
PLAIN: dict[Any, Any] = dict.fromkeys(BARE, False)
AS_WRITTEN = mpl.rc_context(PLAIN | {"text.parse_math": False})  # a decorator: names may hold a $

Floats = npt.NDArray[np.floating]
Bar = float | list[list[float]] | None  # of an error bar: a deviation, or both of its lengths


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, *, dpi: int = 120, **grid: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches and its axes, row by row, without upper and right spines."""
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    with mpl.rc_context(PLAIN):
        return figure, figure.subplots(rows, columns, squeeze=False, **grid).ravel().tolist()


@AS_WRITTEN
def roc_figure(
    predictions: Predictions, aurocs: Mapping[str, float | None], title: str, path: Path
) -> None:
    """ROC curves of all labels; a label whose curve is undefined stands in the legend only."""
    figure, (axes,) = new_figure(9.5, 6)
    for index, label in enumerate(predictions.labels):
        targets, auroc = predictions.targets[:, index], aurocs[label]
        positives, known = int((targets == 1).sum()), ~np.isnan(targets)
        false, true, name = [], [], f"{label} - ({positives} positive)"
        if auroc is not None:
            false, true, _ = roc_curve(targets[known], predictions.scores[known, index])
            name = f"{label} {auroc:.3f} ({positives})"
        (line,) = axes.plot(false, true, STYLES[index // len(COLOURS) % len(STYLES)], label=name)
        line.set(color=COLOURS[index % len(COLOURS)], linewidth=1.6)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", title=title)
    axes.set(xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
    place: Any = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5)}
    axes.legend(title="AUROC (positive images)", fontsize=9, **place)
    save_figure(figure, path)


@AS_WRITTEN
def curves_figure(metrics: Path, path: Path) -> None:
    """Loss of training and validation, and validation AUROC, against the epoch."""
    figure, (loss, auroc) = new_figure(10, 4, columns=2)
    draw_curves(pd.read_csv(metrics), loss, auroc)
    auroc.set_title("mean (blue) and each label (grey)")
    save_figure(figure, path)


def draw_curves(table: pd.DataFrame, loss: Axes, auroc: Axes) -> None:
    """The rows of metrics.csv: losses; validation AUROC, the mean blue, each label grey."""
    labels = [name for name in table.columns if name.startswith("val/auroc/")]
    curves = [(loss, "train/loss", "-o", COLOURS[0]), (loss, "val/loss", "--s", COLOURS[4])]
    curves += [(auroc, name, "-" if len(table) > 1 else ".", "#BBBBBB") for name in labels]
    curves += [(auroc, "val/auroc", "-o", COLOURS[0])]
    for axes, column, style, colour in curves:
        if column in table:
            (line,) = axes.plot(table["epoch"] + 1, table[column], style, color=colour)
            line.set(label=column, markersize=4, linewidth=0.8 if column in labels else 1.5)
    loss.set(xlabel="epoch", ylabel="loss")
    loss.legend(loc="upper right")  # "best" warns where it is slow
    auroc.set(xlabel="epoch", ylabel="validation AUROC")
    for axes in (loss, auroc):
        axes.locator_params("x", integer=True, min_n_ticks=1)


@AS_WRITTEN
def distribution_figure(targets: Mapping[str, Floats], labels: Sequence[str], path: Path) -> None:
    """Share of positives among the known targets (N, L) of each subset, with the counts."""
    figure, (axes,) = new_figure(9.5, 0.42 * len(labels) + 1.6)
    height = 0.8 / len(targets)
    for number, (subset, truth) in enumerate(targets.items()):
        counts, known = (truth == 1).sum(axis=0), (~np.isnan(truth)).sum(axis=0)
        shares = 100 * counts / np.maximum(known, 1)
        places = np.arange(len(labels)) + number * height
        name = f"{subset} ({len(truth):,} images)"
        bars = axes.barh(places, shares, height * 0.92, color=COLOURS[number], label=name)
        axes.bar_label(bars, [f"{count:,}" for count in counts], padding=2, fontsize=7)
    axes.set_yticks(np.arange(len(labels)) + 0.4 - height / 2, labels)
    axes.invert_yaxis()
    across = "positive images (% of those with a known target)"
    axes.set(xlabel=across, title="Class distribution per subset")
    figure.legend(loc="outside lower center", ncols=3)
    save_figure(figure, path)


@AS_WRITTEN
def montage_figure(
    images: Floats,  # (B, H, W) in [0, 1]
    targets: Floats,  # (B, L)
    image_ids: Sequence[str],  # B ids
    labels: Sequence[str],  # L labels
    path: Path,  # the file
) -> None:
    """One batch as the network sees it, with ids and findings."""
    shown = min(len(images), 32)
    columns = min(shown, 8)
    rows = -(-shown // columns)
    figure, panels = new_figure(1.7 * columns, 2.15 * rows, rows, columns, dpi=110)
    for axes in panels:
        axes.set_axis_off()
    for index, axes in enumerate(panels[:shown]):
        axes.imshow(images[index], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        name = shorten(image_ids[index], 26)  # RSNA's have 36 characters
        axes.set_title(f"{name}\n{findings_text(targets[index], labels)}", fontsize=6)
    save_figure(figure, path)


def findings_text(targets: Floats, labels: Sequence[str]) -> str:
    """The findings of one image, cut where a caption of a montage ends.

    "No Finding" only where all of ChestX-ray14's findings are absent: an image without opacity may
    show anything else.
    """
    known = len(labels) == 1 and f"no {labels[0]}"
    none = NO_FINDING if tuple(labels) == CHEST_XRAY14 else known or f"none of {len(labels)} labels"
    present = [label for label, target in zip(labels, targets, strict=True) if target == 1]
    text = ", ".join(present) or ("unknown" if not is_known(targets).all() else none)
    return text if len(text) <= 30 else f"{text[:28]}…"


@AS_WRITTEN
def sweep_figure(boards: Sequence[Leaderboard], path: Path) -> None:
    """Validation AUROC of a sweep, a panel for each split, and test of the chosen run."""
    sizes = [len(board.groups) for board in boards]
    height = sum(0.5 * size + 1.2 for size in sizes) + 0.3
    ratios = [size + 0.5 for size in sizes]
    figure, panels = new_figure(9, height, len(boards), height_ratios=ratios)
    for axes, board in zip(panels, boards, strict=True):
        names = [f"{g.settings or 'all runs'} (n = {g.val.count})" for g in board.groups]
        _draw_dots(axes, [fill(name, 40) for name in names], [
            ([run.val for run in group.runs], group.val.mean, group.val.deviation)
            for group in board.groups
        ])  # fmt: skip
        if board.chosen is not None and (test := board.chosen.test).mean is not None:
            look: Any = {"fmt": "D", "capsize": 3, "color": COLOURS[4]}
            axes.errorbar(test.mean, 0.28, xerr=test.deviation, **look)
        axes.set_xlabel("mean AUROC")
        title = f"{board.data}, split {board.split} [{board.fingerprint}], ranked by validation"
        axes.set_title(title, loc="left")
    said = ("validation, mean and sd", "validation, single runs", "test of the chosen run")
    _save_with_key(figure, path, said)


@AS_WRITTEN
def folds_figure(validation: CrossValidation, path: Path) -> None:
    """AUROC of a cross-validation: a row a label, pooled with its interval, the folds as dots."""
    rows = validation.rows
    figure, (axes,) = new_figure(9, 0.32 * len(rows) + 1.6)
    dots: list[tuple[Sequence[float | None], float | None, Bar]] = []
    for _, _, auroc, folds in rows:
        ends = [[max(0.0, auroc.value - auroc.low)], [max(0.0, auroc.high - auroc.value)]]
        dots.append((folds, auroc.value, None if np.isnan(ends).any() else ends))
    _draw_dots(axes, [label for label, *_ in rows], dots)
    axes.set_xlabel("AUROC")
    axes.set_title(fill(validation.title, 90), loc="left", fontsize=10)
    _save_with_key(figure, path, ("all folds pooled, 95 % (patients)", "single folds"))


def _draw_dots(
    axes: Axes,
    names: Sequence[str],
    rows: Sequence[tuple[Sequence[float | None], float | None, Bar]],
) -> None:
    """Rows from the top down: single figures in grey, their mean (or whole) with its bar."""
    for place, (singles, mean, bar) in enumerate(rows):
        known = [single for single in singles if single is not None]
        axes.plot(known, [place - 0.22] * len(known), ".", color=GREY, markersize=5)
        if mean is not None:
            axes.errorbar(mean, place, xerr=bar, capsize=3, fmt="o", color=COLOURS[0])
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.5, -0.6)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)


def _save_with_key(figure: Figure, path: Path, names: Sequence[str]) -> None:
    """Below everything, what each of the first marks means."""
    lines = [Line2D([], [], ls="", marker=mark, color=MARKS[mark]) for mark in MARKS]
    figure.legend(lines[: len(names)], names, loc="outside lower center", ncols=3)
    save_figure(figure, path)
