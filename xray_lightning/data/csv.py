"""Any folder of images with a table: ``image``, label columns, and what else is known.

=================  =================================================================================
``image``          file, relative to the root or absolute; it is the image id
label columns      1 present, 0 absent, blank or -1 unknown; all other columns unless ``labels``
                   names them
``patient``        optional; without it every image counts as its own patient
``split``          optional; train, val (or valid, validation) or test
``age``            optional; years, or as ``058Y``
``sex``            optional; M or F
``view``           optional; PA, AP, ...
``follow_up``      optional; 0 for a patient's first image
=================  =================================================================================

Boxes stand in a table of their own: image, label, x, y, width, height, in pixels of the file.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from xray_lightning.data.images import READER_VERSION, read_record
from xray_lightning.data.source import Pixels
from xray_lightning.data.tables import (
    Table,
    counted,
    existing_folder,
    names_in,
    read_boxes,
    read_table,
)
from xray_lightning.errors import ConfigError, TableError
from xray_lightning.records import NAN, Record

RESERVED = ("image", "patient", "split", "age", "sex", "view", "follow_up")
BOX_COLUMNS = ("image", "label", "x", "y", "width", "height")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class CsvTable:
    """A folder of images with a table as a ``Source``; the protocol explains the attributes.

    Args:
        table: the table, comma-separated, perhaps gzip-compressed.
        root: the folder that its image names are relative to; None: the folder of the table.
        labels: the label columns; None: every column that is not one of ``RESERVED``.
        boxes: a table of boxes.
        allow_missing: let commands that read pixels leave out the images that are not on disk.
        name: short name used in file names and tables.

    Raises:
        DataNotFoundError: no table, no box table or no root.
        TableError: a table lacks a column, repeats an image, or has a cell that is not allowed;
            names the row and the cell.
        ConfigError: ``labels`` is empty, repeats a name, or names a reserved column.
    """

    population: str = ""  # a hospital's patient numbers, even hashed, stay out of checkpoints

    def __init__(
        self,
        table: str | Path,
        *,
        root: str | Path | None = None,
        labels: Sequence[str] | None = None,
        boxes: str | Path | None = None,
        allow_missing: bool = False,
        name: str = "csv",
    ) -> None:
        entries = read_table(Path(table))
        entries.require("image")
        entries.refuse_repeats("image")
        folder = Path(table).parent if root is None else root
        self.root = existing_folder(folder, "The images of the table were to be found there")
        self.name = self.title = name
        self.allow_missing = allow_missing
        self.labels: tuple[str, ...] = _labels(entries, labels)
        notes: list[str] = []
        self.records: Sequence[Record] = _records(entries, self.labels, self.root, boxes, notes)
        absent = (record.image_id for record in self.records if record.path is None)
        self.missing: Sequence[str] = tuple(absent)
        self.official: Mapping[str, frozenset[str]] | None = _official(entries)
        if self.missing:
            notes.append(
                f"{len(self.missing):,} of the {len(self.records):,} images in the table are not "
                f"on disk, the first was looked for at {self.root / self.missing[0]}"
            )
        self.notes: Sequence[str] = tuple(notes)

    def read(self, record: Record) -> Pixels:
        """The image at its original size, (H, W) uint8. Thread-safe.

        Raises:
            InvalidImageError: the file is no intact image.
            MissingImagesError: the record has no file.
        """
        return read_record(record)

    def identity(self) -> dict[str, str | int | float | bool]:
        """The folder and the version of the reader."""
        return {"source": self.name, "root": str(self.root.resolve()), "reader": READER_VERSION}


def _labels(table: Table, chosen: Sequence[str] | None) -> tuple[str, ...]:
    """The label columns, in the order chosen or of the table."""
    if chosen is None:
        labels = tuple(name for name in table.columns if name not in RESERVED)
        if not labels:
            raise TableError(f"{table.path} has no label column, only {', '.join(table.columns)}")
        return labels
    if isinstance(chosen, str):
        raise ConfigError(f"data.labels is a list of columns such as [{chosen}], got {chosen!r}")
    labels = tuple(chosen)
    if not labels or len(set(labels)) < len(labels) or set(labels) & set(RESERVED):
        raise ConfigError(
            f"labels must be different columns other than {', '.join(RESERVED)}, got {labels!r}"
        )
    table.require(*labels)
    return labels


def _records(
    table: Table,
    labels: Sequence[str],
    root: Path,
    box_path: str | Path | None,
    notes: list[str],
) -> tuple[Record, ...]:
    """One record per row of the table."""
    images = table.text("image")
    paths = _files(root, images)
    _refuse_two_names(table, images, paths)
    boxes = (
        read_boxes(read_table(Path(box_path)), BOX_COLUMNS, labels, set(images)) if box_path else {}
    )
    targets = list(zip(*(_targets(table, label) for label in labels), strict=True))  # (N, L)
    unknown = sum(math.isnan(target) for row in targets for target in row)
    if unknown:
        notes.append(f"{counted(unknown, 'target')} unknown (blank or -1)")
    columns = (
        images,
        _patients(table, notes),
        targets,
        map(paths.get, images),
        [boxes.get(image, ()) for image in images],
        [None] * len(images),  # boxes are in pixels of the file
        table.ages("age", notes),
        table.sexes("sex", notes),
        table.convert("view", str.upper, "a view"),
        table.numbers("follow_up"),
    )
    return tuple(map(Record, *columns))


def _refuse_two_names(table: Table, images: Sequence[str], paths: Mapping[str, Path]) -> None:
    """Two names of one file would be two images, perhaps one in training and one in test.

    They are two spellings, or a link and what it leads to.

    Raises:
        TableError: names both.
    """
    real = {folder: folder.resolve() for folder in {path.parent for path in paths.values()}}
    links = {entry.path for folder in real for entry in os.scandir(folder) if entry.is_symlink()}
    seen: dict[str | Path, str] = {}
    for image in images:
        place: str | Path = os.path.normpath(image)
        if path := paths.get(image):
            place = path.resolve() if str(path) in links else real[path.parent] / path.name
        first = seen.setdefault(place, image)
        if first != image:
            raise TableError(f"{table.path} names one file twice: {first} and {image}")


def _targets(table: Table, label: str) -> list[float]:
    """Targets of one label, (N,)."""
    wanted = "1, 0, or blank or -1 for unknown. If it is no label, choose those by labels=[...]"
    return table.convert(label, _target, wanted)


def _target(cell: str) -> float:
    value = float(cell or -1)
    if value not in (0, 1, -1):
        raise ValueError
    return NAN if value == -1 else value


def _patients(table: Table, notes: list[str]) -> Sequence[str]:
    """Patient of each row, (N,)."""
    if "patient" not in table.columns:
        notes.append(
            "The table has no column 'patient': every image counts as its own patient, so a split "
            "by patients cannot protect against leaks"
        )
        return table.text("image")
    return table.convert("patient", _not_blank, "the id of a patient")


def _not_blank(cell: str) -> str:
    if not cell:
        raise ValueError
    return cell


def _files(root: Path, images: Iterable[str]) -> dict[str, Path]:
    """Image id -> file, for the images on disk, by one scan of each folder."""
    paths = {image: root / image for image in images}
    folders = {path.parent for path in paths.values()}
    present = {folder: frozenset(names_in(folder)) for folder in folders if folder.is_dir()}
    return {
        image: path
        for image, path in paths.items()
        if path.name in present.get(path.parent, frozenset())
    }


def _official(table: Table) -> dict[str, frozenset[str]] | None:
    """Image ids of each part of the ``split`` column; None without one."""
    if "split" not in table.columns:
        return None
    wanted = "train, val (or valid, validation) or test"
    parts = table.convert("split", _split, wanted)
    pairs = list(zip(table.text("image"), parts, strict=True))
    return {
        part: frozenset(image for image, its_part in pairs if its_part == part)
        for part in dict.fromkeys(SPLITS.values())
        if part in parts
    }


def _split(cell: str) -> str:
    if cell.lower() not in SPLITS:
        raise ValueError
    return SPLITS[cell.lower()]
