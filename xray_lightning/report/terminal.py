"""Tables for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from xray_lightning.processes import first_process
from xray_lightning.records import patients_text

WIDE = 160  # characters of a line that nobody's terminal breaks


def number(value: float | None, digits: int = 3) -> str:
    """A figure, or "-" where it is undefined.

    >>> number(None), number(0.5)
    ('-', '0.500')
    """
    return "-" if value is None else f"{value:,.{digits}f}"


def empty_table(title: str, first: str, *columns: str) -> Table:
    """A table without rows: a column of names, and columns of figures."""
    table = Table(title=Text(title), title_justify="left", header_style="bold")
    table.add_column(first)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def auroc_table(metrics: Mapping[str, Any], title: str) -> Table:
    """AUROC per label of each part with its positives, the mean in the last row."""
    names = [name for subset in metrics for name in (f"{subset} AUROC", "positive")]
    table = empty_table(title, "label", *names)
    for label in next(iter(metrics.values()))["auroc"]["labels"]:
        cells = []
        for summary in metrics.values():
            cells += [number(summary["auroc"]["labels"][label]), f"{summary['positives'][label]:,}"]
        table.add_row(label, *cells)
    table.add_section()
    ends = []
    for summary in metrics.values():
        defined, count = summary["auroc"]["defined"], len(summary["auroc"]["labels"])
        ends += [number(summary["auroc"]["mean"]), f"{defined}/{count} defined"]
    table.add_row("mean", *ends, style="bold")
    return table


def subsets_line(metrics: Mapping[str, Any]) -> str:
    """Images, patients and fingerprint of each part, and how its scores were averaged."""
    return "; ".join(
        f"{subset}: {s['images']:,} images of {patients_text(s['patients'])} [{s['fingerprint']}]"
        + (", each with its mirror image (tta=flip)" if s.get("tta") == "flip" else "")
        for subset, s in metrics.items()
    )


def show(*things: Any) -> None:
    """Print tables and lines, in the first process of a run.

    Labels, ids and paths come from data: no text is markup (``[/red]``) or an emoji (``:x:``), in
    no cell. Into a file or a pipe, tables are as wide as they like to be.
    """
    if not first_process():
        return
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    for thing in things:
        console.print(thing)


def counts_table(facts: Mapping[str, Any], labels: Sequence[str]) -> Table:
    """Images, patients and positives (their share of the known targets) of each part."""
    subsets: Mapping[str, Any] = facts["parts"]
    table = empty_table(facts["title"], "", *subsets)
    for name in ("images", "patients"):
        table.add_row(name, *(number(subsets[subset][name], 0) for subset in subsets))
    table.add_section()
    for label in labels:
        cells = []
        for subset in subsets:
            count, known = subsets[subset]["positives"][label], subsets[subset]["known"][label]
            cells.append(f"{count:,} ({100 * count / known:.1f} %)" if known else "-")
        table.add_row(label, *cells)
    return table
