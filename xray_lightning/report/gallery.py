"""Many images under their maps in one figure, each finding on a scale of its own."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from xray_lightning.explain.heatmaps import HeatMaps
from xray_lightning.explain.overlays import Choice, Floats, Overlay
from xray_lightning.report.heat import BAR, common_scale, draw_overlay, empty_place, shorten

CELL, TEXT, TOP = 1.6, 0.44 + BAR, 0.54  # inches
TRUTH = {1.0: "present", 0.0: "absent"}
KEY = (
    "each finding's maps on one scale, strongest from the 99th percentile; blue: boxes\n"
    "purple: against the finding, orange: for it, clear: 0 (of maps without a sign: the median)"
)


def gallery_figure(overlays: Sequence[Overlay], title: str, columns: int = 7) -> Figure:
    """The overlays in their order, each with image id, finding, score, truth and mark."""
    rows = max(1, math.ceil(len(overlays) / columns))
    width, height = columns * CELL, rows * (CELL + TEXT) + TOP
    figure = Figure(figsize=(width, height), dpi=110)
    words = f"{title}\n{KEY}"
    figure.text(0.01, 1 - 0.08 / height, words, fontsize=7.5, va="top", parse_math=False)
    signed = any(overlay.heat.min() < 0 for overlay in overlays)
    heats: dict[str, list[Floats]] = {}
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


def caption_of(overlay: Overlay) -> str:
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
) -> HeatMaps:
    """The callback of a configuration: :class:`~xray_lightning.explain.heatmaps.HeatMaps`.

    ``rule``, ``images`` of each finding and ``labels`` (None: all) are those of
    :class:`~xray_lightning.explain.overlays.Choice`.
    """
    if isinstance(labels, str):  # heat_maps.labels=Mass
        labels = [labels]
    choice = Choice(rule, images, None if labels is None else tuple(labels))
    return HeatMaps(folder, gallery_figure, choice=choice, method=method, every=every)
