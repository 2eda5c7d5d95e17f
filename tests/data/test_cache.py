"""The cache of decoded images, and what a disk can do to it: none of that becomes a score.

Run as a program, this file is a slow build to kill or wait for.
"""

import errno
import json
import logging
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from filelock import FileLock
from running import kill, start

from xray_lightning.data.cache import ImageCache, Manifest, load_cache, open_cache, reserve
from xray_lightning.data.decoding import available_cores
from xray_lightning.data.geometry import box_to_square, fit_square
from xray_lightning.data.source import Source
from xray_lightning.errors import CacheError, ConfigError, InvalidImageError
from xray_lightning.records import Record
from xray_lightning.shards import Shard

SIZE = 16
SPOT = 4  # images read again when a cache is opened


@dataclass
class Noise(Source):
    """Pictures of random sizes and pixels, determined by the seed and their id."""

    count: int
    seed: int = 0
    delay: float = 0.0
    broken: Sequence[str] = ()
    name: str = "noise"
    labels: tuple[str, ...] = ("Mass",)
    reads: list[str] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    opencv_threads: set[int] = field(default_factory=set)

    @property
    def records(self) -> list[Record]:
        return [Record(f"{n:04d}.png", f"p{n}", (0.0,)) for n in range(self.count)]

    def read(self, record: Record) -> np.ndarray:
        time.sleep(self.delay)
        self.reads.append(record.image_id)
        self.threads.add(threading.current_thread().name)
        self.opencv_threads.add(cv2.getNumThreads())
        if record.image_id in self.broken:
            raise InvalidImageError(f"{record.image_id} is truncated")
        rng = np.random.default_rng((self.seed, int(record.image_id[:4])))
        height, width = rng.integers(20, 40, 2)
        return rng.integers(0, 256, (height, width), dtype=np.uint8)

    def identity(self) -> dict[str, str | int | float | bool]:
        return {"kind": "noise"}


def build(source: Noise, root: Path, **settings) -> ImageCache:
    arguments = {"size": SIZE, "root": root, "workers": 2, "progress": False} | settings
    return open_cache(source, source.records, **arguments)


def assert_golden(cache: ImageCache, source: Noise, without: Collection[int] = ()) -> None:
    for row, record in enumerate(source.records):
        if row not in without:
            image = source.read(record)
            np.testing.assert_array_equal(cache.square(row), fit_square(image, SIZE))
            assert tuple(cache.sizes[row]) == image.shape


def start_build(root, count, ready=lambda process: process.stdout.readline()):
    """Ready at the first image."""
    command = [sys.executable, __file__, root, str(count), "0.02"]
    return start(command, ready, 20, stderr=subprocess.DEVNULL)


def done_so_far(source: Noise, root: Path) -> int:
    """Rows on disk, by their checksums, which are written last."""
    sums = root / Manifest.of(source, source.records, SIZE).folder_name / "sums.bin"
    return int((np.fromfile(sums, dtype=np.uint32) > 0).sum()) if sums.exists() else 0


@pytest.mark.parametrize(("height", "width"), [(60, 60), (60, 36), (25, 60), (59, 60), (1, 60)])
def test_shrinking_is_the_mean_of_the_padded_blocks(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    above, left = (60 - height) // 2, (60 - width) // 2
    padded = np.pad(image, [(above, 60 - height - above), (left, 60 - width - left)])
    blocks = padded.reshape(12, 5, 12, 5).mean(axis=(1, 3))
    np.testing.assert_allclose(fit_square(image, 12), blocks, atol=0.51)


def test_enlarging_is_bilinear() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 4), dtype=np.uint8)
    position = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    low = np.minimum(position.astype(int), 2)
    weight = np.zeros((8, 4))
    weight[np.arange(8), low] = 1 - (position - low)
    weight[np.arange(8), low + 1] = position - low
    np.testing.assert_allclose(fit_square(image, 8), weight @ image @ weight.T, atol=1.01)


def test_equal_size_is_untouched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 9), dtype=np.uint8)
    np.testing.assert_array_equal(fit_square(image, 9), image)
    narrow = fit_square(image[:, :6], 9)
    np.testing.assert_array_equal(narrow[:, 1:7], image[:, :6])
    assert not narrow[:, [0, 7, 8]].any()


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16), np.zeros((0, 4), np.uint8)],
)
def test_fit_square_refuses(image: np.ndarray) -> None:
    with pytest.raises(InvalidImageError, match=r"expected a grey image, \(H, W\) uint8, got"):
        fit_square(image, 8)


@pytest.mark.parametrize("frame", [(64, 64), (40, 64), (64, 33), (100, 71)])
@pytest.mark.parametrize("size", [32, 64, 200])
def test_box_lies_where_its_pixels_went(frame: tuple[int, int], size: int) -> None:
    width, height = frame
    box = (12.0, 7.0, 18.0, 21.0)
    image = np.zeros((height, width), dtype=np.uint8)
    image[7:28, 12:30] = 255
    rows, columns = np.nonzero(fit_square(image, size) > 127)
    x, y, extent, depth = box_to_square(box, frame, size)
    assert (columns.min(), columns.max() + 1) == pytest.approx((x, x + extent), abs=1)
    assert (rows.min(), rows.max() + 1) == pytest.approx((y, y + depth), abs=1)


def test_cache_holds_what_fit_square_gives_and_decodes_each_image_once(tmp_path: Path) -> None:
    source = Noise(30)
    cache = build(source, tmp_path)
    assert (cache.images.shape, cache.images.dtype) == ((30, SIZE, SIZE), np.uint8)
    assert cache.sizes.dtype == np.int32
    assert_golden(cache, Noise(30))
    with pytest.raises(ValueError, match="read-only"):
        cache.parts[0].images[0] = 0
    text = pickle.dumps(cache)  # holds no pixels
    assert len(text) < 500
    np.testing.assert_array_equal(pickle.loads(text).images[:], cache.images[:])
    assert len(source.reads) == 30  # each once
    again = Noise(30)
    cache = build(again, tmp_path)
    assert len(again.reads) == SPOT
    assert_golden(cache, again)


def test_folder_and_manifest_are_readable(tmp_path: Path) -> None:
    cache = build(Noise(5), tmp_path)
    assert re.fullmatch("noise-16px-.{12}", cache.path.name)
    manifest = json.loads((cache.path / "manifest.json").read_text())
    wanted = {"identity": {"kind": "noise"}, "decoder": f"opencv {cv2.__version__}", "images": 5}
    assert wanted.items() <= manifest.items()
    assert "created" in manifest
    assert (cache.path / "ids.txt").read_text().split() == [r.image_id for r in Noise(5).records]


def test_other_facts_other_folder(tmp_path: Path) -> None:
    source, records = Noise(5), Noise(5).records
    facts = [(source, records, 16), (source, records, 17), (source, records[::-1], 16)]
    facts += [(source, records[:4], 16), (Noise(5, name="other"), records, 16)]
    assert len({Manifest.of(*each).folder_name for each in facts}) == 5


@pytest.mark.parametrize(("workers", "threads"), [(3, 3), (None, available_cores())])
def test_threads_are_bounded_and_opencv_is_left_as_it_was(workers, threads, tmp_path) -> None:
    before = cv2.getNumThreads()
    source = Noise(40, delay=0.002)
    build(source, tmp_path, workers=workers)
    assert len({name for name in source.threads if name.startswith("decode")}) == threads
    assert 1 in source.opencv_threads
    assert cv2.getNumThreads() == before


def test_progress_is_told_or_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int]] = []
    build(Noise(30), tmp_path, progress=lambda done, count: told.append((done, count)))
    assert told[-1] == (30, 30)
    assert told == sorted(told)
    assert capsys.readouterr().err == ""
    build(Noise(31), tmp_path, progress=True)
    captured = capsys.readouterr()
    assert "31/31" in captured.err
    assert "images/s" in captured.err
    assert captured.out == ""


def test_disk_space_is_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve(tmp_path / "a", 1 << 20)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)  # as on macOS
    monkeypatch.setattr("xray_lightning.data.cache.CHUNK", 300_000)
    reserve(tmp_path / "b", 1 << 20)
    for path in (tmp_path / "a", tmp_path / "b"):
        assert path.read_bytes() == bytes(1 << 20)
        assert path.stat().st_blocks * 512 >= 1 << 20


def test_resume_after_kill(tmp_path: Path) -> None:
    source = Noise(400)
    kill(start_build(tmp_path, 400, lambda _: done_so_far(source, tmp_path)))
    done = done_so_far(source, tmp_path)
    assert 0 < done < 400
    cache = build(source, tmp_path)
    assert len(source.reads) == 400 - done + SPOT
    assert_golden(cache, source)


def test_interrupt_stops_promptly_and_keeps_what_was_done(tmp_path: Path) -> None:
    process = start_build(tmp_path, 400)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert time.monotonic() - begun < 3  # two threads at 0.02 s an image need 4 s for all
    assert process.returncode != 0
    assert 0 < done_so_far(Noise(400), tmp_path) < 400


def test_error_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    def stop(done: int, count: int) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    source = Noise(100, delay=0.01)
    with pytest.raises(KeyboardInterrupt):
        build(source, tmp_path, progress=stop)
    done = done_so_far(source, tmp_path)
    assert done >= 20
    flipped(next(tmp_path.glob("noise-*/")), "images.bin", 9)  # lost with the power
    again, told = Noise(100), list[int]()
    cache = build(again, tmp_path, progress=lambda done, count: told.append(done))
    assert len(again.reads) == 100 - (done - 1) + SPOT
    assert told[0] == done - 1 < told[1]
    assert_golden(cache, again)


def test_a_bug_is_raised_as_it_is_and_a_file_that_is_gone_is_unreadable(tmp_path: Path) -> None:
    source = Noise(3)
    source.read = lambda record: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        build(source, tmp_path)
    source.read = lambda record: (tmp_path / "gone").read_bytes()  # type: ignore[method-assign]
    with pytest.raises(InvalidImageError, match=r"3 of 3 images are unreadable:\n  0000.png: .*No"):
        build(source, tmp_path)


def test_second_process_waits_and_decodes_nothing(tmp_path, caplog) -> None:
    process, source = start_build(tmp_path, 150), Noise(150)
    with caplog.at_level(logging.WARNING):
        cache = build(source, tmp_path)
    assert "waiting for another process that is building the image cache" in caplog.text
    assert len(source.reads) == SPOT
    assert_golden(cache, source)
    process.communicate()
    assert process.returncode == 0


def test_finished_cache_needs_no_lock_and_notices_that_files_changed(tmp_path: Path) -> None:
    folder = build(Noise(20), tmp_path).path
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        build(Noise(20), tmp_path)
    with pytest.raises(CacheError, match=r"source files have changed since\. Delete this folder"):
        build(Noise(20, seed=1), tmp_path)


def test_all_unreadable_images_are_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    broken = [f"{n:04d}.png" for n in (3, 9, 17, 20, 33, 41, 49)]
    with pytest.raises(InvalidImageError) as caught:
        build(Noise(50, broken=broken), tmp_path)
    text = str(caught.value)
    assert text.startswith("7 of 50 images are unreadable:\n  0003.png: 0003.png is truncated\n")
    assert "0033.png is truncated\n  ...\nAll others are cached" in text
    assert "0041" not in text
    mended = Noise(50)
    cache = build(mended, tmp_path)
    assert len(mended.reads) == 7 + SPOT
    assert_golden(cache, mended)


def test_what_a_disk_refuses_is_found_before_the_start(tmp_path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=7 * 10**9))
    source = Noise(5)
    with pytest.raises(CacheError, match=r"needs 8\.00 GB but 7\.00 GB are free .*cache_dir=DIR"):
        build(source, tmp_path, size=40_000)
    assert not source.reads
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"cannot use the image cache .*cache_dir=DIR"):
        build(Noise(5), tmp_path / "file" / "cache")
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "posix_fallocate", Mock(side_effect=full))
    with pytest.raises(CacheError, match=r"cannot reserve .*No space left.*cache_dir=DIR"):
        build(Noise(5), tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("count", "settings", "message"),
    [
        (5, {"size": 0}, "image_size .*got 0"),
        (5, {"workers": 0}, "workers .*got 0"),
        (5, {"size": 2.0}, "image_size .*got 2.0"),
        (5, {"root": None}, "cache_dir must name a folder, got None"),
        (0, {}, "no images to cache"),
    ],
)
def test_bad_settings(count: int, settings: dict[str, object], message: str, tmp_path) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Noise(count), **({"root": tmp_path} | settings))
    with pytest.raises(CacheError, match="there is no image cache at"):
        load_cache(tmp_path)


def edit_manifest(folder: Path, **facts: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: edit_manifest(f, size=32), "size is 32 there, here it is 16. Delete this"),
        (lambda f: edit_manifest(f, decoder="x"), "decoder is 'x' there, here it is 'opencv"),
        (lambda f: edit_manifest(f, identity={}), "identity is {} there"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json is damaged"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is gone"),
        (lambda f: os.truncate(f / "images.bin", 999), "images.bin has 999 bytes instead of 1280"),
        (lambda f: (f / "sizes.bin").unlink(), "sizes.bin has None bytes instead of 40"),
    ],
)
def test_cache_that_does_not_match_is_refused(tmp_path: Path, damage, message: str) -> None:
    damage(build(Noise(5), tmp_path).path)
    with pytest.raises(CacheError, match=message):
        build(Noise(5), tmp_path)


def test_half_made_folder_is_started_anew(tmp_path: Path) -> None:
    source = Noise(5)
    folder = tmp_path / Manifest.of(source, source.records, SIZE).folder_name
    folder.mkdir()
    (folder / "done.bin").write_bytes(bytes(5))  # killed before there was a manifest
    assert_golden(build(source, tmp_path), source)


def flipped(folder: Path, name: str, place: int, bit: int = 0) -> None:
    content = bytearray((folder / name).read_bytes())
    content[place] ^= 1 << bit
    (folder / name).write_bytes(content)


def swapped(folder: Path, **widths: int) -> None:
    """Rows 1 and 3 of some files change places."""
    for name, width in widths.items():
        content = np.fromfile(folder / f"{name}.bin", np.uint8).reshape(-1, width)
        (folder / f"{name}.bin").write_bytes(content[[0, 3, 2, 1, 4]].tobytes())


@pytest.mark.parametrize(
    ("damage", "rows"),
    [
        *((lambda f, n=n: flipped(f, "images.bin", 3 * 256 + n, n % 8), {3}) for n in (0, 99, 255)),
        (lambda f: flipped(f, "sizes.bin", 8), {1}),
        (lambda f: flipped(f, "sums.bin", 19, 7), {4}),
        (lambda f: (f / "images.bin").write_bytes(bytes(5 * 256)), {0, 1, 2, 3, 4}),
        (lambda f: swapped(f, images=256), {1, 3}),
        (lambda f: swapped(f, sums=4), {1, 3}),
        (lambda f: swapped(f, images=256, sizes=8, sums=4), {1, 3}),
        (lambda f: (f / "sums.bin").write_bytes(bytes(20)), {0, 1, 2, 3, 4}),
    ],
)
def test_a_row_that_is_not_as_it_was_written_is_never_given(tmp_path, damage, rows) -> None:
    folder = build(Noise(5), tmp_path).path
    damage(folder)
    cache = load_cache(folder)
    for row in rows:
        with pytest.raises(CacheError, match=rf"row {row} .* Delete this folder to build"):
            cache.square(row)
    assert_golden(cache, Noise(5), without=rows)
    shutil.rmtree(folder)  # the remedy
    assert_golden(build(Noise(5), tmp_path), Noise(5))


def test_rows_flagged_but_never_written_are_noticed(tmp_path: Path) -> None:
    """A machine that lost power between the flag and the pixels, on a disk that reorders writes."""
    source = Noise(5, broken=["0002.png"])
    with pytest.raises(InvalidImageError):
        build(source, tmp_path)
    folder = tmp_path / Manifest.of(source, source.records, SIZE).folder_name
    (folder / "done.bin").write_bytes(bytes([1] * 5))
    with pytest.raises(CacheError, match="row 2 "):
        load_cache(folder).square(2)


def test_a_cache_without_checksums_is_built_again(tmp_path: Path) -> None:
    source = Noise(5)
    folder = build(source, tmp_path).path
    manifest = replace(Manifest.of(source, source.records, SIZE), format=1)
    old = folder.rename(tmp_path / manifest.folder_name)
    (old / "sums.bin").unlink()
    assert_golden(build(source, tmp_path), source)
    edit_manifest(folder, format=1)
    with pytest.raises(CacheError, match=r"format is 1 there, here it is 2\. Delete this folder"):
        build(source, tmp_path)


@pytest.fixture
def seven_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xray_lightning.data.cache.PART_IMAGES", 7)


@pytest.mark.usefixtures("seven_a_part")
def test_parts_are_as_one(tmp_path: Path) -> None:
    source, told = Noise(30), list[tuple[int, int]]()
    cache = build(source, tmp_path, progress=lambda *both: told.append(both))
    assert [len(part.images) for part in cache.parts] == [7, 7, 7, 7, 2]
    assert told == [(done, 30) for done in range(1, 31)]
    assert_golden(cache, source)
    whole = np.concatenate([part.images for part in cache.parts])
    assert cache.images.shape == whole.shape
    several, bright = np.array([29, 0, 13, 7, 7]), whole[:, 0, 0] > 9
    for rows in (3, -1, slice(5, 20, 2), slice(0, 0), several, bright):
        np.testing.assert_array_equal(cache.images[rows], whole[rows])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(cache)).sizes[:], cache.sizes[:])
    (cache.parts[2].path / "images.bin").write_bytes(bytes(7 * SIZE * SIZE))
    with pytest.raises(CacheError, match=rf"{cache.parts[2].path.name} does not match: row 3"):
        load_cache(*(part.path for part in cache.parts)).square(17)


@pytest.mark.usefixtures("seven_a_part")
def test_shards_share_the_parts(tmp_path: Path) -> None:
    sources = [Noise(30), Noise(30, broken=["0009.png", "0029.png"]), Noise(30)]
    build(sources[0], tmp_path, shard=Shard(1, 3))
    with pytest.raises(InvalidImageError, match=r"2 of 9 .*\n  0009.*\n  0029"):
        build(sources[1], tmp_path, shard=Shard(2, 3))
    assert len(build(sources[2], tmp_path, shard=Shard(3, 3)).parts) == 1
    read = [{int(name[:4]) // 7 for name in source.reads} for source in sources]
    assert read == [{0, 3}, {1, 4}, {2}]
    last, told = Noise(30), list[int]()
    assert_golden(build(last, tmp_path, progress=lambda done, _: told.append(done)), Noise(30))
    assert (told[0], told[-1], len(last.reads)) == (27, 30, 2 + SPOT)
    with pytest.raises(ConfigError, match=r"6 shards are too many: the cache has 5 parts of up"):
        build(Noise(30), tmp_path, shard=Shard(1, 6))


@pytest.mark.usefixtures("seven_a_part")
def test_a_copy_on_a_local_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, place = Noise(30), {"root": tmp_path / "shared", "local": tmp_path / "nvme"}
    cache = build(source, **place)
    assert {part.path.parent for part in cache.parts} == {tmp_path / "nvme"}
    assert_golden(cache, source)
    (cache.parts[1].path / "manifest.json").unlink()  # a copy that was stopped
    (cache.parts[1].path / "images.bin").write_bytes(b"half")
    copied: list[str] = []
    copy = shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", lambda a, b: copied.append(a.parent.name) or copy(a, b))
    assert_golden(build(Noise(30), **place), source)
    assert copied == 6 * [cache.parts[1].path.name]
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"image cache in .*/file: .*cache_local=DIR"):
        build(source, **place | {"local": tmp_path / "file"})


@pytest.mark.usefixtures("seven_a_part")
def test_room_for_all_parts_is_asked_for_before_the_first(tmp_path, monkeypatch) -> None:
    usage, source = shutil.disk_usage(tmp_path), Noise(30)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=8000))
    with pytest.raises(CacheError, match=r"needs 0\.00 GB but 0\.00 GB are free"):
        build(source, tmp_path)  # a part is 1,883 bytes
    assert not source.reads


if __name__ == "__main__":
    place, images, seconds = sys.argv[1:]
    slow = Noise(int(images), delay=float(seconds))
    build(slow, Path(place), progress=lambda done, _: print(done, flush=True))
