"""``xray convert``: what it prints, and its exit codes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from running import xray

Write = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path, write_dicom: Write) -> Path:
    for number in range(3):
        write_dicom(tmp_path / f"in/{number}.dcm", np.full((8, 8), number, np.uint8))
    (tmp_path / "in/readme.txt").write_text("no image")
    return tmp_path / "in"


def convert(*words: object, code: int = 0) -> str:
    return " ".join(xray("convert", *words, code=code).split())


def test_what_is_said(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = convert(tree, out)
    assert "3 images converted, 0 before" in text
    assert "1 other file left alone: not DICOM" in text
    assert "names of files and folders were kept" in text
    assert "0 images converted, 3 before" in convert(tree, out)
    counts = {"converted": 0, "before": 3, "others": 1, "failures": {}}
    assert json.loads(convert(tree, out, "--json")).items() >= counts.items()
    parts = [json.loads(convert(tree, tmp_path / "two", f"shard={n}/2", "--json")) for n in (1, 2)]
    assert sum(part["converted"] for part in parts) == 3
    assert "0 images converted, 3 before" in convert(tree, tmp_path / "two")
    text = convert(tree, tmp_path / "renamed", "rename=true", "bits=16")
    assert "(and failed.csv) tells the original names: do not pass it on" in text
    assert (tmp_path / "renamed/000003.png").is_file()
    convert(tree, out, "bits=16", code=2)


def test_failures_and_exit_codes(tree: Path, tmp_path: Path) -> None:
    """3 with the others done, 0 once the files are good, 2 for a wrong path."""
    for number in range(4):
        (tree / f"b{number}.dcm").write_bytes(b"")
    text = convert(tree, tmp_path / "out", code=3)
    assert "3 images converted" in text
    assert "4 of 7 files could not be converted: b0.dcm, b1.dcm, b2.dcm and 1 more" in text
    assert "Traceback" not in text
    for number in range(4):
        (tree / f"b{number}.dcm").write_bytes((tree / "0.dcm").read_bytes())
    convert(tree, tmp_path / "out")
    assert "nowhere does not exist" in convert(tmp_path / "nowhere", tmp_path / "out", code=2)
