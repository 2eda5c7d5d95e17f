"""Any folder of images with a table; which columns mean what: ``data/README.md``, "Your own table".

``columns`` gives the table's own names for ``RESERVED``; all others but ``NO_LABELS`` are labels.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from xray_lightning.data.partition import read_split_column
from xray_lightning.data.source import Source, locate_files, read_facts, require_directory, say
from xray_lightning.data.tables import LOST_ID, Table, binary, read_boxes, read_table
from xray_lightning.errors import ConfigError, TableError
from xray_lightning.records import Records
from xray_lightning.wording import fault

RESERVED = ("image", "patient", "split", "age", "sex", "view", "follow_up")
NO_LABELS = read_facts("csv").no_labels
BOX_COLUMNS = ("image", "label", "x", "y", "width", "height")


class CsvTable(Source):
    """A folder of images with a table; ``allow_missing`` is as of every :class:`Source`.

    Args:
        table: the table, as :func:`~.tables.read_table` reads it.
        root: the folder that its image names are relative to; None: the folder of the table.
        labels: the label columns; None: every column that is in neither ``RESERVED`` nor
            ``NO_LABELS``.
        columns: the table's names for some of ``RESERVED``, such as ``{"patient": "subject_id"}``.
        boxes: a table of boxes.
        name: short name used in file names and tables.

    Raises:
        DataNotFoundError, TableError: as every :class:`Source` of a folder; also for boxes.
        ConfigError: ``labels`` is empty, repeats a name, or names a reserved column; ``columns``
            has another key than those of ``RESERVED``.
    """

    population = ""  # a hospital's patient numbers, even hashed, stay out of checkpoints

    def __init__(
        self,
        table: str | Path,
        *,
        root: str | Path | None = None,
        labels: Sequence[str] | None = None,
        columns: Mapping[str, str] | None = None,
        boxes: str | Path | None = None,
        allow_missing: bool = False,
        name: str = "csv",
    ) -> None:
        entries, columns = read_table(Path(table)), {} if columns is None else columns
        if not isinstance(columns, Mapping) or not set(columns) <= set(RESERVED):
            raise ConfigError(fault("columns", RESERVED, columns))
        entries.require(*columns.values())
        rest = [name for name in entries.columns if name not in {*columns, *columns.values()}]
        entries = replace(entries, frame=entries.frame.select(*rest, **columns))
        entries.require("image", once="image", remedy="data.columns={image: NAME}")
        folder = Path(table).parent if root is None else root
        self.root = require_directory(folder, "The images of the table were to be found there")
        self.name, self.allow_missing = name, allow_missing
        notes: list[str] = []
        self.labels = _choose_labels(entries, labels, notes)
        self.records = _make_records(entries, self.labels, self.root, boxes, notes)
        if "split" in entries.columns:
            subsets = read_split_column(entries)
            self.official = {name: frozenset(ids) for name, ids in subsets.items() if ids}
            notes += say("split_column")
        first = self.root / next(iter(self.missing), "")
        self.notes = (*notes, *say("not_at", len(self.missing), len(self.records), first))


def _choose_labels(table: Table, chosen: Sequence[str] | None, notes: list[str]) -> tuple[str, ...]:
    """The label columns, in the order chosen or of the table."""
    if chosen is None:
        others = [name for name in table.columns if name not in RESERVED]
        known = [name for name in others if re.sub(r"[\s-]", "_", name.lower()) in NO_LABELS]
        labels = tuple(name for name in others if name not in known)
        if not labels:
            raise TableError(f"{table.path} has no label column, only {', '.join(table.columns)}")
        notes += say("label_columns", labels, known)
        return labels
    if isinstance(chosen, str):
        raise ConfigError(f"data.labels is a list of columns such as [{chosen}], got {chosen!r}")
    labels = tuple(chosen)
    if not labels or len(set(labels)) < len(labels) or set(labels) & set(RESERVED):
        raise ConfigError(fault("label_columns", RESERVED, labels))
    table.require(*labels)
    return labels


def _make_records(
    table: Table, labels: Sequence[str], root: Path, box_path: str | Path | None, notes: list[str]
) -> Records:
    images = table.text("image")
    paths = locate_files(root, images)
    _refuse_two_names(table, images, paths)
    known = BOX_COLUMNS, labels, set(images)
    boxes = read_boxes(read_table(Path(box_path)), *known) if box_path else {}
    wanted = fault("wanted_targets")
    of_labels = (table.convert(label, binary, wanted) for label in labels)
    targets = np.column_stack([*of_labels])  # (N, L)
    notes += say("unknown_targets", int(np.isnan(targets).sum()))
    return Records(
        image_id=images,
        patient_id=_read_patients(table, notes),
        targets=targets,
        path=paths,
        boxes=[boxes.get(image, ()) for image in images],  # in pixels of the file
        age=table.ages("age", notes),
        sex=table.sexes("sex", notes),
        view=table.convert("view", str.upper, "a view"),
        follow_up=table.numbers("follow_up"),
    )


def _refuse_two_names(table: Table, images: Sequence[str], paths: Sequence[Path | None]) -> None:
    """Two names of one file (spellings, links) would be two images, perhaps one of them in test."""
    real = {folder: folder.resolve() for folder in {path.parent for path in paths if path}}
    links = {entry.path for folder in real for entry in os.scandir(folder) if entry.is_symlink()}
    seen: dict[str | Path, str] = {}
    for image, path in zip(images, paths, strict=True):
        place: str | Path = os.path.normpath(image)
        if path:
            place = path.resolve() if str(path) in links else real[path.parent] / path.name
        first = seen.setdefault(place, image)
        if first != image:
            raise TableError(f"{table.path} names one file twice: {first} and {image}")


def _read_patients(table: Table, notes: list[str]) -> Sequence[str]:
    """Patient of each row, (N,)."""
    if "patient" not in table.columns:
        notes += say("no_patients")
        return table.text("image")
    table.refuse_blanks("patient", LOST_ID)
    patients = table.text("patient")
    alike: dict[str, list[str]] = {}
    for patient in dict.fromkeys(patients):
        name = re.sub(r"^0*(\d+?)(\.0*)?$", r"\1", patient.casefold())
        alike.setdefault(name, []).append(patient)
    notes += say("alike", [" and ".join(ids) for ids in alike.values() if len(ids) > 1])
    return patients
