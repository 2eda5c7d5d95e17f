"""External validation: models by what they were trained on, tested on other hospitals' data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from xray_lightning.checkpoint import Checkpoint
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.decoding import available_cores
from xray_lightning.data.partition import fingerprint
from xray_lightning.data.source import Source
from xray_lightning.data.vocabulary import find_wording, relabel
from xray_lightning.errors import ConfigError
from xray_lightning.evaluation import model as models
from xray_lightning.evaluation.evaluate import estimate_predictions
from xray_lightning.evaluation.model import Model, OpenData, Scoring
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.metrics.calibration import CalibrationLine, fit_line
from xray_lightning.metrics.compare import Sample, compare_samples
from xray_lightning.metrics.estimates import LabelMetrics, Metrics
from xray_lightning.metrics.intervals import NAN, Estimate
from xray_lightning.metrics.operating_points import OperatingPoint
from xray_lightning.records import is_known, patients_known, prevalence, target_matrix
from xray_lightning.results import Json, Result
from xray_lightning.wording import fault, tell

MINIMUM = 10  # patients with a label, and without: below, a figure would follow single patients
MEAN = "mean"
Points = Mapping[str, OperatingPoint]  # of each label that has one
UNKNOWN = Estimate(NAN)
NO_TEST = "no internal test set"
# a figure on the external test set -> its name on the internal one
FIGURES = {"auroc": "internal"} | {k: f"internal_{k}" for k in ("sensitivity", "specificity")}


@dataclass(frozen=True)
class LabelTransfer(Result):
    """A label, or the mean, of a model on an external test set beside its internal one."""

    known: int  # images whose target is known
    positives: int
    positive_patients: int
    prevalence: float
    auroc: Estimate
    internal: Estimate  # AUROC on the internal test set
    difference: Estimate  # external less internal
    internal_prevalence: float = NAN
    sensitivity: Estimate = UNKNOWN  # at the operating point of the internal validation set
    internal_sensitivity: Estimate = UNKNOWN
    specificity: Estimate = UNKNOWN
    internal_specificity: Estimate = UNKNOWN
    calibration: CalibrationLine | None = None
    note: str = ""  # why a figure is missing; of the mean: over how many labels


def compare_labels(
    points: Points,  # of the internal validation set
    predictions: Predictions,  # of the external images
    inside: Predictions | None,  # of the internal test set; None: there is none
    names: tuple[Sequence[str], Sequence[str]],  # patient of each internal, each external image
    **draw: int,  # draws and seed of the bootstrap
) -> tuple[dict[str, LabelTransfer], LabelTransfer]:
    """Every label, and the mean over those with enough patients on both sides."""
    # Equal names are one patient, whatever the predictions call them.
    short = {label: say_too_few(predictions, label) for label in predictions.labels}
    inner = {label: say_too_few(inside, label) if inside else NO_TEST for label in short}
    enough = [label for label, note in short.items() if not note]
    both = [label for label in enough if not inner[label]]
    there = whole = estimate_at_points(points, predictions, enough, **draw)
    here, apart = estimate_at_points(points, inside, both, **draw), {}
    if inside and both:
        sides = zip((inside.keep(both), predictions.keep(both)), names, strict=True)
        one, two = (Sample(side.scores, side.targets, patients) for side, patients in sides)
        changes = compare_samples(one, two, threads=available_cores(), **draw)
        apart = dict(zip([*both, MEAN], changes, strict=True))
        if both != enough:
            whole = estimate_at_points(points, predictions, both, **draw)
    labels = {}
    for label, note in short.items():
        about = there.labels.get(label), here.labels.get(label), apart.get(label, UNKNOWN)
        why = note or (inner[label] and f"internal: {inner[label]}")
        labels[label] = _describe_label(points.get(label), predictions.keep([label]), *about, why)
    positive, count = (predictions.targets == 1).any(axis=1), len(both or enough)
    mean = LabelTransfer(
        known=len(predictions.image_ids),
        positives=int(positive.sum()),
        positive_patients=len(set(np.array(predictions.patient_ids)[positive])),
        prevalence=NAN,
        auroc=whole.mean.get("auroc", UNKNOWN),
        internal=here.mean.get("auroc", UNKNOWN),
        difference=apart.get(MEAN, UNKNOWN),
        note=f"{count} label{'s' * (count != 1)}",
    )
    return labels, mean


def say_too_few(predictions: Predictions, label: str) -> str:
    """Why a label has no figure: fewer than ``MINIMUM`` patients with or without it; else ""."""
    targets = predictions.targets[:, predictions.labels.index(label)]
    patients = np.array(predictions.patient_ids)
    for word, target in (("with", 1), ("without", 0)):
        count = len(np.unique(patients[targets == target]))
        if count < MINIMUM:
            return f"too few patients {word} it: {count}"
    return ""


def estimate_at_points(
    points: Points, predictions: Predictions | None, labels: Sequence[str], **draw: int
) -> Metrics:
    """Metrics of some labels at the model's operating points; empty without labels."""
    if predictions is None or not labels:
        return Metrics({}, {}, {})
    thresholds = {label: point.threshold for label, point in points.items()}
    return estimate_predictions(predictions.keep(labels), None, thresholds=thresholds, **draw)


def _describe_label(
    point: OperatingPoint | None,
    predictions: Predictions,  # of that label alone
    there: LabelMetrics | None,
    here: LabelMetrics | None,
    difference: Estimate,
    note: str,
) -> LabelTransfer:
    scores, targets, patients = predictions.scores, predictions.targets, predictions.patient_ids
    columns, positive = (scores[:, 0], targets[:, 0], patients), targets[:, 0] == 1
    calibration, prior = (point.calibration, point.prevalence) if point else (None, NAN)
    outer, inner = (side.estimates if side else {} for side in (there, here))
    told: Json = {name: outer.get(name, UNKNOWN) for name in FIGURES}
    told |= {inside: inner.get(name, UNKNOWN) for name, inside in FIGURES.items()}
    return LabelTransfer(
        known=int(is_known(targets).sum()),
        positives=int(positive.sum()),
        positive_patients=len(set(np.array(patients)[positive])),
        prevalence=float(prevalence(targets)[0]),
        **told,
        difference=difference,
        internal_prevalence=here.prevalence if here else NAN,
        calibration=fit_line(*columns, calibration, prior) if there else None,
        note=note,
    )


@dataclass(frozen=True)
class Transfer(Result):
    """A model on an external test set."""

    model: str
    data: str  # its name among the test sets
    title: str  # of the data set, with what its figures depend on
    fingerprint: str  # of the images
    images: int
    patients: int | None  # None where they are unknown: each image counts as its own
    recognised: str  # how patients it learned from were: "patients", "pixels", "": not known
    left_out: int  # images of such patients
    patients_left_out: int | None  # None where patients are unknown
    tested_inside: int  # patients who are also in the internal test set: drawn together
    labels: dict[str, LabelTransfer]  # those that both know
    mean: LabelTransfer  # over the labels with enough patients on both sides
    scores: str  # the table of predictions
    notes: tuple[str, ...]

    @property
    def overlap(self) -> str:
        """What became of patients the model learned from."""
        return tell(__package__, "overlap", self)[0]

    @property
    def verdict(self) -> str:
        """One sentence about the mean."""
        return tell(__package__, "transfer", self.mean, self.labels)[0]


@dataclass(frozen=True)
class InternalTest(Result):
    """A model and its internal test set."""

    name: str
    path: str
    weights_sha256: str
    trained_on: str  # name of the data set, "" where it is not known
    title: str  # of the data set
    aurocs: dict[str, Estimate]  # of the labels with enough patients
    mean: Estimate  # of these
    images: int
    patients: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ExternalValidation(Result):
    """Every model on every test set; external.json holds it."""

    models: list[InternalTest]
    sets: dict[str, str]  # name of a test set -> title
    cells: list[Transfer]  # a model's own data set has none
    draws: int
    seed: int
    command: str = ""

    def cell(self, model: str, data: str) -> Transfer | None:
        """One of them; None for a model's own data set."""
        return next((c for c in self.cells if (c.model, c.data) == (model, data)), None)


def validate_externally(
    checkpoints: Sequence[Checkpoint],
    sources: Mapping[str, Source],  # by name, whole: every image is a test image
    scoring: Scoring,  # how, and into which folder
    *,
    # the data a checkpoint was trained on: for the pixels, and for an internal test set of which
    # there is no table in its run; None: that is not at hand
    open_data: OpenData | None = None,
    draws: int = 2000,  # of the bootstrap
    seed: int = 0,  # of the bootstrap
) -> ExternalValidation:
    """Test models on the data of other hospitals, by the labels that both know.

    Patients a model learned from are left out, recognised by their ids or else by the pixels of
    their images. A model's own data set is not scored: there its internal test stands. Tables of
    scores stay in the folder of ``scoring``; what is there of the same weights and images is not
    scored again.

    Raises:
        ConfigError: no checkpoint or no test set, one twice, a test set tells no label of a model,
            or a model learned from all its patients.
        MissingImagesError: images of a test set are not on disk, and it does not allow that.
    """
    if not checkpoints or not sources:
        raise ConfigError("an external validation needs at least one checkpoint and one test set")
    tested = [Model(checkpoint, open_data) for checkpoint in checkpoints]
    names = [model.name for model in tested]
    for model in tested:
        if names.count(model.name) > 1:  # of runs of one name in two folders
            model.name = str(model.checkpoint.path)
    if len({model.checkpoint.weights_sha256 for model in tested}) < len(tested):
        raise ConfigError(f"two of the checkpoints have the same weights: {', '.join(names)}")
    for model in tested:
        model.test_internally(scoring)
    pairs = [  # labels before long work
        (model, name, list_told(model, source))
        for model, (name, source) in product(tested, sources.items())
        if not _is_own(model, source)
    ]
    # the title under the name that a set has here: two CSV tables are told apart
    titles = {k: source.title.replace(source.name, k, 1) for k, source in sources.items()}
    draw = {"draws": draws, "seed": seed}
    cells = [
        _transfer(model, name, relabel(sources[name], told), scoring, **draw)
        for model, name, told in pairs
    ]
    rows = [_describe(model, **draw) for model in tested]
    return ExternalValidation(rows, titles, cells, draws, seed)


def list_told(model: Model, source: Source) -> list[str]:
    """The labels of a model that a data set tells, in the model's order."""
    told = [name for name in model.labels if find_wording(source.name, source.labels, name)]
    if not told:
        raise ConfigError(fault("tells_none", source, model))
    return told


def _is_own(model: Model, source: Source) -> bool:
    """Whether a data set is the one that a model's internal test images and targets are of."""
    own, test = model.checkpoint.description.labels, model.test
    if test is None or model.trained_on != source.name or not set(own) <= set(source.labels):
        return False
    records = {record.image_id: record for record in source.records}
    there = [records[image] for image in test.image_ids if image in records]
    if tuple(record.patient_id for record in there) != tuple(test.patient_ids):
        return False
    columns = [source.labels.index(label) for label in own]
    return np.array_equal(target_matrix(there)[:, columns], test.targets, equal_nan=True)


def _describe(model: Model, **draw: int) -> InternalTest:
    test = model.test
    enough = [label for label in model.labels if test and not say_too_few(test, label)]
    metrics = estimate_at_points(model.points, test, enough, **draw)
    return InternalTest(
        name=model.name,
        path=str(model.checkpoint.path),
        weights_sha256=model.checkpoint.weights_sha256,
        trained_on=model.trained_on,
        title=model.title,
        aurocs={label: row["auroc"] for label, row in metrics.labels.items()},
        mean=metrics.mean.get("auroc", UNKNOWN),
        images=len(test.image_ids) if test else 0,
        patients=test.patients if test else None,
        notes=tuple(dict.fromkeys(model.notes)),
    )


def _transfer(model: Model, name: str, source: Source, scoring: Scoring, **draw: int) -> Transfer:
    """Score a model on a test set without the patients it learned from, and compare."""
    learned, test = model.checkpoint.description, model.test
    how: Json = {"workers": scoring.workers, "cache_dir": scoring.cache_dir}
    data = XrayDataModule(source, **learned.preprocessing, batch_size=scoring.batch_size, **how)
    asked = learned, source, data.records, lambda: model.own
    met = models.recognise_patients(*asked, cache_dir=scoring.cache_dir)
    rows = np.flatnonzero(~met.seen)
    if not len(rows):
        raise ConfigError(fault("learned_from_all", model.name, data.records, name))
    gone = {r.patient_id for r, seen in zip(data.records, met.seen, strict=True) if seen}
    table, predictions = models.score_images(model, name, data, scoring, rows)
    own = learned.split.get("population", ""), test.patient_ids if test else ()
    names = models.name_patients(*own), [met.names[row] for row in rows]
    labels, mean = compare_labels(model.points, predictions, test, names, **draw)
    return Transfer(
        model=model.name,
        data=name,
        title=source.title.replace(source.name, name, 1),
        fingerprint=fingerprint({"test": predictions.image_ids}),
        images=len(rows),
        patients=predictions.patients,
        recognised=met.how,
        left_out=int(met.seen.sum()),
        patients_left_out=len(gone) if patients_known(data.records) else None,
        tested_inside=len(set(names[0]) & set(names[1])),
        labels=labels,
        mean=mean,
        scores=str(table),
        notes=tuple(source.notes),
    )
