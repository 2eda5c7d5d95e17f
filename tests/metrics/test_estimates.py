"""Figures of a set of predictions against scikit-learn."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sk

from xray_lightning.metrics.calibration import Calibration
from xray_lightning.metrics.estimates import CURVES, POINT, Metrics, estimate_metrics, mean_metric
from xray_lightning.metrics.ranks import RANKED

LABELS = ("Mass", "Nodule", "Hernia", "Unread")


def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two labels with unknowns, one without a positive, one that nobody knows; 90 patients."""
    rng = np.random.default_rng(0)
    patients = rng.integers(90, size=600)
    scores = rng.random((600, 4)).astype(np.float32)
    targets = (rng.random((600, 4)) < 0.1 + 0.3 * scores).astype(np.float32)
    targets[rng.random((600, 4)) < 0.1] = np.nan
    targets[:, 2] = np.where(np.isnan(targets[:, 2]), np.nan, 0)
    targets[:, 3] = np.nan
    return scores, targets, patients


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    thresholds = {"Mass": 0.5, "Nodule": float("nan")}
    return estimate_metrics(LABELS, *sample(), thresholds=thresholds, draws=300)


def test_values_equal_scikit_learn(metrics: Metrics) -> None:
    scores, targets, patients = sample()
    positive, mass, aurocs = targets[:, 0] == 1, metrics.labels["Mass"], []
    counts = positive.sum(), len(set(patients[positive]))
    assert (mass.positives, mass.positive_patients) == counts
    for index, label in enumerate(LABELS[:2]):
        known = ~np.isnan(targets[:, index])
        truth, given = targets[known, index], scores[known, index].astype(np.float64)
        found = {name: estimate.value for name, estimate in metrics.labels[label].estimates.items()}
        aurocs.append(sk.roc_auc_score(truth, given))
        assert found["auroc"] == pytest.approx(aurocs[-1], abs=1e-12)
        expected = sk.average_precision_score(truth, given)
        assert found["average_precision"] == pytest.approx(expected, abs=1e-12)
        partial = sk.roc_auc_score(truth, given, max_fpr=0.1)
        assert found["partial_auroc"] == pytest.approx(partial, abs=1e-12)
        assert found["brier"] == pytest.approx(sk.brier_score_loss(truth, given), abs=1e-12)
    assert metrics.mean["auroc"].value == pytest.approx(np.mean(aurocs), abs=1e-12)
    assert metrics.defined["auroc"] == 2
    assert metrics.defined["brier"] == 3, "Brier's score needs no positive"
    for name in CURVES:
        mean = mean_metric(name, scores, targets)
        assert mean == pytest.approx(metrics.mean[name].value, abs=1e-12)
        alone = mean_metric(name, scores, targets, columns=slice(1, 2))
        assert alone == pytest.approx(metrics.labels["Nodule"][name].value, abs=1e-12)


def test_operating_point_equals_scikit_learn(metrics: Metrics) -> None:
    scores, targets, _ = sample()
    known = ~np.isnan(targets[:, 0])
    truth, called = targets[known, 0], scores[known, 0] >= 0.5
    expected = {
        "sensitivity": sk.recall_score(truth, called),
        "specificity": sk.recall_score(truth, called, pos_label=0),
        "ppv": sk.precision_score(truth, called),
        "npv": sk.precision_score(truth, called, pos_label=0),
        "f1": sk.f1_score(truth, called),
    }
    assert {name: metrics.labels["Mass"][name].value for name in POINT} == pytest.approx(expected)
    assert all(np.isnan(metrics.labels["Nodule"][name].value) for name in POINT)
    assert metrics.defined["f1"] == 1


def test_intervals_hold_the_value(metrics: Metrics) -> None:
    for name in (*RANKED, "brier"):
        for estimate in (metrics.labels["Mass"][name], metrics.mean[name]):
            (low, high), (near, far) = estimate.interval, estimate.image_interval
            assert max(low, near) < estimate.value < min(high, far)
            assert estimate.width_ratio == (high - low) / (far - near)


def test_what_is_undefined(metrics: Metrics) -> None:
    assert np.isnan(metrics.labels["Hernia"]["auroc"].value)
    assert np.isfinite(metrics.labels["Hernia"]["brier"].value)
    for name in CURVES:
        estimate = metrics.labels["Unread"][name]
        assert np.isnan([estimate.value, *estimate.interval, estimate.width_ratio]).all()
        assert not estimate.exact
    assert metrics.labels["Hernia"].positives == metrics.labels["Unread"].known == 0


def test_no_f1_without_positives_and_no_ap_without_negatives() -> None:
    scores = np.random.default_rng(0).random((40, 2))
    targets = np.column_stack([np.zeros(40), np.ones(40)])
    half = dict.fromkeys(LABELS[:2], 0.5)
    found = estimate_metrics(LABELS[:2], scores, targets, np.arange(40), thresholds=half, draws=9)
    assert np.isnan(found.labels["Mass"]["f1"].value)
    assert np.isnan(found.labels["Nodule"]["average_precision"].value)
    assert found.labels["Nodule"]["f1"].value == sk.f1_score(targets[:, 1], scores[:, 1] >= 0.5)
    assert found.defined["f1"] == 1
    assert found.defined["average_precision"] == found.defined["auroc"] == 0


def test_a_label_of_one_patient_widens_the_mean() -> None:
    """Three labels of many patients say nothing of it: the interval of guessing left out 0.5."""
    rng, patients = np.random.default_rng(0), np.arange(300)
    targets = (rng.random((300, 4)) < 0.3).astype(float)
    targets[:, 3] = patients == 7
    scores = rng.random((300, 4))
    many, all_four = (
        estimate_metrics(LABELS[:k], scores[:, :k], targets[:, :k], patients, draws=200).mean
        for k in (3, 4)
    )
    narrow, wide = (figures["auroc"].high - figures["auroc"].low for figures in (many, all_four))
    near = (scores[patients != 7, 3] < scores[7, 3]).mean() / 5 + 2 / 5
    most = 2 * 1.96 * np.sqrt(near * (1 - near)) / 4
    assert 0.9 * most < wide < 1.2 * most  # on the logit scale
    assert narrow < 0.1


def test_an_interval_of_no_width_is_an_exact_bound() -> None:
    """Eleven positives of five patients, all above all negatives (it was 1.000 to 1.000)."""
    targets = np.zeros((60, 1))
    targets[[0, 1, 2, 10, 11, 20, 21, 30, 31, 40, 41]] = 1
    scores, patients = 0.2 + 0.6 * targets, np.arange(60) // 10
    about = {"thresholds": {"Mass": 0.5}, "draws": 50}
    found = estimate_metrics(("Mass",), scores, targets, patients, **about)
    theirs = binomtest(5, 5).proportion_ci(0.95, method="exact")
    floors = {"partial_auroc": 9 / 19, "precision_recall_gain": -1}  # the least, see the README
    for name in (*RANKED, "sensitivity", "f1"):
        low = floors.get(name, 0) + (1 - floors.get(name, 0)) * theirs.low
        for estimate in (found.labels["Mass"][name], found.mean[name]):
            assert estimate.exact
            assert estimate.interval == pytest.approx((low, 1.0))
            assert np.isnan(estimate.width_ratio)
    brier = found.labels["Mass"]["brier"]
    assert np.isnan(brier.interval).all(), "0.04 in all draws: nothing is known"


def test_a_patient_with_equal_images_counts_once() -> None:
    """Every image five times: the image interval shrinks by about the root of 5, ours stays."""
    scores, targets, patients = sample()
    patients = np.arange(len(scores))
    once = estimate_metrics(LABELS, scores, targets, patients, draws=400)
    copies = (np.repeat(each, 5, axis=0) for each in (scores, targets, patients))
    one, five = once.mean["auroc"], estimate_metrics(LABELS, *copies).mean["auroc"]
    assert five.value == pytest.approx(one.value)
    np.testing.assert_allclose(five.interval, one.interval, atol=0.01)
    assert one.width_ratio == pytest.approx(1, abs=0.15)
    assert five.width_ratio == pytest.approx(5**0.5, abs=0.35)


def test_the_seed_decides() -> None:
    seeds = (estimate_metrics(LABELS, *sample(), draws=50, seed=seed) for seed in (1, 1, 2))
    first, same, other = (metrics.mean["auroc"] for metrics in seeds)
    assert first == same != other


def test_calibrated_figures_stand_beside_the_raw_ones() -> None:
    rng = np.random.default_rng(3)
    targets = (rng.random((300, 2)) < 0.4).astype(float)
    targets[::5, 0] = np.nan
    scores = 0.5 * rng.random((300, 2)) + 0.4 * np.nan_to_num(targets)
    flat = Calibration("platt", slope=0.5, intercept=0.1)
    sample = ("a", "b"), scores, targets, np.arange(300) // 2
    found = estimate_metrics(*sample, calibrations={"a": flat}, draws=50)
    known = ~np.isnan(targets[:, 0])
    expected = sk.brier_score_loss(targets[known, 0], flat(scores[known, 0]))
    value = found.labels["a"]["calibrated_brier"].value
    assert value == pytest.approx(expected, abs=1e-12)
    assert found.labels["a"]["calibrated_error"].value > 0
    assert np.isnan(found.labels["b"]["calibrated_brier"].value)
    assert found.mean["calibrated_brier"].value == pytest.approx(value)
    assert found.defined["calibrated_error"] == 1
    same = estimate_metrics(*sample, draws=50)
    assert "calibrated_brier" not in same.labels["a"].estimates
    assert found.labels["a"]["brier"] == same.labels["a"]["brier"]
