"""Differences of AUROC against scikit-learn and DeLong, and what their intervals promise."""

import numpy as np
import pytest
from scipy.stats import kurtosis
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.compare import compare_aurocs
from xray_lightning.metrics.delong import compare_auroc, holm

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
    means = [
        np.mean([getattr(found.labels[k], side) for k in LABELS[:2]])
        for side in ("first", "second")
    ]
    assert [found.mean.first, found.mean.second] == pytest.approx(means)
    assert np.isnan([found.labels["Hernia"].difference, found.labels["Hernia"].corrected]).all()
    expected = holm([found.labels[label].p_value for label in LABELS])
    assert [found.labels[k].corrected for k in LABELS[:2]] == pytest.approx(expected[:2])


def test_a_model_against_itself() -> None:
    targets, patients, strong, *_ = sample()
    found = compare_aurocs(LABELS, targets, patients, [strong], [strong], draws=50)
    assert found.identical
    assert (found.mean.difference, found.labels["Mass"].delong) == (0, 1)
    assert np.isnan([found.mean.p_value, found.mean.detectable]).all()
    assert found.mean.interval is None
    assert not found.mean.distinguishable


def test_few_draws_find_what_many_find() -> None:
    """Forty labels, so that 2 / 401 could not have passed Holm's correction."""
    rng = np.random.default_rng(0)
    targets, labels = (rng.random((600, 40)) < 0.3).astype(float), tuple(map(str, range(40)))
    gains = np.where(np.arange(40) < 12, 1.2, 0.0)
    strong, weak = (rng.normal(size=targets.shape) + gain * targets for gain in (gains, 0.0))
    few, many = (
        compare_aurocs(labels, targets, np.arange(600) // 2, [strong], [weak], draws=draws)
        for draws in (400, 2000)
    )
    named = [{k for k, e in each.labels.items() if e.corrected < 0.05} for each in (few, many)]
    assert named[0] == named[1] == set(labels[:12])


def test_several_seeds() -> None:
    targets, patients, strong, weak, twin = sample()
    found = compare_aurocs(LABELS, targets, patients, [strong, weak], [twin], draws=400)
    alone = [
        compare_aurocs(LABELS, targets, patients, [s], [twin], draws=400) for s in (strong, weak)
    ]
    assert found.mean.first == pytest.approx(np.mean([each.mean.first for each in alone]))
    wide = found.mean.interval[1] - found.mean.interval[0]
    assert all(wide > each.mean.interval[1] - each.mean.interval[0] for each in alone)
    assert np.isnan(found.labels["Mass"].delong)
