"""Many images under their maps in one figure, each finding on a scale of its own."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from xray_lightning.explain.grid import enlarge
from xray_lightning.explain.heatmaps import HeatMaps
from xray_lightning.explain.located import Located
from xray_lightning.explain.overlays import Choice, Overlay, Place
from xray_lightning.metrics.localisation import pointing_game
from xray_lightning.report.heat import BAR, common_scale, draw_overlay, empty_place, shortened

CELL, TEXT, TOP = 1.6, 0.44 + BAR, 0.54  # inches
TRUTH = {1.0: "present", 0.0: "absent"}
KEY = (
    "each finding's maps on one scale, strongest from the 99th percentile; blue: boxes\n"
    "purple: against the finding, orange: for it, clear: 0 (of maps without a sign: the median)"
)


def gallery_figure(
    found: Sequence[Overlay], title: str, columns: int = 7, *, marks: Sequence[str] = ()
) -> Figure:
    """The overlays in their order, each with image id, finding, score and truth.

    Args:
        found: what to draw.
        title: over everything.
        columns: of the figure.
        marks: a word on each, if any.
    """
    rows = max(1, math.ceil(len(found) / columns))
    width, height = columns * CELL, rows * (CELL + TEXT) + TOP
    figure = Figure(figsize=(width, height), dpi=110)
    words = f"{title}\n{KEY}"
    figure.text(0.01, 1 - 0.08 / height, words, fontsize=7.5, va="top", parse_math=False)
    labels = dict.fromkeys(each.label for each in found)
    signed = any(each.heat.min() < 0 for each in found)
    scales = {
        label: common_scale([each.heat for each in found if each.label == label], signed=signed)
        for label in labels
    }
    for number, each in enumerate(found):
        row, column = divmod(number, columns)
        bottom = (rows - 1 - row) * (CELL + TEXT)
        place = (column * CELL + 0.03) / width, (bottom + BAR) / height
        axes = figure.add_axes((*place, (CELL - 0.06) / width, (CELL - 0.06) / height))
        caption = caption_of(each) + (f", {marks[number]}" if marks else "")
        draw_overlay(axes, each, scales[each.label], caption)
    if not found:
        empty_place(figure.add_axes((0, 0, 1, CELL / height)), "no image of this choice")
    return figure


def caption_of(overlay: Overlay) -> str:
    """Whose image, which finding, what is known and what the network said."""
    truth = TRUTH.get(overlay.target, "unknown")
    name = shortened(overlay.image_id, 30)
    return f"{name}\n{overlay.label}\n{truth}, score {overlay.score:.2g}"


def hits_and_misses(
    rows: Sequence[int], label: str, located: Located, method: str, size: int, each: int = 4
) -> tuple[list[Place], list[str]]:
    """The first images whose map has its maximum in the finding, and the first where it has not.

    Args:
        rows: of the N images in their part.
        label: the finding.
        located: the N images.
        method: one of its methods.
        size: side of the square.
        each: how many of either.

    Returns:
        Hits, then misses; and "hit" or "miss" for each. A maximum of tied pixels is a hit if most
        of them lie in the finding.
    """
    pairs = zip(located.maps[method], located.regions(size), strict=True)
    hit = [
        pointing_game(enlarge(heat, size, located.grids), region) > 0.5 for heat, region in pairs
    ]
    chosen = [[row for row, good in zip(rows, hit, strict=True) if good == kind][:each]
              for kind in (True, False)]  # fmt: skip
    marks = ["hit"] * len(chosen[0]) + ["miss"] * len(chosen[1])
    return [(row, label) for kind in chosen for row in kind], marks


def make_heat_maps(
    folder: str | Path,
    *,
    rule: str = "fixed",
    images: int = 2,
    labels: Sequence[str] | None = None,
    method: str = "cam",
    every: int = 1,
) -> HeatMaps:
    """The callback of a configuration; see :class:`~xray_lightning.explain.heatmaps.HeatMaps`.

    Args:
        folder: for the pictures and raw maps.
        rule: which images, see :class:`~xray_lightning.explain.overlays.Choice`.
        images: how many of each finding.
        labels: the findings; None: all.
        method: of :func:`~xray_lightning.explain.class_maps`.
        every: epochs from one look to the next.

    Raises:
        ConfigError: an unknown rule, or a number out of range.
    """
    if isinstance(labels, str):  # heat_maps.labels=Mass
        labels = [labels]
    choice = Choice(rule, images, None if labels is None else tuple(labels))
    return HeatMaps(folder, gallery_figure, choice=choice, method=method, every=every)
