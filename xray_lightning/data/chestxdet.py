"""ChestX-Det (Lian et al., IEEE TMI 40:2042, 2021), as its authors publish it.

============  ======================================================================================
images        3,025 for training and 553 for testing, PNG, 1024 x 1024, taken from NIH's
              ChestX-ray14 under names of their own; in ``train_data/`` and ``test_data/``
labels        13, by three radiologists who marked every finding: what has no outline is absent
tables        ``ChestX_Det_train.json`` and ``ChestX_Det_test.json``: lists of ``file_name``, and,
              one of each per outline, ``syms``, ``boxes`` [x1, y1, x2, y2], ``polygons`` [[x, y],
              ...]; 9,639 outlines, 611 images without any
masks         the union of a finding's polygons, each filled with its border (``mask``)
patients      NIH's, told nowhere: only a comparison of pixels tells which exposure an image is
============  ======================================================================================
"""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from xray_lightning.data.source import Source, find_files, find_table, index_images, read_facts
from xray_lightning.data.tables import open_text
from xray_lightning.errors import ConfigError, TableError
from xray_lightning.records import Box, Record, Records
from xray_lightning.wording import fault

SIDE = 1024  # px of the square images that were outlined
LABELS = read_facts("chestxdet").labels
Outline = tuple[Box, npt.NDArray[np.int32]]  # of a finding: the box, the border (P, 2), x and y


class ChestXDet(Source, published="chestxdet"):
    """A ChestX-Det folder. ``official`` is the authors' split, where both tables are there.

    ``root`` and ``allow_missing`` are as of every :class:`Source`.

    Raises:
        ConfigError: of ``mask``: the record or label is not of this data set.
        DataNotFoundError, TableError, DataError: as every :class:`Source` of a folder; also where a
            table is no list of such entries, or a polygon is outside the image.
    """

    def __init__(self, root: str | Path, *, allow_missing: bool = False) -> None:
        folder, notes = self.open_folder(root, allow_missing=allow_missing)
        find_table(folder, ["ChestX_Det_train.json"], self.facts.expected, notes)
        self._outlines: dict[str, list[Outline]] = {}
        parts = {
            part: read_outlines(path, self._outlines)
            for part in ("train", "test")
            for path in find_files(folder, f"ChestX_Det_{part}.json")[:1]
        }
        if "test" in parts:
            train, test = map(frozenset, parts.values())
            self.official = {"train_val": train, "test": test}
        below = [place for part in parts for place in (part, f"{part}_data", f"{part}_data/{part}")]
        paths = index_images(map(folder.joinpath, ["", *below]), (".png",), "name")
        names = list(self._outlines)
        boxes = [tuple(box for box, _ in own) for own in self._outlines.values()]
        present = [{box.label for box in own} for own in boxes]
        records = Records(
            **{"image_id": names, "patient_id": names, "path": map(paths.get, names)},
            targets=np.array([[float(label in own) for label in LABELS] for own in present]),
            boxes=boxes,
            box_frame=[(SIDE, SIDE)] * len(names),
        )
        table = {part: len(own) for part, own in parts.items()}
        table |= {"outlines": sum(map(len, boxes)), "without any": present.count(set())}
        images = {label: sum(label in own for own in present) for label in LABELS}
        counts = {"table": table, "images": images}
        self.fill(records, notes, counts=counts, stray=paths.keys() - self._outlines.keys())

    def mask(self, record: Record, label: str) -> npt.NDArray[np.bool_]:
        """The union of the finding's polygons, (1024, 1024) bool; all False where it is absent."""
        if record.image_id not in self._outlines or label not in self.labels:
            raise ConfigError(f"{record.image_id!r} or {label!r} is not of {self.root}")
        drawn = np.zeros((SIDE, SIDE), dtype=np.uint8)
        for box, border in self._outlines[record.image_id]:
            if box.label == label:
                cv2.fillPoly(drawn, [border], 1)  # one by one: they overlap
        return drawn > 0


def read_outlines(path: Path, outlines: dict[str, list[Outline]]) -> list[str]:
    """Names of a table's images; their outlines are added to those of other tables."""
    with open_text(path, "label table") as file:
        entries = json.load(file)
    if not isinstance(entries, list):
        raise TableError(f"{path} is not a list of entries. Download it again")
    names = []
    for number, entry in enumerate(entries, start=1):
        place = f"{path}, entry {number}"
        try:
            triples = zip(entry["syms"], entry["boxes"], entry["polygons"], strict=True)
            own = [_make_outline(*triple) for triple in triples]
            name = str(entry["file_name"])
        except (KeyError, TypeError, ValueError) as error:
            raise TableError(fault("outlines", place, type(error).__name__, error)) from error
        if name in outlines:
            raise TableError(f"{place}: {name!r} stands twice. Remove one of them")
        outlines[name] = own
        names.append(name)
    return names


def _make_outline(label: str, corners: Sequence[float], points: Sequence[Sequence[int]]) -> Outline:
    left, top, right, bottom = map(float, corners)
    border = np.array(points, dtype=np.int32).reshape(len(points), 2)
    if label not in LABELS:
        raise ValueError(f"unknown label {label!r}")
    if not (0 <= left < right <= SIDE and 0 <= top < bottom <= SIDE):
        raise ValueError(f"box {list(corners)} of {label} has no area in {SIDE} x {SIDE} px")
    if len(border) < 3 or border.min() < 0 or border.max() > SIDE:
        raise ValueError(f"polygon of {label} with {len(border)} points, or outside {SIDE} px")
    return Box(label, left, top, right - left, bottom - top), border
