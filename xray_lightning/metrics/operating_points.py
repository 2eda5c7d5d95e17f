"""What is fitted on validation and applied elsewhere: operating points and calibrations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from xray_lightning.errors import CheckpointError, require_choice, require_number
from xray_lightning.metrics import calibration as fits
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.calibration import Calibration, fit_calibration, is_separated
from xray_lightning.metrics.intervals import NAN, Array, Estimate, Interval, drop_undefined
from xray_lightning.records import is_known
from xray_lightning.results import Result
from xray_lightning.wording import fault

RULES = ("youden", "f1", "sensitivity", "specificity")
MINIMUM_POSITIVES = 10  # below, a threshold would follow single images, and none is given


def require_rule(rule: str, value: float) -> None:
    """Refuse what cannot work, before hours of training."""
    require_choice("rule", rule, RULES)
    require_number("value", value, 0, 1, "(]")


def choose_threshold(
    scores: Array,  # (n,)
    targets: Array,  # (n,), NaN where unknown (left out)
    rule: str = "youden",
    *,
    value: float = 0.9,  # the wanted sensitivity or specificity
    minimum_positives: int = MINIMUM_POSITIVES,  # fewer: NaN, as without a negative
) -> float:
    """The threshold that a rule prefers, out of the scores; of equal ones the highest."""
    # "youden": the largest sensitivity + specificity - 1; "f1": the largest F1; "sensitivity": the
    # most specific of at least that sensitivity; "specificity" likewise. NaN where none will do.
    require_rule(rule, value)
    known = is_known(targets)
    positive, kept = targets[known] == 1, scores[known]
    if positive.sum() < minimum_positives or positive.all():
        return NAN
    thresholds = np.unique(kept)[::-1]  # falling
    sides = [np.sort(kept[mask]) for mask in (positive, ~positive)]
    true, false = (len(side) - np.searchsorted(side, thresholds) for side in sides)
    sick, well = map(len, sides)
    found, spared = true / sick, (well - false) / well
    gains = {
        # Youden 1950, in whole numbers, so that equal points are equal
        "youden": true * well - false * sick,
        "f1": 2 * true / (true + false + sick),
        "sensitivity": np.where(found >= value, spared, -np.inf),
        "specificity": np.where(spared >= value, found, -np.inf),
    }[rule]
    best = int(np.nanargmax(gains))
    return float(thresholds[best]) if np.isfinite(gains[best]) else NAN


@dataclass(frozen=True)
class WrongCalls(Result):
    """Errors of operating points, each as how many of how many images."""

    missed: tuple[int, int]  # images with a finding that are not called
    false_alarms: tuple[int, int]  # images without a finding that are called


@dataclass(frozen=True)
class Calls(WrongCalls):
    """Those of any label; ``labels`` are those of each label that has an operating point."""

    labels: dict[str, WrongCalls]


def count_wrong_calls(
    labels: Sequence[str], scores: Array, targets: Array, thresholds: Mapping[str, float]
) -> Calls:
    """Misses and false alarms of the operating points: of any label, and of each."""
    # Called: any score reaches its label's threshold. Missed: a finding, not called. False alarms:
    # a call where every label, (N, L), is known to be absent.
    limits = np.array([thresholds.get(label, np.nan) for label in labels])
    parts = (scores >= limits, np.any), (targets == 1, np.any), (targets == 0, np.all)
    called, present, absent = (np.column_stack([part, of(part, axis=1)]) for part, of in parts)
    sides = present & ~called, present, absent & called, absent  # the last column: any label
    *single, every = zip(*(side.sum(axis=0).tolist() for side in sides), strict=True)
    pairs = zip(labels, single, strict=True)
    counts = {k: WrongCalls(count[:2], count[2:]) for k, count in pairs if k in thresholds}
    return Calls(every[:2], every[2:], counts)


@dataclass(frozen=True)
class OperatingPoint(Result):
    """What validation says about one label; NaN or None where it says too little."""

    threshold: float  # positive means score >= threshold
    # of validation at the threshold. A little too good, like the specificity and both intervals:
    # the threshold was chosen on the same images
    sensitivity: float
    # 95 % percentile interval, patients resampled, the threshold fixed; None where all draws are
    # equal
    sensitivity_interval: Interval | None
    specificity: float  # likewise
    specificity_interval: Interval | None  # likewise
    positives: int  # of validation
    prevalence: float  # of validation: the prior at which the calibration holds
    calibration: Calibration | None  # map from scores to probabilities
    # why there is no threshold or no calibration, or why the calibration is not to be trusted; ""
    # if there is nothing to say
    note: str


@dataclass(frozen=True)
class OperatingPoints(Result):
    """The operating points of all labels, as a checkpoint keeps them."""

    rule: str  # that chose them, of ``RULES``
    value: float  # the wanted sensitivity or specificity
    subset: str = field(metadata={"was": "part"})  # that they were chosen on
    fingerprint: str  # of its images
    labels: dict[str, OperatingPoint]  # label -> its operating point
    # label or "all labels" -> threshold of its conformal set, see ``fit_set``
    conformal: dict[str, float] = field(default_factory=dict)
    # dimension -> group -> label -> threshold of that group's images, where enough have the label
    groups: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    @property
    def thresholds(self) -> dict[str, float]:
        """Of the labels that have one."""
        points = {label: point.threshold for label, point in self.labels.items()}
        return {label: threshold for label, threshold in points.items() if not np.isnan(threshold)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` gave, or an earlier version; CheckpointError: something else."""
        try:
            return super().from_json({"part": "val", **values})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"these are not operating points: {error!r}") from error


def fit_operating_point(
    scores: Array,  # (N,) in [0, 1]
    targets: Array,  # (N,), NaN where unknown
    bootstrap: PatientBootstrap,
    *,
    rule: str = "youden",  # see ``choose_threshold``
    value: float = 0.9,
    calibration: str | None = "platt",  # of calibration.METHODS; None: none
    minimum_positives: int = MINIMUM_POSITIVES,  # or negatives
) -> OperatingPoint:
    """Operating point and calibration of one label; none are fitted below the minimum."""
    require_rule(rule, value)
    fits.require_method(calibration)
    known = is_known(targets)
    positive, kept = targets[known] == 1, scores[known]
    few = min(positive.sum(), (~positive).sum()) < minimum_positives
    threshold, note = NAN, f"fewer than {minimum_positives} positives or negatives"
    if not few:
        threshold = choose_threshold(scores, targets, rule, value=value, minimum_positives=1)
        note = f"no score has a {rule} of {value}" if np.isnan(threshold) else ""
    chosen = None if few or calibration is None else fit_calibration(kept, positive, calibration)
    if chosen is not None and not np.ptp(chosen(kept)) > 0:
        note = note or fault("flat")
    elif chosen is not None and is_separated(kept, positive):
        note = note or fault("separated")
    elif chosen is not None:
        chosen = chosen.with_intervals(kept, positive, bootstrap.codes[known])
    rates = [Estimate(NAN), Estimate(NAN)]
    if not np.isnan(threshold):
        called, drawn = kept >= threshold, bootstrap.subset(known)
        sides = (positive & called, positive), (~positive & ~called, ~positive)
        rates = [Estimate.of_draws(drawn.ratio(*side)) for side in sides]
    return OperatingPoint(
        threshold,
        *(rates[0].value, drop_undefined(rates[0].interval)),
        *(rates[1].value, drop_undefined(rates[1].interval)),
        int(positive.sum()),
        float(positive.mean()) if len(positive) else NAN,
        chosen,
        note,
    )
