"""Localisation on the terminal: one method beside the controls and what was published."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from xray_lightning.evaluation.published import PublishedBoxes
from xray_lightning.explain.located import CONTROLS
from xray_lightning.report.terminal import empty_table, number

OVERLAP = "0.1"  # the one that Wang 2017 is quoted for
PAIR = ("t_iobb", "afp")


def localisation_table(
    facts: Mapping[str, Any], method: str, title: str, published: Sequence[PublishedBoxes] = ()
) -> Table:
    """A row a label: boxes, pointing game with its interval, the controls', T(IoBB) with AFP.

    T(IoBB) = 0.1 says little without the false positives an image, in brackets, and without what a
    random map gets.

    Args:
        facts: of :func:`~xray_lightning.explain.localisation.localisation`.
        method: the one shown.
        title: of the table.
        published: of :func:`~xray_lightning.evaluation.published.published_boxes`.
    """
    beside = {row.measure: row for row in published if row.measure in PAIR}
    columns = ["boxes", f"pointing game, {method}", "95 % (patients)", *CONTROLS]
    columns += ["T(IoBB) 0.1 (AFP)", "random's"]
    columns += [f"{beside[PAIR[0]].work} {beside[PAIR[0]].year}"] if beside else []
    table = empty_table(title, "label", *columns)
    for label, found in facts["labels"].items():
        theirs = [_pair(*(beside[name].labels.get(label) for name in PAIR))] if beside else []
        table.add_row(label, f"{found['boxes']:,}", *_cells(found, method), *theirs)
    table.add_section()
    boxes = sum(found["boxes"] for found in facts["labels"].values())
    table.add_row("mean", f"{boxes:,}", *_cells(facts["mean"], method), style="bold")
    return table


def published_lines(published: Sequence[PublishedBoxes]) -> list[str]:
    """A line for each published figure that has no column."""
    return [
        f"published {row.measure.replace('_', ' ')} of {row.method}: {number(row.mean)} "
        f"({row.work}; {row.note})"
        for row in published
        if row.mean is not None
    ]


def _cells(found: Mapping[str, Any], method: str) -> list[str]:
    methods = found["methods"]
    shown = methods[method]["pointing_game"]
    none = "too few" if found["note"] else "equal"
    interval = "{:.3f}-{:.3f}".format(*shown["interval"]) if shown["interval"] else none
    labels = methods[method].get("labels")  # in a mean: over fewer ones it stands beside nothing
    controls = [
        number(methods[name]["pointing_game"]["value"])
        if name in methods and methods[name].get("labels") == labels
        else "-"
        for name in CONTROLS
    ]
    pairs = [
        _pair(*(methods[name][each][OVERLAP]["value"] for each in PAIR))
        for name in (method, "random")
    ]
    return [number(shown["value"]), interval, *controls, *pairs]


def _pair(share: float | None, false: float | None) -> str:
    return "-" if share is None else f"{share:.3f} ({number(false, 1)})"
