"""VinDr-CXR (Nguyen et al., Scientific Data 9:429, 2022), as PhysioNet and as Kaggle pack it.

============  ======================================================================================
images        15,000 films for training and 3,000 for testing, of two hospitals in Hanoi, all PA by
              the paper; DICOM, ``train/ID.dicom`` and ``test/ID.dicom``, some MONOCHROME1 (541 of
              the test part) or JPEG 2000
readers       17 radiologists, three for each film of training; five agreed on each film of testing
PhysioNet     ``annotations/image_labels_train.csv``: a row per image and reader, 0 or 1 for 22
              findings, 5 diseases and "No finding", 45,000 rows; ``image_labels_test.csv``: no
              reader, 3,000 rows; ``annotations_{train,test}.csv``: boxes of the findings
Kaggle        ``train.csv`` (VinBigData): a row per box, 14 of the findings, 67,914 rows; 10,606
              images with three "No finding". Its test part has no labels
boxes         corners in pixels of the DICOM file, one per reader and place
patients      told nowhere. View, age and sex stand in some DICOM headers, which are not opened
============  ======================================================================================

Three readers seldom agree, so ``readers`` stands in every title. Traps: ``data/README.md``.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

from xray_lightning.data.source import Source, find_files, find_table, index_images, read_facts, say
from xray_lightning.data.tables import Table, is_present, read_table
from xray_lightning.errors import TableError, require_choice
from xray_lightning.records import Box, Record
from xray_lightning.wording import fault

PHYSIONET, KAGGLE = read_facts("vindr"), read_facts("vindr on Kaggle")
DISEASES = PHYSIONET.labels[-5:]  # without boxes
NONE = "No finding"
TABLES = ("annotations/image_labels_train.csv", "train.csv")
READERS: Mapping[str, Callable[[float], float]] = {  # share of the readers who marked it -> target
    "any": lambda share: float(share > 0),
    "majority": lambda share: float(share > 0.5),
    "all": lambda share: float(share == 1),
    "share": float,
}
_IMAGE, _READER, _CLASS = "image_id", "rad_id", "class_name"
_CORNERS = ("x_min", "y_min", "x_max", "y_max")


@dataclass
class Readings:
    """What each reader said of each image, and drew on it."""

    rows: int  # of the label table
    marked: dict[str, dict[str, set[str]]] = field(default_factory=dict)  # image: {reader: labels}
    boxes: dict[str, list[Box]] = field(default_factory=lambda: defaultdict(list))  # image: boxes

    def shares(self, labels: Sequence[str]) -> dict[str, list[float]]:
        """Of each image, the share of its readers who marked each label, (L,)."""
        return {
            image: [sum(label in one for one in own.values()) / len(own) for label in labels]
            for image, own in self.marked.items()
        }


class Vindr(Source, published="vindr"):
    """A VinDr-CXR folder. ``official`` is PhysioNet's train and test part, where both are there.

    ``root`` and ``allow_missing`` are as of every :class:`Source`.

    Args:
        readers: when a finding of the training part is present: "any" of its readers marked it, the
            "majority" of them, "all"; "share": the target is the share of readers, on which a loss
            may train, and all but 0 and 1 are unknown to every metric.

    Raises:
        ConfigError: ``readers`` is none of the four.
        DataNotFoundError, TableError, DataError: as every :class:`Source` of a folder; also without
            the boxes beside a label table.
    """

    def __init__(
        self, root: str | Path, *, readers: str = "majority", allow_missing: bool = False
    ) -> None:
        require_choice("readers", readers, READERS)
        folder, notes = self.open_folder(root, allow_missing=allow_missing)
        self.choices = {"readers": readers}
        first = find_table(folder, TABLES, self.facts.expected, notes)
        self.facts = KAGGLE if first.parent == folder else PHYSIONET
        self.labels = self.facts.labels
        parts = read_subsets(first, self.labels)
        if len(parts) == 2:
            train, test = (frozenset(part.marked) for part in parts)
            self.official = {"train_val": train, "test": test}
        folders = [folder, *(folder / name for name in ("train", "test")[: len(parts)])]
        paths = index_images(folders, (".dicom", ".dcm", ".png"))
        records = [
            Record(
                *(image, image, tuple(map(READERS[readers], shares)), paths.get(image)),
                boxes=tuple(part.boxes[image]),
                view="PA",
            )
            for part in parts
            for image, shares in part.shares(self.labels).items()
        ]
        notes += _list_oddities(parts[0], records, self.labels)
        counts, stray = _count(parts[0], self.labels), paths.keys() - {r.image_id for r in records}
        self.fill(records, notes, counts=counts, stray=stray)


def read_subsets(first: Path, labels: Sequence[str]) -> list[Readings]:
    """The training part and, if it is there, the test part, by the first label table."""
    table = read_table(first, _READER)
    if first.name.startswith("train"):
        table.require(_IMAGE, _CLASS)
        readings = Readings(len(table))
        for image, reader, label in zip(*map(table.text, (_IMAGE, _READER, _CLASS)), strict=True):
            readings.marked.setdefault(image, {}).setdefault(reader, set()).add(label)
        _read_boxes(table, labels, readings)
        return [readings]
    tested = find_files(first.parent, "image_labels_test.csv")[:1]
    parts = [_read_marks(part, labels) for part in (table, *map(read_table, tested))]
    for part, name in zip(parts, ("train", "test"), strict=False):
        boxes = find_table(first.parent, [f"annotations_{name}.csv"], PHYSIONET.expected, [])
        _read_boxes(read_table(boxes), labels, part)
    return parts


def _read_marks(table: Table, labels: Sequence[str]) -> Readings:
    """PhysioNet's 0 and 1 of each image, reader and label."""
    columns = {label: label for label in (*labels, NONE)}
    if "Other disease" in table.columns:
        columns["Other diseases"] = "Other disease"
    table.require(_IMAGE, *columns.values())
    marks = [table.convert(column, is_present, "0 or 1") for column in columns.values()]
    readings = Readings(len(table))
    rows = zip(table.text(_IMAGE), table.text(_READER), *marks, strict=True)
    for i, (image, reader, *marked) in enumerate(rows):
        readers = readings.marked.setdefault(image, {})
        if not image or reader in readers:
            raise TableError(f"{table.place(i)}: {image!r} by {reader!r} is blank or stands twice")
        readers[reader] = set(compress(columns, marked))
    return readings


def _read_boxes(table: Table, labels: Sequence[str], readings: Readings) -> None:
    """Add the boxes of a table to the readings; diseases and "No finding" have none."""
    table.require(_IMAGE, _CLASS, *_CORNERS)
    corners = zip(*(table.numbers(name) for name in _CORNERS), strict=True)
    rows = zip(table.text(_IMAGE), table.text(_READER), table.text(_CLASS), corners, strict=True)
    for i, (image, reader, label, numbers) in enumerate(rows):
        if not image or image not in readings.marked or label not in (*labels, NONE):
            raise TableError(fault("strange_box", table.place(i), label, image, labels, NONE))
        if label in (*DISEASES, NONE) and all(map(math.isnan, numbers)):
            continue  # of the whole image
        left, top, right, bottom = numbers
        box = Box(label, left, top, right - left, bottom - top, reader)
        area = 0 <= left < right < math.inf and 0 <= top < bottom < math.inf  # NaN fails as well
        if not area or box in readings.boxes[image] or label == NONE:
            raise TableError(fault("box_area", table.place(i), label, _CORNERS, numbers))
        readings.boxes[image].append(box)


def _count(train: Readings, labels: Sequence[str]) -> dict[str, dict[str, int]]:
    """Rows, images and readers; images with each label by any, the majority and all readers."""
    marks = [list(readers.values()) for readers in train.marked.values()]
    columns = dict(zip(labels, zip(*train.shares(labels).values(), strict=True), strict=True))
    table = {
        "rows": train.rows,
        "images": len(marks),
        "readers": len({reader for readers in train.marked.values() for reader in readers}),
        "three No finding": sum(sum(NONE in own for own in of_image) == 3 for of_image in marks),
    }
    return {"table": table} | {
        name: {label: int(sum(map(READERS[name], shares))) for label, shares in columns.items()}
        for name in ("any", "majority", "all")
    }


def _list_oddities(train: Readings, records: Sequence[Record], labels: Sequence[str]) -> list[str]:
    """Say what is odd about the readings, and which boxes no map is scored on."""
    readings = [marked for readers in train.marked.values() for marked in readers.values()]
    drawn = [(record, {box.label for box in record.boxes}) for record in records]
    return say(
        "odd_readings",
        sum(len(readers) != 3 for readers in train.marked.values()),
        sum(NONE in marked and len(marked) > 1 for marked in readings),
        sum(r.targets[labels.index(label)] == 0 for r, own in drawn for label in own),
    )
