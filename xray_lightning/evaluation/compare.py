"""Paired comparisons on the same images: two models, or one model against several truths."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from xray_lightning.data.decoding import available_cores
from xray_lightning.data.files import match_paths
from xray_lightning.data.nih_expert import FINDINGS, NihExperts
from xray_lightning.data.partition import fingerprint
from xray_lightning.data.source import choose_labels
from xray_lightning.errors import ConfigError, DataNotFoundError, TableError
from xray_lightning.evaluation.predictions import TABLE, Predictions, read_own
from xray_lightning.evaluation.sweep import FINISHED, find_pooled, read_data_title, read_runs
from xray_lightning.metrics import compare as paired
from xray_lightning.metrics.bootstrap import PatientBootstrap, number_patients
from xray_lightning.metrics.calibration import Calibration
from xray_lightning.metrics.decisions import compare_net_benefit, measure_doubts, require_shares
from xray_lightning.metrics.intervals import Array, Band, Estimate
from xray_lightning.metrics.operating_points import OperatingPoints
from xray_lightning.results import Json, Result
from xray_lightning.wording import fault, tell
from xray_lightning.writing import read_json

ACTED_ON = (0.05, 0.1, 0.2)  # thresholds of net benefit, unless others are asked for

Model = str | Path | Predictions | Sequence[Predictions]

NEEDED = tuple(label for labels in FINDINGS.values() for label in labels)


@dataclass(frozen=True)
class Comparison(paired.AurocDifferences):
    """Test AUROC of two models, A and B, on the same images."""

    first: tuple[str, ...]  # tables of A, one a seed
    second: tuple[str, ...]  # tables of B
    fingerprint: str  # of the images
    images: int
    patients: int | None  # how many; None where unknown
    data: str = ""  # title of the data set, "" where the tables are of no run
    draws: int = 2000  # of the bootstrap of patients (and seeds)
    margin: paired.MarginTests | None = None  # where one was stated
    thresholds: list[float] = field(default_factory=list)  # of net benefit, K
    # that of A less that of B, (K,), by label; none of several seeds
    net_benefit: dict[str, Band] = field(default_factory=dict)
    calibrated: list[str] = field(default_factory=list)  # in both; of the others by raw scores
    also = ("verdict", "margin_verdict")

    @property
    def tested(self) -> list[str]:
        """Labels that have a p value; their number is what is corrected for."""
        return [label for label, row in self.labels.items() if not np.isnan(row.p_value)]

    @property
    def verdict(self) -> str:
        """One sentence about the mean, one about the labels."""
        return tell(__package__, "comparison", self)[0]

    @property
    def margin_verdict(self) -> str | None:
        """One sentence about the mean and the labels; None without a margin."""
        return tell(__package__, "margin", self)[0] if self.margin else None


def compare(
    first: Model,
    second: Model,
    *,
    labels: str | Sequence[str] = (),
    draws: int = 2000,  # of the bootstrap
    seed: int = 0,  # of the draws
    threads: int | None = None,  # labels compared at a time; None: the processor's cores
    margin: float | None = None,  # of non-inferiority, stated before; see ``compare_with_margin``
    thresholds: Sequence[float] = ACTED_ON,  # probabilities that would be acted on, rising
) -> Comparison:
    """Compare two models by AUROC, each draw of patients evaluating both.

    A model is a run folder, a table, a pattern of these or a row of a sweep (see
    :func:`find_tables`); or predictions of the test images, one table a seed. ``labels`` are those
    to be compared, or "shared": what all tables have; none: all, which must be the same.

    Raises:
        ConfigError: ``labels`` names one that a table lacks, or a margin or threshold outside
            (0, 1).
        DataNotFoundError: a pattern finds no run.
        TableError: the test images, their truth or the labels differ; see
            :func:`~xray_lightning.evaluation.predictions.read_own`.
    """
    paired.require_margin(margin)
    lines = require_shares("thresholds", thresholds)
    sides = [_read_tables(model, name) for model, name in ((first, "first"), (second, "second"))]
    if labels:
        kept = choose_labels(labels, *(t.labels for side in sides for t in side.values()))
        sides = [{name: table.keep(kept) for name, table in side.items()} for side in sides]
    name, reference = next(iter(sides[0].items()))
    runs = [[_align(name, reference, *pair) for pair in side.items()] for side in sides]
    titles = [read_data_title(Path(next(iter(side)))) for side in sides]
    threads = threads or available_cores()
    columns = reference.labels, reference.targets, reference.patient_ids
    differences = paired.compare_aurocs(*columns, *runs, draws=draws, seed=seed, threads=threads)
    patients = len(set(reference.patient_ids)) if len(sides[0]) == len(sides[1]) == 1 else None
    return Comparison(
        **vars(differences),
        first=tuple(sides[0]),
        second=tuple(sides[1]),
        fingerprint=fingerprint({"test": reference.image_ids}),
        images=len(reference.image_ids),
        patients=reference.patients,
        data=" / ".join(filter(None, dict.fromkeys(titles))),
        draws=draws,
        margin=paired.compare_with_margin(differences, margin, patients) if margin else None,
        **_compare_use(reference, sides, runs, lines, draws=draws, seed=seed) if patients else {},
    )


def _compare_use(
    reference: Predictions,
    sides: Sequence[Iterable[str]],  # the place of the one table of each
    runs: Sequence[Sequence[Array]],  # its scores (N, L), images in the order of the first
    thresholds: list[float],
    **of_bootstrap: int,
) -> Json:
    """Net benefit of A less that of B, of probabilities where validation calibrated both."""
    bootstrap = PatientBootstrap(reference.patient_ids, **of_bootstrap)
    told, bands = [_read_calibrations(*side) for side in sides], dict[str, Band]()
    calibrated = [label for label in reference.labels if all(label in own for own in told)]
    columns = zip(reference.labels, reference.targets.T, runs[0][0].T, runs[1][0].T, strict=True)
    for label, targets, *pair in columns:
        if label in calibrated:
            pair = [own[label](scores) for own, scores in zip(told, pair, strict=True)]
        bands[label] = compare_net_benefit(bootstrap, targets, pair[0], pair[1], thresholds)
    return {"thresholds": thresholds, "net_benefit": bands, "calibrated": calibrated}


def _read_calibrations(place: str) -> dict[str, Calibration]:
    """Those that validation gave a run, which lie beside its table, by label."""
    path = Path(place).with_name("operating_points.json")
    own = Path(place).name == TABLE and path.is_file()  # predictions in memory lie nowhere
    points = OperatingPoints.from_json(read_json(path)).labels if own else {}
    return {label: own.calibration for label, own in points.items() if own.calibration}


def _read_tables(model: Model, name: str) -> dict[str, Predictions]:
    """The tables of a model, one a seed, by their place."""
    if isinstance(model, str | Path):
        return {str(path): read_own(path) for path in find_tables(str(model))}
    tables = [model] if isinstance(model, Predictions) else model
    return {f"{name}[{seed}]": table for seed, table in enumerate(tables)}


def find_tables(pattern: str) -> list[Path]:
    """The predictions that a run folder, a table or a pattern of these names, sorted."""
    # SWEEP/SETTINGS names the finished runs of one row of the sweep's leaderboard, all seeds;
    # SWEEP, or that, the pooled folds of a cross-validation.
    tables = []
    if Path(pattern).suffix in (".ckpt", ".safetensors"):
        raise ConfigError(f"{pattern} is a checkpoint, which holds no scores: name its run folder")
    for path in match_paths(pattern) or _find_group(Path(pattern)):
        table = path / TABLE if path.is_dir() else path
        tables += [table] if table.is_file() else find_pooled(path)
    if not tables:
        raise DataNotFoundError(fault("no_tables", pattern, TABLE))
    return tables


def _find_group(path: Path) -> list[Path]:
    """The finished runs of a sweep whose settings are what follows the sweep's folder."""
    folder = next((parent for parent in path.parents if parent.is_dir()), path)
    runs = read_runs(folder) if folder != path else []
    settings = str(path.relative_to(folder))
    group = [run for run in runs if run.state == FINISHED and run.settings == settings]
    if any(run.fold is not None for run in group):
        return find_pooled(folder, settings)
    return [folder / run.folder for run in group]


def _align(place: str, reference: Predictions, other_place: str, other: Predictions) -> Array:
    """The other's scores (N, L), images in the order of the first; refuses different images."""
    prints = [fingerprint({"test": table.image_ids}) for table in (reference, other)]
    if prints[0] != prints[1]:
        raise TableError(fault("other_images", place, other_place, prints))
    if other.labels != reference.labels:
        raise TableError(f"{place} and {other_place} have different labels: take labels=shared")
    rows = {image: row for row, image in enumerate(other.image_ids)}
    order = [rows[image] for image in reference.image_ids]
    patients = tuple(other.patient_ids[row] for row in order)
    same = np.array_equal(other.targets[order], reference.targets, equal_nan=True)
    if not same or patients != reference.patient_ids:
        raise TableError(fault("other_truth", place, other_place))
    return other.scores[order]


@dataclass(frozen=True)
class TruthRow(Result):
    """One finding by two truths, on the images that both tell of."""

    finding: str
    scores: tuple[str, ...]  # labels whose largest score is the finding's
    readers: str  # whose truth is compared with the text miner's
    images: int
    patients: int
    positives: int  # by the readers
    text_positives: int
    both: int
    # against the readers, against the text miner, and the first less the second
    auroc: paired.Difference
    doubts: dict[str, Estimate] = field(default_factory=dict)  # of ``measure_doubts``, if asked for

    @property
    def sentence(self) -> str:
        """What the difference says, and what it does not."""
        return tell(__package__, "truths", self.finding, self.readers, self.auroc)[0]


@dataclass(frozen=True)
class ExpertTruth(Result):
    """Scores against readers and against the text miner."""

    rows: tuple[TruthRow, ...]  # of each finding and readers that can be compared
    left_out: dict[str, str]  # finding -> why it was not
    images: int  # that have a score
    draws: int  # of the bootstrap of patients

    def to_json(self) -> Json:
        """Plain values, and the sentences."""
        return {**super().to_json(), "sentences": [row.sentence for row in self.rows]}


def score_truths(
    predictions: Predictions, source: NihExperts, *, draws: int = 2000, seed: int = 0, most: int = 0
) -> ExpertTruth:
    """Score a model against every truth of the images, paired with the text miner's.

    Args:
        predictions: scores of some of the images; their targets are not used.
        source: the images and their truths.
        draws: of the bootstrap of patients.
        seed: of the draws.
        most: how many of the miner's labels that the scores doubt most are looked up.

    Raises:
        ConfigError: there is no score of a finding that two truths tell of.
    """
    text, *others = source.truths
    ids, patients = predictions.image_ids, np.asarray(predictions.patient_ids)
    rows, left_out = [], {}
    for finding, labels in FINDINGS.items():
        if not set(labels) <= set(predictions.labels):
            left_out[finding] = f"no scores of {' and '.join(labels)}"
            continue
        told = [truth for truth in others if finding in truth.labels]
        if not told:
            left_out[finding] = "only the text miner tells it here (data.rsna= and data.nih_map=)"
        scores = predictions.keep(labels).scores.max(axis=1)  # (N,)
        for truth in told:
            first, second = (one.tell(finding, ids) for one in (truth, text))
            both = ~np.isnan(first) & ~np.isnan(second)
            if not both.any():
                continue
            sick, mined = ((side == 1) & both for side in (first, second))
            said = number_patients(patients), np.abs(second - scores), second, first
            rows.append(TruthRow(
                *(finding, labels, truth.name, int(both.sum()), len(set(patients[both]))),
                *(int(sick.sum()), int(mined.sum()), int((sick & mined).sum())),
                paired.compare_truths(scores, first, second, patients, draws=draws, seed=seed),
                measure_doubts(*said, most) if most else {},
            ))  # fmt: skip
    if not rows:
        why = "; ".join(f"{finding}: {reason}" for finding, reason in left_out.items())
        raise ConfigError(f"nothing to compare: {why or 'no scored image has two truths'}")
    corrected = paired.holm([row.auroc.p_value for row in rows]).tolist()
    aurocs = [replace(row.auroc, corrected=p) for row, p in zip(rows, corrected, strict=True)]
    rows = [replace(row, auroc=auroc) for row, auroc in zip(rows, aurocs, strict=True)]
    return ExpertTruth(tuple(rows), left_out, len(ids), draws)
