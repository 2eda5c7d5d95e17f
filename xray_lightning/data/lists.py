"""Splits that come as lists of image ids: a publisher's, or a table's ``image,split`` columns."""

import csv
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import numpy as np

from xray_lightning.data.partition import PARTS, Indices
from xray_lightning.errors import DataNotFoundError, SplitError, TableError
from xray_lightning.records import Record

Lists = Mapping[str, Set[str]]
ALIASES = {"valid": "val", "validation": "val"}
COLUMNS = ("image", "split")


def indices_of_lists(records: Sequence[Record], lists: Lists) -> dict[str, Indices]:
    """Positions of the records that each list names; ids without a record are left out.

    Raises:
        SplitError: a record is in no list, or in two.
    """
    parts: dict[str, list[int]] = {part: [] for part in lists}
    nowhere = []
    for position, record in enumerate(records):
        homes = [part for part, ids in lists.items() if record.image_id in ids]
        if len(homes) > 1:
            raise SplitError(f"{record.image_id} is in two lists: {' and '.join(homes)}")
        if homes:
            parts[homes[0]].append(position)
        else:
            nowhere.append(record.image_id)
    if nowhere:
        raise SplitError(
            f"{len(nowhere):,} of {len(records):,} images are in no list of the split, the first "
            f"is {nowhere[0]}: complete the lists, or set split=patient"
        )
    return {part: np.array(positions, dtype=np.int64) for part, positions in parts.items()}


def read_split_table(path: Path) -> dict[str, set[str]]:
    """Image ids of each part, from a CSV table with the columns ``image`` and ``split``.

    The words train, val, valid, validation and test count in any case.

    Raises:
        DataNotFoundError: there is no such file.
        TableError: no text, a column is absent, or an image stands twice.
        SplitError: a word names no part.
    """
    if not path.is_file():
        raise DataNotFoundError(f"there is no split table at {path}: check split.path (path=)")
    try:
        return _read_split_table(path)
    except UnicodeDecodeError as error:
        raise TableError(f"{path} is no table of text (UTF-8)") from error


def _read_split_table(path: Path) -> dict[str, set[str]]:
    lists: dict[str, set[str]] = {part: set() for part in PARTS}
    seen: set[str] = set()
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        absent = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
        if absent:
            raise TableError(f"{path} lacks the column {absent[0]!r}; its header is image,split")
        for row in rows:
            image = row["image"]
            if image in seen:
                raise TableError(f"{path}, line {rows.line_num}: {image} stands twice")
            seen.add(image)
            lists[_part(row["split"], f"{path}, line {rows.line_num}")].add(image)
    return lists


def _part(word: str | None, place: str) -> str:
    name = (word or "").strip().lower()
    name = ALIASES.get(name, name)
    if name not in PARTS:
        raise SplitError(f"{place}: split must be train, val or test, got {word!r}")
    return name
