"""A model in another hospital: AUROC there less AUROC here, and whether its scores mean the same.

Two samples of patients that are, as a rule, independent: each has its own draws, and the variances
add up. Patients who are in both are drawn together, and their covariance is taken off.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from sklearn.linear_model import LogisticRegression

from xray_lightning.metrics.bootstrap import PatientBootstrap, number_patients
from xray_lightning.metrics.calibration import Calibration, estimate_prior, expit, logit
from xray_lightning.metrics.intervals import (
    NAN,
    Array,
    Estimate,
    Floats,
    Mask,
    Spread,
    effective_patients,
    mean_of_defined,
)
from xray_lightning.metrics.operating_points import is_separated
from xray_lightning.metrics.ranks import Codes, curves_over, sum_patients
from xray_lightning.records import is_known
from xray_lightning.results import Result

Drawn = tuple[Floats, Floats]  # AUROC of the sample and each draw, images of the rarer class


@dataclass(frozen=True)
class Sample:
    """Scores of N images beside the truth."""

    scores: Array  # (N, L) in [0, 1]
    targets: Array  # (N, L), NaN where unknown
    patients: Sequence[str]  # N ids; equal ones in two samples are one patient


def compare_samples(
    internal: Sample, external: Sample, *, draws: int = 2000, seed: int = 0, threads: int = 2
) -> list[Estimate]:
    """AUROC of the external sample less that of the internal one: each label's, then the mean's."""
    # Student's t; a side's deviation is that of its draws, corrected by its effective number of
    # patients, degrees of freedom by Welch (1947). A draw's mean is over its defined labels.
    together = [*internal.patients, *external.patients]
    both = PatientBootstrap(together, draws, seed)
    shared = not set(internal.patients).isdisjoint(external.patients)
    border = len(internal.patients)
    rows = slice(0, border), slice(border, None)
    codes = [both.codes[part] for part in rows]

    def draw(label: int) -> list[Drawn]:
        drawn = []
        for sample, own in zip((internal, external), codes, strict=True):
            side = PatientBootstrap.of(own, both.counts)
            ranking = side.ranking(sample.scores[:, label], sample.targets[:, label])
            rarer = sum_patients(ranking.codes, ranking.rarer, both.patients)
            drawn.append((curves_over(ranking, both.counts)[0], rarer))
        return drawn

    with ThreadPoolExecutor(threads) as pool:
        labels = list(pool.map(draw, range(internal.scores.shape[1])))
    means: list[Drawn] = [
        (mean_of_defined(np.stack([one[0] for one in side])), np.sum([one[1] for one in side], 0))
        for side in zip(*labels, strict=True)
    ]
    return [_subtract(*sides, shared=shared) for sides in (*labels, means)]


def _subtract(internal: Drawn, external: Drawn, *, shared: bool) -> Estimate:
    """External less internal; without an interval where a side has none."""
    difference = float(external[0][0] - internal[0][0])
    draws = [side[0][1:] for side in (internal, external)]
    spreads = [Spread.of(side[0][1:], effective_patients(side[1])) for side in (internal, external)]
    here, there = (spread.deviation**2 for spread in spreads)
    if np.isnan(here + there):
        return Estimate(difference)
    known = ~np.isnan(draws).any(axis=0)
    alike = float(np.corrcoef(draws[0][known], draws[1][known])[0, 1]) if shared else 0.0
    variance = here + there - 2 * alike * np.sqrt(here * there)
    freedom = (here + there) ** 2 / sum(
        part**2 / spread.freedom for part, spread in zip((here, there), spreads, strict=True)
    )
    return Estimate(difference, *Spread(float(np.sqrt(variance)), freedom).around(difference))


@dataclass(frozen=True)
class CalibrationLine(Result):
    """What log odds of the scores say of the log odds of the finding (Cox 1958)."""

    slope: Estimate  # 1 is right; below 1: scores are too extreme
    intercept: Estimate  # at a slope of 1; above 0: findings are more frequent than scores say
    # after the prior was corrected to the prevalence here; the slope stays: all log odds move alike
    corrected: Estimate
    prior: float  # the prevalence that the scores held for
    estimated: float  # the prevalence here as the scores alone tell it (Saerens 2002)
    note: str  # why there is no slope, "" if there is one


def fit_line(
    scores: Array,  # (N,) in [0, 1]
    targets: Array,  # (N,), NaN where unknown
    patients: npt.ArrayLike,  # N ids
    # from scores to probabilities, fitted on validation; None: the scores are taken
    calibration: Calibration | None,
    prior: float,  # the prevalence of validation, NaN where unknown
) -> CalibrationLine:
    """Calibration slope and intercept of one label, with both classes among the known targets."""
    # Intervals are Student's, of the sandwich variance over patients (Liang and Zeger 1986).
    known = is_known(targets)
    positive, codes = targets[known] == 1, number_patients(patients)[known]
    probabilities = calibration(scores[known]) if calibration else scores[known].astype(np.float64)
    odds, here = logit(probabilities), float(positive.mean())
    rarer = positive if 2 * positive.sum() <= len(positive) else ~positive
    clusters = codes, effective_patients(np.bincount(codes, rarer))
    intercept = float(brentq(lambda shift: float((positive - expit(odds + shift)).sum()), -50, 50))
    chance = expit(odds + intercept)
    own = (positive - chance) / (chance * (1 - chance)).sum()
    of_prior = (positive - here) / (len(positive) * here * (1 - here))
    moved = intercept - float(logit(here) - logit(prior))
    slope, note = _fit_slope(odds, positive, *clusters)
    return CalibrationLine(
        slope=slope,
        intercept=_around(intercept, Spread.of_influence(own, *clusters)),
        corrected=_around(moved, Spread.of_influence(own - of_prior, *clusters)),
        prior=prior,
        estimated=NAN if np.isnan(prior) else estimate_prior(probabilities, prior),
        note=note,
    )


def _fit_slope(
    odds: Floats, positive: Mask, codes: Codes, effective: float
) -> tuple[Estimate, str]:
    if np.ptp(odds) == 0:
        return Estimate(NAN), "all scores are equal"
    if is_separated(odds, positive):
        return Estimate(NAN), "a threshold separates the positives from the negatives"
    line = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(odds[:, None], positive)
    chance = line.predict_proba(odds[:, None])[:, 1]
    design = np.column_stack([np.ones(len(odds)), odds])  # (n, 2)
    information = design.T @ (design * (chance * (1 - chance))[:, None])
    influence = np.linalg.solve(information, (design * (positive - chance)[:, None]).T)[1]
    return _around(float(line.coef_[0, 0]), Spread.of_influence(influence, codes, effective)), ""


def _around(value: float, spread: Spread) -> Estimate:
    return Estimate(value, *spread.around(value))
