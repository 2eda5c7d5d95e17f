"""Tables and lines for the terminal, of 80 columns; of a sweep the files as well."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xray_lightning.processes import first_process
from xray_lightning.report.page import say
from xray_lightning.wording import interval_text, open_templates

if TYPE_CHECKING:  # need SciPy or pandas, which most verbs do not
    from xray_lightning.data.summary import LabelTable
    from xray_lightning.evaluation.compare import Comparison, ExpertTruth
    from xray_lightning.evaluation.readers import ReaderStudy
    from xray_lightning.evaluation.sweep import CrossValidation, SweepComparison

WIDE = 160  # characters of a line in a file or a pipe
MARKS, STAND_INS = "\n|*", "\ue000\ue001\ue002"  # of tables.txt.j2, and for those inside a cell
HIDDEN, SHOWN = str.maketrans(MARKS, STAND_INS), str.maketrans(STAND_INS, MARKS)
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


def tabulate(subject: str, *about: Any) -> Table:
    """The table of a macro of ``tables.txt.j2``, which says what the marks in it are."""
    title, names, *rows = getattr(_open_tables(), subject)(*about).split("\n")
    heading = Text(title.translate(SHOWN), no_wrap=True, overflow="ignore")  # it may be wider
    plain: Any = {"title_justify": "left", "header_style": "bold", "collapse_padding": True}
    table, style = Table(title=heading, box=box.SIMPLE_HEAD, pad_edge=False, **plain), ""
    for place, name in enumerate(_divide(names)):  # the first is of names, the others of numbers
        table.add_column(name, justify="right" if place else "left", vertical="bottom")
    for row in filter(None, rows):
        if row in ("---", "==="):
            table.add_section()
            style = "bold" if row == "===" else ""
        else:
            own = "bold" if row.startswith("** ") else style
            table.add_row(*_divide(row.removeprefix("** ")), style=own)
    return table


@cache
def _open_tables() -> Any:
    environment = open_templates(__package__).overlay()
    environment.finalize = lambda value: str(value).translate(HIDDEN)  # no mark divides a cell
    environment.filters = {**environment.filters, "ends": interval_text}
    return environment.get_template("tables.txt.j2").module


def _divide(row: str) -> list[str]:
    return [cell.translate(SHOWN) for cell in row.split(" | ")]


def labels_tables(table: "LabelTable") -> list[Table | str]:
    """The map of labels, up to ``SETS`` data sets in a table of at most 80 columns."""
    names = list(table.images)
    tables: list[Table | str] = []
    for start in range(0, len(names), SETS):
        chosen = names[start : start + SETS]
        uses = ((row, [row.sets[name] for name in chosen]) for row in table.rows)
        rows = [row for row, own in uses if any(use.words or use.wider for use in own)]
        drawn = tabulate("labels", rows, chosen, CELL)
        for column in drawn.columns:
            column.justify, column.vertical, column.overflow = "left", "top", "fold"
            column.max_width = 18 if column is drawn.columns[0] else CELL
        tables.append(drawn)
    return [*tables, *say("labels")]


def comparison_lines(comparison: "Comparison", first: str, second: str) -> list[Table | str]:
    """Differences of two models A and B by name, their tests, and the verdict."""
    title = f"A: {first}    B: {second}    {comparison.data}".rstrip()
    tables = [tabulate("differences", comparison, title), tabulate("chance", comparison)]
    tables += [tabulate("margin", comparison.margin)] if comparison.margin else []
    tables += [tabulate("net_benefit", comparison)] if comparison.net_benefit else []
    return [*tables, *say("comparison", comparison)]


def truth_lines(truths: "ExpertTruth", title: str) -> list[Table | str]:
    """The same scores against readers and against the text miner, and a sentence a row."""
    tables = tabulate("truths", truths.rows, title), tabulate("truth_images", truths.rows)
    return [*tables, *say("truths", truths)]


def reader_lines(study: "ReaderStudy") -> list[Table | str]:
    """Agreement of readers, and each of them and a model against a truth; or two modalities."""
    subjects = ["reader_tests"] if study.tests else ["agreement", "readers"]
    return [*(tabulate(subject, study) for subject in subjects), *say("readers", study)]


def sweep_lines(comparison: "SweepComparison", *, all_tests: bool = False) -> list[Table | str]:
    """A table for each split, and what must not be read into them."""
    boards = comparison.leaderboards
    tables = [tabulate("leaderboard", board, all_tests) for board in boards]
    return [*tables, *say("sweep", boards, all_tests)]


def fold_lines(validations: "Sequence[CrossValidation]") -> list[Table | str]:
    """A table for each complete cross-validation, and a word on the others."""
    from xray_lightning.evaluation.sweep import average_seeds

    lines: list[Table | str] = []
    for validation in validations:
        if not validation.metrics:
            lines += say("missing_folds", validation)
            continue
        rows = [(*row, average_seeds(folds)) for *row, folds in validation.rows]
        lines.append(tabulate("folds", validation, rows))
    complete = any(validation.metrics for validation in validations)
    return [*lines, *say("folds")] if complete else lines


def write_sweep(comparison: "SweepComparison", folder: Path) -> None:
    """comparison.csv, ranking.csv, ranking.json and comparison.png, each replaced in one step."""
    comparison.write(folder)
    if comparison.leaderboards:
        from xray_lightning.report.figures import sweep_figure  # Matplotlib

        sweep_figure(comparison.leaderboards, folder / "comparison.png")


def finish_sweep(
    comparison: "SweepComparison", folder: Path, *, all_tests: bool = False
) -> "tuple[list[Table | str], list[CrossValidation]]":
    """Its files, also the pooled folds of a cross-validation; what is shown of it, and these."""
    write_sweep(comparison, folder)
    from xray_lightning.evaluation.sweep import pool_folds

    validations = pool_folds(comparison.runs, folder)
    for validation in validations:
        if validation.predictions:
            from xray_lightning.report.figures import folds_figure  # Matplotlib

            name = Path(validation.predictions.replace("predictions", "pooled"))
            folds_figure(validation, folder / name.with_suffix(".png"))
    lines = sweep_lines(comparison, all_tests=all_tests) + fold_lines(validations)
    lines += [*say("not_finished", comparison.not_finished), f"sweep directory: {folder}"]
    return lines, validations
