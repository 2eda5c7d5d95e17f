"""Intervals against a plain loop over draws, and every rule at its edges."""

import math

import numpy as np
import pytest

from xray_lightning.errors import ConfigError
from xray_lightning.explain import sanity as study


def test_mean_equals_a_loop(sample: study.Sample, rng: np.random.Generator) -> None:
    values = rng.normal(size=24)
    values[3] = np.nan
    wanted = []
    for counts in sample.bootstrap.counts:
        weights = counts[sample.bootstrap.codes] * ~np.isnan(values)
        wanted.append(np.average(np.nan_to_num(values), weights=weights))
    mean = sample.mean(values)
    assert mean.value == pytest.approx(np.nanmean(values))
    assert (mean.low, mean.high) == pytest.approx(np.quantile(wanted[1:], [0.025, 0.975]))
    assert mean.undefined == pytest.approx(1 / 24)


def test_networks_are_drawn_too(sample: study.Sample, rng: np.random.Generator) -> None:
    """Networks that differ widen the interval; equal ones leave that of the patients."""
    values = rng.normal(size=24)
    alone, equal = sample.mean(values), sample.mean(np.stack([values] * 5))
    assert (equal.low, equal.high) == pytest.approx((alone.low, alone.high))
    offsets = np.array([-2.0, -1, 0, 1, 2])
    spread = sample.mean(values + offsets[:, None])
    assert spread.value == pytest.approx(alone.value)
    drawn = np.random.default_rng(0).multinomial(5, [0.2] * 5, size=4000) / 5 @ offsets
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert spread.high - spread.low == pytest.approx(high - low, rel=0.15)


@pytest.mark.parametrize(
    ("rows", "has_interval"),
    [
        (slice(20), True),  # two images a patient: 10 patients
        (slice(18), False),
        (slice(1, None, 2), True),
        (slice(3, None, 2), False),  # fewer than half of the images
    ],
)
def test_intervals_need_patients_and_images(sample, rng, rows, has_interval) -> None:
    values = np.full(24, np.nan)
    values[rows] = rng.normal(size=24)[rows]
    mean = sample.mean(values)
    assert math.isfinite(mean.low) == has_interval
    assert mean.value == pytest.approx(np.nanmean(values))
    assert study.Mean.from_json(mean.to_json()).to_json() == mean.to_json()


def test_json_has_none_for_undefined_and_for_no_width(sample: study.Sample) -> None:
    unknown = sample.mean(np.full(24, np.nan))
    assert unknown.to_json() == {"value": None, "interval": None, "undefined": 1.0}
    constant = sample.mean(np.ones(24))
    assert (constant.low, constant.high) == (1, 1)
    assert constant.to_json() == {"value": 1.0, "interval": None, "undefined": 0.0}


def test_partners_are_of_other_patients(sample: study.Sample) -> None:
    codes = sample.bootstrap.codes
    assert (codes[sample.partners] != codes).all()


@pytest.mark.parametrize(("patients", "draws"), [([], 100), (["a", "a"], 100), (["a", "b"], 0)])
def test_patients_and_draws_are_needed(patients: list[str], draws: int) -> None:
    with pytest.raises(ConfigError):
        study.Sample.of(patients, draws, 0)


@pytest.mark.parametrize(
    ("low", "high", "side"),
    [(0.1, 0.2, 1), (0.0, 0.2, 0), (-0.2, 0.0, 0), (-0.2, -0.1, -1), (math.nan, math.nan, 0)],
)
def test_side(low: float, high: float, side: int) -> None:
    assert study.Mean(0, low, high).side() == side
    assert study.Mean(1, low + 1, high + 1).side(1.0) == side


@pytest.mark.parametrize(
    ("similarity", "low", "high"),
    [(0.7, "fails", "passes"), (0.6, "undecided", "undecided"), (0.5, "passes", "fails")],
)
def test_similarity_is_rated_by_halfway_to_one(sample, similarity, low, high) -> None:
    values, chance = np.full(24, similarity), np.full(24, 0.2)  # halfway: 0.6
    assert sample.rate_similarity(values, chance, high=False).verdict == low
    assert sample.rate_similarity(values, chance, high=True).verdict == high


@pytest.mark.parametrize(
    ("control", "verdict"),
    [
        (0.4 - study.MARGIN - 0.01, "undecided"),
        (0.4 - study.MARGIN + 0.01, "passes"),
        (0.9, "passes"),
    ],
)
def test_an_excess_over_the_control_does_not_pass(sample, control, verdict) -> None:
    values, chance = np.full((4, 24), 0.4), np.zeros((4, 24))
    rated = sample.rate_similarity(values, chance, high=False, control=np.full((4, 24), control))
    assert rated.verdict == verdict
    assert rated.excess is not None
    assert rated.excess.value == pytest.approx(0.4 - control)


def test_what_is_undefined_for_every_image_was_not_run(sample: study.Sample) -> None:
    nothing = np.full(24, np.nan)
    undefined = sample.rate_similarity(nothing, nothing, high=True)
    assert (undefined.verdict, undefined.reason) == ("not run", study.UNDEFINED)
    assert study.MeasuredTest.of({"spearman": undefined}).reason == study.UNDEFINED
    defined = sample.rate_similarity(np.ones(24), np.zeros(24), high=True)
    both = study.MeasuredTest.of({"spearman": defined, "ssim": undefined})
    assert (both.verdict, both.reason) == ("passes", "")
    assert study.Similarity.from_json(defined.to_json()).to_json() == defined.to_json()


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (study.LEAST + 0.001, 0.5, "passes"),
        (study.LEAST, 0.5, "undecided"),
        (-0.5, -study.LEAST - 0.001, "fails"),
        (-0.5, -study.LEAST, "undecided"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_better_or_worse(low: float, high: float, verdict: str) -> None:
    assert study.rate_advantage(study.Mean(0, low, high)) == verdict


@pytest.mark.parametrize(
    ("verdicts", "wanted"),
    [
        (["passes", "passes"], "passes"),
        (["passes", "not run"], "passes"),
        (["passes", "undecided"], "undecided"),
        (["undecided", "fails"], "fails"),
        (["not run", "not run"], "not run"),
        ([], "not run"),
    ],
)
def test_verdicts_together(verdicts: list[str], wanted: str) -> None:
    assert study.combine_verdicts(verdicts) == wanted
