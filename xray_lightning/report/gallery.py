"""Images under their heat maps: one, galleries of many, and a finding's right and wrong calls."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.errors import ConfigError, require_choice, require_integer
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.explain import overlays as maps
from xray_lightning.explain.maps import enlarge
from xray_lightning.metrics.operating_points import choose_threshold
from xray_lightning.models.network import XrayNet
from xray_lightning.report.page import say
from xray_lightning.wording import shorten
from xray_lightning.writing import save_figure

Scale = tuple[float, float]

HEAT = mpl.colormaps["inferno"]  # its lightness rises evenly: it reads in grey
SIGNED = ListedColormap(["#9467FF", "#FF8C00"])  # purple: against the finding; orange: for it
BLUE = "#1E90FF"
OPAQUE = 0.65  # of the strongest place
FEWEST = 4  # cells on a side, below which a map cannot point
BAR = 0.12  # inches below a picture for its colour bar

CELL, TEXT, TOP = 1.6, 0.44 + BAR, 0.54  # inches
TRUTH = {1.0: "present", 0.0: "absent"}
RULES = ("confident", "random")
# Where each kind stands: (row, block); the line lies between the blocks.
PLACES = {
    "true positives": (0, 0),
    "true negatives": (1, 0),
    "false negatives": (0, 1),
    "false positives": (1, 1),
}
RED = "#D62728"
SIDE, WORDS, MARGIN, HEAD, FOOT = 1.8, 0.48 + BAR, 0.25, 0.5, 0.25 + BAR  # inches


def common_scale(heats: Sequence[maps.Floats], *, signed: bool | None = None) -> Scale:
    """One scale for all maps, so that one without evidence stays clear.

    Signed maps (None: if any is below 0): -m to m, the 99th percentile m of their sizes; 0 is
    clear. Others: clear up to their median, since one far low value would else light up all the
    rest; strongest from their 99th percentile.
    """
    values = np.concatenate([heat.ravel() for heat in heats] or [np.zeros(1, np.float32)])
    if signed or (signed is None and values.min() < 0):
        high = max(float(np.percentile(np.abs(values), 99)), 1e-12)
        return -high, high
    low, high = np.percentile(values, [50, 99]).tolist()
    return low, high


def paint(heat: maps.Floats, scale: Scale) -> npt.NDArray[np.float64]:
    """Colours of a map (H, W), (H, W, 4); the further from where its scale is clear, the denser."""
    low, high = scale
    place = ((heat - low) / max(high - low, 1e-12)).clip(0, 1)
    colours = (SIGNED if low < 0 else HEAT)(place)
    colours[..., 3] = OPAQUE * (np.abs(2 * place - 1) if low < 0 else place)
    return np.asarray(colours)


def draw_overlay(axes: Axes, overlay: maps.Overlay, scale: Scale, caption: str) -> None:
    """One image under its map, its caption above, the colours of the scale below (``BAR``)."""
    axes.set(xticks=[], yticks=[])
    axes.imshow(overlay.image, cmap="gray", vmin=0, vmax=1)
    axes.imshow(paint(enlarge(overlay.heat, len(overlay.image), overlay.grids), scale))
    for x, y, width, height in overlay.boxes:  # a pixel's centre has the whole number
        outline = Rectangle((x - 0.5, y - 0.5), width, height, fill=False, edgecolor=BLUE)
        axes.add_patch(outline).set_linewidth(1.5)
    axes.set_title(caption, fontsize=5.6, pad=2, parse_math=False)  # a name may hold a $
    if min(overlay.heat.shape) < FEWEST:
        cells = "{} x {} cells: too few to point".format(*overlay.heat.shape)
        box = {"facecolor": "black", "alpha": 0.7, "edgecolor": "none", "pad": 1}
        axes.text(0.5, 0.03, cells, transform=axes.transAxes, color="white", fontsize=5.6,
                  ha="center", bbox=box)  # fmt: skip
    bar = axes.inset_axes((0.2, -0.06, 0.6, 0.035))
    bar.set_axis_off()
    ramp = np.linspace(*scale, 200, dtype=np.float32)[None]
    bar.imshow(np.zeros_like(ramp), cmap="gray", vmin=0, vmax=1, aspect="auto")
    bar.imshow(paint(ramp, scale), aspect="auto")
    for end, place, side in zip(scale, (0.18, 0.82), ("right", "left"), strict=True):
        axes.text(place, -0.0425, f"{end:.2g}", transform=axes.transAxes, fontsize=5, ha=side,
                  va="center")  # fmt: skip


def empty_place(axes: Axes, text: str) -> None:
    """A place without an image, which says why."""
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=7, color="#777777")
    axes.spines[:].set_color("#CCCCCC")


def gallery_figure(overlays: Sequence[maps.Overlay], title: str, columns: int = 7) -> Figure:
    """The overlays in their order, each with image id, finding, score, truth and mark."""
    rows = max(1, math.ceil(len(overlays) / columns))
    width, height = columns * CELL, rows * (CELL + TEXT) + TOP
    figure = Figure(figsize=(width, height), dpi=110)
    words = "\n".join([title, *say("gallery_key")])
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
        truth, mark = TRUTH.get(overlay.target, "unknown"), overlay.mark and f", {overlay.mark}"
        caption = f"{shorten(overlay.image_id, 30)}\n{overlay.label}\n{truth}, score "
        draw_overlay(axes, overlay, scales[overlay.label], f"{caption}{overlay.score:.2g}{mark}")
    if not overlays:
        empty_place(figure.add_axes((0, 0, 1, CELL / height)), "no image of this choice")
    return figure


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


@dataclass(frozen=True)
class Panel:
    """What the results figure shows."""

    label: str | None = None  # the finding; None: the only one, no figure if there are several
    rule: str = "confident"  # furthest from the threshold; or "random"
    columns: int = 4  # images of each kind
    seed: int = 0  # of the random rule

    def __post_init__(self) -> None:
        require_choice("panel.rule", self.rule, RULES)
        require_integer("panel.columns", self.columns, 1)
        require_integer("panel.seed", self.seed, 0)

    def finding(self, labels: Sequence[str]) -> str | None:
        """The label to draw, None for no figure."""
        if self.label is not None and self.label not in labels:
            raise ConfigError(f"panel.label must be one of {', '.join(labels)}: {self.label!r}")
        return labels[0] if self.label is None and len(labels) == 1 else self.label

    def choose(self, kinds: Mapping[str, maps.Rows], scores: maps.Floats) -> dict[str, maps.Rows]:
        """The images of each kind of ``PLACES`` that are drawn, by the scores (n,) of all."""
        generator, chosen = np.random.default_rng(self.seed), {}
        for kind, rows in kinds.items():
            keys = scores[rows] if kind.endswith("negatives") else -scores[rows]
            confident = rows[np.argsort(keys, kind="stable")]  # ties in table order
            order = confident if self.rule == "confident" else generator.permutation(rows)
            chosen[kind] = order[: self.columns]
        return chosen


def split_by_outcome(
    scores: maps.Floats, targets: maps.Floats, threshold: float
) -> dict[str, maps.Rows]:
    """The images of each kind of ``PLACES``, in table order; unknown targets are of no kind."""
    called, present, absent = scores >= threshold, targets == 1, targets == 0
    kinds = called & present, ~called & absent, ~called & present, called & absent
    return {name: np.flatnonzero(kind) for name, kind in zip(PLACES, kinds, strict=True)}


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
    chosen = panel.choose(outcomes, scores)
    rows = [int(row) for kind in chosen.values() for row in kind]
    drawn = iter(maps.make_overlays(net, data, "test", [(row, label) for row in rows], test.scores))
    cells = {kind: [next(drawn) for _ in chosen[kind]] for kind in chosen}
    counts = {kind: len(outcomes[kind]) for kind in outcomes}
    title = "\n".join(say("panel", label, data, threshold, panel))
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
                draw_overlay(axes, cell, scale, f"{shorten(cell.image_id)}\nscore {cell.score:.3g}")
            else:
                empty_place(axes, f"no more\n{kind}")
    figure.text(MARGIN / width, 1 - 0.12 / height, title, fontsize=9, va="top", parse_math=False)
    ends = FOOT / height, 1 - HEAD / height
    figure.add_artist(Line2D([0.5, 0.5], ends, color=RED, linewidth=2))
    figure.text(MARGIN / width, 0.1 / height, say("panel_key")[0], fontsize=6.5)
    return figure
