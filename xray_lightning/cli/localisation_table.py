"""Localisation on the terminal: one method beside the controls and what was published."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from xray_lightning.cli.tables import number
from xray_lightning.localisation.located import CONTROLS
from xray_lightning.report.published import PublishedBoxes

OVERLAP = "0.1"  # the one that Wang 2017 is quoted for


def localisation_table(
    facts: Mapping[str, Any], method: str, title: str, published: Sequence[PublishedBoxes] = ()
) -> Table:
    """A row a label: boxes, pointing game with its interval, the controls', T(IoBB) = 0.1.

    Args:
        facts: of :func:`~xray_lightning.localisation.figures.localisation`.
        method: the one shown.
        title: of the table.
        published: of :func:`~xray_lightning.report.published.published_boxes`.
    """
    rows = [row for row in published if row.measure == "t_iobb"]
    table = Table(title=Text(title), title_justify="left", header_style="bold")
    table.add_column("label")
    columns = ["boxes", f"pointing game, {method}", "95 % (patients)", *CONTROLS, "T(IoBB) 0.1"]
    for name in [*columns, *(f"{row.work} {row.year}" for row in rows)]:
        table.add_column(name, justify="right")
    for label, found in facts["labels"].items():
        beside = [number(row.labels.get(label)) for row in rows]
        note = "too few" if found["note"] else "-"
        table.add_row(label, f"{found['boxes']:,}", *_cells(found, method, note), *beside)
    table.add_section()
    mean = facts["mean"]
    boxes = sum(found["boxes"] for found in facts["labels"].values())
    note = "too few" if mean["note"] else "-"
    beside = [number(row.mean) for row in rows]
    table.add_row("mean", f"{boxes:,}", *_cells(mean, method, note), *beside, style="bold")
    return table


def published_lines(published: Sequence[PublishedBoxes]) -> list[str]:
    """A line for each published figure that has no column."""
    return [
        f"published {row.measure.replace('_', ' ')} of {row.method}: {number(row.mean)} "
        f"({row.work}; {row.note})"
        for row in published
        if row.mean is not None
    ]


def _cells(found: Mapping[str, Any], method: str, none: str) -> list[str]:
    methods = found["methods"]
    shown = methods[method]["pointing_game"]
    interval = "{:.3f}-{:.3f}".format(*shown["interval"]) if shown["interval"] else none
    controls = [
        number(methods[name]["pointing_game"]["value"]) if name in methods else "-"
        for name in CONTROLS
    ]
    overlap = number(methods[method]["t_iobb"][OVERLAP]["value"])
    return [number(shown["value"]), interval, *controls, overlap]
