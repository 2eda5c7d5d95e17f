"""A table of scores from anywhere: label columns are found by name, the ids by content."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from xray_lightning.errors import DataNotFoundError, TableError
from xray_lightning.labels import ALIASES
from xray_lightning.predictions import TARGET
from xray_lightning.writing import from_spreadsheet

NAMED = 5  # of a list in a message


def read_scores(
    path: Path, labels: Sequence[str], images: Collection[str]
) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Image ids and scores of a table ``image id, one score per label``.

    The id column is the one whose cells are known image ids, or their file names without folder or
    ending. The label columns are named as the labels, in any case, all with one prefix, if any
    (``prob_Mass``, ``Pleural Thickening``); other columns are left alone.

    Args:
        path: a CSV file, perhaps compressed.
        labels: the L labels.
        images: the known image ids.

    Returns:
        N ids as the data set writes them, and scores (N, L).

    Raises:
        DataNotFoundError: there is no such file.
        TableError: no id column, unknown or repeated ids, a label without a column, two columns
            for it, or a cell that is no score in [0, 1].
    """
    if not path.is_file():
        raise DataNotFoundError(f"no table of scores at {path}")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError, UnicodeError) as error:
        raise TableError(f"{path} is no readable table ({error})") from error
    ids = _ids(path, table, images)
    columns = _label_columns(path, [str(name) for name in table.columns], labels)
    return ids, np.column_stack([_numbers(path, table[columns[label]], ids) for label in labels])


def _ids(path: Path, table: pd.DataFrame, images: Collection[str]) -> list[str]:
    """The ids of the rows as the data set writes them."""
    known = {_short(image): image for image in images}
    if len(known) < len(images):  # the endings or folders tell them apart
        known = {image: image for image in images}
    hits = {
        str(name): int(table[name].map(lambda cell: _find(cell, known) is not None).sum())
        for name in table.columns
    }
    best = max(hits, key=lambda name: hits[name], default="")
    if not hits.get(best):
        raise TableError(
            f"{path}: no column holds image ids of this data set, such as {next(iter(images))!r}; "
            f"its columns are {', '.join(hits)}. Is it a table of another data set?"
        )
    found = [_find(cell, known) for cell in table[best]]
    unknown = [cell for cell, image in zip(table[best], found, strict=True) if image is None]
    if unknown:
        raise TableError(
            f"{path}: {len(unknown):,} of {len(found):,} ids in column {best!r} are not in this "
            f"data set: {_listed(unknown)}. Take their rows out"
        )
    ids = [image for image in found if image is not None]
    twice = pd.Series(ids)[pd.Series(ids).duplicated()].tolist()
    if twice:
        raise TableError(f"{path} scores {len(twice):,} images twice: {_listed(twice)}")
    return ids


def _find(cell: str, known: Mapping[str, str]) -> str | None:
    names = cell.strip(), from_spreadsheet(cell.strip())
    forms = (form for name in names for form in (name, _short(name)))
    return next((known[form] for form in forms if form in known), None)


def _short(image: str) -> str:
    """A file's name without folder and ending."""
    return image.replace("\\", "/").rpartition("/")[2].rpartition(".")[0] or image


def _label_columns(path: Path, columns: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """The column of each label."""
    plain = {name: _plain(name) for name in columns}
    ends = {label: _plain(label) for label in labels}
    starts = {
        text.removesuffix(end)
        for text in plain.values()
        for end in ends.values()
        if text.endswith(end)
    }
    choices = []
    for start in sorted(starts - {_plain(TARGET)}):
        wanted = {label: start + end for label, end in ends.items()}
        choices.append(
            {label: [name for name in columns if plain[name] == wanted[label]] for label in labels}
        )
    complete = [found for found in choices if all(found.values())]
    if len(complete) == 1:
        doubled = [names for names in complete[0].values() if len(names) > 1]
        if doubled:
            raise TableError(f"{path} has two columns for one label: {', '.join(doubled[0])}")
        return {label: names[0] for label, names in complete[0].items()}
    if complete:
        names = " or ".join(found[labels[0]][0] for found in complete)
        raise TableError(f"{path} has several scores for each label ({names}): leave one of them")
    best = max(choices, key=lambda found: sum(map(bool, found.values())), default={})
    lacking = [label for label in labels if not best.get(label)]
    raise TableError(
        f"{path} has no score for {_listed(lacking)}; its columns are {', '.join(columns)}. One "
        "column per label is needed, with one prefix for all of them, if any"
    )


def _plain(name: str) -> str:
    """Letters and digits in lower case; other spellings of a label become the usual one."""
    for other, usual in ALIASES.items():
        if name.endswith(other):
            name = name.removesuffix(other) + usual
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _numbers(path: Path, cells: pd.Series, ids: Sequence[str]) -> npt.NDArray[np.float32]:
    values = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float32)
    bad = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if len(bad):
        row = int(bad[0])
        raise TableError(
            f"{path}, row {row + 2} ({ids[row]}): {cells.name!r} is {cells.iloc[row]!r}, not a "
            f"score in [0, 1] ({len(bad):,} such cells in the column). Logits need a sigmoid "
            "first; an image without a score is left out of the table"
        )
    return values


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
