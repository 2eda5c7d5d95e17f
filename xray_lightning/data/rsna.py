"""RSNA Pneumonia Detection Challenge 2018 (Shih et al., Radiology: AI 2019), as Kaggle packs it.

============  ======================================================================================
images        26,684 frontal radiographs with labels (stage 1: 25,684), DICOM, 1024 x 1024, 8-bit
              grey, JPEG; in ``stage_2_train_images/`` or flat
labels        ``stage_2_train_labels.csv``: one row per box, so a positive image has several
boxes         by radiologists, in pixels of the 1024 x 1024 image, around lung opacities
classes       ``stage_2_detailed_class_info.csv``, optional: 6,012 "Lung Opacity" (the positives),
              8,851 "Normal", 11,821 "No Lung Opacity / Not Normal"
patients      unknown to these tables: ``patientId`` names an image. RSNA took the images from NIH
              ChestX-ray14; its published map to NIH's names tells the 11,439 patients, and that 21
              exposures are in the set twice
============  ======================================================================================

Both stages are read, the second where both are there; tables may be gzip-compressed, and images
may be PNG files that ``xray convert`` made. Traps: every image counts once, whatever its number of
rows; the headers' ages are no valid DICOM; abnormal images without opacity are negatives of the
challenge, and harder ones. View, age and sex stand in the DICOM headers only, and are left unknown:
26,684 files would be opened for them by every command.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from xray_lightning.data.images import READER_VERSION, read_record
from xray_lightning.data.names import NameIndex, read_list
from xray_lightning.data.nih_map import nih_patient, read_nih_map
from xray_lightning.data.rsna_tables import (
    BOX_FRAME,
    EXPECTED,
    OPACITY,
    OTHER,
    find_table,
    read_classes,
    read_rows,
)
from xray_lightning.data.source import Pixels
from xray_lightning.data.tables import counted, disk_notes, existing_folder, names_in
from xray_lightning.errors import ConfigError, DataError, SplitError, TableError
from xray_lightning.records import Box, Record

NEGATIVES = ("all", "normal")
UNKNOWN_PATIENTS = (
    "patients cannot be told apart: RSNA's ids name images, and every image counts as its own "
    "patient. A random split of the images has been measured to leak: the patient of 69.8 % of the "
    "test images (80/20) was trained on. Set data.nih_map to RSNA's published map to NIH"
)

_SUFFIXES = (".dcm", ".png")


class UnknownPatientsWarning(UserWarning):
    """Images of one patient cannot be recognised, so no split can keep them together."""


class Rsna:
    """An RSNA folder as a ``Source``; the protocol explains the attributes.

    Args:
        root: the folder.
        negatives: "all": every image without lung opacity is a negative, as in the challenge;
            "normal": only those of class "Normal" are, and the abnormal ones are left out. Figures
            of the two cannot be compared: AUROC moves from about 0.87 to 0.98.
        label: name of the one label; "Pneumonia" scores a model that was trained on NIH.
        nih_map: RSNA's published JSON, or a table of RSNA ids and NIH names. With it patients are
            NIH's; without it an ``UnknownPatientsWarning`` is issued.
        nih_test_list: NIH's ``test_list.txt``; with it the official split is NIH's.
        allow_missing: let commands that read pixels leave out the images that are not on disk.

    Raises:
        ConfigError: ``negatives`` is none of the two, or there is a test list without a map.
        DataNotFoundError: no folder, no label table, or no class info for negatives="normal".
        TableError: a table lacks a column, contradicts itself or the other, has a box that is
            none, or the map lacks an image; names the row.
        SplitError: the test list names no image of the map.
        DataError: two files are the same image.
    """

    name: str = "rsna"

    def __init__(
        self,
        root: str | Path,
        *,
        negatives: str = "all",
        label: str = OPACITY,
        nih_map: str | Path | None = None,
        nih_test_list: str | Path | None = None,
        allow_missing: bool = False,
    ) -> None:
        if negatives not in NEGATIVES:
            raise ConfigError(f"negatives must be all or normal, got {negatives!r}")
        if nih_test_list and not nih_map:
            raise ConfigError("nih_test_list names NIH's images: set nih_map too")
        self.root = existing_folder(root, EXPECTED)
        self.title = f"rsna (negatives: {negatives})"
        self.population = "nih" if nih_map else ""
        self.labels: tuple[str, ...] = (label,)
        self.allow_missing = allow_missing
        notes: list[str] = []
        stage, table = find_table(self.root, notes)
        boxes = read_rows(table, label)
        classes = read_classes(self.root, stage, boxes, required=negatives == "normal")
        chosen = _chosen(boxes, classes, negatives, notes)
        twins = _twins(Path(nih_map), boxes, chosen, notes) if nih_map else {}
        if not nih_map:
            notes.append(UNKNOWN_PATIENTS)
            warnings.warn(f"{self.title}: {UNKNOWN_PATIENTS}", UnknownPatientsWarning, stacklevel=2)
        paths = _index_images([self.root, self.root / f"{stage}_train_images"])
        self.records: Sequence[Record] = tuple(
            Record(
                image_id=image,
                patient_id=nih_patient(twins[image]) if twins else image,
                targets=(float(bool(boxes[image])),),
                path=paths.get(image),
                boxes=boxes[image],
                box_frame=BOX_FRAME,
            )
            for image in chosen
        )
        self.missing: Sequence[str] = tuple(image for image in chosen if image not in paths)
        self.official: Mapping[str, frozenset[str]] | None = (
            _official(Path(nih_test_list), twins) if nih_test_list else None
        )
        notes += disk_notes(len(chosen), len(self.missing), len(set(paths) - set(boxes)))
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


def _chosen(
    boxes: Mapping[str, Sequence[Box]],
    classes: Mapping[str, str],
    negatives: str,
    notes: list[str],
) -> list[str]:
    """Ids of the images that count, in table order, with a note of what a negative is."""
    abnormal = sum(name == OTHER for name in classes.values())
    without = sum(not found for found in boxes.values())
    tail = (
        "Which of the two it is moves AUROC from about 0.87 (all) to 0.98 (normal): never compare "
        "figures across it"
    )
    if negatives == "all":
        of_them = f", {abnormal:,} of them abnormal" if classes else ""
        notes.append(f"negatives=all: {without:,} images without opacity{of_them}. {tail}")
        return list(boxes)
    notes.append(
        f"negatives=normal: {counted(abnormal, 'abnormal image')} without opacity LEFT OUT, "
        f"{without - abnormal:,} normal ones are the negatives. {tail}"
    )
    return [image for image in boxes if classes[image] != OTHER]


def _twins(
    path: Path, boxes: Iterable[str], chosen: Sequence[str], notes: list[str]
) -> dict[str, str]:
    """NIH's name of every image of the label table.

    Raises:
        TableError: the map lacks some: an image of unknown patient could leak.
    """
    names = read_nih_map(path)
    if absent := [image for image in boxes if image not in names]:
        raise TableError(
            f"{path} lacks {counted(len(absent), 'image')} of the label table, the first is "
            f"{absent[0]}: complete the map, or go without (data.nih_map=null)"
        )
    twice = len(chosen) - len({names[image] for image in chosen})
    if twice:
        notes.append(f"{counted(twice, 'image')} the same NIH exposure as another, by the map")
    return names


def _official(path: Path, twins: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """RSNA ids on either side of NIH's official split.

    Raises:
        SplitError: the list names none of the images.
    """
    listed = frozenset(read_list(path, NameIndex(twins.values())))
    test = frozenset(image for image, name in twins.items() if name in listed)
    if not test:
        raise SplitError(f"{path} names none of the images: is it NIH's test_list.txt?")
    return {"train_val": frozenset(twins) - test, "test": test}


def _index_images(folders: Iterable[Path]) -> dict[str, Path]:
    """Image id -> file, for the images in the folders.

    Raises:
        DataError: two files are the same image.
    """
    paths: dict[str, Path] = {}
    files = (folder / name for folder in folders if folder.is_dir() for name in names_in(folder))
    for path in files:
        if path.suffix.lower() not in _SUFFIXES or path.name.startswith("."):
            continue
        if paths.setdefault(path.stem, path) is not path:
            raise DataError(f"{path} and {paths[path.stem]} are one image. Remove one of them")
    return paths
