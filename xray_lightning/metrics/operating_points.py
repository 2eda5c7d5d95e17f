"""What is fitted on validation and applied elsewhere: operating points and calibrations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xray_lightning.errors import ConfigError
from xray_lightning.metrics.bootstrap import (
    Counts,
    Floats,
    Interval,
    bootstrap_counts,
    divided,
    patient_codes,
    percentile_interval,
    ratio_over,
)
from xray_lightning.metrics.calibration import Calibration, fit_calibration, require_method

MINIMUM_POSITIVES = 10  # below, a threshold would follow single images, and none is given

NAN = float("nan")
SEPARATED = (
    "a threshold separates validation's positives from its negatives: how steep the calibration "
    "is, their number decides, not their scores"
)


@dataclass(frozen=True)
class Confusion:
    """Counts at each threshold: positive means score >= threshold; (K,) each."""

    true_positive: Floats
    false_positive: Floats
    false_negative: Floats
    true_negative: Floats

    @property
    def sensitivity(self) -> Floats:
        """Share of the positives that are called."""
        return divided(self.true_positive, self.true_positive + self.false_negative)

    @property
    def specificity(self) -> Floats:
        """Share of the negatives that are not called."""
        return divided(self.true_negative, self.true_negative + self.false_positive)

    @property
    def f1(self) -> Floats:
        """Harmonic mean of sensitivity and positive predictive value."""
        errors = self.false_positive + self.false_negative
        return divided(2 * self.true_positive, 2 * self.true_positive + errors)


def confusion(
    scores: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_], thresholds: npt.ArrayLike
) -> Confusion:
    """Counts at each of K thresholds, in O((n + K) log n)."""
    wanted = np.atleast_1d(np.asarray(thresholds))
    called = [
        (len(part) - np.searchsorted(np.sort(part), wanted, side="left")).astype(np.float64)
        for part in (scores[positive], scores[~positive])
    ]
    missed = float(positive.sum()) - called[0]
    return Confusion(called[0], called[1], missed, float((~positive).sum()) - called[1])


def _youden(counts: Confusion, _: float) -> Floats:
    negatives = counts.false_positive + counts.true_negative  # in whole numbers: equals are equal
    positives = counts.true_positive + counts.false_negative
    return counts.true_positive * negatives - counts.false_positive * positives


def _f1(counts: Confusion, _: float) -> Floats:
    return counts.f1


def _sensitivity(counts: Confusion, wanted: float) -> Floats:
    return np.where(counts.sensitivity >= wanted, counts.specificity, -np.inf)


def _specificity(counts: Confusion, wanted: float) -> Floats:
    return np.where(counts.specificity >= wanted, counts.sensitivity, -np.inf)


RULES: dict[str, Callable[[Confusion, float], Floats]] = {
    "youden": _youden,  # Youden 1950: sensitivity + specificity - 1
    "f1": _f1,
    "sensitivity": _sensitivity,  # the most specific point of at least this sensitivity
    "specificity": _specificity,  # the most sensitive point of at least this specificity
}


def require_rule(rule: str, value: float) -> None:
    """Refuse what cannot work, before hours of training.

    Raises:
        ConfigError: an unknown rule, or a value outside (0, 1].
    """
    if rule not in RULES:
        raise ConfigError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    if not 0 < value <= 1:
        raise ConfigError(f"value must lie in (0, 1], got {value}")


def choose_threshold(
    scores: npt.NDArray[np.floating],
    targets: npt.NDArray[np.floating],
    rule: str = "youden",
    *,
    value: float = 0.9,
    minimum_positives: int = MINIMUM_POSITIVES,
) -> float:
    """The threshold that a rule prefers, out of the scores; of equal ones the highest.

    Scores and targets are (n,), NaN where unknown (left out). ``value`` is the wanted sensitivity
    or specificity, not used by the other rules; below ``minimum_positives`` the answer is NaN.

    Returns:
        The threshold; NaN with too few positives, without a negative, or where no score will do.

    Raises:
        ConfigError: an unknown rule, or a value outside (0, 1].
    """
    require_rule(rule, value)
    known = ~np.isnan(targets)
    positive, kept = targets[known] == 1, scores[known]
    if positive.sum() < minimum_positives or positive.all():
        return float("nan")
    thresholds = np.unique(kept)[::-1]  # falling
    gains = RULES[rule](confusion(kept, positive, thresholds), value)
    best = int(np.nanargmax(gains))
    return float(thresholds[best]) if np.isfinite(gains[best]) else float("nan")


def wrong_calls(
    labels: Sequence[str],
    scores: npt.NDArray[np.floating],
    targets: npt.NDArray[np.floating],
    thresholds: Mapping[str, float],
) -> dict[str, Any]:
    """Misses and false alarms of the operating points, in images: of any label, and of each.

    An image is called abnormal if any score reaches its label's point (a label without one calls
    nothing). Missed: images with a finding that are not called. False alarms: called images without
    any: every label, (N, L), is known to be absent.

    Returns:
        ``{"missed": [wrong, of], "false_alarms": [wrong, of], "labels": {label: the same two}}``.
    """
    called = scores >= np.array([thresholds.get(label, np.nan) for label in labels])
    present, absent = targets == 1, targets == 0

    def pairs(called: Any, present: Any, absent: Any) -> dict[str, Any]:
        wrong = {"missed": (present, ~called), "false_alarms": (absent, called)}
        return {k: [int((of & fault).sum()), int(of.sum())] for k, (of, fault) in wrong.items()}

    single = {
        label: pairs(called[:, index], present[:, index], absent[:, index])
        for index, label in enumerate(labels)
        if label in thresholds
    }
    return pairs(called.any(axis=1), present.any(axis=1), absent.all(axis=1)) | {"labels": single}


@dataclass(frozen=True)
class Fitted:
    """What validation says about one label; NaN or None where it says too little.

    Attributes:
        threshold: the operating point: positive means score >= threshold.
        sensitivity: of validation at the threshold. A little too good, like the specificity and
            both intervals: the threshold was chosen on the same images.
        sensitivity_interval: 95 % percentile interval, patients resampled, the threshold fixed; NaN
            where all draws are equal.
        specificity: likewise.
        specificity_interval: likewise.
        positives: of validation.
        prevalence: of validation: the prior at which the calibration holds.
        calibration: map from scores to probabilities.
        note: why there is no operating point or no calibration, or why the calibration is not to
            be trusted; "" if there is nothing to say.
    """

    threshold: float
    sensitivity: float
    sensitivity_interval: Interval
    specificity: float
    specificity_interval: Interval
    positives: int
    prevalence: float
    calibration: Calibration | None
    note: str

    def to_plain(self) -> dict[str, Any]:
        """For JSON and checkpoints: None where undefined, lists for tuples."""
        facts = asdict(self)
        if self.calibration is not None:
            facts["calibration"] = {k: _listed(v) for k, v in facts["calibration"].items()}
        return {name: _listed(value) for name, value in facts.items()}

    @classmethod
    def from_plain(cls, facts: Mapping[str, Any]) -> "Fitted":
        """What :meth:`to_plain` wrote; a KeyError, TypeError or ValueError for anything else."""
        values = dict(facts)
        for name in ("threshold", "sensitivity", "specificity", "prevalence"):
            values[name] = NAN if values[name] is None else float(values[name])
        for name in ("sensitivity_interval", "specificity_interval"):
            low, high = (NAN, NAN) if values[name] is None else values[name]
            values[name] = float(low), float(high)
        if (chosen := values["calibration"]) is not None:
            lists = {name: tuple(map(float, chosen[name])) for name in ("knots", "values")}
            numbers = {name: float(chosen[name]) for name in ("slope", "intercept", "shift")}
            require_method(chosen["method"])
            values["calibration"] = Calibration(**{**chosen, **lists, **numbers})
        return cls(**values)


def fit_on_validation(
    labels: tuple[str, ...],
    scores: npt.NDArray[np.floating],
    targets: npt.NDArray[np.floating],
    patients: npt.ArrayLike,
    *,
    rule: str = "youden",
    value: float = 0.9,
    calibration: str | None = "platt",
    minimum_positives: int = MINIMUM_POSITIVES,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Fitted]:
    """An operating point and a calibration for each label.

    Scores (N, L) lie in [0, 1], targets (N, L) are NaN where unknown; ``rule`` and ``value`` are
    those of :func:`choose_threshold`, ``calibration`` is of
    :data:`~xray_lightning.metrics.calibration.METHODS`, None: none. With fewer than
    ``minimum_positives`` positives (or negatives) nothing is fitted.

    Raises:
        ConfigError: an unknown rule or method, or a value outside (0, 1].
    """
    require_rule(rule, value)
    require_method(calibration)
    codes = patient_codes(patients)
    counts = bootstrap_counts(int(codes.max(initial=-1)) + 1, draws, seed)
    found = {}
    for index, label in enumerate(labels):
        known = ~np.isnan(targets[:, index])
        positive, kept = targets[known, index] == 1, scores[known, index]
        few = min(positive.sum(), (~positive).sum()) < minimum_positives
        note = f"fewer than {minimum_positives} positives or negatives"
        threshold = NAN
        if not few:
            truth = positive.astype(np.float64)
            threshold = choose_threshold(kept, truth, rule, value=value, minimum_positives=1)
            note = f"no score has a {rule} of {value}" if np.isnan(threshold) else ""
        chosen = (
            None if few or calibration is None else fit_calibration(kept, positive, calibration)
        )
        if chosen is not None and not note and separated(kept, positive):
            note = SEPARATED
        figures = _at(threshold, kept, positive, codes[known], counts)
        share = float(positive.mean()) if len(positive) else NAN
        found[label] = Fitted(threshold, *figures, int(positive.sum()), share, chosen, note)
    return found


def separated(scores: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_]) -> bool:
    """Whether all positives score higher (or all lower) than every negative; both must occur."""
    ours, others = scores[positive], scores[~positive]
    return bool(ours.min() > others.max() or ours.max() < others.min())


def _at(
    threshold: float,
    scores: npt.NDArray[np.floating],
    positive: npt.NDArray[np.bool_],
    codes: npt.NDArray[np.intp],
    counts: Counts,
) -> tuple[float, Interval, float, Interval]:
    """Sensitivity and specificity of a threshold with their intervals."""
    if np.isnan(threshold):
        return NAN, (NAN, NAN), NAN, (NAN, NAN)
    called = scores >= threshold
    return (
        float(called[positive].mean()),
        percentile_interval(ratio_over(counts, codes, positive & called, positive)),
        float((~called[~positive]).mean()),
        percentile_interval(ratio_over(counts, codes, ~positive & ~called, ~positive)),
    )


def _listed(value: Any) -> Any:
    if isinstance(value, tuple):
        return None if np.isnan(value).any() else list(value)
    return None if isinstance(value, float) and np.isnan(value) else value
