"""A file under its final name is whole, or the older one."""

import json
import math
from pathlib import Path

import pytest

from xray_lightning.writing import for_spreadsheet, from_spreadsheet, open_replacing, write_json


def test_a_failure_keeps_the_older_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(TypeError), open_replacing(path) as file:
        file.writelines(["half", 1])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_stands_under_the_final_name_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "figure.png"
    with open_replacing(path, "wb") as file:
        file.write(b"1234")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"1234"


def test_the_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), open_replacing(tmp_path / "file" / "a.csv"):
        pass


def test_json_is_strict(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json({"mean": 0.5, "label": None}, path)
    assert json.loads(path.read_text()) == {"mean": 0.5, "label": None}
    with pytest.raises(ValueError, match="nan"):
        write_json({"mean": math.nan}, path)
    assert json.loads(path.read_text()) == {"mean": 0.5, "label": None}


@pytest.mark.parametrize(
    "name", ["=1+1", "+cmd|' /C calc'!A0", "-x", "@SUM(A1)", "\tx", "'=1", "''-a"]
)
def test_a_formula_is_text_in_a_spreadsheet_and_itself_again(name: str) -> None:
    cell = for_spreadsheet(name)
    assert cell == f"'{name}"
    assert from_spreadsheet(cell) == name


@pytest.mark.parametrize(
    "text", ["-0.5", "+1e-07", "-.5", "7", "'quoted'", "'", "", "a=1", "x-ray"]
)
def test_numbers_and_other_text_stay_as_they_are(text: str) -> None:
    assert for_spreadsheet(text) == from_spreadsheet(text) == text
