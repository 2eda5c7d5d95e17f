"""Scores of a model beside the truth, in memory and as a table on disk; where they come from.

Also tables of scores from anywhere: label columns are told by their names, the ids by content.
"""

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from xray_lightning.data.partition import NameIndex, Split
from xray_lightning.data.source import Source
from xray_lightning.data.tables import Table, binary, read_table, require_whole
from xray_lightning.errors import CheckpointError, MissingImagesError, TableError
from xray_lightning.records import ALIASES, Record, is_known, read_column, target_matrix
from xray_lightning.results import Result
from xray_lightning.wording import fault, name_first, tell
from xray_lightning.writing import for_spreadsheet, from_spreadsheet, open_replacing, read_json

TABLE = "predictions_test.csv"  # of a run
TARGET = "target_"
SCORE = "score_"
PROBABILITY, CALL = "probability_", "call_"  # beside the scores of new files

Choice = dict[str, list[str]]  # label -> columns that may hold its scores; without those of none


@dataclass(frozen=True)
class SplitName(Result):
    """A split by its name and fingerprint."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Origin(Result):
    """Where predictions come from; None and "" where that is not known."""

    data: str = ""  # title of the data set; beside published results only if it is NIH's
    data_images: int = 0  # images of its label table
    split: SplitName | None = None  # of which they are a subset
    subset: str | None = None  # "train", "val" or "test"
    tta: str | None = None  # test-time augmentation, "none" or "flip"
    weights_sha256: str | None = None  # of the network
    overlap_known: bool | None = None  # whether its training patients were looked for among these
    table: str | None = None  # the file of the scores
    notes: tuple[str, ...] | None = None  # of the data set and the split
    checkpoint: str | None = None  # its file, or hf://REPO@COMMIT; None: that of the run

    @classmethod
    def of(cls, source: Source, split: Split | None, subset: str | None, **more: Any) -> Self:
        """Of a subset of a data set, or of any of its images."""
        name = SplitName(split.name, split.fingerprint) if split else None
        return cls(source.title, len(source.records), name, subset, **more)


@dataclass(frozen=True)
class Predictions:
    """Scores of one model on one part of a data set; ValueError: shapes that do not fit."""

    labels: tuple[str, ...]  # the L labels
    image_ids: tuple[str, ...]  # N ids
    patient_ids: tuple[str, ...]  # N ids
    targets: npt.NDArray[np.float32]  # (N, L) float32, NaN where unknown, and for a share between
    scores: npt.NDArray[np.float32]  # (N, L) float32 in [0, 1]

    def __post_init__(self) -> None:
        shape = (len(self.image_ids), len(self.labels))
        if not (self.targets.shape == self.scores.shape == shape):
            raise ValueError(fault("shapes", shape, self))
        if len(self.patient_ids) != shape[0]:
            raise ValueError(f"{shape[0]} images but {len(self.patient_ids)} patient ids")
        decided = np.where(is_known(self.targets), self.targets, np.float32(np.nan))
        object.__setattr__(self, "targets", decided)

    @classmethod
    def of(
        cls,
        records: Sequence[Record],
        labels: Sequence[str],
        scores: npt.NDArray[np.float32],
        targets: npt.NDArray[np.float32] | None = None,
    ) -> Self:
        """Scores (N, L) of records beside ``targets`` (N, L), those of the records unless given."""
        images, patients = (tuple(read_column(records, k)) for k in ("image_id", "patient_id"))
        truth = target_matrix(records) if targets is None else targets
        return cls(tuple(labels), images, patients, truth, scores)

    @property
    def patients(self) -> int | None:
        """How many; None where they are unknown and each image counts as its own."""
        patients = tuple(self.patient_ids)
        return None if patients == tuple(self.image_ids) else len(set(patients))

    def beside(self, records: Sequence[Record]) -> tuple[Any, Any, Any]:
        """Labels, scores, targets; TableError: records of other images, or in another order."""
        if read_column(records, "image_id") != [*self.image_ids]:
            raise TableError(fault("other_records", self, records))
        return self.labels, self.scores, self.targets

    def keep(self, labels: Sequence[str]) -> "Predictions":
        """The same images with some of the labels alone."""
        columns = [self.labels.index(label) for label in labels]
        targets, scores = self.targets[:, columns], self.scores[:, columns]
        return replace(self, labels=tuple(labels), targets=targets, scores=scores)


def write_predictions(predictions: Predictions, path: str | Path) -> str:
    """Write image, patient, targets and scores as CSV.

    Scores are printed with the nine digits that a float32 needs, so reading them back gives the
    same numbers; an unknown target is an empty cell. An id that a spreadsheet would compute stands
    behind an apostrophe, which the reader takes off (:func:`~.writing.for_spreadsheet`).

    Returns:
        SHA-256 of the table, in hex.
    """
    columns = [prefix + label for prefix in (TARGET, SCORE) for label in predictions.labels]
    ids = zip(predictions.image_ids, predictions.patient_ids, strict=True)
    rows = zip(ids, predictions.targets.tolist(), predictions.scores, strict=True)
    with open_replacing(path := Path(path), newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "patient", *columns])
        for names, targets, scores in rows:
            known = ["" if value != value else str(int(value)) for value in targets]
            cells = [*map(for_spreadsheet, names), *known, *(f"{score:.9g}" for score in scores)]
            writer.writerow(cells)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_predictions(path: str | Path) -> Predictions:
    """Read a table written by :func:`write_predictions`.

    Raises:
        DataNotFoundError: there is no such file.
        TableError: a column is missing, the table is cut off, an image stands twice, or a cell is
            not a score in [0, 1] or not a target; names the row and the cell.
    """
    table = read_table(path := Path(path))
    labels = [name.removeprefix(SCORE) for name in table.columns if name.startswith(SCORE)]
    wanted = [TARGET + label for label in labels] or [SCORE + "<label>"]
    table.require("image", "patient", *wanted)
    require_whole(path)
    table.require(once="image")
    table.refuse_blanks("patient")
    targets = [table.convert(TARGET + label, binary, "1, 0 or blank") for label in labels]
    return Predictions(
        labels=tuple(labels),
        image_ids=tuple(table.text("image")),
        patient_ids=tuple(table.text("patient")),
        targets=np.array(targets, dtype=np.float32).T,
        scores=np.column_stack([read_score_column(table, SCORE + label) for label in labels]),
    )


def read_own(path: Path, metrics: Mapping[str, Any] | None = None) -> Predictions:
    """Read a table which, where figures lie beside it, must be the one they are of."""
    # Without metrics.json and environment.json beside it, it is no run's; ``metrics`` is what
    # metrics.json will say of a run that is about to finish.
    beside, resume = path.with_name("metrics.json"), f"python train.py resume={path.parent}"
    if metrics is None and beside.is_file():
        metrics = read_json(beside)
    if metrics is None and path.with_name("environment.json").is_file():
        raise TableError(fault("unfinished_run", path, resume))
    predictions = read_predictions(path)
    told = (metrics or {}).get(path.stem.removeprefix("predictions_"), {}).get("predictions_sha256")
    if told and told != (read := hashlib.sha256(path.read_bytes()).hexdigest()):
        raise TableError(fault("other_table", path, read, told, resume))
    return predictions


def read_score_column(table: Table, name: str) -> npt.NDArray[np.float32]:
    """Scores of one label, (N,)."""
    wanted = "a score in [0, 1]. Logits need a sigmoid first; an image without a score has no row"
    return np.array(table.convert(name, _score, wanted), dtype=np.float32)


def require_scores(scores: npt.NDArray[np.float32], images: Sequence[str]) -> None:
    """Check that a network gave numbers, (N, L); ``images`` names them in the message."""
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(bad):
        raise CheckpointError(fault("no_numbers", bad, scores, images))


def _score(cell: str) -> float:
    if not 0 <= (score := float(cell)) <= 1:
        raise ValueError
    return score


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
    if any(name.startswith(TARGET) for name in table.columns):  # written by this package
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
        split, place, records = self.split, subset or "label table", [*self.source.records]
        records = [records[row] for row in split.subsets[subset]] if split else records
        scored = [record for record in records if record.image_id in self._scores]
        missing = [record.image_id for record in records if record.image_id not in self._scores]
        if not scored:
            raise MissingImagesError(f"no image of the {place} has a score in {self.path}")
        if missing and split and not self.allow_missing:
            raise MissingImagesError(fault("without_score", missing, records, place))
        about = len(missing), len(records), place, len(self._scores) - len(scored)
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
    own = {TARGET, PROBABILITY, CALL}  # of xray predict, beside scores
    beside = own if spell(SCORE) in starts else {TARGET}
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
