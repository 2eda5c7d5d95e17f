import numpy as np
import pandas as pd
import pytest
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize
from scipy.special import expit
from scipy.special import logit as scipy_logit
from scipy.stats import t
from sklearn.isotonic import IsotonicRegression

from xray_lightning import ConfigError, PatientBootstrap
from xray_lightning.metrics import calibration
from xray_lightning.metrics.calibration import fit_line, mass_bins, measure_reliability, shift_prior


def sample(images: int = 2000, slope: float = 2.0, shift: float = 1.0) -> tuple[np.ndarray, ...]:
    """Scores too sure of themselves, and whether the finding is there."""
    rng = np.random.default_rng(0)
    odds = rng.normal(size=images) - 1
    return expit(slope * odds + shift), rng.random(images) < expit(odds)


def test_equal_mass_bins() -> None:
    scores = np.random.default_rng(0).random(300)
    bins = mass_bins(scores, 15)
    assert (np.bincount(bins) == 20).all()
    assert (np.diff(bins[np.argsort(scores)]) >= 0).all()
    tied = np.array([0.5] * 10 + [0.1, 0.9])
    assert (len(np.unique(mass_bins(tied, 4)[:10])), len(mass_bins(np.array([])))) == (1, 0)


def test_calibration_error_of_draws_by_hand() -> None:
    scores, positive = sample(200)
    codes = np.random.default_rng(1).integers(30, size=200)
    bootstrap = PatientBootstrap(codes, 5, 0)
    found = calibration.calibration_errors(bootstrap, scores, positive, bins=10)
    bins = mass_bins(scores, 10)
    for draw, row in enumerate(bootstrap.counts):
        rows = np.repeat(np.arange(200), row[codes].astype(int))
        table = pd.DataFrame({"score": scores[rows], "share": positive[rows].astype(float)})
        groups = table.groupby(bins[rows])
        gaps = abs(groups["score"].mean() - groups["share"].mean())
        assert found[draw] == pytest.approx(np.average(gaps, weights=groups.size()), abs=1e-12)


def test_platt_and_temperature_minimise_the_log_loss() -> None:
    """Platt's loss is against his smoothed targets, Guo's against the labels."""
    scores, positive = sample()
    odds, labels = scipy_logit(scores), positive.astype(float)
    ways = ("platt", [1.0, 0.0], smooth(positive)), ("temperature", [1.0], labels)
    for method, start, target in ways:
        best = minimize(log_loss, start, (odds, target), tol=1e-12).x
        found = calibration.fit_calibration(scores, positive, method)
        expected = expit(np.append(best, 0)[0] * odds + np.append(best, 0)[1])
        np.testing.assert_allclose(found(scores), expected, atol=1e-4)


def smooth(positive: np.ndarray) -> np.ndarray:
    yes, no = positive.sum(), (~positive).sum()
    return np.where(positive, (yes + 1) / (yes + 2), 1 / (no + 2))


def log_loss(values: np.ndarray, odds: np.ndarray, target: np.ndarray) -> float:
    slope, intercept = np.append(values, 0)[:2]
    line = slope * odds + intercept
    return float((np.logaddexp(0, line) - target * line).mean())


def straighten(odds: np.ndarray, target: np.ndarray) -> list[float]:
    """Slope of the line of the smallest log loss, and intercept of that of slope 1."""
    slope = minimize(log_loss, [1.0, 0.0], (odds, target), tol=1e-12).x[0]
    return [slope, minimize(lambda x: log_loss([1.0, x[0]], odds, target), [0.0], tol=1e-12).x[0]]


def test_platt_on_a_perfect_separation_stays_finite(rng) -> None:
    """Without the smoothing the slope grew to 1,064 and a negative got 1.0000."""
    positive = np.arange(400) < 12
    scores = np.where(positive, 0.31 + 0.1 * rng.random(400), 0.3 * rng.random(400))
    found = calibration.fit_calibration(scores, positive)
    best = minimize(log_loss, [1.0, 0.0], (scipy_logit(scores), smooth(positive)), tol=1e-12).x
    np.testing.assert_allclose([found.slope, found.intercept], best, rtol=1e-3)
    assert found.slope < 30
    assert found(scores[~positive]).max() < 0.7


def test_isotonic_equals_scikit_learn() -> None:
    scores, positive = sample(200)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, positive)
    grid = np.linspace(0, 1, 101)
    found = calibration.fit_calibration(scores, positive, "isotonic")
    np.testing.assert_allclose(found(grid), theirs.predict(grid), atol=1e-12)
    assert found.with_intervals(scores, positive, np.arange(200)) == found


def test_bad_settings() -> None:
    scores, positive = sample(20)
    with pytest.raises(ConfigError, match=r"calibration must be one .*, got 'beta'"):
        calibration.fit_calibration(scores, positive, "beta")
    for one_class in (np.ones(20, dtype=bool), np.zeros(20, dtype=bool)):
        with pytest.raises(ConfigError, match="needs positive and negative images"):
            calibration.fit_calibration(scores, one_class)


def test_prior_shift_is_bayes(rng) -> None:
    """Two Gaussians, for which the posterior is known at every prevalence."""

    def posterior(x: np.ndarray, prior: float) -> np.ndarray:
        return expit(x - 0.5 + scipy_logit(prior))  # N(1, 1) against N(0, 1)

    x = np.linspace(-4, 4, 41)
    np.testing.assert_allclose(shift_prior(posterior(x, 0.5), 0.5, 0.03), posterior(x, 0.03))
    sick = rng.random(40_000) < 0.2
    scores = posterior(rng.normal(size=40_000) + sick, 0.5)
    assert calibration.estimate_prior(scores, 0.5) == pytest.approx(0.2, abs=0.015)


@pytest.mark.parametrize("method", calibration.METHODS)
def test_a_map_rises_and_moves_to_another_prior(method: str) -> None:
    scores, positive = sample()
    found = calibration.fit_calibration(scores, positive, method)
    rising = found(np.linspace(0, 1, 50))
    assert (np.diff(rising) >= 0).all()
    assert ((rising >= 0) & (rising <= 1)).all()
    moved = found.at_prior(0.3, 0.1)(scores)
    np.testing.assert_allclose(moved, shift_prior(found(scores), 0.3, 0.1), atol=1e-9)
    np.testing.assert_allclose(found.at_prior(0.3, 0.3)(scores), found(scores), atol=1e-6)


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_intervals_are_those_of_patients_left_out(method) -> None:
    """The jackknife over patients, who have three images each with one finding."""
    scores, positive = (np.repeat(part[:120], 3) for part in sample())
    patients = np.repeat(np.arange(120), 3)
    whole = calibration.fit_calibration(scores, positive, method)
    others = [patients != one for one in range(120)]
    fits = [calibration.fit_calibration(scores[rows], positive[rows], method) for rows in others]
    found = whole.with_intervals(scores, positive, patients)
    quantile = t.ppf(0.975, positive.sum() / 3 - 1)
    for name in ("slope", "intercept")[: 1 if method == "temperature" else 2]:
        spread = np.sqrt(119 * np.var([getattr(fit, name) for fit in fits]))
        low, high = getattr(found, f"{name}_interval")
        assert high - low == pytest.approx(2 * quantile * spread, rel=0.1)
        assert low + high == pytest.approx(2 * getattr(whole, name))
    assert found.intercept_interval is None or method == "platt"
    assert calibration.Calibration.from_json(found.to_json()) == found


def test_the_interval_of_an_estimated_prior_covers() -> None:
    """300 images of 100 patients, a tenth with the finding; 1,000 samples gave a share of 0.97."""
    rng, covered = np.random.default_rng(0), 0
    patients = np.repeat(np.arange(100), 3)
    for _ in range(200):
        sick = np.repeat(rng.random(100) < 0.1, 3)
        evidence = np.repeat(rng.normal(size=100), 3) + 1.5 * sick
        scores = expit(1.5 * evidence - 1.125 + scipy_logit(0.2))
        prior = calibration.estimate_prior(scores, 0.2)
        low, high = calibration.prior_interval(scores, 0.2, prior, patients)
        covered += low <= 0.1 <= high
    assert 0.92 < covered / 200 < 1
    assert np.isnan(calibration.prior_interval(np.full(4, 0.3), 0.2, 0.3, np.arange(4))).all()


def test_slope_intercept_and_ratio_with_patients_left_out() -> None:
    """The log loss minimised anew without each patient, who has three images."""
    scores, positive = (np.repeat(part[:150], 3) for part in sample())
    patients, targets = np.repeat(np.arange(150), 3), positive.astype(float)

    def fit(rows: np.ndarray) -> list[float]:
        line = straighten(scipy_logit(scores[rows]), targets[rows])
        return [*line, np.log(targets[rows].sum() / scores[rows].sum())]

    found = measure_reliability(scores, targets, patients)
    whole, parts = fit(patients >= 0), [fit(patients != one) for one in range(150)]
    spreads = np.sqrt(149 * np.var(parts, axis=0)) * t.ppf(0.975, positive.sum() / 3 - 1)
    rows = [[row.value, *row.interval] for row in (found.slope, found.intercept, found.ratio)]
    rows[2] = np.log(rows[2])
    middles, lows, highs = np.transpose(rows)
    np.testing.assert_allclose(middles, whole, atol=1e-4)
    np.testing.assert_allclose(highs - lows, 2 * spreads, rtol=0.1)
    assert type(found).from_json(found.to_json()) == found


def test_the_curve_is_a_natural_spline_of_the_log_odds() -> None:
    """SciPy's natural cubic splines through the knots span the same curves."""
    scores, positive = sample()
    found = measure_reliability(scores, positive.astype(float), np.arange(2000))
    odds = scipy_logit(scores)
    knots = np.quantile(odds, (0.05, 0.35, 0.65, 0.95))
    splines = [CubicSpline(knots, row, bc_type="natural") for row in np.eye(4)]

    def design(at: np.ndarray) -> np.ndarray:
        inside = np.clip(at, knots[0], knots[-1])  # beyond the outer knots it is straight
        return np.stack([s(inside) + s(inside, 1) * (at - inside) for s in splines], axis=1)

    def loss(weights: np.ndarray) -> float:
        return log_loss([1.0, 0.0], design(odds) @ weights, positive)

    best = minimize(loss, np.zeros(4), tol=1e-12).x
    curve = expit(design(scipy_logit(np.array(found.scores))) @ best)
    np.testing.assert_allclose(found.curve.value, curve, atol=2e-4)
    assert found.ici.value == pytest.approx(abs(expit(design(odds) @ best) - scores).mean(), 1e-3)
    assert found.ici.low < abs(expit((odds - 1) / 2) - scores).mean() < found.ici.high
    assert sum(found.histogram) == 2000


def test_error_floor_is_that_of_right_probabilities() -> None:
    scores, rng = sample(600)[0], np.random.default_rng(0)
    bootstrap = PatientBootstrap(np.arange(600), 1)
    truths = [rng.random(600) < scores for _ in range(300)]
    errors = [calibration.calibration_errors(bootstrap, scores, one)[0] for one in truths]
    found = measure_reliability(scores, truths[0].astype(float), np.arange(600))
    assert found.error_floor == pytest.approx(np.mean(errors), rel=0.03)


@pytest.mark.parametrize("before", [None, calibration.Calibration("platt", 0.7, -0.3)])
def test_a_line_is_the_maximum_of_the_likelihood(before) -> None:
    scores, positive = sample(500)
    known = np.arange(500) % 7 > 0
    targets = np.where(known, positive, np.nan)
    found = fit_line(scores, targets, np.arange(500) // 3, before, 0.1)
    odds, truth = scipy_logit(scores[known]), targets[known]
    slope, shift = straighten(0.7 * odds - 0.3 if before else odds, truth)
    assert found.slope.value == pytest.approx(slope, abs=1e-4)
    assert found.intercept.value == pytest.approx(shift, abs=1e-4)
    moved = shift - scipy_logit(truth.mean()) + scipy_logit(0.1)
    assert found.corrected.value == pytest.approx(moved, abs=1e-4)


def test_one_image_a_patient_gives_the_sandwich_of_whites_formula() -> None:
    rng = np.random.default_rng(2)
    odds = rng.normal(size=3000)
    positive = rng.random(3000) < expit(0.5 + 0.8 * odds)
    found = fit_line(expit(odds), positive.astype(float), np.arange(3000), None, float("nan"))
    slope, intercept = minimize(log_loss, [1.0, 0.0], (odds, positive), tol=1e-12).x
    chance, design = expit(slope * odds + intercept), np.column_stack([np.ones(3000), odds])
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
    assert np.isnan([equal.slope.value, apart.slope.value, equal.corrected.value]).all()
    assert equal.intercept.value == pytest.approx(scipy_logit(0.5) - scipy_logit(0.4))


@pytest.mark.parametrize(
    ("targets", "note"),
    [
        ([0.0, 0, 0, np.nan], "no positive and negative"),
        ([1.0, 1, 0, 0], "a threshold separates"),
        ([1.0, 0, 1, 0], "all scores are equal"),
    ],
)
def test_why_nothing_is_told_of_calibration(targets, note) -> None:
    scores = np.full(4, 0.5) if "equal" in note else np.array([0.9, 0.8, 0.2, 0.1])
    found = measure_reliability(scores, np.array(targets), np.arange(4))
    assert found.note.startswith(note)
    assert np.isnan([found.slope.value, found.ici.value, found.error_floor]).all()
    short = measure_reliability(*sample(60), np.arange(60))
    steps = np.diff(scipy_logit(short.curve.value)) / np.diff(scipy_logit(short.scores))
    np.testing.assert_allclose(steps, short.slope.value, rtol=1e-6)
    assert "fewer than 50" in short.note


def test_nearly_equal_scores_and_ties_at_the_border() -> None:
    """A slope is told per log odds however close they lie; none where the likelihood has no end."""
    rng = np.random.default_rng(3)
    odds = rng.normal(size=200)
    targets, patients = (rng.random(200) < expit(odds)).astype(float), np.arange(200)
    wide, close = (
        measure_reliability(expit(scale * odds - 3), targets, patients) for scale in (1, 1e-6)
    )
    assert 1e-6 * close.slope.value == pytest.approx(wide.slope.value, rel=1e-4)
    assert 1e-6 * close.slope.low == pytest.approx(wide.slope.low, rel=1e-4)
    tied = measure_reliability(np.array([0.1, 0.2, 0.2, 0.3]), np.array([0, 0, 1, 1]), range(4))
    assert np.isnan(tied.slope.value)
    assert tied.note == "a threshold separates all scores but equal ones"
