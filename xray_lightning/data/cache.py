"""Decode every image once, into one memory-mapped array of small squares.

112,120 images at 256 px are 7.3 GB on disk and never in memory. A build that was stopped, even
by SIGKILL, goes on where it was; two runs at once build one cache. ``data/README.md`` lists its
files; their numbers are little-endian.
"""

import hashlib
import json
import logging
import os
import shutil
import struct
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from xray_lightning.data.decoding import available_cores, decode_ahead, single_threaded_opencv
from xray_lightning.data.dicom import tally
from xray_lightning.data.geometry import RULE, fit_square
from xray_lightning.data.images import collect_notes
from xray_lightning.data.source import Source
from xray_lightning.errors import (
    CacheError,
    ConfigError,
    DataError,
    InvalidImageError,
    OutputError,
    require_integer,
)
from xray_lightning.progress import Report, show_progress
from xray_lightning.records import Record
from xray_lightning.writing import Json, open_replacing, read_json, write_json

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
REMEDY = "choose another folder with cache_dir=DIR"
CHUNK = 1 << 24  # bytes written at a time where space cannot be reserved
SPOT_CHECKS = 4
NAMED_FAILURES = 5
SYNC_SECONDS = 1.0  # about what a crash can lose


@dataclass(frozen=True)
class Manifest:
    """Everything that determines the bytes of a cache; other values, another folder."""

    source: str
    identity: dict[str, str | int | float | bool]  # see ``Source.identity``
    images: int
    ids_sha256: str  # of the image ids in their order, a line each
    size: int  # side of the squares in pixels
    format: int = 2  # of the folder; 1 had no checksums
    decoder: str = f"opencv {cv2.__version__}"
    geometry: str = RULE

    @classmethod
    def of(cls, source: Source, records: Sequence[Record], size: int) -> "Manifest":
        """The manifest of some records of a source."""
        ids = "\n".join(record.image_id for record in records)
        digest = hashlib.sha256(ids.encode()).hexdigest()
        return cls(source.name, dict(source.identity()), len(records), digest, size)

    @property
    def folder_name(self) -> str:
        """``<source>-<size>px-<12 hex digits>``."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode("ascii")).hexdigest()[:12]
        return f"{self.source}-{self.size}px-{digest}"

    @property
    def file_sizes(self) -> dict[str, int]:
        """Bytes of each binary file."""
        rows = {name: np.dtype(kind).itemsize for name, kind in row_types(self.size).items()}
        return {f"{name}.bin": self.images * size for name, size in rows.items()}


@dataclass(frozen=True, eq=False)
class ImageCache:
    """The images of a data set at their working size, memory-mapped, in its records' order."""

    path: Path  # the cache folder
    images: np.memmap[Any, np.dtype[np.uint8]]  # (N, S, S)
    sizes: np.memmap[Any, np.dtype[np.int32]]  # (N, 2), height and width of each original
    sums: np.memmap[Any, np.dtype[np.uint32]]  # (N,), see ``checksum``
    done: np.memmap[Any, np.dtype[np.uint8]]  # (N,), 1 where the row is on disk

    def __reduce__(self) -> tuple[Callable[[Path], "ImageCache"], tuple[Path]]:
        """Pickle the path alone: NumPy would copy all images into every spawned worker."""
        return load_cache, (self.path,)

    def square(self, row: int) -> npt.NDArray[np.uint8]:
        """A copy of one image, (S, S) uint8, compared with its checksum: 13 of 50 us at 256 px.

        Raises:
            CacheError: it is not what was decoded: a bad disk, a torn copy, a row never written.
        """
        image = np.array(self.images[row])
        if checksum(row, image, self.sizes[row]) != self.sums[row]:
            raise mismatch(self.path, f"row {row:,} (ids.txt) is not as it was written")
        return image


def open_cache(
    source: Source,
    records: Sequence[Record],
    *,
    size: int,
    root: str | Path,
    workers: int | None = None,
    progress: bool | Report = True,
) -> ImageCache:
    """Build what is missing of the cache of these records, then open it read-only.

    Args:
        source: reads the pixels; its name and identity belong to the cache.
        records: the images, in the order of the cache's rows.
        size: side of the squares in pixels, see ``geometry.fit_square``.
        root: folder for caches; this one gets a folder of its own in it.
        workers: decoding threads; None: one for each available core.
        progress: True for a bar on stderr, False for none, or a function of
            (images done, images in all).

    Raises:
        ConfigError: ``size`` or ``workers`` is below 1, ``root`` is not a path, or there are no
            records.
        CacheError: the disk is too full or not writable, or the folder there does not match.
        InvalidImageError: images are unreadable; raised after all others were decoded.
    """
    require_integer("image_size", size, 1)
    require_integer("workers", 1 if workers is None else workers, 1)
    if not records:
        raise ConfigError("there are no images to cache: the list of records is empty")
    if not isinstance(root, str | Path):
        raise ConfigError(f"cache_dir must name a folder, got {root!r}")
    manifest = Manifest.of(source, records, size)
    folder = Path(root) / manifest.folder_name
    is_new = not folder.exists()
    try:
        found = _find(folder, manifest)  # needs no lock, and no right to write
        if found is None or not found.done.all():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _lock(folder):
                if _find(folder, manifest) is None:
                    _create(folder, manifest, records)
                _fill(source, records, folder, workers or available_cores(), progress)
    except OSError as error:
        raise CacheError(f"cannot use the image cache {folder}: {error}; {REMEDY}") from error
    cache = load_cache(folder)
    if not is_new:  # a cache just built was read from these very files
        spot_check(cache, source, records)
    return cache


def load_cache(folder: Path, mode: Literal["r", "r+"] = "r") -> ImageCache:
    """Open a cache folder, unchecked; CacheError if there is none. "r+" is for filling it."""
    stored = read_manifest(folder)
    if stored is None:
        raise CacheError(f"there is no image cache at {folder}; {REMEDY}")
    arrays = {
        name: np.memmap(folder / f"{name}.bin", dtype=kind, mode=mode, shape=stored["images"])
        for name, kind in row_types(stored["size"]).items()
    }
    return ImageCache(folder, **arrays)


def spot_check(cache: ImageCache, source: Source, records: Sequence[Record]) -> None:
    """Compare a few images, drawn anew each time, with the source's: it finds a replaced folder."""
    rng = np.random.default_rng()  # other images each time, so that a change is found in the end
    for row in rng.choice(len(records), min(SPOT_CHECKS, len(records)), replace=False):
        image = source.read(records[row])
        same_size = tuple(cache.sizes[row]) == image.shape
        square = fit_square(image, cache.images.shape[1])
        if not (same_size and np.array_equal(cache.square(row), square)):
            raise mismatch(
                cache.path,
                f"{records[row].image_id} differs from the cached image, so the source files have "
                "changed since",
            )


def row_types(size: int) -> dict[str, str]:
    """What a row of each array is."""
    return {"images": f"({size},{size})u1", "sizes": "2<i4", "sums": "<u4", "done": "u1"}


def checksum(row: int, image: npt.NDArray[np.uint8], size: Sequence[int]) -> int:
    """CRC-32 of a row's number, original height and width, and pixels (S, S): 13 us at 256 px."""
    return zlib.crc32(image.tobytes(), zlib.crc32(struct.pack("<3q", row, *size)))


def read_manifest(folder: Path) -> Json | None:
    """The manifest of a cache folder as stored, None if it has none yet."""
    try:
        return read_json(folder / MANIFEST)
    except FileNotFoundError:
        return None
    except OutputError as error:
        raise mismatch(folder, f"{MANIFEST} is damaged") from error


def mismatch(folder: Path, reason: str) -> CacheError:
    """The error for a folder that cannot be used, with its remedy."""
    return CacheError(
        f"the image cache {folder} does not match: {reason}. Delete this folder to build it again, "
        f"or {REMEDY}"
    )


def _find(folder: Path, manifest: Manifest) -> ImageCache | None:
    """The cache that is there, complete or not; only a folder with a manifest counts."""
    if (stored := read_manifest(folder)) is None:
        return None
    for name, here in asdict(manifest).items():
        if (there := stored.get(name)) != here:
            raise mismatch(folder, f"{name} is {there!r} there, here it is {here!r}")
    for name, size in manifest.file_sizes.items():
        path = folder / name
        actual = path.stat().st_size if path.is_file() else None
        if actual != size:
            raise mismatch(folder, f"{name} has {actual} bytes instead of {size}")
    return load_cache(folder)


def _lock(folder: Path) -> AbstractContextManager[object]:
    """Hold the cache folder alone among all processes; say so when another one has it."""
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        logger.warning("waiting for another process that is building the image cache %s", folder)
        return lock.acquire(poll_interval=0.2)


def _create(folder: Path, manifest: Manifest, records: Sequence[Record]) -> None:
    """Reserve all disk space, then write the manifest."""
    done = folder / "done.bin"
    if done.is_file() and any(done.read_bytes()):
        raise mismatch(folder, f"{MANIFEST} is gone")
    shutil.rmtree(folder, ignore_errors=True)  # what a run left that died while it reserved
    needed, free = sum(manifest.file_sizes.values()), shutil.disk_usage(folder.parent).free
    if needed > free:
        raise CacheError(
            f"the image cache needs {needed / 1e9:.2f} GB but {free / 1e9:.2f} GB are free at "
            f"{folder.parent}: {REMEDY}, or a smaller image size"
        )
    folder.mkdir()
    try:
        for name, size in manifest.file_sizes.items():
            reserve(folder / name, size)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise CacheError(f"cannot reserve the image cache {folder}: {error}; {REMEDY}") from error
    with open_replacing(folder / "ids.txt") as file:
        file.writelines(f"{record.image_id}\n" for record in records)
    created = {"created": datetime.now(UTC).isoformat(timespec="seconds")}
    write_json(asdict(manifest) | created, folder / MANIFEST)


def reserve(path: Path, size: int) -> None:
    """Create a file of zeros with real blocks: a sparse one on a full disk is a SIGBUS."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        for start in range(0, size, CHUNK):  # macOS and Windows have no posix_fallocate
            file.write(bytes(min(CHUNK, size - start)))


def _fill(
    source: Source, records: Sequence[Record], folder: Path, workers: int, progress: bool | Report
) -> None:
    """Decode every image that is not done; unreadable ones are named when all others are."""
    cache = load_cache(folder, "r+")
    rows = np.flatnonzero(cache.done == 0).tolist()
    decoded: list[int] = []  # rows whose flag is not set yet
    failures: dict[int, str] = {}
    remarks: list[list[str]] = []

    def decode(row: int) -> None:
        with collect_notes() as notes:
            try:
                image = source.read(records[row])
                square = fit_square(image, cache.images.shape[1])
                cache.images[row], cache.sizes[row] = square, image.shape
                cache.sums[row] = checksum(row, square, image.shape)
                decoded.append(row)
            except (DataError, OSError) as error:
                failures[row] = f"{records[row].image_id}: {error}"
        if notes:
            remarks.append(notes)

    count, before, synced = len(records), len(records) - len(rows), time.monotonic()
    bar = show_progress("decoding images", shown=progress is True, unit="images")
    with single_threaded_opencv(), nullcontext(progress) if callable(progress) else bar as report:
        if before:
            report(before, count)
        ahead = 64 * workers  # they go on while the disk is waited for
        try:
            with closing(decode_ahead(decode, rows, workers=workers, ahead=ahead)) as finished:
                for done, _ in enumerate(finished, before + 1):
                    report(done, count)
                    if time.monotonic() > synced + SYNC_SECONDS:
                        _set_flags(cache, decoded)
                        synced = time.monotonic()
        finally:
            _set_flags(cache, decoded)
    if line := tally(remarks):
        logger.warning("how images were read: %s", line)
    _require_all(failures, count)


def _set_flags(cache: ImageCache, decoded: list[int]) -> None:
    """Set the flags of decoded rows, emptying the list, once their pixels reached the disk."""
    # the threads decode on: memmap.flush would keep the interpreter's lock, fsync does not
    rows = decoded[:]
    for name in ("images", "sizes", "sums", "done"):
        if name == "done":
            cache.done[rows] = 1
        with (cache.path / f"{name}.bin").open("rb+") as file:
            os.fsync(file.fileno())  # writes dirty pages of memory maps, too
    del decoded[: len(rows)]


def _require_all(failures: Mapping[int, str], count: int) -> None:
    """Raise InvalidImageError if images could not be read, and name the first of them."""
    if not failures:
        return
    named = [failures[row] for row in sorted(failures)[:NAMED_FAILURES]]
    lines = "\n  ".join(named + ["..."] * (len(failures) > NAMED_FAILURES))
    raise InvalidImageError(
        f"{len(failures):,} of {count:,} images are unreadable:\n  {lines}\nAll others are "
        "cached. Download these again, or take their lines out of the label table"
    )
