"""A table of scores from anywhere: label columns are found by name, the ids by content."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xray_lightning.data.names import NameIndex
from xray_lightning.data.tables import Table, read_table, require_whole
from xray_lightning.errors import TableError
from xray_lightning.evaluation.predictions import TARGET, score_column
from xray_lightning.records import ALIASES
from xray_lightning.writing import from_spreadsheet

NAMED = 5  # of a list in a message

Choice = dict[str, list[str]]  # label -> columns that may hold its scores


def read_scores(
    path: Path, labels: Sequence[str], images: Collection[str]
) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Image ids and scores of a table ``image id, one score per label``.

    The id column is the one whose cells are known image ids, or their file names without folder or
    image ending. The label columns are named as the labels, all with one prefix, if any
    (``prob_Mass``); where that finds none, letters and digits in any case decide
    (``Pleural Thickening``). Other columns are left alone.

    Args:
        path: a table as :func:`~xray_lightning.data.tables.read_table` reads it.
        labels: the L labels.
        images: the known image ids.

    Returns:
        N ids as the data set writes them, and scores (N, L).

    Raises:
        DataNotFoundError: there is no such file.
        TableError: no id column, or two; unknown or repeated ids, a label without a column, two
            columns for it, or a cell that is no score in [0, 1].
    """
    table = read_table(path)
    if any(name.startswith(TARGET) for name in table.columns):
        require_whole(path)  # ours
    ids = _ids(table, images)
    columns = _label_columns(table, labels)
    return ids, np.column_stack([score_column(table, columns[label]) for label in labels])


def scored_labels(path: Path, labels: Sequence[str]) -> tuple[str, ...]:
    """The labels that a table has scores for, in their order.

    Raises:
        DataNotFoundError, TableError: the table cannot be read.
    """
    columns = list(read_table(path).columns)
    choices = (choice for spell in (str, _plain) for choice in _choices(columns, labels, spell))
    best = max(choices, key=_complete, default={})
    return tuple(label for label in labels if best.get(label))


def _ids(table: Table, images: Collection[str]) -> list[str]:
    """The ids of the rows as the data set writes them."""
    index = NameIndex(images)
    ids = {name: [index.find(cell) for cell in cells] for name, cells in table.columns.items()}
    hits = {  # ids to the letter, and in any form
        name: (
            sum(cell in index.ids or from_spreadsheet(cell) in index.ids for cell in cells),
            len(cells) - ids[name].count(None),
        )
        for name, cells in table.columns.items()
    }
    best = max(hits, key=lambda name: hits[name], default="")
    if not best or not hits[best][1]:
        first = ", ".join(f"{name} ({cells[0]!r})" for name, cells in table.columns.items())
        raise TableError(
            f"{table.path}: no column holds image ids of this data set, such as "
            f"{next(iter(images))!r}; its columns and their first cells are {first}. Is it a table "
            "of another data set?"
        )
    for name, (whole, some) in hits.items():
        rival = (whole, some) == hits[best] or some > hits[best][1]
        if rival and ids[name] != ids[best]:
            raise TableError(
                f"{table.path}: the columns {best!r} and {name!r} may both be the image ids, and "
                "they name other images in a row: leave one of them"
            )
    return _known(table, best, ids[best])


def _known(table: Table, column: str, ids: Sequence[str | None]) -> list[str]:
    cells, known = table.columns[column], [image for image in ids if image is not None]
    unknown = [cell for cell, image in zip(cells, ids, strict=True) if image is None]
    if unknown:
        raise TableError(
            f"{table.path}: {len(unknown):,} of {len(ids):,} ids in column {column!r} are not in "
            f"this data set: {_listed(unknown)}. Take their rows out"
        )
    twice = [image for image, count in Counter(known).items() if count > 1]
    if twice:
        raise TableError(f"{table.path} scores {len(twice):,} images twice: {_listed(twice)}")
    return known


def _choices(
    columns: Sequence[str], labels: Sequence[str], spell: Callable[[str], str]
) -> list[Choice]:
    """For each prefix, the columns of each label whose names are spelt alike."""
    spelt = {name: spell(name) for name in columns}
    ends = {label: spell(label) for label in labels}
    starts = {
        text.removesuffix(end)
        for text in spelt.values()
        for end in ends.values()
        if text.endswith(end)
    }
    return [
        {
            label: [name for name in columns if spelt[name] == start + ends[label]]
            for label in labels
        }
        for start in sorted(starts - {spell(TARGET)})
    ]


def _complete(choice: Choice) -> int:
    return sum(map(bool, choice.values()))


def _label_columns(table: Table, labels: Sequence[str]) -> dict[str, str]:
    """The column of each label; names that match to the letter come first."""
    path, columns = table.path, list(table.columns)
    choices = _choices(columns, labels, _plain)
    exact, plain = (
        [
            each
            for each in some
            if min(_complete(each), len({*chain(*each.values())})) >= len(labels)
        ]
        for some in (_choices(columns, labels, str), choices)
    )
    used = {name for each in exact for name in chain(*each.values())}
    complete = exact + [each for each in plain if used.isdisjoint(chain(*each.values()))]
    if len(complete) > 1:
        names = " or ".join(choice[labels[0]][0] for choice in complete)
        raise TableError(f"{path} has several scores for each label ({names}): leave one of them")
    if complete:
        doubled = [names for names in complete[0].values() if len(names) > 1]
        if doubled:
            raise TableError(f"{path} has two columns for one label: {', '.join(doubled[0])}")
        return {label: names[0] for label, names in complete[0].items()}
    best = max(choices, key=_complete, default={})
    lacking = [label for label in labels if not best.get(label)]
    raise TableError(
        f"{path} has no score for {_listed(lacking)}; its columns are {', '.join(columns)}. One "
        "column per label is needed, with one prefix for all of them, if any; labels=shared scores "
        "those that have one"
    )


def _plain(name: str) -> str:
    """Letters and digits in lower case; other spellings of a label become the usual one."""
    for other, usual in ALIASES.items():
        if name.endswith(other):
            name = name.removesuffix(other) + usual
    return "".join(letter for letter in name.lower() if letter.isalnum()) or name


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
