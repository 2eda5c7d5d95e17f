"""The drawings of a run's page: small SVG elements, and pictures made small enough to embed."""

from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from xray_lightning.errors import ConfigError
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.report.figures import (
    COLOURS,
    draw_curves,
    precision_recall_curve,
    roc_curve,
    thinned,
)
from xray_lightning.report.page import INK, dots_figure, svg
from xray_lightning.report.run import RunFiles

Facts = Mapping[str, Any]
RAW, CALIBRATED = (COLOURS[0], "o"), (COLOURS[4], "s")
WIDEST = 1600  # pixels of an embedded picture
NONE = (None, None)


def run_figures(run: RunFiles, facts: Facts) -> dict[str, Any]:
    """Every drawing of the page: name to an element, or label to an element."""
    labels = facts["test"]["labels"]
    defined = {k: each["auroc"] for k, each in labels.items() if each["auroc"]["value"] is not None}
    order = sorted(defined, key=lambda label: -defined[label]["value"])
    aurocs = [(k, defined[k]["value"], defined[k]["patient_interval"] or NONE) for k in order]
    groups = [
        (f"{row['dimension']}: {row['group']}", row["difference"], row["difference_interval"])
        for row in facts["subgroups"]["rows"]
        if row["difference_interval"]
    ]
    test = run.predictions["test"]
    places = {label: index for index, label in enumerate(test.labels)}
    return {
        "aurocs": dots_figure("aurocs", "test AUROC (0.5: guessing)", aurocs, 0.5),
        "groups": dots_figure("groups", "mean AUROC, difference", groups, 0) if groups else None,
        "curves": {k: curve_figure(test, places[k]) for k in places if k in defined},
        "reliability": {
            label: reliability_figure(f"reliability-{places[label]}", label, each)
            for label, each in facts["reliability"].items()
            if each["raw"] and label in defined
        },
        "training": training_figure(run),
        "pictures": {
            name: embedded(run.folder / name)
            for name in ("montage.png", "panel_test.png")
            if (run.folder / name).is_file()
        },
        **explain_figures(run),
    }


def explain_figures(run: RunFiles) -> dict[str, Any]:
    """Pointing game of each label beside its controls, galleries, and the saliency tests."""
    folder, found = run.folder / "explain", run.explain or {}
    files = {**found.get("gallery", {}), "saliency": "saliency.png"}
    pictures = {k: embedded(folder / v) for k, v in files.items() if (folder / v).is_file()}
    saliency = pictures.pop("saliency", None)
    places = found.get("localisation")
    pointing = None if places is None else pointing_figure(places, found["methods"][0])
    return {"gallery": pictures, "saliency": saliency, "pointing": pointing}


def pointing_figure(found: Facts, method: str) -> Markup:
    """Pointing game of one method and of the controls, a row a label."""
    names = (method, "random", "mean box", "ceiling")
    marks = dict(zip(names, (*zip(COLOURS[:3], "oXs", strict=True), (INK, "|")), strict=True))

    def draw(axes: Axes) -> None:
        for name, (colour, mark) in marks.items():
            values = [
                each["methods"].get(name, {}).get("pointing_game", {}).get("value")
                for each in found["labels"].values()
            ]
            shown = [(value, place) for place, value in enumerate(values) if value is not None]
            xs, ys = zip(*shown, strict=True) if shown else ((), ())
            axes.plot(xs, ys, mark, color=colour, label=name, markersize=9 if mark == "|" else 5)
        for place, each in enumerate(found["labels"].values()):
            if ends := each["methods"][method]["pointing_game"]["interval"]:
                axes.plot(ends, [place, place], color=COLOURS[0], linewidth=1.6)
        axes.set_yticks(range(len(found["labels"])), list(found["labels"]))
        axes.set_ylim(len(found["labels"]) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("pointing game: share of maps with their maximum in the finding")
        axes.legend(frameon=False, fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))

    height = 0.26 * len(found["labels"]) + 1.1
    return svg("pointing", "pointing game by finding, with controls", (6.4, height), draw)


def curve_figure(predictions: Predictions, index: int) -> Markup:
    """ROC and precision-recall curve of one label that has both classes."""
    known = ~np.isnan(predictions.targets[:, index])
    scores, targets = predictions.scores[known, index], predictions.targets[known, index]
    recall, precision = precision_recall_curve(scores, targets)
    recall, first = np.unique(recall, return_index=True)  # the precision that counts in AP

    def draw(roc: Axes, pr: Axes) -> None:
        roc.plot([0, 1], [0, 1], color=INK, alpha=0.4, linewidth=0.8)
        roc.plot(*thinned(*roc_curve(scores, targets)), color=COLOURS[0], linewidth=1.6)
        pr.axhline(float(targets.mean()), color=INK, alpha=0.4, linewidth=0.8)
        steps = thinned(np.append(0.0, recall), precision[np.append(first[0], first)])
        pr.plot(*steps, color=COLOURS[4], linewidth=1.6, drawstyle="steps-pre")
        _square(roc, "1 - specificity", "sensitivity")
        _square(pr, "recall", "precision")

    title = f"ROC and precision-recall curve of {predictions.labels[index]}"
    return svg(f"curves-{index}", title, (4.4, 2.2), draw, columns=2, margins=(0.5, 0.45))


def _square(axes: Axes, across: str, up: str, limit: float = 1.0) -> None:
    axes.set(xlabel=across, ylabel=up, xlim=(0, limit), ylim=(0, 1.02 * limit))
    axes.set_box_aspect(1)
    if limit == 1:
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    else:
        axes.locator_params(nbins=3)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.spines[["top", "right"]].set_visible(False)


def reliability_figure(name: str, label: str, bins: Facts) -> Markup:
    """Share of positives against the mean score of each bin, the diagonal in grey."""
    kinds = [(bins[kind], *style) for kind, style in (("raw", RAW), ("calibrated", CALIBRATED))]
    drawn = [(each, colour, style) for each, colour, style in kinds if each]
    limit = min(1.0, 1.08 * max(max(each["score"] + each["share"]) for each, _, _ in drawn))

    def draw(axes: Axes) -> None:
        axes.plot([0, limit], [0, limit], color=INK, alpha=0.4, linewidth=0.8)
        for each, colour, style in drawn:
            axes.plot(
                each["score"],
                each["share"],
                style,
                color=colour,
                markersize=4,
                alpha=0.8,
                clip_on=False,
            )
        _square(axes, "mean score", "positive", limit or 1.0)

    return svg(name, f"reliability diagram of {label}", (2.3, 2.2), draw, margins=(0.6, 0.45))


def training_figure(run: RunFiles) -> Markup | None:
    """Losses and validation AUROC by epoch; None without metrics.csv."""
    table = run.history
    if table is None:
        return None

    def draw(loss: Axes, auroc: Axes) -> None:
        draw_curves(table, loss, auroc)

    return svg("training", "loss and validation AUROC by epoch", (6.0, 2.6), draw, columns=2)


def embedded(path: Path) -> str:
    """A picture as a data: address, at most ``WIDEST`` pixels wide, WebP.

    Raises:
        ConfigError: the file is no readable picture.
    """
    data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if pixels is None:
        raise ConfigError(f"{path} is no readable picture: remove it, or make it again")
    height, width = pixels.shape[:2]
    if width > WIDEST:
        size = WIDEST, round(height * WIDEST / width)
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 80])
    return f"data:image/webp;base64,{b64encode(encoded.tobytes()).decode('ascii')}"
