import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from xray_lightning.data.conversion import Job, convert, find_dicom, plan, write_png
from xray_lightning.errors import ConfigError, DataError, DataNotFoundError, TableError

Write = Callable[..., Path]
RAMP = np.linspace(0, 255, 32 * 24, dtype=np.uint8).reshape(24, 32)


@pytest.fixture
def job(tmp_path: Path, write_dicom: Write) -> Job:
    source = write_dicom(tmp_path / "in/a.dcm", RAMP, ViewPosition="AP", PatientName="Doe^Jane")
    return Job(source, tmp_path / "out/sub/a.png", "sub/a.png", 8)


def test_files_are_found_by_content_or_ending(tmp_path: Path, write_dicom: Write) -> None:
    for name in ("a.dcm", "sub/1.2.840", "sub/IM001"):
        write_dicom(tmp_path / name, RAMP)
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "broken.DCM").write_bytes(b"")
    found, others = find_dicom(tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == ["a.dcm", "broken.DCM", "sub/1.2.840", "sub/IM001"]
    assert others == 2


def test_no_dicom(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataNotFoundError, match=r"no DICOM file in .*, only 1 others"):
        find_dicom(tmp_path)


def test_the_tree_is_kept(tmp_path: Path) -> None:
    sources = [tmp_path / name for name in ("a.dcm", "b/1.2.840", "b/A.DICOM", "c.png.dcm")]
    jobs = plan(sources, tmp_path, tmp_path / "out", bits=16, rename=False)
    assert [job.name for job in jobs] == ["a.png", "b/1.2.840.png", "b/A.png", "c.png.png"]
    assert jobs[1].target == tmp_path / "out/b/1.2.840.png"
    assert {job.bits for job in jobs} == {16}


def test_two_files_never_become_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.dcm and a\.dicom would both become a\.png"):
        plan([tmp_path / "a.dcm", tmp_path / "a.dicom"], tmp_path, tmp_path, bits=8, rename=False)
    with pytest.raises(DataError, match="would both become"):  # one file on some file systems
        plan([tmp_path / "A.dcm", tmp_path / "a.dcm"], tmp_path, tmp_path, bits=8, rename=False)
    with pytest.raises(ConfigError, match="bits must be 8 or 16, got 12"):
        plan([], tmp_path, tmp_path, bits=12, rename=False)


def test_numbers_stay_with_their_files(tmp_path: Path) -> None:
    def names(*files: str) -> list[str]:
        jobs = plan([tmp_path / f for f in files], tmp_path, tmp_path, bits=8, rename=True)
        return [job.name for job in jobs]

    assert names("Doe^Jane/b.dcm", "c.dcm") == ["000001.png", "000002.png"]
    assert names("a.dcm", "c.dcm", "d,e.dcm") == ["000003.png", "000002.png", "000004.png"]
    assert names("=1+1.dcm") == names("=1+1.dcm") == ["000005.png"]
    assert "\n'=1+1.dcm," in (tmp_path / "names.csv").read_text()
    (tmp_path / "names.csv").write_text("file,old\n1,2\n")
    with pytest.raises(TableError, match="lacks 1 column: 'original'"):
        names("a.dcm")


@pytest.mark.parametrize(
    ("table", "error", "match"),
    [
        ("", DataError, r"do not match, the first is '000001\.png': restore"),  # lost
        ("a.dcm,000001.png\n", DataError, r"the first is '000007\.png'"),  # short
        ("a.dcm,000001.png\nb.dcm,000007.png\nc.dcm,../../x.png\n", DataError, r"'../../x\.png'"),
        ("a.dcm,000001.png\nb.dcm,000007.png\nc.dcm,0000\n", DataError, "'0000'"),  # cut
        ("a.dcm,000001.png\nb.dcm,000007.png\nc.dcm,000007.png\n", TableError, "repeats"),
        ("a.dcm,000001.png\nb.dcm,000007.png\na.dcm,000008.png\n", TableError, "repeats"),
    ],
)
def test_a_table_of_names_that_does_not_fit_is_refused(
    tmp_path: Path, table: str, error: type[DataError], match: str
) -> None:
    for number in (1, 7):
        (tmp_path / f"{number:06d}.png").write_bytes(b"")
    if table:
        (tmp_path / "names.csv").write_text("original,file\n" + table)
    with pytest.raises(error, match=match):
        plan([tmp_path / "d.dcm"], tmp_path, tmp_path, bits=8, rename=True)


def test_new_numbers_come_after_the_greatest(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("original,file\na.dcm,000001.png\nb.dcm,000007.png\n")
    jobs = plan([tmp_path / "d.dcm"], tmp_path, tmp_path, bits=8, rename=True)
    assert [job.name for job in jobs] == ["000008.png"]


@pytest.mark.parametrize("bits", [8, 16])
def test_values(tmp_path: Path, bits: int) -> None:
    pixels = np.linspace(0, 1, 5000, dtype=np.float32).reshape(50, 100)
    write_png(tmp_path / "a.png", pixels, bits)
    read = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert read.dtype == (np.uint8 if bits == 8 else np.uint16)
    exact = pixels.astype(np.float64) * (2**bits - 1)
    assert np.abs(read - exact).max() <= 0.5 + 0.01  # float32: half a step of 16 bits and a bit
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    chunks = (tmp_path / "a.png").read_bytes()
    for kind in (b"tEXt", b"iTXt", b"zTXt", b"eXIf", b"tIME"):
        assert kind not in chunks


def test_conversion(job: Job) -> None:
    outcome = convert(job)
    assert not outcome.was_there
    assert outcome.facts is not None
    assert (outcome.facts["file"], outcome.facts["view"]) == ("sub/a.png", "AP")
    assert outcome.facts["png_bits"] == "8"
    np.testing.assert_array_equal(cv2.imread(str(job.target), cv2.IMREAD_UNCHANGED), RAMP)


def test_done_is_done(job: Job, write_dicom: Write) -> None:
    first = convert(job)
    stamp = job.target.stat().st_mtime_ns
    again = convert(job, first.stamp)
    assert again.was_there
    assert (again.facts, again.stamp) == (first.facts, first.stamp)
    assert job.target.stat().st_mtime_ns == stamp
    write_dicom(job.source, 255 - RAMP)  # another file, of any date, is converted again
    earlier = job.target.stat().st_mtime - 1000
    os.utime(job.source, (earlier, earlier))
    assert not convert(job, first.stamp).was_there
    np.testing.assert_array_equal(cv2.imread(str(job.target), cv2.IMREAD_UNCHANGED), 255 - RAMP)


def test_a_png_that_was_touched_is_written_again(job: Job, tmp_path: Path) -> None:
    first = convert(job)
    whole = job.target.read_bytes()
    write_png(tmp_path / "other.png", np.zeros((24, 32), np.float32), 8)
    for content in (whole[: len(whole) // 2], whole[:10], (tmp_path / "other.png").read_bytes()):
        job.target.write_bytes(content)
        outcome = convert(job, first.stamp)
        assert not outcome.was_there
        assert job.target.read_bytes() == whole
    assert convert(job, outcome.stamp).was_there
    assert not convert(replace(job, frame=0), outcome.stamp).was_there  # another setting


def test_pipes_are_refused_not_waited_for(job: Job) -> None:
    job.source.unlink()
    os.mkfifo(job.source)
    assert "a.dcm: is a pipe, a socket or a device" in convert(job).failure
    assert find_dicom(job.source.parent)[0] == [job.source]


def test_another_depth_is_refused(job: Job) -> None:
    convert(job)
    with pytest.raises(ConfigError, match=r"a\.png has 8 bits: choose another folder for 16"):
        convert(replace(job, bits=16))


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_broken_files_have_a_reason(job: Job, share: float) -> None:
    content = job.source.read_bytes()
    job.source.write_bytes(content[: int(share * len(content))])
    outcome = convert(job)
    assert outcome.facts is None
    assert "a.dcm" in outcome.failure
    assert "Jane" not in outcome.failure
    assert not job.target.exists()


def test_a_kill_leaves_no_half_png(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            convert(job)
    assert not job.target.exists()
    assert not convert(job).was_there
