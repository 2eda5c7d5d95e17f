"""The reader that looks at a whole text at once, beside the standard library's parser."""

import csv
import io

import numpy as np
import pytest

from xray_lightning.data.tables import read_table
from xray_lightning.errors import TableError

PLAIN = ["", " ", "x", " -1", "1.0"]
OTHERS = ["é", "a,b", 'say ""', '"', "two\nlines", "'=1", "MONOCHROME2", "7" * 40]


@pytest.mark.parametrize("seed", range(40))
def test_as_the_parser_reads_it(tmp_path, seed: int) -> None:
    """Cells that need quotes, blank cells and rows, ends of both kinds, quotes round any cell."""
    rng = np.random.default_rng(seed)
    rows = rng.choice([*PLAIN, *OTHERS * (seed % 2)], (rng.integers(1, 30), 3)).tolist()
    quoting = csv.QUOTE_ALL if seed % 3 == 0 else csv.QUOTE_MINIMAL
    text = io.StringIO()
    ends = "\r\n" if seed % 5 == 0 else "\n"
    csv.writer(text, quoting=quoting, lineterminator=ends).writerows([["a", "b", "c"], *rows])
    (tmp_path / "t.csv").write_text(text.getvalue() + "x,y,z", encoding="utf-8", newline="")
    table = read_table(tmp_path / "t.csv")
    numbered = enumerate([*rows, ["x", "y", "z"]], start=2)
    kept = {number: [cell.strip() for cell in row] for number, row in numbered if any(row)}
    assert list(table.rows) == list(kept)
    assert list(zip(*(table.column(n) for n in "abc"), strict=True)) == [*map(tuple, kept.values())]
    for name in "abc":
        places, cells = table.distinct(name)
        assert [cells[place] for place in places] == table.text(name)
        assert cells == list(dict.fromkeys(table.text(name)))
        assert sum(table.count(name).values()) == len(table)
    some = table.take(np.array([len(table) - 1]))
    assert (some.text("a"), some.rows) == (["x"], [table.rows[-1]])


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ('a,b\n5" tube,1\n', ['5" tube']),  # a quote inside a cell is a quote
        ('a,b\n"x"y,1\n', ["xy"]),
        ('a,b\n "x",1\n', ['"x"']),
        ('a,b\n"x",1\n"",""\n', ["x"]),  # a row of quotes alone is blank
        ("a,b\rx,1\r", ["x"]),  # the line ends of an old Macintosh
        ("a,b,\nx,1\n", ["x"]),
    ],
)
def test_what_only_the_parser_can_tell(tmp_path, text: str, cells: list[str]) -> None:
    (tmp_path / "t.csv").write_text(text, newline="")
    assert read_table(tmp_path / "t.csv").text("a") == cells


@pytest.mark.parametrize("text", ["a,b\nx\n,1,", 'a,b\nx\n"1,2,3",\n', "a,b\nx\n1,2,3\n", "a,b\nx"])
def test_a_row_that_ends_early(tmp_path, text: str) -> None:
    """Also where marks in quotes, or too many in another row, make up for those that lack."""
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(TableError, match=r"row 2 has 1 cells, the header names 2 columns"):
        read_table(tmp_path / "t.csv")


def test_a_zero_byte_is_no_text(tmp_path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n" * 40_000 + "1,\0\n")
    with pytest.raises(TableError, match=r"t\.csv is not a readable table"):
        read_table(tmp_path / "t.csv")
