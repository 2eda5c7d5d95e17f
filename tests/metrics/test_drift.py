"""Tests that exchange patients, their false alarms and power, and BBSE, against other ways."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist
from scipy.special import expit
from scipy.stats import ks_2samp, kstest
from sklearn.metrics import confusion_matrix

from xray_lightning.deploy.drift import pick_films
from xray_lightning.errors import ConfigError
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.metrics import drift
from xray_lightning.metrics.bootstrap import PatientBootstrap


def test_distances_and_p_value_are_those_of_scipy_and_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=70), rng.normal(0.4, 1, size=40)
    points = rng.normal(size=(70, 5)), rng.normal(0.5, 1, size=(40, 5))
    sides = {"a": (one, two), "tied": (one.round(), two.round()), drift.FEATURES: points}
    rows = {row.name: row for row in drift.compare_sides(sides, draws=5000)}
    expected, tied = ks_2samp(one, two, method="exact"), ks_2samp(one.round(), two.round())
    assert rows["a"].p_value == pytest.approx(expected.pvalue, abs=0.02)
    assert rows["a"].distance == pytest.approx(expected.statistic)
    assert rows["tied"].distance == pytest.approx(tied.statistic)
    both = np.concatenate(points)
    first, second = ((side - both.mean(axis=0)) / both.std(axis=0) for side in points)
    width = np.median(pdist(np.concatenate([first, second])))
    pairs = (first, first), (second, second), (first, second)
    means = [np.exp(-cdist(*pair, "sqeuclidean") / 2 / width**2).mean() for pair in pairs]
    assert rows["features"].distance == pytest.approx(means[0] + means[1] - 2 * means[2])
    with pytest.raises(ConfigError, match="draws=20: 2 tests together need at least 39"):
        drift.compare_sides({"a": (one, two), "b": (one, two)}, draws=20)


def test_new_prevalence_inverts_the_confusion_matrix_or_is_unknown() -> None:
    rng = np.random.default_rng(5)
    targets, truth = (rng.random(n) < part for n, part in ((900, 0.2), (500, 0.4)))
    scores, new = (expit(rng.normal(2.0 * side - 1)) for side in (targets, truth))
    known, sides = rng.random(900) < 0.9, [PatientBootstrap(range(n), 200) for n in (900, 500)]
    told = np.where(known, targets, np.nan)
    estimate = drift.estimate_new_prevalence((scores, told), new, 0.5, sides)
    joint = confusion_matrix(scores[known] >= 0.5, targets[known], normalize="all")  # Lipton's C
    weights = np.linalg.solve(joint, [(new < 0.5).mean(), (new >= 0.5).mean()])
    assert estimate.value == pytest.approx(weights[1] * targets[known].mean())
    assert estimate.low < truth.mean() < estimate.high
    chance = rng.random(900)
    for own, calls, limit in (chance, new, 0.5), (scores, new, np.nan), (scores, 0 * new, 0.5):
        unknown = drift.estimate_new_prevalence((own, told), calls, limit, sides)
        assert np.isnan([unknown.value, *unknown.interval]).all()


def draw_side(rng, patients: int, most: int, seed: int, known: bool):
    """Log odds of four scores, four features; patients of 1 to ``most`` films, which are alike."""
    sizes = np.floor(np.exp(rng.uniform(0, np.log(most + 1), size=patients))).astype(int)
    codes, own = np.repeat(np.arange(patients), sizes), rng.normal(size=(patients, 12))
    draws = 0.7 * np.repeat(own, sizes, axis=0) + 0.714 * rng.normal(size=(len(codes), 12))
    ids, names = tuple(map(str, codes)), tuple(map(str, range(len(codes))))
    side = Predictions((), names, ids if known else names, draws[:, :0], draws[:, :0])
    draws = draws[pick_films(side, seed)]
    return draws[:, :4] + 1.8 * (draws[:, 8:] > 1.04) - 2, draws[:, 4:8]  # 15 % have a finding


def compare(sizes, seed, known=True, *, most=20, shift=0.0, feature=0.0) -> np.ndarray:
    """P values and detectable shifts of four scores and features, (5, 2), the new ones shifted."""
    rng = np.random.default_rng([*sizes, seed])
    sides = (draw_side(rng, n, m, seed, known) for n, m in zip(sizes, (20, most), strict=True))
    (before, seen), (after, more) = sides
    after, more = after + shift * before.std(axis=0) * [1, -1, 1, -1], more + feature
    pairs = {str(i): (expit(before[:, i]), expit(after[:, i])) for i in range(4)}
    tests = drift.compare_sides(pairs | {"features": (seen, more)}, "0123", draws=400, seed=seed)
    return np.array([[t.p_value, t.detectable] for t in sorted(tests, key=lambda t: t.name)])


@pytest.mark.slow
def test_false_alarms_and_power_with_several_films_a_patient(monkeypatch) -> None:
    sizes = (100, 40), (300, 100)
    stated = [np.median([compare(n, i) for i in range(20)], axis=0)[:, 1] for n in sizes]
    monkeypatch.setattr(drift, "REACH", 0.0)  # power is known now
    for known, most in ((True, 20), (True, 1), (False, 20)):
        p = np.array([compare(sizes[0], i, known, most=most)[:, 0] for i in range(400)])
        rates = (p[:, :4] <= 0.05).mean(), (p[:, 4] <= 0.05).mean(), (5 * p.min(1) <= 0.05).mean()
        print(f"\nknown: {known}, new of 1 to {most}: a score, features, any", np.round(rates, 3))
        assert (max(rates) < 0.08) == known
        assert (min(kstest(p[:, i], "uniform").pvalue for i in (0, 4)) > 0.001) == known
    for n, least in zip(sizes, stated, strict=True):
        how = {"shift": np.median(least[:4]), "feature": least[4]}
        power = (5 * np.array([compare(n, i, **how)[:, 0] for i in range(200)]) <= 0.05).mean(0)
        print(n, how, "found", power)
        assert min(power[:4].mean(), power[4]) > 0.7
