"""Figures of a run, drawn from the files it left; colours of Okabe and Ito, readable in grey."""

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

from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.evaluation.sweep import Leaderboard
from xray_lightning.records import CHEST_XRAY14, NO_FINDING
from xray_lightning.report.heat import shortened
from xray_lightning.writing import save_figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":")
AS_WRITTEN = mpl.rc_context({"text.parse_math": False})  # a decorator: names may hold a $

Scores = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


def roc_curve(scores: Scores, targets: Scores) -> tuple[Floats, Floats]:
    """False and true positive rate at every threshold, from (0, 0) to (1, 1).

    Args:
        scores: (N,).
        targets: (N,), 1 or 0; both must occur.

    Returns:
        Two arrays of one length, a point for each distinct score and the origin.
    """
    true, false = _called(scores, targets)
    return np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1])


def precision_recall_curve(scores: Scores, targets: Scores) -> tuple[Floats, Floats]:
    """Recall and precision at every threshold, the highest first.

    Average precision is the area under its steps: each precision holds up to its recall.

    Args:
        scores: (N,).
        targets: (N,), 1 or 0; 1 must occur.
    """
    true, false = _called(scores, targets)
    return true / true[-1], true / (true + false)


def thinned(across: Floats, up: Floats, cells: int = 300) -> tuple[Floats, Floats]:
    """The points of a curve in the unit square where it enters another cell of a grid.

    No eye sees the rest, and the curve of 25,000 images would be a megabyte.
    """
    place = np.stack([across * cells, up * cells]).astype(np.int64)
    kept = np.append(True, (np.diff(place) != 0).any(axis=0))
    kept[-1] = True
    return across[kept], up[kept]


def _called(scores: Scores, targets: Scores) -> tuple[Floats, Floats]:
    """Positives and negatives that score at least each distinct score, the highest first."""
    order = np.argsort(-scores, kind="stable")
    ordered, positive = scores[order], targets[order] == 1
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # ties move together
    return np.cumsum(positive)[last].astype(float), np.cumsum(~positive)[last].astype(float)


@AS_WRITTEN
def roc_figure(
    predictions: Predictions, aurocs: Mapping[str, float | None], title: str, path: Path
) -> None:
    """ROC curves of all labels; a label whose curve is undefined stands in the legend only."""
    figure, axes = _figure(9.5, 6)
    for index, label in enumerate(predictions.labels):
        targets = predictions.targets[:, index]
        known = ~np.isnan(targets)
        positives, value = int((targets == 1).sum()), aurocs[label]
        colour = COLOURS[index % len(COLOURS)]
        style = STYLES[index // len(COLOURS) % len(STYLES)]
        if value is None:
            axes.plot([], [], style, color=colour, label=f"{label} - ({positives} positive)")
            continue
        false, true = roc_curve(predictions.scores[known, index], targets[known])
        legend = f"{label} {value:.3f} ({positives})"
        axes.plot(false, true, style, color=colour, linewidth=1.6, label=legend)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    axes.set(
        xlabel="1 - specificity", ylabel="sensitivity", title=title, xlim=(0, 1), ylim=(0, 1.005)
    )
    axes.set_aspect("equal")
    heading = "AUROC (positive images)"
    axes.legend(
        title=heading, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=9
    )
    save_figure(figure, path)


@AS_WRITTEN
def curves_figure(metrics: Path, path: Path) -> None:
    """Loss of training and validation, and validation AUROC, against the epoch."""
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    loss, auroc = figure.subplots(1, 2)
    draw_curves(pd.read_csv(metrics), loss, auroc)
    auroc.set_title("mean (blue) and each label (grey)")
    save_figure(figure, path)


def draw_curves(table: pd.DataFrame, loss: Axes, auroc: Axes) -> None:
    """The rows of metrics.csv: losses; validation AUROC, the mean blue, each label grey."""
    for column, colour, style in (
        ("train/loss", COLOURS[0], "-o"),
        ("val/loss", COLOURS[4], "--s"),
    ):
        if column in table:
            loss.plot(
                table["epoch"] + 1, table[column], style, color=colour, label=column, markersize=4
            )
    loss.set(xlabel="epoch", ylabel="loss")
    loss.legend(frameon=False)
    for column in (name for name in table.columns if name.startswith("val/auroc/")):
        auroc.plot(table["epoch"] + 1, table[column], color="#BBBBBB", linewidth=0.8)
    if "val/auroc" in table:
        auroc.plot(table["epoch"] + 1, table["val/auroc"], "-o", color=COLOURS[0], markersize=4)
    auroc.set(xlabel="epoch", ylabel="validation AUROC")
    for axes in (loss, auroc):
        axes.locator_params("x", integer=True, min_n_ticks=1)
        _plain_axes(axes)


@AS_WRITTEN
def distribution_figure(
    targets: Mapping[str, npt.NDArray[np.float32]], labels: Sequence[str], path: Path
) -> None:
    """Share of positives among the known targets of each label and part, with the counts.

    Args:
        targets: part to targets (N, L), NaN where unknown.
        labels: the labels.
        path: the file.
    """
    figure, axes = _figure(9.5, 0.42 * len(labels) + 1.6)
    height = 0.8 / len(targets)
    for offset, (subset, values) in enumerate(targets.items()):
        counts, known = (values == 1).sum(axis=0), (~np.isnan(values)).sum(axis=0)
        places = np.arange(len(labels)) + offset * height
        shares = 100 * counts / np.maximum(known, 1)
        name = f"{subset} ({len(values):,} images)"
        axes.barh(places, shares, height * 0.92, color=COLOURS[offset], label=name)
        for place, share, count in zip(places, shares, counts, strict=True):
            axes.annotate(
                f"{count:,}",
                (share, place),
                (2, 0),
                "data",
                "offset points",
                fontsize=7,
                va="center",
            )
    axes.set_yticks(np.arange(len(labels)) + 0.4 - height / 2, labels)
    axes.invert_yaxis()
    axes.set(
        xlabel="positive images (% of those with a known target)",
        title="Class distribution per part",
    )
    axes.legend(frameon=False)
    save_figure(figure, path)


@AS_WRITTEN
def montage_figure(
    images: npt.NDArray[np.float32],
    targets: npt.NDArray[np.float32],
    image_ids: Sequence[str],
    labels: Sequence[str],
    path: Path,
) -> None:
    """One batch as the network sees it, with ids and findings.

    Args:
        images: (B, H, W) in [0, 1].
        targets: (B, L).
        image_ids: B ids.
        labels: L labels.
        path: the file.
    """
    shown = min(len(images), 32)
    columns = min(shown, 8)
    rows = -(-shown // columns)
    figure = Figure(figsize=(1.7 * columns, 2.15 * rows), dpi=110, layout="constrained")
    grid = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axes in grid:
        axes.set_axis_off()
    for index, axes in enumerate(grid[:shown]):
        axes.imshow(images[index], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        name = shortened(image_ids[index], 26)  # RSNA's have 36 characters
        axes.set_title(f"{name}\n{findings_text(targets[index], labels)}", fontsize=6)
    save_figure(figure, path)


@AS_WRITTEN
def sweep_figure(boards: Sequence[Leaderboard], path: Path) -> None:
    """Validation AUROC of a sweep: a panel for each split, the best first, test of the chosen one.

    Args:
        boards: one or more; bars are standard deviations, dots are single seeds.
        path: the file.
    """
    sizes = [len(board.groups) for board in boards]
    height = sum(0.5 * size + 1.2 for size in sizes) + 0.3
    figure = Figure(figsize=(9, height), dpi=120, layout="constrained")
    ratios = [size + 0.5 for size in sizes]
    panels = figure.subplots(len(boards), 1, squeeze=False, height_ratios=ratios)[:, 0]
    for axes, board in zip(panels, boards, strict=True):
        _plain_axes(axes)
        _draw_leaderboard(axes, board)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, loc="outside lower center", ncols=3)
    save_figure(figure, path)


def folds_figure(facts: Mapping[str, Any], title: str, path: Path) -> None:
    """AUROC of a cross-validation: a row a label, pooled with its interval, the folds as dots.

    Args:
        facts: "labels" and "mean" with their "auroc", "fold_auroc" of each label, "fold_mean".
        title: over the figure.
        path: the file.
    """
    rows = [(label, each, facts["fold_auroc"][label]) for label, each in facts["labels"].items()]
    rows.append(("mean", facts["mean"], facts["fold_mean"]))
    figure, axes = _figure(9, 0.32 * len(rows) + 1.6)
    for place, (_, each, folds) in enumerate(rows):
        known = [value for value in folds if value is not None]
        axes.plot(known, [place - 0.22] * len(known), ".", color="#777777", markersize=5)
        if (value := each["auroc"]["value"]) is not None:
            low, high = each["auroc"]["patient_interval"] or (value, value)
            bar = [[max(0.0, value - low)], [max(0.0, high - value)]]
            axes.errorbar(value, place, xerr=bar, capsize=3, fmt="o", color=COLOURS[0])
    axes.plot([], [], "o", color=COLOURS[0], label="all folds pooled, 95 % (patients)")
    axes.plot([], [], ".", color="#777777", label="single folds")
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.5, -0.7)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_xlabel("AUROC")
    axes.set_title(fill(title, 90), loc="left", fontsize=10)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    save_figure(figure, path)


def _draw_leaderboard(axes: Axes, board: Leaderboard) -> None:
    shown = [(each.val, COLOURS[0], "o", float(row)) for row, each in enumerate(board.groups)]
    if board.chosen is not None:
        shown.append((board.chosen.test, COLOURS[4], "D", 0.28))
    for value, colour, marker, place in shown:
        if value.mean is not None:
            bar = value.deviation  # None: no bar
            axes.errorbar(
                value.mean, place, xerr=bar, capsize=3, fmt=marker, color=colour, markersize=7
            )
    for place, group in enumerate(board.groups):
        seeds = [run.val for run in group.runs if run.val is not None]
        axes.plot(seeds, [place - 0.22] * len(seeds), ".", color="#777777", markersize=5)
    for colour, marker, name in (
        (COLOURS[0], "o", "validation, mean and sd"),
        ("#777777", ".", "validation, single runs"),
        (COLOURS[4], "D", "test of the chosen run"),
    ):
        axes.plot([], [], marker, color=colour, label=name)
    names = [f"{group.settings or 'all runs'} (n = {group.val.count})" for group in board.groups]
    axes.set_yticks(range(len(names)), [fill(name, 40) for name in names], fontsize=9)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_xlabel("mean AUROC")
    axes.set_title(
        f"{board.data}, split {board.split} [{board.fingerprint}], ranked by validation",
        loc="left",
    )


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    axes = figure.subplots()
    _plain_axes(axes)
    return figure, axes


def _plain_axes(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def findings_text(targets: npt.NDArray[np.float32], labels: Sequence[str]) -> str:
    """The positive labels in short; unknown ones are not called absent.

    "No Finding" only where all of ChestX-ray14's findings are absent: an image without opacity may
    show anything else.
    """
    known = len(labels) == 1 and f"no {labels[0]}"
    none = NO_FINDING if tuple(labels) == CHEST_XRAY14 else known or f"none of {len(labels)} labels"
    found = [label for label, value in zip(labels, targets, strict=True) if value == 1]
    text = ", ".join(found) or ("unknown" if np.isnan(targets).any() else none)
    return text if len(text) <= 30 else f"{text[:28]}…"
