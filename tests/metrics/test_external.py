"""AUROC here and there, and calibration lines, against other formulas and by simulation."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from xray_lightning.metrics.calibration import Calibration
from xray_lightning.metrics.external import Sample, compare_samples, fit_line


def hospital(rng, patients, prevalence, lift, name, people=None):
    """Patients of 1 to 20 images; what two labels have in common, (2, P, 2)."""
    sizes = np.floor(np.exp(rng.uniform(0, np.log(21), size=patients))).astype(int)
    codes = np.repeat(np.arange(patients), sizes)
    people = rng.normal(size=(2, patients, 2)) if people is None else people
    sick, error = people[:, codes] + rng.normal(size=(2, len(codes), 2))
    targets = (sick / np.sqrt(2) > norm.isf(prevalence)).astype(np.float32)
    scores = norm.cdf(error / np.sqrt(2) + lift * targets).astype(np.float32)
    return Sample(scores, targets, [f"{name}{code}" for code in codes])


def test_the_difference_is_that_of_the_aurocs() -> None:
    rng = np.random.default_rng(0)
    here, there = hospital(rng, 60, 0.2, 1.2, "a"), hospital(rng, 50, 0.3, 0.8, "b")
    there.targets[:9, 0] = np.nan
    *labels, mean = compare_samples(here, there, draws=100)
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
    same, apart = (compare_samples(here, side, draws=200)[-1] for side in (here, other))
    assert same.value == apart.value == 0
    assert same.high - same.low < 1e-6 < 0.05 < apart.high - apart.low


def test_no_interval_without_patients() -> None:
    one = Sample(np.array([[0.1], [0.9]]), np.array([[0.0], [1.0]]), ["p", "p"])
    found = compare_samples(one, one, draws=50)[0]
    assert found.value == 0
    assert np.isnan(found.low)


@pytest.mark.parametrize("calibration", [None, Calibration("platt", 0.7, -0.3)])
def test_a_line_is_the_maximum_of_the_likelihood(calibration: Calibration | None) -> None:
    rng = np.random.default_rng(1)
    here = hospital(rng, 80, 0.3, 1.0, "a")
    targets, scores = here.targets[:, 0].copy(), here.scores[:, 0]
    targets[::7] = np.nan
    found = fit_line(scores, targets, here.patients, calibration, 0.1)
    known = ~np.isnan(targets)
    odds, sign = logit(scores[known].astype(float)), 2 * targets[known] - 1
    if calibration:
        odds = 0.7 * odds - 0.3

    def loss(line: np.ndarray) -> float:
        return float(np.logaddexp(0, -sign * (line[0] + line[1] * odds)).sum())

    free = minimize(loss, [0.0, 1.0], tol=1e-10).x
    fixed = minimize(lambda shift: loss(np.array([shift[0], 1.0])), [0.0], tol=1e-10).x
    assert found.slope.value == pytest.approx(free[1], abs=1e-4)
    assert found.intercept.value == pytest.approx(fixed[0], abs=1e-4)
    share = targets[known].mean()
    moved = fixed[0] - logit(share) + logit(0.1)
    assert found.corrected.value == pytest.approx(moved, abs=1e-4)


def test_one_image_a_patient_gives_the_sandwich_of_whites_formula() -> None:
    rng = np.random.default_rng(2)
    odds = rng.normal(size=3000)
    positive = rng.random(3000) < expit(0.5 + 0.8 * odds)
    found = fit_line(expit(odds), positive.astype(float), np.arange(3000), None, float("nan"))
    design = np.column_stack([np.ones(3000), odds])
    chance = expit(design @ minimize(
        lambda line: np.logaddexp(0, -(2 * positive - 1) * (design @ line)).sum(), [0.0, 1.0]
    ).x)  # fmt: skip
    bread = np.linalg.inv(design.T @ (design * (chance * (1 - chance))[:, None]))
    meat = design.T @ (design * ((positive - chance) ** 2)[:, None])
    deviation = np.sqrt((bread @ meat @ bread)[1, 1])
    assert (found.slope.high - found.slope.low) / 3.92 == pytest.approx(deviation, rel=0.01)
    assert np.isnan(found.corrected.value)
    assert np.isnan(found.estimated)


def test_no_slope_where_there_is_none() -> None:
    targets = np.array([0.0, 1.0] * 10)
    equal = fit_line(np.full(20, 0.4), targets, np.arange(20), None, 0.5)
    apart = fit_line(0.2 + 0.5 * targets, targets, np.arange(20), None, 0.5)
    assert "equal" in equal.note
    assert "separates" in apart.note
    assert np.isnan([equal.slope.value, apart.slope.value]).all()
    assert equal.intercept.value == pytest.approx(logit(0.5) - logit(0.4))


@pytest.mark.slow
@pytest.mark.parametrize(("patients", "shared"), [(60, 0), (150, 0), (150, 120)])
def test_coverage(patients: int, shared: int) -> None:
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
        label, _, mean = compare_samples(here, there, draws=200, seed=seed)
        own = fit_line(there.scores[:, 0], there.targets[:, 0], there.patients, line, 0.2)
        ends = [label, mean, own.slope, own.intercept, own.corrected]
        goals = [right, right, *wanted]
        held.append([e.low <= g <= e.high for e, g in zip(ends, goals, strict=True)])
    shares = np.mean(held, axis=0).round(3).tolist()
    print(
        f"{patients} patients, {shared} shared: difference, of means, slope, intercept, corrected"
    )
    print(shares)
    assert all(0.92 <= share <= 0.985 for share in shares)
