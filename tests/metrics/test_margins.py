"""Non-inferiority and equivalence against DeLong's bound, t intervals and a larger sample."""

import numpy as np
import pytest
from scipy.stats import norm, t

from xray_lightning.errors import ConfigError
from xray_lightning.metrics.compare import (
    AurocDifferences,
    Difference,
    compare_aurocs,
    compare_with_margin,
)

NAN = float("nan")


def sample(images: int, gains: tuple[float, float], seed: int) -> list[np.ndarray]:
    """Targets (N, 1) and the scores of two models, whose errors partly agree."""
    rng = np.random.default_rng(seed)
    targets, shared = (rng.random((images, 1)) < 0.3).astype(float), rng.normal(size=(images, 1))
    noise = 0.5 * rng.normal(size=(2, images, 1))
    return [targets, *(shared + noise[k] + gains[k] * targets for k in (0, 1))]


def differences(targets: np.ndarray, one: np.ndarray, two: np.ndarray) -> AurocDifferences:
    return compare_aurocs(("a",), targets, np.arange(len(one)), [one], [two], draws=1000)


def test_bounds_of_independent_images_equal_delongs() -> None:
    """DeLong 1988, equations 3 to 8, from every pair; Schuirmann's two one-sided tests."""
    targets, *scores = sample(3000, (1.2, 1.3), seed=0)
    positive = targets[:, 0] == 1
    wins = [(s[positive] > s[~positive][:, 0]).astype(float) for s in scores]
    gap = wins[0] - wins[1]
    error = np.sqrt(sum(m.var(ddof=1) / len(m) for m in (gap.mean(axis=0), gap.mean(axis=1))))
    test = compare_with_margin(differences(targets, *scores), 0.02, 3000).labels["a"]
    bounds = gap.mean() + norm.ppf([0.05, 0.95]) * error
    assert [test.lower, test.upper] == pytest.approx(bounds, abs=0.05 * error)
    expected = [norm.sf((0.02 + side * gap.mean()) / error) for side in (1, -1)]
    assert test.p_values["non-inferior"] == pytest.approx(expected[0], abs=0.02)
    assert test.p_values["equivalent"] == pytest.approx(max(expected), abs=0.02)


def widened(difference: float, margin: float, second: float = 0.8) -> float:
    """By how much more the first would stray, were it worse by the margin."""
    spreads = [(1 - a) * a + (1 - second) * second for a in (second - margin, second + difference)]
    return max(1.0, np.sqrt(spreads[0] / spreads[1]))


def against(margin: float, *rows: tuple[float, float], patients: int | None = 100):
    """Tests of differences by their value and deviation; the mean is the first."""
    found = [
        Difference(0.8 + value, 0.8, value, None, NAN, NAN, NAN, NAN, deviation, freedom=30)
        for value, deviation in rows
    ]
    labels = {str(number): row for number, row in enumerate(found)}
    return compare_with_margin(AurocDifferences(labels, found[0], False), margin, patients)


@pytest.mark.parametrize("deviation", [0.002, 0.006, 0.02])
@pytest.mark.parametrize("difference", np.linspace(-0.045, 0.045, 19))
def test_the_verdict_is_where_the_intervals_lie(difference: float, deviation: float) -> None:
    low, high = t.interval(0.95, 30, difference, deviation)
    upper = difference + t.ppf(0.95, 30) * deviation
    lower = difference - t.ppf(0.95, 30) * deviation * widened(difference, 0.01)
    test = against(0.01, (difference, deviation)).mean
    places = {
        "superior": low > 0,
        "equivalent": lower > -0.01 and upper < 0.01,
        "non-inferior": lower > -0.01,
        "inferior": high < -0.01,
        "undecided": True,
    }
    assert test.verdict == next(word for word, holds in places.items() if holds)
    assert (test.lower, test.upper) == pytest.approx((lower, upper))
    assert (test.patients_if_equal is None) == (test.verdict != "undecided")


def test_labels_are_corrected_and_the_mean_is_not() -> None:
    tests = against(0.01, (0.0, 0.0052), (0.0, 0.0052), (0.0, 0.001))
    single = t.sf(0.01 / (0.0052 * widened(0.0, 0.01)), 30)
    p_values = [test.p_values["non-inferior"] for test in (tests.mean, tests.labels["0"])]
    assert p_values == pytest.approx([single, 2 * single]), "the second of Holm's steps"
    verdicts = [tests.mean.verdict, *(test.verdict for test in tests.labels.values())]
    assert verdicts == ["equivalent", "undecided", "undecided", "equivalent"]
    assert all(tests.labels[name].patients > 100 for name in "01")


def test_as_many_patients_as_are_said_to_be_needed_decide() -> None:
    """The same patients once more, as others: the difference stays, its deviation falls."""
    few = sample(300, (1.2, 1.22), seed=3)
    test = compare_with_margin(differences(*few), 0.02, 300).mean
    times = -(-test.patients // 300)
    assert (test.verdict, 2 <= times <= 20) == ("undecided", True)
    many = differences(*(np.concatenate([each] * times) for each in few)).mean
    reach = t.ppf(0.95, many.freedom) + t.ppf(0.8, many.freedom)
    ratio = (many.difference + 0.02) / (many.deviation * widened(many.difference, 0.02))
    assert ratio >= 0.9 * reach, "shown by four of five samples"


def test_what_cannot_be_told() -> None:
    assert against(0.01, (0.0, NAN)).mean.verdict == "untested"
    seeds, hit = against(0.01, (0.0, 0.1), patients=None).mean, against(0.01, (-0.01, 0.1)).mean
    assert (seeds.verdict, seeds.patients, seeds.patients_if_equal) == ("undecided", None, None)
    assert (hit.patients, hit.patients_if_equal > 100) == (None, True)


@pytest.mark.parametrize("margin", [0, 1, -0.01, NAN, "1 %"])
def test_a_margin_is_a_difference_of_auroc(margin: float) -> None:
    with pytest.raises(ConfigError, match=f"margin must lie in .0, 1.*got {margin!r}"):
        against(margin, (0.0, 0.1))
