"""What a set of predictions is worth: metrics, operating points, subgroups; without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from xray_lightning.data.decoding import available_cores
from xray_lightning.data.partition import fingerprint
from xray_lightning.data.vocabulary import find_ancestors
from xray_lightning.errors import ConfigError, require_integer
from xray_lightning.evaluation import priors as rules
from xray_lightning.evaluation.predictions import Origin, Predictions
from xray_lightning.evaluation.published import Published, comparable
from xray_lightning.metrics import decisions
from xray_lightning.metrics import operating_points as fitting
from xray_lightning.metrics import subgroups as fairness
from xray_lightning.metrics.bootstrap import PatientBootstrap, number_patients
from xray_lightning.metrics.calibration import Calibration, Reliability, measure_reliability
from xray_lightning.metrics.decisions import require_shares
from xray_lightning.metrics.estimates import Metrics, estimate_metrics
from xray_lightning.metrics.intervals import Array, Estimate, divided, mean_of_defined
from xray_lightning.metrics.operating_points import OperatingPoints
from xray_lightning.records import Record, is_known, patients_known, prevalence
from xray_lightning.results import Json, Result

MARGIN = "margin"  # distance of a score from its threshold
USE = ("reliability", "net_benefit", "at_prevalence", "selective")  # of each label
# share of positives in training above which a label is of the group, as CXR-LT's are grouped [read
# in code of others, not in a paper]
FREQUENCY = {"head (above 10 %)": 0.1, "medium (1 to 10 %)": 0.01, "tail (below 1 %)": -1.0}
GAP_DRAWS = 500  # of gaps between groups, at most
Probe = Mapping[str, Estimate]  # AUROC at which features tell each hospital


@dataclass(frozen=True)
class Pooled(Result):
    """Beside the figures of several hospitals together; AUROC in each stands in the subgroups."""

    # AUROC of a score that is the hospital's prevalence among other patients alone, by label;
    # those that one hospital alone tells are not pooled
    hospital_alone: dict[str, Estimate]
    # AUROC at which the network's features tell a hospital from all others, of patients held out
    probe: dict[str, Estimate]


def describe_pooled(
    predictions: Predictions, records: Sequence[Record], probe: Probe, draws: int, seed: int
) -> Pooled | None:
    """What can be won by telling hospitals apart; None for images of one."""
    names, codes = np.unique([record.hospital for record in records], return_inverse=True)
    if len(names) < 2:
        return None
    alone, bootstrap = {}, PatientBootstrap(predictions.patient_ids, draws, seed)
    half = np.random.default_rng(seed).permutation(bootstrap.patients)[bootstrap.codes] % 2 == 0
    for label, targets in zip(predictions.labels, predictions.targets.T, strict=True):
        known, drawn = is_known(targets), []
        for own in (half, ~half):  # the other half tells their order: their own lies above chance
            sums = (np.bincount(codes, part & ~own, len(names)) for part in (targets == 1, known))
            scores = np.nan_to_num(divided(*sums))[codes]
            drawn.append(bootstrap.subset(own).auroc(scores[own], targets[own]))
        if len(np.unique(codes[known])) > 1:
            alone[label] = Estimate.of_draws(mean_of_defined(np.stack(drawn)))
    return Pooled(alone, dict(probe))


@dataclass(frozen=True)
class Doubt(Result):
    """A label of an image that was found doubtful, see :func:`find_doubts`."""

    image: str
    patient: str
    label: str
    calibrated: bool  # whether the probability is more than a raw score
    target: float  # what the table says
    probability: float  # what the model says
    neighbours: float  # share of positives among them; NaN where none is known
    doubt: float  # from 0 to 1
    image_doubt: float  # of all labels of the image


@dataclass(frozen=True)
class Evaluation(Result):
    """Every metric of some predictions; evaluation.json holds it."""

    metrics: Metrics  # of every label, and their means
    origin: Origin  # where the predictions come from
    fingerprint: str  # of their images
    images: int
    patients: int | None  # how many; None where they are not known
    patients_known: bool  # where they are not, every image counts as its own
    draws: int  # of the bootstrap
    seed: int  # of the bootstrap
    operating_points: OperatingPoints | None  # that were applied; None: none
    priors: rules.Pairs  # label -> the prevalence that its calibration was corrected from, and to
    prior_tests: dict[str, rules.PriorTest]  # label -> what such a correction does on known targets
    calls: fitting.Calls | None  # misses and false alarms of the operating points; None without any
    # a row for each label and the mean in each group; empty if not asked for
    subgroups: list[fairness.Subgroup]
    # errors of any finding in each group; empty without operating points
    underdiagnosis: list[fairness.GroupErrors]
    published: list[Published]  # results that these may stand beside
    pooled: Pooled | None = None  # of images of several hospitals
    # label -> "raw" and, of a label with a calibration, "calibrated" scores -> how far they hold
    reliability: dict[str, dict[str, Reliability]] = field(default_factory=dict)
    # of the last of these
    net_benefit: dict[str, decisions.DecisionCurve] = field(default_factory=dict)
    # of labels with an operating point
    at_prevalence: dict[str, decisions.PrevalenceCurve] = field(default_factory=dict)
    # a row for each label that is one kind of another; empty where none is
    hierarchy: list[decisions.Violation] = field(default_factory=list)
    # of the same, the least certain first
    selective: dict[str, decisions.Selection] = field(default_factory=dict)
    # label or ``ALL_LABELS`` -> ``SIZE`` of its set; a group by sex, age or view -> left out there
    conformal: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    group_errors: list[fairness.GroupErrors] = field(default_factory=list)  # of each label
    gaps: list[fairness.Gaps] = field(default_factory=list)  # between groups
    doubts: list[Doubt] = field(default_factory=list)  # where they were asked for
    certainty: str = MARGIN  # by what images are certain

    def to_json(self) -> Json:
        """Plain values of evaluation.json: metrics and origin are not nested."""
        values = super().to_json()
        metrics, origin = values.pop("metrics"), values.pop("origin")
        values["operating_points"] = values["operating_points"] or {}
        values["validation"] = values["operating_points"]  # its name in schema 1
        return {**metrics, **origin, **values}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` gave, of this schema or the one before."""
        points = values.get("operating_points", values.get("validation")) or None
        parts = {"metrics": values, "origin": values, "operating_points": points}
        return super().from_json({**values, **parts})


def evaluate(
    predictions: Predictions,  # of N images
    records: Sequence[Record],  # of the N images, in their order
    origin: Origin | None = None,  # where the predictions come from
    *,
    operating_points: OperatingPoints | None = None,  # of validation; None: no calibration either
    prior: rules.Prior = rules.VALIDATION,  # the prevalence that calibrated scores hold for
    draws: int = 2000,  # of the bootstrap; subgroups need none, gaps between groups at most 500
    seed: int = 0,  # of the bootstrap
    learned: Array | None = None,  # targets of training (M, L), which tell what is rare there
    subgroups: bool = True,  # whether they are evaluated
    hospital_probe: Probe | None = None,
    thresholds: Sequence[float] = decisions.THRESHOLDS,  # of net benefit, rising
    prevalences: Sequence[float] = decisions.PREVALENCES,  # of operating points, rising
    doubts: int = 0,  # how many of the most doubted labels are listed
) -> Evaluation:
    """Every metric of some predictions, operating points and calibrations of validation applied.

    ``hospital_probe`` is the AUROC at which features tell each hospital, where it was measured.

    Raises:
        ConfigError, TableError: no draws, no images or records of others, a prior that there is no
            calibration for, or thresholds or prevalences that are not inside (0, 1).
    """
    at = require_shares("thresholds", thresholds), require_shares("prevalence", prevalences)
    origin, few = origin or Origin(), min(draws, GAP_DRAWS)
    priors, prior_tests = rules.correct_priors(prior, predictions, operating_points)
    chosen = operating_points.thresholds if operating_points else {}
    columns = predictions.beside(records)
    calibrations = rules.calibrate(operating_points, priors) or None
    how = {"thresholds": chosen, "calibrations": calibrations, "draws": draws, "seed": seed}
    asked = *columns, records if subgroups else [], operating_points, calibrations or {}
    errors, gaps = fairness.measure_groups(*asked, draws=few, seed=seed)
    return Evaluation(
        estimate_predictions(predictions, learned, **how),
        origin,
        fingerprint({origin.subset or "scored": predictions.image_ids}),
        *(len(records), predictions.patients, patients_known(records), draws, seed),
        *(operating_points, priors, prior_tests),
        subgroups=fairness.measure_subgroups(*columns, records) if subgroups else [],
        underdiagnosis=[row for row in errors if row.label == fairness.ANY],
        group_errors=[row for row in errors if row.label != fairness.ANY],
        gaps=gaps,
        published=comparable(origin, predictions.labels, len(records)),
        pooled=describe_pooled(predictions, records, hospital_probe or {}, few, seed),
        conformal=measure_sets(predictions, records, operating_points) if operating_points else {},
        **measure_use(predictions, draws, seed, operating_points, calibrations or {}, *at, doubts),
    )


def find_doubts(
    predictions: Predictions,  # of images that the model has not learned from
    most: int,  # labels, at most
    calibrations: Mapping[str, Calibration | None],  # by label; without one the raw score is taken
    features: Array | None = None,  # (N, C), which make images neighbours; None: there are none
) -> list[Doubt]:
    """The labels that a model and the images most alike doubt, to be read again; the worst first.

    Raises:
        ConfigError: ``most`` is below 1, no label is known, or there is no other patient's image
            where neighbours are asked for.
    """
    require_integer("doubts", most, 1)
    if not is_known(predictions.targets).any():
        raise ConfigError("doubts: no label of these images is known, so none can be doubted")
    pairs = zip(predictions.labels, predictions.scores.T.astype(np.float64), strict=True)
    told = np.transpose([(calibrations.get(label) or np.asarray)(own) for label, own in pairs])
    targets, beside = predictions.targets, np.full(told.shape, np.nan)
    if features is not None:
        beside = decisions.share_among_neighbours(features, targets, predictions.patient_ids)
    doubts, of_image = decisions.doubt_labels(told, targets, beside)
    order = np.argsort(-doubts, axis=None, kind="stable")[: min(most, is_known(targets).sum())]
    place = rows, columns = np.unravel_index(order, doubts.shape)
    ids = [*zip(predictions.image_ids, predictions.patient_ids, strict=True)]
    kinds = [(label, calibrations.get(label) is not None) for label in predictions.labels]
    values = [*(part[place] for part in (targets, told, beside, doubts)), of_image[rows]]
    parts = zip(rows, columns, np.transpose(values).tolist(), strict=True)
    return [Doubt(*ids[row], *kinds[column], *own) for row, column, own in parts]


def measure_use(
    predictions: Predictions,
    draws: int,
    seed: int,
    points: OperatingPoints | None,
    calibrations: Mapping[str, Calibration | None],
    thresholds: Sequence[float],
    prevalences: Sequence[float],
    doubts: int,
) -> Json:
    """What decides on a use: calls, and fields of :class:`Evaluation` from ``reliability`` on."""
    bootstrap = PatientBootstrap(predictions.patient_ids, draws, seed)
    labels, codes = predictions.labels, bootstrap.codes
    parts: Json = {name: {} for name in USE}
    reliability, net_benefit, at_prevalence, selective = parts.values()
    both = predictions.scores, predictions.targets
    chosen = points.thresholds if points else {}
    parts["calls"] = fitting.count_wrong_calls(labels, *both, chosen) if chosen else None
    parts["doubts"] = find_doubts(predictions, doubts, calibrations) if doubts else []
    parts["hierarchy"] = decisions.count_violations(codes, labels, *both, find_ancestors(labels))
    for label, scores, targets in zip(labels, *(array.T for array in both), strict=True):
        calibration = calibrations.get(label)
        kinds = {"raw": scores} | ({"calibrated": calibration(scores)} if calibration else {})
        holds = {k: measure_reliability(told, targets, codes) for k, told in kinds.items()}
        reliability[label], told = holds, kinds.get("calibrated", scores)
        net_benefit[label] = decisions.measure_net_benefit(bootstrap, told, targets, thresholds)
        if points and (point := chosen.get(label)) is not None:
            called, wanted = scores >= point, sorted({*decisions.SENSITIVITIES, points.value})
            at = bootstrap, called, targets, prevalences
            at_prevalence[label] = decisions.measure_at_prevalence(*at)
            sure = bootstrap, np.abs(scores - point), called, targets, wanted
            selective[label] = decisions.measure_selection(*sure)
    return parts


def select_by(
    evaluation: Evaluation,
    predictions: Predictions,  # those that were evaluated
    certainty: str,  # its name
    values: Array,  # (N,), how certain each image is
) -> Evaluation:
    """The evaluation, but images go to a person by another certainty than the score's margin."""
    bootstrap = PatientBootstrap(predictions.patient_ids, evaluation.draws, evaluation.seed)
    columns = zip(predictions.labels, predictions.scores.T, predictions.targets.T, strict=True)
    points, selective = evaluation.operating_points, {}
    for label, scores, targets in columns:
        if points and label in evaluation.selective:
            wanted = sorted({*decisions.SENSITIVITIES, points.value})
            sure = bootstrap, values, scores >= points.thresholds[label], targets, wanted
            selective[label] = decisions.measure_selection(*sure)
    return replace(evaluation, selective=selective, certainty=certainty)


def measure_sets(
    predictions: Predictions, records: Sequence[Record], points: OperatingPoints
) -> dict[str, dict[str, Estimate]]:
    """What the conformal sets of ``points`` hold and leave out, in all images and in groups."""
    codes, sets = number_patients(predictions.patient_ids), {}
    groups = {decisions.ALL_IMAGES: np.ones(len(codes), dtype=np.bool_)}
    told = (each for each in fairness.iterate_groups(records) if each[0] in ("sex", "age", "view"))
    groups |= {f"{dimension} {group}": own == group for dimension, group, own in told}
    for name, limit in points.conformal.items():
        labels = [*points.labels] if name == decisions.ALL_LABELS else [name]
        if limit > 0 and set(labels) <= set(predictions.labels):  # from 0 on, it has every image
            kept = predictions.keep(labels)
            sets[name] = decisions.measure_set(kept.scores, kept.targets, codes, limit, groups)
    return sets


def estimate_predictions(
    predictions: Predictions, learned: Array | None = None, **how: Any
) -> Metrics:
    """:func:`estimate_metrics` of a table, on all cores; ``learned``: targets of training."""
    labels = predictions.labels
    columns = labels, predictions.scores, predictions.targets, predictions.patient_ids
    shares = np.full(len(labels), np.nan) if learned is None else prevalence(learned)
    kinds = [next((k for k, least in FREQUENCY.items() if share > least), "") for share in shares]
    groups = {name: [k for k, own in zip(labels, kinds, strict=True) if own == name]
              for name in FREQUENCY if name in kinds}  # fmt: skip
    return estimate_metrics(*columns, groups=groups, threads=available_cores(), **how)


def fit_operating_points(
    predictions: Predictions,  # of images that the figures are not of, as a rule validation's
    records: Sequence[Record] = (),  # these images, for thresholds of groups; (): none
    *,
    rule: str = "youden",  # "f1", "sensitivity" or "specificity", see ``choose_threshold``
    value: float = 0.9,  # the wanted sensitivity or specificity; conformal sets leave out the rest
    calibration: str | None = "platt",  # "temperature", "isotonic" or None
    draws: int = 2000,  # of the bootstrap
    seed: int = 0,  # of the bootstrap
    subset: str = "val",  # name of the images, for what is written
) -> OperatingPoints:
    """Operating point and calibration of each label, chosen on the predictions of ``subset``.

    Raises:
        ConfigError: an unknown rule or method, a value outside (0, 1], or no images.
    """
    bootstrap = PatientBootstrap(predictions.patient_ids, draws, seed)
    how: Json = {"rule": rule, "value": value, "calibration": calibration}
    columns = zip(predictions.labels, predictions.scores.T, predictions.targets.T, strict=True)
    points = {k: fitting.fit_operating_point(s, t, bootstrap, **how) for k, s, t in columns}
    groups: dict[str, dict[str, dict[str, float]]] = {}
    for dimension, group, own in fairness.iterate_groups(records):
        lines = groups.setdefault(dimension, {}).setdefault(group, {})
        few = PatientBootstrap(bootstrap.codes[own == group], 1)  # for no interval
        sides = predictions.scores[own == group].T, predictions.targets[own == group].T
        for label, told, truth in zip(predictions.labels, *sides, strict=True):
            point = fitting.fit_operating_point(told, truth, few, **how | {"calibration": None})
            lines |= {} if np.isnan(point.threshold) else {label: point.threshold}
    images = fingerprint({subset: predictions.image_ids})
    sets, conformal = {label: (label,) for label in predictions.labels}, {}
    for name, labels in (sets | {decisions.ALL_LABELS: predictions.labels}).items():
        kept = predictions.keep(labels)
        conformal[name] = decisions.fit_set(kept.scores, kept.targets, bootstrap.codes, 1 - value)
    return OperatingPoints(rule, value, subset, images, points, conformal, groups)
