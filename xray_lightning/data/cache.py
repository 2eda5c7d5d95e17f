"""Decode every image once, into memory-mapped arrays of small squares.

112,120 images at 256 px are 7.3 GB on disk and never in memory. A cache is parts of up to 16,384
images and 4 GB, a folder each, which one process fills at a time: several processes or machines
fill several parts. A build that was stopped, even by SIGKILL, goes on where it was.
``data/README.md`` lists the files; their numbers are little-endian.
"""

import hashlib
import json
import logging
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from xray_lightning import errors
from xray_lightning.data.decoding import available_cores, decode_ahead, single_threaded_opencv
from xray_lightning.data.dicom import tally
from xray_lightning.data.geometry import RULE, fit_square
from xray_lightning.data.images import collect_notes
from xray_lightning.data.source import Source
from xray_lightning.errors import CacheError, ConfigError
from xray_lightning.progress import Report, show_progress
from xray_lightning.records import Record, read_column
from xray_lightning.shards import WHOLE, Shard
from xray_lightning.wording import fault
from xray_lightning.writing import Json, open_replacing, read_json, write_json

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
REMEDY = "choose another folder with cache_dir=DIR"
CHUNK = 1 << 24  # bytes written at a time where space cannot be reserved
PART_IMAGES, PART_BYTES = 1 << 14, 4 * 10**9  # of a part at most
SPOT_CHECKS = 4
NAMED_FAILURES = 5


@dataclass(frozen=True)
class Manifest:
    """Everything that determines the bytes of a part; other values, another folder."""

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
        digest = hashlib.sha256("\n".join(read_column(records, "image_id")).encode()).hexdigest()
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
class CachePart:
    """Consecutive images of a cache, memory-mapped."""

    path: Path  # its folder
    images: np.memmap[Any, np.dtype[np.uint8]]  # (N, S, S)
    sizes: np.memmap[Any, np.dtype[np.int32]]  # (N, 2), height and width of each original
    sums: np.memmap[Any, np.dtype[np.uint32]]  # (N,), see ``checksum``
    done: np.memmap[Any, np.dtype[np.uint8]]  # (N,), 1 for each row, once all were tried

    def missing(self) -> list[int]:
        """The rows that are not there: a build may have died, and the last writes with it."""
        rows = np.flatnonzero(self.done == 0).tolist()
        return [row for row in rows if not (self.sums[row] and self.holds(row, self.images[row]))]

    def holds(self, row: int, image: npt.NDArray[np.uint8]) -> bool:
        """Whether an image is the one that was written to a row."""
        return bool(checksum(row, image, self.sizes[row]) == self.sums[row])

    def square(self, row: int) -> npt.NDArray[np.uint8]:
        """See ``ImageCache.square``."""
        image = np.array(self.images[row])
        if not self.holds(row, image):
            raise mismatch(self.path, f"row {row:,} (ids.txt) is not as it was written")
        return image


class Rows:
    """The rows of arrays of equal length, of which the last may be shorter, as of one array."""

    def __init__(self, arrays: Sequence[npt.NDArray[Any]]) -> None:
        self.arrays, self.dtype = arrays, arrays[0].dtype
        self.shape = (len(self), *arrays[0].shape[1:])

    def __len__(self) -> int:
        return sum(map(len, self.arrays))

    def __getitem__(self, rows: Any) -> npt.NDArray[Any]:
        """By a number, a slice or an array of numbers."""
        wanted, each = np.arange(len(self))[rows], len(self.arrays[0])
        found = [self.arrays[row // each][row % each] for row in wanted.flat]
        return np.array(found, self.dtype).reshape(*wanted.shape, *self.shape[1:])


class ImageCache:
    """The images of a data set at their working size, memory-mapped, in its records' order."""

    def __init__(self, parts: Sequence[CachePart]) -> None:
        self.parts, self.path = parts, parts[0].path
        self.images = Rows([part.images for part in parts])  # (N, S, S) uint8
        self.sizes = Rows([part.sizes for part in parts])  # (N, 2), height and width of originals

    def __reduce__(self) -> tuple[Callable[..., "ImageCache"], tuple[Path, ...]]:
        """Pickle the paths alone: NumPy would copy all images into every spawned worker."""
        return load_cache, tuple(part.path for part in self.parts)

    def square(self, row: int) -> npt.NDArray[np.uint8]:
        """A copy of one image, (S, S) uint8, compared with its checksum: 13 of 50 us at 256 px.

        Raises:
            CacheError: it is not what was decoded: a bad disk, a torn copy, a row never written.
        """
        part, place = divmod(row, len(self.parts[0].images))
        return self.parts[part].square(place)


def open_cache(
    source: Source,
    records: Sequence[Record],
    *,
    size: int,
    root: str | Path,
    local: str | Path | None = None,
    shard: Shard = WHOLE,
    workers: int | None = None,
    progress: bool | Report = True,
) -> ImageCache:
    """Build what is missing of the cache of these records, then open it read-only.

    Args:
        source: reads the pixels; its name and identity belong to the cache.
        records: the images, in the order of the cache's rows.
        size: side of the squares in pixels, see ``geometry.fit_square``.
        root: folder for caches; each part gets a folder of its own in it.
        local: folder on a disk of this machine; the parts are copied there once, and read there.
        shard: the parts that are this task's; all of them by default. No other is opened.
        workers: decoding threads; None: one for each available core.
        progress: True for a bar on stderr, False for none, or a function of
            (images done, images in all).

    Raises:
        ConfigError: ``size`` or ``workers`` is below 1, ``root`` is not a path, there are no
            records, or fewer parts than shards.
        CacheError: the disk is too full or not writable, or a folder there does not match.
        InvalidImageError: images are unreadable; raised after all others were decoded.
    """
    errors.require_integer("image_size", size, 1)
    errors.require_integer("workers", 1 if workers is None else workers, 1)
    if not records:
        raise ConfigError("there are no images to cache: the list of records is empty")
    if not isinstance(root, str | Path):
        raise ConfigError(f"cache_dir must name a folder, got {root!r}")
    parts = _divide(source, records, size, Path(root), shard)
    count = sum(len(part.records) for part in parts)
    is_new, place, remedy = not any(part.folder.exists() for part in parts), root, REMEDY
    try:
        found = [(part, part.find()) for part in parts]  # needs no lock, and no right to write
        missing = [part for part, there in found if there is None or not there.done.all()]
        if missing:
            _build(source, missing, count, workers or available_cores(), progress)
        if local is not None:
            place, remedy = local, "choose another folder with cache_local=DIR"
            parts = [_copy(part, Path(local)) for part in parts]
    except OSError as error:
        raise CacheError(f"cannot use the image cache in {place}: {error}; {remedy}") from error
    cache = load_cache(*(part.folder for part in parts))
    if not is_new:  # a cache just built was read from these very files
        spot_check(cache, source, parts)
    return cache


def load_cache(*folders: Path) -> ImageCache:
    """Open the parts of a cache, unchecked; CacheError if there is none in a folder."""
    return ImageCache([_load_part(folder) for folder in folders])


def _load_part(folder: Path, mode: Literal["r", "r+"] = "r") -> CachePart:
    """One folder; "r+" is for filling it."""
    stored = read_manifest(folder)
    if stored is None:
        raise CacheError(f"there is no image cache at {folder}; {REMEDY}")
    arrays = {
        name: np.memmap(folder / f"{name}.bin", dtype=kind, mode=mode, shape=stored["images"])
        for name, kind in row_types(stored["size"]).items()
    }
    return CachePart(folder, **arrays)


def spot_check(cache: ImageCache, source: Source, parts: "Sequence[_Part]") -> None:
    """Compare a few images, drawn anew each time, with the source's: it finds a replaced folder."""
    rng, count = np.random.default_rng(), len(cache.images)  # others each time: a change is found
    for row in rng.choice(count, min(SPOT_CHECKS, count), replace=False):
        part, place = divmod(row, len(parts[0].records))
        record = parts[part].records[place]
        image = source.read(record)
        same_size = tuple(cache.sizes[row]) == image.shape
        square = fit_square(image, cache.images.shape[1])
        if not (same_size and np.array_equal(cache.square(row), square)):
            raise mismatch(cache.path, fault("changed", record.image_id))


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
    except errors.OutputError as error:
        raise mismatch(folder, f"{MANIFEST} is damaged") from error


def mismatch(folder: Path, reason: str) -> CacheError:
    """The error for a folder that cannot be used, with its remedy."""
    return CacheError(fault("mismatch", folder, reason, REMEDY))


@dataclass(frozen=True)
class _Part:
    """A part that is to be there."""

    folder: Path
    manifest: Manifest
    records: Sequence[Record]

    def find(self) -> CachePart | None:
        """What is there, complete or not; only a folder with a manifest counts."""
        if (stored := read_manifest(self.folder)) is None:
            return None
        for name, here in asdict(self.manifest).items():
            if (there := stored.get(name)) != here:
                raise mismatch(self.folder, f"{name} is {there!r} there, here it is {here!r}")
        for name, size in self.manifest.file_sizes.items():
            path = self.folder / name
            actual = path.stat().st_size if path.is_file() else None
            if actual != size:
                raise mismatch(self.folder, f"{name} has {actual} bytes instead of {size}")
        return _load_part(self.folder)


def _divide(
    source: Source, records: Sequence[Record], size: int, root: Path, shard: Shard
) -> list[_Part]:
    """The parts that are a task's."""
    each = max(1, min(PART_IMAGES, PART_BYTES // size**2))
    parts = [records[start : start + each] for start in range(0, len(records), each)]
    if shard.count > len(parts):
        raise ConfigError(fault("shards", shard.count, parts, each))
    own = parts[shard.number - 1 :: shard.count]
    manifests = [Manifest.of(source, part, size) for part in own]
    return [_Part(root / m.folder_name, m, part) for m, part in zip(manifests, own, strict=True)]


def _build(
    source: Source, parts: Sequence[_Part], count: int, workers: int, progress: bool | Report
) -> None:
    """Fill parts, of ``count`` images with those that are complete; name what is unreadable."""
    done = count - sum(len(part.records) for part in parts)
    failures: list[str] = []
    remarks: list[list[str]] = []
    bar = show_progress("decoding images", shown=progress is True, unit="images")
    with single_threaded_opencv(), nullcontext(progress) if callable(progress) else bar as report:
        for number, part in enumerate(parts):
            part.folder.parent.mkdir(parents=True, exist_ok=True)
            with _lock(part.folder):
                if part.find() is None:
                    _create(part, parts[number:])
                tell = partial(lambda before, now: report(before + now, count), done)
                failures += _fill(source, part, workers, tell, remarks)
            done += len(part.records)
    if line := tally(remarks):
        logger.warning("how images were read: %s", line)
    if failures:
        raise errors.InvalidImageError(fault("unreadable", failures, count, NAMED_FAILURES))


def _copy(part: _Part, local: Path) -> _Part:
    """A complete part on another disk, copied there unless it is there."""
    copy = replace(part, folder=local / part.folder.name)
    local.mkdir(parents=True, exist_ok=True)
    with _lock(copy.folder):
        if copy.find() is None:
            shutil.rmtree(copy.folder, ignore_errors=True)  # of a copy that was stopped
            names = [path.name for path in part.folder.iterdir() if path.name != MANIFEST]
            copy.folder.mkdir()
            for name in [*names, MANIFEST]:  # by which it counts, so it comes last
                shutil.copyfile(part.folder / name, copy.folder / name)
    return copy


def _lock(folder: Path) -> AbstractContextManager[object]:
    """Hold the cache folder alone among all processes; say so when another one has it."""
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        logger.warning("waiting for another process that is building the image cache %s", folder)
        return lock.acquire(poll_interval=0.2)


def _create(part: _Part, missing: Sequence[_Part]) -> None:
    """Reserve all disk space, then write the manifest; space for all that is ``missing``."""
    folder, manifest = part.folder, part.manifest
    sums = folder / "sums.bin"
    if sums.is_file() and any(sums.read_bytes()):
        raise mismatch(folder, f"{MANIFEST} is gone")
    shutil.rmtree(folder, ignore_errors=True)  # what a run left that died while it reserved
    new = [one.manifest for one in missing if not (one.folder / MANIFEST).exists()]
    needed = sum(sum(one.file_sizes.values()) for one in new)
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise CacheError(fault("cache_space", needed, free, folder.parent, REMEDY))
    folder.mkdir()
    try:
        for name, size in manifest.file_sizes.items():
            reserve(folder / name, size)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise CacheError(f"cannot reserve the image cache {folder}: {error}; {REMEDY}") from error
    with open_replacing(folder / "ids.txt") as file:
        file.writelines(f"{name}\n" for name in read_column(part.records, "image_id"))
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
    source: Source,
    part: _Part,
    workers: int,
    report: Callable[[int], None],  # told how many images of the part are done
    remarks: list[list[str]],  # takes those of the reader
) -> list[str]:
    """Decode every image of a part that is not there; what could not be read, and why."""
    there, records = _load_part(part.folder, "r+"), part.records
    rows = there.missing()
    failures: dict[int, str] = {}

    def decode(row: int) -> None:
        with collect_notes() as notes:
            try:
                image = source.read(records[row])
                square = fit_square(image, there.images.shape[1])
                there.images[row], there.sizes[row] = square, image.shape
                there.sums[row] = checksum(row, square, image.shape)
            except (errors.DataError, OSError) as error:
                failures[row] = f"{records[row].image_id}: {error}"
        if notes:
            remarks.append(notes)

    before = len(records) - len(rows)
    if before:
        report(before)
    with closing(decode_ahead(decode, rows, workers=workers, ahead=64 * workers)) as finished:
        for done, _ in enumerate(finished, before + 1):
            report(done)
    for name in row_types(there.images.shape[1]):
        if name == "done":  # the last: it says that the others are on disk
            there.done[:] = 1
            there.done[list(failures)] = 0
        with (part.folder / f"{name}.bin").open("rb+") as file:
            os.fsync(file.fileno())  # writes dirty pages of memory maps, too
    return [failures[row] for row in sorted(failures)]
