"""Is one model better than another on the same images? Paired draws of patients, and DeLong."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xray_lightning.metrics.clusters import (
    Counts,
    Floats,
    Interval,
    bootstrap_counts,
    mean_of_defined,
    patient_codes,
    percentile_interval,
    two_sided,
)
from xray_lightning.metrics.delong import compare_auroc, holm
from xray_lightning.metrics.ranks import Ranking, curves_over

# A true difference of (1.96 + 0.84) standard deviations is found in 80 % of test sets like this one
# by a two-sided test at 5 %.
DETECTABLE = 1.959964 + 0.841621

Runs = Sequence[npt.NDArray[np.floating]]  # scores (N, L) of each seed


@dataclass(frozen=True)
class Difference:
    """AUROC of two models on the same images; with several seeds their means.

    Attributes:
        first: of the first model.
        second: of the second.
        difference: first less second.
        interval: 95 % percentile interval of the difference; patients, and seeds where there are
            several, resampled.
        p_value: two-sided, from the same draws.
        corrected: the same, corrected for the number of labels (Holm); of the mean: uncorrected.
        delong: DeLong's two-sided p value, images taken for independent; NaN for several seeds
            and for the mean.
        detectable: smallest true difference that a test set like this one shows in 80 % of cases.
    """

    first: float
    second: float
    difference: float
    interval: Interval
    p_value: float
    corrected: float
    delong: float
    detectable: float

    @property
    def distinguishable(self) -> bool:
        """Whether the interval leaves out 0."""
        low, high = self.interval
        return low > 0 or high < 0


@dataclass(frozen=True)
class Comparison:
    """All labels and the mean over the labels defined in a draw."""

    labels: dict[str, Difference]
    mean: Difference


def compare(
    labels: Sequence[str],
    targets: npt.NDArray[np.floating],
    patients: npt.ArrayLike,
    first: Runs,
    second: Runs,
    *,
    draws: int = 2000,
    seed: int = 0,
    threads: int = 2,
) -> Comparison:
    """Compare two models by AUROC, each draw of patients judging both.

    Args:
        labels: the L labels.
        targets: (N, L), NaN where unknown.
        patients: N ids.
        first: scores (N, L) of the first model, one array a seed.
        second: of the second model.
        draws: of the bootstrap.
        seed: of the bootstrap.
        threads: labels at a time.

    Raises:
        ConfigError: no draws or no images.
    """
    codes = patient_codes(patients)
    clusters = int(codes.max(initial=-1)) + 1
    counts = np.concatenate(
        [np.ones((1, clusters), dtype=np.float32), bootstrap_counts(clusters, draws, seed)]
    )

    def of_label(index: int) -> tuple[Floats, Floats]:
        one, two = (
            np.stack([_aurocs(each[:, index], targets[:, index], codes, counts) for each in runs])
            for runs in (first, second)
        )
        return one, two  # (seeds, 1 + D)

    with ThreadPoolExecutor(threads) as pool:
        values = list(pool.map(of_label, range(len(labels))))
    generator = np.random.default_rng(seed)
    choices = tuple(_seed_choices(len(runs), draws, generator) for runs in (first, second))
    single = len(first) == len(second) == 1
    found = []
    for index, pair in enumerate(values):
        known = ~np.isnan(targets[:, index])
        p_value = float("nan")
        if single:
            one, two = (runs[0][known, index] for runs in (first, second))
            p_value = compare_auroc(one, two, targets[known, index] == 1).p_value
        found.append(_difference(*_over_seeds(pair, choices), p_value))
    corrected = holm([each.p_value for each in found])
    means = tuple(mean_of_defined(np.stack([pair[side] for pair in values])) for side in (0, 1))
    return Comparison(
        {
            label: Difference(**{**vars(each), "corrected": float(p)})
            for label, each, p in zip(labels, found, corrected, strict=True)
        },
        _difference(*_over_seeds((means[0], means[1]), choices), float("nan")),
    )


def _aurocs(
    scores: npt.NDArray[np.floating],
    targets: npt.NDArray[np.floating],
    codes: npt.NDArray[np.intp],
    counts: Counts,
) -> Floats:
    return curves_over(Ranking.of(scores, targets, codes), counts)[0]


def _seed_choices(runs: int, draws: int, generator: np.random.Generator) -> Floats:
    """Share of each seed in each draw, (seeds, 1 + D); the first is the sample, all alike."""
    if runs == 1:
        return np.ones((1, 1 + draws))
    drawn = generator.multinomial(runs, np.full(runs, 1 / runs), size=draws).T / runs
    return np.concatenate([np.full((runs, 1), 1 / runs), drawn], axis=1)


def _over_seeds(pair: tuple[Floats, Floats], choices: tuple[Floats, ...]) -> tuple[Floats, Floats]:
    """Mean over the drawn seeds, (1 + D,) each."""
    one, two = ((values * share).sum(axis=0) for values, share in zip(pair, choices, strict=True))
    return one, two


def _difference(first: Floats, second: Floats, delong: float) -> Difference:
    differences = first - second
    p_value = spread = float("nan")
    if not np.isnan(differences[0]):
        p_value = two_sided(differences[1:])
        spread = float(np.nanstd(differences[1:], ddof=1))
    return Difference(
        float(first[0]),
        float(second[0]),
        float(differences[0]),
        percentile_interval(differences[1:]),
        p_value,
        p_value,
        delong,
        DETECTABLE * spread,
    )
