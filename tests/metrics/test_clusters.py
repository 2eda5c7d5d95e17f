"""The patient bootstrap: its draws, its intervals against SciPy, and their coverage."""

import numpy as np
import pytest
from scipy.stats import bootstrap, norm
from sklearn.metrics import roc_auc_score

from xray_lightning.errors import ConfigError
from xray_lightning.metrics.clusters import (
    bca_interval,
    bootstrap_counts,
    divided,
    jackknife_counts,
    patient_codes,
    percentile_interval,
    ratio_over,
)
from xray_lightning.metrics.ranks import Ranking, curves_over


def test_draws() -> None:
    counts = bootstrap_counts(50, 2000, seed=1)
    assert (counts.sum(axis=1) == 50).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.12)
    np.testing.assert_allclose(counts.var(), 49 / 50, atol=0.02)  # of a binomial (50, 1/50)
    np.testing.assert_array_equal(counts, bootstrap_counts(50, 2000, seed=1))
    assert (counts != bootstrap_counts(50, 2000, seed=2)).any()


@pytest.mark.parametrize(("clusters", "draws"), [(0, 10), (10, 0)])
def test_nothing_to_draw(clusters: int, draws: int) -> None:
    with pytest.raises(ConfigError, match=f"needs patients and draws, got {clusters} and {draws}"):
        bootstrap_counts(clusters, draws, seed=0)


def test_patients() -> None:
    assert patient_codes(["b", "a", "b"]).tolist() == [1, 0, 1]


@pytest.mark.parametrize(("clusters", "groups"), [(7, 400), (7, 3), (1000, 400)])
def test_jackknife_leaves_each_patient_out_once(clusters: int, groups: int) -> None:
    counts = jackknife_counts(clusters, groups)
    assert len(counts) == min(clusters, groups)
    assert ((1 - counts).sum(axis=0) == 1).all()


def test_intervals_equal_scipy() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=40)
    counts = bootstrap_counts(40, 4000, seed=5)
    draws = ratio_over(counts, np.arange(40), values, np.ones(40))
    jackknife = ratio_over(jackknife_counts(40), np.arange(40), values, np.ones(40))
    for method in ("percentile", "BCa"):
        theirs = bootstrap(
            (values,), np.mean, n_resamples=20_000, method=method, rng=np.random.default_rng(1)
        ).confidence_interval
        ours = (
            percentile_interval(draws)
            if method == "percentile"
            else bca_interval(draws, float(values.mean()), jackknife)
        )
        np.testing.assert_allclose(ours, theirs, atol=0.02 * values.std())


def test_bca_by_its_formula() -> None:
    """Efron's equations written out for one case with bias and skew."""
    draws = np.random.default_rng(2).gamma(3.0, size=5000)
    jackknife = np.random.default_rng(3).gamma(1.0, size=30)
    estimate = 3.2
    bias = norm.ppf((draws < estimate).mean())
    spread = jackknife.mean() - jackknife
    skew = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    ends = []
    for tail in (0.05, 0.95):
        z = bias + norm.ppf(tail)
        ends.append(np.quantile(draws, norm.cdf(bias + z / (1 - skew * z))))
    np.testing.assert_allclose(bca_interval(draws, estimate, jackknife, 0.9), ends)


def test_undefined_draws() -> None:
    values = np.linspace(0, 1, 100)
    values[:5] = np.nan
    assert percentile_interval(values)[0] > 0.05
    values[:6] = np.nan
    assert np.isnan(percentile_interval(values)).all()
    assert np.isnan(bca_interval(values, 0.5, np.ones(3))).all()
    assert np.isnan(bca_interval(np.linspace(0, 1, 9), 0.5, np.array([1.0, np.nan]))).all()
    assert np.isnan(percentile_interval(np.array([]))).all()


def test_all_draws_on_one_side() -> None:
    values = np.linspace(0.9, 1.0, 101)
    assert bca_interval(values, 0.5, np.ones(3)) == percentile_interval(values)


def test_no_skew_without_spread() -> None:
    values = np.random.default_rng(0).normal(size=1001)
    median = float(np.median(values))
    np.testing.assert_allclose(
        bca_interval(values, median, np.ones(9)), percentile_interval(values), atol=1e-3
    )


def test_divided() -> None:
    np.testing.assert_array_equal(divided([1.0, 2.0], [2.0, 0.0]), [0.5, np.nan])


def clustered(rng: np.random.Generator, patients: int = 60) -> tuple[np.ndarray, ...]:
    """Patients with 1 to 12 images that share a random effect on the score, and their finding."""
    sizes = rng.integers(1, 13, size=patients)
    codes = np.repeat(np.arange(patients), sizes)
    sick = (rng.random(patients) < 0.4)[codes]
    shared = rng.normal(size=patients)[codes]
    scores = 1.2 * sick + shared + 0.5 * rng.normal(size=len(codes))
    return scores, sick.astype(float), codes


@pytest.mark.slow
def test_coverage() -> None:
    """The patient interval of 95 % holds the truth in 92 to 98 % of samples, the other not."""
    truth = roc_auc_score(*clustered(np.random.default_rng(0), 60_000)[1::-1])
    rng = np.random.default_rng(1)
    held = {"patients": 0, "images": 0}
    samples = 400
    for number in range(samples):
        scores, targets, codes = clustered(rng)
        for name, groups in (("patients", codes), ("images", np.arange(len(codes)))):
            clusters = int(groups.max()) + 1
            ranking = Ranking.of(scores, targets, groups)
            draws, _ = curves_over(ranking, bootstrap_counts(clusters, 400, seed=number))
            estimate, _ = curves_over(ranking, np.ones((1, clusters), dtype=np.float32))
            jackknife, _ = curves_over(ranking, jackknife_counts(clusters, 60))
            low, high = bca_interval(draws, float(estimate[0]), jackknife)
            held[name] += low <= truth <= high
    print(f"coverage of {samples} samples: {held}")
    assert 0.92 <= held["patients"] / samples <= 0.98
    assert held["images"] / samples < 0.8
