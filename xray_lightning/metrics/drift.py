"""Are new films those of validation? Two-sample tests by patient, what they can show, label shift.

Without drift it does not matter which patients are called new: a p value is the share of exchanges
of whole patients that set the sides as far apart. What would be shown is tried on validation's own
patients, drawn twice, one side with a known shift.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import pdist
from scipy.special import logit

from xray_lightning.errors import ConfigError
from xray_lightning.metrics.bootstrap import PatientBootstrap, number_patients
from xray_lightning.metrics.compare import holm
from xray_lightning.metrics.intervals import NAN, Array, Estimate, Floats, percentile_interval
from xray_lightning.metrics.ranks import Codes
from xray_lightning.records import is_known
from xray_lightning.results import Result

LEVEL, POWER = 0.05, 0.8  # of all tests together; share of cases in which a shift is to be shown
CASES = 300  # draws of validation against itself
REACH, STEP = 3.0, 0.02  # largest shift that is tried, in standard deviations; how exactly
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
FEATURES = "features"
LEAST_YOUDEN = 0.1  # of sensitivity + specificity - 1: below, calls say too little of prevalence
ROUNDING = 1e-6  # statistics that differ by less are equal

Side = tuple[Sequence[Any], Mapping[str, Floats]]  # N patients; quantities (N,), FEATURES (N, F)


@dataclass(frozen=True)
class ShiftTest(Result):
    """Whether one quantity of the new films has validation's distribution."""

    name: str  # a label (its scores), a figure of the film, or ``FEATURES``
    before: list[float]  # ``QUANTILES`` of validation, and below of the new films; [] of features
    after: list[float]
    # mean of the new films less that of validation in standard deviations of validation, of scores
    # on their log odds; 95 % interval, patients resampled; NaN of features
    shift: Estimate
    distance: float  # Kolmogorov and Smirnov's, of features MMD^2
    p_value: float  # patients exchanged
    # smallest shift of all films that so many patients show in 80 % of cases after correction; of
    # features each is shifted; NaN: none up to 3 standard deviations
    detectable: float
    corrected: float = NAN  # the p value for the number of tests (Holm)


@dataclass(frozen=True)
class NewPrevalence(Result):
    """A label's prevalence among new films as their calls tell it."""

    before: float  # of validation
    estimate: Estimate  # BBSE; 95 % interval, patients of both sides resampled
    note: str  # why it cannot be known, "" if it can


class Exchange:
    """Patients of both sides exchanged, D times; and validation's drawn against themselves."""

    def __init__(
        self, before: npt.ArrayLike, after: npt.ArrayLike, tests: int, draws: int, seed: int
    ) -> None:
        codes, others = number_patients(before), number_patients(after)
        self.border = border = int(codes.max()) + 1  # equal ids of both sides are two patients
        self.codes: Codes = np.concatenate([codes, others + border])  # (N + M,)
        rng, is_new = np.random.default_rng(seed), np.arange(self.codes.max() + 1) >= border
        marks = np.stack([is_new, *(rng.permutation(is_new) for _ in range(draws))])
        self.sides = np.stack([~marks, marks]).astype(np.float32)  # (2, 1 + D, P)
        even = np.full(border, 1 / border)
        cases = [rng.multinomial(n, even, CASES) for n in (border, int(is_new.sum()))]
        self.cases = np.stack(cases).astype(np.float32)  # (2, CASES, P of validation)
        self.allowed = int(LEVEL / tests * (draws + 1) + ROUNDING) - 1  # exchanges as far apart

    def decide(
        self, statistics: Floats, shifted: Callable[[float], Floats]
    ) -> tuple[float, float, float]:
        """Statistic of (1 + D,), its p value, and the smallest shift whose cases show it."""
        observed, exchanged = statistics[0], np.sort(statistics[1:])[::-1]
        p_value = (1 + (exchanged >= observed - ROUNDING).sum()) / len(statistics)
        critical, low, high = exchanged[self.allowed] + ROUNDING, 0.0, 2 * REACH
        while high - low > STEP:
            middle = (low + high) / 2
            either_way = ((shifted(way) > critical).mean() for way in (middle, -middle))
            low, high = (low, middle) if all(p >= POWER for p in either_way) else (middle, high)
        return float(observed), float(p_value), high if high <= REACH else NAN

    def compare_values(self, values: Floats) -> tuple[float, float, float]:
        """Kolmogorov and Smirnov's distance of one quantity (N + M,), see :meth:`decide`."""
        own = self.codes < self.border
        before, codes = values[own], self.codes[own]
        (first, second), nobody = self.cases, np.zeros_like(self.cases[0])
        sides = np.hstack([first, nobody]), np.hstack([nobody, second])

        def shifted(shift: float) -> Floats:
            both = np.append(before, before + shift * before.std())
            return measure_gaps(both, np.append(codes, codes + self.border), *sides)

        return self.decide(measure_gaps(values, self.codes, *self.sides), shifted)

    def compare_features(self, features: Floats) -> tuple[float, float, float]:
        """MMD^2 of (N + M, F), Gaussian kernel, median heuristic (Gretton 2012, eq. 3)."""
        from sklearn.metrics.pairwise import rbf_kernel  # a second's import

        order, films = np.argsort(self.codes, kind="stable"), np.bincount(self.codes)
        scale, starts = features.std(axis=0), np.cumsum(films) - films
        points = ((features - features.mean(axis=0)) / np.where(scale > 0, scale, 1))[order]
        gamma = 0.5 / (np.median(pdist(points, "sqeuclidean")) or 1.0)
        border, old = self.border, points[: starts[self.border]]
        kernel = sum_pairs(rbf_kernel(points, gamma=gamma), starts)

        def shifted(shift: float) -> Floats:
            moved = sum_pairs(rbf_kernel(old, old + shift, gamma=gamma), starts[:border])
            return measure_mmd(kernel[:border, :border], moved, films[:border], *self.cases)

        return self.decide(measure_mmd(kernel, kernel, films, *self.sides), shifted)


def measure_gaps(values: Floats, codes: Codes, first: Floats, second: Floats) -> Floats:
    """Largest gap between two distribution functions of values (n,), patients weighted (R, P)."""
    order = np.argsort(values, kind="stable")
    last, codes = np.append(np.diff(values[order]) > 0, True), codes[order]
    gaps = []
    for start in range(0, len(first), 64):
        rising = [np.cumsum(side[start : start + 64, codes], axis=1) for side in (first, second)]
        below = [side[:, last] / side[:, -1:] for side in rising]
        gaps.append(abs(below[0] - below[1]).max(axis=1))
    return np.concatenate(gaps)


def sum_pairs(kernel: Floats, starts: npt.NDArray[np.intp]) -> Floats:
    """A kernel of films in order of their patients by pairs of patients; of one alone 0, (P, P)."""
    summed = np.add.reduceat(np.add.reduceat(kernel, starts, axis=0), starts, axis=1)
    np.fill_diagonal(summed, 0)  # films of a patient are alike
    return np.asarray(summed, dtype=np.float32)


def measure_mmd(
    kernel: Floats, across: Floats, films: Codes, first: Floats, second: Floats
) -> Floats:
    """MMD^2 of two sides, patients weighted (R, P), over films of different patients, (R,)."""
    means = []
    for one, two, sums in (first, first, kernel), (second, second, kernel), (first, second, across):
        pairs = (one @ films) * (two @ films) - (one * two) @ films**2
        means.append(((one @ sums) * two).sum(axis=1) / pairs)
    return np.asarray(means[0] + means[1] - 2 * means[2])


def compare_sides(
    pairs: Iterable[Sequence[Side]],  # validation's films and the new ones; [] for neither
    scores: Collection[str] = (),  # quantities that are scores
    *,
    draws: int = 2000,  # exchanges of patients, and draws of intervals
    seed: int = 0,
) -> list[ShiftTest]:
    """A test of every quantity, corrected for their number (Holm), what moved most first."""
    pairs, rows = [pair for pair in pairs if pair], []
    require_draws(draws, tests := sum(len(before[1]) for before, _ in pairs))
    for before, after in pairs:
        exchange = Exchange(before[0], after[0], tests, draws, seed)
        drawn = [PatientBootstrap(one[0], draws, seed + i) for i, one in enumerate((before, after))]
        for name, first in before[1].items():
            sides = [first, after[1][name]]
            if name == FEATURES:
                result = exchange.compare_features(np.concatenate(sides))
                rows.append(ShiftTest(name, [], [], Estimate(NAN), *result))
                continue
            old, new = (np.quantile(side, QUANTILES).tolist() for side in sides)
            sides = [logit(np.clip(s, 1e-6, 1 - 1e-6)) for s in sides] if name in scores else sides
            means = [one.mean(side) for one, side in zip(drawn, sides, strict=True)]
            shift = Estimate.of_draws((means[1] - means[0]) / (sides[0].std() or NAN))
            result = exchange.compare_values(np.concatenate(sides))
            rows.append(ShiftTest(name, old, new, shift, *result))
    corrected = holm([row.p_value for row in rows]).tolist()
    rows = [replace(row, corrected=p) for row, p in zip(rows, corrected, strict=True)]
    return sorted(rows, key=lambda row: (row.corrected, -row.distance))


def require_draws(draws: int, tests: int) -> None:
    """Refuse so few draws that no p value could stay below 5 % after correction."""
    if draws < (least := int(np.ceil(tests / LEVEL)) - 1):
        raise ConfigError(f"draws={draws}: {tests} tests together need at least {least}")


def estimate_new_prevalence(
    before: Sequence[Array],  # validation's scores and targets, NaN where unknown, (N,) each
    after: Array,  # scores of the new films, (M,)
    threshold: float,  # the operating point; NaN, and why there is none
    why: str,
    sides: Sequence[PatientBootstrap],  # of validation's patients and of the new films'
) -> NewPrevalence:
    """Black box shift estimation of a label (Lipton 2018; of two classes Rogan and Gladen 1978).

    If only the prevalence changed, sensitivity and false alarms of validation make calls as
    frequent as they are: its confusion matrix, 2 x 2, is inverted.
    """
    scores, known = before[0], is_known(before[1])
    positive, called = before[1][known] == 1, scores[known] >= threshold
    drawn, told = sides[0].subset(known), np.full(3, NAN)
    sensitivity, alarms = (drawn.ratio(called & of, of) for of in (positive, ~positive))
    youden = sensitivity - alarms
    shares = (sides[1].mean(after >= threshold) - alarms) / np.where(youden > 0, youden, NAN)
    (least, most), (low, high) = percentile_interval(youden[1:]), percentile_interval(shares[1:])
    if np.isnan(threshold):
        why = f"no operating point: {why}"
    elif not least >= LEAST_YOUDEN:
        near = f"sensitivity + specificity - 1 is {youden[0]:.2f} on validation"
        ends = "no interval" if np.isnan(least) else f"95 % {least:.2f} to {most:.2f}"
        why = f"{near} ({ends}): too near chance, the confusion matrix is all but singular"
    elif high <= 0 or low >= 1:
        why = "no prevalence makes calls as frequent: more than the prevalence changed"
    else:
        why, told = "", np.clip([shares[0], low, high], 0, 1)
    return NewPrevalence(float(positive.mean()), Estimate(*told.tolist()), why)
