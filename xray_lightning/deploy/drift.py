"""Are new films, scores and prevalences those of a run's validation?"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xray_lightning.data.files import find_images, looks_like_image
from xray_lightning.data.source import Source
from xray_lightning.errors import ConfigError, DataNotFoundError
from xray_lightning.evaluation.predictions import Predictions, read_own
from xray_lightning.evaluation.scores import find_patients, read_new_scores
from xray_lightning.metrics import drift
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.operating_points import OperatingPoints
from xray_lightning.results import Result
from xray_lightning.writing import read_json

if TYPE_CHECKING:  # needs torch, which a table of scores does not
    from xray_lightning.deploy.classifier import Classifier

LEAST, MOST = 10, 1000  # patients of a side; films of a side whose pixels are compared


@dataclass(frozen=True)
class Drift(Result):
    """New films beside validation's, which stand first in pairs."""

    sizes: dict[str, tuple[int, int]]  # images, patients, films whose pixels were compared
    patients_by: str  # column or pattern that tells the new films' patients; "": each film is one's
    tests: list[drift.ShiftTest]  # what moved most first
    prevalences: dict[str, drift.NewPrevalence]
    notes: list[str]
    draws: int
    seed: int

    @property
    def moved(self) -> list[drift.ShiftTest]:
        """What moved by more than chance, all tests together."""
        return [test for test in self.tests if test.corrected <= drift.LEVEL]


def measure_drift(
    run: Path,  # its folder: predictions_val.csv, operating_points.json, checkpoints/best.ckpt
    new: Path,  # a folder of films; or a table of scores, which needs no torch
    out: Path,  # folder for the scores of films, see :func:`~.predict.predict_files`
    source: Source | None = None,  # validation's films; None: no pixels are compared
    *,
    patient: str = "",  # see :func:`~.scores.read_new_scores`; films of a DICOM study are one's
    draws: int = 2000,
    seed: int = 0,
    device: str = "auto",
    missing: str = "",  # why there is no ``source``
    **how: Any,  # batch_size, workers and progress of ``predict_files``
) -> Drift:
    """Compare new films with a run's validation: what moved, what could not show, prevalences.

    Raises:
        DataNotFoundError: no predictions of validation, no film or no table.
        TableError: a damaged table, or one without scores of the labels.
        ConfigError: fewer than 10 patients on a side, few draws, or a pattern that does not fit.
    """
    if not (table := run / "predictions_val.csv").is_file():
        told = "which new films are compared with: name the folder of a finished training run"
        raise DataNotFoundError(f"{run} has no {table.name}, {told}")
    before, notes, films = read_own(table), [missing] if missing else [], list[drift.Side]()
    require_patients(before.patient_ids, f"validation of {run}")
    drift.require_draws(draws, len(before.labels) + 4)
    if new.is_file() and not looks_like_image(new):
        after, told = read_new_scores(new, before.labels, patient)
    else:
        images = find_images([new])
        names = tuple(map(str, images.images))
        require_patients(find_patients(names, patient) if patient else names, str(new))
        from xray_lightning.deploy.classifier import load_classifier  # torch, after the paths
        from xray_lightning.deploy.predict import predict_files

        classifier = load_classifier(run / "checkpoints/best.ckpt", device=device)
        done = predict_files(classifier, images, out, **how)
        notes += [f"not read: {name}: {why}" for name, why in done.failures.items()]
        after, told = read_new_scores(done.table, before.labels, patient, names)
        films = compare_films(classifier, (before, after), source, seed)
    require_patients(after.patient_ids, str(new))
    sides = before.keep(after.labels), after
    scores: list[drift.Side] = [
        (side.patient_ids, dict(zip(side.labels, side.scores.T.astype(np.float64), strict=True)))
        for side in sides
    ]
    sizes = {
        "images": (len(before.image_ids), len(after.image_ids)),
        "patients": (len(set(before.patient_ids)), len(set(after.patient_ids))),
        "films": (len(films[0][0]), len(films[1][0])) if films else (0, 0),
    }
    tests = drift.compare_sides([scores, films], after.labels, draws=draws, seed=seed)
    prevalences = estimate_prevalences(run, sides, draws, seed)
    return Drift(sizes, told, tests, prevalences, notes, draws, seed)


def require_patients(patients: Sequence[str], place: str) -> None:
    """Refuse fewer than 10: hardly anything could be shown."""
    if (count := len(set(patients))) < LEAST:
        raise ConfigError(f"{place}: {count} patients; with fewer than {LEAST} no drift would show")


def compare_films(
    classifier: "Classifier", sides: Sequence[Predictions], source: Source | None, seed: int
) -> list[drift.Side]:
    """Figures of films as the network sees them, and features halfway in it; none of too few."""
    import torch

    from xray_lightning.deploy.inputs import read_input
    from xray_lightning.models.batches import run_batches
    from xray_lightning.models.gate import middle_layer, run_to

    net, layer = classifier.net, middle_layer(classifier.net)
    records = {record.image_id: record for record in source.records} if source else {}
    at_hand = records.keys() - set(source.missing if source else ())
    described: list[drift.Side] = []
    for side in sides:
        kept = at_hand if side is sides[0] else set(side.image_ids)
        rows = [row for row, name in enumerate(side.image_ids) if name in kept]
        rows = np.random.default_rng(seed).permutation(rows)[:MOST].tolist()
        owners = [side.patient_ids[row] for row in rows]
        if len(set(owners)) < LEAST:
            return []
        names = [side.image_ids[row] for row in rows]
        films = (
            source.read(records[name]) if source and side is sides[0] else read_input(Path(name))[0]
            for name in names
        )
        squares = torch.from_numpy(np.stack([classifier.fit(film) for film in films]))
        images = squares[:, None].float().div_(255)  # (N, 1, S, S)
        grey, features = images[:, 0].numpy(), run_batches(net, images, partial(run_to, net, layer))
        columns = {"mean grey": grey.mean(axis=(1, 2)), "contrast": grey.std(axis=(1, 2))}
        columns["sharpness"] = abs(np.diff(grey)).mean(axis=(1, 2))
        described.append((owners, columns | {drift.FEATURES: features.numpy()}))
    return described


def estimate_prevalences(
    run: Path, sides: Sequence[Predictions], draws: int, seed: int
) -> dict[str, drift.NewPrevalence]:
    """Of each label, at the operating point of validation; a note where there is none."""
    path, (before, after) = run / "operating_points.json", sides
    points = OperatingPoints.from_json(read_json(path)).labels if path.is_file() else {}
    drawn = [PatientBootstrap(one.patient_ids, draws, seed + i) for i, one in enumerate(sides)]
    rows = {}
    for label, *own, new in zip(
        after.labels, before.scores.T, before.targets.T, after.scores.T, strict=True
    ):
        point = points.get(label)
        chosen = (point.threshold, point.note) if point else (np.nan, f"none in {path}")
        rows[label] = drift.estimate_new_prevalence(own, new, *chosen, drawn)
    return rows
