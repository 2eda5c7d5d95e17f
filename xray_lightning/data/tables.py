"""The one reader of tables of text: labels, boxes, splits, scores and maps between names.

Cells stay text: "007" is not 7. Rows are numbered as a spreadsheet shows them, the header is row 1;
every message names the file, the row, the column and the cell.
"""

import codecs
import csv
import gc
import gzip
import io
import itertools
import json
import math
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from xray_lightning.errors import DataNotFoundError, TableError
from xray_lightning.records import NAN, Box, canonical, number_distinct
from xray_lightning.writing import from_spreadsheet

OLDEST = 110.0  # years; the first release of ChestX-ray14 has some above 400

_UNITS = {"Y": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}  # of them in a year
_SEXES = {"M": "M", "MALE": "M", "F": "F", "FEMALE": "F"}
_QUOTE, _BREAK = b'"\n'
_STEP = 1 << 17  # bytes searched at a time: they stay in the processor's cache
_MASKS = np.array([(1 << 8 * length) - 1 for length in range(9)], np.uint64)

Value = TypeVar("Value")
Rows = npt.NDArray[np.intp]
Bytes = npt.NDArray[np.uint8]
# Text, bytes, where each cell ends, cells in a row, numbers of the rows, whether quotes are there
Layout = tuple[str, Bytes, Rows, int, Sequence[int], bool]


@dataclass
class Column:
    """A column of a text; its cells are cut out when they are asked for, without spaces around."""

    text: str
    data: Bytes  # a byte for each character, and 16 more
    before: Rows  # place before each cell, the header first, (1 + N,)
    ends: Rows
    quoted: bool  # whether some cells may stand in quotes

    @cached_property
    def cells(self) -> list[str]:
        """The cells, (N,)."""
        return self.cut(slice(1, None))

    @cached_property
    def distinct(self) -> tuple[Rows, list[str]]:
        """Which distinct cell stands in each row, (N,), and these in the order they first come."""
        starts, lengths = self.before[1:] + 1, (self.ends - self.before)[1:] - 1
        longest = int(lengths.max())
        if not self.text.isascii() or longest > 16:
            return number_distinct(self.cells)
        windows = np.ndarray(len(self.data) - 7, "<u8", self.data, strides=(1,))
        keys = windows[starts] & _MASKS[np.minimum(lengths, 8)]
        if longest > 8:
            rest = windows[starts + 8] & _MASKS[np.maximum(lengths - 8, 0)]
            halves = [np.unique(half, return_inverse=True)[1] for half in (keys, rest)]
            keys = halves[0] * len(starts) + halves[1]
        _, first, rows = np.unique(keys, return_index=True, return_inverse=True)
        order = np.argsort(first)
        numbers, cells = number_distinct(self.cut(1 + first[order]))
        place = np.empty_like(numbers)
        place[order] = numbers
        return place[rows], cells

    @cached_property
    def names(self) -> list[str]:
        """The cells without the mark of :func:`~xray_lightning.writing.for_spreadsheet`, (N,)."""
        return [from_spreadsheet(cell) if cell[:1] == "'" else cell for cell in self.cells]

    def cut(self, rows: slice | Rows) -> list[str]:
        """The cells of some rows; row 0 is the header."""
        starts, ends, text = self.before[rows] + 1, self.ends[rows], self.text
        quoted = self.quoted & (self.data[starts] == _QUOTE) & (ends > starts)
        starts, ends = starts + quoted, ends - quoted
        cells = [text[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
        if quoted.any():
            cells = [cell.replace('""', '"') for cell in cells]
        edges = self.data[starts], self.data[ends - 1]
        if min(map(np.min, edges)) > ord(" ") and max(map(np.max, edges)) < 127:
            return cells
        return [cell.strip() for cell in cells]


@dataclass(frozen=True)
class Table:
    """A table with a header, as text."""

    path: Path
    rows: Sequence[int]  # the number of each in the file, (N,)
    cells: Mapping[str, Column]  # by the names of the columns

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.cells)

    def take(self, indices: Rows) -> "Table":
        """The table with some of its rows."""
        kept = np.concatenate([[0], indices + 1])
        cut = {
            name: replace(column, before=column.before[kept], ends=column.ends[kept])
            for name, column in self.cells.items()
        }
        return Table(self.path, [self.rows[i] for i in indices], cut)

    def place(self, index: int) -> str:
        """File and row, for messages."""
        return f"{self.path}, row {self.rows[index]}"

    def require(self, *names: str, once: str = "") -> None:
        """Refuse a table that lacks one of the columns, or where a cell of ``once`` repeats."""
        if absent := [name for name in names if name not in self.cells]:
            raise TableError(
                f"{self.path} lacks {format_count(len(absent), 'column')}: {_quote(absent)}; "
                f"it has {_quote(self.columns)}"
            )
        if once:
            self.refuse_repeats(once)

    def text(self, name: str) -> list[str]:
        """The cells of a column, (N,), blank where there is none, without a spreadsheet mark."""
        return self.cells[name].names if name in self.cells else [""] * len(self)

    def distinct(self, name: str) -> tuple[Rows, list[str]]:
        """Which cell of a column stands in each row, (N,), and the cells; see :meth:`text`."""
        if name not in self.cells:
            return np.zeros(len(self), np.intp), [""]
        rows, cells = self.cells[name].distinct
        return rows, [from_spreadsheet(cell) for cell in cells]

    def count(self, name: str) -> dict[str, int]:
        """How often each cell stands in a column, the commonest first."""
        rows, cells = self.distinct(name)
        pairs = zip(cells, np.bincount(rows).tolist(), strict=True)
        return dict(sorted(pairs, key=lambda pair: -pair[1]))

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
        rows, cells = self.distinct(name)
        sexes = [_SEXES.get(cell.upper(), "") for cell in cells]
        odd = [cell != "" and not sex for cell, sex in zip(cells, sexes, strict=True)]
        if strange := int(np.array(odd)[rows].sum()):
            other = format_count(strange, "cell")
            notes.append(f"{other} of {name!r} other than M and F became unknown")
        return [sexes[row] for row in rows.tolist()]

    def refuse_blanks(self, name: str) -> None:
        """Refuse a blank cell in a column."""
        if "" in (cells := self.cells[name].cells):
            row = self.rows[cells.index("")]
            raise TableError(f"{self.path}, row {row}: {name!r} is blank")

    def refuse_repeats(self, name: str) -> None:
        """Refuse a column that does not name every image once."""
        self.refuse_blanks(name)
        cells = self.cells[name].cells
        if repeats := len(cells) - len(set(cells)):
            seen: dict[str, int] = {}
            row = next(i for i, cell in enumerate(cells) if seen.setdefault(cell, i) != i)
            first = f"{cells[row]} in rows {self.rows[seen[cells[row]]]} and {self.rows[row]}"
            count = format_count(repeats, "row")
            remedy = "Keep one row per image"
            raise TableError(
                f"{self.path} repeats images in {count}, the first is {first}. {remedy}"
            )


def allowed_ages(ages: npt.NDArray[np.float64], notes: list[str]) -> list[float]:
    """Ages in years, NaN where not from 0 to 110, (N,); a note says how often."""
    impossible = (ages < 0) | (ages > OLDEST)
    if count := int(impossible.sum()):
        notes.append(f"{format_count(count, 'impossible age')} became NaN")
    allowed: list[float] = np.where(impossible, NAN, ages).tolist()
    return allowed


def read_table(path: Path, *needed: str, once: str = "") -> Table:
    """A table between commas, semicolons, tabs or bars; gzip if it ends in ``.gz``."""
    # UTF-8, or UTF-16 with its byte order mark: nothing else is certain. The mark between cells is
    # the first under which the first row fills the header. A row may have blank cells beyond the
    # header (NIH's older tables), a header nameless columns beyond the cells (NIH's box list).
    with open_text(path, "table") as file:
        mark = _find_separator(path, text := file.read())
        layout = _find_cells(text, mark) or _read_cells(path, text, mark)
    text, data, marks, width, rows, quoted = layout
    edges = np.concatenate([[-1], marks])
    places = [(edges[k:-1:width], edges[k + 1 :: width]) for k in range(width)]
    columns = [Column(text, data, *place, quoted=quoted) for place in places]
    header = [column.cut(slice(1))[0] for column in columns]
    headed = [pair for pair in zip(header, columns, strict=True) if _is_name(pair[0])]
    if len(dict(headed)) < len(headed):
        raise TableError(f"{path} has two columns of one name; its columns are {_quote(header)}")
    if not rows:
        raise TableError(f"{path} is empty: it needs a header and at least one row")
    table = Table(path, rows, dict(headed))
    table.require(*needed, once=once)
    return table


def _find_cells(text: str, mark: str) -> Layout | None:
    """Where the cells are, found in the whole text at once; None where it takes a parser."""
    if '"' not in text:
        text = text.replace("\r\n", "\n")
    text += "\n" * (text[-1:] != "\n")
    data = _encode(text)
    parts = []
    for start in range(0, len(text), _STEP):
        step = data[start : min(start + _STEP, len(text))]
        is_mark = (step == ord(mark)) | (step == _BREAK) | (step == _QUOTE)
        parts.append(np.flatnonzero(is_mark) + start)
    marks = np.concatenate(parts)
    quotes = data[marks] == _QUOTE
    inside = np.logical_xor.accumulate(quotes)
    opening, closing = marks[quotes & inside], marks[quotes & ~inside]
    beside = np.concatenate([data[opening - 1], data[closing + 1]])
    marks = marks[~(quotes | inside)]
    lines = np.flatnonzero(data[marks] == _BREAK)
    if inside[-1] or "\r" in text or not np.isin(beside, (ord(mark), _BREAK, _QUOTE)).all():
        return None
    width = int(lines[0]) + 1
    cells, lengths = np.diff(lines, prepend=-1), np.diff(marks[lines], prepend=-1)  # of each row
    blank = width * (3 if len(opening) else 1)  # so long at most: commas, perhaps with '""' between
    if (cells != width).any() or lengths.min() <= blank:
        return None
    return text, data, marks, width, range(2, len(lines) + 1), len(opening) > 0


def _read_cells(path: Path, text: str, mark: str) -> Layout:
    """The same of the cells written anew, as a parser reads them; blank rows are left out."""
    rows = csv.reader(io.StringIO(text, ""), delimiter=mark)
    header = next(rows, [])
    width, numbers, cells = len(header), [], list(header)
    needed = max((place for place, name in enumerate(header, 1) if _is_name(name)), default=0)
    for number, row in enumerate(rows, start=2):
        if not any(row):
            continue
        if len(row) < needed or any(row[width:]):
            raise TableError(
                f"{path}, row {number} has {len(row)} cells, the header names {needed} columns. "
                "The file may be cut off: download it again"
            )
        numbers.append(number)
        cells += [*row, *[""] * width][:width]
    text = "".join(f"{cell}\0" for cell in cells)
    data = _encode(text)
    return text, data, np.flatnonzero(data == 0), width, numbers, False


def _encode(text: str) -> Bytes:
    return np.frombuffer((text + "\n" * 16).encode("latin-1", "replace"), np.uint8)


def _is_name(header: str) -> bool:
    return header.strip()[:8] not in ("", "Unnamed:")


@contextmanager
def pause_collector() -> Iterator[None]:
    """No garbage collection meanwhile: with 200,000 records in the making it trebles the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


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
        raise TableError(
            f"{path} is not a readable {kind}: its text is not UTF-8 ({error}), and which other "
            "encoding it has cannot be told. Save it as 'CSV UTF-8', or: iconv -f LATIN1 -t UTF-8"
        ) from error
    except (OSError, EOFError, zlib.error, csv.Error, json.JSONDecodeError) as error:
        raise TableError(f"{path} is not a readable {kind} ({error}). Download it again") from error


def _find_separator(path: Path, text: str) -> str:
    """The mark between cells; a comma where no other is certain."""
    start = text[: 1 << 16]
    if "\0" in text:
        raise TableError(
            f"{path} is not a readable table: not text, or UTF-16 without its mark. Save it as "
            "UTF-8"
        )
    for mark in ",;\t|":
        rows = list(itertools.islice(csv.reader(io.StringIO(start, ""), delimiter=mark), 2))
        if rows and 1 < len(rows[0]) <= len(rows[-1]):
            return mark
    return ","


def require_whole(path: Path) -> None:
    """Check that a table of this package was written to its end: a cut number is another number."""
    if path.suffix != ".gz" and path.read_bytes()[-1:] != b"\n":
        raise TableError(f"{path} is cut off inside its last row: write or copy it again")


def binary(cell: str) -> float:
    """A target: 1.0, 0.0, or NaN where it is unknown, blank or -1."""
    words = {"": -1.0, "true": 1.0, "false": 0.0}
    value = words[cell.lower()] if cell.lower() in words else float(cell)
    if value not in (0, 1, -1):
        raise ValueError
    return NAN if value == -1 else value


def is_present(cell: str) -> bool:
    """Whether a cell is 1 and not 0; a ValueError where it is neither."""
    if float(cell) not in (0, 1):
        raise ValueError
    return float(cell) == 1


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


def _quote(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
