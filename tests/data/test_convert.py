import errno
import json
import os
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from filelock import FileLock
from running import read_table as rows

import xray_lightning as xl
from xray_lightning.data import convert as module
from xray_lightning.data.convert import convert_file, name_images, write_png
from xray_lightning.data.files import find_dicom
from xray_lightning.folders import LockedError
from xray_lightning.shards import Shard

RAMP = np.linspace(0, 255, 32 * 24, dtype=np.uint8).reshape(24, 32)
RENAME = xl.PngOptions(rename=True)
TWO = "a.dcm,000001.png\nb.dcm,000007.png\n"


@pytest.fixture
def dicom(tmp_path: Path, write_dicom) -> Path:
    return write_dicom(tmp_path / "in/a.dcm", RAMP, ViewPosition="AP", PatientName="Doe^Jane")


def convert(path: Path) -> module.Outcome:
    return convert_file(path, "sub/a.png", "", out=path.parents[1] / "out", options=xl.PngOptions())


@pytest.fixture
def tree(tmp_path: Path, write_dicom) -> Path:
    """Twelve good files in four folders, and a text file."""
    for number in range(12):
        pixels = np.full((8, 8), 20 * number, np.uint8)
        write_dicom(tmp_path / f"in/f{number % 4}/{number}.dcm", pixels, ViewPosition="PA")
    (tmp_path / "in/readme.txt").write_text("no image")
    return tmp_path / "in"


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def counts(conversion: xl.Conversion) -> tuple[int, int, int]:
    return conversion.converted, conversion.before, len(conversion.failures)


def test_files_are_found_by_content_or_ending(tmp_path: Path, write_dicom) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(xl.DataNotFoundError, match="only 1 others"):
        find_dicom(tmp_path)
    for name in ("a.dcm", "sub/1.2.840", "sub/IM001"):
        write_dicom(tmp_path / name, RAMP)
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "broken.DCM").write_bytes(b"")
    files, others = find_dicom(tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in files]
    assert names == ["a.dcm", "broken.DCM", "sub/1.2.840", "sub/IM001"]
    assert others == 2


def plan(folder: Path, *names: str, options: xl.PngOptions = RENAME) -> list[str]:
    return name_images([folder / name for name in names], folder, folder, options)


@pytest.mark.parametrize("second", ["a.dicom", "A.dcm"])  # the latter one file on some systems
def test_the_tree_is_kept_and_two_files_never_become_one(tmp_path: Path, second: str) -> None:
    names = ("a.dcm", "b/1.2.840", "b/A.DICOM", "c.png.dcm")
    images = plan(tmp_path, *names, options=xl.PngOptions(bits=16))
    assert images == ["a.png", "b/1.2.840.png", "b/A.png", "c.png.png"]
    with pytest.raises(xl.DataError, match=rf"a\.dcm and {second} would both become"):
        plan(tmp_path, "a.dcm", second, options=xl.PngOptions())


def test_numbers_stay_with_their_files(tmp_path: Path) -> None:
    numbered = partial(plan, tmp_path)
    assert numbered("Doe^Jane/b.dcm", "c.dcm") == ["000001.png", "000002.png"]
    assert numbered("a.dcm", "c.dcm", "d,e.dcm") == ["000003.png", "000002.png", "000004.png"]
    assert numbered("=1+1.dcm") == numbered("=1+1.dcm") == ["000005.png"]
    assert "\n'=1+1.dcm," in (tmp_path / "names.csv").read_text()
    (tmp_path / "names.csv").write_text("original,file\na.dcm,000001.png\nb.dcm,000007.png\n")
    assert numbered("d.dcm") == ["000008.png"]  # after the greatest
    (tmp_path / "names.csv").write_text("file,old\n1,2\n")
    with pytest.raises(xl.TableError, match="'original'"):
        numbered("a.dcm")


@pytest.mark.parametrize(
    ("table", "error", "match"),
    [
        ("", xl.DataError, r"'000001\.png'"),  # lost
        ("a.dcm,000001.png\n", xl.DataError, r"'000007\.png'"),  # short
        (f"{TWO}c.dcm,../../x.png\n", xl.DataError, r"'../../x\.png'"),
        (f"{TWO}c.dcm,0000\n", xl.DataError, "'0000'"),  # cut
        (f"{TWO}c.dcm,000007.png\n", xl.TableError, "repeats"),
        (f"{TWO}a.dcm,000008.png\n", xl.TableError, "repeats"),
    ],
)
def test_a_table_of_names_that_does_not_fit_is_refused(tmp_path, table, error, match) -> None:
    for number in (1, 7):
        (tmp_path / f"{number:06d}.png").write_bytes(b"")
    if table:
        (tmp_path / "names.csv").write_text("original,file\n" + table)
    with pytest.raises(error, match=match):
        plan(tmp_path, "d.dcm")


@pytest.mark.parametrize("bits", [8, 16])
def test_values_of_a_png(tmp_path: Path, bits: int) -> None:
    pixels = np.linspace(0, 1, 5000, dtype=np.float32).reshape(50, 100)
    write_png(tmp_path / "a.png", pixels, bits)
    written = read(tmp_path / "a.png")
    assert written.dtype == (np.uint8 if bits == 8 else np.uint16)
    exact = pixels.astype(np.float64) * (2**bits - 1)
    assert np.abs(written - exact).max() <= 0.5 + 0.01  # float32: half a step of 16 bits and a bit
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    chunks = (tmp_path / "a.png").read_bytes()
    assert not any(kind in chunks for kind in (b"tEXt", b"iTXt", b"zTXt", b"eXIf", b"tIME"))


def test_pipes_are_refused_not_waited_for(dicom: Path) -> None:
    dicom.unlink()
    os.mkfifo(dicom)
    assert "a.dcm: is a pipe, a socket or a device" in convert(dicom).failure
    assert find_dicom(dicom.parent)[0] == [dicom]


def test_a_kill_leaves_no_half_png(dicom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert(dicom)
    assert not (dicom.parents[1] / "out/sub/a.png").exists()
    assert not convert(dicom).was_there


def test_a_folder_and_what_of_it_is_done_again(tree, tmp_path, write_dicom) -> None:
    out, steps = tmp_path / "out", []
    done = xl.convert_folder(tree, out, progress=lambda *step: steps.append(step))
    assert counts(done) == (12, 0, 0)
    assert (done.others, steps[-1]) == (1, (12, 12))
    made = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert made == sorted(f"f{number % 4}/{number}.png" for number in range(12))
    assert [row["file"] for row in rows(out / "headers.csv")] == made
    assert {(row["view"], row["png_bits"]) for row in rows(out / "headers.csv")} == {("PA", "8")}
    assert read(out / "f3/7.png")[0, 0] == 140
    assert not (out / "failed.csv").exists()

    table = (out / "headers.csv").read_bytes()
    (out / "f1/5.png").unlink()
    assert counts(xl.convert_folder(tree, out)) == (1, 11, 0)
    with pytest.raises(xl.ConfigError, match="choose another folder for 16 bits"):
        xl.convert_folder(tree, out, xl.PngOptions(bits=16))
    assert (out / "headers.csv").read_bytes() == table

    # as the shared case mtime: another file with an older date under the name
    write_dicom(tree / "f1/5.dcm", np.full((8, 8), 7, np.uint8), ViewPosition="AP")
    os.utime(tree / "f1/5.dcm", (1e9, 1e9))
    (out / "f0/0.png").write_bytes((out / "f0/0.png").read_bytes()[:40])
    (out / "f2/2.png").rename(tmp_path / "swap.png")
    (out / "f3/3.png").rename(out / "f2/2.png")
    (tmp_path / "swap.png").rename(out / "f3/3.png")
    (out / "f0/4.png").write_bytes(b"")
    (out / "f0/8.png").write_bytes((out / "f0/8.png").read_bytes()[:10])
    kept = (out / "f1/1.png").stat().st_mtime_ns
    assert counts(xl.convert_folder(tree, out)) == (6, 6, 0)
    assert (out / "f1/1.png").stat().st_mtime_ns == kept
    views = {row["file"]: row["view"] for row in rows(out / "headers.csv")}
    assert (views["f1/5.png"], views["f1/1.png"]) == ("AP", "PA")
    changed = {"f1/5": 7, "f0/0": 0, "f2/2": 40, "f3/3": 60, "f0/4": 80, "f0/8": 160}
    for name, grey in changed.items():
        assert read(out / f"{name}.png")[0, 0] == grey


def test_numbers_instead_of_names(tree: Path, tmp_path: Path) -> None:
    xl.convert_folder(tree, tmp_path / "out", RENAME)
    files = [row["file"] for row in rows(tmp_path / "out/headers.csv")]
    assert files == [f"{number:06d}.png" for number in range(1, 13)]
    names = {row["original"]: row["file"] for row in rows(tmp_path / "out/names.csv")}
    assert read(tmp_path / "out" / names["f3/7.dcm"])[0, 0] == 140


def test_stopped_by_the_user(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(path: Path, name: str, done: str, **settings) -> module.Outcome:
        if name == "f2/10.png":
            raise KeyboardInterrupt
        return convert_file(path, name, done, **settings)

    out = tmp_path / "out"
    (tree / "f0/0.dcm").rename(tree / "=0.dcm")  # a spreadsheet's formula, so behind an apostrophe
    with monkeypatch.context() as patch:
        patch.setattr(module, "convert_file", stop)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                xl.convert_folder(tree, out, workers=2)
    table = rows(out / "headers.csv")
    assert 0 < len(table) < 12
    assert all((out / row["file"].removeprefix("'")).is_file() for row in table)
    xl.convert_folder(tree, out)
    assert len(rows(out / "headers.csv")) == 12
    content = (tree / "f0/4.dcm").read_bytes()
    for damaged in (True, False):
        (tree / "f0/4.dcm").write_bytes(b"" if damaged else content)
        monkeypatch.setattr(module, "convert_file", stop)
        with pytest.raises(KeyboardInterrupt):
            xl.convert_folder(tree, out, workers=2)
        assert (out / "failed.csv").exists() == damaged


def test_a_full_disk_ends_it(tree: Path, tmp_path: Path, monkeypatch) -> None:
    full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_png", full)
        with pytest.raises(OSError, match="No space left"):
            xl.convert_folder(tree, tmp_path / "out", workers=1)
    assert counts(xl.convert_folder(tree, tmp_path / "out")) == (12, 0, 0)


def test_failures_are_named_and_tried_again(tree: Path, tmp_path: Path) -> None:
    good = (tree / "f0/0.dcm").read_bytes()
    broken = {"f0/empty.dcm": b"", "f1/half.dcm": good[:-20], "f2/noise.dcm": bytes(range(256)) * 4}
    for name, content in broken.items():
        (tree / name).write_bytes(content)
    out = tmp_path / "out"
    done = xl.convert_folder(tree, out)
    assert counts(done) == (12, 0, 3)
    assert {row["file"]: row["reason"] for row in rows(out / "failed.csv")} == done.failures
    assert done.failures.keys() == broken.keys()
    assert all(done.failures.values())
    assert len(rows(out / "headers.csv")) == 12
    assert xl.Conversion.from_json(json.loads(json.dumps(done.to_json()))) == done
    for name in broken:
        (tree / name).write_bytes(good)
    assert counts(xl.convert_folder(tree, out)) == (3, 12, 0)
    assert not (out / "failed.csv").exists()


def test_wrong_folders(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(xl.DataNotFoundError, match="is a file, not a folder"):
        xl.convert_folder(tree / "readme.txt", out)
    (tmp_path / "void").mkdir()
    with pytest.raises(xl.DataNotFoundError, match="no DICOM file"):
        xl.convert_folder(tmp_path / "void", out)
    assert not out.exists()
    with pytest.raises(xl.ConfigError, match=r"cannot write to .*readme\.txt"):
        xl.convert_folder(tree, tree / "readme.txt")
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(xl.ConfigError, match="by another process"):
        xl.convert_folder(tree, out)


def test_shards_and_one_that_joins_them_are_as_one(tree: Path, tmp_path: Path) -> None:
    one, out = tmp_path / "one", tmp_path / "out"
    (tree / "f1/5.dcm").write_bytes(b"")
    assert counts(xl.convert_folder(tree, one)) == (11, 0, 1)
    done = [xl.convert_folder(tree, out, shard=Shard(number, 3)) for number in (1, 2)]
    written = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert len(written) == sum(share.converted for share in done)
    with FileLock(out / "shard-2-of-3/.lock"), pytest.raises(LockedError, match="shard-2-of-3"):
        xl.convert_folder(tree, out)
    assert counts(xl.convert_folder(tree, out)) == (11 - len(written), len(written), 1)
    for path in (path.relative_to(one) for path in one.rglob("*.png")):
        assert (out / path).read_bytes() == (one / path).read_bytes()
    for name in ("headers.csv", "failed.csv"):
        assert (out / name).read_bytes() == (one / name).read_bytes()
    with pytest.raises(xl.ConfigError, match="rename=true numbers all images: leave out shard="):
        xl.convert_folder(tree, out, RENAME, shard=Shard(1, 3))


def test_a_value_too_many_in_the_header_is_read(tree, tmp_path, write_dicom) -> None:
    write_dicom(tree / "odd.dcm", RAMP, PixelRepresentation=[0, 0])
    assert counts(xl.convert_folder(tree, tmp_path / "out")) == (13, 0, 0)
    assert {row["signed"] for row in rows(tmp_path / "out/headers.csv")} == {"0"}


def test_frames_and_colour_are_chosen(tmp_path: Path, write_dicom) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    pixels = np.arange(128, dtype=np.uint8).reshape(2, 8, 8)
    movie = {"NumberOfFrames": 2, "pixel_bytes": pixels.tobytes()}
    write_dicom(source / "a.dcm", pixels[0], **movie)
    assert "xray convert frame=0" in xl.convert_folder(source, out).failures["a.dcm"]
    for frame in (1, 0):
        xl.convert_folder(source, out, xl.PngOptions(frame=frame))
        np.testing.assert_array_equal(read(out / "a.png"), pixels[frame])
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    write_dicom(source / "a.dcm", pixels[0], pixel_bytes=bytes(64 * 3), **colour)
    assert "xray convert colour=luma" in xl.convert_folder(source, out).failures["a.dcm"]
    assert not xl.convert_folder(source, out, xl.PngOptions(colour="luma")).failures
    for options in (xl.PngOptions(colour="red"), xl.PngOptions(bits=12)):
        with pytest.raises(xl.ConfigError, match=r"red|12"):
            xl.convert_folder(source, out, options)
