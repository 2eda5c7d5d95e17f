"""Is one model better than another, or better here than there? Draws of patients, and DeLong.

Is it no worse, by a margin stated before? Non-inferiority and equivalence.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy  # .stats, a second's import, loads at its first use

from xray_lightning.errors import ConfigError
from xray_lightning.metrics import intervals
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.intervals import Array, Estimate, Floats, Interval, Mask, Spread
from xray_lightning.metrics.ranks import Ranking, auroc_left_out, sum_patients
from xray_lightning.records import NAN, is_known
from xray_lightning.results import Result

LEVEL, POWER = 0.975, 0.8  # of the two-sided test at 5 %, and of what is called detectable
ERROR = 0.05  # of each one-sided test of a margin; of superior and inferior two-sided
CLAIMS = ("superior", "equivalent", "non-inferior", "inferior")  # the first that holds is told
UNDECIDED, UNTESTED = "undecided", "untested"

Runs = Sequence[Array]  # scores (N, L) of each seed
# AUROC of each seed in the sample and each draw (seeds, 1 + D), without each patient (P,), and the
# images of the rarer class (P,)
Drawn = tuple[Floats, Floats, Floats]


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
    drawn = _draw_labels([(bootstrap, runs, targets) for runs in (first, second)], threads)
    parts = [(one[0], two[0], one[1] - two[1], one[2]) for one, two in drawn]
    *figures, images = zip(*parts, strict=True)
    means = (intervals.mean_of_defined(np.stack(figure)) for figure in figures)
    rows = []
    for one, two, change, rarer in (*parts, (*means, np.sum(images, axis=0))):
        seeds = [side[:, 0] for side in (one, two) if len(side) > 1]
        effective = intervals.effective_patients(rarer)
        rows.append(_difference(one.mean(axis=0), two.mean(axis=0), change, effective, seeds))
    *rows, mean = rows
    for index, corrected in enumerate(holm([row.p_value for row in rows]).tolist()):
        rows[index] = replace(rows[index], corrected=corrected)
        if len(first) == len(second) == 1:
            known = is_known(targets[:, index])
            columns = (table[known, index] for table in (first[0], second[0], targets == 1))
            rows[index] = replace(rows[index], delong=compare_auroc(*columns))
    identical = all(np.array_equal(run, first[0]) for run in (*first, *second))
    return AurocDifferences(dict(zip(labels, rows, strict=True)), mean, identical)


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
    one, two = (_draw(bootstrap, [scores[both]], targets[both]) for targets in (first, second))
    effective = min(intervals.effective_patients(side[2]) for side in (one, two))
    return _difference(one[0][0], two[0][0], one[1] - two[1], effective)


def _draw(bootstrap: PatientBootstrap, runs: Runs, targets: Array) -> Drawn:
    rankings = [Ranking.of(run, targets, bootstrap.codes) for run in runs]
    aurocs = np.stack([bootstrap.auroc(run, targets) for run in runs])
    left_out = [auroc_left_out(ranking, bootstrap.patients)[1:] for ranking in rankings]
    rarer = intervals.rarer_class(rankings[0].positive)
    images = sum_patients(rankings[0].codes, rarer, bootstrap.patients)
    return aurocs, np.mean(left_out, axis=0), images


def _draw_labels(
    sides: Sequence[tuple[PatientBootstrap, Runs, Array]], threads: int
) -> list[tuple[Drawn, ...]]:
    """Both sides of each label."""

    def draw(label: int) -> tuple[Drawn, ...]:
        return tuple(
            _draw(bootstrap, [run[:, label] for run in runs], targets[:, label])
            for bootstrap, runs, targets in sides
        )

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(draw, range(sides[0][2].shape[1])))


def _difference(
    first: Floats, second: Floats, left_out: Floats, effective: float, seeds: Sequence[Floats] = ()
) -> Difference:
    differences = first - second
    value, influence = float(differences[0]), (left_out - left_out.mean()) ** 2
    # As many patients of normal influence, fourth moment 3, would have this fourth moment.
    effective = min(effective, 3 * intervals.effective_patients(influence))
    spread, exact = Spread.of(differences[1:], effective), Spread.left_out(left_out, effective)
    if exact.deviation > spread.deviation:  # the bootstrap's is too small with uneven patients
        spread = exact
    # Seeds (AUROC of each), too, are a sample: two of them resampled show half of their variance.
    trained = [Spread(float(k.std(ddof=1)) / math.sqrt(len(k)), len(k) - 1) for k in seeds]
    spread = Spread.of_sum([spread, *trained]) if trained else spread
    p_value = spread.p_value(value)
    reach = float(scipy.stats.t.ppf([LEVEL, POWER], spread.freedom).sum())
    return Difference(
        *(float(first[0]), float(second[0]), value),
        intervals.drop_undefined(spread.around(value, most=1)),
        *(p_value, p_value, NAN),  # uncorrected, without DeLong's
        *(reach * spread.deviation, spread.deviation, spread.freedom),
    )


def delong(scores: Array, positive: Mask) -> Floats:
    """AUROCs of M models (M, n), below them the covariance, (1 + M, M); NaN without two a class."""
    # DeLong 1988, eqs. 3 to 8; ranks as Sun and Xu 2014. Images count as independent, which those
    # of one patient are not: read the patient bootstrap first.
    models, m, n = len(scores), int(positive.sum()), int((~positive).sum())
    if m < 2 or n < 2:
        return np.full((1 + models, models), np.nan)
    within_positive = scipy.stats.rankdata(scores[:, positive], axis=1)
    within_negative = scipy.stats.rankdata(scores[:, ~positive], axis=1)
    overall = scipy.stats.rankdata(scores, axis=1)
    beaten = (overall[:, positive] - within_positive) / n  # V10, (M, m)
    lost = 1 - (overall[:, ~positive] - within_negative) / m  # V01, (M, n)
    covariance = np.cov(beaten).reshape(models, models) / m
    covariance = covariance + np.cov(lost).reshape(models, models) / n
    return np.vstack([beaten.mean(axis=1), covariance])


def compare_auroc(first: Array, second: Array, positive: Mask) -> float:
    """Two-sided p value of two models' AUROCs on the same images, scores (n,) each."""
    # 1 where the difference is 0, NaN where it has no deviation but is not 0.
    (one, two), (own, both), (_, other) = delong(np.stack([first, second]), positive)
    if one == two:
        return 1.0
    deviation = np.sqrt(max(own + other - 2 * both, 0.0))
    return float(2 * scipy.stats.norm.sf(abs(one - two) / deviation)) if deviation > 0 else NAN


def holm(p_values: npt.ArrayLike) -> Floats:
    """P values corrected for several comparisons (Holm 1979); an undefined one stays undefined."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)  # NaN last
    factors = np.maximum((~np.isnan(values)).sum() - np.arange(len(values)), 1)
    corrected = np.minimum(np.maximum.accumulate(values[order] * factors), 1)
    return np.asarray(corrected[np.argsort(order)])


def benjamini_hochberg(p_values: npt.ArrayLike) -> Floats:
    """P values corrected for the rate of false discoveries (Benjamini and Hochberg 1995)."""
    values = np.array(p_values, dtype=np.float64)
    known = ~np.isnan(values)
    values[known] = scipy.stats.false_discovery_control(values[known]) if known.any() else np.nan
    return values


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
    # patients, freedom by Welch (1947). Two samples are independent, as a rule: variances add up.
    # Patients who are in both are drawn together, and their covariance is taken off.
    both = PatientBootstrap([*internal.patients, *external.patients], draws, seed)
    shared = not set(internal.patients).isdisjoint(external.patients)
    border = len(internal.patients)
    halves = (slice(border), internal), (slice(border, None), external)
    sides = [(both.subset(rows), [sample.scores], sample.targets) for rows, sample in halves]
    labels = _draw_labels(sides, threads)
    return [_subtract(rows, shared=shared) for rows in (*([pair] for pair in labels), labels)]


def _subtract(rows: Sequence[tuple[Drawn, ...]], *, shared: bool) -> Estimate:
    """The second side less the first, mean of L labels; without an interval where one has none."""
    defined = [row for row in rows if all(math.isfinite(side[0][0, 0]) for side in row)] or rows
    sides = [*zip(*defined, strict=True)]
    figures = [np.vstack([label[0] for label in side]) for side in sides]  # each (L, 1 + D)
    images = [[label[2] for label in side] for side in sides]
    drawn = np.stack([*map(intervals.mean_of_defined, figures)])  # (2, 1 + D)
    difference = float(drawn[1, 0] - drawn[0, 0])
    spreads = [*map(Spread.of_mean, figures, images)]
    if any(np.isnan(spread.deviation) for spread in spreads):
        return Estimate(difference)
    own = np.array([spread.deviation**2 for spread in spreads])
    sizes = np.array([intervals.effective_patients(np.sum(side, axis=0)) for side in images])
    pooled = np.sqrt(intervals.pool_variances(drawn[:, 0], own, sizes)).tolist()
    known = drawn[:, 1:].compress(np.isfinite(drawn[:, 1:]).all(axis=0), axis=1)
    alike = float(np.corrcoef(known)[0, 1]) if shared else 0.0
    parts = [Spread(one, spread.freedom) for one, spread in zip(pooled, spreads, strict=True)]
    apart = Spread.of_sum(parts, -2 * alike * math.prod(pooled))
    return Estimate(difference, *apart.around(difference))


@dataclass(frozen=True)
class MarginTest(Result):
    """The difference of two models' AUROC, first less second, against a margin."""

    # one-sided 95 % bound, by the deviation there is where first is worse by the margin:
    # non-inferior above -margin
    lower: float
    upper: float  # likewise; equivalent where both bounds are within the margin
    # of the claims superior, equivalent (TOST), non-inferior, inferior; of labels corrected (Holm)
    p_values: dict[str, float]
    verdict: str  # one of the claims, "undecided" or "untested"
    # how many patients like these would decide in 80 % of cases were the true difference the
    # measured one; None where this is decided or the measured one is -margin, and of several seeds
    patients: int | None
    patients_if_equal: int | None  # likewise, were there no true difference


@dataclass(frozen=True)
class MarginTests(Result):
    """Of all labels and of the mean."""

    margin: float  # a difference of AUROC, stated before the scores were seen
    labels: dict[str, MarginTest]  # label -> its test
    mean: MarginTest  # not corrected for the labels


def require_margin(margin: object) -> None:
    """Refuse what is neither None nor a difference of AUROC."""
    if margin is not None and not (isinstance(margin, int | float) and 0 < margin < 1):
        raise ConfigError(f"margin must lie in (0, 1), such as 0.01, got {margin!r}")


def compare_with_margin(
    differences: AurocDifferences, margin: float, patients: int | None
) -> MarginTests:
    """Non-inferiority, equivalence (TOST) and their opposites, by Student's t of each difference.

    Superior: the 95 % interval lies above 0; inferior: below -margin; non-inferior: the one-sided
    95 % bound lies above -margin; equivalent: both lie within the margin (Schuirmann 1987; the
    words as in Piaggio 2012, JAMA 308:2594). Worse, but by how much undecided, is undecided.
    ``patients`` is how many the differences rest on; from it follows how many would decide, for the
    standard error falls as 1 / sqrt(patients). None where it does not, as with seeds.
    ConfigError: the margin is not in (0, 1).
    """
    require_margin(margin)
    rows = [*differences.labels.values(), differences.mean]
    figures = [(k.difference, k.deviation, k.freedom, k.first, k.second) for k in rows]
    value, deviation, freedom, first, second = np.array(figures).T
    # An AUROC's variance is taken to go as a (1 - a). The hypothesis that is to be refuted has its
    # own deviation (cf. Farrington and Manning 1990); what that mends stands in the README.
    aurocs = np.maximum(second - margin, 0), first, second
    worst, own, other = (a * (1 - a) for a in aurocs)
    null = deviation * np.fmax(1, np.sqrt(intervals.divided(worst + other, own + other)))
    apart = np.array([value, margin - value, -margin - value]) / deviation
    better, below, worse = scipy.stats.t.sf(apart, freedom)
    above = scipy.stats.t.sf((value + margin) / null, freedom)
    p_values = np.minimum([2 * better, np.maximum(above, below), above, 2 * worse], 1)  # (4, L + 1)
    p_values[:, :-1] = [holm(claim) for claim in p_values[:, :-1]]
    reach = scipy.stats.t.ppf(1 - ERROR, freedom)
    bounds = np.stack([value - reach * null, value + reach * deviation], axis=1)
    tested = max(int((~np.isnan(deviation[:-1])).sum()), 1)
    first = np.append(np.full(len(rows) - 1, ERROR / tested), ERROR)  # of Holm's steps
    power = scipy.stats.t.ppf(POWER, freedom)
    lower, worst = (scipy.stats.t.ppf(1 - e, freedom) + power for e in (first, first / 2))
    spread = np.where(value > -margin, lower * null, worst * deviation)
    count = NAN if patients is None else patients
    parts = intervals.divided(spread, np.abs(value + margin)), lower * null / margin
    needed = count * np.array(parts) ** 2
    tests = [*map(_test, bounds, p_values.T, *needed)]
    return MarginTests(margin, dict(zip(differences.labels, tests, strict=False)), tests[-1])


def _test(bounds: Floats, p_values: Floats, patients: float, if_equal: float) -> MarginTest:
    named = dict(zip(CLAIMS, p_values.tolist(), strict=True))
    holding = [claim for claim in CLAIMS if named[claim] < ERROR]
    verdict = (holding or [UNTESTED if np.isnan(p_values).any() else UNDECIDED])[0]
    counts = (patients, if_equal) if verdict == UNDECIDED else (NAN, NAN)
    needed = [None if math.isnan(count) else math.ceil(count) for count in counts]
    return MarginTest(float(bounds[0]), float(bounds[1]), named, verdict, *needed)
