"""Figures of a set of predictions and of its subgroups against scikit-learn."""

import numpy as np
import pytest
from scipy.stats import binomtest, false_discovery_control
from scipy.stats import t as student
from sklearn import metrics as sk
from sklearn.metrics import roc_auc_score

from xray_lightning.metrics.calibration import Calibration
from xray_lightning.metrics.estimates import CURVES, POINT, Metrics, estimate_metrics, mean_metric
from xray_lightning.metrics.ranks import RANKED
from xray_lightning.metrics.subgroups import MEAN, Subgroup, group_records, measure_subgroups
from xray_lightning.records import NAN, Record

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
    found = {name: metrics.labels["Mass"][name].value for name in POINT}
    assert found == pytest.approx(expected)
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
        assert np.isnan([estimate.value, *estimate.interval]).all()
        assert np.isnan(estimate.width_ratio)
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
    again = estimate_metrics(LABELS, *copies)
    one, five = once.mean["auroc"], again.mean["auroc"]
    assert five.value == pytest.approx(one.value)
    np.testing.assert_allclose(five.interval, one.interval, atol=0.01)
    assert one.width_ratio == pytest.approx(1, abs=0.15)
    assert five.width_ratio == pytest.approx(5**0.5, abs=0.35)


def test_the_seed_decides() -> None:
    first, same, other = (
        estimate_metrics(LABELS, *sample(), draws=50, seed=seed).mean["auroc"] for seed in (1, 1, 2)
    )
    assert first == same
    assert first.interval != other.interval


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


PAIR = ("Mass", "Nodule")
FOLLOW_UPS = {0.0: "first", 4.0: "1-4", 20.0: "20+"}
AGES = {17.9: "0-17", 18.0: "18-39", 80.0: "80+", NAN: "unknown"}


@pytest.mark.parametrize(
    ("facts", "dimension", "group"),
    [
        ({"sex": "F"}, "sex", "F"),
        ({}, "sex", "unknown"),
        *(({"age": age}, "age", group) for age, group in AGES.items()),
        ({"view": "AP"}, "view", "AP"),
        *(({"follow_up": number}, "follow-up", group) for number, group in FOLLOW_UPS.items()),
        ({"sex": "M", "age": 30.0}, "sex and age", "M 18-39"),
        ({"sex": "M"}, "sex and age", "unknown"),
        ({"sex": "M", "view": "PA"}, "sex and view", "M PA"),
    ],
)
def test_groups(facts: dict[str, object], dimension: str, group: str) -> None:
    records = [Record("0.png", "p0", (0.0,), **facts)]  # type: ignore[arg-type]
    assert group_records(records)[dimension].tolist() == [group]


def test_images_of_the_patient() -> None:
    records = [Record(f"{i}.png", "a" if i < 5 else "b", (0.0,)) for i in range(6)]
    assert group_records(records)["images of the patient"].tolist() == ["5-9"] * 5 + ["1"]


def two_sexes() -> tuple[np.ndarray, np.ndarray, list[Record], np.ndarray]:
    """A model that is worse for women, and who they are; 300 patients of two images."""
    rng = np.random.default_rng(0)
    sexes = np.repeat(rng.choice(["F", "M"], 300), 2)
    targets = (rng.random((600, 2)) < 0.3).astype(np.float32)
    targets[50:, 1] = np.nan  # a label with few known targets
    gain = np.where(sexes == "F", 0.5, 2.5)[:, None]
    scores = (rng.normal(size=(600, 2)) + gain * np.nan_to_num(targets)).astype(np.float32)
    records = [Record(f"{i}.png", f"p{i // 2}", (0.0,), sex=str(s)) for i, s in enumerate(sexes)]
    return scores, targets, records, sexes == "F"


def find(rows: list[Subgroup], group: str, label: str) -> Subgroup:
    return next(row for row in rows if (row.group, row.label) == (group, label))


def test_figures_equal_scikit_learn_and_p_values_the_left_out_patients() -> None:
    """The jackknife by hand, and one family of corrections for the means, one for the labels."""
    scores, targets, records, women = two_sexes()
    rows = measure_subgroups(PAIR, scores, targets, records)
    row = find(rows, "F", "Mass")
    here, rest = (roc_auc_score(targets[side, 0], scores[side, 0]) for side in (women, ~women))
    assert (row.auroc, row.difference) == (pytest.approx(here), pytest.approx(here - rest))
    assert row.interval[0] < here < row.interval[1]
    assert row.difference_interval[1] < 0
    assert row.p_value <= row.corrected < 0.05
    assert (row.images, row.positives) == (women.sum(), (targets[women, 0] == 1).sum())
    assert row.patients == women.sum() / 2
    mean = find(rows, "F", MEAN)
    assert mean.auroc == pytest.approx(here), "the other label has too few"
    assert find(rows, "M", "Mass").difference == pytest.approx(rest - here)

    codes = np.arange(600) // 2
    sides = ([side & (codes != patient) for patient in range(300)] for side in (women, ~women))
    aurocs = [[roc_auc_score(targets[x, 0], scores[x, 0]) for x in rows] for rows in sides]
    behind = [np.bincount(codes[side], weights=targets[side, 0]) for side in (women, ~women)]
    freedom = min(each.sum() ** 2 / (each**2).sum() for each in behind) - 1
    deviation = np.sqrt(299 * np.var(np.subtract(*aurocs)))
    assert row.p_value == pytest.approx(2 * student.sf(abs(row.difference) / deviation, freedom))
    for label in (MEAN, "Mass"):
        family = [each for each in rows if (each.label == MEAN) == (label == MEAN)]
        known = [each for each in family if not np.isnan(each.p_value)]
        theirs = false_discovery_control([each.p_value for each in known])
        assert [each.corrected for each in known] == pytest.approx(list(theirs))
    few = find(rows, "F", "Nodule")
    assert np.isnan([few.auroc, few.difference, few.p_value, few.corrected]).all()
    assert few.note == "fewer than 10 positives or negatives"
    assert few.to_json()["interval"] is None
    assert repr(Subgroup.from_json(few.to_json())) == repr(few)
