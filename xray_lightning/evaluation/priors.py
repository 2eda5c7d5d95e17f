"""``prior=``: the prevalence that calibrated scores are to hold for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xray_lightning.errors import ConfigError
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.metrics.calibration import Calibration, estimate_prior
from xray_lightning.metrics.intervals import mean_of_defined
from xray_lightning.metrics.operating_points import OperatingPoints
from xray_lightning.results import Result
from xray_lightning.wording import fault

Prior = str | float | dict[str, float]
Pairs = dict[str, tuple[float, float]]  # label to the prevalence before and the wanted one

VALIDATION, ESTIMATE, FORCED = WORDS = "validation", "estimate", "force_estimate"


@dataclass(frozen=True)
class PriorTest(Result):
    """What a correction to another prevalence does on known targets."""

    estimate: float  # the prevalence it corrects to
    prevalence: float  # of the targets
    brier: float  # Brier's score without the correction
    corrected: float  # with it
    applied: bool  # whether it was applied


def require_prior(prior: object) -> Prior:
    """Refuse what works in no case, before anything is computed."""
    if isinstance(prior, str) and prior in WORDS:
        return prior
    shares: list[Any] = list(prior.values()) if isinstance(prior, Mapping) else [prior]
    if not shares or not all(isinstance(share, float) and 0 < share < 1 for share in shares):
        raise ConfigError(fault("prior", prior))
    return {str(k): v for k, v in prior.items()} if isinstance(prior, Mapping) else float(shares[0])


def resolve_prior(
    prior: Prior, labels: tuple[str, ...], points: OperatingPoints | None
) -> dict[str, str | float]:
    """What is wanted for each label whose calibration is to be corrected."""
    # "validation": none; "estimate" or "force_estimate": as the scores alone tell it (Saerens
    # 2002); a number: that, for every calibrated label; or one for each of some.
    if require_prior(prior) == VALIDATION:
        return {}
    known = points.labels if points else {}
    able = [label for label in labels if label in known and known[label].calibration]
    wanted = prior if isinstance(prior, dict) else dict.fromkeys(able, prior)
    if strange := [label for label in wanted if label not in labels]:
        raise ConfigError(fault("label_of_prior", prior, strange[0], labels))
    if absent := [label for label in wanted if label not in able] or ([] if able else ["all"]):
        notes = sorted({known[label].note for label in absent if label in known} - {""})
        raise ConfigError(fault("no_calibration", prior, absent, notes))
    return dict(wanted)


def correct_priors(
    prior: Prior, predictions: Predictions, points: OperatingPoints | None
) -> tuple[Pairs, dict[str, PriorTest]]:
    """Prevalences to correct calibrations from and to, and a test of each with known targets."""
    # An estimate is right if nothing but the prevalence changed, and it has noise: one that makes
    # Brier's score worse on known targets is left out, unless ``prior`` is "force_estimate".
    pairs, tests = {}, {}
    known_points = points.labels if points else {}
    for label, value in resolve_prior(prior, predictions.labels, points).items():
        calibration, before = known_points[label].calibration, known_points[label].prevalence
        if calibration is None:  # not of those wanted
            continue
        column = predictions.labels.index(label)
        scores, targets = predictions.scores[:, column], predictions.targets[:, column]
        plain = calibration(scores)
        now = estimate_prior(plain, before) if isinstance(value, str) else float(value)
        moved, truth = calibration.at_prior(before, now)(scores), targets.astype(np.float64)
        figures = np.stack([truth, (plain - truth) ** 2, (moved - truth) ** 2], axis=1)
        prevalence, brier, corrected = mean_of_defined(figures).tolist()
        applied = prior != ESTIMATE or not corrected > brier  # NaN: nothing is against it
        if applied:
            pairs[label] = before, now
        if not np.isnan(prevalence):
            tests[label] = PriorTest(now, prevalence, brier, corrected, applied)
    return pairs, tests


def calibrate(points: OperatingPoints | None, priors: Pairs) -> dict[str, Calibration | None]:
    """The calibration of each label that has an operating point, at its corrected prior."""
    known = points.labels if points else {}
    calibrations = {label: point.calibration for label, point in known.items()}
    moved = {k: own.at_prior(*pair) for k, pair in priors.items() if (own := calibrations[k])}
    return calibrations | moved
