"""The runs of a sweep from the files they left: ranked by validation AUROC, folds pooled."""

import hashlib
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from xray_lightning.errors import DataNotFoundError, TableError
from xray_lightning.evaluation.evaluate import estimate_predictions
from xray_lightning.evaluation.predictions import Predictions, read_own, write_predictions
from xray_lightning.metrics.estimates import Metrics
from xray_lightning.metrics.intervals import Estimate
from xray_lightning.results import Json, Result
from xray_lightning.wording import fault
from xray_lightning.writing import read_json, write_json, write_rows

MARKS = ("environment.json", "failure.json", "train.log")  # a folder with one of them is a run
FINISHED, FAILED, UNFINISHED = "finished", "failed", "unfinished"

POOLED = "pooled.json"


@dataclass(frozen=True)
class SweepRun(Result):
    """One run of a sweep; what it did not come to is empty, 0 or None."""

    folder: str  # name inside the sweep's folder
    settings: str  # the overrides that not all runs share, without the seed and the fold
    seed: int | None  # seed of the training
    state: str  # "finished", "failed", "unfinished", or "pruned" by a study
    split: str = ""  # name of the split
    # of the whole split, or of a cross-validation without regard to the fold; runs of different
    # ones are never ranked together
    fingerprint: str = ""
    val_fingerprint: str = ""  # of the validation images
    test_fingerprint: str = ""  # of the test images
    val: float | None = None  # mean validation AUROC of the best checkpoint, None if undefined
    test: float | None = None  # the same of the test images
    val_labels: int = 0  # labels with a defined AUROC, over which ``val`` is the mean
    test_labels: int = 0  # the same of ``test``
    message: str = ""  # why it failed
    data: str = ""  # title of the data set, such as "rsna (negatives: all)"
    fold: int | None = None  # of a cross-validation, otherwise None
    folds: int = 0  # of how many


@dataclass(frozen=True)
class SeedMean:
    """Mean and standard deviation (n - 1) of the defined values; None for too few."""

    mean: float | None
    deviation: float | None
    count: int


@dataclass(frozen=True)
class SeedGroup:
    """Finished runs that differ in their seed (or fold) only."""

    settings: str
    runs: tuple[SweepRun, ...]
    val: SeedMean
    test: SeedMean


@dataclass(frozen=True)
class Leaderboard:
    """Groups of one split, the best mean validation AUROC first, undefined ones last."""

    data: str
    split: str
    fingerprint: str
    groups: tuple[SeedGroup, ...]

    @property
    def chosen(self) -> SeedGroup | None:
        """The first one; None if no validation AUROC is defined."""
        return None if self.groups[0].val.mean is None else self.groups[0]

    def rows(self, *, all_tests: bool = False) -> list[Json]:
        """Plain rows; test AUROCs of the chosen group only, unless all are asked for."""
        rows, own = [], {"data": self.data, "split": self.split, "fingerprint": self.fingerprint}
        for rank, group in enumerate(self.groups, start=1):
            chosen, val = group is self.chosen, group.val
            test = group.test if all_tests or chosen else SeedMean(None, None, 0)
            row: Json = {**own, "rank": rank, "chosen": chosen, "settings": group.settings}
            row["seeds"] = [run.seed for run in group.runs]
            row |= {"n": val.count, "val_mean": val.mean, "val_sd": val.deviation}
            row |= {"val_labels": sorted({run.val_labels for run in group.runs})}
            row |= {"test_n": test.count, "test_mean": test.mean, "test_sd": test.deviation}
            rows.append(row | {"folders": [run.folder for run in group.runs]})
        return rows


@dataclass(frozen=True)
class SweepComparison(Result):
    """The runs of a sweep in the order of their numbers, compared within each split."""

    runs: tuple[SweepRun, ...]

    @cached_property
    def leaderboards(self) -> list[Leaderboard]:
        """One for each split fingerprint of the finished runs, in the order of the runs."""
        by_split: dict[str, list[SweepRun]] = {}
        for run in self.runs:
            if run.state == FINISHED:
                by_split.setdefault(run.fingerprint, []).append(run)
        return [
            Leaderboard(runs[0].data, runs[0].split, fingerprint, _rank(runs))
            for fingerprint, runs in by_split.items()
        ]

    @property
    def not_finished(self) -> list[SweepRun]:
        """The runs that have no place in a leaderboard."""
        return [run for run in self.runs if run.state != FINISHED]

    def to_json(self, *, all_tests: bool = False) -> Json:
        """Plain values; test AUROCs of each chosen group only, unless all are asked for."""
        chosen = [board.chosen.runs for board in self.leaderboards if board.chosen]
        shown = {run.folder for runs in chosen for run in runs}
        kept = ("folder", "settings", "seed", "state", "message")
        return {
            "ranked_by": "val_mean",
            "rankings": [board.rows(all_tests=all_tests) for board in self.leaderboards],
            "not_finished": [{name: getattr(run, name) for name in kept}
                             for run in self.not_finished],
            "runs": [
                (run if all_tests or run.folder in shown else replace(run, test=None)).to_json()
                for run in self.runs
            ],
        }  # fmt: skip

    def write(self, folder: Path) -> None:
        """Write comparison.csv (a row for each run), ranking.csv and ranking.json."""
        if not self.runs:
            return
        ranked = [row for board in self.leaderboards for row in board.rows()]
        write_rows(folder / "comparison.csv", self.runs)
        write_rows(folder / "ranking.csv", ranked)
        write_json(self.to_json(), folder / "ranking.json")


def compare_runs(folder: str | Path, *, none_yet: bool = False) -> SweepComparison:
    """Compare the runs of a sweep, also a killed or running one.

    DataNotFoundError: no run lies in the folder, unless there may be ``none_yet``.
    """
    comparison = SweepComparison(tuple(read_runs(Path(folder))) if Path(folder).is_dir() else ())
    if not (comparison.runs or none_yet):
        raise DataNotFoundError(f"{folder} holds no runs; name the folder that train.py -m made")
    return comparison


def average_seeds(aurocs: Iterable[float | None]) -> SeedMean:
    """Mean and standard deviation of what is defined.

    >>> average_seeds([0.5])
    SeedMean(mean=0.5, deviation=None, count=1)
    """
    known = [auroc for auroc in aurocs if auroc is not None]
    mean = statistics.fmean(known) if known else None
    return SeedMean(mean, statistics.stdev(known) if known[1:] else None, len(known))


def read_runs(folder: Path) -> list[SweepRun]:
    """Every run in a sweep's folder, in the order of their numbers."""
    places = [
        place
        for place in sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name))
        if not place.name.startswith(".") and any((place / mark).is_file() for mark in MARKS)
    ]
    failures = {place: _read(place / "failure.json") for place in places}
    known = {place: _read(place / "environment.json") or failures[place] for place in places}
    overrides = [set(run["overrides"]) for run in known.values() if "overrides" in run]
    shared = set.intersection(*overrides) if overrides else set()
    return [_read_run(place, known[place], failures[place], shared) for place in places]


def _read(path: Path) -> Json:
    try:
        return read_json(path)
    except FileNotFoundError:  # not there yet, or gone: runs go on while they are read
        return {}


def _read_run(place: Path, environment: Json, failure: Json, shared: set[str]) -> SweepRun:
    varied = [text for text in environment.get("overrides", ()) if text not in shared]
    settings = " ".join(text for text in varied if not text.startswith(("seed=", "sweep=")))
    state = failure.get("state", FAILED) if failure else UNFINISHED
    message = failure.get("message", "")
    run = SweepRun(place.name, settings, environment.get("seed"), state, message=message)
    metrics, split = _read(place / "metrics.json"), environment.get("split")
    if not metrics or split is None:
        return run
    data = environment["data"]
    known: Json = {"state": FINISHED, "message": "", "data": data.get("title", data["name"])}
    known |= {"split": split["name"], "fingerprint": split["fingerprint"]}
    if split["name"] == "kfold":  # a fold under what it shares with the others
        own = dict(split["settings"])
        known |= {"fold": own.pop("fold"), "folds": own["folds"]}
        text = json.dumps([data, own, sum(split["images"].values())], sort_keys=True)
        known["fingerprint"] = hashlib.sha256(text.encode()).hexdigest()[:16]
        words = [word for word in settings.split(" ") if not word.startswith("split.fold=")]
        known["settings"] = " ".join(words)
    for subset in ("val", "test"):
        auroc, images = metrics[subset]["auroc"], split["parts"][subset]
        known |= {subset: auroc["mean"], f"{subset}_labels": auroc["defined"]}
        known[f"{subset}_fingerprint"] = images
    return replace(run, **known)


def _rank(runs: Sequence[SweepRun]) -> tuple[SeedGroup, ...]:
    groups = []
    for settings in dict.fromkeys(run.settings for run in runs):
        seeds = tuple(run for run in runs if run.settings == settings)
        val, test = (average_seeds(getattr(run, k) for run in seeds) for k in ("val", "test"))
        groups.append(SeedGroup(settings, seeds, val, test))
    return tuple(sorted(groups, key=lambda group: (group.val.mean is None, -(group.val.mean or 0))))


@dataclass(frozen=True)
class CrossValidation(Result):
    """The folds of one model with one seed, pooled once all are finished."""

    settings: str  # what sets it apart in its sweep, "" for nothing
    seed: int | None  # of the trainings
    title: str  # for people
    folds: int  # into how many the patients were divided
    fingerprint: str  # of the data and how the patients were divided
    missing: list[int]  # folds without a finished run; the rest is empty while there is one
    predictions: str | None = None  # name of the table of all images
    metrics: Metrics | None = None  # of all images, ranked at once
    images: int = 0  # how many
    patients: int | None = None  # how many; None where unknown
    data: str = ""  # title of the data set
    # label -> AUROC of each fold on its own
    fold_auroc: dict[str, list[float | None]] | None = None
    fold_mean: list[float | None] | None = None  # mean AUROC of each fold

    @property
    def rows(self) -> list[tuple[str, int | None, Estimate, list[float | None]]]:
        """Label, positives, AUROC of all images and of each fold; last the mean, no positives."""
        if self.metrics is None or self.fold_auroc is None or self.fold_mean is None:
            return []
        labels = self.metrics.labels.items()
        rows = [(k, row.positives, row["auroc"], self.fold_auroc[k]) for k, row in labels]
        return [*rows, ("mean", None, self.metrics.mean["auroc"], self.fold_mean)]

    def to_json(self) -> Json:
        """Plain values of pooled.json: the metrics are not nested."""
        values = super().to_json()
        metrics = values.pop("metrics")
        return values | metrics if metrics else {key: values[key] for key in list(values)[:7]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` gave, of this schema or the one before."""
        metrics = {"metrics": values} if "labels" in values else {}
        return super().from_json({**values, **metrics})


def pool_folds(runs: Sequence[SweepRun], folder: str | Path) -> list[CrossValidation]:
    """Pool the complete cross-validations of a sweep into predictions.csv and pooled.json.

    The names of the tables get a number where there are several. DataNotFoundError, TableError: a
    run's predictions are not there, or do not fit together.
    """
    models, folder = group_folds(runs), Path(folder)
    for stale in (*folder.glob("predictions*.csv"), *folder.glob("pooled*.*")) if models else ():
        stale.unlink()
    pooled = []
    for number, folds in enumerate(models):
        name = f"predictions_{number}.csv" if models[1:] else "predictions.csv"
        pooled.append(_pool(folds, folder, name))
    if pooled:
        values = {"cross_validations": [validation.to_json() for validation in pooled]}
        write_json(values, folder / POOLED)
    return pooled


def group_folds(runs: Sequence[SweepRun]) -> list[dict[int, SweepRun]]:
    """The finished folds of each model and seed, in the order of their first runs."""
    models: dict[tuple[str, str, int | None], dict[int, SweepRun]] = {}
    for run in runs:
        if run.fold is not None:
            models.setdefault((run.fingerprint, run.settings, run.seed), {})[run.fold] = run
    return list(models.values())


def _pool(runs: dict[int, SweepRun], folder: Path, name: str) -> CrossValidation:
    first = next(iter(runs.values()))
    title = f"cross-validation of {first.settings or 'all runs'}, seed {first.seed}"
    about = first.settings, first.seed, title, first.folds, first.fingerprint
    missing = [fold for fold in range(first.folds) if fold not in runs]
    validation = CrossValidation(*about, missing)
    if missing:
        return validation
    places = [folder / runs[fold].folder for fold in range(first.folds)]
    predictions = join_folds([place / "predictions_test.csv" for place in places])
    folds = [read_json(place / "metrics.json")["test"]["auroc"] for place in places]
    write_predictions(predictions, folder / name)
    return replace(
        validation,
        predictions=name,
        metrics=estimate_predictions(predictions),
        images=len(predictions.image_ids),
        patients=predictions.patients,
        data=runs[0].data,
        fold_auroc={k: [fold["labels"][k] for fold in folds] for k in predictions.labels},
        fold_mean=[fold["mean"] for fold in folds],
    )


def join_folds(tables: Sequence[Path]) -> Predictions:
    """The predictions of all folds as one table."""
    folds = [read_own(table) for table in tables]
    for table, fold in zip(tables, folds, strict=True):
        if fold.labels != folds[0].labels:
            raise TableError(f"{table} and {tables[0]} have different labels")
    images = tuple(image for fold in folds for image in fold.image_ids)
    if len({*images}) < len(images):
        twice = next(image for image in images if images.count(image) > 1)
        raise TableError(f"{twice} is a test image of several folds: they are of different splits")
    return Predictions(
        folds[0].labels,
        images,
        tuple(patient for fold in folds for patient in fold.patient_ids),
        np.concatenate([fold.targets for fold in folds]),
        np.concatenate([fold.scores for fold in folds]),
    )


def read_data_title(table: Path) -> str:
    """What a run, or a sweep of its folds, says of its data; "" for a bare table."""
    metrics, pooled = table.with_name("metrics.json"), table.with_name(POOLED)
    if metrics.is_file():
        return str(read_json(metrics)["test"].get("data", ""))
    entries = read_json(pooled)["cross_validations"] if pooled.is_file() else []
    own = (entry for entry in entries if entry["predictions"] == table.name)
    return next((f"{e['data']}, {e['folds']} folds [{e['fingerprint']}]" for e in own), "")


def find_pooled(folder: Path, settings: str | None = None) -> list[Path]:
    """The pooled predictions in a sweep's folder, all seeds of one model; none where none are."""
    if not (folder / POOLED).is_file():
        return []
    entries = read_json(folder / POOLED)["cross_validations"]
    chosen = [entry for entry in entries if settings in (None, entry["settings"])]
    if len(names := sorted({entry["settings"] for entry in chosen})) > 1:
        raise DataNotFoundError(fault("several_validations", folder, names))
    if lacking := [entry for entry in chosen if entry["missing"]]:
        raise DataNotFoundError(fault("lacks_folds", folder, lacking[0]))
    return [folder / entry["predictions"] for entry in chosen]
