"""Intervals against a plain loop over draws, and every rule at its edges."""

import math

import numpy as np
import pytest

from xray_lightning.errors import ConfigError
from xray_lightning.explain.sanity.verdicts import (
    LEAST,
    MARGIN,
    UNDEFINED,
    Estimate,
    Sample,
    better_or_worse,
    of_measures,
    similarity_facts,
    together,
)


def estimate(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, (low, high), 0.0)


def test_estimate_equals_a_loop(sample: Sample, rng: np.random.Generator) -> None:
    values = rng.normal(size=24)
    values[3] = np.nan
    wanted = []
    for counts in sample.counts:
        weights = counts[sample.codes] * ~np.isnan(values)
        wanted.append(np.average(np.nan_to_num(values), weights=weights))
    found = sample.estimate(values)
    assert found.value == pytest.approx(np.nanmean(values))
    assert found.interval == pytest.approx(np.quantile(wanted[1:], [0.025, 0.975]))
    assert found.undefined == pytest.approx(1 / 24)


def test_networks_are_drawn_too(sample: Sample, rng: np.random.Generator) -> None:
    """Networks that differ widen the interval; equal ones leave that of the patients."""
    values = rng.normal(size=24)
    alone = sample.estimate(values)
    assert sample.estimate(np.stack([values] * 5)).interval == pytest.approx(alone.interval)
    offsets = np.array([-2.0, -1, 0, 1, 2])
    spread = sample.estimate(values + offsets[:, None])
    assert spread.value == pytest.approx(alone.value)
    drawn = np.random.default_rng(0).multinomial(5, [0.2] * 5, size=4000) / 5 @ offsets
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert spread.interval[1] - spread.interval[0] == pytest.approx(high - low, rel=0.15)


@pytest.mark.parametrize(("known", "has_interval"), [(20, True), (18, False)])
def test_too_few_patients_give_no_interval(
    sample: Sample, rng: np.random.Generator, known: int, has_interval: bool
) -> None:
    values = rng.normal(size=24)
    values[known:] = np.nan  # two images a patient
    found = sample.estimate(values)
    assert math.isfinite(found.interval[0]) == has_interval
    assert found.value == pytest.approx(np.nanmean(values))


def test_values_for_fewer_than_half_of_the_images_give_no_interval(sample: Sample) -> None:
    values = np.ones(24)
    values[::2] = np.nan
    assert sample.estimate(values).interval == (1.0, 1.0)
    values[1] = np.nan
    assert math.isnan(sample.estimate(values).interval[0])


def test_facts_have_none_for_undefined(sample: Sample) -> None:
    found = sample.estimate(np.full(24, np.nan)).facts()
    assert found == {"value": None, "interval": [None, None], "undefined": 1.0}


def test_partners_are_of_other_patients(sample: Sample) -> None:
    assert (sample.codes[sample.partners] != sample.codes).all()


@pytest.mark.parametrize("patients", [[], ["a", "a"]])
def test_one_patient_cannot_be_compared(patients: list[str]) -> None:
    with pytest.raises(ConfigError, match="maps are compared between patients: give two, got"):
        Sample.of(patients, 100, 0)


def test_draws_are_needed() -> None:
    with pytest.raises(ConfigError, match="a bootstrap needs patients and draws, got 2 and 0"):
        Sample.of(["a", "b"], 0, 0)


@pytest.mark.parametrize(
    ("low", "high", "side"),
    [(0.1, 0.2, 1), (0.0, 0.2, 0), (-0.2, 0.0, 0), (-0.2, -0.1, -1), (math.nan, math.nan, 0)],
)
def test_side(low: float, high: float, side: int) -> None:
    assert estimate(low, high).side() == side
    assert estimate(low + 1, high + 1).side(1.0) == side


@pytest.mark.parametrize(
    ("similarity", "low", "high"),
    [(0.7, "fails", "passes"), (0.6, "undecided", "undecided"), (0.5, "passes", "fails")],
)
def test_similarity_is_judged_by_halfway_to_one(
    sample: Sample, similarity: float, low: str, high: str
) -> None:
    values, chance = np.full(24, similarity), np.full(24, 0.2)  # halfway: 0.6
    assert similarity_facts(values, chance, sample, high=False)["verdict"] == low
    assert similarity_facts(values, chance, sample, high=True)["verdict"] == high


@pytest.mark.parametrize(
    ("control", "verdict"),
    [(0.4 - MARGIN - 0.01, "undecided"), (0.4 - MARGIN + 0.01, "passes"), (0.9, "passes")],
)
def test_an_excess_over_the_control_does_not_pass(
    sample: Sample, control: float, verdict: str
) -> None:
    values, chance = np.full((4, 24), 0.4), np.zeros((4, 24))
    compared = np.full((4, 24), control)
    found = similarity_facts(values, chance, sample, high=False, control=compared)
    assert found["verdict"] == verdict
    assert found["excess"]["value"] == pytest.approx(0.4 - control)


def test_what_is_undefined_for_every_image_was_not_run(sample: Sample) -> None:
    nothing = np.full(24, np.nan)
    found = similarity_facts(nothing, nothing, sample, high=True)
    assert (found["verdict"], found["reason"]) == ("not run", UNDEFINED)
    assert of_measures({"spearman": found})["reason"] == UNDEFINED
    values = similarity_facts(np.ones(24), np.zeros(24), sample, high=True)
    both = of_measures({"spearman": values, "ssim": found})
    assert both["verdict"] == "passes"
    assert "reason" not in both


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (LEAST + 0.001, 0.5, "passes"),
        (LEAST, 0.5, "undecided"),
        (-0.5, -LEAST - 0.001, "fails"),
        (-0.5, -LEAST, "undecided"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_better_or_worse(low: float, high: float, verdict: str) -> None:
    assert better_or_worse(estimate(low, high)) == verdict


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
def test_together(verdicts: list[str], wanted: str) -> None:
    assert together(verdicts) == wanted
