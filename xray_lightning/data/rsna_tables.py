"""RSNA's label table and class info: checked row by row, and against each other."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from xray_lightning.data.tables import Table, counted, read_table
from xray_lightning.errors import DataNotFoundError, TableError
from xray_lightning.records import Box

BOX_FRAME = (1024, 1024)  # (width, height) in px of the images the radiologists saw
STAGES = ("stage_2", "stage_1")  # best first
OPACITY, NORMAL, OTHER = "Lung Opacity", "Normal", "No Lung Opacity / Not Normal"
EXPECTED = (
    "An RSNA folder holds stage_2_train_labels.csv, optionally stage_2_detailed_class_info.csv, "
    "and the DICOM files in stage_2_train_images/ (or stage_1_... of each)"
)

_IMAGE, _TARGET, _CLASS = "patientId", "Target", "class"
_SIDES = ("x", "y", "width", "height")


def _find(root: Path, name: str) -> Path | None:
    return next((root / each for each in (name, f"{name}.gz") if (root / each).is_file()), None)


def find_table(root: Path, notes: list[str]) -> tuple[str, Table]:
    """The better stage that is there, and its label table.

    Raises:
        DataNotFoundError: there is none; says so if a sub-folder has one.
    """
    found = {stage: _find(root, f"{stage}_train_labels.csv") for stage in STAGES}
    there = [(stage, path) for stage, path in found.items() if path]
    if not there:
        inside = sorted(root.glob("*/stage_?_train_labels.csv*"))
        hint = f"There is one in {inside[0].parent}: is that the folder meant?" if inside else ""
        raise DataNotFoundError(
            f"there is no label table {root / 'stage_2_train_labels.csv'}. {hint or EXPECTED}"
        )
    stage, path = there[0]
    notes += [f"{path.name} was read; {other.name} beside it was not" for _, other in there[1:]]
    return stage, read_table(path)


def read_rows(table: Table, label: str) -> dict[str, tuple[Box, ...]]:
    """Boxes of every image in table order, none for a negative.

    Raises:
        TableError: a row without box is positive or one with a box negative, rows of one image
            contradict or repeat each other, or a box is none.
    """
    table.require(_IMAGE, *_SIDES, _TARGET)
    positive = table.convert(_TARGET, _target, "0 or 1")
    sides = zip(*(table.numbers(name) for name in _SIDES), strict=True)
    boxes: dict[str, tuple[Box, ...]] = {}
    rows = zip(table.text(_IMAGE), positive, sides, strict=True)
    for i, (image, opacity, numbers) in enumerate(rows):
        if not image or (image in boxes and not (opacity and boxes[image])):
            reason = "repeats or contradicts an earlier row" if image else "has no patientId"
            raise TableError(f"{table.place(i)}: {image!r} {reason}. Correct or remove it")
        own = (_box(label, numbers, table.place(i)),) if opacity else ()
        if not opacity and not all(map(math.isnan, numbers)):
            raise TableError(f"{table.place(i)}: {image} has Target 0 and a box. Correct the row")
        if set(own) & set(boxes.get(image, ())):
            raise TableError(f"{table.place(i)}: {image} has this box twice. Remove the row")
        boxes[image] = boxes.get(image, ()) + own
    return boxes


def _target(cell: str) -> bool:
    if float(cell) not in (0, 1):
        raise ValueError
    return float(cell) == 1


def _box(label: str, numbers: tuple[float, ...], place: str) -> Box:
    x, y, width, height = numbers
    inside = x >= 0 and y >= 0 and x + width <= BOX_FRAME[0] and y + height <= BOX_FRAME[1]
    if not (inside and width > 0 and height > 0):  # NaN fails every comparison
        raise TableError(
            f"{place}: Target 1 needs a box inside the {BOX_FRAME[0]} x {BOX_FRAME[1]} image, got "
            f"x, y, width, height {numbers}. Correct or remove the row"
        )
    return Box(label, x, y, width, height)


def read_classes(
    root: Path, stage: str, boxes: Mapping[str, Sequence[Box]], *, required: bool
) -> dict[str, str]:
    """Class of every image; empty where no class info is there and none is needed.

    Raises:
        DataNotFoundError: it is needed and not there.
        TableError: a class is unknown, contradicts another row or the label table, or the images
            are not those of the label table.
    """
    path = _find(root, f"{stage}_detailed_class_info.csv")
    if path is None:
        if not required:
            return {}
        raise DataNotFoundError(
            f"there is no {root / f'{stage}_detailed_class_info.csv'}, which tells the normal "
            "images: add it, or set data.negatives=all"
        )
    table = read_table(path)
    table.require(_IMAGE, _CLASS)
    classes: dict[str, str] = {}
    for i, (image, name) in enumerate(zip(table.text(_IMAGE), table.text(_CLASS), strict=True)):
        if image not in boxes:
            raise TableError(f"{table.place(i)}: the image {image!r} is not in the label table")
        if name not in (OPACITY, NORMAL, OTHER) or classes.setdefault(image, name) != name:
            raise TableError(
                f"{table.place(i)}: {image} has class {name!r}: unknown, or another than before"
            )
        if (name == OPACITY) != bool(boxes[image]):
            raise TableError(f"{table.place(i)}: {image} is {name!r}, the label table disagrees")
    if absent := [image for image in boxes if image not in classes]:
        raise TableError(
            f"{path} lacks {counted(len(absent), 'image')} of the label table, the first is "
            f"{absent[0]}. Download it again"
        )
    return classes
