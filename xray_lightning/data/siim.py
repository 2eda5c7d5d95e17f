"""SIIM-ACR Pneumothorax Segmentation 2019, as Kaggle packed its first stage.

============  ======================================================================================
images        12,047 with labels, DICOM, 1024 x 1024, 8-bit grey; in
              ``dicom-images-train/<study>/<series>/<ImageId>.dcm``
labels        1, Pneumothorax, by radiologists: 2,669 images have it
table         ``train-rle.csv``: ``ImageId, EncodedPixels`` (the second name begins with a blank), a
              row per outline, 12,954 rows; -1: none; 624 images have several rows
masks         the union of an image's outlines, exact (``mask``); a box around each outline
patients      told nowhere. The images are believed to be of NIH's ChestX-ray14, under other names
============  ======================================================================================

The run lengths are relative: each start counts from the end of the run before, from 0, down the
columns of the 1024 x 1024 image. Reading them as absolute gives other places without an error.
View, age and sex stand in the DICOM headers only, and are left unknown, as for RSNA.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xray_lightning.data.source import (
    Mask,
    Source,
    compare_counts,
    disk_notes,
    index_images,
    require_directory,
    warn_unknown_patients,
)
from xray_lightning.data.tables import Table, read_table
from xray_lightning.errors import ConfigError, DataNotFoundError, TableError
from xray_lightning.records import Box, Record

FILMS = "dicom-images-train"
SIDE = 1024  # px of the square images that were outlined
EXPECTED = (
    "A SIIM folder holds train-rle.csv and the DICOM files in dicom-images-train/STUDY/SERIES/"
)
UNKNOWN_PATIENTS = (
    "patients cannot be told apart: SIIM's table names images alone, every image counts as its own "
    "patient, and images of one patient may lie on both sides of a random split. They are believed "
    "to be images of NIH, so a network trained there may know them: compare their pixels"
)
PUBLISHED = {"table": {"rows": 12_954, "images": 12_047, "positive": 2_669, "several rows": 624}}
_IMAGE, _RUNS = "ImageId", "EncodedPixels"

Runs = npt.NDArray[np.int64]  # (R, 2), first pixel and end of each run, down the columns


class Siim(Source):
    """A SIIM-ACR folder.

    Args:
        root: the folder.
        allow_missing: let commands that read pixels leave out the images that are not on disk.

    Raises:
        ConfigError: of ``mask``: the record is not of this data set.
        DataNotFoundError: no folder, or no ``train-rle.csv`` in it.
        TableError: the table lacks a column, has run lengths that do not fit the image, or says of
            one image that it has a pneumothorax and none; names the row.
        DataError: two files are the same image.
    """

    name = "siim"
    labels = ("Pneumothorax",)

    def __init__(self, root: str | Path, *, allow_missing: bool = False) -> None:
        self.root = folder = require_directory(root, EXPECTED)
        self.allow_missing = allow_missing
        path = folder / "train-rle.csv"
        if not path.is_file():
            raise DataNotFoundError(f"there is no label table {path}. {EXPECTED}")
        table = read_table(path)
        self._outlines = read_outlines(table)
        notes: list[str] = []
        warn_unknown_patients(self.title, UNKNOWN_PATIENTS, notes)
        films = folder / FILMS
        folders = [f for f in (folder, films, *films.glob("*/*")) if f.is_dir()]
        paths = index_images(folders, (".dcm", ".png"), lambda path: path.stem)
        self.records = tuple(self._record(image, paths.get(image)) for image in self._outlines)
        self.counts = _count(len(table.frame), self._outlines)
        extra = len(set(paths) - set(self._outlines))
        notes += compare_counts(self.counts, PUBLISHED)
        self.notes = (*notes, *disk_notes(len(self), len(self.missing), extra))

    def mask(self, record: Record, label: str) -> Mask:
        """The union of the image's outlines, (1024, 1024) bool; all False where there is none."""
        if record.image_id not in self._outlines or label not in self.labels:
            raise ConfigError(f"{record.image_id!r} or {label!r} is not of {self.root}")
        drawn = np.zeros(SIDE * SIDE, dtype=np.bool_)
        for runs in self._outlines[record.image_id]:
            for first, end in runs:
                drawn[first:end] = True
        return drawn.reshape(SIDE, SIDE).T

    def _record(self, image: str, path: Path | None) -> Record:
        outlines = self._outlines[image]
        boxes = tuple(Box(self.labels[0], *surround(runs)) for runs in outlines)
        return Record(
            *(image, image, (float(bool(outlines)),)),
            path=path,
            boxes=boxes,
            box_frame=(SIDE, SIDE),
            study_id=path.parents[1].name if path and path.parents[2].name == FILMS else "",
        )


def read_outlines(table: Table) -> dict[str, list[Runs]]:
    """The outlines of every image, in table order; none where there is no pneumothorax."""
    table.require(_IMAGE, _RUNS)
    outlines: dict[str, list[Runs]] = {}
    rows: set[tuple[str, str]] = set()
    parsed = table.convert(_RUNS, parse_runs, f"-1, or pairs of start and length in {SIDE} px")
    cells = zip(table.text(_IMAGE), table.text(_RUNS), parsed, strict=True)
    for i, (image, cell, runs) in enumerate(cells):
        none, before = runs is None, outlines.get(image)
        if not image or (image, cell) in rows or (before is not None and none == bool(before)):
            raise TableError(
                f"{table.place(i)}: {image!r} is blank, or its row contradicts or repeats an "
                "earlier one. Correct or remove it"
            )
        rows.add((image, cell))
        outlines.setdefault(image, []).extend([] if runs is None else [runs])
    return outlines


def parse_runs(cell: str) -> Runs | None:
    """Runs of pixels as absolute (first, end), (R, 2); None for -1.

    >>> parse_runs("3 2 1020 4").tolist()
    [[3, 5], [1025, 1029]]
    """
    if cell == "-1":
        return None
    steps = np.array(cell.split(), dtype=np.int64).reshape(
        -1, 2
    )  # start after the last end, length
    ends = steps.sum(axis=1).cumsum()
    if not len(steps) or steps[:, 0].min() < 0 or steps[:, 1].min() < 1 or ends[-1] > SIDE * SIDE:
        raise ValueError(cell)
    return np.stack([ends - steps[:, 1], ends], axis=1)


def surround(runs: Runs) -> tuple[float, float, float, float]:
    """The smallest box around runs: x, y, width, height in pixels from the edges of the pixels.

    >>> surround(parse_runs("3 2 1020 4"))  # rows 3 and 4 of column 0, 1 to 4 of column 1
    (0.0, 1.0, 2.0, 4.0)
    """
    columns, rows = np.divmod(np.stack([runs[:, 0], runs[:, 1] - 1]), SIDE)  # (2, R) each
    left, right = columns.min(), columns.max()
    across = (columns[0] != columns[1]).any()  # a run goes on at the top of the next column
    top, bottom = (0, SIDE - 1) if across else (rows.min(), rows.max())
    return float(left), float(top), float(right - left + 1), float(bottom - top + 1)


def _count(rows: int, outlines: Mapping[str, list[Runs]]) -> dict[str, dict[str, int]]:
    numbers = [len(own) for own in outlines.values()]
    return {
        "table": {
            "rows": rows,
            "images": len(numbers),
            "positive": sum(number > 0 for number in numbers),
            "several rows": sum(number > 1 for number in numbers),
        }
    }
