"""A table of scores from anywhere: label columns are told by their names, the ids by content."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xray_lightning.data.names import NameIndex
from xray_lightning.data.partition import Split
from xray_lightning.data.source import Source
from xray_lightning.data.tables import Table, read_table, require_whole
from xray_lightning.errors import MissingImagesError, TableError
from xray_lightning.evaluation import predictions as written
from xray_lightning.evaluation.predictions import Origin, Predictions, read_score_column
from xray_lightning.records import ALIASES, Record, take_records
from xray_lightning.wording import fault, name_first, tell
from xray_lightning.writing import from_spreadsheet

Choice = dict[str, list[str]]  # label -> columns that may hold its scores; without those of none


def read_scores(
    path: str | Path, labels: Sequence[str], images: Collection[str], *, others: bool = False
) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Image ids and scores of a table ``image id, one score per label``.

    The id column is the one whose cells are known image ids, or their file names without folder or
    image ending. The label columns are named as the labels, all with one prefix, if any
    (``prob_Mass``); where that finds none, letters and digits in any case decide
    (``Pleural Thickening``). Other columns are left alone, also ``probability_Mass`` and
    ``call_Mass`` beside ``score_Mass``, as ``xray predict`` writes them.

    Args:
        path: a table as :func:`~xray_lightning.data.tables.read_table` reads it.
        labels: the L labels.
        images: the known image ids.
        others: whether rows of other images are left out instead of refused.

    Returns:
        N ids as the data set writes them, and scores (N, L).

    Raises:
        DataNotFoundError: there is no such file.
        TableError: no id column, or two; unknown or repeated ids, a label without a column, two
            columns for it, or a cell that is not a score in [0, 1].
    """
    table = read_table(path := Path(path))
    if any(name.startswith(written.TARGET) for name in table.columns):  # written by this package
        require_whole(path)
    column, matches = _find_ids(table, images)
    known = np.array([image is not None for image in matches], dtype=np.bool_)
    if not (others or known.all()):
        unknown = table.take(np.flatnonzero(~known)).column(column).to_list()
        raise TableError(fault("unknown_ids", path, unknown, matches, column))
    table, ids = table.take(np.flatnonzero(known)), list(filter(None, matches))
    if twice := [image for image, count in Counter(ids).items() if count > 1]:
        raise TableError(f"{path} scores {len(twice):,} images twice: {name_first(twice, 5)}")
    columns = _find_label_columns(table, labels)
    return ids, np.column_stack([read_score_column(table, columns[label]) for label in labels])


@dataclass
class ScoreTable:
    """A table of scores, see :func:`read_scores`, beside the records of a data set."""

    path: Path
    source: Source
    labels: Sequence[str]
    split: Split | None = None  # None: the images that have a score are taken
    allow_missing: bool = False  # whether images of a subset may have no score
    others: bool = False  # whether other images may have scores, and targets are not these

    def __post_init__(self) -> None:
        images = [record.image_id for record in self.source.records]
        scores = read_scores(self.path, self.labels, images, others=self.others)
        self._scores = dict(zip(*scores, strict=True))

    def take(self, subset: str) -> tuple[list[Record], Predictions, str]:
        """A subset's records that have scores, these, and a sentence about those without any."""
        split, place, records = self.split, subset or "label table", self.source.records
        records = take_records(records, split.subsets[subset]) if split else records
        scored = [record for record in records if record.image_id in self._scores]
        lacking = len(records) - len(scored)
        if not scored:
            raise MissingImagesError(f"no image of the {place} has a score")
        if lacking and split and not self.allow_missing:
            first = next(r.image_id for r in records if r.image_id not in self._scores)
            raise MissingImagesError(fault("without_score", lacking, records, place, first))
        about = lacking, len(records), place, len(self._scores) - len(scored)
        columns = np.stack([self._scores[record.image_id] for record in scored])
        truth = np.full_like(columns, np.nan) if self.others else None
        note = "; ".join(tell(__package__, "scored", *about))
        return scored, Predictions.of(scored, self.labels, columns, truth), note

    def origin(self, subset: str) -> Origin:
        """Where the scores of a subset come from."""
        notes = *self.source.notes, *(self.split.notes if self.split else ())
        about = {"table": str(self.path), "notes": notes}
        return Origin.of(self.source, self.split, subset or None, **about)


def find_scored_labels(path: Path, labels: Sequence[str]) -> tuple[str, ...]:
    """The labels that a table has scores for, in their order."""
    columns = read_table(path).columns
    choices = (choice for spell in (str, _simplify) for choice in _choices(columns, labels, spell))
    best: Choice = max(choices, key=len, default={})
    return tuple(best)


def _find_ids(table: Table, images: Collection[str]) -> tuple[str, list[str | None]]:
    """The column of ids, and the ids of its rows as the data set writes them."""
    index = NameIndex(images)
    ids: dict[str, list[str | None]] = {}
    hits: dict[str, tuple[int, int]] = {}  # ids to the letter, and in any form
    for name in table.columns:
        cells = table.column(name).to_list()
        ids[name] = matches = [index.find(cell) for cell in cells]
        exact = sum(cell in index.ids or from_spreadsheet(cell) in index.ids for cell in cells)
        hits[name] = exact, len(cells) - matches.count(None)
    best = max(hits, key=lambda name: hits[name], default="")
    if not best or not hits[best][1]:
        raise TableError(fault("no_ids", table, next(iter(images))))
    for name, (exact, some) in hits.items():
        rival = (exact, some) == hits[best] or some > hits[best][1]
        if rival and ids[name] != ids[best]:
            raise TableError(fault("two_ids", table.path, best, name))
    return best, ids[best]


def _choices(
    columns: Iterable[str], labels: Sequence[str], spell: Callable[[str], str]
) -> list[Choice]:
    """For each prefix, the columns of each label whose names are spelt alike."""
    spelt: dict[str, list[str]] = {}  # spelling -> columns
    for name in columns:
        spelt.setdefault(spell(name), []).append(name)
    ends = {label: spell(label) for label in labels}
    pairs = product(spelt, ends.values())
    starts = {text.removesuffix(end) for text, end in pairs if text.endswith(end)}
    own = {written.TARGET, written.PROBABILITY, written.CALL}  # of xray predict, beside scores
    beside = own if spell(written.SCORE) in starts else {written.TARGET}
    prefixes = sorted(starts - set(map(spell, beside)))
    return [
        {label: spelt[start + end] for label, end in ends.items() if start + end in spelt}
        for start in prefixes
    ]


def _columns_of(choice: Choice) -> set[str]:
    return {*chain(*choice.values())}


def _find_label_columns(table: Table, labels: Sequence[str]) -> dict[str, str]:
    """The column of each label; names that match to the letter come first."""
    path, columns = table.path, table.columns
    simple = _choices(columns, labels, _simplify)
    exact, alike = (
        [choice for choice in some if min(len(choice), len(_columns_of(choice))) >= len(labels)]
        for some in (_choices(columns, labels, str), simple)
    )
    used = {name for choice in exact for name in _columns_of(choice)}
    complete = exact + [choice for choice in alike if used.isdisjoint(_columns_of(choice))]
    if len(complete) > 1:
        raise TableError(fault("several_scores", path, [own[labels[0]][0] for own in complete]))
    if complete:
        if doubled := [names for names in complete[0].values() if len(names) > 1]:
            raise TableError(f"{path} has two columns for one label: {', '.join(doubled[0])}")
        return {label: names[0] for label, names in complete[0].items()}
    best = max(simple, key=len, default={})
    lacking = [label for label in labels if label not in best]
    raise TableError(fault("no_scores", path, lacking, columns))


def _simplify(name: str) -> str:
    """Letters and digits in lower case; other spellings of a label become the usual one."""
    for other, usual in ALIASES.items():
        if name.endswith(other):
            name = name.removesuffix(other) + usual
    return "".join(letter for letter in name.lower() if letter.isalnum()) or name
