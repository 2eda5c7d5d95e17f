"""Tables and lines for the terminal; each table fits 80 columns."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xray_lightning.processes import first_process
from xray_lightning.records import patients_text
from xray_lightning.report.page import say
from xray_lightning.wording import interval_text, number, p_text

if TYPE_CHECKING:  # need SciPy or pandas, which most verbs do not
    from xray_lightning.data.summary import DataSummary, LabelTable, LabelUse
    from xray_lightning.evaluation.compare import Comparison, ExpertTruth
    from xray_lightning.evaluation.sweep import CrossValidation, SweepComparison
    from xray_lightning.metrics.margins import MarginTests

WIDE = 160  # characters of a line in a file or a pipe
SETS, CELL = 4, 13  # data sets in a table of 80 columns, and the width of each


def show(*things: Any) -> None:
    """Print tables and lines, in the first process of a run.

    Labels, ids and paths come from data: no text is markup (``[/red]``) or an emoji (``:x:``), in
    no cell. On a terminal lines are broken between words, in a file or a pipe not at all.
    """
    if not first_process():
        return
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    for thing in things:
        if isinstance(thing, str) and console.is_terminal:
            thing = fill(thing, console.width, break_long_words=False, break_on_hyphens=False)
        console.print(thing, soft_wrap=isinstance(thing, str), crop=False)


def empty_table(title: str, first: str, *columns: str) -> Table:
    """A table without rows: a column of names, and columns of numbers."""
    table = Table(
        title=Text(title, no_wrap=True, overflow="ignore"),  # it may be wider than the table
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column(first, vertical="bottom")
    for name in columns:
        table.add_column(name, justify="right", vertical="bottom")
    return table


def add_row(table: Table, name: str, *cells: str, last: bool) -> None:
    """A row of a label, or the mean of all below a line."""
    if last:
        table.add_section()
    table.add_row(name, *cells, style="bold" if last else None)


def auroc_table(metrics: Mapping[str, Any], title: str) -> Table:
    """AUROC per label of each part with its positives, the mean in the last row."""
    names = [name for subset in metrics for name in (f"{subset} AUROC", "positive")]
    table = empty_table(title, "label", *names)
    for label in next(iter(metrics.values()))["auroc"]["labels"]:
        cells = []
        for summary in metrics.values():
            cells += [number(summary["auroc"]["labels"][label]), f"{summary['positives'][label]:,}"]
        table.add_row(label, *cells)
    ends = []
    for auroc in (summary["auroc"] for summary in metrics.values()):
        ends += [number(auroc["mean"]), f"{auroc['defined']}/{len(auroc['labels'])} defined"]
    add_row(table, "mean", *ends, last=True)
    return table


def labels_tables(table: "LabelTable") -> list[Table | str]:
    """The map of labels, up to ``SETS`` data sets in a table of at most 80 columns."""
    names = list(table.images)
    tables: list[Table | str] = []
    for start in range(0, len(names), SETS):
        chosen = names[start : start + SETS]
        drawn = empty_table("labels of the data sets", "finding", *chosen)
        for column in drawn.columns:
            column.justify, column.vertical, column.overflow = "left", "top", "fold"
            column.max_width = 18 if column is drawn.columns[0] else CELL
        for row in table.rows:
            cells = [_label_cell(row.label, row.sets[name]) for name in chosen]
            if any(row.sets[name].words or row.sets[name].wider for name in chosen):
                drawn.add_row(row.label, *cells)
        tables.append(drawn)
    return [*tables, *say("labels")]


def _label_cell(label: str, use: "LabelUse") -> str:
    """The data set's own words, and its images with / without the finding, and unknown."""
    if not use.words:
        return f"- ({use.wider[0]})" if use.wider else "-"
    lines = ["=" if use.words == (label,) else " or ".join(use.words) + " *" * use.derived]
    if use.positives is not None:
        counts = f"{use.positives:,}/{use.negatives:,}"
        lines.append(counts if len(counts) <= CELL else counts.replace("/", "/\n"))
    return "\n".join([*lines, *([f"? {use.unknown:,}"] if use.unknown else [])])


def counts_table(summary: "DataSummary") -> Table:
    """Images, patients and positives (their share of the known targets) of each subset."""
    subsets = summary.subsets
    table = empty_table(f"{summary.data}, split {summary.split}", "", *subsets)
    table.add_row("images", *(number(counts.images, 0) for counts in subsets.values()))
    table.add_row("patients", *(number(counts.patients, 0) for counts in subsets.values()))
    table.add_section()
    for label in summary.positives:
        cells = []
        for counts in subsets.values():
            positive, known = counts.positives[label], counts.known[label]
            cells.append(f"{positive:,} ({100 * positive / known:.1f} %)" if known else "-")
        table.add_row(label, *cells)
    return table


def comparison_lines(comparison: "Comparison", first: str, second: str) -> list[Table | str]:
    """Differences of two models A and B by name, their tests, and the verdict."""
    title = f"A: {first}    B: {second}    {comparison.data}".rstrip()
    differences = empty_table(title, "label", "A", "B", "A - B", "95 % (patients)")
    names = ("p", "p corrected", "p DeLong", "detectable difference")
    tests = empty_table("is the difference more than chance?", "label", *names)
    for label, row in (*comparison.labels.items(), ("mean", comparison.mean)):
        ends = interval_text(row.interval, 4, between=" to ", sign="+")
        cells = number(row.first, 4), number(row.second, 4), number(row.difference, 4, "+"), ends
        add_row(differences, label, *cells, last=row is comparison.mean)
        tested = (row.p_value, row.corrected, row.delong, row.detectable)
        add_row(tests, label, *(number(p, 4) for p in tested), last=row is comparison.mean)
    further = [_margin_table(comparison.margin)] if comparison.margin else []
    further += [_use_table(comparison)] if comparison.net_benefit else []
    return [differences, tests, *further, *say("comparison", comparison)]


def _margin_table(tests: "MarginTests") -> Table:
    """A row a label: one-sided bounds, p values, verdict, and the patients that would decide."""
    names = ("lower\n95 %", "upper\n95 %", "p non-\ninferior", "p equi-\nvalent", "verdict")
    title = f"A - B against a margin of {tests.margin}, stated before"
    table = empty_table(title, "label", *names, "patients\nneeded")
    for label, row in (*tests.labels.items(), ("mean", tests.mean)):
        bounds = [number(bound, 4, "+") for bound in (row.lower, row.upper)]
        p_values = [p_text(row.p_values[claim]) for claim in ("non-inferior", "equivalent")]
        cells = *bounds, *p_values, row.verdict, number(row.patients, 0)
        add_row(table, label, *cells, last=row is tests.mean)
    return table


def _use_table(comparison: "Comparison") -> Table:
    """A row a label: net benefit of A less that of B in 1,000 images, and its interval."""
    names = [f"at {100 * threshold:g} %" for threshold in comparison.thresholds]
    table = empty_table("net benefit, A - B, in 1,000 images (95 %)", "label", *names)
    for label, band in comparison.net_benefit.items():
        columns = zip(band.value, band.low, band.high, strict=True)
        cells = [
            f"{number(1000 * value, 1, '+')} {interval_text(ends, 1, 1000, ' to ')}"
            for value, *ends in columns
        ]
        table.add_row(label + "*" * (label not in comparison.calibrated), *cells)
    return table


def truth_lines(truths: "ExpertTruth", title: str) -> list[Table | str]:
    """The same scores against readers and against the text miner, and a sentence a row."""
    names = ["AUROC\nreaders", "AUROC\nminer", "difference", "95 %\n(patients)", "p (Holm)"]
    table = empty_table(title, "finding", *names)
    names = ["images", "patients", "positive:\nreaders", "miner", "both"]
    positives = empty_table("the images of each row", "finding", *names)
    for row in truths.rows:
        name = f"{row.finding}\n{row.readers}"
        pair, ends = row.auroc, interval_text(row.auroc.interval, between=" to ", sign="+")
        cells = number(pair.first), number(pair.second), number(pair.difference, sign="+"), ends
        table.add_row(name, *cells, p_text(pair.corrected))
        counts = (row.images, row.patients, row.positives, row.text_positives, row.both)
        positives.add_row(name, *(f"{count:,}" for count in counts))
    return [table, positives, *say("truths", truths)]


def sweep_lines(comparison: "SweepComparison", *, all_tests: bool = False) -> list[Table | str]:
    """A table for each split, and what must not be read into them."""
    boards, tables = comparison.leaderboards, []
    for board in boards:
        title = f"{board.data}, split {board.split} [{board.fingerprint}], ranked by validation"
        columns = ("n", "val AUROC", "sd", "labels", "test AUROC", "sd")
        table = empty_table(f"{title} AUROC", "settings", *columns)
        for row in board.rows(all_tests=all_tests):
            val, test = (
                [number(row[f"{s}_{k}"], 4) for k in ("mean", "sd")] for s in ("val", "test")
            )
            labels, style = "/".join(map(str, row["val_labels"])), "bold" if row["chosen"] else None
            cells = [row["settings"] or "all runs", str(row["n"]), *val, labels, *test]
            table.add_row(*cells, style=style)
        tables.append(table)
    return [*tables, *say("sweep", boards, all_tests)]


def fold_lines(validations: "Sequence[CrossValidation]") -> list[Table | str]:
    """A table for each complete cross-validation, and a word on the others."""
    lines: list[Table | str] = []
    for validation in validations:
        missing = not validation.metrics
        lines += say("missing_folds", validation) if missing else [_fold_table(validation)]
    complete = any(validation.metrics for validation in validations)
    return [*lines, *say("folds")] if complete else lines


def _fold_table(validation: "CrossValidation") -> Table:
    """A row a label: pooled AUROC with its interval, mean and deviation of the folds."""
    from xray_lightning.evaluation.sweep import average_seeds

    title = (
        f"{validation.title}: {validation.images:,} images of {patients_text(validation.patients)},"
        f" each in the test set of one of {validation.folds} folds"
    )
    names = ("positive", "pooled\nAUROC", "95 %\n(patients)", "mean of\nfolds", "sd", "folds")
    table = empty_table(title, "label", *names)
    for label, positives, auroc, folds in validation.rows:
        single = average_seeds(folds)
        count = "" if positives is None else f"{positives:,}"
        cells = [count, number(auroc.value), interval_text(auroc.interval)]
        cells += [number(single.mean), number(single.deviation), str(single.count)]
        add_row(table, label, *cells, last=positives is None)
    return table
