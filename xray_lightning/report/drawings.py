"""The drawings of a page: small SVG elements, and pictures made small enough to embed."""

import io
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from xray_lightning.errors import ConfigError
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.metrics.intervals import Floats
from xray_lightning.report.figures import COLOURS, GREY, PLAIN, draw_curves
from xray_lightning.report.run import Run, Values

Row = tuple[str, float | None, Sequence[float | None]]  # name, value, ends of its interval
NONE = (None, None)
INK = "#1a1a1a"  # in a drawing: the colour of the page's text, whatever that is
KINDS = {"raw": (COLOURS[0], "-"), "calibrated": (COLOURS[4], "--")}
WIDEST = 1600  # pixels of an embedded picture


def svg(
    name: str,  # unique on the page; all ids in the drawing start with it
    title: str,  # what a screen reader says of it
    size: tuple[float, float],  # width and height in inches
    draw: Callable[..., None],  # called with so many axes, side by side
    *,
    columns: int = 1,  # how many
    # left and below, in inches; None: fitted to the words, which takes three times as long
    margins: tuple[float, float] | None = None,
) -> Markup:
    """A drawing as an SVG element, called ``figure-<name>``."""
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "font.size": 10,
    }
    with mpl.rc_context(settings | PLAIN | dict.fromkeys(inked, INK)):
        figure = Figure(figsize=size, layout=None if margins else "constrained")
        if margins:
            (width, height), (left, low), end = size, margins, 0.1
            gap = columns * left / (width - columns * left - end)  # in widths of the axes
            ends = 1 - end / width, 1 - end / height
            figure.subplots_adjust(left / width, low / height, *ends, gap)
        draw(*figure.subplots(1, columns, squeeze=False)[0])
        buffer = io.StringIO()
        unsaid = dict.fromkeys(("Date", "Creator", "Type", "Format"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=unsaid)
    text = buffer.getvalue()
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", text[text.index("<svg") :])
    opening = f'<svg role="img" aria-label="{escape(title)}" id="figure-{name}" '
    return Markup(text.replace("<svg ", opening, 1).replace(INK, "currentColor"))


def dots_figure(
    name: str,  # see ``svg``
    title: str,  # under the axis
    rows: Sequence[Row],  # what is drawn
    line: float | None,  # a value to compare with, None: none
    *,
    log: bool = False,  # whether the axis is logarithmic
) -> Markup:
    """A point and its interval for each row, from the top down; nothing where there is no row."""
    if not rows:
        return Markup("")

    def draw(axes: Axes) -> None:
        if line is not None:
            axes.axvline(line, color=INK, alpha=0.6, linewidth=0.8)
        for place, (_, value, (low, high)) in enumerate(rows):
            if value is not None:
                axes.plot(value, place, "o", color=COLOURS[0], markersize=5)
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], color=COLOURS[0], linewidth=1.6)
        axes.set(yticks=range(len(rows)), yticklabels=[row[0] for row in rows], xlabel=title)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="x", color=INK, alpha=0.15, linewidth=0.6)
        axes.spines["left"].set_visible(False)
        if log:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")

    return svg(name, title, (4.6, 0.27 * len(rows) + 0.8), draw)


def run_figures(run: Run, values: Values) -> dict[str, object]:
    """Every drawing of the page: name to an element, or label to an element."""
    labels = values["test"]["labels"]
    defined = {k: row["auroc"] for k, row in labels.items() if row["auroc"]["value"] is not None}
    order = sorted(defined, key=lambda label: -defined[label]["value"])
    aurocs = [(k, defined[k]["value"], defined[k]["patient_interval"] or NONE) for k in order]
    groups = [
        (f"{row['dimension']}: {row['group']}", row["difference"], row["difference_interval"])
        for row in values["subgroups"]["rows"]
        if row["difference_interval"]
    ]
    test = run.predictions["test"]
    places = {label: index for index, label in enumerate(test.labels)}
    pictures = [run.folder / name for name in ("montage.png", "panel_test.png")]
    training = "training", "loss and validation AUROC by epoch", (6.0, 2.6)
    curves = None if run.history is None else partial(draw_curves, run.history)
    gaps = {
        row["kind"]: [(" over ".join(g["groups"]), g["gap"], g["interval"]) for g in row["gaps"]]
        for row in (values["gaps"] or {"rows": []})["rows"]
    }
    return {
        "gaps": {k: dots_figure(f"gaps-{k}", "gap", rows, 0) for k, rows in gaps.items()},
        "aurocs": dots_figure("aurocs", "test AUROC (0.5: guessing)", aurocs, 0.5),
        "groups": dots_figure("groups", "mean AUROC, difference", groups, 0),
        "curves": {k: curve_figure(test, places[k]) for k in places if k in defined},
        **{
            kind: {k: use_figure(kind, places[k], k, rows[k]) for k in rows if k in defined}
            for kind in DRAWN
            if (rows := values[kind])
        },
        "training": None if curves is None else svg(*training, curves, columns=2),
        "pictures": {path.name: embed_picture(path) for path in pictures if path.is_file()},
        **explain_figures(run),
    }


def explain_figures(run: Run) -> dict[str, object]:
    """Pointing game of each label beside its controls, galleries, and the saliency tests."""
    folder, explain = run.folder / "explain", run.explain or {}
    files = {**explain.get("gallery", {}), "saliency": "saliency.png"}
    pictures = {k: embed_picture(folder / v) for k, v in files.items() if (folder / v).is_file()}
    saliency = pictures.pop("saliency", None)
    localisation = explain.get("localisation")
    pointing = localisation and pointing_figure(localisation["labels"], explain["methods"][0])
    return {"gallery": pictures, "saliency": saliency, "pointing": pointing}


def pointing_figure(labels: Values, method: str) -> Markup:
    """Pointing game of one method and of the controls, a row a label."""
    colours, marks = (*COLOURS[:3], INK), "oXs|"

    def draw(axes: Axes) -> None:
        names = (method, "random", "mean box", "ceiling")
        for name, colour, mark in zip(names, colours, marks, strict=True):
            games = [r["methods"].get(name, {}).get("pointing_game") or {} for r in labels.values()]
            xs = [np.nan if game.get("value") is None else game["value"] for game in games]
            size = 9 if mark == "|" else 5
            axes.plot(xs, range(len(xs)), mark, color=colour, label=name, markersize=size)
        for place, row in enumerate(labels.values()):
            if ends := row["methods"][method]["pointing_game"]["interval"]:
                axes.plot(ends, [place, place], color=COLOURS[0], linewidth=1.6)
        axes.set(yticks=range(len(labels)), yticklabels=labels, xlim=(-0.02, 1.02))
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlabel("pointing game: share of maps with their maximum in the finding")
        axes.legend(fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))

    size = 6.4, 0.26 * len(labels) + 1.1
    return svg("pointing", "pointing game by finding, with controls", size, draw)


def curve_figure(predictions: Predictions, index: int) -> Markup:
    """ROC and precision-recall curve of one label that has both classes."""
    known = ~np.isnan(predictions.targets[:, index])
    targets, scores = predictions.targets[known, index], predictions.scores[known, index]
    false, true, _ = roc_curve(targets, scores)
    recall, precision = precision_steps(targets, scores)

    def draw(roc: Axes, pr: Axes) -> None:
        roc.plot([0, 1], [0, 1], color=INK, alpha=0.4, linewidth=0.8)
        roc.plot(*thin_curve(false, true), color=COLOURS[0], linewidth=1.6)
        pr.axhline(float(targets.mean()), color=INK, alpha=0.4, linewidth=0.8)
        steps = thin_curve(recall, precision)
        pr.plot(*steps, color=COLOURS[4], linewidth=1.6, drawstyle="steps-pre")
        _make_square(roc, "1 - specificity", "sensitivity")
        _make_square(pr, "recall", "precision")

    title = f"ROC and precision-recall curve of {predictions.labels[index]}"
    return svg(f"curves-{index}", title, (4.4, 2.2), draw, columns=2, margins=(0.5, 0.45))


def precision_steps(targets: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """Recall, rising from 0, and the precision that holds up to it.

    The area under the steps is the average precision: of several thresholds of one recall the
    highest counts, which scikit-learn puts last.
    """
    precision, recall, _ = precision_recall_curve(targets, scores)
    recall, first = np.unique(recall[-2::-1], return_index=True)
    precision = precision[-2::-1][first]
    return np.append(0.0, recall), np.append(precision[0], precision)


def thin_curve(across: Floats, up: Floats, cells: int = 300) -> tuple[Floats, Floats]:
    """The points of a curve in the unit square where it enters another cell of a grid."""
    place = np.stack([across * cells, up * cells]).astype(np.int64)
    kept = np.append(True, (np.diff(place) != 0).any(axis=0))
    kept[-1] = True
    return across[kept], up[kept]


def _make_square(axes: Axes, across: str, up: str, limit: float = 1.0) -> None:
    axes.set(xlabel=across, ylabel=up, xlim=(0, limit), ylim=(0, 1.02 * limit), box_aspect=1)
    if limit == 1:
        axes.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    else:
        axes.locator_params(nbins=3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")


def use_figure(kind: str, place: int, label: str, values: Values) -> Markup:
    """One of ``DRAWN``, of one label."""
    title, left, draw = DRAWN[kind]
    size, name = (1.7 + left, 2.2), f"{kind}-{place}"
    own = partial(draw, values=values)
    return svg(name, f"{title} of {label}", size, own, margins=(left, 0.45))


def draw_reliability(axes: Axes, values: Values) -> None:
    """Smooth share of positives against the score with its band; below, how many images."""
    drawn = {kind: row for kind, row in values.items() if row["scores"]}
    ends = [max(row["scores"][-1], *row["curve"]["value"]) for row in drawn.values()]
    limit = 1.02 * max(ends, default=1.0)
    axes.plot([0, limit], [0, limit], color=INK, alpha=0.4, linewidth=0.8)
    for kind, row in drawn.items():
        colour, style = KINDS[kind]
        draw_band(axes, row["scores"], row["curve"], colour, style)
        bars = np.array(row["histogram"]) * 0.2 * limit / max(row["histogram"])
        width = row["scores"][-1] / len(bars)
        axes.bar(np.arange(len(bars)) * width, bars, width, 0, align="edge", color=colour,
                 alpha=0.3)  # fmt: skip
    _make_square(axes, "score", "positive", limit)


def draw_decision(axes: Axes, values: Values) -> None:
    """Net benefit of the model and of calling all, against the threshold; of none it is 0."""
    tops = [band["value"][0] or 0 for band in (values["model"], values["call_all"])]
    top = 1.2 * max(1e-4, *tops)
    axes.axhline(0, color=INK, alpha=0.4, linewidth=0.8)
    draw_band(axes, values["thresholds"], values["call_all"], GREY, "--")
    draw_band(axes, values["thresholds"], values["model"], COLOURS[0])
    _make_square(axes, "threshold", "net benefit", top)
    axes.set(xlim=(0, values["thresholds"][-1]), ylim=(-0.25 * top, top))


def draw_prevalence(axes: Axes, values: Values) -> None:
    """Predictive values against the prevalence."""
    draw_band(axes, values["prevalences"], values["ppv"], COLOURS[0])
    draw_band(axes, values["prevalences"], values["npv"], COLOURS[4], "--")
    _make_square(axes, "prevalence (%)", "PPV, NPV")
    axes.set(xscale="log", xlim=(0.001, 0.5), xticks=[0.001, 0.01, 0.1, 0.5])
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}")
    axes.minorticks_off()


def draw_selection(axes: Axes, values: Values) -> None:
    """Share of wrong calls among the images that are kept, against their share."""
    risks = [risk or 0 for risk in values["risk"]["value"]]
    axes.axhline(risks[0], color=INK, alpha=0.4, linewidth=0.8)
    draw_band(axes, values["coverage"], values["risk"], COLOURS[0])
    _make_square(axes, "images kept", "wrong calls", 1.1 * max(1e-3, *risks))
    axes.set(xlim=(0, 1), xticks=[0, 0.5, 1])


def draw_band(
    axes: Axes, across: Sequence[float], band: Values, colour: str, style: str = "-"
) -> None:
    """A line and its interval at each place, gaps where it is undefined."""
    value, low, high = (np.array(band[key], dtype=float) for key in ("value", "low", "high"))
    axes.plot(across, value, style, color=colour, linewidth=1.6)
    axes.fill_between(across, low, high, color=colour, alpha=0.2, linewidth=0)


DRAWN = {  # drawings of each label: key of the values to a title, inches on the left, and how
    "reliability": ("reliability", 0.6, draw_reliability),
    "net_benefit": ("decision curve", 0.75, draw_decision),
    "at_prevalence": ("predictive values", 0.55, draw_prevalence),
    "selective": ("risk-coverage curve", 0.75, draw_selection),
}


def embed_picture(path: Path) -> str:
    """A picture as a data: address, at most ``WIDEST`` pixels wide, WebP."""
    data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if pixels is None:
        raise ConfigError(f"{path} is not a readable picture: remove it, or make it again")
    height, width = pixels.shape[:2]
    if width > WIDEST:
        size = WIDEST, round(height * WIDEST / width)
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 80])
    return f"data:image/webp;base64,{b64encode(encoded.tobytes()).decode('ascii')}"
