"""An external validation: tables for the terminal, the heat table, and one page."""

from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from rich.table import Table

from xray_lightning.data.tables import format_count
from xray_lightning.evaluation import external
from xray_lightning.metrics.intervals import Estimate
from xray_lightning.report.drawings import embed_picture
from xray_lightning.report.figures import AS_WRITTEN, new_figure
from xray_lightning.report.page import page, say
from xray_lightning.report.terminal import tabulate
from xray_lightning.wording import interval_text, number
from xray_lightning.writing import save_figure, write_file, write_json

OWN = "internal test"
LOW, HIGH = 0.5, 1.0  # of the colours: guessing, and no error
Cells = dict[str, tuple[Estimate, str]]  # test set -> AUROC, of how many labels it is the mean


def external_lines(result: external.ExternalValidation) -> list[Table | str]:
    """Models by test sets, then a table of scores and one of calls for each pair."""
    lines: list[Table | str] = [tabulate("external", result, OWN), *say("external")]
    for pair in result.cells:
        known = {k: row for k, row in pair.labels.items() if not np.isnan(row.auroc.value)}
        lines.append(tabulate("transfer", pair, {**pair.labels, external.MEAN: pair.mean}))
        lines += [tabulate("transfer_calls", known)] if known else []
        calibrated = {label: row for label, row in known.items() if row.calibration}
        lines += [tabulate("transfer_calibration", calibrated)] if calibrated else []
        lines += say("transfer", pair)
    return [*lines, *say("models", result.models)]


@AS_WRITTEN
def heat_figure(result: external.ExternalValidation, path: Path) -> None:
    """AUROC of each model (rows) on each test set (columns), the mean first; no file of none."""
    columns = [OWN, *result.sets]
    tested = dict.fromkeys(label for cell in result.cells for label in cell.labels)
    shown = [name for name in (external.MEAN, *tested) if any(_cells(result, name, columns))]
    if not shown:
        path.unlink(missing_ok=True)  # what an earlier call drew
        return
    across = min(len(shown), max(1, 9 // len(columns)))  # as wide as a page can show
    down = -(-len(shown) // across)
    size = 1.25 * len(columns) + 1.6, 0.55 * len(result.models) + 1.0
    figure, panels = new_figure(size[0] * across, size[1] * down + 0.4, down, across)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    for axes, name in zip(panels, shown, strict=False):
        _draw_cells(axes, name, result, columns)
    figure.suptitle("AUROC, 95 % (patients): rows trained on, columns tested on", fontsize=10)
    save_figure(figure, path)


def _cells(result: external.ExternalValidation, label: str, columns: list[str]) -> list[Cells]:
    """AUROC of a label, or the mean, of each model by test set; empty where there is none."""
    rows = []
    for model in result.models:
        inside = model.mean if label == external.MEAN else model.aurocs.get(label, external.UNKNOWN)
        estimates = {OWN: (inside, format_count(len(model.aurocs), "label"))}
        for name in columns[1:]:
            if cell := result.cell(model.name, name):
                row = cell.mean if label == external.MEAN else cell.labels.get(label)
                estimates |= {name: (row.auroc, row.note)} if row else {}
        rows.append({k: e for k, e in estimates.items() if not np.isnan(e[0].value)})
    return rows


def _draw_cells(
    axes: Axes, label: str, result: external.ExternalValidation, columns: list[str]
) -> None:
    rows = _cells(result, label, columns)
    nothing = external.UNKNOWN, ""
    values = np.array([[row.get(name, nothing)[0].value for name in columns] for row in rows])
    axes.imshow(values, cmap="cividis", vmin=LOW, vmax=HIGH, aspect="auto")
    for place, row in enumerate(rows):
        for column, name in enumerate(columns):
            estimate, count = row.get(name, nothing)
            own = name != OWN and result.cell(result.models[place].name, name) is None
            text = "= internal" if own else "-"
            if name in row:
                text = f"{number(estimate.value)}\n{interval_text(estimate.interval)}"
                text += f"\n{count}" if label == external.MEAN else ""
            colour = "white" if estimate.value < (LOW + HIGH) / 2 else "black"
            axes.text(column, place, text, ha="center", va="center", fontsize=7, color=colour)
        frame = Rectangle((-0.47, place - 0.47), 0.94, 0.94, fill=False, edgecolor="#D55E00")
        axes.add_patch(frame).set_linewidth(2)
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    names = [f"{m.trained_on or 'unknown'}\n{fill(m.name, 18)}" for m in result.models]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.spines[:].set_visible(False)
    axes.set_title(label, fontsize=9)


def write_external(result: external.ExternalValidation, folder: Path) -> None:
    """Write external.json, external.png and the page of both: no script, no network."""
    write_json(result.to_json(), folder / "external.json")
    heat_figure(result, path := folder / "external.png")
    values = {"picture": embed_picture(path) if path.is_file() else "", "result": result}
    write_file(folder / "external.html", page("external.html.j2", values))
