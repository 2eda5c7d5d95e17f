"""The results figure: right and wrong calls of a finding, each with its own heat map and boxes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.geometry import box_to_square
from xray_lightning.errors import ConfigError
from xray_lightning.explain import class_map
from xray_lightning.metrics.pointing import enlarged
from xray_lightning.metrics.thresholds import choose_threshold
from xray_lightning.models.network import XrayNet
from xray_lightning.predictions import Predictions
from xray_lightning.report.calls import RULES, Panel, chosen, outcomes

Box = tuple[float, float, float, float]  # x, y, width, height
Floats = npt.NDArray[np.float32]

# Where each kind stands: (row, block); the line lies between the blocks.
PLACES = {
    "true positives": (0, 0),
    "true negatives": (1, 0),
    "false negatives": (0, 1),
    "false positives": (1, 1),
}
HEAT = mpl.colormaps["inferno"]  # its lightness rises evenly: it reads in grey
BLUE, RED = "#1E90FF", "#D62728"
CELL, TEXT, MARGIN, TOP, BOTTOM = 1.8, 0.48, 0.25, 0.5, 0.5  # inches


@dataclass(frozen=True, eq=False)
class Cell:
    """One image of the figure.

    Attributes:
        image_id: its id.
        image: (S, S) in [0, 1].
        heat: the finding's map over this very image, (h, w).
        boxes: x, y, width, height in pixels of the image.
        score: of the finding.
    """

    image_id: str
    image: Floats
    heat: Floats
    boxes: tuple[Box, ...]
    score: float


def results_panel(
    net: XrayNet,
    data: XrayDataModule,
    predictions: Mapping[str, Predictions],
    panel: Panel,
    path: Path,
) -> bool:
    """Draw the figure of the test part; the threshold comes from validation.

    Args:
        net: the network that made the predictions.
        data: its data.
        predictions: of "val" and "test", in table order.
        panel: what to draw.
        path: the file.

    Returns:
        Whether there is a figure: not if validation lacks positives or negatives of the finding.

    Raises:
        ConfigError: the data has several labels and the panel names none, or an unknown one.
    """
    label = panel.finding(data.labels)
    if label is None:
        raise ConfigError(f"panel.label must be one of {', '.join(data.labels)}: none is named")
    column = data.labels.index(label)
    val, test = predictions["val"], predictions["test"]
    threshold = choose_threshold(
        val.scores[:, column], val.targets[:, column], "youden", minimum_positives=1
    )
    if np.isnan(threshold):
        return False
    scores = test.scores[:, column]
    found = outcomes(scores, test.targets[:, column], threshold)
    picked = chosen(found, scores, panel)
    rows = [int(row) for rows in picked.values() for row in rows]
    by_row = dict(zip(rows, cells(net, data, label, rows, scores), strict=True))
    drawn = {kind: [by_row[int(row)] for row in picked[kind]] for kind in picked}
    counts = {kind: len(found[kind]) for kind in found}
    rule = RULES[panel.rule].format(seed=panel.seed)
    title = (
        f"{label}, test part of {data.source.title}, split {data.split.name} "
        f"[{data.split.part_fingerprints['test']}]\ncalled positive at a score of {threshold:.3g} "
        f"or more (Youden's J on validation); images: {rule}"
    )
    panel_figure(drawn, counts, panel.columns, title).savefig(path)
    return True


def cells(
    net: XrayNet, data: XrayDataModule, label: str, rows: Sequence[int], scores: Floats
) -> list[Cell]:
    """Images of the test part as the network sees them, with map, boxes and score of a finding."""
    if not rows:
        return []
    dataset, records = data.dataset("test"), data.part_records("test")
    images = torch.stack([dataset[row]["image"] for row in rows])  # (B, 1, S, S)
    device = next(net.parameters()).device
    heats = class_map(net, images.to(device), label).float().cpu().numpy()
    made = []
    for row, image, heat in zip(rows, images.squeeze(1).numpy(), heats, strict=True):
        record = records[row]
        height, width = dataset.cache.sizes[dataset.rows[row]].tolist()
        frame = record.box_frame or (width, height)
        boxes = tuple(
            box_to_square((box.x, box.y, box.width, box.height), frame, data.image_size)
            for box in record.boxes
            if box.label == label
        )
        made.append(Cell(record.image_id, image, heat, boxes, float(scores[row])))
    return made


def panel_figure(
    drawn: Mapping[str, Sequence[Cell]], counts: Mapping[str, int], columns: int, title: str
) -> Figure:
    """The figure: right calls, a red line, wrong calls; an empty cell says what there is no more.

    Args:
        drawn: the cells of each kind, at most ``columns``.
        counts: images of each kind in all.
        columns: cells of a kind.
        title: over everything.
    """
    block = columns * CELL + MARGIN
    width, height = 2 * block + 2 * MARGIN, 2 * (CELL + TEXT) + TOP + BOTTOM
    figure = Figure(figsize=(width, height), dpi=130)
    low, high = common_scale([cell.heat for row in drawn.values() for cell in row])
    for kind, (row, side) in PLACES.items():
        bottom = BOTTOM + (1 - row) * (CELL + TEXT)
        left = MARGIN + side * (block + MARGIN)
        heading = f"{kind} ({counts[kind]:,} in all)"
        figure.text(
            left / width, (bottom + CELL + TEXT - 0.1) / height, heading, fontsize=9, va="top"
        )
        for number in range(columns):
            place = (left + number * CELL) / width, bottom / height
            axes = figure.add_axes((*place, (CELL - 0.06) / width, CELL / height))
            cell = drawn[kind][number] if number < len(drawn[kind]) else None
            draw_cell(axes, cell, (low, high), f"no more\n{kind}")
    figure.text(MARGIN / width, 1 - 0.12 / height, title, fontsize=9, va="top")
    ends = BOTTOM / height, 1 - TOP / height
    figure.add_artist(Line2D([0.5, 0.5], ends, color=RED, linewidth=2))
    _key(figure, low, high)
    return figure


def common_scale(heats: Sequence[Floats]) -> tuple[float, float]:
    """Where all maps are clear and where they are brightest: median and 99th percentile.

    One scale for all, so that a map without evidence stays dark; stretched on its own, each would
    have a bright spot. The median, since one far low value would else light up all the rest.
    """
    values = np.concatenate([heat.ravel() for heat in heats] or [np.zeros(1, np.float32)])
    low, high = np.percentile(values, [50, 99]).tolist()
    return low, high


def draw_cell(axes: Axes, cell: Cell | None, scale: tuple[float, float], empty: str) -> None:
    """One image under its map: the higher the map on the common scale, the more opaque."""
    axes.set_xticks([])
    axes.set_yticks([])
    if cell is None:
        axes.text(0.5, 0.5, empty, ha="center", va="center", fontsize=7, color="#777777")
        axes.spines[:].set_color("#CCCCCC")
        return
    size = len(cell.image)
    axes.imshow(cell.image, cmap="gray", vmin=0, vmax=1)
    low, high = scale
    share = ((enlarged(cell.heat, size) - low) / max(high - low, 1e-12)).clip(0, 1)
    axes.imshow(HEAT(share), alpha=0.65 * share)
    for x, y, width, height in cell.boxes:  # a pixel's centre has the whole number, a box its edge
        outline = Rectangle((x - 0.5, y - 0.5), width, height, fill=False, edgecolor=BLUE)
        axes.add_patch(outline).set_linewidth(1.5)
    axes.set_title(f"{_shortened(cell.image_id)}\nscore {cell.score:.3g}", fontsize=5.6, pad=2)


def _shortened(name: str, length: int = 38) -> str:
    half = length // 2 - 1
    return name if len(name) <= length else f"{name[:half]}…{name[-half:]}"


def _key(figure: Figure, low: float, high: float) -> None:
    """The scale of the maps, and what the outlines are."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((MARGIN / width, 0.28 / height, 1.6 / width, 0.12 / height))
    ramp = np.linspace(0, 1, 200)[None]
    axes.imshow(np.zeros_like(ramp), cmap="gray", vmin=0, vmax=1, aspect="auto")
    axes.imshow(HEAT(ramp), alpha=0.65 * ramp, aspect="auto")
    axes.set_xticks([0, 199], [f"{low:.3g}", f"{high:.3g}"], fontsize=6)
    axes.set_yticks([])
    text = (
        "the network's map of the finding, one scale for all: clear up to the median of the values "
        "shown, brightest from their 99th percentile; blue: the data's boxes of this finding"
    )
    figure.text((MARGIN + 1.75) / width, 0.34 / height, text, fontsize=6.5, va="center")
