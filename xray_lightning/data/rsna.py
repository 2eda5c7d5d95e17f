"""RSNA Pneumonia Detection Challenge 2018 (Shih et al., Radiology: AI 2019), as Kaggle packs it.

============  ======================================================================================
images        26,684 frontal radiographs (stage 1: 25,684), DICOM, 1024 x 1024, 8-bit grey, JPEG; in
              ``stage_2_train_images/`` or flat
labels        ``stage_2_train_labels.csv``: one row per box, so a positive image has several
boxes         by radiologists, in pixels of the 1024 x 1024 image, around lung opacities
classes       ``stage_2_detailed_class_info.csv``, optional: 6,012 "Lung Opacity" (the positives),
              8,851 "Normal", 11,821 "No Lung Opacity / Not Normal"
patients      unknown to these tables: ``patientId`` names an image. RSNA took the images from NIH
              ChestX-ray14; its published map to NIH's names tells the 11,439 patients, and that 21
              exposures are in the set twice
============  ======================================================================================

Both stages are read, the second where both are there; tables may be gzip-compressed, and images
may be PNG files that ``xray convert`` made. Traps: ``data/README.md``.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xray_lightning.data.dicom.acquisition import describe_films
from xray_lightning.data.nih import match_exposures, nih_patient, require_all, split_as_nih
from xray_lightning.data.source import Source, find_files, find_table, index_images, say
from xray_lightning.data.tables import Table, is_present, read_table
from xray_lightning.errors import ConfigError, DataNotFoundError, TableError, require_choice
from xray_lightning.records import Box, Records
from xray_lightning.wording import fault

BOX_FRAME = (1024, 1024)  # (width, height) in px of the images the radiologists saw
STAGES = ("stage_2", "stage_1")  # best first
OPACITY, NORMAL, OTHER = "Lung Opacity", "Normal", "No Lung Opacity / Not Normal"

_IMAGE, _TARGET, _CLASS = "patientId", "Target", "class"
_SIDES = ("x", "y", "width", "height")


class Rsna(Source, published="rsna"):
    """An RSNA folder; ``root`` and ``allow_missing`` are as of every :class:`Source`.

    Args:
        negatives: "all": every image without lung opacity is a negative, as in the challenge;
            "normal": only those of class "Normal" are, and the abnormal ones are left out. Figures
            of the two cannot be compared: AUROC moves from about 0.87 to 0.98.
        label: name of the one label; "Pneumonia" scores a model that was trained on NIH.
        nih_map: RSNA's published JSON, or a table of RSNA ids and NIH names. With it patients are
            NIH's; without it an ``UnknownPatientsWarning`` is issued.
        nih_test_list: NIH's ``test_list.txt``; with it the official split is NIH's.
        headers: take view, age and sex from the DICOM headers; False: they stay unknown.

    Raises:
        ConfigError: ``negatives`` is neither of the two, or there is a test list without a map.
        DataNotFoundError, TableError, DataError: as every :class:`Source` of a folder; also without
            class info for negatives="normal", or where the map lacks an image.
        SplitError: the test list names none of the images of the map.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        negatives: str = "all",
        label: str = OPACITY,
        nih_map: str | Path | None = None,
        nih_test_list: str | Path | None = None,
        headers: bool = True,
        allow_missing: bool = False,
    ) -> None:
        require_choice("negatives", negatives, ("all", "normal"))
        if nih_test_list and not nih_map:
            raise ConfigError("nih_test_list names NIH's images: set nih_map too")
        folder, notes = self.open_folder(root, allow_missing=allow_missing)
        self.negatives, self.labels = negatives, (label,)
        tables = [f"{stage}_train_labels.csv" for stage in STAGES]
        table = read_table(find_table(folder, tables, self.facts.expected, notes))
        stage, boxes = table.path.name[: len(STAGES[0])], read_rows(table, label)
        place = folder / f"{stage}_detailed_class_info.csv"
        classes = read_classes(place, boxes, required=negatives == "normal")
        chosen = _choose_images(boxes, classes, negatives, notes)
        names = match_exposures(Path(nih_map), boxes, chosen, notes) if nih_map else {}
        self.exposures = names
        self.population = "nih" if nih_map else ""
        if nih_test_list:
            self.official = split_as_nih(Path(nih_test_list), names)
        paths = index_images([folder, folder / f"{stage}_train_images"], (".dcm", ".png"))
        files, drawn = list(map(paths.get, chosen)), list(map(boxes.__getitem__, chosen))
        records = Records(
            image_id=chosen,
            patient_id=[nih_patient(names[image]) if names else image for image in chosen],
            targets=np.array([[float(bool(own))] for own in drawn]),
            path=files,
            boxes=drawn,
            box_frame=[BOX_FRAME] * len(chosen),
            **(describe_films(files, notes) if headers else {}),
        )
        self.fill(records, notes, stray=paths.keys() - boxes.keys())

    @property
    def title(self) -> str:
        """The name with what the negatives are."""
        return f"rsna (negatives: {self.negatives})"


def read_rows(table: Table, label: str) -> dict[str, tuple[Box, ...]]:
    """Boxes of every image in table order, none for a negative."""
    table.require(_IMAGE, *_SIDES, _TARGET)
    positive = table.convert(_TARGET, is_present, "0 or 1")
    sides = zip(*(table.numbers(name) for name in _SIDES), strict=True)
    boxes: dict[str, tuple[Box, ...]] = {}
    rows = zip(table.text(_IMAGE), positive, sides, strict=True)
    for i, (image, opacity, numbers) in enumerate(rows):
        if not image or (image in boxes and not (opacity and boxes[image])):
            raise TableError(fault("row_of_box", table.place(i), image))
        x, y, width, height = numbers
        inside = x >= 0 and y >= 0 and x + width <= BOX_FRAME[0] and y + height <= BOX_FRAME[1]
        if opacity and not (inside and width > 0 and height > 0):  # NaN fails every comparison
            raise TableError(fault("box_inside", table.place(i), BOX_FRAME, numbers))
        own = (Box(label, *numbers),) if opacity else ()
        if not opacity and not all(map(math.isnan, numbers)):
            raise TableError(f"{table.place(i)}: {image} has Target 0 and a box. Correct the row")
        if set(own) & set(boxes.get(image, ())):
            raise TableError(f"{table.place(i)}: {image} has this box twice. Remove the row")
        boxes[image] = boxes.get(image, ()) + own
    return boxes


def read_classes(
    place: Path, boxes: Mapping[str, Sequence[Box]], *, required: bool
) -> dict[str, str]:
    """Class of every image; empty where no class info is there and none is needed."""
    paths = find_files(place.parent, place.name)
    if not paths and required:
        raise DataNotFoundError(fault("no_classes", place))
    classes: dict[str, str] = {}
    for table in map(read_table, paths[:1]):
        table.require(_IMAGE, _CLASS)
        for i, (image, name) in enumerate(zip(table.text(_IMAGE), table.text(_CLASS), strict=True)):
            row = f"{table.place(i)}: {image!r} is {name!r}"
            if image not in boxes:
                raise TableError(f"{row}, and is not in the label table")
            if name not in (OPACITY, NORMAL, OTHER) or classes.setdefault(image, name) != name:
                raise TableError(f"{row}: unknown, or another class than before")
            if (name == OPACITY) != bool(boxes[image]):
                raise TableError(f"{row}, the label table disagrees")
        require_all(table.path, boxes, classes, "download it again")
    return classes


def _choose_images(
    boxes: Mapping[str, Sequence[Box]], classes: Mapping[str, str], negatives: str, notes: list[str]
) -> list[str]:
    """Ids of the images that count, in table order, with a note of what a negative is."""
    abnormal = sum(name == OTHER for name in classes.values())
    without = sum(not drawn for drawn in boxes.values())
    notes += say("negatives", negatives, without, abnormal, classes)
    return [image for image in boxes if negatives == "all" or classes[image] != OTHER]
