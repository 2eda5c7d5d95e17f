"""A trained model away from its data: its findings, its internal test, patients it learned from."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl

from xray_lightning.checkpoint import LEARNED, Checkpoint, Description, require_labels
from xray_lightning.data.cache import open_cache
from xray_lightning.data.copies import SIDE, find_copies
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.partition import Indices, Split, fingerprint, replace_test
from xray_lightning.data.source import Source, choose_labels, patient_keys, usage_notes
from xray_lightning.data.vocabulary import find_wording, list_findings
from xray_lightning.errors import ConfigError, DataError, SplitError, XrayError, require_choice
from xray_lightning.evaluation import predictions as tables
from xray_lightning.evaluation.predict import predict_subset
from xray_lightning.evaluation.predictions import TABLE, Predictions
from xray_lightning.folders import prepare_folder
from xray_lightning.hub import find_run
from xray_lightning.metrics.operating_points import OperatingPoints
from xray_lightning.records import Record, read_column
from xray_lightning.training.task import XrayTask
from xray_lightning.wording import fault, tell
from xray_lightning.writing import read_json, write_json

FindOwn = Callable[[], XrayDataModule | None]  # a checkpoint's own data; None: not at hand
OpenData = Callable[[Checkpoint], XrayDataModule]


def comparable(description: Description, population: str) -> bool:
    """Whether the checkpoint learned from a population, or from one of several (commas)."""
    known = description.split.get("population") or ""
    return not {""}.issuperset(set(known.split(",")) & set(population.split(",")))


def seen_before(
    description: Description, population: str, records: Sequence[Record]
) -> npt.NDArray[np.bool_] | None:
    """Whether each record's patient was in training or validation, (N,); None: cannot be known."""
    if not comparable(description, population):
        return None
    learned = {key for subset in LEARNED for key in description.split["patients"][subset]}
    return np.array([key in learned for key in patient_keys(population, records)], dtype=np.bool_)


@dataclass(frozen=True)
class Recognised:
    """Patients of N records among those of a checkpoint."""

    seen: npt.NDArray[np.bool_]  # whether the patient was in its training or validation set
    names: list[str]  # the patient, as ``name_patients`` calls those of its own data
    how: str  # what was compared: "patients" (ids), "files" (names), "pixels"; "": nothing could be


def name_patients(population: str, patients: Sequence[str]) -> list[str]:
    """Patients with their population, which those of several data sets have already.

    >>> name_patients("nih", ["13"]), name_patients("nih,phantom-0", ["nih/13"])
    (['nih/13'], ['nih/13'])
    """
    return [name if "," in population else f"{population}/{name}" for name in patients]


def recognise_patients(
    description: Description,  # of the checkpoint
    source: Source,  # the data to look in
    records: Sequence[Record],  # N of its records, all readable
    find_own: FindOwn,
    *,
    cache_dir: str | Path = "outputs/cache",
    pixels: bool = True,  # False: what ids and names of files tell
) -> Recognised:
    """Find a checkpoint's patients among records: by their ids, else by the pixels."""
    # By pixels a patient is recognised who has one image that is also in the checkpoint's own data,
    # and with that image all others of that patient; one of other images alone is not.
    patients = [record.patient_id for record in records]
    seen = seen_before(description, source.population, records)
    if seen is not None:
        return Recognised(seen, name_patients(source.population, patients), "patients")
    strangers = [f"{source.name}:{source.population}:{name}" for name in patients]
    if (own := find_own()) is None:
        return Recognised(np.zeros(len(records), dtype=np.bool_), strangers, "")
    learned = {r.patient_id for subset in LEARNED for r in own.subset_records(subset)}
    if not pixels:
        owners = {r.path.absolute(): r.patient_id for r in own.records if r.path}
        known = [owners.get(record.path.absolute()) if record.path else None for record in records]
        gone = {name for name, owner in zip(strangers, known, strict=True) if owner in learned}
        seen = np.array([name in gone for name in strangers], dtype=np.bool_)
        return Recognised(seen, strangers, "files" if gone else "")  # copies were not looked for
    size = max(SIDE, own.image_size)
    both = (own.source, own.records), (source, records)
    squares = [open_cache(*side, size=size, root=cache_dir).images for side in both]
    pairs = [(own.records[i].patient_id, strangers[j]) for i, j in find_copies(*squares).tolist()]
    gone = {name for patient, name in pairs if patient in learned}
    met = {name: name_patients(own.source.population, [patient])[0] for patient, name in pairs}
    seen = np.array([name in gone for name in strangers], dtype=np.bool_)
    return Recognised(seen, [met.get(name, name) for name in strangers], "pixels")


def _require_own(
    description: Description, data: XrayDataModule, choice: str | None, find_own: FindOwn
) -> XrayDataModule | None:
    """The data of a checkpoint whose patients cannot be compared with others by their ids."""
    reason = ""
    try:
        if own := find_own():
            return own
    except XrayError as error:
        reason = f": {error}"
    if choice is None:
        return None
    known = description.split.get("population")
    raise ConfigError(fault("cannot_be_compared", choice, known, data.source, reason))


def choose_test_images(
    description: Description,
    data: XrayDataModule,
    choice: str | None,
    find_own: FindOwn = lambda: None,
) -> tuple[dict[str, Split], str]:
    """The test set without patients the checkpoint learned from, and a note on what it has met."""
    # "exclude" leaves their images out, "report" puts them into "test_seen". Where ids cannot be
    # compared, a choice compares pixels with the checkpoint's own data, and none names of files.
    if choice is not None:
        require_choice("overlap", choice, ("exclude", "report"))
    fingerprint, whole = data.split.subset_fingerprints["test"], {"test": data.split}
    trained = description.split.get("subsets", {}).get("test", "unknown")
    if fingerprint == trained and not choice:
        return whole, ""
    find = partial(_require_own, description, data, choice, find_own)
    about, cache_dir = (description, data.source, data.subset_records("test")), data.cache_dir
    met = recognise_patients(*about, find, cache_dir=cache_dir, pixels=bool(choice))
    seen, rows = met.seen, data.split.subsets["test"]
    told = fingerprint, trained, met.how, int(seen.sum()), choice
    (note,) = tell(__package__, "test_images", *told)
    if not seen.any():
        return whole, note
    if choice is None:
        raise ConfigError(fault("learned_from_some", seen))
    if seen.all():
        raise SplitError(fault("learned_from_these", seen))
    subsets = {"test": replace_test(data.split, data.records, rows[~seen])}
    if choice == "report":
        subsets["test_seen"] = replace_test(data.split, data.records, rows[seen])
    return subsets, note


def take_images(data: XrayDataModule, images: str) -> None:
    """With "all" every image becomes a test image: the split does not matter to another's model."""
    require_choice("images", images, ("test", "all"))
    if images == "all":
        rows = np.arange(len(data.records))
        data.split = replace(replace_test(data.split, data.records, rows), name="all images")


@dataclass(frozen=True)
class Inspection:
    """A checkpoint and the images it is to be looked at on."""

    checkpoint: Checkpoint
    data: XrayDataModule  # split as for "test"
    splits: dict[str, Split]  # of the images to score ("test"), and those kept apart ("test_seen")
    overlap: str = ""  # what the user chose for patients it learned from
    labels: str | Sequence[str] = ()  # those the user chose
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Of the images to score."""
        return self.splits["test"].subset_fingerprints["test"]

    @property
    def own_images(self) -> bool:
        """Whether these are the test images of its own run."""
        own = self.checkpoint.description.split.get("subsets", {})
        return bool(self.fingerprint == own.get("test"))

    @property
    def overlap_known(self) -> bool:
        """Whether it can be told if the checkpoint has learned from these patients."""
        known = comparable(self.checkpoint.description, self.data.source.population)
        return self.own_images or known or bool(self.overlap)

    def visit(self, folder: Path) -> Iterator[tuple[str, Path]]:
        """Each set of images in turn as the data's test set, with a folder in that of "test"."""
        for name, split in self.splits.items():
            self.data.split = split
            yield name, prepare_folder(folder if name == "test" else folder / name)

    def folder(self, name: str = "") -> Path:
        """Where results go: in the checkpoint's run, else in outputs/."""
        return (find_run(self.checkpoint.path) or Path("outputs")) / name


def inspect_on(
    checkpoint: Checkpoint,
    data: XrayDataModule,
    *,
    images: str = "test",  # or "all": the split does not matter to somebody else's model
    labels: str | Sequence[str] = (),  # to go on with: "shared", or some of those of both
    overlap: str = "",  # "exclude" or "report": see ``choose_test_images``
    find_own: FindOwn = lambda: None,
) -> Inspection:
    """Choose images and labels of a data set for a checkpoint; says what is unlike.

    Raises:
        CheckpointError, ConfigError, SplitError: it does not know a label, or has learned from
            patients of the test set.
    """
    description = checkpoint.description
    if labels:
        data.keep_labels(choose_labels(labels, data.labels, description.labels))
    require_labels(description, data.labels, str(checkpoint.path))
    notes = [*usage_notes(data.source), *data.split.notes]
    if len(data.labels) < len(description.labels):
        few, many = len(data.labels), len(description.labels)
        notes.append(f"data has {few} of the {many} labels: {', '.join(data.labels)}")
    take_images(data, images)
    splits, note = choose_test_images(description, data, overlap or None, find_own)
    data.split = splits["test"]
    return Inspection(checkpoint, data, splits, overlap, labels, (*notes, *filter(None, [note])))


@dataclass(frozen=True)
class Scoring:
    """How images are scored, and where the tables of scores stay."""

    folder: Path
    trainer: pl.Trainer
    batch_size: int = 32
    workers: int | None = None
    cache_dir: str | Path = "outputs/cache"


class Model:
    """A checkpoint with what its run and its own data tell of it."""

    def __init__(self, checkpoint: Checkpoint, open_data: OpenData | None = None) -> None:
        self.checkpoint, self._open_data = checkpoint, open_data
        path, run = checkpoint.path.resolve(), find_run(checkpoint.path)
        self.run, self.name = run or path.parent, run.name if run else path.stem
        self.notes: list[str] = []  # why its own data, or its internal test set, is not at hand
        self.test: Predictions | None = None  # of its internal test set, see ``test_internally``
        told = self._read_metrics().get("data", "")
        self.title = told or (self.own and self.own.source.title) or ""
        self.trained_on = self.title.split(" (")[0]  # "" where that is not known
        own = checkpoint.description.labels
        self.labels = name_findings(self.trained_on, own)  # L names of the vocabulary
        plain = checkpoint.description.operating_points
        points = OperatingPoints.from_json(plain).labels if plain else {}
        pairs = zip(self.labels, own, strict=True)
        self.points = {name: points[label] for name, label in pairs if label in points}

    @cached_property
    def own(self) -> XrayDataModule | None:
        """The data it was trained on, as it was split; None where it is not at hand."""
        if self._open_data is None:
            return None
        try:
            return open_own(self.checkpoint, self._open_data)
        except XrayError as error:
            self.notes.append(f"its own data is not at hand: {error}")
            return None

    def _read_metrics(self) -> dict[str, str]:
        """What metrics.json in its run says of this checkpoint on test; {} where it does not."""
        path = self.run / "metrics.json"
        told = read_json(path).get("test", {}) if path.is_file() else {}
        return told if told.get("weights_sha256") == self.checkpoint.weights_sha256 else {}

    def test_internally(self, scoring: Scoring) -> None:
        """Scores of its internal test set: the table of its run, else scored; None without data."""
        if self._read_metrics() and (self.run / TABLE).is_file():
            self.test = replace(tables.read_own(self.run / TABLE), labels=self.labels)
        elif self.own is None:
            self.notes.append(f"no internal test: {self.run} holds no {TABLE} of these weights")
        else:
            scored = score_images(self, "internal", self.own, scoring)[1]
            self.test = replace(scored, labels=self.labels)


def open_own(checkpoint: Checkpoint, open_data: OpenData) -> XrayDataModule:
    """The data a checkpoint was trained on, as it was split; an error where it is not at hand."""
    data = open_data(checkpoint)
    here, there = data.split.fingerprint, checkpoint.description.split.get("fingerprint")
    if here != there:
        raise DataError(f"it changed: the split was [{there}], it is [{here}]")
    return data


def name_findings(data_set: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    """Labels of a data set by the names of the common vocabulary; others keep their own.

    >>> name_findings("chexpert", ("Pleural Effusion", "Edema", "Scar"))
    ('Effusion', 'Edema', 'Scar')
    """
    wordings = {k: find_wording(data_set, labels, k) for k in list_findings(data_set, labels)}
    called = {w.words[0]: name for name, w in wordings.items() if w and len(w.words) == 1}
    return tuple(called.get(label, label) for label in labels)


def score_images(
    model: Model,
    name: str,  # of the test set, for the name of the file
    data: XrayDataModule,  # whose labels are the model's own, or names of ``model.labels``
    scoring: Scoring,
    rows: Indices | None = None,  # of the test images (n,), ascending; None: those of the split
) -> tuple[Path, Predictions]:
    """Scores of test images, and the table they stay in."""
    # A table of the same weights, pixels and images is not made again; targets are the data's.
    if rows is not None:
        data.split = replace_test(data.split, data.records, rows)
    checkpoint = model.checkpoint
    own = checkpoint.description.labels
    records, targets = data.subset_records("test"), data.subset_targets("test")
    images, patients = (tuple(read_column(records, k)) for k in ("image_id", "patient_id"))
    tta = checkpoint.description.config.get("tta", "none")
    about = {
        "weights_sha256": checkpoint.weights_sha256,
        "data": data.source.identity(),
        "images": fingerprint({"test": images}),
        "labels": list(data.labels),
        "tta": tta,
        **data.preprocessing,
    }
    slug = re.sub(r"[^\w.-]+", "_", name)
    path = scoring.folder / f"scores_{slug}_{checkpoint.weights_sha256[:8]}.csv"
    if (kept := _read_kept(path, about)) and kept.image_ids == images:
        predictions = replace(kept, targets=targets, patient_ids=patients)
        if np.array_equal(kept.targets, targets, equal_nan=True):
            return path, predictions
    else:
        labels = own if set(data.labels) <= set(own) else model.labels
        task = XrayTask(checkpoint.build_net(), labels=labels, tta=tta)
        predictions = predict_subset(scoring.trainer, task, data, "test")
    digest = tables.write_predictions(predictions, path)
    write_json({**about, "predictions_sha256": digest}, path.with_suffix(".json"))
    return path, predictions


def _read_kept(path: Path, about: dict[str, object]) -> Predictions | None:
    """The scores of an earlier run if they are of the same weights, pixels and images."""
    beside = path.with_suffix(".json")
    if not (path.is_file() and beside.is_file()):
        return None
    now = {**about, "predictions_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return tables.read_predictions(path) if read_json(beside) == now else None
