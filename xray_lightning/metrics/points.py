"""What is fitted on validation and applied elsewhere: operating points and calibrations."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xray_lightning.metrics.calibration import Calibration, fit_calibration, require_method
from xray_lightning.metrics.clusters import (
    Counts,
    Interval,
    bootstrap_counts,
    patient_codes,
    percentile_interval,
    ratio_over,
)
from xray_lightning.metrics.thresholds import MINIMUM_POSITIVES, choose_threshold, require_rule

NAN = float("nan")
SEPARATED = (
    "a threshold separates validation's positives from its negatives: how steep the calibration "
    "is, their number decides, not their scores"
)


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

    Args:
        labels: the L labels.
        scores: (N, L) in [0, 1].
        targets: (N, L), NaN where unknown.
        patients: N ids.
        rule: of :data:`~xray_lightning.metrics.thresholds.RULES`.
        value: wanted sensitivity or specificity; not used by the other rules.
        calibration: of :data:`~xray_lightning.metrics.calibration.METHODS`; None: none.
        minimum_positives: with fewer positives (or negatives) nothing is fitted.
        draws: of the bootstrap.
        seed: of the bootstrap.

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
