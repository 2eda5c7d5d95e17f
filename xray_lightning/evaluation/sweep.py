"""The runs of a sweep from the files they left: one ranking for each split, by validation AUROC."""

import hashlib
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xray_lightning.writing import read_json

MARKS = ("environment.json", "failure.json", "train.log")  # a folder with one of them is a run


@dataclass(frozen=True)
class Run:
    """One run of a sweep; what it did not come to is empty, 0 or None.

    Args:
        folder: name inside the sweep's folder.
        settings: the overrides that not all runs share, without the seed.
        seed: seed of the training.
        state: "finished", "failed" or "unfinished".
        split: name of the split.
        fingerprint: of the whole split, or of a cross-validation without regard to the fold; runs
            of different ones are never ranked together.
        val_fingerprint: of the validation images.
        test_fingerprint: of the test images.
        val: mean validation AUROC of the best checkpoint, None if undefined.
        test: the same of the test images.
        val_labels: labels with a defined AUROC, over which ``val`` is the mean.
        test_labels: the same of ``test``.
        message: why it failed.
        data: title of the data set, such as "rsna (negatives: all)".
        fold: of a cross-validation, which does not count as a setting; None: it is none.
        folds: of how many.
    """

    folder: str
    settings: str
    seed: int | None
    state: str
    split: str = ""
    fingerprint: str = ""
    val_fingerprint: str = ""
    test_fingerprint: str = ""
    val: float | None = None
    test: float | None = None
    val_labels: int = 0
    test_labels: int = 0
    message: str = ""
    data: str = ""
    fold: int | None = None
    folds: int = 0


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) of the defined values; None for too few."""

    mean: float | None
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Group:
    """Finished runs that differ in their seed only."""

    settings: str
    runs: tuple[Run, ...]
    val: Spread
    test: Spread


@dataclass(frozen=True)
class Ranking:
    """Groups of one split, the best mean validation AUROC first, undefined ones last."""

    data: str
    split: str
    fingerprint: str
    groups: tuple[Group, ...]

    @property
    def chosen(self) -> Group | None:
        """The first one; None if no validation AUROC is defined."""
        return None if self.groups[0].val.mean is None else self.groups[0]


def spread(values: Iterable[float | None]) -> Spread:
    """Mean and standard deviation of what is defined.

    >>> spread([0.5, None, 0.75])
    Spread(mean=0.625, deviation=0.1767766952966369, count=2)
    >>> spread([0.5])
    Spread(mean=0.5, deviation=None, count=1)
    """
    known = [value for value in values if value is not None]
    mean = statistics.fmean(known) if known else None
    return Spread(mean, statistics.stdev(known) if known[1:] else None, len(known))


def read_runs(folder: Path) -> list[Run]:
    """Every run in a sweep's folder, in the order of their numbers."""
    places = [
        place
        for place in sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name))
        if not place.name.startswith(".") and any((place / mark).is_file() for mark in MARKS)
    ]
    failures = [_read(place / "failure.json") for place in places]
    facts = [
        _read(place / "environment.json") or failure
        for place, failure in zip(places, failures, strict=True)
    ]
    known = [set(each["overrides"]) for each in facts if "overrides" in each]
    shared = set.intersection(*known) if known else set()
    return [_run(*each, shared) for each in zip(places, facts, failures, strict=True)]


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except FileNotFoundError:  # not there yet, or gone: runs go on while they are read
        return {}


def _run(place: Path, facts: dict[str, Any], failure: dict[str, Any], shared: set[str]) -> Run:
    varied = [text for text in facts.get("overrides", ()) if text not in shared]
    settings = " ".join(text for text in varied if not text.startswith(("seed=", "sweep=")))
    state, message = ("failed", failure["message"]) if failure else ("unfinished", "")
    run = Run(place.name, settings, facts.get("seed"), state, message=message)
    metrics, split = _read(place / "metrics.json"), facts.get("split")
    if not metrics or split is None:
        return run
    figures = {subset: metrics[subset]["auroc"]["mean"] for subset in ("val", "test")}
    labels = {f"{subset}_labels": metrics[subset]["auroc"]["defined"] for subset in ("val", "test")}
    prints = {f"{subset}_fingerprint": split["parts"][subset] for subset in ("val", "test")}
    data = facts["data"]
    known = {"data": data.get("title", data["name"]), "split": split["name"]}
    known |= {"fingerprint": split["fingerprint"], "state": "finished", "message": ""}
    if split["name"] == "kfold":
        known |= _fold(run, facts)
    return replace(run, **known, **prints, **figures, **labels)


def _fold(run: Run, facts: dict[str, Any]) -> dict[str, Any]:
    """What a fold shares with the others of its cross-validation, and which one it is."""
    dealt = dict(facts["split"]["settings"])
    fold, images = dealt.pop("fold"), sum(facts["split"]["images"].values())
    text = json.dumps([facts["data"], dealt, images], sort_keys=True)
    return {
        "fingerprint": hashlib.sha256(text.encode()).hexdigest()[:16],
        "settings": " ".join(s for s in run.settings.split(" ") if not s.startswith("split.fold=")),
        "fold": fold,
        "folds": dealt["folds"],
    }


def rankings(runs: Sequence[Run]) -> list[Ranking]:
    """One ranking for each split fingerprint of the finished runs, in the order of the runs."""
    by_split: dict[str, list[Run]] = {}
    for run in runs:
        if run.state == "finished":
            by_split.setdefault(run.fingerprint, []).append(run)
    return [
        Ranking(same[0].data, same[0].split, mark, _ranked(same)) for mark, same in by_split.items()
    ]


def _ranked(runs: Sequence[Run]) -> tuple[Group, ...]:
    groups = []
    for settings in dict.fromkeys(run.settings for run in runs):
        same = tuple(run for run in runs if run.settings == settings)
        val, test = spread(run.val for run in same), spread(run.test for run in same)
        groups.append(Group(settings, same, val, test))
    return tuple(sorted(groups, key=lambda each: (each.val.mean is None, -(each.val.mean or 0.0))))


def ranking_rows(ranking: Ranking, *, all_tests: bool = False) -> list[dict[str, Any]]:
    """A ranking as plain rows; test figures of the chosen group only, unless all are asked for."""
    rows = []
    for rank, group in enumerate(ranking.groups, start=1):
        test = group.test if all_tests or group is ranking.chosen else Spread(None, None, 0)
        rows.append(
            {
                "data": ranking.data,
                "split": ranking.split,
                "fingerprint": ranking.fingerprint,
                "rank": rank,
                "chosen": group is ranking.chosen,
                "settings": group.settings,
                "seeds": [run.seed for run in group.runs],
                "n": group.val.count,
                "val_mean": group.val.mean,
                "val_sd": group.val.deviation,
                "val_labels": sorted({run.val_labels for run in group.runs}),
                "test_n": test.count,
                "test_mean": test.mean,
                "test_sd": test.deviation,
                "folders": [run.folder for run in group.runs],
            }
        )
    return rows
