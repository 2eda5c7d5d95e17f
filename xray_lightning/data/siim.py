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
columns of the 1024 x 1024 image. Traps: ``data/README.md``.
"""

from pathlib import Path

import numpy as np

from xray_lightning.data.dicom.acquisition import describe_films
from xray_lightning.data.geometry import Runs, draw_runs, surround_runs
from xray_lightning.data.source import Mask, Source, find_table, index_images
from xray_lightning.data.tables import Table, read_table
from xray_lightning.errors import ConfigError, TableError
from xray_lightning.records import Record, Records
from xray_lightning.wording import fault

FILMS = "dicom-images-train"
SIDE = 1024  # px of the square images that were outlined
_IMAGE, _RUNS = "ImageId", "EncodedPixels"


class Siim(Source, published="siim"):
    """A SIIM-ACR folder; ``root`` and ``allow_missing`` are as of every :class:`Source`.

    Args:
        headers: take view, age and sex from the DICOM headers; False: they stay unknown.

    Raises:
        ConfigError: of ``mask``: the record is not of this data set.
        DataNotFoundError, TableError, DataError: as every :class:`Source` of a folder; also where
            run lengths do not fit the image, or it has a pneumothorax and none by two rows.
    """

    def __init__(
        self, root: str | Path, *, headers: bool = True, allow_missing: bool = False
    ) -> None:
        folder, notes = self.open_folder(root, allow_missing=allow_missing)
        path = find_table(folder, ["train-rle.csv"], self.facts.expected, notes)
        table = read_table(path, _IMAGE, _RUNS)
        self._outlines = read_outlines(table)
        films, images = folder / FILMS, list(self._outlines)
        paths = index_images([folder, films, *films.glob("*/*")], (".dcm", ".png"))
        files = [paths.get(image) for image in images]
        boxes = [
            tuple(surround_runs(runs, SIDE, self.labels[0]) for runs in own)
            for own in self._outlines.values()
        ]
        places = [path.parent.parent if path else films for path in files]
        studies = [place.name if place.parent == films else "" for place in places]
        records = Records(
            **{"image_id": images, "patient_id": images, "path": files, "study_id": studies},
            targets=np.array([[float(bool(own))] for own in boxes]),
            boxes=boxes,
            box_frame=[(SIDE, SIDE)] * len(images),
            **(describe_films(files, notes) if headers else {}),
        )
        numbers = list(map(len, boxes))
        counts = {"rows": len(table), "images": len(images), "positive": sum(map(bool, numbers))}
        counts["several rows"] = sum(number > 1 for number in numbers)
        stray = paths.keys() - self._outlines.keys()
        self.fill(records, notes, counts={"table": counts}, stray=stray)

    def mask(self, record: Record, label: str) -> Mask:
        """The union of the image's outlines, (1024, 1024) bool; all False where there is none."""
        if record.image_id not in self._outlines or label not in self.labels:
            raise ConfigError(f"{record.image_id!r} or {label!r} is not of {self.root}")
        drawn = [draw_runs(runs, SIDE, SIDE) for runs in self._outlines[record.image_id]]
        return np.asarray(np.any([np.zeros((SIDE, SIDE), np.bool_), *drawn], axis=0))


def read_outlines(table: Table) -> dict[str, list[Runs]]:
    """The outlines of every image, in table order; none where there is no pneumothorax."""
    outlines: dict[str, list[Runs]] = {}
    rows: set[tuple[str, str]] = set()
    parsed = table.convert(_RUNS, parse_runs, f"-1, or pairs of start and length in {SIDE} px")
    cells = zip(table.text(_IMAGE), table.text(_RUNS), parsed, strict=True)
    for i, (image, cell, runs) in enumerate(cells):
        none, before = runs is None, outlines.get(image)
        if not image or (image, cell) in rows or (before is not None and none == bool(before)):
            raise TableError(fault("outline_row", table.place(i), image))
        rows.add((image, cell))
        outlines.setdefault(image, []).extend([] if runs is None else [runs])
    return outlines


def parse_runs(cell: str) -> Runs | None:
    """Lengths of the runs outside, inside, outside, ... that fill the image; None for -1.

    >>> parse_runs("3 2 1020 4").tolist()
    [3, 2, 1020, 4, 1047547]
    """
    if cell == "-1":
        return None
    steps = np.array(cell.split(), dtype=np.int64)  # start after the last end, length, start, ...
    rest = SIDE * SIDE - steps.sum()
    pairs = len(steps) > 0 and len(steps) % 2 == 0
    if not pairs or steps[::2].min() < 0 or steps[1::2].min() < 1 or rest < 0:
        raise ValueError(cell)
    return np.append(steps, rest)
