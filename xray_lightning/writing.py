"""The one way to write a file: beside its name, synchronised, renamed; whole or not at all.

Text in a CSV for spreadsheets: a cell that starts with = + - @, a tab or a return is a formula
there, whatever quotes stand around it, and may start programs. Behind an apostrophe it is text.
"""

import csv
import glob
import json
import math
import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from xray_lightning.errors import OutputError
from xray_lightning.wording import fault

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HOST = platform.node()
SCHEMA = 2  # of JSON files; those without a number count as 1

Json = dict[str, Any]  # what a JSON file holds
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def for_spreadsheet(text: str) -> str:
    """The text as a cell that no spreadsheet computes; numbers and most other text as they are."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def from_spreadsheet(cell: str) -> str:
    """The text that :func:`for_spreadsheet` made a cell of, exactly."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


@contextmanager
def open_replacing(path: Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Open a file that takes its final name only when the block has ended without an error."""
    # The name beside it holds host and process id, so that two processes never write into one file.
    # A folder that vanished is never made anew. Text is UTF-8 unless ``encoding=`` says otherwise.
    require_folder(path)
    partial = path.with_name(f".{path.name}.{HOST}.{os.getpid()}.partial")
    if "b" not in mode:
        options = {"encoding": "utf-8", **options}
    try:
        with partial.open(mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.filename in (None, str(partial)):  # None: of a write
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_file(path: Path, content: str | bytes, **options: Any) -> None:
    """Write a whole file in one step, see :func:`open_replacing`."""
    with open_replacing(path, "w" if isinstance(content, str) else "wb", **options) as file:
        file.write(content)


def require_folder(path: Path) -> None:
    """Never write what is left of a result into a folder made anew."""
    if not path.parent.is_dir():
        raise OutputError(fault("gone", path))


def remove_leftovers(folder: Path) -> None:
    """Remove what processes of this machine that are dead were writing in a folder and below."""
    for path in folder.rglob(f".*.{glob.escape(HOST)}.*.partial"):
        process = path.name.split(".")[-2]
        if process.isdecimal() and not alive(int(process)):
            path.unlink(missing_ok=True)


def alive(process: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # somebody else's
    return True


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure; the ending says in which format."""
    with open_replacing(path, "wb") as file:
        figure.savefig(file, format=path.suffix[1:])


def write_table(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write a table for spreadsheets; names of files need not be UTF-8."""
    with open_replacing(path, newline="", errors="surrogateescape") as file:
        for row in rows:
            write_row(file, row)


def write_row(file: IO[str], row: Iterable[str]) -> None:
    """A row of such a table; Python 3.12 puts no quotes around a return, which ends a row."""
    cells = [*map(for_spreadsheet, row)]
    quoted = any("\r" in cell for cell in cells)
    csv.writer(file, lineterminator="\n", quoting=1 if quoted else 0).writerow(cells)


def read_written(path: Path) -> list[list[str]]:
    """The rows of a table of :func:`write_table`, its header first; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [[*map(from_spreadsheet, row)] for row in csv.reader(file)]


def write_rows(path: Path | None, rows: Sequence[Any]) -> None:
    """Rows of the same values as a table: None is an empty cell; without rows there is no file."""
    plain = [to_plain(row) for row in rows]
    cells = [
        [" ".join(map(str, c)) if isinstance(c, list) else "" if c is None else str(c) for c in row]
        for row in [*plain[:1], *(row.values() for row in plain)]
    ]
    if path and rows:
        write_table(path, cells)
    elif path:  # of an earlier time
        path.unlink(missing_ok=True)


def to_plain(value: Any) -> Any:
    """Dataclasses, mappings, sequences, NumPy numbers as plain values; NaN and infinity as None."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry) for entry in value]
    if hasattr(value, "tolist"):  # NumPy's, without importing it
        return to_plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(values: Mapping[str, Any]) -> str:
    """Plain values as JSON, the number of their schema first: what files and ``--json`` say."""
    return json.dumps({"schema": SCHEMA, **values}, indent=2, allow_nan=False)


def write_json(values: Mapping[str, Any], path: Path) -> None:
    """Write plain values as JSON, see :func:`json_text`."""
    write_file(path, json_text(values) + "\n")


def entries_of(values: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every value with its dotted name, mappings and lists as well as what is in them.

    What is nested more than 40 deep, such as a list that holds itself, is given as ``...``.

    >>> list(entries_of({"loss": {"gamma": 2}}))
    [('', {'loss': {'gamma': 2}}), ('loss', {'gamma': 2}), ('loss.gamma', 2)]
    """
    if depth > 40:
        yield name, ...
        return
    yield name, values
    if isinstance(values, Mapping | list | tuple):
        for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
            yield from entries_of(value, f"{name}.{key}" if name else str(key), depth + 1)


def read_json(path: Path) -> Json:
    """The mapping in a file of :func:`write_json`, without the number of its schema."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(f"{path} is damaged ({error}); delete it and make it again") from error
    if not isinstance(values, dict):
        raise OutputError(f"{path} is damaged: it holds no mapping; delete it and make it again")
    schema = values.pop("schema", 1)
    if schema not in range(1, SCHEMA + 1):
        raise OutputError(f"{path} has schema {schema!r}; this version reads up to {SCHEMA}")
    return values
