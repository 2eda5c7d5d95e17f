"""Is one model better than another on the same images? Paired draws of patients, and DeLong."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import t

from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.delong import compare_auroc, holm
from xray_lightning.metrics.intervals import (
    NAN,
    Array,
    Floats,
    Interval,
    Spread,
    effective_patients,
    mean_of_defined,
)
from xray_lightning.metrics.ranks import auroc_left_out, curves_over, sum_patients
from xray_lightning.records import is_known
from xray_lightning.results import Result

LEVEL, POWER = 0.975, 0.8  # of the two-sided test at 5 %, and of what is called detectable

Runs = Sequence[Array]  # scores (N, L) of each seed


@dataclass(frozen=True)
class Difference(Result):
    """AUROC of two models on the same images; with several seeds their means."""

    first: float  # of the first model
    second: float  # of the second
    difference: float  # first less second
    # 95 % interval of the difference, Student's t with the standard deviation of the draws or of
    # the jackknife, whichever is more, and the effective number of patients, by their images of the
    # rarer class or by their influence, whichever is less; None where all draws are equal
    interval: Interval | None
    p_value: float  # two-sided, likewise; leaves out 0.05 where the interval leaves out 0
    # the same, corrected for the number of labels (Holm); of the mean: uncorrected
    corrected: float
    # DeLong's two-sided p value, images taken for independent; NaN for several seeds and for the
    # mean
    delong: float
    # smallest true difference that a test set like this one shows in 80 % of cases
    detectable: float
    deviation: float = NAN  # of the interval, and the degrees of freedom
    freedom: float = NAN

    @property
    def distinguishable(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class AurocDifferences(Result):
    """All labels and the mean over the labels defined in a draw."""

    labels: dict[str, Difference]  # label -> its difference
    mean: Difference  # of the mean AUROC
    identical: bool  # whether both models gave every image the same scores


def compare_aurocs(
    labels: Sequence[str],
    targets: Array,  # (N, L), NaN where unknown
    patients: npt.ArrayLike,
    first: Runs,  # scores (N, L) of each seed
    second: Runs,
    *,
    draws: int = 2000,
    seed: int = 0,
    threads: int = 2,  # labels at a time
) -> AurocDifferences:
    """Compare two models by AUROC, each draw of patients evaluating both."""
    bootstrap = PatientBootstrap(patients, draws, seed)
    columns = [
        ([run[:, index] for run in first], [run[:, index] for run in second], targets[:, index])
        for index in range(len(labels))
    ]
    with ThreadPoolExecutor(threads) as pool:
        drawn = [*pool.map(lambda c: _draw_sides(bootstrap, (c[0], c[2]), (c[1], c[2])), columns)]
    generator = np.random.default_rng(seed)
    choices = tuple(_choose_seeds(len(runs), draws, generator) for runs in (first, second))
    differences = [
        _difference(
            *_over_seeds(pair, choices), left_out, effective_patients(rarer[0]), _delong(*column)
        )
        for column, (*pair, left_out, rarer) in zip(columns, drawn, strict=True)
    ]
    corrected = holm([difference.p_value for difference in differences])
    *means, left_out = (
        mean_of_defined(np.stack([label[place] for label in drawn])) for place in range(3)
    )
    effective = effective_patients(np.sum([rarer[0] for *_, rarer in drawn], axis=0))
    return AurocDifferences(
        {
            label: replace(difference, corrected=float(p_value))
            for label, difference, p_value in zip(labels, differences, corrected, strict=True)
        },
        _difference(*_over_seeds(means, choices), left_out, effective, NAN),
        identical=all(np.array_equal(run, first[0]) for run in (*first, *second)),
    )


def compare_truths(
    scores: Array,  # (N,)
    first: Array,  # (N,), NaN where unknown
    second: Array,
    patients: npt.ArrayLike,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Difference:
    """AUROC of the same scores against two truths where both are known: first less second."""
    # Each draw of patients evaluates both, by the truth that rests on fewer patients. No DeLong.
    both = is_known(first) & is_known(second)
    bootstrap = PatientBootstrap(np.asarray(patients)[both], draws, seed)
    sides = [([scores[both]], targets[both]) for targets in (first, second)]
    one, two, left_out, rarer = _draw_sides(bootstrap, *sides)
    effective = min(map(effective_patients, rarer))
    return _difference(one[0], two[0], left_out, effective, NAN)


def _draw_sides(
    bootstrap: PatientBootstrap, *sides: tuple[Runs, Array]
) -> tuple[Floats, Floats, Floats, list[Floats]]:
    """AUROC of two sides, each seed's scores and the targets (N,), in each draw, (seeds, 1 + D)."""
    # Then their difference without each patient, and each side's images of the rarer class, (P,).
    rankings = [[bootstrap.ranking(run, targets) for run in runs] for runs, targets in sides]
    one, two = (np.stack([curves_over(r, bootstrap.counts)[0] for r in side]) for side in rankings)
    left_out = [
        np.mean([auroc_left_out(r, bootstrap.patients)[1:] for r in side], axis=0)
        for side in rankings
    ]
    rarer = [sum_patients(side[0].codes, side[0].rarer, bootstrap.patients) for side in rankings]
    return one, two, left_out[0] - left_out[1], rarer


def _delong(first: Runs, second: Runs, targets: Array) -> float:
    """DeLong's p value of one label's scores (N,); NaN for several seeds."""
    if not len(first) == len(second) == 1:
        return NAN
    known = is_known(targets)
    return compare_auroc(first[0][known], second[0][known], targets[known] == 1)


def _choose_seeds(runs: int, draws: int, generator: np.random.Generator) -> Floats:
    """Share of each seed in each draw, (seeds, 1 + D); the first is the sample, all alike."""
    if runs == 1:
        return np.ones((1, 1 + draws))
    drawn = generator.multinomial(runs, np.full(runs, 1 / runs), size=draws).T / runs
    return np.concatenate([np.full((runs, 1), 1 / runs), drawn], axis=1)


def _over_seeds(pair: Sequence[Floats], choices: tuple[Floats, ...]) -> tuple[Floats, Floats]:
    """Mean over the drawn seeds, (1 + D,) each."""
    one, two = ((values * share).sum(axis=0) for values, share in zip(pair, choices, strict=True))
    return one, two


def _difference(
    first: Floats, second: Floats, left_out: Floats, effective: float, delong: float
) -> Difference:
    differences = first - second
    value, influence = float(differences[0]), (left_out - left_out.mean()) ** 2
    # As many patients of normal influence, fourth moment 3, would have this fourth moment.
    effective = min(effective, 3 * effective_patients(influence))
    spread, exact = Spread.of(differences[1:], effective), Spread.left_out(left_out, effective)
    if exact.deviation > spread.deviation:  # the bootstrap's is too small with uneven patients
        spread = exact
    p_value = spread.p_value(value)
    reach = float(t.ppf(LEVEL, spread.freedom) + t.ppf(POWER, spread.freedom))
    return Difference(
        float(first[0]),
        float(second[0]),
        value,
        None if np.isnan(spread.deviation) else spread.around(value),
        p_value,
        p_value,
        delong,
        reach * spread.deviation,
        spread.deviation,
        spread.freedom,
    )
