"""Differences of AUROC: two models, two hospitals, DeLong's test."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import false_discovery_control, kurtosis, norm
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from xray_lightning.metrics import compare
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.calibration import Calibration, fit_line
from xray_lightning.metrics.compare import (
    Sample,
    compare_auroc,
    compare_aurocs,
    compare_samples,
    delong,
    holm,
)
from xray_lightning.metrics.intervals import pool_variances

LABELS = ("Mass", "Nodule", "Hernia")


def sample(images: int = 400, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Targets (the third label has no positive), patients, and three models' scores."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((images, 3)) < 0.3).astype(np.float32)
    targets[:, 2] = 0
    patients = np.arange(images) // 2
    strong, weak, twin = (rng.normal(size=(images, 3)) + gain * targets for gain in (2.0, 0.5, 2.0))
    return targets, patients, strong, weak, twin


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_draws_are_paired_and_equal_scikit_learn(seed: int) -> None:
    targets, patients, strong, weak, _ = sample()
    found = compare_aurocs(LABELS, targets, patients, [strong], [weak], draws=60, seed=seed)
    counts = PatientBootstrap(patients, 60, seed).counts[1:]
    differences = []
    for row in counts:
        rows = np.repeat(np.arange(400), row[patients].astype(int))
        one, two = (roc_auc_score(targets[rows, 0], each[rows, 0]) for each in (strong, weak))
        differences.append(one - two)
    mass = found.labels["Mass"]
    assert mass.first == pytest.approx(roc_auc_score(targets[:, 0], strong[:, 0]))
    patients_with = np.bincount(patients, weights=targets[:, 0])
    effective = patients_with.sum() ** 2 / (patients_with**2).sum()
    kept = [patients != patient for patient in range(200)]
    left_out = [[roc_auc_score(targets[k, 0], each[k, 0]) for k in kept] for each in (strong, weak)]
    effective = min(effective, 600 / kurtosis(np.subtract(*left_out), fisher=False))
    drawn = np.std(differences, ddof=1) * np.sqrt(effective / (effective - 1)), 60
    deviation, most = max(drawn, (np.sqrt(199 * np.var(np.subtract(*left_out))), np.inf))
    reach = student.ppf([0.975, 0.8], min(effective, most) - 1) * deviation
    assert mass.interval == pytest.approx((mass.difference - reach[0], mass.difference + reach[0]))
    assert mass.detectable == pytest.approx(reach.sum())
    assert mass.delong == compare_auroc(strong[:, 0], weak[:, 0], targets[:, 0] == 1)
    assert mass.p_value < 1e-6, "2 / 61 was the least that 60 draws could give"
    assert mass.distinguishable


def test_mean_and_undefined_labels() -> None:
    targets, patients, strong, weak, _ = sample()
    found = compare_aurocs(LABELS, targets, patients, [strong], [weak], draws=50)
    for side in ("first", "second"):
        mean = np.mean([getattr(found.labels[k], side) for k in LABELS[:2]])
        assert getattr(found.mean, side) == pytest.approx(mean)
    assert np.isnan([found.labels["Hernia"].difference, found.labels["Hernia"].corrected]).all()
    expected = holm([found.labels[label].p_value for label in LABELS])
    assert [found.labels[k].corrected for k in LABELS[:2]] == pytest.approx(expected[:2])


def test_a_model_against_itself() -> None:
    targets, patients, strong, *_ = sample()
    found = compare_aurocs(LABELS, targets, patients, [strong], [strong], draws=50)
    assert (found.identical, found.mean.distinguishable, found.mean.interval) == (True, False, None)
    assert (found.mean.difference, found.labels["Mass"].delong) == (0, 1)
    assert np.isnan([found.mean.p_value, found.mean.detectable]).all()


def test_several_seeds() -> None:
    targets, patients, strong, weak, twin = sample()
    found, *alone = (
        compare_aurocs(LABELS, targets, patients, seeds, [twin], draws=400)
        for seeds in ([strong, weak], [strong], [weak])
    )
    assert found.mean.first == pytest.approx(np.mean([each.mean.first for each in alone]))
    one, two = (each.mean.first for each in alone)
    scatter = (one - two) ** 2 / 2 / 2  # of the mean of two, itself with one degree of freedom
    assert found.mean.deviation > max(np.sqrt(scatter), *(each.mean.deviation for each in alone))
    assert 1 < found.mean.freedom < (found.mean.deviation**2 / scatter) ** 2
    assert np.isnan(found.labels["Mass"].delong)


def test_a_lucky_sample_near_one_is_not_sure_of_itself() -> None:
    values, own, sizes = np.array([0.98, 0.999]), np.array([1e-5, 1e-9]), np.array([300.0, 10.0])
    large, small = pool_variances(values, own, sizes)
    near = np.average(values, weights=sizes)
    assert small == pytest.approx(1e-9 * (near * (1 - near) / 0.000999) ** 1.5)
    assert large == 1e-5
    assert pool_variances(np.array([near, 1]), own, sizes)[1] > near * (1 - near) / 11
    rng, positive = np.random.default_rng(9), np.arange(300) < 10
    scores = norm.cdf(rng.normal(size=(2, 300)) + 4 * positive)[:, :, None]
    sides = (
        Sample(s, positive[:, None] * 1.0, [f"{k}{i}" for i in range(300)])
        for k, s in enumerate(scores)
    )
    apart = compare_samples(*sides, draws=200)[0]
    assert apart.low < 0 < apart.high


def pair(images: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    positive = rng.random(images) < 0.3
    first = np.round(rng.normal(size=images) + positive, 1)  # with ties
    second = np.round(0.5 * first + rng.normal(size=images) + 0.5 * positive, 1)
    return np.stack([first, second]), positive


def naive(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equations 3 to 8 of the paper, all pairs."""
    gaps = [row[positive][:, None] - row[~positive] for row in scores]
    kernels = [(gap > 0) + 0.5 * (gap == 0) for gap in gaps]
    ten, one = (np.array([k.mean(axis=axis) for k in kernels]) for axis in (1, 0))
    return ten.mean(axis=1), np.cov(ten) / ten.shape[1] + np.cov(one) / one.shape[1]


def test_equals_the_definition() -> None:
    scores, positive = pair()
    aurocs, covariance = naive(scores, positive)
    np.testing.assert_allclose(delong(scores, positive), [aurocs, *covariance], atol=1e-12)
    assert aurocs[0] == pytest.approx(roc_auc_score(positive, scores[0]))
    score = abs(aurocs @ [1, -1]) / np.sqrt([1, -1] @ covariance @ [1, -1])
    assert compare_auroc(*scores, positive) == pytest.approx(2 * norm.sf(score), abs=1e-12)


def test_limits_of_the_test() -> None:
    """Equal models; too few of a class; a difference without deviation."""
    scores, positive = pair()
    assert compare_auroc(scores[0], scores[0], positive) == 1
    assert np.isnan(delong(np.stack([np.arange(5.0)] * 2), np.arange(5) == 0)).all()
    assert np.isnan(compare_auroc(np.arange(5.0), -np.arange(5.0), np.arange(5) == 0))
    positive = np.array([True, True, False, False])
    two = np.array([[1, 1, 0, 0.0], [0, 0, 1, 1.0]])
    np.testing.assert_array_equal(delong(two, positive), [[1, 0], [0, 0], [0, 0]])
    assert np.isnan(compare_auroc(*two, positive))


def test_corrections() -> None:
    values = np.random.default_rng(0).random(20) ** 3
    np.testing.assert_allclose(compare.benjamini_hochberg(values), false_discovery_control(values))
    expected = [  # Holm's largest of the bounds up to this one
        max(min(1, (values >= lower).sum() * lower) for lower in values[values <= value])
        for value in values
    ]
    np.testing.assert_allclose(holm(values), expected)
    for correct in (holm, compare.benjamini_hochberg):  # undefined values do not count
        among = correct(np.array([0.01, np.nan, 0.02]))
        np.testing.assert_allclose(among[[0, 2]], correct(np.array([0.01, 0.02])))
        assert np.isnan(among[1])


def hospital(rng, patients, prevalence, lift, name, people=None):
    """Patients of 1 to 20 images; what two labels have in common, (2, P, 2)."""
    sizes = np.floor(np.exp(rng.uniform(0, np.log(21), size=patients))).astype(int)
    codes = np.repeat(np.arange(patients), sizes)
    people = rng.normal(size=(2, patients, 2)) if people is None else people
    sick, error = people[:, codes] + rng.normal(size=(2, len(codes), 2))
    targets = (sick / np.sqrt(2) > norm.isf(prevalence)).astype(np.float32)
    scores = norm.cdf(error / np.sqrt(2) + lift * targets).astype(np.float32)
    return Sample(scores, targets, [f"{name}{code}" for code in codes])


def test_the_difference_is_that_of_the_aurocs(rng) -> None:
    here, there = hospital(rng, 60, 0.2, 1.2, "a"), hospital(rng, 50, 0.3, 0.8, "b")
    there.targets[:9, 0] = np.nan
    *labels, mean = compare.compare_samples(here, there, draws=100)
    known = ~np.isnan(there.targets)
    for place, found in enumerate(labels):
        rows = known[:, place]
        inside = roc_auc_score(here.targets[:, place], here.scores[:, place])
        outside = roc_auc_score(there.targets[rows, place], there.scores[rows, place])
        assert found.value == pytest.approx(outside - inside)
        assert found.low < found.value < found.high
    assert mean.value == pytest.approx(np.mean([one.value for one in labels]))
    assert mean.high - mean.low < labels[0].high - labels[0].low


def test_shared_patients_are_drawn_together() -> None:
    """The same images twice: no difference, and hardly an interval, where they are known to be."""
    here = hospital(np.random.default_rng(0), 60, 0.3, 1.0, "a")
    other = Sample(here.scores, here.targets, [f"b{name}" for name in here.patients])
    same, apart = (compare.compare_samples(here, side, draws=200)[-1] for side in (here, other))
    assert same.value == apart.value == 0
    assert same.high - same.low < 1e-6 < 0.05 < apart.high - apart.low


def test_no_interval_without_patients() -> None:
    one = Sample(np.array([[0.1], [0.9]]), np.array([[0.0], [1.0]]), ["p", "p"])
    found = compare.compare_samples(one, one, draws=50)[0]
    assert (found.value, np.isnan(found.low)) == (0, True)


@pytest.mark.slow
@pytest.mark.parametrize(("patients", "shared"), [(60, 0), (150, 0), (150, 120)])
def test_coverage_between_hospitals(patients: int, shared: int) -> None:
    """Differences between clustered hospitals, who may share patients."""
    rng = np.random.default_rng(3)
    large = [hospital(rng, 20_000, share, lift, "") for share, lift in ((0.1, 1.2), (0.3, 0.9))]
    truth = [roc_auc_score(side.targets[:, 0], side.scores[:, 0]) for side in large]
    right, samples, line = truth[1] - truth[0], 400, Calibration("platt", 1.0, 0.0)
    lines = [fit_line(s.scores[:, 0], s.targets[:, 0], s.patients, line, 0.2) for s in large[1:]]
    wanted = [getattr(lines[0], name).value for name in ("slope", "intercept", "corrected")]
    held: list[list[bool]] = []
    for seed in range(samples):
        people = rng.normal(size=(2, 2 * patients, 2))
        here = hospital(rng, patients, 0.1, 1.2, "a", people[:, :patients])
        there = hospital(rng, patients, 0.3, 0.9, "b", people[:, patients - shared :])
        met = {f"b{k}": f"a{patients - shared + k}" for k in range(shared)}
        there = replace(there, patients=[met.get(name, name) for name in there.patients])
        label, _, mean = compare.compare_samples(here, there, draws=200, seed=seed)
        own = fit_line(there.scores[:, 0], there.targets[:, 0], there.patients, line, 0.2)
        ends = [label, mean, own.slope, own.intercept, own.corrected]
        goals = [right, right, *wanted]
        held.append([e.low <= g <= e.high for e, g in zip(ends, goals, strict=True)])
    shares = np.mean(held, axis=0).round(3).tolist()
    names = "difference, of means, slope, intercept, corrected"
    print(f"{patients} patients, {shared} shared: {names}", shares, sep="\n")
    assert all(0.92 <= share <= 0.985 for share in shares)
