"""What a disk can do to a cache, and that none of it becomes a score."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xray_lightning import CacheError, ImageCache, InvalidImageError, Phantom, Record, open_cache
from xray_lightning.data.cache import Manifest, load_cache
from xray_lightning.data.geometry import fit_square

SIZE = 16
SOURCE = Phantom(4, size=32)
RECORDS = SOURCE.records[:5]


def opened(root: Path, source: Phantom = SOURCE) -> ImageCache:
    return open_cache(source, RECORDS, size=SIZE, root=root, workers=2, progress=False)


def assert_golden(cache: ImageCache, rows: set[int]) -> None:
    for row in rows:
        wanted = fit_square(SOURCE.read(RECORDS[row]), SIZE)
        np.testing.assert_array_equal(cache.square(row), wanted)


def flipped(folder: Path, name: str, place: int, bit: int = 0) -> None:
    content = bytearray((folder / name).read_bytes())
    content[place] ^= 1 << bit
    (folder / name).write_bytes(content)


def swapped(folder: Path, name: str, width: int) -> None:
    """Rows 1 and 3 of a file change places."""
    content = np.frombuffer((folder / name).read_bytes(), np.uint8).reshape(-1, width)
    (folder / name).write_bytes(content[[0, 3, 2, 1, 4]].tobytes())


def rows_swapped(folder: Path) -> None:
    for name, width in (("images.bin", SIZE * SIZE), ("sizes.bin", 8), ("sums.bin", 4)):
        swapped(folder, name, width)


@pytest.mark.parametrize(
    ("damage", "rows"),
    [
        *((lambda f, n=n: flipped(f, "images.bin", 3 * 256 + n, n % 8), {3}) for n in (0, 99, 255)),
        (lambda f: flipped(f, "sizes.bin", 8), {1}),
        (lambda f: flipped(f, "sums.bin", 19, 7), {4}),
        (lambda f: (f / "images.bin").write_bytes(bytes(5 * 256)), {0, 1, 2, 3, 4}),
        (lambda f: swapped(f, "images.bin", 256), {1, 3}),
        (lambda f: swapped(f, "sums.bin", 4), {1, 3}),
        (rows_swapped, {1, 3}),
        (lambda f: (f / "sums.bin").write_bytes(bytes(20)), {0, 1, 2, 3, 4}),
    ],
)
def test_a_row_that_is_not_as_it_was_written_is_never_given(tmp_path, damage, rows) -> None:
    folder = opened(tmp_path).path
    damage(folder)
    cache = load_cache(folder)
    for row in rows:
        with pytest.raises(CacheError, match=rf"row {row} .* Delete this folder to build"):
            cache.square(row)
    assert_golden(cache, set(range(5)) - rows)
    shutil.rmtree(folder)  # the remedy
    assert_golden(opened(tmp_path), set(range(5)))


class Broken(Phantom):
    def read(self, record: Record) -> np.ndarray:
        if record == RECORDS[2]:
            raise InvalidImageError("truncated")
        return super().read(record)


def test_rows_flagged_but_never_written_are_noticed(tmp_path: Path) -> None:
    """A machine that lost power between the flag and the pixels, on a disk that reorders writes."""
    source = Broken(4, size=32)
    with pytest.raises(InvalidImageError):
        opened(tmp_path, source)
    folder = tmp_path / Manifest.of(source, RECORDS, SIZE).folder_name
    (folder / "done.bin").write_bytes(bytes([1] * 5))
    with pytest.raises(CacheError, match="row 2 "):
        load_cache(folder).square(2)


def test_a_cache_without_checksums_is_built_again(tmp_path: Path) -> None:
    manifest = Manifest.of(SOURCE, RECORDS, SIZE)
    old = tmp_path / replace(manifest, format=1).folder_name
    shutil.copytree(opened(tmp_path).path, old)
    (old / "sums.bin").unlink()
    shutil.rmtree(tmp_path / manifest.folder_name)
    assert_golden(opened(tmp_path), set(range(5)))
    path = tmp_path / manifest.folder_name / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))
    with pytest.raises(CacheError, match=r"format is 1 there, here it is 2\. Delete this folder"):
        opened(tmp_path)
