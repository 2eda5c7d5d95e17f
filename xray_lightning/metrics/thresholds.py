"""Operating points: a threshold chosen on validation, and what it does elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xray_lightning.errors import ConfigError
from xray_lightning.metrics.clusters import Floats, divided

MINIMUM_POSITIVES = 10  # below, a threshold would follow single images, and none is given


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

    Args:
        scores: (n,).
        targets: (n,), NaN where unknown (left out).
        rule: one of ``RULES``.
        value: wanted sensitivity or specificity; not used by the other rules.
        minimum_positives: below, the answer is NaN.

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
