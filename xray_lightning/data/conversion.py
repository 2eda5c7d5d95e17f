"""DICOM files become PNG files and a table of what their headers may tell.

A PNG holds the image as ``read_dicom`` gives it, [0, 1] spread over 8 or 16 bits, and nothing
else. It appears whole or not at all. One is done if it and its DICOM file are what they were when
it was written, by size, date and first bytes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from xray_lightning.data.dicom import is_dicom, read_dicom, to_uint8
from xray_lightning.data.files import file_stamp, read_head, walk_files
from xray_lightning.data.headers import COLUMNS, read_headers
from xray_lightning.data.tables import read_table
from xray_lightning.errors import ConfigError, DataError, DataNotFoundError, InvalidImageError
from xray_lightning.writing import open_replacing, write_table

BITS = (8, 16)
SUFFIXES = (".dcm", ".dicom", ".ima")
NAMES = "names.csv"
HEADER = ("file", *COLUMNS, "png_bits")
FAILED = ("file", "reason")

_DEPTH_AT = 24  # byte of a PNG's bit depth: signature 8, length 4, IHDR 4, width 4, height 4


@dataclass(frozen=True)
class Job:
    """One file to convert.

    Attributes:
        source: the DICOM file.
        target: the PNG file.
        name: ``target`` relative to the output folder, for the table.
        bits: 8 or 16.
        frame: which of several frames, as ``read_dicom`` takes it.
        colour: "luma", or None to refuse colour.
    """

    source: Path
    target: Path
    name: str
    bits: int
    frame: int | None = None
    colour: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: the job.
        facts: columns of the header table; None where the file could not be read.
        failure: why not, else "".
        notes: the reader's remarks.
        was_there: the PNG was done before.
        stamp: what both files and the settings were, to be given to ``convert`` the next time.
    """

    job: Job
    facts: Mapping[str, str] | None
    failure: str = ""
    notes: tuple[str, ...] = ()
    was_there: bool = False
    stamp: str = ""


def find_dicom(root: Path) -> tuple[list[Path], int]:
    """DICOM files below a folder, sorted, and the number of other files.

    A file counts by its ending or by the mark at byte 128; links to folders are not followed.

    Raises:
        DataNotFoundError: there is none, or a folder cannot be listed.
    """
    below = sorted(walk_files(root, follow=False))
    found = [path for path in below if _is_dicom(path)]
    if not found:
        raise DataNotFoundError(f"there is no DICOM file in {root}, only {len(below):,} others")
    return found, len(below) - len(found)


def _is_dicom(path: Path) -> bool:
    if path.name.upper() == "DICOMDIR":  # an index, no image
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    head = read_head(path)
    return head is None or is_dicom(head)  # converting it will say why it cannot be read


def plan(sources: Sequence[Path], root: Path, out: Path, *, bits: int, rename: bool) -> list[Job]:
    """A job for each file: the same tree of names, or numbers.

    Args:
        sources: files below ``root``, sorted.
        root: the folder they come from.
        out: the folder to write to.
        bits: of the PNG files, 8 or 16.
        rename: number the images; ``names.csv`` in ``out`` keeps which is which, so that a rerun
            gives the same numbers.

    Raises:
        ConfigError: ``bits`` is another number.
        DataError: two files would become one, or ``names.csv`` does not fit the folder.
    """
    if bits not in BITS:
        raise ConfigError(f"bits must be 8 or 16, got {bits}")
    names = [path.relative_to(root).as_posix() for path in sources]
    targets = _numbered(names, out) if rename else [_png_name(name) for name in names]
    first: dict[str, str] = {}
    for name, target in zip(names, targets, strict=True):
        if first.setdefault(target.lower(), name) != name:
            other = first[target.lower()]
            raise DataError(f"{other} and {name} would both become {target}: rename one of them")
    pairs = zip(sources, targets, strict=True)
    return [Job(source, out / target, target, bits) for source, target in pairs]


def _png_name(name: str) -> str:
    """``a.dcm`` becomes ``a.png``; of ``1.2.840`` nothing is an ending."""
    pattern = "|".join(map(re.escape, SUFFIXES))
    return re.sub(f"({pattern})$", "", name, flags=re.IGNORECASE) + ".png"


def _numbered(names: Sequence[str], out: Path) -> list[str]:
    """``000001.png`` and so on; files that ``names.csv`` knows keep their numbers.

    Raises:
        DataError: a name in it is no number or given twice, or it lacks a picture of the folder:
            it was lost or cut, and a number could be given to a second patient.
    """
    path = out / NAMES
    known: dict[str, str] = {}
    if path.is_file():
        table = read_table(path)
        table.require("original", "file")
        table.refuse_repeats("original")
        table.refuse_repeats("file")
        known = dict(zip(table.text("original"), table.text("file"), strict=True))
    numbers = [re.fullmatch(r"(\d{6,})\.png", file) for file in known.values()]
    strange = [file for file, number in zip(known.values(), numbers, strict=True) if not number]
    strange += sorted({file.name for file in out.glob("*.png")} - set(known.values()))
    if strange:
        raise DataError(
            f"{path} and the pictures beside it do not match, the first is {strange[0]!r}: restore "
            "the table, or name another folder"
        )
    most = max((int(number[1]) for number in numbers if number), default=0)
    new = [name for name in names if name not in known]
    known |= {name: f"{number:06d}.png" for number, name in enumerate(new, start=most + 1)}
    write_table(path, [("original", "file"), *known.items()])
    return [known[name] for name in names]


def convert(job: Job, done: str = "") -> Outcome:
    """Do one job, unless it is done.

    Args:
        job: the job.
        done: the stamp of the outcome that an earlier run had of it.

    Raises:
        ConfigError: the PNG is there with another depth.
    """
    source = file_stamp(job.source)  # before it is read: a change from here on shows
    try:
        _check_depth(job)
        if source and done == _stamp(job, source):
            return Outcome(job, _facts(job), was_there=True, stamp=done)
        image = read_dicom(job.source, frame=job.frame, colour=job.colour)
        facts = _facts(job)
        write_png(job.target, image.pixels, job.bits)
        return Outcome(job, facts, notes=tuple(image.notes), stamp=_stamp(job, source))
    except (InvalidImageError, OSError) as error:
        return Outcome(job, None, str(error))


def _facts(job: Job) -> dict[str, str]:
    return {"file": job.name, **read_headers(job.source), "png_bits": str(job.bits)}


def _stamp(job: Job, source: str) -> str:
    return f"{source} {file_stamp(job.target)} {job.bits} {job.frame} {job.colour}"


def _check_depth(job: Job) -> None:
    depth = (read_head(job.target) or b"")[_DEPTH_AT : _DEPTH_AT + 1]
    if depth in (b"\x08", b"\x10") and ord(depth) != job.bits:
        raise ConfigError(
            f"{job.target} has {ord(depth)} bits: choose another folder for {job.bits} bits"
        )


def write_png(path: Path, pixels: npt.NDArray[np.float32], bits: int) -> None:
    """Write (H, W) in [0, 1] as grey PNG; the file appears whole or not at all."""
    grey: npt.NDArray[np.uint8 | np.uint16]
    if bits == 8:
        grey = to_uint8(pixels)  # as the networks see the DICOM file
    else:
        grey = np.rint(pixels * np.float32(2**bits - 1)).astype(np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_replacing(path, "wb") as file:
        file.write(cv2.imencode(".png", grey)[1].tobytes())
