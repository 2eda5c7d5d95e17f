"""Figure of the tests of map methods: the cascade, and the curves of deletion and insertion."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xray_lightning.report.figures import COLOURS
from xray_lightning.report.heat import shortened

Facts = Mapping[str, Any]

MEASURES = {"spearman": "rank correlation", "absolute": "the same of |map|", "ssim": "SSIM"}
ORDERS = {"map": "the map's order", "random": "random order", "centre": "centre first"}
STYLES = ("-o", "--s", ":^")


def saliency_figure(facts: Mapping[str, Facts]) -> Figure:
    """A row for each method: similarity as the network becomes random, score as pixels change.

    Thin bars are 95 % intervals over patients; thick ones at the right edge of the cascade show
    chance, the similarity of maps of different patients' images.

    Args:
        facts: method -> its :func:`~xray_lightning.explain.sanity.facts.saliency_facts`.
    """
    figure = Figure(figsize=(11, 2.5 * len(facts) + 1.0), dpi=120, layout="constrained")
    rows = figure.subplots(len(facts), 3, squeeze=False, width_ratios=(1.5, 1, 1), sharex="col")
    for panels, (method, found) in zip(rows, facts.items(), strict=True):
        _cascade(panels[0], found["randomisation"])
        for axes, name in zip(panels[1:], ("deletion", "insertion"), strict=True):
            _curves(axes, found[name], name)
            axes.sharey(panels[1])
        panels[0].set_ylabel(method, fontsize=11, fontweight="bold")
        for axes in panels:
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    rows[0][0].legend(frameon=False, fontsize=8, ncols=3, loc="upper right")
    handles, names = rows[0][1].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, fontsize=8, ncols=3, loc="outside upper right")
    rows[-1][0].set_xlabel("made random, with all before it (right edge: chance)")
    rows[-1][1].set_xlabel("share of pixels blurred")
    rows[-1][2].set_xlabel("share of pixels unblurred")
    return figure


def _cascade(axes: Axes, found: Facts) -> None:
    places = range(1, len(found["stages"]) + 1)
    for (name, title), colour, style in zip(MEASURES.items(), COLOURS, STYLES, strict=False):
        values = [_known(stage[name]["value"]) for stage in found["stages"]]
        axes.plot([0, *places], [1.0, *values], style, color=colour, markersize=4, label=title)
        for place, stage in zip(places, found["stages"], strict=True):
            low, high = map(_known, stage[name]["interval"])
            axes.plot([place, place], [low, high], color=colour, linewidth=1)
        chance = _known(found["measures"][name]["chance"]["value"])
        axes.plot([len(places) + 0.3, len(places) + 0.6], [chance] * 2, color=colour, linewidth=3)
    names = [_short(stage["name"]) for stage in found["stages"]]
    axes.set_xticks([0, *places], ["nothing", *names], rotation=40, ha="right", fontsize=7)
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.set_ylim(-0.75, 1.35)
    axes.set_title(f"randomisation: {found['verdict']}", loc="left", fontsize=8)


def _curves(axes: Axes, found: Facts, name: str) -> None:
    for (order, title), colour, style in zip(ORDERS.items(), COLOURS, STYLES, strict=False):
        values: Sequence[float] = [_known(value) for value in found["curves"][order]]
        shares = [step / (len(values) - 1) for step in range(len(values))]
        axes.plot(shares, values, style, color=colour, markersize=3, label=title)
    axes.set_title(f"{name}: {found['verdict']}", loc="left", fontsize=8)
    axes.set_ylabel("mean score", fontsize=8)


def _known(value: float | None) -> float:
    return float("nan") if value is None else value


def _short(name: str) -> str:
    """Of a stage: its modules without the path they have in common, cut where that is long.

    >>> _short("backbone.layer4"), _short("backbone.conv1 to backbone.bn1"), _short("head")
    ('layer4', 'conv1-bn1', 'head')
    """
    ends = [each.removeprefix("backbone.").removeprefix("features.") for each in name.split(" to ")]
    return shortened("-".join(ends), 24)
