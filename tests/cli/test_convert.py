"""``xray convert`` as a user runs it."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from filelock import FileLock

from xray_lightning.cli import convert as module
from xray_lightning.cli.convert import convert_tree
from xray_lightning.cli.failures import PartialError
from xray_lightning.errors import ConfigError, DataNotFoundError

XRAY = [sys.executable, "-c", "from xray_lightning.cli.app import main; main()"]
Write = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path, write_dicom: Write) -> Path:
    """Twelve good files in four folders, and a text file."""
    for number in range(12):
        pixels = np.full((8, 8), 20 * number, np.uint8)
        write_dicom(tmp_path / f"in/f{number % 4}/{number}.dcm", pixels, ViewPosition="PA")
    (tmp_path / "in/readme.txt").write_text("no image")
    return tmp_path / "in"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def convert(tree: Path, out: Path, *, bits: int = 8, rename: bool = False) -> None:
    convert_tree(tree, out, bits=bits, workers=2, rename=rename)


def test_tree(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    convert(tree, out)
    text = capsys.readouterr().out
    assert "12 images converted, 0 were before" in text
    assert "1 other files are no DICOM" in text
    assert "names of files and folders were kept" in text
    made = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert made == sorted(f"f{number % 4}/{number}.png" for number in range(12))
    assert [row["file"] for row in rows(out / "headers.csv")] == made
    assert {row["view"] for row in rows(out / "headers.csv")} == {"PA"}
    assert cv2.imread(str(out / "f3/7.png"), cv2.IMREAD_UNCHANGED)[0, 0] == 140
    assert not (out / "failed.csv").exists()


def test_a_rerun_skips_what_is_done(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    convert(tree, out)
    table = (out / "headers.csv").read_bytes()
    (out / "f1/5.png").unlink()
    capsys.readouterr()
    convert(tree, out)
    assert "1 images converted, 11 were before" in capsys.readouterr().out
    assert (out / "headers.csv").read_bytes() == table
    with pytest.raises(ConfigError, match="choose another folder for 16 bits"):
        convert(tree, out, bits=16)


def test_numbers_instead_of_names(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    convert(tree, out, rename=True)
    assert "(and failed.csv) tells the original names: do not pass it" in capsys.readouterr().out
    assert [row["file"] for row in rows(out / "headers.csv")] == [
        f"{number:06d}.png" for number in range(1, 13)
    ]
    names = {row["original"]: row["file"] for row in rows(out / "names.csv")}
    image = cv2.imread(str(out / names["f3/7.dcm"]), cv2.IMREAD_UNCHANGED)
    assert image[0, 0] == 140


def test_stopped_by_the_user(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = module.convert

    def stops(job: module.Job, stamp: str) -> module.Outcome:
        if job.name == "f2/10.png":
            raise KeyboardInterrupt
        return done(job, stamp)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(module, "convert", stops)
        with pytest.raises(KeyboardInterrupt):
            convert(tree, out)
    table = rows(out / "headers.csv")
    assert 0 < len(table) < 12
    assert all((out / row["file"]).is_file() for row in table)
    convert(tree, out)
    assert len(rows(out / "headers.csv")) == 12


def test_broken_files_and_exit_codes(tree: Path, tmp_path: Path) -> None:
    """The whole command: 3 with the others done, 0 once they are mended, 2 for a wrong path."""
    good = (tree / "f0/0.dcm").read_bytes()
    (tree / "f0/empty.dcm").write_bytes(b"")
    (tree / "f1/half.dcm").write_bytes(good[: len(good) - 20])
    (tree / "f2/noise.dcm").write_bytes(bytes(range(256)) * 4)
    broken = {"f0/empty.dcm", "f1/half.dcm", "f2/noise.dcm"}
    out = tmp_path / "out"

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [*XRAY, "convert", *arguments], capture_output=True, text=True, timeout=120, check=False
        )
        return done.returncode, done.stdout + done.stderr

    code, text = run(str(tree), str(out))
    assert code == 3
    assert "12 images converted" in text
    assert "3 of 15 files could not be converted" in text
    assert all(name in text for name in broken)
    assert "Traceback" not in text
    failures = {row["file"]: row["reason"] for row in rows(out / "failed.csv")}
    assert set(failures) == broken
    assert all(failures.values())
    assert len(rows(out / "headers.csv")) == 12
    for name in broken:
        (tree / name).write_bytes(good)
    code, text = run(str(tree), str(out))
    assert code == 0
    assert "3 images converted, 12 were before" in text
    assert not (out / "failed.csv").exists()
    code, text = run(str(tmp_path / "nowhere"), str(out))
    assert code == 2
    assert "nowhere does not exist" in text


def test_wrong_paths(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="is a file, not a folder"):
        convert(tree / "readme.txt", tmp_path / "out")
    (tmp_path / "void").mkdir()
    with pytest.raises(DataNotFoundError, match="no DICOM file"):
        convert(tmp_path / "void", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"cannot write to .*readme\.txt"):
        convert(tree, tree / "readme.txt")
    (tmp_path / "out").mkdir()
    busy = pytest.raises(ConfigError, match="is being written to by another process")
    with FileLock(tmp_path / "out/.lock"), busy:
        convert(tree, tmp_path / "out")


def test_what_failed_is_said(tree: Path, tmp_path: Path) -> None:
    for number in range(5):
        (tree / f"{number}.dcm").write_bytes(b"")
    with pytest.raises(PartialError, match=r"5 of 17 files .*: 0\.dcm, 1\.dcm, 2\.dcm and 2 more"):
        convert(tree, tmp_path / "out")


@pytest.mark.slow
def test_the_real_sample(shared_data: Path, tmp_path: Path) -> None:
    convert(shared_data / "rsna-sample", tmp_path)
    assert len(list(tmp_path.rglob("*.png"))) == len(rows(tmp_path / "headers.csv")) == 338


def test_another_depth_leaves_the_tables_alone(tree: Path, tmp_path: Path) -> None:
    convert(tree, tmp_path / "out")
    before = (tmp_path / "out/headers.csv").read_text()
    with pytest.raises(ConfigError, match="choose another folder for 16 bits"):
        convert(tree, tmp_path / "out", bits=16)
    assert (tmp_path / "out/headers.csv").read_text() == before


def test_a_header_that_only_the_reader_understands(
    tree: Path, tmp_path: Path, write_dicom: Write
) -> None:
    """Two numbers where one belongs: pydicom's value is a list."""
    path = next(tree.rglob("*.dcm"))
    dataset = pydicom.dcmread(path)
    dataset.PixelRepresentation = [0, 0]
    dataset.save_as(tree / "odd.dcm")
    with pytest.raises(PartialError, match=r"1 of \d+ files could not be converted: odd\.dcm"):
        convert(tree, tmp_path / "out")
    (failed,) = rows(tmp_path / "out/failed.csv")
    assert "a header element is damaged" in failed["reason"] or "PixelRep" in failed["reason"]
    assert not (tmp_path / "out/odd.png").exists()


def test_what_changed_is_converted_again(
    tree: Path, tmp_path: Path, write_dicom: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the shared case mtime: another file with an older date under the name."""
    out = tmp_path / "out"
    convert(tree, out)
    write_dicom(tree / "f1/5.dcm", np.full((8, 8), 7, np.uint8), ViewPosition="AP")
    os.utime(tree / "f1/5.dcm", (1e9, 1e9))
    half = (out / "f0/0.png").read_bytes()[:40]
    (out / "f0/0.png").write_bytes(half)
    (out / "f2/2.png").rename(tmp_path / "swap.png")
    (out / "f3/3.png").rename(out / "f2/2.png")
    (tmp_path / "swap.png").rename(out / "f3/3.png")
    capsys.readouterr()
    convert(tree, out)
    assert "4 images converted, 8 were before" in capsys.readouterr().out
    views = {row["file"]: row["view"] for row in rows(out / "headers.csv")}
    assert (views["f1/5.png"], views["f1/1.png"]) == ("AP", "PA")
    for name, grey in {"f1/5": 7, "f0/0": 0, "f2/2": 40, "f3/3": 60}.items():
        assert cv2.imread(str(out / f"{name}.png"), cv2.IMREAD_UNCHANGED)[0, 0] == grey


def test_a_folder_that_cannot_be_listed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may list any folder, so the refusal is played."""
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("f2"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataNotFoundError, match=r"f2: cannot list this folder \(Permission denied"):
        convert(tree, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_frames_and_colour_are_chosen(tmp_path: Path, write_dicom: Write) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    pixels = np.arange(128, dtype=np.uint8).reshape(2, 8, 8)
    path = write_dicom(source / "a.dcm", pixels[0])
    data = pydicom.dcmread(path)
    data.NumberOfFrames, data.PixelData = 2, pixels.tobytes()
    data.save_as(path)
    arguments = [*XRAY, "convert", str(source), str(out)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3
    (failed,) = rows(out / "failed.csv")
    assert "it has 2 frames. Choose one, from 0: xray convert --frame 0" in failed["reason"]
    for frame in (1, 0):
        convert_tree(source, out, bits=8, workers=1, rename=False, frame=frame)
        written = cv2.imread(str(out / "a.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(written, pixels[frame])
    data.NumberOfFrames, data.SamplesPerPixel, data.PhotometricInterpretation = 1, 3, "RGB"
    data.PlanarConfiguration, data.PixelData = 0, bytes(64 * 3)
    data.save_as(path)
    with pytest.raises(PartialError):
        convert(source, out)
    (failed,) = rows(out / "failed.csv")
    assert "xray convert --colour luma" in failed["reason"]
    convert_tree(source, out, bits=8, workers=1, rename=False, colour="luma")
    assert not (out / "failed.csv").exists()
    with pytest.raises(ConfigError, match="colour must be None or 'luma', got 'red'"):
        convert_tree(source, out, bits=8, workers=1, rename=False, colour="red")
