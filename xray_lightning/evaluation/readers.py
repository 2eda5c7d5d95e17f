"""A table of what several readers say of the same images, and what a model makes of these."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xray_lightning.data.source import choose_labels
from xray_lightning.data.tables import Table, binary, read_table
from xray_lightning.errors import TableError
from xray_lightning.evaluation.predictions import find_scored_labels, read_scores
from xray_lightning.metrics import readers as metrics
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.intervals import NAN, Estimate, Floats
from xray_lightning.results import Result
from xray_lightning.wording import name_first

MAJORITY, WORDS = "majority of all", {"yes": "1", "no": "0"}


class Readings(NamedTuple):
    """What R readers say of N images, with each of M modalities; one, where no column names it."""

    modalities: list[str]
    readers: list[str]
    images: list[str]
    patients: list[str]  # of each image; itself where no column tells
    marks: dict[str, Floats]  # label -> (M, R, N), NaN where unread
    ignored: dict[str, str]  # columns that are no labels, and why


@dataclass(frozen=True)
class ReaderStudy(Result):
    """Agreement of readers, readers and a model against a truth; or two modalities; by label."""

    agreement: dict[str, metrics.Agreement]
    figures: dict[str, dict[str, metrics.ReaderFigures]]  # label -> reader, and their majority
    tests: dict[str, metrics.ModalityTest]
    readers: list[str]
    modalities: list[str]
    images: int
    patients: int | None  # how many; None where unknown: each image counts as its own
    truth: str  # whom readers and model are compared with; "": the majority of the other readers
    scores: str  # the model's table; "": none
    unscored: int  # images without a score there
    draws: int  # of the bootstrap of patients
    ignored: dict[str, str]  # columns that are no labels, and why


def _read(path: Path, image: str, reader: str, patient: str, modality: str) -> Readings:
    keys = [modality, reader, image]
    table = read_table(path)
    table.require(*filter(None, (*keys, patient)), remedy="image= and reader=")
    for name in filter(None, keys):
        table.refuse_blanks(name)
    others = [name for name in table.columns if name not in (*keys, patient)]
    read, ignored = dict[str, list[float]](), dict[str, str]()
    for name in others:
        try:
            read[name] = _read_marks(table, name, graded=bool(modality))
        except TableError as error:
            ignored[name] = str(error).removeprefix(f"{path}, ")
    labels = [name for name, column in read.items() if not np.isnan(column).all()]
    if not labels:
        raise TableError(f"{path}: no column beside {image!r} and {reader!r} holds marks (1, 0)")
    ignored |= {name: f"{name!r} is blank" for name in read if name not in labels}
    (i, modalities), (j, readers), (k, images) = map(table.distinct, keys)
    shape = len(modalities), len(readers), len(images)
    cells = np.ravel_multi_index((i, j, k), shape)
    persons, names = table.distinct(patient or image)
    own = persons[np.unique(k, return_index=True)[1]]  # of each image
    faults = {"stands twice": np.bincount(cells)[cells] > 1, "has two patients": own[k] != persons}
    for what, rows in faults.items():
        for row in np.flatnonzero(rows)[:1].tolist():
            raise TableError(f"{table.place(row)}: image {images[k[row]]!r} {what}")
    marks = {label: np.full(shape, np.nan) for label in labels}
    for label, column in marks.items():
        column.flat[cells] = read[label]
    return Readings(modalities, readers, images, [names[one] for one in own], marks, ignored)


def _read_marks(table: Table, name: str, *, graded: bool) -> list[float]:
    """A column of marks, NaN where blank."""
    if graded:
        return table.convert(name, lambda cell: float(cell or NAN), "a rating")
    return table.convert(name, lambda cell: binary(WORDS.get(cell.lower(), cell)), "a mark")


def measure_readers(
    table: str | Path,  # a row for each image and reader, and each modality
    *,
    image: str = "image_id",  # names of its columns
    reader: str = "rad_id",
    patient: str = "",
    modality: str = "",
    truth: str | Path = "",  # a table of 0 and 1; else the majority of the other readers
    scores: str | Path = "",  # a table of a model's
    labels: str | Sequence[str] = "shared",  # with the truth
    draws: int = 2000,
    seed: int = 0,
) -> ReaderStudy:
    """Do readers agree, and does a model read as they do? Or: is one modality read better?

    Labels are the other columns that hold 1, 0, yes, no, blank or -1 (unread) alone; beside a
    modality any numbers, higher the surer.

    Raises:
        ConfigError, DataNotFoundError: a label, or a table, that is not there.
        TableError: a column is missing, or none is a label; an image stands twice with a reader and
            modality, or has two patients; one reader; modalities other than two, without a truth or
            with scores; see also :func:`~xray_lightning.evaluation.predictions.read_scores`.
    """
    readings = _read(Path(table), image, reader, patient, modality)
    modalities, readers, images, patients, marks, ignored = readings
    if len(readers) < 2:
        raise TableError(f"{table} names one reader, {readers[0]!r}: two are needed")
    if modality and (len(modalities) != 2 or scores or not truth):
        names = name_first(modalities)
        raise TableError(f"{table}: two modalities and truth=, no scores=, are needed, got {names}")
    told, _ = _read_columns(truth, [*marks], images)
    if odd := [k for k, own in told.items() if not np.isin(own[~np.isnan(own)], (0, 1)).all()]:
        raise TableError(f"truth={truth}: {name_first(odd)} must be 0 or 1, or blank: unknown")
    kept = choose_labels(labels, [*marks], [*(told or marks)])
    model, unscored = _read_columns(scores, kept, images)
    bootstrap = PatientBootstrap(patients, draws if scores else 1, seed)
    tests, agreement, figures = {}, {}, {}
    for label in kept:
        own, answers = marks[label][0].T, (told.get(label), model.get(label))
        if modality:
            sides = metrics.measure_modalities(marks[label], told[label], patients)
            tests[label] = metrics.compare_modalities(*sides)
        else:
            agreement[label] = metrics.measure_agreement(own, patients)
            figures[label] = _compare_readers(bootstrap, readers, own, *answers)
    counts = len(images), len({*patients}) if patient else None
    about = readers, modalities, *counts, f"{truth}", f"{scores}", unscored, draws, ignored
    return ReaderStudy(agreement, figures, tests, *about)


def _read_columns(
    path: str | Path, labels: Sequence[str], images: Sequence[str]
) -> tuple[dict[str, Floats], int]:
    """What a table says of some images, (N,) of each label, NaN: nothing; of how many nothing."""
    if not path:
        return {}, 0
    shared = find_scored_labels(Path(path), labels) or labels
    ids, columns = read_scores(path, shared, images, others=True)
    rows = {image: row for row, image in enumerate(ids)}
    order = [rows.get(image, -1) for image in images]
    told = np.vstack([columns, np.full(len(shared), np.nan)])[order]
    return dict(zip(shared, told.T.astype(np.float64), strict=True)), order.count(-1)


def _compare_readers(
    bootstrap: PatientBootstrap, readers: Sequence[str], marks: Floats, *answers: Floats | None
) -> dict[str, metrics.ReaderFigures]:
    """Each reader of marks (N, R), and the majority of all; ``answers``: truth and scores (N,)."""
    truth, scores = answers
    majority = metrics.take_majority(marks)
    others = [metrics.take_majority(np.delete(marks, k, 1)) for k in range(len(readers))]
    truths = [*others, majority] if truth is None else [truth] * (len(readers) + 1)
    columns = zip([*readers, MAJORITY], [*marks.T, majority], truths, strict=True)
    figures = {k: metrics.compare_reader(bootstrap, a, b, scores) for k, a, b in columns}
    if truth is None:  # the majority against itself: of the model its AUROC alone
        one, none = figures[MAJORITY], Estimate(NAN)
        figures[MAJORITY] = metrics.ReaderFigures(one.images, one.positives, none, none, one.auroc)
    return figures
