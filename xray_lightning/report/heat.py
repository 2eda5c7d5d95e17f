"""A heat map over its radiograph: how it is drawn, and on which scale."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle

from xray_lightning.explain.grid import enlarge

if TYPE_CHECKING:  # needs torch, which most pages do not
    from xray_lightning.explain.overlays import Overlay

Floats = npt.NDArray[np.float32]
Scale = tuple[float, float]

HEAT = mpl.colormaps["inferno"]  # its lightness rises evenly: it reads in grey
SIGNED = ListedColormap(["#9467FF", "#FF8C00"])  # purple: against the finding; orange: for it
BLUE = "#1E90FF"
OPAQUE = 0.65  # of the strongest place
FEWEST = 4  # cells on a side, below which a map cannot point
BAR = 0.12  # inches below a picture for its colour bar


def common_scale(heats: Sequence[Floats], *, signed: bool | None = None) -> Scale:
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


def paint(heat: Floats, scale: Scale) -> npt.NDArray[np.float64]:
    """Colours of a map (H, W), (H, W, 4); the further from where its scale is clear, the denser."""
    low, high = scale
    place = ((heat - low) / max(high - low, 1e-12)).clip(0, 1)
    colours = (SIGNED if low < 0 else HEAT)(place)
    colours[..., 3] = OPAQUE * (np.abs(2 * place - 1) if low < 0 else place)
    return np.asarray(colours)


def draw_overlay(axes: Axes, overlay: "Overlay", scale: Scale, caption: str) -> None:
    """One image under its map, its caption above, the colours of the scale below (``BAR``)."""
    _plain(axes)
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
    _plain(axes)
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=7, color="#777777")
    axes.spines[:].set_color("#CCCCCC")


def _plain(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])


def shorten(name: str, length: int = 38) -> str:
    """The name, its middle left out where it is long."""
    half = length // 2 - 1
    return name if len(name) <= length else f"{name[:half]}…{name[-half:]}"
