"""What ``xray explain`` and ``shortcuts`` show: tables for the terminal, galleries, curves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from xray_lightning.audit.shortcuts import Shortcuts, find_shortcuts, write_gist
from xray_lightning.checkpoint import Checkpoint
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.explain.localisation import CONTROLS
from xray_lightning.explain.overlays import write_maps
from xray_lightning.explain.run import DOUBTED, Explanation, explain_checkpoint
from xray_lightning.explain.saliency import TESTS, Randomisation, SaliencyTests
from xray_lightning.explain.sanity import Perturbation
from xray_lightning.report.figures import COLOURS, new_figure
from xray_lightning.report.gallery import gallery_figure
from xray_lightning.report.page import say
from xray_lightning.report.terminal import show, tabulate
from xray_lightning.wording import shorten
from xray_lightning.writing import Json, save_figure, write_json, write_rows

ACROSS = 5  # methods of a table of verdicts
MEASURES = {"spearman": "rank correlation", "absolute": "the same of |map|", "ssim": "SSIM"}
ORDERS = {"map": "the map's order", "random": "random order", "centre": "centre first"}
STYLES = ("-o", "--s", ":^")


def explain_into(
    folder: Path,  # gets explain.json, galleries and figures
    checkpoint: Checkpoint,
    data: XrayDataModule,
    trainer: pl.Trainer,
    *,
    shortcuts: bool = True,  # whether these are tested too
    **settings: Any,  # see :func:`explain_checkpoint`
) -> tuple[Json, list[Table | str]]:
    """Explain a checkpoint on one set of images: what explain.json holds, and what is shown."""
    explanation = explain_checkpoint(checkpoint, data, trainer=trainer, progress=True, **settings)
    draw_explanation(explanation, folder)
    values, lines = explanation.to_json() | {"shortcuts": {}}, explanation_lines(explanation)
    if shortcuts:
        show("shortcut tests: covering corners, border and letters; probes")
        net = checkpoint.build_net().to(trainer.strategy.root_device)
        chosen = {key: settings[key] for key in ("subset", "draws", "seed") if key in settings}
        tests = find_shortcuts(net, data, **chosen)
        values["shortcuts"] = tests.to_json()
        lines += shortcut_lines(tests, str(checkpoint.path))
    write_json(values, folder / "explain.json")
    return values, [*lines, f"written to {folder}"]


def explanation_lines(explanation: Explanation) -> list[Table | str]:
    """Tables and lines for the terminal."""
    lines: list[Table | str] = []
    if (places := explanation.localisation) is None:
        lines.append(f"note: nothing to localise: {explanation.localisation_missing}")
    else:  # per label for the first method, the mean for all of them
        method, split = explanation.methods[0], explanation.split.name
        title = f"{explanation.subset} set of {explanation.data}, split {split} "
        title += f"[{explanation.fingerprint}]"
        thresholds = [one for methods in places.thresholds.values() for one in methods.values()]
        lines.append(tabulate("pointing", places, method, title, CONTROLS))
        lines.append(tabulate("overlaps", places, method, explanation.published))
        lines += [tabulate("methods", places, kind) for kind in ("place", "overlap", "boxes")]
        lines += say("localisation", explanation, thresholds)
    if explanation.saliency:
        lines += saliency_lines(explanation)
    elif explanation.saliency_missing:
        lines.append(f"note: no saliency tests: {explanation.saliency_missing}")
    return [*lines, *say("doubts", explanation.doubts, explanation.subset)]


def saliency_lines(explanation: Explanation) -> list[Table | str]:
    """Verdict of each test, a column a method."""
    names, lines = list(explanation.saliency), list[Table | str]()
    for start in range(0, len(names), ACROSS):
        shown = {name: explanation.saliency[name] for name in names[start : start + ACROSS]}
        lines.append(tabulate("verdicts", shown, TESTS, explanation.patients))
    return [*lines, *sorted({*say("saliency", explanation.saliency.values(), TESTS)})]


def shortcut_lines(shortcuts: Shortcuts, path: str) -> list[Table | str]:
    """Tables of the labels and the probes of a checkpoint, and why labels are not cleared."""
    labels, probes = shortcuts.labels, tabulate("attributes", shortcuts.probes)
    images = f"{shortcuts.images:,} images [{shortcuts.fingerprint}]"
    heading = f"{path} on {shortcuts.data}, {images}"
    tables = [tabulate("read_off", labels), tabulate("covered", labels), probes]
    return [heading, *tables, *say("shortcuts", labels), write_gist(shortcuts)]


def draw_explanation(explanation: Explanation, folder: Path) -> None:
    """Galleries with raw maps beside them, and the curves of the saliency tests."""
    for label, overlays in explanation.overlays.items():
        name = folder / explanation.gallery[label]
        title = f"{label}, {explanation.subset} set of {explanation.data}: "
        title += "cam" if label == DOUBTED else explanation.methods[0]
        save_figure(gallery_figure(overlays, title, columns=4), name)
        write_maps(overlays, name.with_suffix(".npz"))
    write_rows(folder / "doubts.csv", explanation.doubts)
    path = folder / "saliency.png"
    path.unlink(missing_ok=True)
    if run := {name: tests for name, tests in explanation.saliency.items() if tests.deletion}:
        save_figure(saliency_figure(run), path)


def saliency_figure(saliency: Mapping[str, SaliencyTests]) -> Figure:
    """A row for each method: similarity as the network becomes random, score as pixels change.

    Thin bars are 95 % intervals over patients; thick ones at the right edge of the cascade show
    chance, the similarity of maps of different patients' images.
    """
    size = 11, 2.5 * len(saliency) + 1.0
    figure, every = new_figure(*size, len(saliency), 3, width_ratios=(1.5, 1, 1), sharex="col")
    rows = [every[start : start + 3] for start in range(0, len(every), 3)]
    for panels, (method, tests) in zip(rows, saliency.items(), strict=True):
        if tests.randomisation and tests.deletion and tests.insertion:
            _draw_cascade(panels[0], tests.randomisation)
            _draw_curves(panels[1], tests.deletion, "deletion")
            _draw_curves(panels[2], tests.insertion, "insertion")
        panels[2].sharey(panels[1])
        panels[0].set_ylabel(method, fontsize=11, fontweight="bold")
        for axes in panels:
            axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    rows[0][0].legend(frameon=False, fontsize=8, ncols=3, loc="upper right")
    handles, names = rows[0][1].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, fontsize=8, ncols=3, loc="outside upper right")
    rows[-1][0].set_xlabel("made random, with all before it (right edge: chance)")
    rows[-1][1].set_xlabel("share of pixels blurred")
    rows[-1][2].set_xlabel("share of pixels unblurred")
    return figure


def _draw_cascade(axes: Axes, cascade: Randomisation) -> None:
    places = range(1, len(cascade.stages) + 1)
    for (name, title), colour, style in zip(MEASURES.items(), COLOURS, STYLES, strict=False):
        means = [getattr(stage, name) for stage in cascade.stages]
        similarities = [1.0, *(mean.value for mean in means)]
        axes.plot([0, *places], similarities, style, color=colour, markersize=4, label=title)
        for place, mean in zip(places, means, strict=True):
            axes.plot([place, place], [mean.low, mean.high], color=colour, linewidth=1)
        chance = cascade.measures[name].chance.value
        axes.plot([len(places) + 0.3, len(places) + 0.6], [chance] * 2, color=colour, linewidth=3)
    names = [_short(stage.name) for stage in cascade.stages]
    axes.set_xticks([0, *places], ["nothing", *names], rotation=40, ha="right", fontsize=7)
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.set_ylim(-0.75, 1.35)
    axes.set_title(f"randomisation: {cascade.verdict}", loc="left", fontsize=8)


def _draw_curves(axes: Axes, test: Perturbation, name: str) -> None:
    for (order, title), colour, style in zip(ORDERS.items(), COLOURS, STYLES, strict=False):
        scores = test.curves[order]
        shares = np.linspace(0, 1, len(scores))
        axes.plot(shares, scores, style, color=colour, markersize=3, label=title)
    axes.set_title(f"{name}: {test.verdict}", loc="left", fontsize=8)
    axes.set_ylabel("mean score", fontsize=8)


def _short(name: str) -> str:
    """Of a stage: its modules without the path they have in common, cut where that is long.

    >>> _short("backbone.layer4"), _short("backbone.conv1 to backbone.bn1"), _short("head")
    ('layer4', 'conv1-bn1', 'head')
    """
    ends = [end.removeprefix("backbone.").removeprefix("features.") for end in name.split(" to ")]
    return shorten("-".join(ends), 24)
