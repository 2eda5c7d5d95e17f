"""How scores become probabilities and calls: operating points, calibrations and a prior."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xray_lightning.errors import ConfigError, DataNotFoundError
from xray_lightning.evaluation import priors as rules
from xray_lightning.evaluation.predictions import Predictions, read_own
from xray_lightning.metrics.calibration import Calibration, prior_interval
from xray_lightning.metrics.intervals import Interval, drop_undefined
from xray_lightning.metrics.operating_points import OperatingPoints
from xray_lightning.results import Json, Result
from xray_lightning.wording import fault
from xray_lightning.writing import read_json

Scores = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interpretation(Result):
    """What is known of the L labels beside their scores, and where it is from."""

    labels: tuple[str, ...]
    operating_points: OperatingPoints | None = None
    source: str = ""  # "checkpoint" or a file; "" without operating points
    prior: rules.Prior = rules.VALIDATION  # as asked for
    priors: rules.Pairs = field(default_factory=dict)  # prevalence corrected from, and to
    # 95 % of those corrected to that were estimated, the calibration taken as right; studies count
    prior_intervals: dict[str, Interval | None] = field(default_factory=dict)

    @cached_property
    def calibrations(self) -> dict[str, Calibration | None]:
        """Of the labels that have an operating point, at the prior."""
        return rules.calibrate(self.operating_points, self.priors)

    @cached_property
    def thresholds(self) -> Floats:
        """(L,), NaN where there is no operating point."""
        known = self.operating_points.thresholds if self.operating_points else {}
        return np.array([known.get(label, np.nan) for label in self.labels])

    def probabilities(self, scores: Scores) -> Floats:
        """Calibrated probabilities of scores (N, L), NaN where a label has no calibration."""
        result = np.full(scores.shape, np.nan)
        for column, label in enumerate(self.labels):
            if (calibration := self.calibrations.get(label)) is not None:
                result[:, column] = calibration(scores[:, column])
        return result

    def calls(self, scores: Scores) -> Floats:
        """1 where a score (N, L) reaches its operating point, else 0; NaN where there is none."""
        return np.where(np.isnan(self.thresholds), np.nan, scores >= self.thresholds)

    def at_prior(self, scores: Scores, studies: Sequence[str] | None = None) -> "Interpretation":
        """With the prevalences that ``prior`` asks for; one to be estimated is that of scores.

        ``studies`` of the N images; None: each is one of its own.
        """
        estimated = self.prior in (rules.ESTIMATE, rules.FORCED)
        if not len(scores) and estimated:
            return replace(self, priors={}, prior_intervals={})
        ids = tuple(map(str, range(len(scores)))) if studies is None else tuple(studies)
        unknown = Predictions(self.labels, ids, ids, np.full_like(scores, np.nan), scores)
        pairs, _ = rules.correct_priors(self.prior, unknown, self.operating_points)
        plain = replace(self, priors={}).probabilities(scores)
        intervals = {
            label: drop_undefined(prior_interval(plain[:, self.labels.index(label)], *pair, ids))
            for label, pair in pairs.items()
            if estimated
        }
        return replace(self, priors=pairs, prior_intervals=intervals)


def interpret(
    labels: tuple[str, ...],
    own: Json,  # what the checkpoint holds of operating points, {} for nothing
    weights: str,  # SHA-256 of its tensors
    *,
    points: str | Path = "checkpoint",  # "none", or a file, see ``load_classifier``
    prior: rules.Prior = rules.VALIDATION,
    **fit: Any,
) -> Interpretation:
    """How the scores of a checkpoint are to be read; refuses what does not fit it."""
    if fit and Path(points).suffix != ".csv":
        raise ConfigError(f"{', '.join(fit)}: nothing is fitted with points={points}; name a CSV")
    known = None
    if str(points) not in ("checkpoint", "none"):
        known = _read_points(Path(points), weights, **fit)
    elif own and str(points) != "none":
        known = OperatingPoints.from_json(own)
    if known and not set(known.labels) & set(labels):
        raise ConfigError(fault("points_of_others", points, known.labels, labels))
    rules.resolve_prior(prior, labels, known)
    start = Interpretation(labels, known, str(points) if known else "", prior)
    return start.at_prior(np.empty((0, len(labels)), np.float32))


def _read_points(path: Path, weights: str, **fit: Any) -> OperatingPoints:
    """Operating points of a file, or fitted on a table."""
    if not path.is_file():
        raise DataNotFoundError(f"points={path}: no such file; or say checkpoint or none")
    beside = path.with_name("operating_points.json") if path.suffix == ".csv" else path
    values = read_json(beside) if beside.is_file() else {}
    if (told := values.get("weights_sha256", weights)) != weights:
        raise ConfigError(fault("other_weights", path, str(told), weights))
    if path.suffix != ".csv":
        return OperatingPoints.from_json(values.get("operating_points") or values)
    from xray_lightning.evaluation.evaluate import fit_operating_points  # a second

    return fit_operating_points(read_own(path), subset=path.stem, **fit)
