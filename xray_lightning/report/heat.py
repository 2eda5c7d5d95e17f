"""A heat map over its radiograph: how it is drawn, and on which scale."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from xray_lightning.grid import enlarged

if TYPE_CHECKING:  # needs torch, which most pages do not
    from xray_lightning.overlays import Overlay

Floats = npt.NDArray[np.float32]
Scale = tuple[float, float]

HEAT = mpl.colormaps["inferno"]  # its lightness rises evenly: it reads in grey
BLUE = "#1E90FF"
OPAQUE = 0.65  # of the brightest place


def common_scale(heats: Sequence[Floats]) -> Scale:
    """Where all maps are clear and where they are brightest: median and 99th percentile.

    One scale for all, so that a map without evidence stays dark; stretched on its own, each would
    have a bright spot. The median, since one far low value would else light up all the rest.
    """
    values = np.concatenate([heat.ravel() for heat in heats] or [np.zeros(1, np.float32)])
    low, high = np.percentile(values, [50, 99]).tolist()
    return low, high


def draw_overlay(axes: Axes, overlay: "Overlay", scale: Scale, caption: str) -> None:
    """One image under its map: the higher the map on the common scale, the more opaque."""
    _plain(axes)
    axes.imshow(overlay.image, cmap="gray", vmin=0, vmax=1)
    low, high = scale
    heat = enlarged(overlay.heat, len(overlay.image), overlay.grids)
    share = ((heat - low) / max(high - low, 1e-12)).clip(0, 1)
    axes.imshow(HEAT(share), alpha=OPAQUE * share)
    for x, y, width, height in overlay.boxes:  # a pixel's centre has the whole number
        outline = Rectangle((x - 0.5, y - 0.5), width, height, fill=False, edgecolor=BLUE)
        axes.add_patch(outline).set_linewidth(1.5)
    axes.set_title(caption, fontsize=5.6, pad=2, parse_math=False)  # a name may hold a $


def empty_place(axes: Axes, text: str) -> None:
    """A place without an image, which says why."""
    _plain(axes)
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=7, color="#777777")
    axes.spines[:].set_color("#CCCCCC")


def _plain(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])


def shortened(name: str, length: int = 38) -> str:
    """The name, its middle left out where it is long."""
    half = length // 2 - 1
    return name if len(name) <= length else f"{name[:half]}…{name[-half:]}"


def scale_key(figure: Figure, scale: Scale, *, left: float, note: str) -> None:
    """The scale of the maps at the foot of a figure, and what it means.

    Args:
        figure: with half an inch left at its foot.
        scale: where the maps are clear, and where they are brightest.
        left: margin in inches.
        note: the text beside it.
    """
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, 0.28 / height, 1.6 / width, 0.12 / height))
    ramp = np.linspace(0, 1, 200)[None]
    axes.imshow(np.zeros_like(ramp), cmap="gray", vmin=0, vmax=1, aspect="auto")
    axes.imshow(HEAT(ramp), alpha=OPAQUE * ramp, aspect="auto")
    axes.set_xticks([0, 199], [f"{end:.3g}" for end in scale], fontsize=6)
    axes.set_yticks([])
    figure.text((left + 1.75) / width, 0.34 / height, note, fontsize=6.5, va="center")
