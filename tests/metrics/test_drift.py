"""Tests that exchange patients, their false alarms and power, and BBSE, against other ways."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist
from scipy.special import expit
from scipy.stats import ks_2samp, kstest

from xray_lightning import ConfigError, PatientBootstrap
from xray_lightning.metrics import drift


def test_distances_and_p_value_are_those_of_scipy_and_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    pair, points = (rng.normal(size=70), rng.normal(0.4, 1, 40)), rng.normal(size=(2, 40, 5))
    sides = {"a": pair, "tied": [side.round() for side in pair]}
    rows = {row.name: row for row in drift.compare_sides(sides, draws=5000)}
    assert rows["a"].p_value == pytest.approx(ks_2samp(*pair, method="exact").pvalue, abs=0.02)
    for name in ("a", "tied"):
        assert rows[name].distance == pytest.approx(ks_2samp(*sides[name]).statistic)
    (row,) = drift.compare_sides({drift.FEATURES: points}, draws=100)
    one, two = (points - points.mean(axis=(0, 1))) / points.std(axis=(0, 1))
    width = np.median(pdist(np.concatenate([one, two])))
    pairs = (one, one), (two, two), (one, two)
    means = [np.exp(-cdist(*pair, "sqeuclidean") / 2 / width**2).mean() for pair in pairs]
    assert row.distance == pytest.approx(means[0] + means[1] - 2 * means[2])
    with pytest.raises(ConfigError, match="draws=20: 2 tests together need at least 39"):
        drift.compare_sides(sides, draws=20)


def test_new_prevalence_inverts_the_confusion_matrix_or_is_unknown() -> None:
    rng = np.random.default_rng(5)
    targets, truth = (rng.random(n) < part for n, part in ((900, 0.2), (500, 0.4)))
    scores, new = (expit(rng.normal(2.0 * side - 1)) for side in (targets, truth))
    chance, sides = rng.random(900), [PatientBootstrap(range(n), 200) for n in (900, 500)]
    known = np.where(chance < 0.9, targets, np.nan)
    estimate, change = drift.estimate_new_prevalence((scores, known), new, 0.5, sides)
    rates = [(scores[known == kind] >= 0.5).mean() for kind in (0, 1)]  # false alarms, sensitivity
    weights = np.linalg.solve([[1, 1], rates], [1, (new >= 0.5).mean()])
    assert estimate.low < truth.mean() < estimate.high
    assert estimate.value == pytest.approx(weights[1])
    assert change.value == pytest.approx(weights[1] - np.nanmean(known))
    assert 0 < change.low < estimate.low - np.nanmean(known), "validation's share is drawn, too"
    for own, calls, limit in (chance, new, 0.5), (scores, new, np.nan), (scores, 0 * new, 0.5):
        pair = drift.estimate_new_prevalence((own, known), calls, limit, sides)
        assert np.isnan([side.value for side in pair]).all()


def compare(sizes, seed, known=True, *, most=20, shift=0.0, feature=0.0) -> np.ndarray:
    """P values and detectable shifts of four scores and features, (5, 2), new ones shifted."""
    rng, sides = np.random.default_rng([*sizes, seed]), []
    for patients, largest in zip(sizes, (20, most), strict=True):  # of 1 to so many alike films
        films = np.floor(np.exp(rng.uniform(0, np.log(largest + 1), size=patients))).astype(int)
        own = np.repeat(rng.normal(size=(patients, 12)), films, axis=0)
        draws = 0.7 * own + 0.714 * rng.normal(size=own.shape)
        draws = draws[np.cumsum(films) - 1] if known else draws
        sides.append((draws[:, :4] + 1.8 * (draws[:, 8:] > 1.04) - 2, draws[:, 4:8]))
    (before, seen), (after, more) = sides
    after, more = after + shift * before.std(axis=0) * [1, -1, 1, -1], more + feature
    pairs = {str(i): (expit(before[:, i]), expit(after[:, i])) for i in range(4)}
    tests = drift.compare_sides(pairs | {"features": (seen, more)}, "0123", draws=400, seed=seed)
    return np.array([[t.p_value, t.detectable] for t in sorted(tests, key=lambda t: t.name)])


@pytest.mark.slow
def test_false_alarms_and_power_with_several_films_a_patient(monkeypatch) -> None:
    least = np.median([compare((100, 40), i) for i in range(20)], axis=0)[:, 1]
    monkeypatch.setattr(drift, "REACH", 0.0)  # power is known now
    for known, most in ((True, 20), (True, 1), (False, 20)):
        p = np.array([compare((100, 40), i, known, most=most)[:, 0] for i in range(400)])
        rates = (p[:, :4] <= 0.05).mean(), (p[:, 4] <= 0.05).mean(), (5 * p.min(1) <= 0.05).mean()
        print(f"\nknown: {known}, new of 1 to {most}: a score, features, any", np.round(rates, 3))
        assert (max(rates) < 0.08) == known
        assert (min(kstest(p[:, i], "uniform").pvalue for i in (0, 4)) > 0.001) == known
    how = {"shift": np.median(least[:4]), "feature": least[4]}
    power = (5 * np.array([compare((100, 40), i, **how)[:, 0] for i in range(200)]) <= 0.05).mean(0)
    assert min(power[:4].mean(), power[4]) > 0.7, (how, power)
