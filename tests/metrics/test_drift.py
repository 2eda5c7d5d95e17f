"""Two-sample tests by patient, their power and BBSE, against other ways to the same figures.

The slow ones print the table of xray_lightning/metrics/README.md: patients of 1 to 20 films whose
findings, scores and features are alike.
"""

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist
from scipy.special import expit
from scipy.stats import ks_2samp, norm
from sklearn.metrics import confusion_matrix

from xray_lightning.errors import ConfigError
from xray_lightning.metrics import drift
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.operating_points import choose_threshold


def test_distance_and_p_value_of_single_films_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=70), rng.normal(0.4, 1, size=40)
    sides = [(range(n), {"a": side, "tied": side.round()}) for n, side in ((70, one), (40, two))]
    rows = {row.name: row for row in drift.compare_sides([sides], draws=5000)}
    expected, tied = ks_2samp(one, two, method="exact"), ks_2samp(one.round(), two.round())
    assert rows["a"].p_value == pytest.approx(expected.pvalue, abs=0.02)
    assert rows["a"].distance == pytest.approx(expected.statistic, abs=1e-6)
    assert rows["tied"].distance == pytest.approx(tied.statistic, abs=1e-6)
    assert rows["a"].shift.value == pytest.approx((two.mean() - one.mean()) / one.std())


def test_mmd_is_that_of_the_definition_without_pairs_of_a_patient() -> None:
    rng = np.random.default_rng(1)
    codes, others = np.repeat(range(12), 2), rng.permutation(np.repeat(range(10), 3))
    sides = [(codes, rng.normal(size=(24, 5))), (others, rng.normal(0.5, 1, size=(30, 5)))]
    (row,) = drift.compare_sides([[(c, {drift.FEATURES: x}) for c, x in sides]], draws=100)
    both = np.concatenate([side[1] for side in sides])
    one, two = ((side[1] - both.mean(axis=0)) / both.std(axis=0) for side in sides)
    width = np.median(pdist(np.concatenate([one, two])))
    pairs = (one, one), (two, two), (one, two)
    kernel = [np.exp(-cdist(*pair, "sqeuclidean") / 2 / width**2) for pair in pairs]
    within = [k[c[:, None] != c].mean() for k, (c, _) in zip(kernel[:2], sides, strict=True)]
    assert row.distance == pytest.approx(sum(within) - 2 * kernel[2].mean(), abs=1e-6)


def share(scores, targets, new, threshold=0.5, patients=(), seed=0) -> drift.NewPrevalence:
    ids = patients or [range(len(side)) for side in (scores, new)]
    sides = [PatientBootstrap(one, 200, seed + i) for i, one in enumerate(ids)]
    return drift.estimate_new_prevalence((scores, targets), new, threshold, "no point", sides)


def test_new_prevalence_inverts_the_confusion_matrix() -> None:
    rng = np.random.default_rng(5)
    targets, truth = (rng.random(n) < part for n, part in ((900, 0.2), (500, 0.4)))
    scores, new = (expit(rng.normal(2.0 * side - 1)) for side in (targets, truth))
    known = rng.random(900) < 0.9
    row = share(scores, np.where(known, targets, np.nan), new)
    joint = confusion_matrix(
        scores[known] >= 0.5, targets[known], normalize="all"
    )  # C, Lipton 2018
    weights = np.linalg.solve(joint, [(new < 0.5).mean(), (new >= 0.5).mean()])
    assert row.estimate.value == pytest.approx(weights[1] * targets[known].mean())
    assert row.estimate.low < truth.mean() < row.estimate.high
    assert (row.before, row.note) == (targets[known].mean(), "")


def test_what_cannot_be_known_is_said() -> None:
    rng = np.random.default_rng(3)
    targets = (rng.random(300) < 0.3).astype(float)
    chance, good = rng.random(300), expit(4 * targets - 2 + rng.normal(size=300))
    for row, why in (
        (share(chance, targets, chance), "too near chance, the confusion matrix is all but"),
        (share(good, targets, 0.1 * chance), "more than the prevalence changed"),
        (share(good, targets, good, np.nan), "no point"),
    ):
        assert why in row.note
        assert np.isnan([row.estimate.value, *row.estimate.interval]).all()
    with pytest.raises(ConfigError, match="draws=20: 2 tests together need at least 39"):
        drift.require_draws(20, 2)


def cohort(rng, patients, prevalence=0.15):
    """Patients of the films, targets, log odds of scores, features: 4 of each."""
    sizes = np.floor(np.exp(rng.uniform(0, np.log(21), size=patients))).astype(int)
    codes, own = np.repeat(np.arange(patients), sizes), rng.normal(size=(patients, 12))
    draws = 0.7 * np.repeat(own, sizes, axis=0) + 0.714 * rng.normal(size=(len(codes), 12))
    targets = (draws[:, :4] > norm.isf(prevalence)).astype(float)
    return codes, targets, draws[:, 4:8] + 1.8 * targets - 2, draws[:, 8:]


def compare(rng, sizes, seed, known="both", *, shift=0.0, feature=0.0) -> np.ndarray:
    """P values and detectable shifts of 4 scores, then of features, (5, 2), some shifted."""
    (old, _, before, seen), (new, _, after, more) = (cohort(rng, size) for size in sizes)
    after, more = after + shift * before.std(axis=0) * [1, -1, 1, -1], more + feature
    ids = {
        "both": (old, new),
        "old": (old, range(len(new))),
        "": (range(len(old)), range(len(new))),
    }
    columns = [dict(enumerate(side.T)) for side in (before, after)]
    columns = [side | {drift.FEATURES: x} for side, x in zip(columns, (seen, more), strict=True)]
    rows = drift.compare_sides([tuple(zip(ids[known], columns, strict=True))], draws=400, seed=seed)
    rows = sorted(rows, key=lambda row: str(row.name))
    return np.array([(row.p_value, row.detectable) for row in rows])


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(100, 40), (300, 100)])
def test_alarms_and_power(sizes, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    found = np.array([compare(rng, sizes, seed)[:, 1] for seed in range(30)])
    shift, feature = np.median(found[:, :4]), np.median(found[:, 4])
    monkeypatch.setattr(drift, "REACH", 0.0)  # power is known now
    for known in ("both", "old", ""):
        p = np.array([compare(rng, sizes, seed, known)[:, 0] for seed in range(300)])
        shares = (p[:, :4] <= 0.05).mean(), (p[:, 4] <= 0.05).mean(), (5 * p.min(1) <= 0.05).mean()
        print(f"\n{sizes} known {known}: a score, features, any after Holm", np.round(shares, 3))
        assert (max(shares) < 0.09) == (known == "both")
    moved = [compare(rng, sizes, seed, shift=shift, feature=feature)[:, 0] for seed in range(300)]
    power = (5 * np.array(moved) <= 0.05).mean(axis=0)
    print(f"shown {power.round(3)} at {shift:.2f} SD of scores, {feature:.2f} of features")
    assert min(power[:4].mean(), power[4]) > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("old", [60, 200, 2000])
def test_intervals_of_a_new_prevalence_hold_it(old) -> None:
    for new, prevalence in ((100, 0.05), (100, 0.15), (100, 0.3), (1000, 0.15)):
        rng, held, positive = np.random.default_rng(0), [], []
        for seed in range(300 if old + new < 1000 else 100):
            sides = [cohort(rng, *side) for side in ((old, 0.05), (new, prevalence))]
            (codes, targets, scores, _), (others, _, after, _) = sides
            threshold, ids = choose_threshold(scores[:, 0], targets[:, 0]), (codes, others)
            row = share(scores[:, 0], targets[:, 0], after[:, 0], threshold, ids, 2 * seed)
            positive.append(len(set(codes[targets[:, 0] == 1])))
            held += [] if row.note else [row.estimate.low <= prevalence <= row.estimate.high]
        told = (
            f"{np.mean(positive):.0f} positive patients, known in {len(held) / len(positive):.2f}"
        )
        print(f"\n{old}, {new} patients, 0.05 to {prevalence}, {told}, held {np.mean(held):.3f}")
        assert np.mean(held) > 0.85
