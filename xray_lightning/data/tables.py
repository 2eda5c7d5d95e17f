"""Label tables as columns of text, checked; every message names the file and the row.

Cells stay text: "007" is not 7. Rows are numbered as a spreadsheet shows them, the header is row 1.
"""

import codecs
import csv
import gzip
import io
import itertools
import math
import os
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from xray_lightning.errors import DataNotFoundError, TableError
from xray_lightning.records import NAN, Box, canonical
from xray_lightning.writing import from_spreadsheet

OLDEST = 110.0  # years; the first release of ChestX-ray14 has some above 400

_UNITS = {"Y": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}  # of them in a year
_SEXES = {"M": "M", "MALE": "M", "F": "F", "FEMALE": "F"}

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a header, as text.

    Attributes:
        path: the file.
        columns: name -> one cell per row, without spaces around it; nameless columns are left out.
        rows: number of each row in the file, (N,).
    """

    path: Path
    columns: Mapping[str, Sequence[str]]
    rows: Sequence[int]

    def place(self, index: int) -> str:
        """File and row, for messages."""
        return f"{self.path}, row {self.rows[index]}"

    def require(self, *names: str) -> None:
        """Check that the columns are there.

        Raises:
            TableError: some are not; names those and the ones that are.
        """
        absent = [name for name in names if name not in self.columns]
        if absent:
            raise TableError(
                f"{self.path} lacks {counted(len(absent), 'column')}: {_quoted(absent)}; "
                f"it has {_quoted(self.columns)}"
            )

    def text(self, name: str) -> Sequence[str]:
        """The cells of a column, blank where there is no such column, (N,).

        Names that :func:`~xray_lightning.writing.for_spreadsheet` marked are themselves again.
        """
        return [from_spreadsheet(cell) for cell in self.columns.get(name) or [""] * len(self.rows)]

    def convert(self, name: str, parse: Callable[[str], Value], wanted: str) -> list[Value]:
        """A column through ``parse``, which is called once for each distinct cell, (N,).

        Raises:
            TableError: ``parse`` raised a ValueError; the message says what is ``wanted``.
        """
        cells = self.text(name)
        values: dict[str, Value] = {}
        for cell in dict.fromkeys(cells):
            try:
                values[cell] = parse(cell)
            except ValueError:
                place = self.place(cells.index(cell))
                raise TableError(f"{place}: {name!r} is {cell!r}, not {wanted}") from None
        return [values[cell] for cell in cells]

    def numbers(self, name: str) -> list[float]:
        """A column of numbers, NaN where blank or where there is no such column, (N,).

        Raises:
            TableError: a cell is no number.
        """
        return self.convert(name, lambda cell: float(cell or NAN), "a number")

    def ages(self, name: str, notes: list[str]) -> list[float]:
        """A column of ages in years, NaN where unknown or not from 0 to 110, (N,).

        Raises:
            TableError: a cell is no age.
        """
        ages = self.convert(name, age_in_years, "an age such as 58 or 058Y")
        known = [age for age in ages if not math.isnan(age)]
        impossible = sum(not 0 <= age <= OLDEST for age in known)
        if impossible:
            notes.append(f"{counted(impossible, 'impossible age')} became NaN")
        return [age if 0 <= age <= OLDEST else NAN for age in ages]

    def sexes(self, name: str, notes: list[str]) -> list[str]:
        """A column of "M", "F", and "" for anything else, (N,)."""
        cells = self.text(name)
        sexes = self.convert(name, lambda cell: _SEXES.get(cell.upper(), ""), "")
        strange = sum(cell != "" for cell, sex in zip(cells, sexes, strict=True) if not sex)
        if strange:
            notes.append(
                f"{counted(strange, 'cell')} of {name!r} other than M and F became unknown"
            )
        return sexes

    def refuse_blanks(self, name: str) -> None:
        """Check that a column has no blank cell.

        Raises:
            TableError: it has one.
        """
        if "" in self.columns[name]:
            place = self.place(self.columns[name].index(""))
            raise TableError(f"{place}: {name!r} is blank")

    def refuse_repeats(self, name: str) -> None:
        """Check that a column names every image once.

        Raises:
            TableError: a cell is blank or repeated; names how many and the first.
        """
        self.refuse_blanks(name)
        cells = self.columns[name]
        if len(set(cells)) == len(cells):
            return
        first: dict[str, int] = {}
        repeats = [i for i, cell in enumerate(cells) if first.setdefault(cell, i) != i]
        cell = cells[repeats[0]]
        raise TableError(
            f"{self.path} repeats images in {counted(len(repeats), 'row')}, the first is {cell} in "
            f"rows {self.rows[first[cell]]} and {self.rows[repeats[0]]}. Keep one row per image"
        )


def read_table(path: Path) -> Table:
    """Read a table of cells between commas, semicolons, tabs or bars; gzip if it ends in ``.gz``.

    The text is UTF-8, or UTF-16 with its byte order mark: nothing else can be told for certain. The
    mark between the cells is the first under which the first row fills the header. A row may have
    blank cells beyond the header (NIH's older tables end each row in a comma), and a header may
    have nameless columns beyond the cells (NIH's box list does).

    Raises:
        DataNotFoundError: there is no such file.
        TableError: another encoding, no rows, two columns of one name, a row shorter or longer than
            the header, or the file is damaged.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as raw:
            utf16 = raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            raw.seek(0)
            file = io.TextIOWrapper(raw, "utf-16" if utf16 else "utf-8-sig", newline="")
            separator = _separator(path, file.read(1 << 16))
            file.seek(0)
            return _parse(path, csv.reader(file, delimiter=separator))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataNotFoundError(f"there is no table {path}") from error
    except UnicodeError as error:
        raise TableError(
            f"{path} is no readable table: its text is not UTF-8 ({error}), and which other "
            "encoding it has cannot be told. Save it as 'CSV UTF-8', or: iconv -f LATIN1 -t UTF-8"
        ) from error
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise TableError(f"{path} is no readable table ({error}). Download it again") from error


def _separator(path: Path, start: str) -> str:
    """The mark between cells; a comma where no other is certain."""
    if "\0" in start:
        raise TableError(
            f"{path} is no readable table: no text, or UTF-16 without its mark. Save it as UTF-8"
        )
    for mark in ",;\t|":
        rows = list(itertools.islice(csv.reader(io.StringIO(start, ""), delimiter=mark), 2))
        if rows and 1 < len(rows[0]) <= len(rows[-1]):
            return mark
    return ","


def require_whole(path: Path) -> None:
    """Check that a table of ours was written to its end: a number that is cut is another number.

    Raises:
        TableError: its last line does not end.
    """
    if path.suffix != ".gz" and path.read_bytes()[-1:] != b"\n":
        raise TableError(f"{path} is cut off inside its last row: write or copy it again")


def _parse(path: Path, lines: Iterator[list[str]]) -> Table:
    """The lines of a table, header first, as columns."""
    header = [name.strip() for name in next(lines, [])]
    names = {i: name for i, name in enumerate(header) if name and name[:8] != "Unnamed:"}
    if len(set(names.values())) < len(names):
        raise TableError(f"{path} has two columns of one name; its columns are {_quoted(header)}")
    columns: list[list[str]] = [[] for _ in range(max(names, default=-1) + 1)]
    numbers: list[int] = []
    rows = _rows(path, lines, len(columns), len(header))
    # By the thousand: 112,120 lists alive at once would keep the garbage collector busy.
    while block := list(itertools.islice(rows, 1000)):
        numbers += [number for number, _ in block]
        values = zip(*(row for _, row in block), strict=False)
        for column, cells in zip(columns, values, strict=False):
            column.extend(map(str.strip, cells))
    if not numbers:
        raise TableError(f"{path} is empty: it needs a header and at least one row")
    return Table(path, {name: columns[i] for i, name in names.items()}, numbers)


def _rows(
    path: Path, lines: Iterator[list[str]], needed: int, allowed: int
) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each row that is not blank, checked to have enough cells."""
    for number, row in enumerate(lines, start=2):
        if not any(row):
            continue
        if len(row) < needed or any(row[allowed:]):
            raise TableError(
                f"{path}, row {number} has {len(row)} cells, the header names {needed} columns. "
                "The file may be cut off: download it again"
            )
        yield number, row


def binary(cell: str) -> float:
    """A target: 1.0, 0.0, or NaN where it is unknown, blank or -1.

    Raises:
        ValueError: it is none of these, nor True or False.
    """
    words = {"": -1.0, "true": 1.0, "false": 0.0}
    value = words[cell.lower()] if cell.lower() in words else float(cell)
    if value not in (0, 1, -1):
        raise ValueError
    return NAN if value == -1 else value


def age_in_years(cell: str) -> float:
    """An age as the tables write it; NaN where blank.

    Raises:
        ValueError: it is no number with or without one of the units Y, M, W, D.

    >>> [age_in_years(cell) for cell in ("58", "058Y", "006M", "")]
    [58.0, 58.0, 0.5, nan]
    """
    unit = cell[-1:].upper()
    return float(cell[:-1]) / _UNITS[unit] if unit in _UNITS else float(cell or NAN)


def read_boxes(
    table: Table, columns: Sequence[str], labels: Sequence[str], images: Collection[str]
) -> dict[str, tuple[Box, ...]]:
    """Boxes of each image that has some, in table order.

    Args:
        table: one row per box.
        columns: its columns of image, label, x, y, width and height, in pixels.
        labels: the known labels.
        images: the known image ids.

    Raises:
        TableError: an unknown image or label, a malformed number, or a box without an area.
    """
    table.require(*columns)
    image, label, *sides = columns
    boxes: dict[str, list[Box]] = {}
    rows = zip(table.text(image), table.text(label), *map(table.numbers, sides), strict=True)
    for i, (name, finding, *numbers) in enumerate(rows):
        if name not in images:
            raise TableError(f"{table.place(i)}: the image {name!r} is not in the label table")
        known = finding if finding in labels else canonical(finding, labels, table.place(i))
        box = Box(known, *numbers)
        if not (all(map(math.isfinite, numbers)) and box.width > 0 and box.height > 0):
            raise TableError(f"{table.place(i)}: {box} has no area. Correct or remove the row")
        boxes.setdefault(name, []).append(box)
    return {name: tuple(found) for name, found in boxes.items()}


def existing_folder(path: str | Path, wanted: str) -> Path:
    """The folder as a Path.

    Raises:
        DataNotFoundError: there is none; the message says what is ``wanted`` there.
    """
    folder = Path(path)
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataNotFoundError(f"{folder} {kind}. {wanted}")
    return folder


def names_in(folder: str | Path) -> list[str]:
    """Names in a folder but for broken links, by one scan without a look at each file."""
    with os.scandir(folder) as entries:
        return [e.name for e in entries if not e.is_symlink() or Path(e.path).exists()]


def disk_notes(images: int, missing: int, extra: int) -> list[str]:
    """What the label table and the disk do not share: images without file, files without row."""
    notes = []
    if missing:
        notes.append(f"{missing:,} of the {images:,} images in the label table are not on disk")
    if extra:
        notes.append(f"Image files on disk that are not in the label table: {extra:,}")
    return notes


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "image"), counted(1200, "image")
    ('1 image', '1,200 images')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
