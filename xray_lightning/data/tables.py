"""The one reader of tables of text: labels, boxes, splits, scores and maps between names.

Cells stay text: "007" is not 7. Rows are numbered as a spreadsheet shows them, the header is row 1;
every message names the file, the row, the column and the cell.
"""

import codecs
import csv
import gzip
import io
import itertools
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from xray_lightning.data.source import say
from xray_lightning.errors import DataNotFoundError, TableError
from xray_lightning.records import NAN, OLDEST, Box, canonical
from xray_lightning.wording import fault
from xray_lightning.writing import from_spreadsheet

if TYPE_CHECKING:  # 0.2 s, which a wrong path need not wait for
    from polars import DataFrame, Series

LOST_ID = r"^$|^(?i:nan|<na>)$|^\d\.\d+[eE]\+\d+$"  # what pandas and spreadsheets make of one
_UNITS = {"Y": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}  # of them in a year
_SEXES = {"M": "M", "MALE": "M", "F": "F", "FEMALE": "F"}

Value = TypeVar("Value")
Rows = npt.NDArray[np.intp]
Cut = tuple["DataFrame", Sequence[int]]  # columns of text, and the numbers of their rows


@dataclass(frozen=True)
class Table:
    """A table with a header, as text."""

    path: Path
    rows: Sequence[int]  # the number of each in the file, (N,)
    frame: "DataFrame"  # its columns, (N,), perhaps with spaces around the cells

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self.frame.columns

    def take(self, indices: Rows) -> "Table":
        """The table with some of its rows."""
        return Table(self.path, [self.rows[i] for i in indices], self.frame[indices])

    def place(self, index: int) -> str:
        """File and row, for messages."""
        return f"{self.path}, row {self.rows[index]}"

    def require(self, *names: str, once: str = "", remedy: str = "") -> None:
        """Refuse a table that lacks one of the columns, or where a cell of ``once`` repeats."""
        if absent := [name for name in names if name not in self.columns]:
            raise TableError(fault("lacks_columns", self, absent, remedy))
        if not once:
            return
        self.refuse_blanks(once)
        column = self.column(once)
        if repeats := len(column) - column.n_unique():
            row = (~column.is_first_distinct()).arg_max() or 0
            before = column.index_of(column[row]) or 0
            first = f"{column[row]} in rows {self.rows[before]} and {self.rows[row]}"
            raise TableError(fault("repeats", self.path, repeats, first))

    def column(self, name: str) -> "Series":
        """The cells of a column, (N,), but for spaces around them as they stand there."""
        return self.frame[name].str.strip_chars()

    def text(self, name: str) -> list[str]:
        """The cells of a column, (N,), blank where there is none, without a spreadsheet mark."""
        if name not in self.columns:
            return [""] * len(self)
        cells = self.column(name)
        marked = cells.str.starts_with("'").any()
        return [*map(from_spreadsheet, cells)] if marked else cells.to_list()

    def distinct(self, name: str) -> tuple[Rows, list[str]]:
        """Which cell of a column stands in each row, (N,), and the cells in order; see ``text``."""
        import polars as pl

        if name not in self.columns:
            return np.zeros(len(self), np.intp), [""]
        column = self.column(name)
        cells = column.unique(maintain_order=True)
        rows = column.cast(pl.Enum(cells)).to_physical().to_numpy()
        return rows, [*map(from_spreadsheet, cells)]

    def count(self, name: str) -> dict[str, int]:
        """How often each cell stands in a column, the commonest first."""
        return dict(Counter(self.text(name)).most_common())

    def convert(self, name: str, parse: Callable[[str], Value], wanted: str) -> list[Value]:
        """A column through ``parse``, once for each distinct cell, (N,); see ``parse_distinct``."""
        rows, parsed = self.parse_distinct(name, parse, wanted)
        return [parsed[row] for row in rows.tolist()]

    def parse_distinct(
        self, name: str, parse: Callable[[str], Value], wanted: str
    ) -> tuple[Rows, list[Value]]:
        """Which distinct cell stands in each row, (N,), and these parsed."""
        rows, cells = self.distinct(name)
        parsed = []
        for number, cell in enumerate(cells):
            try:
                parsed.append(parse(cell))
            except (KeyError, ValueError):
                place = self.place(int((rows == number).argmax()))
                raise TableError(f"{place}: {name!r} is {cell!r}, not {wanted}") from None
        return rows, parsed

    def numbers(self, name: str) -> list[float]:
        """A column of numbers, NaN where blank or where there is no such column, (N,)."""
        return self.convert(name, lambda cell: float(cell or NAN), "a number")

    def ages(self, name: str, notes: list[str]) -> list[float]:
        """A column of ages in years, NaN where unknown or not from 0 to 110, (N,)."""
        ages = self.convert(name, age_in_years, "an age such as 58 or 058Y")
        return allowed_ages(np.array(ages), notes)

    def sexes(self, name: str, notes: list[str]) -> list[str]:
        """A column of "M", "F", and "" for anything else, (N,)."""
        sexes = self.convert(name, lambda cell: _SEXES.get(cell.upper(), ""), "a sex")
        notes += say("other_sexes", name, sexes.count("") - self.text(name).count(""))
        return sexes

    def refuse_blanks(self, name: str, lost: str = "^$") -> None:
        """Refuse a blank cell in a column, or one of the pattern ``lost``."""
        if (blank := self.column(name).str.contains(lost)).any():
            row = blank.arg_max() or 0
            raise TableError(fault("lost_id", self.place(row), name, self.column(name)[row]))


def allowed_ages(ages: npt.NDArray[np.float64], notes: list[str]) -> list[float]:
    """Ages in years, NaN where not from 0 to 110, (N,); a note says how often."""
    impossible = (ages < 0) | (ages > OLDEST)
    notes += say("impossible_ages", int(impossible.sum()))
    allowed: list[float] = np.where(impossible, NAN, ages).tolist()
    return allowed


def read_table(path: Path, *needed: str, once: str = "") -> Table:
    """A table between commas, semicolons, tabs or bars; gzip if it ends in ``.gz``."""
    # UTF-8, or UTF-16 with its byte order mark: nothing else is certain. A row may have blank cells
    # beyond the header (NIH's older tables), a header nameless columns beyond the cells (NIH's box
    # list).
    with open_text(path, "table") as file:
        mark, places = _read_header(path, text := file.read())
        frame, rows = _cut(text, mark, places) or _parse(path, text, mark, places)
    if not rows:
        raise TableError(f"{path} is empty: it needs a header and at least one row")
    table = Table(path, rows, frame)
    table.require(*needed, once=once)
    return table


def _read_header(path: Path, text: str) -> tuple[str, dict[str, int]]:
    """The mark between cells, a comma where no other is certain, and the place of each column."""
    if "\0" in text:
        raise TableError(fault("no_text", path))
    start = text[: text.find("\n", 1 << 16) + 1 or None]
    for mark in ",;\t|,":  # the first under which the first row fills the header
        rows = list(itertools.islice(csv.reader(io.StringIO(start, ""), delimiter=mark), 2))
        if rows and 1 < len(rows[0]) <= len(rows[-1]):
            break
    header = [name.strip() for name in itertools.chain(*rows[:1])]
    named = [place for place, name in enumerate(header) if name[:8] not in ("", "Unnamed:")]
    places = {header[place]: place for place in named}
    if len(places) < len(named):
        raise TableError(fault("one_name", path, header))
    return mark, places


def _cut(text: str, mark: str, places: Mapping[str, int]) -> Cut | None:
    """The columns and the numbers of the rows by polars; None where csv may read otherwise."""
    import polars as pl

    raw = text.encode()
    if not places or not _is_regular(raw, mark):
        return None
    try:
        frame = pl.read_csv(raw, separator=mark, infer_schema=False, empty_string_is_null=False)
    except pl.exceptions.PolarsError:  # such as a row beyond the header
        return None
    if frame.select(pl.all_horizontal(pl.all() == "").any()).item():
        return None
    if (frame.to_series(max(places.values())) == "").any():  # or are there rows that end before it?
        cells = pl.all().str.count_matches(mark, literal=True).sum()
        inside = frame.select(pl.sum_horizontal(cells)).item() if b'"' in raw else 0
        marks = raw.count(mark.encode()) - inside - "".join(frame.columns).count(mark)
        if marks < (frame.height + 1) * (frame.width - 1):
            return None
    columns = {name: pl.nth(place) for name, place in places.items()}
    return frame.select(**columns), range(2, 2 + frame.height)


def _is_regular(raw: bytes, mark: str) -> bool:
    """Whether every quote opens or closes a cell, and every line ends as this system's do."""
    data = np.frombuffer(raw, np.uint8)
    quotes = np.flatnonzero(data == ord('"'))
    beside = data.take(np.concatenate([quotes[::2] - 1, quotes[1::2] + 1]), mode="clip")
    if len(quotes) % 2 or not np.isin(beside, list(f'{mark}\r\n"'.encode())).all():
        return False
    lone = b"\r" in raw and re.search(b"\r(?!\n)", raw)
    return not lone and not raw.endswith(mark.encode())


def _parse(path: Path, text: str, mark: str, places: Mapping[str, int]) -> Cut:
    """The same by the standard library's parser; blank rows are left out."""
    import polars as pl

    reader = csv.reader(io.StringIO(text, ""), delimiter=mark)
    width, needed = len(next(reader, [])), max(places.values(), default=-1) + 1
    rows = {number: row for number, row in enumerate(reader, start=2) if any(row)}
    for number, row in rows.items():
        if len(row) < needed or any(row[width:]):
            raise TableError(fault("cells", path, number, row, needed))
    columns = {name: [row[place] for row in rows.values()] for name, place in places.items()}
    return pl.DataFrame(columns, dict.fromkeys(places, pl.String)), list(rows)


@contextmanager
def open_text(path: Path, kind: str) -> Iterator[io.TextIOWrapper]:
    """Open a text file of a data set, gzip if it ends in ``.gz``; ``kind`` names it in messages."""
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as raw:
            utf16 = raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            raw.seek(0)
            wide = io.BufferedReader(raw, 1 << 20)  # gzip gives 8 KB at a time: a third slower
            yield io.TextIOWrapper(wide, "utf-16" if utf16 else "utf-8-sig", newline="")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataNotFoundError(f"there is no {kind} {path}") from error
    except UnicodeError as error:
        raise TableError(fault("encoding", path, kind, error)) from error
    except (OSError, EOFError, zlib.error, csv.Error, json.JSONDecodeError) as error:
        raise TableError(f"{path} is not a readable {kind} ({error}). Download it again") from error


def require_whole(path: Path) -> None:
    """Check that a table of this package was written to its end: a cut number is another number."""
    if path.suffix != ".gz" and path.read_bytes()[-1:] != b"\n":
        raise TableError(f"{path} is cut off inside its last row: write or copy it again")


def binary(cell: str) -> float:
    """A target: 1.0, 0.0, or NaN where it is unknown, blank or -1."""
    words = {"": "-1", "true": "1", "false": "0"}
    return {1.0: 1.0, 0.0: 0.0, -1.0: NAN}[float(words.get(cell.lower(), cell))]


def is_present(cell: str) -> bool:
    """Whether a cell is 1 and not 0; a KeyError or ValueError where it is neither."""
    return {1.0: True, 0.0: False}[float(cell)]


def age_in_years(cell: str) -> float:
    """An age as the tables write it; NaN where blank.

    >>> [age_in_years(cell) for cell in ("58", "058Y", "006M", "")]
    [58.0, 58.0, 0.5, nan]
    """
    unit = cell[-1:].upper()
    return float(cell[:-1]) / _UNITS[unit] if unit in _UNITS else float(cell or NAN)


def read_boxes(
    table: Table,  # one row per box
    columns: Sequence[str],  # its columns of image, label, x, y, width and height, in pixels
    labels: Sequence[str],  # the known labels
    images: Collection[str],  # the known image ids
) -> dict[str, tuple[Box, ...]]:
    """Boxes of each image that has some, in table order."""
    table.require(*columns)
    image, label, *sides = columns
    boxes: dict[str, tuple[Box, ...]] = {}
    rows = zip(table.text(image), table.text(label), *map(table.numbers, sides), strict=True)
    for i, (name, finding, *numbers) in enumerate(rows):
        if name not in images:
            raise TableError(f"{table.place(i)}: the image {name!r} is not in the label table")
        known = finding if finding in labels else canonical(finding, labels, table.place(i))
        box = Box(known, *numbers)
        if not (all(map(math.isfinite, numbers)) and box.width > 0 and box.height > 0):
            raise TableError(f"{table.place(i)}: {box} has no area. Correct or remove the row")
        boxes[name] = (*boxes.get(name, ()), box)
    return boxes


def format_count(number: int, noun: str) -> str:
    """A number with its noun.

    >>> format_count(1, "study"), format_count(1200, "image"), format_count(2, "study")
    ('1 study', '1,200 images', '2 studies')
    """
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else many}"
