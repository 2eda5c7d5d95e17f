"""What a cache folder holds: the facts it was made from, and files of fixed size beside them.

::

    <source>-<size>px-<12 hex digits of the facts>/
        manifest.json   the facts, readable
        ids.txt         one image id a line, in the order of the arrays
        images.bin      (N, S, S) uint8
        sizes.bin       (N, 2) int32, little-endian: height and width of each original
        sums.bin        (N,) uint32, little-endian: checksum of each image, its size and its row
        done.bin        (N,) uint8: 1 once all of that is on disk
"""

import hashlib
import json
import os
import shutil
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from xray_lightning.data.geometry import RULE
from xray_lightning.data.source import Source
from xray_lightning.errors import CacheError
from xray_lightning.records import Record
from xray_lightning.writing import open_replacing, write_json

FORMAT = 2  # 1 had no checksums; such a folder has another name and is not used
MANIFEST = "manifest.json"
REMEDY = "choose another folder with cache_dir=DIR"
GIGABYTE = 1e9
CHUNK = 1 << 24

Facts = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Arrays:
    """The memory-mapped files of a cache.

    Attributes:
        images: (N, S, S) uint8.
        sizes: (N, 2) int32, height and width of the originals.
        sums: (N,) uint32, see :func:`row_sum`.
        done: (N,) uint8, 1 where the image is there.
    """

    images: np.memmap[Any, np.dtype[np.uint8]]
    sizes: np.memmap[Any, np.dtype[np.int32]]
    sums: np.memmap[Any, np.dtype[np.uint32]]
    done: np.memmap[Any, np.dtype[np.uint8]]


def cache_facts(source: Source, records: Sequence[Record], size: int) -> Facts:
    """Everything that determines the bytes of a cache, as plain values."""
    ids = "\n".join(record.image_id for record in records)
    return {
        "format": FORMAT,
        "source": source.name,
        "identity": dict(source.identity()),
        "images": len(records),
        "ids_sha256": hashlib.sha256(ids.encode()).hexdigest(),
        "size": size,
        "decoder": f"opencv {cv2.__version__}",
        "geometry": RULE,
    }


def folder_name(facts: Mapping[str, Any]) -> str:
    """``<source>-<size>px-<12 hex digits>``; other facts, another folder."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode("ascii")).hexdigest()[:12]
    return f"{facts['source']}-{facts['size']}px-{digest}"


def layout(count: int, size: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each binary file."""
    return {
        "images": ((count, size, size), "|u1"),
        "sizes": ((count, 2), "<i4"),
        "sums": ((count,), "<u4"),
        "done": ((count,), "|u1"),
    }


def file_sizes(count: int, size: int) -> dict[str, int]:
    """Bytes of each binary file."""
    return {
        f"{name}.bin": int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
        for name, (shape, kind) in layout(count, size).items()
    }


def open_arrays(folder: Path, count: int, size: int, mode: Literal["r", "r+"]) -> Arrays:
    """The binary files as arrays, read-only or writable."""
    return Arrays(
        **{
            name: np.memmap(folder / f"{name}.bin", dtype=kind, mode=mode, shape=shape)
            for name, (shape, kind) in layout(count, size).items()
        }
    )


def row_sum(row: int, image: npt.NDArray[np.uint8], size: Sequence[int]) -> int:
    """CRC-32 of a row's number, original height and width, and pixels (S, S): 13 us at 256 px."""
    return zlib.crc32(image.tobytes(), zlib.crc32(struct.pack("<3q", row, *size)))


def read_manifest(folder: Path) -> Facts | None:
    """The facts of a cache folder, None if it has none yet.

    Raises:
        CacheError: the file is damaged.
    """
    path = folder / MANIFEST
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise refused(folder, f"{MANIFEST} is damaged ({error})") from None
    if not isinstance(facts, dict):
        raise refused(folder, f"{MANIFEST} is damaged (it holds no object)")
    return facts


def check_folder(folder: Path, found: Mapping[str, Any], expected: Facts) -> None:
    """Raise unless the folder is a cache of exactly these facts, with files of the right size.

    Raises:
        CacheError: names what differs, and the remedy.
    """
    for fact, value in expected.items():
        if found.get(fact) != value:
            raise refused(folder, f"{fact} is {found.get(fact)!r} there, here it is {value!r}")
    for name, size in file_sizes(expected["images"], expected["size"]).items():
        path = folder / name
        actual = path.stat().st_size if path.is_file() else None
        if actual != size:
            raise refused(folder, f"{name} has {actual} bytes instead of {size}")


def refused(folder: Path, reason: str) -> CacheError:
    """The error for a folder that cannot be used, with its remedy."""
    return CacheError(
        f"the image cache {folder} does not match: {reason}. Delete this folder to build it again, "
        f"or {REMEDY}"
    )


def create_folder(folder: Path, facts: Facts, ids: Sequence[str]) -> None:
    """Reserve all disk space, then write the manifest; only a folder with a manifest counts.

    Raises:
        CacheError: the space is not there, or an earlier cache lost its manifest.
    """
    done = folder / "done.bin"
    if done.is_file() and any(done.read_bytes()):
        raise refused(folder, f"{MANIFEST} is gone")
    sizes = file_sizes(facts["images"], facts["size"])
    shutil.rmtree(folder, ignore_errors=True)  # what a run left that died while it reserved
    check_space(folder.parent, sum(sizes.values()))
    folder.mkdir()
    try:
        for name, size in sizes.items():
            reserve(folder / name, size)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise CacheError(f"cannot reserve the image cache {folder}: {error}; {REMEDY}") from error
    with open_replacing(folder / "ids.txt") as file:
        file.writelines(f"{name}\n" for name in ids)
    created = {"created": datetime.now(UTC).isoformat(timespec="seconds")}
    write_json(facts | created, folder / MANIFEST)


def check_space(root: Path, needed: int) -> None:
    """Raise if the disk lacks ``needed`` bytes.

    Raises:
        CacheError: names what is needed, what is free, where, and the remedy.
    """
    free = shutil.disk_usage(root).free
    if needed > free:
        raise CacheError(
            f"the image cache needs {needed / GIGABYTE:.2f} GB but {free / GIGABYTE:.2f} GB are "
            f"free at {root}: {REMEDY}, or a smaller image size"
        )


def reserve(path: Path, size: int) -> None:
    """Create a file of zeros whose blocks are really there.

    A sparse file would be written through its memory map, where a full disk is a SIGBUS.

    Raises:
        OSError: the disk is full.
    """
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        for start in range(0, size, CHUNK):  # macOS and Windows have no posix_fallocate
            file.write(bytes(min(CHUNK, size - start)))
