"""Do scores mean probabilities? Errors of calibration, maps that correct them, and priors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import scipy  # .optimize and .special load at their first use

from xray_lightning.errors import ConfigError, require_choice
from xray_lightning.metrics import intervals
from xray_lightning.metrics.bootstrap import PatientBootstrap, number_patients
from xray_lightning.metrics.intervals import Array, Band, Estimate, Floats, Interval, Mask, Spread
from xray_lightning.metrics.ranks import Codes
from xray_lightning.records import NAN, is_known
from xray_lightning.results import Result

METHODS = ("temperature", "platt", "isotonic")
TINY = 1e-7  # scores are kept this far from 0 and 1 before the logarithm
PLACES, BARS = 41, 20  # of a reliability curve, and of the histogram below it
KNOTS = (0.05, 0.35, 0.65, 0.95)  # quantiles of the log odds (Harrell 2015, table 2.3)
EVEN = (np.arange(20) + 0.5) / 20  # quantiles of evenly likely draws
LEAST = 50  # images of the rarer class for a bent curve; below, it is straight in the log odds


def logit(scores: npt.ArrayLike) -> Floats:
    """Log odds, finite for 0 and 1 too."""
    safe = np.clip(np.asarray(scores, dtype=np.float64), TINY, 1 - TINY)
    return np.asarray(np.log(safe) - np.log1p(-safe))


def expit(odds: npt.ArrayLike) -> Floats:
    """Chances of log odds, the inverse."""
    return np.asarray(scipy.special.expit(odds))


def mass_bins(scores: Array, bins: int = 15) -> Codes:
    """Bin of each score, (n,), rising with it: equal numbers of images, equal scores one bin."""
    first = np.searchsorted(np.sort(scores), scores)  # so ties move to the lowest of their bins
    return first * bins // max(len(scores), 1)


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
    return intervals.divided(gaps, bootstrap.sums(np.ones((len(gap), 1)))[:, 0])


def cluster(codes: Codes, positive: Mask) -> tuple[Codes, float]:
    """Patients' numbers (n,), and how many have an image of the rarer class (Kish), at least 2."""
    # Too few for one degree of freedom, NaN, have no interval.
    effective = intervals.effective_patients(np.bincount(codes, intervals.rarer_class(positive)))
    return codes, effective if effective >= 2 else NAN


def around(value: float, influence: Floats, clusters: tuple[Codes, float]) -> Estimate:
    """A figure that is not bound to [0, 1], of each image's influence on it, (n,)."""
    return Estimate(value, *Spread.of_influence(influence, *clusters).around(value))


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
        odds = logit(scores)
        design = np.column_stack([odds, np.ones(len(odds))])[:, : 2 - (self.method != "platt")]
        moves = influence_of(design, positive, self(scores))
        clusters = cluster(number_patients(patients), positive)
        ends = [
            intervals.drop_undefined(around(value, one, clusters).interval)
            for one, value in zip(moves.T, (self.slope, self.intercept), strict=False)
        ]
        return replace(self, slope_interval=ends[0], intercept_interval=[*ends, None][1])


def require_method(method: str | None) -> None:
    """Refuse an unknown method, before hours of training; None is none at all."""
    require_choice("calibration", method or "null", (*METHODS, "null"))


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
        if line.coef_[0, 0] <= 0:  # no map here falls: as isotonic, the prevalence for every image
            return Calibration(method, 0.0, float(logit(positive.mean())))
        return Calibration(method, float(line.coef_[0, 0]), float(line.intercept_[0]))

    def loss(log_slope: float) -> float:
        signed = np.where(positive, 1, -1) * odds * np.exp(log_slope)
        return float(np.logaddexp(0, -signed).mean())

    scale = scipy.optimize.minimize_scalar(loss, bounds=(-5, 5)).x
    return Calibration(method, float(np.exp(scale)))


def shift_prior(probabilities: Array, prior: float, new_prior: float) -> Floats:
    """Probabilities at another prevalence, if only the prevalence changed (Saerens 2002, eq. 4)."""
    return expit(logit(probabilities) + logit(new_prior) - logit(prior))


def estimate_prior(probabilities: Array, prior: float) -> float:
    """Prevalence of unlabelled images by expectation maximisation (Saerens 2002, eqs. 9 and 10)."""
    # Right if the probabilities were calibrated at ``prior`` and only the prevalence changed.
    new = prior
    for _ in range(1000):
        before, new = new, float(shift_prior(probabilities, prior, new).mean())
        if abs(new - before) < 1e-8:
            break
    return new


def prior_interval(
    probabilities: Array, prior: float, estimate: float, patients: npt.ArrayLike
) -> Interval:
    """95 % of what :func:`estimate_prior` gave, the probabilities taken as right."""
    # Sandwich variance of its equation, mean(p - estimate) = 0, on the logit scale, over patients.
    told = shift_prior(probabilities, prior, estimate)
    codes = number_patients(patients)
    if not np.ptp(told) > 0:
        return intervals.NONE
    influence = (told - estimate) * estimate * (1 - estimate) / (len(told) * told.var())
    rarer = told if estimate < 0.5 else 1 - told
    effective = intervals.effective_patients(np.bincount(codes, rarer))
    return intervals.share_interval(estimate, Spread.of_influence(influence, codes, effective))


def influence_of(design: Floats, positive: Mask, chance: Floats) -> Floats:
    """Influence of each image on the coefficients of a logistic regression, (n, C)."""
    information = design.T @ (design * (chance * (1 - chance))[:, None])
    solved = np.linalg.solve(information, (design * (positive - chance)[:, None]).T)
    return np.asarray(solved.T, dtype=np.float64)


def fit_logistic(design: Floats, positive: Mask) -> tuple[Floats, Floats]:
    """Coefficients (C,) for a design (n, C) whose first column is 1, and :func:`influence_of`."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=np.inf, solver="newton-cholesky", fit_intercept=False, tol=1e-8, max_iter=1000
    )
    weights = np.asarray(model.fit(design, positive).coef_[0], dtype=np.float64)
    return weights, influence_of(design, positive, expit(design @ weights))


def fit_slope(odds: Floats, positive: Mask, clusters: tuple[Codes, float]) -> Estimate:
    """Slope of the log odds (n,), which :func:`why_no_slope` has nothing against."""
    scale = odds.std()  # nearly equal ones would make a singular Hessian
    design = np.column_stack([np.ones(len(odds)), (odds - odds.mean()) / scale])
    weights, moves = fit_logistic(design, positive)
    return around(float(weights[1] / scale), moves[:, 1] / scale, clusters)


def fit_intercept(odds: Floats, positive: Mask) -> tuple[float, Floats]:
    """Shift of the log odds (n,) at which positives are as many as told; influences (n,)."""
    shift = float(scipy.optimize.brentq(lambda s: (positive - expit(odds + s)).sum(), -50, 50))
    chance = expit(odds + shift)
    return shift, (positive - chance) / (chance * (1 - chance)).sum()


def is_separated(scores: Array, positive: Mask) -> bool:
    """Whether all positives score higher (or all lower) than every negative; both must occur."""
    high, low = scores[positive], scores[~positive]
    return bool(high.min() > low.max() or high.max() < low.min())


def why_no_slope(odds: Floats, positive: Mask) -> str:
    """Why log odds (n,) have no slope, "" if they have one."""
    if positive.all() or not positive.any():
        return "no positive and negative images"
    if not np.ptp(odds):
        return "all scores are equal"
    if is_separated(odds, positive):
        return "a threshold separates the positives from the negatives"
    high, low = odds[positive], odds[~positive]  # of equal scores too the slope has no end
    aside = high.min() == low.max() or high.max() == low.min()
    return "a threshold separates all scores but equal ones" if aside else ""


@dataclass(frozen=True)
class Reliability(Result):
    """How far probabilities hold."""

    slope: Estimate  # of the log odds: 1 is right, below 1 they are too extreme
    intercept: Estimate  # at a slope of 1; above 0: findings are more frequent than told
    ratio: Estimate  # observed to expected positives: 1 is right
    ici: Estimate  # mean distance of the curve from what was told (Austin and Steyerberg 2019)
    # calibration error that right probabilities would seem to have in such a sample of independent
    # images
    error_floor: float
    scores: list[float]  # places from the lowest to the highest
    # share of positives there, by a logistic regression on a restricted cubic spline of log odds
    curve: Band
    histogram: list[int]  # images in bars of equal width from 0 to the highest score
    note: str  # what the curve is not, "" if there is nothing to say


def measure_reliability(
    probabilities: Array,  # (N,)
    targets: Array,  # (N,), NaN where unknown (left out)
    patients: npt.ArrayLike,  # N ids
) -> Reliability:
    """Slope, intercept, observed to expected, ICI and a smooth curve; NaN where ``note`` says why.

    Intervals are Student's, of the sandwich variance over patients.
    """
    known = is_known(targets)
    told = np.asarray(probabilities, dtype=np.float64)[known]
    positive, odds = targets[known] == 1, logit(told)
    if note := why_no_slope(odds, positive):
        none = Estimate(NAN)
        return Reliability(none, none, none, none, NAN, [], Band([], [], []), [], note)
    clusters = cluster(number_patients(patients)[known], positive)
    ratio, share = float(positive.sum() / told.sum()), positive / positive.sum()
    logs = around(np.log(ratio), share - told / told.sum(), clusters).interval
    knots = np.quantile(odds, KNOTS)
    bent = min(positive.sum(), (~positive).sum()) >= LEAST and (np.diff(knots) > 0).all()
    knots = knots if bent else knots[:0]
    places = np.linspace(told.min(), told.max(), PLACES)
    curve, ici = _smooth(told, positive, clusters, knots, places)
    errors = np.bincount(mass_bins(told), told * (1 - told))
    return Reliability(
        slope=fit_slope(odds, positive, clusters),
        intercept=around(*fit_intercept(odds, positive), clusters),
        ratio=Estimate(ratio, *np.exp(logs).tolist()),
        ici=ici,
        error_floor=float(np.sqrt(2 / np.pi * errors).sum() / len(told)),
        scores=places.tolist(),
        curve=curve,
        histogram=np.histogram(told, BARS, (0, told.max()))[0].tolist(),
        note="" if bent else f"fewer than {LEAST} images of a class: straight in the log odds",
    )


def _bend(odds: Floats, knots: Floats) -> Floats:
    """1, the log odds and, of a restricted cubic spline, what bends between knots, (n, K)."""
    # Harrell 2015, eqs. 2.25 and 2.26.
    bent = np.empty((len(odds), 0))
    if len(knots):
        cubes = (np.maximum(odds[:, None] - knots, 0) / (knots[-1] - knots[0])) ** 3  # (n, K)
        inner = (knots[-1] - knots[:-2]) / (knots[-1] - knots[-2])
        bent = cubes[:, :-2] - cubes[:, [-2]] * inner + cubes[:, [-1]] * (inner - 1)
    return np.column_stack([np.ones(len(odds)), odds, bent])


def _smooth(
    told: Floats, positive: Mask, clusters: tuple[Codes, float], knots: Floats, places: Floats
) -> tuple[Band, Estimate]:
    """The smooth curve at some places, and its mean distance from what was told."""
    sides = [logit(side) for side in (told, places)] + [knots]
    middle, scale = sides[0].mean(), sides[0].std()  # see fit_slope
    inside, outside, joints = ((side - middle) / scale for side in sides)
    design, rows = _bend(inside, joints), _bend(outside, joints)
    weights, moves = fit_logistic(design, positive)
    lines = (around(float(row @ weights), moves @ row, clusters).interval for row in rows)
    low, high = expit(np.transpose([*lines])).tolist()
    curve = Band(expit(rows @ weights).tolist(), low, high)
    share = expit(design @ weights)
    steep, gap = share * (1 - share), share - told
    moved = (abs(gap) - abs(gap).mean() + moves @ (np.sign(gap) * steep @ design)) / len(gap)
    # Noise makes distances seem longer: by how much is seen by adding it once more.
    sums = np.column_stack([np.bincount(clusters[0], side) for side in moves.T])
    noise = steep * np.sqrt(np.einsum("nc,cd,nd->n", design, sums.T @ sums, design))
    noisy = float(np.mean([abs(gap + noise * draw).mean() for draw in scipy.special.ndtri(EVEN)]))
    value, spread = float(abs(gap).mean()), Spread.of_influence(moved, *clusters)
    ends = intervals.share_interval(value, spread, bias=noisy - value)
    return curve, Estimate(value, *ends)


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
    odds, here, clusters = logit(probabilities), float(positive.mean()), cluster(codes, positive)
    intercept, own = fit_intercept(odds, positive)
    of_prior = (positive - here) / (len(positive) * here * (1 - here))
    note, moved = why_no_slope(odds, positive), intercept - float(logit(here) - logit(prior))
    flat = not np.ptp(odds)  # corrected it is right by its making, which tells nothing
    return CalibrationLine(
        slope=Estimate(NAN) if note else fit_slope(odds, positive, clusters),
        intercept=around(intercept, own, clusters),
        corrected=Estimate(NAN) if flat else around(moved, own - of_prior, clusters),
        prior=prior,
        estimated=NAN if np.isnan(prior) else estimate_prior(probabilities, prior),
        note=note,
    )
