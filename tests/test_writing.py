"""A file under its final name is whole, or the older one."""

import ast
import errno
import json
import math
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from matplotlib.figure import Figure
from running import run_alone
from test_house import PACKAGE, TREES

from xray_lightning import writing
from xray_lightning.errors import OutputError
from xray_lightning.training.callbacks.epochs import write_rows
from xray_lightning.training.run import AtomicCheckpointIO
from xray_lightning.writing import HOST, open_replacing, read_json, save_figure, write_json


def test_a_failure_keeps_the_older_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(TypeError), open_replacing(path) as file:
        file.writelines(["half", 1])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("metrics.csv", partial(write_rows, [{"epoch": 5.0}])),
        ("last.ckpt", partial(AtomicCheckpointIO().save_checkpoint, {"epoch": 3})),
        ("metrics.json", partial(write_json, {"mean": 0.5})),
        ("figure.png", partial(save_figure, Figure())),
        ("figure.svg", partial(save_figure, Figure())),
    ],
)
def test_whole_or_the_older_one(name, write, tmp_path, monkeypatch) -> None:
    path, starts = tmp_path / name, {"png": b"\x89PNG", "svg": b"<?xml"}
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    write(path)
    assert path.read_bytes() != b"old"
    assert path.read_bytes().startswith(starts.get(name[-3:], b""))
    assert list(tmp_path.iterdir()) == [path]


def test_the_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(OSError, match=r"/a\.csv'"), open_replacing(tmp_path / "a.csv"):
        pass
    with pytest.raises(OSError, match=r"/b\.csv'") as caught, open_replacing(tmp_path / "b.csv"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write does: without a name
    assert caught.value.filename == str(tmp_path / "b.csv")


def test_a_folder_that_vanished_is_not_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.json"
    with pytest.raises(OutputError, match=r"run is gone, metrics\.json cannot"):
        write_json({}, path)
    assert not path.parent.exists()


def test_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    done = run_alone([sys.executable, "-c", "import os; print(os.getpid())"])
    dead, living = int(done.stdout), os.getppid()
    (tmp_path / "maps").mkdir()
    names = {f".a.csv.{HOST}.{dead}.partial", f"maps/.b c[1].png.{HOST}.{dead}.partial"}
    others = {f".a.csv.{HOST}.{living}.partial", f".a.csv.other.host.{dead}.partial", "a.partial"}
    for name in names | others:
        (tmp_path / name).write_text("half")
    writing.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == others


def test_json_is_strict_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json({"mean": 0.5, "label": None}, path)
    with pytest.raises(ValueError, match="nan"):
        write_json({"mean": math.nan}, path)
    assert json.loads(path.read_text()) == {"schema": 2, "mean": 0.5, "label": None}
    assert read_json(path) == {"mean": 0.5, "label": None}
    path.write_text('{"schema": 3}')
    with pytest.raises(OutputError, match="schema 3"):
        read_json(path)
    for text in ('{"mean": 0.', "[]", ""):
        path.write_text(text)
        with pytest.raises(OutputError, match=r"a\.json is damaged"):
            read_json(path)


def test_nan_is_null() -> None:
    @dataclass
    class Result:
        value: float
        ends: tuple[float, float]

    given = {"a": Result(math.nan, (0.5, math.inf)), 1: np.array([[1.0, np.nan]]), "b": np.int64(3)}
    plain = {"a": {"value": None, "ends": [0.5, None]}, "1": [[1.0, None]], "b": 3}
    assert writing.to_plain(given) == plain


FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-x", "@SUM(A1)", "\tx", "'=1", "''-a"]
OTHERS = ["-0.5", "+1e-07", "-.5", "7", "'quoted'", "'", "", "a=1", "x-ray"]


@pytest.mark.parametrize("text", [*FORMULAS, *OTHERS])
def test_a_formula_is_text_in_a_spreadsheet_and_itself_again(text: str) -> None:
    cell = writing.for_spreadsheet(text)
    assert cell == ("'" if text in FORMULAS else "") + text
    assert writing.from_spreadsheet(cell) == text


# Everything else goes through xray_lightning/writing.py: whole under its final name, or not there.
WRITERS = {
    "writing.py": {"open", "savefig"},
    "report/drawings.py": {"savefig"},  # into memory
    "explain/overlays.py": {"savez"},  # these four into a file of writing.py
    "training/callbacks/epochs.py": {"to_csv"},
    "checkpoint.py": {"torch.save", "save"},  # the second into memory
    "cli/build.py": {"OmegaConf.save"},
    "models/backbones.py": {"save"},  # into memory
    "deploy/export.py": {"onnx.save", "torch.export.save", "TemporaryDirectory"},  # then renamed
    "deploy/predict.py": {"open"},  # rows added one by one; the next run cuts off a half one
    "report/external.py": {"TemporaryDirectory"},  # of the picture that the page holds
    "data/files.py": {"open"},  # what was done, line by line; a half line means: do it again
    "data/cache.py": {"open"},  # what counts stands in done.bin
    "training/study.py": {"open"},  # what a training says, as it says it
}
WRITING = {"write_text", "write_bytes", "savez", "savez_compressed", "to_csv", "imwrite", "savefig"}
WRITING |= {"to_pickle", "tofile", "savetxt", "TemporaryDirectory", "mkstemp", "dump"}


def writes(call: ast.Call) -> str | None:
    """What a call writes with; None if it writes no file."""
    name = ast.unparse(call.func)
    short = name.rpartition(".")[2]
    if short == "open":
        texts = [*call.args, *(key.value for key in call.keywords if key.arg == "mode")]
        modes = [each.value for each in texts if isinstance(each, ast.Constant)]
        known = bool(modes) or not texts
        return None if known and not any(set("wax+") & set(str(mode)) for mode in modes) else short
    if short == "to_json" and not call.args:  # of a result, not of a table
        return None
    if short == "save":
        return name
    return short if short in WRITING else None


def test_one_way_to_write() -> None:
    for path, tree in TREES.items():
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
        ways = {writes(call) for call in calls} - {None}
        assert ways <= WRITERS.get(path.relative_to(PACKAGE).as_posix(), set()), path


@pytest.mark.parametrize(
    "text", ["p.open('w')", "open(p, 'ab')", "p.open(mode)", "figure.savefig(p)", "np.save(p, x)"]
)
def test_writing_is_noticed(text: str) -> None:
    (call,) = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    assert writes(call)


def test_a_written_table_is_read_as_it_was(tmp_path: Path) -> None:
    rows = [["file", "reason"], [os.fsdecode(b"\xff.dcm"), "=1+1"], ["two\nlines", "'-x, y"]]
    writing.write_table(tmp_path / "t.csv", rows)
    assert writing.read_written(tmp_path / "t.csv") == rows
    assert writing.read_written(tmp_path / "none.csv") == []
