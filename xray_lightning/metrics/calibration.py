"""Do scores mean probabilities? Errors of calibration, maps that correct them, and priors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import special
from scipy.optimize import minimize_scalar

from xray_lightning.errors import ConfigError
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.intervals import (
    NONE,
    Array,
    Floats,
    Interval,
    Mask,
    Spread,
    divided,
    drop_undefined,
    effective_patients,
    share_interval,
)
from xray_lightning.metrics.ranks import Codes
from xray_lightning.results import Result

METHODS = ("temperature", "platt", "isotonic")
TINY = 1e-7  # scores are kept this far from 0 and 1 before the logarithm


def logit(scores: npt.ArrayLike) -> Floats:
    """Log odds, finite for 0 and 1 too."""
    safe = np.clip(np.asarray(scores, dtype=np.float64), TINY, 1 - TINY)
    return np.asarray(np.log(safe) - np.log1p(-safe))


def expit(odds: npt.ArrayLike) -> Floats:
    """Probabilities of log odds, the inverse of :func:`logit`."""
    return np.asarray(special.expit(odds), dtype=np.float64)


def mass_bins(scores: Array, bins: int = 15) -> Codes:
    """Bin of each score, (n,), rising with it: equal numbers of images, equal scores one bin."""
    order = np.argsort(scores, kind="stable")
    ranks = np.empty(len(scores), dtype=np.intp)
    ranks[order] = np.arange(len(scores)) * bins // max(len(scores), 1)
    _, groups = np.unique(scores, return_inverse=True)
    first = np.full(groups.max(initial=-1) + 1, bins)
    np.minimum.at(first, groups, ranks)  # ties move to the lowest of their bins
    return first[groups].astype(np.intp)


def calibration_errors(
    bootstrap: PatientBootstrap, scores: Array, positive: Mask, bins: int = 15
) -> Floats:
    """Expected calibration error, (1 + D,) (Naeini 2015; equal-mass bins, Nixon 2019)."""
    # Sum over bins, the sample's in every draw, of share of images times |mean score - share of
    # positives|. Small bins bias it upwards.
    bin_of = mass_bins(scores, bins)
    inside = bin_of[:, None] == np.arange(bins)  # (n, K)
    gap = scores.astype(np.float64) - positive
    gaps = np.abs(bootstrap.sums(inside * gap[:, None])).sum(axis=1)
    return divided(gaps, bootstrap.sums(np.ones((len(gap), 1)))[:, 0])


def reliability(scores: Array, positive: Mask, bins: int = 15) -> tuple[Floats, Floats, Codes]:
    """Mean score, share of positives, images of each bin of ``calibration_errors``, (K,) each."""
    used, place, images = np.unique(
        mass_bins(scores, bins), return_inverse=True, return_counts=True
    )
    score, share = (
        np.bincount(place, weights=column, minlength=len(used)) / images
        for column in (scores, positive)
    )
    return score, share, images


@dataclass(frozen=True)
class Calibration(Result):
    """A rising map from scores to probabilities, as plain values."""

    method: str  # one of ``METHODS``
    slope: float = 1.0  # of the log odds; 1 for isotonic
    intercept: float = 0.0  # of the log odds; 0 for temperature and isotonic
    knots: tuple[float, ...] = ()  # scores of the isotonic steps
    values: tuple[float, ...] = ()  # probabilities at the knots
    shift: float = 0.0  # added to the log odds of the result, see ``at_prior``
    # 95 % of the two, of ``with_intervals``; None where they are not fitted or not known
    slope_interval: Interval | None = None
    intercept_interval: Interval | None = None

    def __call__(self, scores: Array) -> Floats:
        """Probabilities of scores, any shape."""
        if self.method == "isotonic":
            steps = np.asarray(np.interp(scores, self.knots, self.values))
            return steps if self.shift == 0 else expit(logit(steps) + self.shift)
        return expit(self.slope * logit(scores) + self.intercept + self.shift)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What ``to_json`` gave; a KeyError, TypeError or ValueError for anything else."""
        require_method(values["method"])
        numbers = {name: float(values[name]) for name in ("slope", "intercept", "shift")}
        steps = {name: tuple(map(float, values[name])) for name in ("knots", "values")}
        ends = {name: values.get(name) for name in ("slope_interval", "intercept_interval")}
        pairs = {name: (float(end[0]), float(end[1])) for name, end in ends.items() if end}
        return cls(values["method"], **numbers, **steps, **pairs)  # type: ignore[arg-type]

    def at_prior(self, prior: float, new_prior: float) -> "Calibration":
        """The map at another prevalence, see :func:`shift_prior`."""
        return replace(self, shift=float(logit(new_prior) - logit(prior)))

    def with_intervals(self, scores: Array, positive: Mask, patients: npt.ArrayLike) -> Self:
        """With Student's intervals of slope and intercept over patients; isotonic: none."""
        # Sandwich variance of the log loss (Liang and Zeger 1986).
        if self.method == "isotonic":
            return self
        odds, chance = logit(scores), self(scores)
        design = np.column_stack([odds, np.ones(len(odds))])[:, : 2 - (self.method != "platt")]
        codes = np.unique(patients, return_inverse=True)[1]
        information = design.T @ (design * (chance * (1 - chance))[:, None])
        influence = np.linalg.solve(information, (design * (positive - chance)[:, None]).T)
        rarer = positive if 2 * positive.sum() <= len(positive) else ~positive
        effective = effective_patients(np.bincount(codes, rarer))
        ends = [
            drop_undefined(Spread.of_influence(one, codes, effective).around(value))
            for one, value in zip(influence, (self.slope, self.intercept), strict=False)
        ]
        return replace(self, slope_interval=ends[0], intercept_interval=[*ends, None][1])


def require_method(method: str | None) -> None:
    """Refuse an unknown method, before hours of training; None is none at all."""
    if method is not None and method not in METHODS:
        raise ConfigError(f"calibration must be one of {', '.join(METHODS)}, got {method!r}")


def fit_calibration(scores: Array, positive: Mask, method: str = "platt") -> Calibration:
    """Fit on validation scores (n,), with at least one positive and one negative."""
    # Temperature: Guo 2017, eq. 9, for one label. Platt 1999, section 2.2: its targets keep the
    # slope finite. Isotonic: Zadrozny and Elkan 2002, needs hundreds of positives.
    require_method(method)
    if positive.all() or not positive.any():
        raise ConfigError("a calibration needs positive and negative images")
    odds = logit(scores)
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression  # half a second, not to apply one

        steps = IsotonicRegression(out_of_bounds="clip").fit(scores.astype(np.float64), positive)
        knots, values = steps.X_thresholds_.tolist(), steps.y_thresholds_.tolist()
        return Calibration(method, knots=tuple(knots), values=tuple(values))
    if method == "platt":
        count = positive.sum(), (~positive).sum()
        target = np.where(positive, (count[0] + 1) / (count[0] + 2), 1 / (count[1] + 2))
        from sklearn.linear_model import LogisticRegression

        line = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(
            np.tile(odds, 2)[:, None],  # each image as a positive and as a negative, in shares
            np.repeat([True, False], len(odds)),
            np.concatenate([target, 1 - target]),
        )
        return Calibration(method, float(line.coef_[0, 0]), float(line.intercept_[0]))

    def loss(log_slope: float) -> float:
        signed = np.where(positive, 1, -1) * odds * np.exp(log_slope)
        return float(np.logaddexp(0, -signed).mean())

    return Calibration(method, float(np.exp(minimize_scalar(loss, bounds=(-5, 5)).x)))


def shift_prior(probabilities: Array, prior: float, new_prior: float) -> Floats:
    """Probabilities at another prevalence, if only the prevalence changed (Saerens 2002, eq. 4)."""
    return expit(logit(probabilities) + logit(new_prior) - logit(prior))


def estimate_prior(
    probabilities: Array, prior: float, *, tolerance: float = 1e-8, steps: int = 1000
) -> float:
    """Prevalence of unlabelled images by expectation maximisation (Saerens 2002, eqs. 9 and 10)."""
    # Right if the probabilities were calibrated at ``prior`` and only the prevalence changed.
    new = prior
    for _ in range(steps):
        before, new = new, float(shift_prior(probabilities, prior, new).mean())
        if abs(new - before) < tolerance:
            break
    return new


def prior_interval(
    probabilities: Array, prior: float, estimate: float, patients: npt.ArrayLike
) -> Interval:
    """95 % of what :func:`estimate_prior` gave, the probabilities taken as right."""
    # Sandwich variance of its equation, mean(p - estimate) = 0, on the logit scale, over patients.
    told = shift_prior(probabilities, prior, estimate)
    codes = np.unique(patients, return_inverse=True)[1]
    if not np.ptp(told) > 0:
        return NONE
    influence = (told - estimate) * estimate * (1 - estimate) / (len(told) * told.var())
    rarer = told if estimate < 0.5 else 1 - told
    effective = effective_patients(np.bincount(codes, rarer))
    return share_interval(estimate, Spread.of_influence(influence, codes, effective))
