"""Splits that come as lists of image ids: a publisher's, or a table's ``image,split`` columns."""

from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

import numpy as np

from xray_lightning.data.names import NameIndex
from xray_lightning.data.partition import SUBSETS, Indices
from xray_lightning.data.tables import Table, read_table
from xray_lightning.errors import SplitError
from xray_lightning.records import Record

Lists = Mapping[str, Set[str]]
ALIASES = {"valid": "val", "validation": "val"}


def indices_of_lists(
    records: Sequence[Record], lists: Lists
) -> tuple[dict[str, Indices], list[str]]:
    """Positions of the records that each list names, and a fault if a record is in no list.

    Ids without a record are left out.
    """
    subsets = {
        subset: np.array([i for i, each in enumerate(records) if each.image_id in ids], np.int64)
        for subset, ids in lists.items()
    }
    nowhere = [
        each.image_id for each in records if not any(each.image_id in i for i in lists.values())
    ]
    if not nowhere:
        return subsets, []
    return subsets, [
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
    for subset, (place, names) in named.items():
        meant = {name: index.find(name) for name in names}
        unknown = [name for name, image in meant.items() if image is None]
        lists[subset] = {image for image in meant.values() if image is not None}
        if unknown:
            notes.append(
                f"{len(unknown):,} of the {len(meant):,} names in {place} mean no image of this "
                f"data (or more than one), the first is {unknown[0]!r}"
            )
        if unknown and not lists[subset]:
            usual = min(index.ids, default="")
            raise SplitError(f"{notes[-1]}; here an image is called {usual!r}: is it another list?")
    return lists, notes


def read_split_table(path: Path) -> dict[str, list[str]]:
    """Names of the images of each part, from a CSV table with the columns ``image`` and ``split``.

    The words train, val, valid, validation and test count in any case.

    Raises:
        DataNotFoundError: there is no such file.
        TableError: no table, a column is absent, an image stands twice, or a word names no part.
    """
    table = read_table(path)
    table.require("image", "split")
    table.refuse_repeats("image")
    return split_column(table)


def split_column(table: Table) -> dict[str, list[str]]:
    """Names of the images of each part by the columns ``image`` and ``split``.

    Raises:
        TableError: a word names no part.
    """
    subsets = table.convert("split", _subset, "train, val (or valid, validation) or test")
    pairs = list(zip(table.text("image"), subsets, strict=True))
    return {
        subset: [image for image, its_subset in pairs if its_subset == subset] for subset in SUBSETS
    }


def _subset(word: str) -> str:
    name = ALIASES.get(word.lower(), word.lower())
    if name not in SUBSETS:
        raise ValueError
    return name
