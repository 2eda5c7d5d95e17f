"""DICOM files become PNG files and a table of what their headers may tell.

A PNG holds the image as ``read_dicom`` gives it, [0, 1] spread over 8 or 16 bits, and nothing
else. It appears whole or not at all. One is done if it and its DICOM file are what they were when
it was written, by size, date and first bytes.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from errno import EDQUOT, ENOSPC
from functools import partial
from itertools import compress
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from xray_lightning.data.decoding import available_cores
from xray_lightning.data.dicom import read_dicom, tally
from xray_lightning.data.dicom.acquisition import COLUMNS, read_allowed
from xray_lightning.data.files import DICOM_ENDINGS, Journal, file_stamp, find_dicom, read_head
from xray_lightning.data.source import require_directory
from xray_lightning.data.tables import read_table
from xray_lightning.errors import ConfigError, DataError, InvalidImageError
from xray_lightning.folders import lock_folder
from xray_lightning.results import Result
from xray_lightning.shards import WHOLE, Shard, lock_shards
from xray_lightning.wording import fault
from xray_lightning.writing import read_written, write_file, write_rows, write_table

NAMES = "names.csv"
DONE = ".convert.done"
HEADER = ("file", *COLUMNS, "png_bits")
FAILED = ("file", "reason")

_DEPTH_AT = 24  # byte of a PNG's bit depth: signature 8, length 4, IHDR 4, width 4, height 4


@dataclass(frozen=True)
class PngOptions:
    """How DICOM files become PNG files; ``frame`` and ``colour`` as ``read_dicom`` takes them."""

    bits: int = 8  # or 16
    rename: bool = False  # number the images; names.csv keeps which is which, also for a rerun
    frame: int | None = None
    colour: str | None = None


@dataclass(frozen=True)
class Conversion(Result):
    """What became of a folder."""

    converted: int  # images written by this run
    before: int  # images that were there, of the same files
    others: int  # files that are not DICOM
    notes: str = ""  # the reader's remarks on all the files, one line
    failures: dict[str, str] = field(default_factory=dict)  # file to reason


@dataclass(frozen=True)
class Outcome:
    """What became of a file."""

    row: Mapping[str, str] | None  # of headers.csv; None where the file could not be read
    failure: str = ""  # why not
    notes: tuple[str, ...] = ()
    was_there: bool = False  # the PNG was done before
    stamp: str = ""  # what both files and the options were, for ``convert_file`` the next time


def convert_folder(
    root: str | Path,
    out: str | Path,
    options: PngOptions = PngOptions(),
    *,
    shard: Shard = WHOLE,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, count: None,
) -> Conversion:
    """Convert every DICOM file below ``root``; what ``out`` has already stays, if nothing changed.

    Writes the PNG files, ``headers.csv``, ``failed.csv`` if a file could not be read, and
    ``.convert.done``, by which a run that was stopped goes on. A shard writes these three into its
    own folder in ``out``; what shards did is done for a run without one.

    Args:
        root: the folder of DICOM files.
        out: the folder to write to.
        options: of the PNG files.
        shard: the files that are this task's; all of them by default.
        workers: threads; by default one per core.
        progress: called with the number of files done and in all.

    Raises:
        DataNotFoundError: no such folder, a closed folder in it, or no DICOM file.
        DataError: two files would become one, or names.csv does not fit the folder.
        ConfigError: an option is out of range, or ``out`` has images of other bits, cannot be
            written to, or is being written to; shards and numbers as names.
    """
    root = require_directory(root, "The DICOM files were to be found there").resolve()
    out, (files, others) = Path(out), find_dicom(root)
    outcomes: list[Outcome] = []
    if shard.count > 1 and options.rename:
        raise ConfigError("rename=true numbers all images: leave out shard=")
    with lock_folder(folder := shard.folder(out)), lock_shards(folder) as shards:
        names = name_images(files, root, out, options)
        own = [shard.owns(name) for name in names]
        files, names = [*compress(files, own)], [*compress(names, own)]
        journal = Journal(folder / DONE)
        journal.join(part / DONE for part in shards)
        stamps = [journal.stamps.get(name, "") for name in names]
        convert = partial(convert_file, out=out, options=options)
        pool = ThreadPoolExecutor(workers or available_cores(), thread_name_prefix="convert")
        try:  # decoding and packing release the interpreter's lock
            for name, outcome in zip(names, pool.map(convert, files, names, stamps), strict=True):
                outcomes.append(outcome)
                if outcome.stamp and not outcome.was_there:
                    journal.add({name: outcome.stamp})
                progress(len(outcomes), len(names))
        finally:  # Ctrl-C comes here too
            pool.shutdown(cancel_futures=True)
            told = {
                path.relative_to(root).as_posix(): outcome.failure
                for path, outcome in zip(files, outcomes, strict=False)  # up to where it stopped
            }
            failures = {name: reason for name, reason in told.items() if reason}
            _write_tables(outcomes, told, folder, complete=len(outcomes) == len(names))
    there = sum(outcome.was_there for outcome in outcomes)
    notes = tally(outcome.notes for outcome in outcomes if outcome.row and not outcome.was_there)
    return Conversion(len(outcomes) - len(failures) - there, there, others, notes, failures)


def _write_tables(
    outcomes: Sequence[Outcome], reasons: Mapping[str, str], out: Path, *, complete: bool
) -> None:
    """headers.csv of the images there, failed.csv if some are not; rows of a stopped run stay."""
    told = [[outcome.row[name] for name in HEADER] for outcome in outcomes if outcome.row]
    failed = [[name, reason] for name, reason in reasons.items() if reason]
    if not complete:
        told += _read_earlier(out / "headers.csv", HEADER, {row[0] for row in told})
        failed += _read_earlier(out / "failed.csv", FAILED, reasons)
    write_table(out / "headers.csv", [HEADER, *told])
    write_rows(out / "failed.csv", [dict(zip(FAILED, row, strict=True)) for row in failed])


def _read_earlier(path: Path, header: Sequence[str], without: Collection[str]) -> list[list[str]]:
    """Rows of a table that an earlier run left, but for some files."""
    rows = read_written(path)
    return [row for row in rows[1:] if rows[0] == list(header) and row[0] not in without]


def name_images(files: Sequence[Path], root: Path, out: Path, options: PngOptions) -> list[str]:
    """The PNG of each file, sorted, below ``root``: the same tree of names, or numbers."""
    if options.bits not in (8, 16):
        raise ConfigError(f"bits must be 8 or 16, got {options.bits}")
    names = [path.relative_to(root).as_posix() for path in files]
    endings = f"({'|'.join(map(re.escape, DICOM_ENDINGS))})$"  # of 1.2.840 nothing is an ending
    targets = [re.sub(endings, "", name, flags=re.IGNORECASE) + ".png" for name in names]
    if options.rename:
        targets = _number_images(names, out)
    first: dict[str, str] = {}
    for name, target in zip(names, targets, strict=True):
        if (other := first.setdefault(target.lower(), name)) != name:
            raise DataError(f"{other} and {name} would both become {target}: rename one of them")
    return targets


def _number_images(names: Sequence[str], out: Path) -> list[str]:
    """``000001.png`` and so on; files that ``names.csv`` knows keep their numbers."""
    # a file that does not fit the folder was lost or cut: a second patient could get a number again
    path = out / NAMES
    known: dict[str, str] = {}
    if path.is_file():
        table = read_table(path, "original", "file", once="original")
        table.require(once="file")
        known = dict(zip(table.text("original"), table.text("file"), strict=True))
    strange = [file for file in known.values() if not re.fullmatch(r"\d{6,}\.png", file)]
    strange += sorted({file.name for file in out.glob("*.png")} - set(known.values()))
    if strange:
        raise DataError(fault("numbered_pictures", path, strange[0]))
    most = max((int(Path(file).stem) for file in known.values()), default=0)
    new = [name for name in names if name not in known]
    known |= {name: f"{number:06d}.png" for number, name in enumerate(new, start=most + 1)}
    write_table(path, [("original", "file"), *known.items()])
    return [known[name] for name in names]


def convert_file(path: Path, name: str, done: str, *, out: Path, options: PngOptions) -> Outcome:
    """``name`` in ``out``, unless it is ``done``: by the stamp that an earlier run gave it."""
    source = file_stamp(path)  # before it is read: a change from here on shows
    target, bits, frame, colour = out / name, options.bits, options.frame, options.colour

    def stamp() -> str:
        return f"{source} {file_stamp(target)} {bits} {frame} {colour}"

    try:
        depth = (read_head(target) or b"")[_DEPTH_AT : _DEPTH_AT + 1]
        if depth in (b"\x08", b"\x10") and ord(depth) != bits:
            raise ConfigError(fault("png_bits", target, ord(depth), bits))
        was_there = bool(source) and done == stamp()
        image = None if was_there else read_dicom(path, frame=frame, colour=colour)
        row = {"file": name, **read_allowed(path), "png_bits": str(bits)}
        if image is None:
            return Outcome(row, was_there=True, stamp=done)
        write_png(target, image.pixels, bits)
        return Outcome(row, notes=image.notes, stamp=stamp())
    except (InvalidImageError, OSError) as error:
        if getattr(error, "errno", None) in (ENOSPC, EDQUOT):  # no other will have room
            raise
        return Outcome(None, str(error))


def write_png(path: Path, pixels: npt.NDArray[np.float32], bits: int) -> None:
    """Write (H, W) in [0, 1] as grey PNG; the file appears whole or not at all."""
    kind = np.uint8 if bits == 8 else np.uint16
    grey = np.rint(pixels * np.float32(2**bits - 1)).astype(kind)  # of 8 bits as ``to_uint8``
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, cv2.imencode(".png", grey)[1].tobytes())
