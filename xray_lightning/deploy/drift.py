"""Are new films, scores and prevalences those of a run's validation?"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from xray_lightning.data.files import find_images
from xray_lightning.data.partition import NameIndex
from xray_lightning.data.source import Source
from xray_lightning.data.tables import read_table
from xray_lightning.deploy.classifier import Classifier, load_classifier
from xray_lightning.deploy.inputs import Pixels, read_input
from xray_lightning.deploy.interpretation import Scores
from xray_lightning.errors import ConfigError, InvalidImageError, TableError
from xray_lightning.evaluation.predictions import Predictions, read_own
from xray_lightning.metrics import drift
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.intervals import Estimate, Floats
from xray_lightning.models.batches import run_batches
from xray_lightning.models.gate import middle_layer, run_to
from xray_lightning.records import prevalence
from xray_lightning.results import Result
from xray_lightning.wording import fault

LEAST, MOST = 10, 1000  # patients of a side for a test; patients of a side that are compared
FIGURES = ("mean grey", "contrast", "sharpness")  # of a film as the network sees it


@dataclass(frozen=True)
class Drift(Result):
    """New films beside validation's, which stand first in pairs."""

    images: tuple[int, int]
    patients: tuple[int, int]  # compared, one film each; where they are not known, films
    unknown: int  # new films whose patient nothing tells; if any, nothing is tested
    validation_known: bool  # whether validation's patients are; if not, likewise
    tested: bool  # whether there are p values: patients are known, and enough
    tests: list[drift.ShiftTest]  # what moved most first
    prevalence: dict[str, float]  # of each label in validation, and below among the new films if
    new_prevalence: dict[str, Estimate]  # nothing else changed (BBSE); NaN: cannot be known
    failures: dict[str, str]  # new files that could not be read, and why
    shared: int  # new films that have the name of one of validation
    draws: int
    seed: int
    prevalence_change: dict[str, Estimate] = field(default_factory=dict)  # new less validation's
    missing: str = ""  # why no pixels were compared, "" if they were
    command: str = ""


def measure_drift(
    run: str | Path,  # its folder: checkpoints/best.ckpt and predictions_val.csv
    new: Sequence[str | Path],  # films, folders, patterns
    source: Source | None = None,  # validation's films; None: scores alone are compared
    *,
    patients: str = "",  # who the new films are of, see :func:`find_patients`
    draws: int = 2000,
    seed: int = 0,
    device: str = "auto",  # and ``trust``: see :func:`~.classifier.load_classifier`
    trust: bool = False,
    progress: Callable[[int, int], object] = lambda done, count: None,  # films done and to do
) -> Drift:
    """Compare new films with a run's validation: what moved, what would be found, prevalences.

    Nothing is tested, and no interval given, where a patient is not known: patients are exchanged
    and resampled, and films of one are alike. DataNotFoundError: no table, or no film; ConfigError:
    few draws, or ``patients`` that do not fit; InvalidImageError: no film can be read.
    """
    before = read_own(Path(run, "predictions_val.csv"))
    drift.require_draws(draws, len(before.labels) + (1 + len(FIGURES) if source else 0))
    owners = find_patients([*map(str, find_images(new).images)], patients)
    classifier = load_classifier(Path(run, "checkpoints/best.ckpt"), device=device, trust=trust)
    after, failures = score_films(classifier, owners, progress)
    unknown, told = after.patient_ids.count(""), before.patients is not None or patients == "file"
    after = replace(after, patient_ids=after.image_ids) if unknown else after
    sides, counts = compare_films(classifier, (before, after), source, seed)
    tested, shares, changes = not unknown and told and min(counts) >= LEAST, {}, {}
    tests = drift.compare_sides(sides, before.labels, draws=draws if tested else 0, seed=seed)
    pairs = (before, seed), (after, seed + 1)
    drawn = [PatientBootstrap(side.patient_ids, draws, start) for side, start in pairs]
    arrays = before.scores.T, before.targets.T, after.scores.T, classifier.interpretation.thresholds
    for label, *own, scores, threshold in zip(before.labels, *arrays, strict=True):
        pair = drift.estimate_new_prevalence(own, scores, threshold, drawn)
        shares[label], changes[label] = pair if tested else (Estimate(s.value) for s in pair)
    sizes = (len(before.image_ids), len(after.image_ids)), counts, unknown, told, tested
    known = dict(zip(before.labels, prevalence(before.targets).tolist(), strict=True))
    names = ({Path(name).stem for name in side.image_ids} for side in (before, after))
    shared = len(set.intersection(*names))
    return Drift(*sizes, tests, known, shares, failures, shared, draws, seed, changes)


def score_films(
    classifier: Classifier, owners: Mapping[str, str | None], progress: Callable[[int, int], object]
) -> tuple[Predictions, dict[str, str]]:
    """Scores of films with their patients, "" where not known; and why others cannot be read."""
    read, failures = dict[str, tuple[Scores, str, str]](), dict[str, str]()
    for (name, told), file in zip(owners.items(), classifier.stream(owners), strict=True):
        if file.scores is None:
            failures[name] = file.failure
        else:
            path = file.path
            own = "" if file.patient in (path.stem, path.name) else file.patient  # RSNA's: of files
            read[name] = file.scores, own if told is None else told, own
        progress(len(read) + len(failures), len(owners))
    if not read:
        raise InvalidImageError(": ".join(next(iter(failures.items()))))
    rows, patients, headers = zip(*read.values(), strict=True)
    if patients == (*read,) and len({*headers} - {""}) < (known := len([*filter(None, headers)])):
        raise ConfigError(fault("films_of_one_patient", known, len({*headers} - {""})))
    unknown = np.full_like(scores := np.stack(rows), np.nan)
    return Predictions(classifier.labels, (*read,), patients, unknown, scores), failures


def find_patients(names: Sequence[str], told: str) -> Mapping[str, str | None]:
    """The patient of each file, "" where ``told`` tells none; None: DICOM is to tell, told is "".

    It is "file": each file is of another patient; or a table: its first column names files, its
    column "patient" patients; or a pattern of their names, of which the first group counts.
    """
    if told in ("", "file"):
        return {name: name if told else None for name in names}
    if told.endswith(".csv") or Path(told).is_file():
        table, index = read_table(Path(told), "patient"), NameIndex(names)
        files = map(index.find, table.text(table.columns[0]))
        owners = dict[str, str]()
        for name, patient in zip(files, table.text("patient"), strict=True):
            if name and owners.setdefault(name, patient) != patient:
                raise TableError(f"{told}: {name} is of {owners[name]!r} and of {patient!r}")
        return dict.fromkeys(names, "") | owners
    try:
        hits = [re.search(told, Path(name).name) for name in names]
    except re.error as error:
        raise ConfigError(f"patients={told!r}: no such table, and no pattern: {error}") from error
    patients = (hit[min(1, hit.re.groups)] or "" if hit else "" for hit in hits)
    return dict(zip(names, patients, strict=True))


def compare_films(
    classifier: Classifier, sides: Sequence[Predictions], source: Source | None, seed: int
) -> tuple[dict[str, Sequence[Floats]], tuple[int, int]]:
    """Each quantity of both sides, one film a patient, and the numbers of patients."""
    (before, after), fresh = sides, pick_films(sides[1], seed)
    records = {record.image_id: record for record in source.records} if source else {}
    kept = pick_films(before, seed, records.keys() - {*(source.missing if source else ())})
    if source and kept:
        own = (source.read(records[before.image_ids[row]]) for row in kept)
        new = (read_input(Path(after.image_ids[row]))[0] for row in fresh)
        both = [describe_films(classifier, films) for films in (own, new)]
    else:
        kept = pick_films(before, seed)
        tables = before.scores[kept].T, after.scores[fresh].T
        both = [dict(zip(before.labels, scores, strict=True)) for scores in tables]
    return {name: [side[name] for side in both] for name in both[0]}, (len(kept), len(fresh))


def pick_films(side: Predictions, seed: int, images: Collection[str] | None = None) -> list[int]:
    """The row of one film of each patient, drawn from ``images`` (None: all); at most ``MOST``."""
    generator, films = np.random.default_rng(seed), dict[str, list[int]]()
    for row, (name, patient) in enumerate(zip(side.image_ids, side.patient_ids, strict=True)):
        if images is None or name in images:
            films.setdefault(patient, []).append(row)
    patients = generator.permutation(sorted(films))[:MOST].tolist()
    return [int(generator.choice(films[patient])) for patient in patients]


def describe_films(classifier: Classifier, films: Iterable[Pixels]) -> dict[str, Floats]:
    """Scores, figures of the film as the network sees it, features halfway in it: (N,), (N, F)."""
    squares, rows = map(classifier.fit, films), []
    watch = partial(run_to, classifier.net, middle_layer(classifier.net))
    while batch := [*islice(squares, 32)]:
        grey = np.stack(batch) / np.float32(255)  # (B, S, S)
        features = run_batches(classifier.net, torch.from_numpy(grey[:, None]), watch).numpy()
        figures = grey.mean((1, 2)), grey.std((1, 2)), abs(np.diff(grey)).mean((1, 2))
        rows.append([*classifier.score(np.stack(batch)).T, *figures, features])
    columns = [np.concatenate(column).astype(np.float64) for column in zip(*rows, strict=True)]
    return dict(zip((*classifier.labels, *FIGURES, drift.FEATURES), columns, strict=True))
