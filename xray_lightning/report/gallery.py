"""Many images under their maps in one figure: galleries, and a finding's right and wrong calls."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.errors import ConfigError, require_integer
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.explain import overlays as maps
from xray_lightning.metrics.operating_points import choose_threshold
from xray_lightning.models.network import XrayNet
from xray_lightning.report.heat import BAR, common_scale, draw_overlay, empty_place, shorten
from xray_lightning.writing import save_figure

CELL, TEXT, TOP = 1.6, 0.44 + BAR, 0.54  # inches
TRUTH = {1.0: "present", 0.0: "absent"}
KEY = (
    "each finding's maps on one scale, strongest from the 99th percentile; blue: boxes\n"
    "purple: against the finding, orange: for it, clear: 0 (of maps without a sign: the median)"
)


def gallery_figure(overlays: Sequence[maps.Overlay], title: str, columns: int = 7) -> Figure:
    """The overlays in their order, each with image id, finding, score, truth and mark."""
    rows = max(1, math.ceil(len(overlays) / columns))
    width, height = columns * CELL, rows * (CELL + TEXT) + TOP
    figure = Figure(figsize=(width, height), dpi=110)
    words = f"{title}\n{KEY}"
    figure.text(0.01, 1 - 0.08 / height, words, fontsize=7.5, va="top", parse_math=False)
    signed = any(overlay.heat.min() < 0 for overlay in overlays)
    heats: dict[str, list[maps.Floats]] = {}
    for overlay in overlays:
        heats.setdefault(overlay.label, []).append(overlay.heat)
    scales = {label: common_scale(own, signed=signed) for label, own in heats.items()}
    for number, overlay in enumerate(overlays):
        row, column = divmod(number, columns)
        bottom = (rows - 1 - row) * (CELL + TEXT)
        place = (column * CELL + 0.03) / width, (bottom + BAR) / height
        axes = figure.add_axes((*place, (CELL - 0.06) / width, (CELL - 0.06) / height))
        draw_overlay(axes, overlay, scales[overlay.label], caption_of(overlay))
    if not overlays:
        empty_place(figure.add_axes((0, 0, 1, CELL / height)), "no image of this choice")
    return figure


def caption_of(overlay: maps.Overlay) -> str:
    """Whose image, which finding, what is known and what the network said."""
    truth = TRUTH.get(overlay.target, "unknown")
    name, mark = shorten(overlay.image_id, 30), f", {overlay.mark}" if overlay.mark else ""
    return f"{name}\n{overlay.label}\n{truth}, score {overlay.score:.2g}{mark}"


def make_heat_maps(
    folder: str | Path,
    *,
    rule: str = "fixed",
    images: int = 2,
    labels: Sequence[str] | None = None,
    method: str = "cam",
    every: int = 1,
) -> maps.HeatMaps:
    """The callback of a configuration: :class:`~xray_lightning.explain.overlays.HeatMaps`.

    ``rule``, ``images`` of each finding and ``labels`` (None: all) are those of
    :class:`~xray_lightning.explain.overlays.Choice`.
    """
    if isinstance(labels, str):  # heat_maps.labels=Mass
        labels = [labels]
    choice = maps.Choice(rule, images, None if labels is None else tuple(labels))
    return maps.HeatMaps(folder, gallery_figure, choice=choice, method=method, every=every)


RULES = {
    "confident": "the most confident calls of each kind",
    "random": "drawn at random, seed {seed}",
}
# Where each kind stands: (row, block); the line lies between the blocks.
PLACES = {
    "true positives": (0, 0),
    "true negatives": (1, 0),
    "false negatives": (0, 1),
    "false positives": (1, 1),
}
RED = "#D62728"
SIDE, WORDS, MARGIN, HEAD, FOOT = 1.8, 0.48 + BAR, 0.25, 0.5, 0.25 + BAR  # inches
PANEL_KEY = (
    "the network's map of the finding, one scale for all, strongest from the 99th percentile; "
    "purple: against it, orange: for it, clear: 0 (of maps without a sign: the median); blue: boxes"
)


@dataclass(frozen=True)
class Panel:
    """What the results figure shows."""

    label: str | None = None  # the finding; None: the only one, no figure if there are several
    rule: str = "confident"  # furthest from the threshold; or "random"
    columns: int = 4  # images of each kind
    seed: int = 0  # of the random rule

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"panel.rule must be one of {', '.join(RULES)}, got {self.rule!r}")
        require_integer("panel.columns", self.columns, 1)
        require_integer("panel.seed", self.seed, 0)

    def finding(self, labels: Sequence[str]) -> str | None:
        """The label to draw, None for no figure."""
        if self.label is not None and self.label not in labels:
            raise ConfigError(f"panel.label must be one of {', '.join(labels)}: {self.label!r}")
        return labels[0] if self.label is None and len(labels) == 1 else self.label


def split_by_outcome(
    scores: maps.Floats, targets: maps.Floats, threshold: float
) -> dict[str, maps.Rows]:
    """The images of each kind of ``PLACES``, in table order; unknown targets are of no kind."""
    called, present, absent = scores >= threshold, targets == 1, targets == 0
    return {
        "true positives": np.flatnonzero(called & present),
        "true negatives": np.flatnonzero(~called & absent),
        "false negatives": np.flatnonzero(~called & present),
        "false positives": np.flatnonzero(called & absent),
    }


def results_panel(
    net: XrayNet,  # the network that made the predictions
    data: XrayDataModule,  # its data
    predictions: Mapping[str, Predictions],  # of "val" and "test", in table order
    panel: Panel,  # what to draw
    path: Path,  # the file
) -> bool:
    """Draw the figure of the test set; the threshold comes from validation."""
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
    outcomes = split_by_outcome(scores, test.targets[:, column], threshold)
    examples = maps.choose(
        outcomes, panel.rule, count=panel.columns, scores=scores, seed=panel.seed
    )
    rows = [int(row) for kind in examples.values() for row in kind]
    drawn = iter(maps.make_overlays(net, data, "test", [(row, label) for row in rows], test.scores))
    cells = {kind: [next(drawn) for _ in examples[kind]] for kind in examples}
    counts = {kind: len(outcomes[kind]) for kind in outcomes}
    title = (
        f"{label}, test set of {data.source.title}, split {data.split.name} "
        f"[{data.split.subset_fingerprints['test']}]\ncalled positive at a score of "
        f"{threshold:.3g} or more (Youden's J on validation); images: "
        f"{RULES[panel.rule].format(seed=panel.seed)}"
    )
    save_figure(panel_figure(cells, counts, panel.columns, title), path)
    return True


def panel_figure(
    drawn: Mapping[str, Sequence[maps.Overlay]],  # the cells of each kind, at most ``columns``
    counts: Mapping[str, int],  # images of each kind in all
    columns: int,  # cells of a kind
    title: str,  # over everything
) -> Figure:
    """The figure: right calls, a red line, wrong calls; an empty cell says what is lacking."""
    block = columns * SIDE + MARGIN
    width, height = 2 * block + 2 * MARGIN, 2 * (SIDE + WORDS) + HEAD + FOOT
    figure = Figure(figsize=(width, height), dpi=130)
    scale = common_scale([cell.heat for row in drawn.values() for cell in row])
    for kind, (row, side) in PLACES.items():
        bottom = FOOT + (1 - row) * (SIDE + WORDS)
        left = MARGIN + side * (block + MARGIN)
        heading = f"{kind} ({counts[kind]:,} in all)"
        top = (bottom + SIDE + WORDS - 0.1 - BAR) / height
        figure.text(left / width, top, heading, fontsize=9, va="top")
        for number in range(columns):
            place = (left + number * SIDE) / width, bottom / height
            axes = figure.add_axes((*place, (SIDE - 0.06) / width, SIDE / height))
            if number < len(drawn[kind]):
                cell = drawn[kind][number]
                caption = f"{shorten(cell.image_id)}\nscore {cell.score:.3g}"
                draw_overlay(axes, cell, scale, caption)
            else:
                empty_place(axes, f"no more\n{kind}")
    figure.text(MARGIN / width, 1 - 0.12 / height, title, fontsize=9, va="top", parse_math=False)
    ends = FOOT / height, 1 - HEAD / height
    figure.add_artist(Line2D([0.5, 0.5], ends, color=RED, linewidth=2))
    figure.text(MARGIN / width, 0.1 / height, PANEL_KEY, fontsize=6.5)
    return figure
