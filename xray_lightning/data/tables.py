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
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from xray_lightning.errors import DataNotFoundError, TableError
from xray_lightning.records import NAN, Box, canonical
from xray_lightning.writing import from_spreadsheet

if TYPE_CHECKING:
    import pandas as pd

OLDEST = 110.0  # years; the first release of ChestX-ray14 has some above 400

_UNITS = {"Y": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}  # of them in a year
_SEXES = {"M": "M", "MALE": "M", "F": "F", "FEMALE": "F"}

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a header, as text."""

    path: Path
    # its named columns, cells without spaces around them; indexed by the row in the file
    frame: "pd.DataFrame"

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.frame.columns)

    def place(self, index: int) -> str:
        """File and row, for messages."""
        return f"{self.path}, row {self.frame.index[index]}"

    def require(self, *names: str) -> None:
        """Check that the columns are there.

        Raises:
            TableError: some are not; names those and the ones that are.
        """
        if absent := [name for name in names if name not in self.frame.columns]:
            raise TableError(
                f"{self.path} lacks {format_count(len(absent), 'column')}: {_quote(absent)}; "
                f"it has {_quote(self.columns)}"
            )

    def text(self, name: str) -> list[str]:
        """The cells of a column, blank where there is no such column, (N,).

        Names that :func:`~xray_lightning.writing.for_spreadsheet` marked are themselves again.
        """
        if name not in self.frame.columns:
            return [""] * len(self.frame)
        cells = self.frame[name].tolist()
        return [from_spreadsheet(cell) if cell[:1] == "'" else cell for cell in cells]

    def convert(self, name: str, parse: Callable[[str], Value], wanted: str) -> list[Value]:
        """A column through ``parse``, which is called once for each distinct cell, (N,).

        Raises:
            TableError: ``parse`` raised a ValueError; the message says what is ``wanted``.
        """
        rows, parsed = self.parse_distinct(name, parse, wanted)
        return [parsed[row] for row in rows.tolist()]

    def parse_distinct(
        self, name: str, parse: Callable[[str], Value], wanted: str
    ) -> tuple[npt.NDArray[np.intp], list[Value]]:
        """Which distinct cell stands in each row of a column, (N,), and what they are parsed to.

        Raises:
            TableError: see :meth:`convert`.
        """
        import pandas as pd

        rows, cells = pd.factorize(np.array(self.text(name), dtype=object))
        parsed = []
        for number, cell in enumerate(cells):
            try:
                parsed.append(parse(cell))
            except ValueError:
                place = self.place(int((rows == number).argmax()))
                raise TableError(f"{place}: {name!r} is {cell!r}, not {wanted}") from None
        return rows, parsed

    def numbers(self, name: str) -> list[float]:
        """A column of numbers, NaN where blank or where there is no such column, (N,).

        Raises:
            TableError: a cell is not a number.
        """
        return self.convert(name, lambda cell: float(cell or NAN), "a number")

    def ages(self, name: str, notes: list[str]) -> list[float]:
        """A column of ages in years, NaN where unknown or not from 0 to 110, (N,).

        Raises:
            TableError: a cell is not an age.
        """
        ages = self.convert(name, age_in_years, "an age such as 58 or 058Y")
        if impossible := sum(age < 0 or age > OLDEST for age in ages):
            notes.append(f"{format_count(impossible, 'impossible age')} became NaN")
        return [age if 0 <= age <= OLDEST else NAN for age in ages]

    def sexes(self, name: str, notes: list[str]) -> list[str]:
        """A column of "M", "F", and "" for anything else, (N,)."""
        cells = self.text(name)
        sexes = [_SEXES.get(cell.upper(), "") for cell in cells]
        if strange := sum(cell != "" and not sex for cell, sex in zip(cells, sexes, strict=True)):
            other = format_count(strange, "cell")
            notes.append(f"{other} of {name!r} other than M and F became unknown")
        return sexes

    def refuse_blanks(self, name: str) -> None:
        """Check that a column has no blank cell.

        Raises:
            TableError: it has one.
        """
        blank = self.frame[name] == ""
        if blank.any():
            raise TableError(f"{self.path}, row {blank.idxmax()}: {name!r} is blank")

    def refuse_repeats(self, name: str) -> None:
        """Check that a column names every image once.

        Raises:
            TableError: a cell is blank or repeated; names how many and the first.
        """
        self.refuse_blanks(name)
        cells = self.frame[name]
        repeats = cells[cells.duplicated()]
        if len(repeats):
            row, cell = repeats.index[0], repeats.iloc[0]
            raise TableError(
                f"{self.path} repeats images in {format_count(len(repeats), 'row')}, the first is "
                f"{cell} in rows {(cells == cell).idxmax()} and {row}. Keep one row per image"
            )


def read_table(path: Path, columns: Collection[str] | None = None) -> Table:
    """Read a table of cells between commas, semicolons, tabs or bars; gzip if it ends in ``.gz``.

    The text is UTF-8, or UTF-16 with its byte order mark: nothing else can be told for certain. The
    mark between the cells is the first under which the first row fills the header. A row may have
    blank cells beyond the header (NIH's older tables end each row in a comma), and a header may
    have nameless columns beyond the cells (NIH's box list does). Of ``columns``, where they are
    named, those that are there are kept, and no other: it saves half the time of a wide table.
    """
    with open_text(path, "table") as file:
        separator = _find_separator(path, start := file.read(1 << 16))
        if start.isascii() and '"' not in start:
            frame = _read_plain(start + file.read(), separator)
            if frame is not None:
                return Table(path, frame if columns is None else frame.filter(list(columns)))
        file.seek(0)
        # Not pandas' own parser: it fills up a row that was cut off.
        rows = csv.reader(file, delimiter=separator)
        header = [name.strip() for name in next(rows, [])]
        names = {i: name for i, name in enumerate(header) if name and name[:8] != "Unnamed:"}
        if len(set(names.values())) < len(names):
            raise TableError(
                f"{path} has two columns of one name; its columns are {_quote(header)}"
            )
        wanted = [i for i, name in names.items() if columns is None or name in columns]
        needed = max(names, default=-1) + 1
        numbers, cells = _read_cells(path, rows, len(header), needed, itemgetter(*wanted, -1))
    if not numbers:
        raise TableError(f"{path} is empty: it needs a header and at least one row")
    import pandas as pd  # here alone: a file that is not there is said before its third of a second

    step = len(wanted) + 1
    kept = {names[i]: list(map(str.strip, cells[k::step])) for k, i in enumerate(wanted)}
    return Table(path, pd.DataFrame(kept, index=numbers, dtype=object))


def _read_cells(
    path: Path,
    rows: Iterable[list[str]],
    width: int,
    needed: int,
    choose: Callable[[list[str]], tuple[str, ...]],
) -> tuple[list[int], list[str]]:
    """Number in the file of each row that is not blank, and what is chosen of them, in one list.

    A list a row would be half a second of garbage collection more for 160,861 rows.
    """
    numbers: list[int] = []
    cells: list[str] = []
    for number, row in enumerate(rows, start=2):
        if not any(row):
            continue
        if len(row) < needed or (len(row) > width and any(row[width:])):
            raise TableError(
                f"{path}, row {number} has {len(row)} cells, the header names {needed} columns. "
                "The file may be cut off: download it again"
            )
        numbers.append(number)
        cells += choose(row)
    return numbers, cells


def _read_plain(text: str, mark: str) -> "pd.DataFrame | None":
    """The cells by pandas' fast parser where it cannot err, None where it could.

    It cannot in ASCII without quotes and blanks around cells that has as many cells in every row.
    """
    lines = "\n" + text.replace("\r\n", "\n").removesuffix("\n") + "\n"
    header = lines.partition("\n")[2].partition("\n")[0].split(mark)
    blanks = [blank for blank in "\t\v\f \x1c\x1d\x1e\x1f" if blank in text and blank != mark]
    edges = [
        edge for end in (mark, "\n") for blank in blanks for edge in (end + blank, blank + end)
    ]
    odd = [*edges, '"', "\0", "\r", "Unnamed:", f"\n{mark * (len(header) - 1)}\n"]
    names = {*header} - {""}
    if not text.isascii() or any(o in lines for o in odd) or not 2 <= len(header) == len(names):
        return None
    data = np.frombuffer(lines.encode(), np.uint8)
    marks, ends = np.flatnonzero(data == ord(mark)), np.flatnonzero(data == ord("\n"))
    if len(ends) < 3 or (np.diff(np.searchsorted(marks, ends)) != len(header) - 1).any():
        return None
    import pandas as pd  # here alone, as below

    frame: pd.DataFrame = pd.read_csv(
        io.StringIO(lines),
        sep=mark,
        dtype=object,
        na_filter=False,
        quoting=csv.QUOTE_NONE,
        low_memory=False,
    )
    return frame.set_index(pd.RangeIndex(2, len(ends)))


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


def _find_separator(path: Path, start: str) -> str:
    """The mark between cells; a comma where no other is certain."""
    if "\0" in start:
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
    """Whether a cell is 1 and not 0.

    Raises:
        ValueError: it is neither.
    """
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

    >>> format_count(1, "image"), format_count(1200, "image")
    ('1 image', '1,200 images')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _quote(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
