"""The patient bootstrap: its draws and its intervals against SciPy; coverage: test_coverage."""

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, ttest_1samp
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from xray_lightning import ConfigError, Estimate, PatientBootstrap
from xray_lightning.metrics import intervals
from xray_lightning.metrics.intervals import Spread, percentile_interval, share_interval


def test_draws() -> None:
    bootstrap = PatientBootstrap(np.arange(50), 2000, seed=1)
    assert (bootstrap.counts[0] == 1).all(), "the sample itself"
    counts = bootstrap.counts[1:]
    assert (counts.sum(axis=1) == 50).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.12)
    np.testing.assert_allclose(counts.var(), 49 / 50, atol=0.02)  # of a binomial (50, 1/50)
    again, other = (PatientBootstrap(np.arange(50), 2000, seed).counts for seed in (1, 2))
    np.testing.assert_array_equal(bootstrap.counts, again)
    assert (counts != other[1:]).any()


@pytest.mark.parametrize(("patients", "draws"), [(0, 10), (10, 0)])
def test_nothing_to_draw(patients: int, draws: int) -> None:
    with pytest.raises(ConfigError, match=f"{patients} and {draws}"):
        PatientBootstrap(np.arange(patients), draws)


def test_sums_means_and_aurocs_of_repeated_images() -> None:
    rng = np.random.default_rng(0)
    patients, values = rng.choice(list("abcdefgh"), 90), rng.random(90)
    targets = (rng.random(90) < 0.4).astype(float)
    targets[:9] = np.nan
    bootstrap = PatientBootstrap(patients, 5)
    assert [chr(97 + code) for code in bootstrap.codes] == patients.tolist()
    means, aurocs = bootstrap.mean(np.where(np.isnan(targets), np.nan, values)), []
    known = ~np.isnan(targets)
    for draw, row in enumerate(bootstrap.counts):
        rows = np.repeat(np.arange(90), row[bootstrap.codes].astype(int))
        rows = rows[known[rows]]
        assert means[draw] == pytest.approx(values[rows].mean())
        aurocs.append(roc_auc_score(targets[rows], values[rows]))
    np.testing.assert_allclose(bootstrap.auroc(values, targets), aurocs)
    some = bootstrap.subset(np.isin(patients, ["a", "b"]))
    assert (some.patients, some.compact().patients) == (8, 2)
    weights = values[np.isin(patients, ["a", "b"])][:, None]
    np.testing.assert_allclose(some.compact().sums(weights), some.sums(weights))


def test_an_estimate_there_and_back() -> None:
    for estimate in (
        Estimate(0.5, 0.4, 0.6),
        Estimate(1.0, 0.7, 1.0, exact=True),
        Estimate(0.5, 0.4, 0.6, image_interval=(0.45, 0.55)),
        Estimate(np.nan, image_interval=(np.nan, np.nan)),
    ):
        values = estimate.to_json()
        assert repr(Estimate.from_json(values)) == repr(estimate)
        if (old := values.pop("patient_interval", None)) is not None:  # schema 1
            assert values.pop("interval") == old
            assert Estimate.from_json({**values, "patient_interval": old}) == estimate
    assert Estimate(0.5).to_json() == {"value": 0.5, "interval": None}
    draws = np.concatenate([[0.3], np.linspace(0, 1, 39)])
    assert Estimate.of_draws(draws) == Estimate(0.3, *percentile_interval(draws[1:]))


def test_percentiles_equal_scipy() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=40)
    draws = PatientBootstrap(np.arange(40), 4000, 5).ratio(values, np.ones(40))[1:]
    theirs = bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    np.testing.assert_allclose(percentile_interval(draws), theirs, atol=0.02 * values.std())


def test_of_a_mean_it_is_students_interval() -> None:
    """Patients of one image each: bootstrap and jackknife give what SciPy's t test gives."""
    values = np.random.default_rng(0).normal(0.3, 1.0, size=12)
    theirs = ttest_1samp(values, 0.0)
    draws = PatientBootstrap(np.arange(12), 40_000, 1).ratio(values, np.ones(12))[1:]
    exact = Spread.left_out((values.sum() - values) / 11, intervals.effective_patients(np.ones(12)))
    for spread, rough in ((exact, 1e-9), (Spread.of(draws, 12.0), 0.02)):
        assert spread.p_value(values.mean()) == pytest.approx(theirs.pvalue, rel=10 * rough)
        ends = theirs.confidence_interval()
        np.testing.assert_allclose(spread.around(values.mean()), [ends.low, ends.high], atol=rough)


def test_the_p_value_has_no_floor() -> None:
    rng = np.random.default_rng(0)
    few, many = (Spread.of(rng.normal(0.5, 0.05, size=n), 200.0).p_value(0.5) for n in (200, 2000))
    assert max(few, many) < 1e-12, "2 / (D + 1) was 0.01 with 200 draws"


def test_shares_on_the_logit_scale() -> None:
    """Written out; never outside of [0, 1], however wide."""
    low, high = share_interval(0.9, Spread(0.03, 8.0), 0.9, bias=0.01)
    middle, reach = np.log(9) - 0.01 / 0.09, student.ppf(0.95, 8) * 0.03 / 0.09
    assert low == pytest.approx(1 / (1 + np.exp(-middle + reach)))
    assert high == pytest.approx(1 / (1 + np.exp(-middle - reach)))
    assert 0 <= share_interval(0.99, Spread(0.2, 1.5))[0] < share_interval(0.99, Spread(0.2, 9))[0]
    assert np.isnan(share_interval(1.0, Spread(0.1, 9.0))).all()


@pytest.mark.parametrize("patients", [1, 5, 60])
def test_all_patients_agree(patients: int) -> None:
    for share in (0, 1):
        theirs = binomtest(share * patients, patients).proportion_ci(0.95, method="exact")
        assert intervals.exact_interval(share, patients) == pytest.approx((theirs.low, theirs.high))
    assert np.isnan(intervals.exact_interval(0.5, patients)).all()
    assert np.isnan(intervals.exact_interval(1.0, 0)).all()


@pytest.mark.parametrize("spread", [Spread.of(np.full(50, 0.4), 9.0), Spread.of(np.ones(1), 9.0)])
def test_draws_that_tell_nothing(spread: Spread) -> None:
    values = np.linspace(0.0, 1.0, 50)
    others = [Spread.of(values, 1.0), Spread.of(values, np.nan), Spread.left_out(values[:9], 1.0)]
    others += [Spread.left_out(np.full(9, 0.3), 5.0), Spread.left_out(np.array([1, np.nan]), 5.0)]
    for each in (spread, *others):
        assert np.isnan([each.p_value(0.1), *each.around(0.1), *share_interval(0.5, each)]).all()


def test_undefined_draws() -> None:
    values = np.linspace(0, 1, 100)
    values[:5] = np.nan
    assert percentile_interval(values)[0] > 0.05
    values[:6] = np.nan
    assert np.isnan(percentile_interval(values)).all()
    assert np.isnan(Spread.of(values, 9.0).deviation)
    assert np.isnan(percentile_interval(np.array([]))).all()
    assert np.isnan(percentile_interval(np.full(99, 0.5))).all(), "no width, no interval"
    assert percentile_interval(np.full(99, 0.5), constant=True) == (0.5, 0.5)
    assert np.isnan(percentile_interval(np.linspace(0, 1, 38))).all(), "cannot reach 95 %"
    assert percentile_interval(np.linspace(0, 1, 39)) == pytest.approx((0.025, 0.975))
    np.testing.assert_array_equal(intervals.divided([1.0, 2.0], [2.0, 0.0]), [0.5, np.nan])
