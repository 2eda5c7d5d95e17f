"""Decode every image once, into one memory-mapped array of small squares.

112,120 images at 256 px are 7.3 GB on disk and never in memory. A build that was stopped, even
by SIGKILL, goes on where it was; two runs at once build one cache.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from xray_lightning.data.decoding import ProgressHook, available_cores, decode_missing
from xray_lightning.data.geometry import fit_square
from xray_lightning.data.manifest import (
    REMEDY,
    Facts,
    cache_facts,
    check_folder,
    create_folder,
    folder_name,
    open_arrays,
    read_manifest,
    refused,
    row_sum,
)
from xray_lightning.data.source import Source
from xray_lightning.errors import CacheError, ConfigError, InvalidImageError
from xray_lightning.records import Record

logger = logging.getLogger(__name__)

SPOT_CHECKS = 4
NAMED_FAILURES = 5


@dataclass(frozen=True, eq=False)
class ImageCache:
    """The images of a data set at their working size, read-only.

    Attributes:
        path: the cache folder.
        images: memory map in the order of the records, (N, S, S) uint8.
        sizes: height and width of each original, (N, 2) int32.
        sums: checksum of each row, (N,) uint32.
    """

    path: Path
    images: np.memmap[Any, np.dtype[np.uint8]]
    sizes: np.memmap[Any, np.dtype[np.int32]]
    sums: np.memmap[Any, np.dtype[np.uint32]]

    def __reduce__(self) -> tuple[Callable[[Path], "ImageCache"], tuple[Path]]:
        """Pickle the path alone: NumPy would copy all images into every spawned worker."""
        return load_cache, (self.path,)

    def square(self, row: int) -> npt.NDArray[np.uint8]:
        """A copy of one image, (S, S) uint8, compared with its checksum: 13 of 50 us at 256 px.

        Raises:
            CacheError: it is not what was decoded: a bad disk, a torn copy, a row never written.
        """
        image = np.array(self.images[row])
        if row_sum(row, image, self.sizes[row]) != self.sums[row]:
            raise refused(self.path, f"row {row:,} (ids.txt) is not as it was written")
        return image


def open_cache(
    source: Source,
    records: Sequence[Record],
    *,
    size: int,
    root: str | Path,
    workers: int | None = None,
    progress: bool | ProgressHook = True,
) -> ImageCache:
    """Build what is missing of the cache of these records, then open it.

    Args:
        source: reads the pixels; its name and identity belong to the cache.
        records: the images, in the order of the cache's rows.
        size: side of the squares in pixels, see ``geometry.fit_square``.
        root: folder for caches; this one gets a folder of its own in it.
        workers: decoding threads; None: one for each available core.
        progress: True for a bar on stderr, False for none, or a function of
            (images done, images in all).

    Raises:
        ConfigError: ``size`` or ``workers`` is below 1, ``root`` is no path, or there are no
            records.
        CacheError: the disk is too full or not writable, or the folder there does not match.
        InvalidImageError: images are unreadable; raised after all others were decoded.
    """
    _check_settings(records, size, workers)
    if not isinstance(root, str | Path):
        raise ConfigError(f"cache_dir must name a folder, got {root!r}")
    facts = cache_facts(source, records, size)
    folder = Path(root) / folder_name(facts)
    fresh = not folder.exists()
    try:
        if not _is_complete(folder, facts):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(folder):
                _build(source, records, folder, facts, workers or available_cores(), progress)
    except OSError as error:
        raise CacheError(f"cannot use the image cache {folder}: {error}; {REMEDY}") from error
    cache = load_cache(folder)
    if not fresh:  # a cache just built was read from these very files
        spot_check(cache, source, records)
    return cache


def load_cache(folder: Path) -> ImageCache:
    """Open a finished cache folder, read-only and unchecked.

    Raises:
        CacheError: there is no cache.
    """
    facts = read_manifest(folder)
    if facts is None:
        raise CacheError(f"there is no image cache at {folder}; {REMEDY}")
    arrays = open_arrays(folder, facts["images"], facts["size"], "r")
    return ImageCache(folder, arrays.images, arrays.sizes, arrays.sums)


def spot_check(cache: ImageCache, source: Source, records: Sequence[Record]) -> None:
    """Read a few images, drawn anew each time, from the source and compare them byte for byte.

    This finds a replaced folder, and a single edited file only by luck: delete the cache then.
    Damage to the cache itself is found by its checksums, row by row as it is read.

    Raises:
        CacheError: an image is no longer what was cached.
    """
    rng = np.random.default_rng()  # other images each time, so that a change is found in the end
    for row in rng.choice(len(records), min(SPOT_CHECKS, len(records)), replace=False):
        image = source.read(records[row])
        same_size = tuple(cache.sizes[row]) == image.shape
        square = fit_square(image, cache.images.shape[1])
        if not (same_size and np.array_equal(cache.square(row), square)):
            raise refused(
                cache.path,
                f"{records[row].image_id} differs from the cached image, so the source files have "
                "changed since",
            )


def _check_settings(records: Sequence[Record], size: int, workers: int | None) -> None:
    if not isinstance(size, int) or size < 1:
        raise ConfigError(f"image_size must be an integer of at least 1 pixel, got {size!r}")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers must be at least 1 (or None: one per core), got {workers}")
    if not records:
        raise ConfigError("there are no images to cache: the list of records is empty")


def _is_complete(folder: Path, facts: Facts) -> bool:
    """Whether every image is there; needs no lock, and no right to write."""
    found = read_manifest(folder)
    if found is None:
        return False
    check_folder(folder, found, facts)
    return bool(open_arrays(folder, facts["images"], facts["size"], "r").done.all())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the cache folder alone among all processes; say so when another one has it."""
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("waiting for another process that is building the image cache %s", folder)
        lock.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        lock.release()


def _build(
    source: Source,
    records: Sequence[Record],
    folder: Path,
    facts: Facts,
    workers: int,
    progress: bool | ProgressHook,
) -> None:
    """Create the folder unless it is there, and decode what it lacks."""
    found = read_manifest(folder)
    if found is None:
        create_folder(folder, facts, [record.image_id for record in records])
    else:
        check_folder(folder, found, facts)
    failures = decode_missing(
        source, records, folder, size=facts["size"], workers=workers, progress=progress
    )
    if failures:
        raise InvalidImageError(_failure_text(failures, len(records)))


def _failure_text(failures: Sequence[str], count: int) -> str:
    named = "\n".join(f"  {failure}" for failure in failures[:NAMED_FAILURES])
    more = "\n  ..." if len(failures) > NAMED_FAILURES else ""
    return (
        f"{len(failures):,} of {count:,} images are unreadable:\n{named}{more}\n"
        "All others are cached. Download these again, or take their lines out of the label table"
    )
