"""Tables of what several readers say of the same images, and what a model makes of these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xray_lightning.data.source import choose_labels
from xray_lightning.data.tables import Table, binary, format_count, read_table
from xray_lightning.errors import TableError
from xray_lightning.evaluation.scores import find_scored_labels, read_scores
from xray_lightning.metrics import readers as metrics
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.intervals import Floats
from xray_lightning.records import is_known
from xray_lightning.results import Result

COLUMNS = {  # what a column holds: its usual names, letters and digits alone
    "modality": ("modality", "treatment"),
    "reader": ("reader", "readerid", "radid", "radiologist"),
    "image": ("image", "imageid", "imageindex", "study", "case"),
    "patient": ("patient", "patientid"),
}
MAJORITY = "majority"
WORDS = {"yes": "1", "no": "0"}


class Readings(NamedTuple):
    """What R readers say of N images, with each of M modalities; one, where no column names it."""

    names: tuple[list[str], list[str], list[str]]  # of modalities, readers and images
    patients: list[str]  # of each image; itself where no column tells
    marks: dict[str, Floats]  # label -> (M, R, N), NaN where unread
    notes: list[str]


@dataclass(frozen=True)
class LabelReaders(Result):
    """What is known of the readers of one label; None where it cannot be told."""

    agreement: metrics.Agreement | None = None
    readers: dict[str, metrics.ReaderFigures] = field(default_factory=dict)  # and their majority
    modalities: metrics.ModalityTest | None = None


@dataclass(frozen=True)
class ReaderStudy(Result):
    """Agreement of readers, readers and a model against a truth, or two modalities."""

    labels: dict[str, LabelReaders]
    readers: list[str]
    modalities: list[str]  # two where they are compared
    images: int
    patients: int
    truth: str  # whom readers and model are compared with
    draws: int  # of the bootstrap of patients
    notes: list[str]


def read_readings(paths: Sequence[str | Path], columns: Mapping[str, str]) -> Readings:
    """Tables of a row for each image and reader, or one of each reader, who is the file's name.

    Labels are the columns of marks that all tables share: 1, 0, yes, no, blank or -1 where unknown;
    beside a modality ratings too, higher the surer. ``columns`` names those of modality, reader,
    image and patient where their usual names do not.

    Raises:
        DataNotFoundError: there is no such file.
        TableError: no image column, or none of marks; an image stands twice with a reader and
            modality, or has two patients.
    """
    keys, marks = np.empty((0, 4), np.str_), dict[str, list[float]]()
    for path in map(Path, paths):
        table = read_table(path)
        names = {kind: _find_column(table, kind, columns.get(kind, "")) for kind in COLUMNS}
        table.require(names["image"] or "image")
        cells = {kind: table.text(name) for kind, name in names.items()}
        cells["reader"] = cells["reader"] if names["reader"] else [path.stem] * len(table)
        cells["patient"] = cells["patient" if names["patient"] else "image"]
        others = [name for name in table.columns if name not in names.values()]
        read = {name: _read_marks(table, name, bool(names["modality"])) for name in others}
        shared = [name for name in (marks if len(keys) else read) if read.get(name)]
        marks = {name: marks.get(name, []) + read[name] for name in shared}
        keys = np.vstack([keys, np.transpose([*cells.values()])])
    if not marks:
        raise TableError(f"{paths[0]}: no column of marks (1, 0, yes, no) that all tables share")
    notes = [] if names["patient"] else ["patients are not known: each image counts as its own"]
    if left := [name for name in others if name not in marks]:
        notes.append(f"no labels, or not of all tables: {', '.join(left)}")
    sides = [np.unique(column, return_inverse=True) for column in keys.T[:3]]
    (modalities, i), (readers, j), (images, k) = sides
    counts = np.zeros([len(side) for side, _ in sides], np.intp)
    np.add.at(counts, (i, j, k), 1)
    patients = np.empty(len(images), keys.dtype)
    patients[k] = keys[:, 3]
    for faults, what in ((counts[i, j, k] > 1, "stands twice"), (patients[k] != keys[:, 3],
                          "is of two patients")):  # fmt: skip
        for _, reader, image, _ in keys[faults][:1]:
            raise TableError(f"{paths[0]}: {str(image)!r} by reader {str(reader)!r} {what}")
    tables = {label: np.full(counts.shape, np.nan) for label in marks}
    for label, column in marks.items():
        tables[label][i, j, k] = column
    own = modalities.tolist(), readers.tolist(), images.tolist()
    return Readings(own, patients.tolist(), tables, notes)


def _find_column(table: Table, kind: str, named: str) -> str:
    """The column of a kind, "" where there is none."""
    if named:
        table.require(named)
    spelt = {"".join(filter(str.isalnum, name.lower())): name for name in table.columns}
    return named or next((spelt[name] for name in COLUMNS[kind] if name in spelt), "")


def _read_marks(table: Table, name: str, graded: bool) -> list[float]:
    """A column of marks, NaN where blank; nothing where it is something else."""

    def parse(cell: str) -> float:
        return float(cell or "nan") if graded else binary(WORDS.get(cell.lower(), cell))

    try:
        return table.convert(name, parse, "a mark")
    except TableError:
        return []


def measure_readers(
    tables: Sequence[str | Path],  # see ``read_readings``
    *,
    scores: str | Path = "",  # a table of a model's
    truth: str | Path = "",  # a table of labels; else the majority of the other readers
    labels: str | Sequence[str] = "shared",  # with the truth
    columns: Mapping[str, str] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> ReaderStudy:
    """Do readers agree, and does a model read as they do? Or: is one modality read better?

    Raises:
        ConfigError: a label that is not there.
        DataNotFoundError, TableError: as :func:`read_readings` and
            :func:`~xray_lightning.evaluation.scores.read_scores`; also one reader without a truth,
            no image that two have read, modalities other than two or without a truth.
    """
    readings = read_readings(tables, columns or {})
    (modalities, readers, images), patients, marks, notes = readings
    image = {"image": (columns or {}).get("image", "")}
    told = _read_truth(truth, image, images) if truth else {}
    kept = choose_labels(labels, [*marks], [*(told or marks)])
    _require_comparable(str(tables[0]), readings, bool(told))
    if len(modalities) > 1:
        rows = {k: _compare_modalities(k, marks[k], told[k], patients) for k in kept}
    else:
        model = _read_model(Path(scores), kept, images, notes) if scores else {}
        bootstrap, rows = PatientBootstrap(patients, draws, seed), {}
        for label in kept:
            own = marks[label][0].T
            rows[label] = _measure(bootstrap, readers, own, told.get(label), model.get(label))
            notes += [f"{label}: {note}" for note in _list_constant(readers, own)]
    against = str(truth) or "the majority of the other readers"
    counts = len(images), len({*patients})
    return ReaderStudy(rows, readers, modalities, *counts, against, draws, notes)


def _require_comparable(place: str, readings: Readings, told: bool) -> None:
    """Refuse tables that leave nothing to compare; note the images of one reader."""
    modalities, readers, _ = readings.names
    read = (~np.isnan([*readings.marks.values()])).any(axis=(0, 1))  # (R, N)
    alone = read.sum(axis=0) == 1
    if len(readers) < 2 and not (told and len(modalities) == 1):
        raise TableError(f"{place} names one reader, {readers[0]!r}: two are needed")
    if alone.all() and not told:
        raise TableError(f"{place}: no image is read by two readers: nothing can be compared")
    if len(modalities) > 1 and (len(modalities) > 2 or not told):
        names = ", ".join(modalities)
        raise TableError(f"{place}: two modalities and truth= are needed, got {names}")
    if alone.any() and len(readers) > 1:
        readings.notes.append(f"{format_count(int(alone.sum()), 'image')} read by one reader")


def _read_truth(
    path: str | Path, columns: Mapping[str, str], images: Sequence[str]
) -> dict[str, Floats]:
    """What a table of labels, or most readers in it, say of some images, (N,) each."""
    truth = read_readings([path], columns)
    said = {label: metrics.take_majority(own[0].T) for label, own in truth.marks.items()}
    return _align(images, truth.names[2], said)


def _read_model(
    path: Path, labels: Sequence[str], images: Sequence[str], notes: list[str]
) -> dict[str, Floats]:
    """Scores of the labels that a table has, (N,) each, NaN where an image has none."""
    scored = find_scored_labels(path, labels) or labels
    ids, table = read_scores(path, scored, images, others=True)
    if missing := len(images) - len(ids):
        notes.append(f"{format_count(missing, 'image')} without a score")
    return _align(images, ids, dict(zip(scored, table.T.astype(np.float64), strict=True)))


def _align(
    images: Sequence[str], ids: Sequence[str], columns: Mapping[str, Floats]
) -> dict[str, Floats]:
    """What columns tell of some images, (N,) each; NaN: nothing."""
    rows = {image: row for row, image in enumerate(ids)}
    order = [rows.get(image, -1) for image in images]
    return {label: np.append(column, np.nan)[order] for label, column in columns.items()}


def _list_constant(readers: Sequence[str], marks: Floats) -> list[str]:
    """Readers whose marks are all the same."""
    known = [column[is_known(column)] for column in marks.T]
    return [
        f"reader {reader} marks {'every' if own[0] else 'no'} image of {len(own):,}"
        for reader, own in zip(readers, known, strict=True)
        if len(own) and np.ptp(own) == 0
    ]


def _measure(
    bootstrap: PatientBootstrap,
    readers: Sequence[str],
    marks: Floats,  # (N, R)
    truth: Floats | None,  # (N,)
    scores: Floats | None,  # (N,)
) -> LabelReaders:
    """One label: agreement, each reader, and the majority of all, where there are several."""
    figures = {}
    for index, reader in enumerate(readers):
        told = metrics.take_majority(np.delete(marks, index, 1)) if truth is None else truth
        figures[reader] = metrics.compare_reader(bootstrap, marks[:, index], told, scores)
    if len(figures) == 1:
        return LabelReaders(readers=figures)
    majority = metrics.take_majority(marks)
    told = majority if truth is None else truth
    whole = metrics.compare_reader(bootstrap, majority, told, scores)
    if truth is None:  # the majority against itself: of the model its AUROC alone
        none = metrics.UNKNOWN
        whole = metrics.ReaderFigures(whole.images, whole.positives, none, none, whole.auroc)
    return LabelReaders(metrics.measure_agreement(bootstrap, marks), figures | {MAJORITY: whole})


def _compare_modalities(
    label: str, ratings: Floats, truth: Floats, patients: Sequence[str]
) -> LabelReaders:
    """The test of a label, on the images that every reader rated with both."""
    known = is_known(truth) & ~np.isnan(ratings).any(axis=(0, 1))
    if len(np.unique(truth[known])) < 2:
        raise TableError(f"{label}: the images that all rated are not of both classes")
    sides = ratings[..., known], truth[known], np.asarray(patients)[known]
    test = metrics.compare_modalities(*metrics.measure_modalities(*sides))
    return LabelReaders(modalities=test)
