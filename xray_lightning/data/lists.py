"""Splits that come as lists of image ids: a publisher's, or a table's ``image,split`` columns."""

import csv
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

import numpy as np

from xray_lightning.data.names import NameIndex
from xray_lightning.data.partition import PARTS, Indices
from xray_lightning.errors import DataNotFoundError, SplitError, TableError
from xray_lightning.records import Record

Lists = Mapping[str, Set[str]]
ALIASES = {"valid": "val", "validation": "val"}
COLUMNS = ("image", "split")


def indices_of_lists(
    records: Sequence[Record], lists: Lists
) -> tuple[dict[str, Indices], list[str]]:
    """Positions of the records that each list names, and a fault if a record is in no list.

    Ids without a record are left out.
    """
    parts = {
        part: np.array([i for i, each in enumerate(records) if each.image_id in ids], np.int64)
        for part, ids in lists.items()
    }
    nowhere = [
        each.image_id for each in records if not any(each.image_id in i for i in lists.values())
    ]
    if not nowhere:
        return parts, []
    return parts, [
        f"{len(nowhere):,} of {len(records):,} images are in no list of the split, the first "
        f"is {nowhere[0]}: complete the lists, or set split=patient"
    ]


def matched(
    named: Mapping[str, tuple[str, Iterable[str]]], index: NameIndex
) -> tuple[dict[str, set[str]], list[str]]:
    """The ids of each part that its names mean, and notes of the names that mean none.

    Args:
        named: part -> what its list is called in messages, and its names.
        index: of the images.

    Raises:
        SplitError: no name of a list means an image.
    """
    lists, notes = {}, []
    for part, (place, names) in named.items():
        meant = {name: index.find(name) for name in names}
        unknown = [name for name, image in meant.items() if image is None]
        lists[part] = {image for image in meant.values() if image is not None}
        if unknown:
            notes.append(
                f"{len(unknown):,} of the {len(meant):,} names in {place} mean no image of this "
                f"data (or more than one), the first is {unknown[0]!r}"
            )
        if unknown and not lists[part]:
            usual = min(index.ids, default="")
            raise SplitError(f"{notes[-1]}; here an image is called {usual!r}: is it another list?")
    return lists, notes


def read_split_table(path: Path) -> dict[str, list[str]]:
    """Names of the images of each part, from a CSV table with the columns ``image`` and ``split``.

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


def _read_split_table(path: Path) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {part: [] for part in PARTS}
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
            lists[_part(row["split"], f"{path}, line {rows.line_num}")].append(image)
    return lists


def _part(word: str | None, place: str) -> str:
    name = (word or "").strip().lower()
    name = ALIASES.get(name, name)
    if name not in PARTS:
        raise SplitError(f"{place}: split must be train, val or test, got {word!r}")
    return name
