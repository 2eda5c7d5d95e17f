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

Three readers seldom agree: of Nodule/Mass one of them marks 826 images (any), two 405 (majority),
three 181 (all), so ``readers`` stands in the title of every table. Traps: the two packages do not
agree to the image (PhysioNet: Nodule/Mass 841, 409, 181); the test table writes "Other disease"
where that of training writes "Other diseases"; Kaggle's files of eight rarer findings are there,
their labels are not.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xray_lightning.data.source import (
    Source,
    compare_counts,
    disk_notes,
    index_images,
    require_directory,
    warn_unknown_patients,
)
from xray_lightning.data.tables import Table, format_count, is_present, read_table
from xray_lightning.errors import ConfigError, DataNotFoundError, TableError
from xray_lightning.records import Box, Record

KAGGLE = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation"),
    *("ILD", "Infiltration", "Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion"),
    *("Pleural thickening", "Pneumothorax", "Pulmonary fibrosis"),
)
RARER = (
    *("Clavicle fracture", "Edema", "Emphysema", "Enlarged PA", "Lung cavity", "Lung cyst"),
    *("Mediastinal shift", "Rib fracture"),
)
DISEASES = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases")  # without boxes
NONE = "No finding"
READERS: Mapping[str, Callable[[float], float]] = {  # share of the readers who marked it -> target
    "any": lambda share: float(share > 0),
    "majority": lambda share: float(share > 0.5),
    "all": lambda share: float(share == 1),
    "share": float,
}
EXPECTED = (
    "A VinDr-CXR folder holds annotations/image_labels_train.csv and annotations_train.csv "
    "(PhysioNet) or train.csv (Kaggle), and the films in train/ and test/"
)
UNKNOWN_PATIENTS = (
    "patients cannot be told apart: no table of VinDr-CXR names them, every image counts as its "
    "own patient, and images of one patient may lie on both sides of a random split"
)
_COUNTED = ("Pneumothorax", "Nodule/Mass", "Cardiomegaly", "Pleural effusion")
PUBLISHED: Mapping[str, Mapping[str, Mapping[str, int]]] = {
    "PhysioNet": {"table": {"rows": 45_000, "images": 15_000, "readers": 17}},
    "Kaggle": {
        "table": {"rows": 67_914, "images": 15_000, "readers": 17, "three No finding": 10_606},
        "any": dict(zip(_COUNTED, (96, 826, 2_300, 1_032), strict=True)),
        "majority": dict(zip(_COUNTED, (58, 405, 1_817, 634), strict=True)),
        "all": dict(zip(_COUNTED, (45, 181, 1_297, 439), strict=True)),
    },
}
_IMAGE, _READER, _CLASS = "image_id", "rad_id", "class_name"
_CORNERS = ("x_min", "y_min", "x_max", "y_max")


@dataclass
class Readings:
    """What each reader said of each image, and drew on it."""

    rows: int = 0
    marked: dict[str, dict[str, set[str]]] = field(default_factory=dict)  # image: {reader: labels}
    boxes: dict[str, list[Box]] = field(default_factory=dict)  # image: boxes

    def shares(self, labels: Sequence[str]) -> dict[str, list[float]]:
        """Of each image, the share of its readers who marked each label, (L,)."""
        return {
            image: [
                sum(label in one for one in readers.values()) / len(readers) for label in labels
            ]
            for image, readers in self.marked.items()
        }


class Vindr(Source):
    """A VinDr-CXR folder. ``official`` is PhysioNet's train and test part, where both are there.

    Args:
        root: the folder.
        readers: when a finding of the training part is present: "any" of its readers marked it, the
            "majority" of them, "all"; "share": the target is the share of readers, on which a loss
            may train, and all but 0 and 1 are unknown to every metric.
        allow_missing: let commands that read pixels leave out the images that are not on disk.

    Raises:
        ConfigError: ``readers`` is none of the four.
        DataNotFoundError: no folder, no label table, or no boxes beside it.
        TableError: a table lacks a column, repeats a row, names an unknown label or image, or has a
            malformed number or a box without area; names the row.
        DataError: two files are the same image.
    """

    name = "vindr"

    def __init__(
        self, root: str | Path, *, readers: str = "majority", allow_missing: bool = False
    ) -> None:
        if readers not in READERS:
            raise ConfigError(f"readers must be one of {', '.join(READERS)}, got {readers!r}")
        self.root = folder = require_directory(root, EXPECTED)
        self.allow_missing, self.choices = allow_missing, {"readers": readers}
        notes: list[str] = []
        package, self.labels, parts = _read_parts(folder)
        if len(parts) == 2:
            train, test = (frozenset(part.marked) for part in parts)
            self.official = {"train_val": train, "test": test}
        warn_unknown_patients(self.title, UNKNOWN_PATIENTS, notes)
        folders = [folder, *(folder / name for name in ("train", "test")[: len(parts)])]
        suffixes = (".dicom", ".dcm", ".png")
        paths = index_images(filter(Path.is_dir, folders), suffixes, lambda path: path.stem)
        self.records = tuple(
            Record(
                *(image, image, tuple(map(READERS[readers], shares)), paths.get(image)),
                boxes=tuple(part.boxes.get(image, ())),
                view="PA",
            )
            for part in parts
            for image, shares in part.shares(self.labels).items()
        )
        self.counts = _count(parts[0], self.labels)
        notes += compare_counts(self.counts, PUBLISHED[package])
        _note_oddities(parts[0], self.records, self.labels, notes)
        extra = len(set(paths) - {record.image_id for record in self.records})
        self.notes = (*notes, *disk_notes(len(self.records), len(self.missing), extra))


def _read_parts(root: Path) -> tuple[str, tuple[str, ...], list[Readings]]:
    """The package, its labels, and what was read of its training and, if it is there, test part."""
    annotations = root / "annotations"
    if (annotations / "image_labels_train.csv").is_file():
        labels = (*KAGGLE, *RARER, *DISEASES)
        parts = [part for part in ("train", "test")
                 if (annotations / f"image_labels_{part}.csv").is_file()]  # fmt: skip
        return "PhysioNet", labels, [_read_part(annotations, part, labels) for part in parts]
    if not (root / "train.csv").is_file():
        raise DataNotFoundError(
            f"there is no {annotations / 'image_labels_train.csv'} and no {root / 'train.csv'}. "
            f"{EXPECTED}"
        )
    readings = Readings()
    _read_boxes(read_table(root / "train.csv"), KAGGLE, readings, marks=True)
    return "Kaggle", KAGGLE, [readings]


def _read_part(folder: Path, part: str, labels: Sequence[str]) -> Readings:
    """PhysioNet's "train" or "test"."""
    table = read_table(folder / f"image_labels_{part}.csv")
    columns = {label: label for label in (*labels, NONE)}
    if "Other disease" in table.columns:
        columns["Other diseases"] = "Other disease"
    table.require(_IMAGE, *columns.values(), *([_READER] if part == "train" else []))
    marks = [table.convert(column, is_present, "0 or 1") for column in columns.values()]
    readings = Readings(rows=len(table.frame))
    rows = zip(table.text(_IMAGE), table.text(_READER), *marks, strict=True)
    for i, (image, reader, *marked) in enumerate(rows):
        readers = readings.marked.setdefault(image, {})
        if not image or reader in readers:
            raise TableError(f"{table.place(i)}: {image!r} by {reader!r} is blank or stands twice")
        readers[reader] = {label for label, mark in zip(columns, marked, strict=True) if mark}
    _read_boxes(read_table(folder / f"annotations_{part}.csv"), labels, readings)
    return readings


def _read_boxes(
    table: Table, labels: Sequence[str], readings: Readings, *, marks: bool = False
) -> None:
    """Add the boxes of a table to the readings and, if ``marks``, what they say of their image."""
    table.require(_IMAGE, _CLASS, *_CORNERS, *([_READER] if marks else []))
    corners = zip(*(table.numbers(name) for name in _CORNERS), strict=True)
    rows = zip(table.text(_IMAGE), table.text(_READER), table.text(_CLASS), corners, strict=True)
    readings.rows = readings.rows or len(table.frame)
    for i, (image, reader, label, numbers) in enumerate(rows):
        if marks:
            readings.marked.setdefault(image, {}).setdefault(reader, set()).add(label)
        if not image or image not in readings.marked or label not in (*labels, NONE):
            raise TableError(
                f"{table.place(i)}: {label!r} of {image!r}: not one of {', '.join(labels)}, "
                f"{NONE}, or an image that is not in the label table"
            )
        if label in (*DISEASES, NONE) and all(map(math.isnan, numbers)):
            continue  # of the whole image
        left, top, right, bottom = numbers
        box = Box(label, left, top, right - left, bottom - top, reader)
        drawn = readings.boxes.setdefault(image, [])
        area = 0 <= left < right < math.inf and 0 <= top < bottom < math.inf  # NaN fails as well
        if not area or box in drawn or label == NONE:
            raise TableError(
                f"{table.place(i)}: {label!r} with {', '.join(_CORNERS)} = {numbers}: a finding "
                "has a box with area, no box stands twice. Correct or remove the row"
            )
        drawn.append(box)


def _count(train: Readings, labels: Sequence[str]) -> dict[str, dict[str, int]]:
    """Rows, images and readers; images with each label by any, the majority and all readers."""
    everybody = {reader for readers in train.marked.values() for reader in readers}
    healthy = (sum(NONE in labels for labels in one.values()) for one in train.marked.values())
    columns = dict(zip(labels, zip(*train.shares(labels).values(), strict=True), strict=True))
    return {
        "table": {
            "rows": train.rows,
            "images": len(train.marked),
            "readers": len(everybody),
            "three No finding": Counter(healthy)[3],
        }
    } | {
        name: {label: int(sum(map(READERS[name], shares))) for label, shares in columns.items()}
        for name in ("any", "majority", "all")
    }


def _note_oddities(
    train: Readings, records: Sequence[Record], labels: Sequence[str], notes: list[str]
) -> None:
    """Say what is odd about the readings, and which boxes no map is scored on."""
    other = sum(len(readers) != 3 for readers in train.marked.values())
    said = [marked for readers in train.marked.values() for marked in readers.values()]
    both = sum(NONE in marked and len(marked) > 1 for marked in said)
    single = sum(
        record.targets[labels.index(label)] == 0
        for record in records
        for label in {box.label for box in record.boxes}
    )
    oddities = (
        (other, "image", "with other than three readers"),
        (both, "reading", f"with {NONE!r} beside a finding, which counts"),
        (single, "finding", "with boxes on an image whose target is 0: no map is scored there"),
    )
    notes += [f"{format_count(n, noun)} {oddity}" for n, noun, oddity in oddities if n]
