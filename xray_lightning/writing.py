"""The one way to write a file: beside its name, synchronised, renamed; whole or not at all.

Text in a CSV for spreadsheets: a cell that starts with = + - @, a tab or a return is a formula
there, whatever quotes stand around it, and may start programs. Behind an apostrophe it is text.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def for_spreadsheet(text: str) -> str:
    """The text as a cell that no spreadsheet computes; numbers and most other text as they are.

    >>> for_spreadsheet("=1+1"), for_spreadsheet("-0.5"), for_spreadsheet("it's")
    ("'=1+1", '-0.5', "it's")
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def from_spreadsheet(cell: str) -> str:
    """The text that :func:`for_spreadsheet` made a cell of, exactly."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


@contextmanager
def open_replacing(path: Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Open a file that takes its final name only when the block has ended without an error.

    The name beside it holds the process id, so that two processes never write into one file.

    Args:
        path: final name; its folder is made.
        mode: "w" for text (UTF-8 unless ``encoding=`` says otherwise) or "wb".
        options: of :meth:`pathlib.Path.open`.

    Raises:
        OSError: with the final name as its file name.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if "b" not in mode:
        options = {"encoding": "utf-8", **options}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open(mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.filename == str(partial):
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_json(values: Mapping[str, Any], path: Path) -> None:
    """Write plain values as JSON.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    with open_replacing(path) as file:
        file.write(text)
