"""Are new films those of validation? Tests that exchange patients, what they can show, label shift.

One film speaks for each patient, so patients of many films and of one are alike, and without drift
it does not matter which are called new: a p value is the share of exchanges of patients that set
both sides as far apart. What would be found is tried on cases drawn from validation alone.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy  # .stats, a second's import, loads at its first use

from xray_lightning.errors import ConfigError
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.compare import holm
from xray_lightning.metrics.intervals import NAN, Array, Estimate, Floats, Mask, divided
from xray_lightning.records import is_known
from xray_lightning.results import Result

LEVEL, POWER = 0.05, 0.8  # of all tests together; share of cases in which a shift is to be found
CASES = 300  # drawn from validation to tell the power
REACH, STEP = 3.0, 0.02  # largest shift that is tried, in standard deviations; how exactly
ROUNDING = 1e-9  # distances that differ by less are equal
FEATURES = "features"
LEAST_YOUDEN = 0.1  # of sensitivity + specificity - 1: below, calls say too little of prevalence

Trial = tuple[Floats, Callable[[float], Floats]]  # distances of exchanges; of cases with a shift


@dataclass(frozen=True)
class ShiftTest(Result):
    """Whether one quantity of the new films has validation's distribution, a film a patient."""

    name: str  # a label (its scores), a figure of the film, or ``FEATURES``
    # new mean less that of validation in standard deviations of validation, of scores on their log
    shift: Estimate  # odds; 95 % interval; NaN of features
    distance: float  # Kolmogorov and Smirnov's, of features MMD^2
    p_value: float  # patients exchanged; NaN, as what follows, where nothing is tested
    # smallest shift of all films, up or down, of each feature, that so many patients show in 80 %
    detectable: float  # of cases after correction; NaN: none up to 3 standard deviations
    corrected: float = NAN  # the p value for the number of tests (Holm)


def compare_sides(
    sides: Mapping[str, Sequence[Floats]],  # quantity to validation's values and the new ones
    scores: Collection[str] = (),  # quantities that are scores
    *,
    draws: int = 2000,  # exchanges of patients; 0: patients are not known, nothing is tested
    seed: int = 0,
) -> list[ShiftTest]:
    """A test of each quantity, (N,) and (M,) for N and M patients, ``FEATURES`` (N, F) and (M, F).

    What moved most comes first. ConfigError: see :func:`require_draws`.
    """
    require_draws(draws or np.inf, len(sides))
    generator, rows = np.random.default_rng(seed), []
    as_it_is = np.repeat([False, True], [len(side) for side in next(iter(sides.values()))])
    is_new = np.stack([as_it_is, *(generator.permutation(as_it_is) for _ in range(draws))])
    allowed = int(LEVEL / len(sides) * (draws + 1) + ROUNDING) - 1  # exchanges as far apart
    for name, pair in sides.items():
        if name in scores:
            pair = [scipy.special.logit(np.clip(side, 1e-6, 1 - 1e-6)) for side in pair]
        shift, trial = Estimate(NAN), try_features
        if name != FEATURES:
            trial, scale = try_values, pair[0].std() or NAN
            welch = scipy.stats.ttest_ind(pair[1] / scale, pair[0] / scale, equal_var=False)
            low, high = welch.confidence_interval() if draws else (NAN, NAN)
            shift = Estimate(float((pair[1].mean() - pair[0].mean()) / scale), low, high)
        distances, shifted = trial(pair[0], pair[1], is_new, generator)
        rows.append(ShiftTest(name, shift, *decide(distances, shifted, allowed)))
    corrected = holm([row.p_value for row in rows]).tolist()
    rows = [replace(row, corrected=p) for row, p in zip(rows, corrected, strict=True)]
    return sorted(rows, key=lambda row: (row.corrected if draws else 0, -row.distance))


def require_draws(draws: float, tests: int) -> None:
    """Refuse so few draws that no p value could be below 5 % after correction."""
    if draws < (least := int(np.ceil(tests / LEVEL)) - 1):
        raise ConfigError(f"draws={draws}: {tests} tests together need at least {least}")


def decide(distances: Floats, shifted: Callable[[float], Floats], allowed: int) -> list[float]:
    """The distance as it is, of (1 + D,), its p value, and the smallest shift whose cases show."""
    observed, exchanged = float(distances[0]), np.sort(distances[1:])[::-1]
    if not len(exchanged):
        return [observed, NAN, NAN]
    p_value = (1 + (exchanged >= observed - ROUNDING).sum()) / len(distances)
    critical, low, high = exchanged[allowed] + ROUNDING, 0.0, 2 * REACH
    while high - low > STEP:
        middle = (low + high) / 2
        shows = (shifted(middle) > critical).mean() >= POWER
        low, high = (low, middle) if shows else (middle, high)
    return [observed, float(p_value), high if high <= REACH else NAN]


def try_values(before: Floats, after: Floats, is_new: Mask, rng: np.random.Generator) -> Trial:
    """Kolmogorov and Smirnov's distances."""
    # Cases are drawn smoothly, mean and variance kept (Silverman and Young 1987): a sample drawn
    # from a sample has lumps that no population has, which would be taken for power.
    width, shape = 1.06 * len(before) ** -0.2, (CASES, is_new.shape[1])
    cases = rng.choice(before, shape) + width * before.std() * rng.standard_normal(shape)
    cases = (cases - before.mean()) / np.sqrt(1 + width**2)
    up_or_down = np.where(np.arange(CASES) % 2, 1, -1)[:, None] * is_new[0] * before.std()
    marks = np.broadcast_to(is_new[0], shape)
    distances = measure_gaps(np.concatenate([before, after])[None], is_new)
    return distances, lambda shift: measure_gaps(cases + shift * up_or_down, marks)


def measure_gaps(values: Floats, is_new: Mask) -> Floats:
    """Kolmogorov and Smirnov's distance in each row of values (R or 1, P) and marks (R, P)."""
    order = np.argsort(values, axis=1)
    last = np.diff(np.take_along_axis(values, order, 1), append=np.inf) > 0  # of equal ones
    new = np.take_along_axis(is_new, np.broadcast_to(order, is_new.shape), 1).cumsum(axis=1)
    old = np.arange(1, new.shape[1] + 1) - new
    gaps = abs(new / new[:, -1:] - old / old[:, -1:])
    return np.asarray(np.where(last, gaps, 0).max(axis=1))


def try_features(before: Floats, after: Floats, is_new: Mask, rng: np.random.Generator) -> Trial:
    """Squared MMD, Gaussian kernel, median heuristic (Gretton 2012, eq. 5)."""
    from sklearn.metrics.pairwise import rbf_kernel  # a second's import

    both, n, m = np.concatenate([before, after]), len(before), len(after)
    points = (both - both.mean(axis=0)) / np.where(both.std(axis=0) > 0, both.std(axis=0), 1)
    gamma = 0.5 / (np.median(scipy.spatial.distance.pdist(points, "sqeuclidean")) or 1.0)
    first, second = (rng.multinomial(size, np.full(n, 1 / n), CASES) / size for size in (n, m))

    def measure(points: Floats, weights: Floats, patients: int) -> Floats:
        numbers = np.arange(len(points)) % patients
        kernel = rbf_kernel(points, gamma=gamma)
        kernel[numbers[:, None] == numbers] = 0  # nobody is compared with himself
        return np.asarray(((weights @ kernel) * weights).sum(axis=1) + 1 / n + 1 / m)

    distances = measure(points, is_new / m - ~is_new / n, n + m)
    old, cases = points[:n], np.hstack([-first, second])
    return distances, lambda shift: measure(np.vstack([old, old + shift]), cases, n)


def estimate_new_prevalence(
    before: Sequence[Array],  # validation's scores and targets, NaN where unknown, (N,) each
    after: Array,  # scores of the new films, (M,)
    threshold: float,  # the operating point, NaN: there is none
    sides: Sequence[PatientBootstrap],  # of validation's patients and of the new films'
) -> tuple[Estimate, Estimate]:
    """Black box shift estimation (Lipton 2018; of two classes Rogan and Gladen 1978), and change.

    If only the prevalence changed, sensitivity and false alarms of validation make calls as
    frequent as they are: its confusion matrix is inverted. NaN where that is all but singular, or
    no prevalence makes calls as frequent. Change is from validation's share, which is drawn, too.
    """
    told = is_known(before[1])
    positive, called = before[1][told] == 1, before[0][told] >= threshold
    drawn = sides[0].subset(told)
    sensitivity, alarms = (drawn.ratio(called & of, of) for of in (positive, ~positive))
    youden = sensitivity - alarms
    draws = np.clip(divided(sides[1].mean(after >= threshold) - alarms, youden), 0, 1)
    share, change = map(Estimate.of_draws, (draws, draws - drawn.mean(positive)))
    known = Estimate.of_draws(youden).low >= LEAST_YOUDEN and share.high > 0 and share.low < 1
    return (share, change) if known else (Estimate(NAN), Estimate(NAN))
