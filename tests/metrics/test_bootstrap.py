"""The patient bootstrap, its intervals, and AUROC of a sample and over its draws."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, ttest_1samp
from scipy.stats import t as student
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from toy import aurocs_of_labels

from xray_lightning import ConfigError, Estimate, PatientBootstrap
from xray_lightning.metrics import intervals, ranks
from xray_lightning.metrics.auroc import PerLabelAUROC, auroc_per_label, defined_mean
from xray_lightning.metrics.intervals import Spread, percentile_interval, share_interval
from xray_lightning.metrics.ranks import RANKED, Codes, Ranking, auroc_left_out, curves_over


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


def repeated(counts: np.ndarray, codes: Codes, targets: np.ndarray) -> np.ndarray:
    """Positions of the images of a draw, each as often as its patient was drawn."""
    rows = np.repeat(np.arange(len(codes)), counts[codes].astype(int))
    return rows[~np.isnan(targets[rows])]


def test_sums_and_means_of_repeated_images(rng) -> None:
    patients, values = rng.choice(list("abcdefgh"), 90), rng.random(90)
    targets = (rng.random(90) < 0.4).astype(float)
    targets[:9] = np.nan
    bootstrap = PatientBootstrap(patients, 5)
    assert [chr(97 + code) for code in bootstrap.codes] == patients.tolist()
    means = bootstrap.mean(np.where(np.isnan(targets), np.nan, values))
    for draw, row in enumerate(bootstrap.counts):
        assert means[draw] == pytest.approx(values[repeated(row, bootstrap.codes, targets)].mean())
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


def test_the_p_value_has_no_floor(rng) -> None:
    few, many = (Spread.of(rng.normal(0.5, 0.05, size=n), 200.0).p_value(0.5) for n in (200, 2000))
    assert max(few, many) < 1e-12, "2 / (D + 1) was 0.01 with 200 draws"


def test_shares_on_the_logit_scale() -> None:
    """Written out; never outside of [0, 1], however wide."""
    assert Spread(0.5, 0.3).around(0.1, most=1) == (-1, 1), "no AUROC differs by more"
    assert np.isnan(Spread(np.nan, 3.0).around(0.1, most=1)).all()
    ends = share_interval(0.9, Spread(0.03, 8.0), 0.9, bias=0.01)
    reach = student.ppf([0.05, 0.95], 8) * 0.03 / 0.09
    assert ends == pytest.approx(1 / (1 + np.exp(0.01 / 0.09 - np.log(9) - reach)))
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
    assert np.isnan([*percentile_interval(values), Spread.of(values, 9.0).deviation]).all()
    assert np.isnan(percentile_interval(np.array([]))).all()
    assert np.isnan(percentile_interval(np.full(99, 0.5))).all(), "no width, no interval"
    assert percentile_interval(np.full(99, 0.5), constant=True) == (0.5, 0.5)
    assert np.isnan(percentile_interval(np.linspace(0, 1, 38))).all(), "cannot reach 95 %"
    assert percentile_interval(np.linspace(0, 1, 39)) == pytest.approx((0.025, 0.975))
    assert percentile_interval(np.linspace(0, 1, 39), 10)[0] == pytest.approx(0.0085506, abs=1e-7)
    np.testing.assert_array_equal(intervals.divided([1.0, 2.0], [2.0, 0.0]), [0.5, np.nan])


COUNT, LABELS = 300, 6


def binary(seed: int, unknown: float = 0.0):
    """Scores in steps of 1/20, so with many ties, and targets of growing prevalence."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 21, (COUNT, LABELS)) / 20
    targets = (rng.random((COUNT, LABELS)) < np.linspace(0.02, 0.6, LABELS)).astype(float)
    scores = np.clip(scores + 0.2 * targets, 0, 1)
    targets[rng.random((COUNT, LABELS)) < unknown] = np.nan
    return torch.tensor(scores, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32)


@pytest.mark.parametrize("columns", [slice(None), slice(2, 3)])
@pytest.mark.parametrize("only", [None, 0.0, 1.0, math.nan])
@pytest.mark.parametrize("unknown", [0.0, 0.4])
@pytest.mark.parametrize(("seed", "size"), [(0, 1), (1, 7), (2, 64), (3, COUNT)])
def test_equals_sklearn(seed: int, size: int, unknown: float, only, columns: slice) -> None:
    """And so does the metric, over batches of any size; a label of one kind is undefined."""
    scores, targets = binary(seed, unknown)
    if only is not None:
        targets[1:, 2], targets[0, 2] = only, math.nan
    scores, targets = scores[:, columns], targets[:, columns]
    values = auroc_per_label(scores, targets)
    undefined = [only is not None and label == 2 for label in range(LABELS)]
    assert values.isnan().tolist() == undefined[columns]
    np.testing.assert_allclose(values, aurocs_of_labels(scores, targets), atol=1e-6)
    metric = PerLabelAUROC(len(values))
    for end in (COUNT, 100):
        metric.reset()
        for batch in zip(scores[:end].split(size), targets[:end].split(size), strict=True):
            metric.update(*batch)
        expected = auroc_per_label(scores[:end], targets[:end])
        found = metric.compute().reshape(-1)  # torchmetrics squeezes a single one
        torch.testing.assert_close(found, expected, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize(("images", "only"), [(COUNT, 0.0), (COUNT, math.nan), (0, 0.0)])
def test_mean_over_what_is_defined(images: int, only: float) -> None:
    values = auroc_per_label(binary(0)[0][:images], torch.full((images, LABELS), only))
    assert values.isnan().tolist() == [True] * LABELS
    np.testing.assert_equal(defined_mean(values), (math.nan, 0))
    found = defined_mean(torch.tensor([0.5, math.nan, 1.0, math.nan, 0.9]))
    assert found == pytest.approx((0.8, 3))


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan])
def test_no_logits(value: float) -> None:
    scores, targets = binary(0)
    scores[3, 1] = value
    for call in (auroc_per_label, PerLabelAUROC(LABELS).update):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]: apply the sigmoid before"):
            call(scores, targets)


def ranked(seed=0, images=400, clusters=60, levels=40):
    """Scores (with ties, unless levels is None), targets with unknowns, patients."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(clusters, size=images)
    scores = rng.random(images)
    targets = (rng.random(images) < 0.1 + 0.4 * scores).astype(np.float32)
    targets[rng.random(images) < 0.1] = np.nan
    if levels:
        scores = np.floor(scores * levels) / levels
    return scores.astype(np.float32), targets, codes


@pytest.mark.parametrize("levels", [40, 3, None])
@pytest.mark.parametrize("chunk", [7, 32])
def test_equal_to_scikit_learn_on_the_same_draws(levels, chunk, monkeypatch) -> None:
    monkeypatch.setattr(ranks, "CHUNK", chunk)
    scores, targets, codes = ranked(levels=levels)
    counts = PatientBootstrap(np.arange(60), 25, seed=3).counts
    found = curves_over(Ranking.of(scores, targets, codes), counts)
    alone = PatientBootstrap(codes, 25, seed=3).auroc(scores, targets)
    np.testing.assert_array_equal(alone, found["auroc"])
    for draw, row in enumerate(counts):
        rows = repeated(row, codes, targets)
        pair = targets[rows].astype(np.float64), scores[rows]
        share = pair[0].mean()
        precision = average_precision_score(*pair)
        theirs = roc_auc_score(*pair), precision, (precision - share) / (1 - share)
        false, true, _ = roc_curve(*pair, drop_intermediate=False)
        theirs += gain_area(*pair), roc_auc_score(*pair, max_fpr=0.1), true[false <= 0.1].max()
        assert [found[name][draw] for name in RANKED] == pytest.approx(theirs, abs=1e-12)


def gain_area(targets: np.ndarray, scores: np.ndarray) -> float:
    """Flach and Kull (2015) by their definitions: trapezoids from a recall gain of 0 on."""
    false, true, _ = roc_curve(targets, scores, drop_intermediate=False)
    prevalence, positives = targets.mean(), targets.sum()
    place = np.searchsorted(true, prevalence)  # the first point of a recall of the prevalence
    part = (prevalence - true[place - 1]) / (true[place] - true[place - 1])
    first = false[place - 1] + part * (false[place] - false[place - 1])
    recall, false = np.append(prevalence, true[place:]), np.append(first, false[place:])
    precision = recall * positives / (recall * positives + false * (len(targets) - positives))
    gains = [(x - prevalence) / ((1 - prevalence) * x) for x in (recall, precision)]
    return float(np.trapezoid(gains[1], gains[0]))


def test_the_published_example_of_a_gain() -> None:
    """0.7083, of the authors' example (REFRAME/prg, Matlab_package/prg/html/example.html)."""
    targets, scores = np.array([1, 1, 0, 0, 1, 0]), np.array([0.8, 0.8, 0.6, 0.4, 0.4, 0.2])
    found = curves_over(Ranking.of(scores, targets, np.arange(6)), np.ones((1, 6), np.float32))
    assert found["precision_recall_gain"] == pytest.approx([17 / 24])
    found = curves_over(Ranking.of(targets, targets, np.arange(6)), np.ones((1, 6), np.float32))
    assert all(figure == 1 for figure in found.values()), "a perfect order, to the last digit"
    found = curves_over(Ranking.of(0 * scores, targets, np.arange(6)), np.ones((1, 6), np.float32))
    chance = [0.5, 0.5, 0, 0, 0.5, 0]
    assert [found[name][0] for name in RANKED] == pytest.approx(chance, abs=1e-15)


def test_large_sums_are_exact_too() -> None:
    """A patient with thousands of images: past float32's whole numbers."""
    scores, targets, codes = ranked(images=20_000, clusters=3)
    counts = np.array([[1, 1, 1], [40, 0, 2]], dtype=np.float32)
    found = curves_over(Ranking.of(scores, targets, codes), counts)["auroc"]
    for draw, row in enumerate(counts):
        rows = repeated(row, codes, targets)
        assert found[draw] == pytest.approx(roc_auc_score(targets[rows], scores[rows]), abs=1e-12)


def test_a_draw_without_a_class_is_undefined() -> None:
    scores = np.array([0.1, 0.9, 0.4], dtype=np.float32)
    targets = np.array([0.0, 1.0, np.nan], dtype=np.float32)
    counts = np.array([[1, 1, 1], [2, 0, 1], [0, 2, 1], [0, 0, 3]], dtype=np.float32)
    for figure in curves_over(Ranking.of(scores, targets, np.arange(3)), counts).values():
        np.testing.assert_array_equal(figure, [1, np.nan, np.nan, np.nan])
    for target in (0.0, 1.0, np.nan):  # with positives alone the precision is always 1
        ranking = Ranking.of(np.full(4, 0.5), np.full(4, target), np.arange(4))
        found = curves_over(ranking, np.ones((3, 4), dtype=np.float32))
        assert np.isnan([*found.values()]).all()


def test_more_images_than_float32_counts() -> None:
    ranking = Ranking.of(np.array([0.1, 0.9]), np.array([0.0, 1.0]), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"a draw holds 20,000,000 images; up to 16,777,216"):
        curves_over(ranking, np.full((1, 2), 10_000_000, dtype=np.float32))


def test_auroc_without_each_patient(rng) -> None:
    codes, scores = rng.integers(12, size=100), rng.integers(20, size=100) / 20  # with ties
    targets = (rng.random(100) < 0.3).astype(float)
    targets[:5] = np.nan
    found = auroc_left_out(Ranking.of(scores, targets, codes), 13)
    kept = (~np.isnan(targets) & (codes != k) for k in range(-1, 13))
    theirs = [roc_auc_score(targets[rows], scores[rows]) for rows in kept]
    np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-12)
    alone = Ranking.of(np.arange(4.0), np.array([0.0, 1, 1, 0]), np.array([0, 1, 1, 2]))
    assert np.isnan(auroc_left_out(alone, 3)).tolist() == [False, False, True, False]
