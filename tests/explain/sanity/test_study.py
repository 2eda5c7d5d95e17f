"""Rules at their edges, measures against SciPy and scikit-image, curves against loops."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.integrate import trapezoid
from scipy.stats import norm, spearmanr, t
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from xray_lightning.errors import ConfigError
from xray_lightning.explain import sanity
from xray_lightning.explain.sanity import Explain, Sample, Study, prepare


def test_mean_equals_a_loop(sample: Sample, rng: np.random.Generator) -> None:
    values = rng.normal(size=24)
    values[3] = np.nan
    wanted = []
    for counts in sample.bootstrap.counts:
        weights = counts[sample.bootstrap.codes] * ~np.isnan(values)
        wanted.append(np.average(np.nan_to_num(values), weights=weights))
    mean = sample.mean(values)
    assert mean.value == pytest.approx(np.nanmean(values))
    tail = norm.cdf(t(11).ppf(0.025) * np.sqrt(12 / 11))  # of 12 patients
    assert (mean.low, mean.high) == pytest.approx(np.quantile(wanted[1:], [tail, 1 - tail]))
    assert mean.undefined == pytest.approx(1 / 24)


def test_networks_are_drawn_too(sample: Sample, rng: np.random.Generator) -> None:
    """Networks that differ widen it by Student's t; equal ones leave that of the patients."""
    values = rng.normal(size=24)
    alone, equal = sample.mean(values), sample.mean(np.stack([values] * 5))
    assert (equal.low, equal.high) == pytest.approx((alone.low, alone.high))
    offsets = np.array([-2.0, -1, 0, 1, 2])
    spread = sample.mean(values + offsets[:, None])
    assert spread.value == pytest.approx(alone.value)
    reach = t(4).ppf(0.975) * offsets.std(ddof=1) / np.sqrt(5)
    assert spread.high - spread.value == pytest.approx(np.hypot(alone.high - alone.value, reach))


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
    assert sanity.Mean.from_json(mean.to_json()).to_json() == mean.to_json()


def test_json_has_none_for_undefined_and_for_no_width(sample: Sample) -> None:
    unknown = sample.mean(np.full(24, np.nan))
    assert unknown.to_json() == {"value": None, "interval": None, "undefined": 1.0}
    constant = sample.mean(np.ones(24))
    assert (constant.low, constant.high) == (1, 1)
    assert constant.to_json() == {"value": 1.0, "interval": None, "undefined": 0.0}


@pytest.mark.parametrize(("patients", "draws"), [([], 100), (["a", "a"], 100), (["a", "b"], 0)])
def test_patients_and_draws_are_needed(patients: list[str], draws: int) -> None:
    with pytest.raises(ConfigError):
        Sample.of(patients, draws, 0)


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
        (0.4 - sanity.MARGIN - 0.01, "undecided"),
        (0.4 - sanity.MARGIN + 0.01, "passes"),
        (0.9, "passes"),
    ],
)
def test_an_excess_over_the_control_does_not_pass(sample, control, verdict) -> None:
    values, chance = np.full((4, 24), 0.4), np.zeros((4, 24))
    rated = sample.rate_similarity(values, chance, high=False, control=np.full((4, 24), control))
    assert rated.verdict == verdict
    assert rated.excess is not None
    assert rated.excess.value == pytest.approx(0.4 - control)


def test_what_is_undefined_for_every_image_was_not_run(sample: Sample) -> None:
    nothing = np.full(24, np.nan)
    undefined = sample.rate_similarity(nothing, nothing, high=True)
    assert (undefined.verdict, undefined.reason) == ("not run", sanity.UNDEFINED)
    assert sanity.MeasuredTest.of({"spearman": undefined}).reason == sanity.UNDEFINED
    defined = sample.rate_similarity(np.ones(24), np.zeros(24), high=True)
    both = sanity.MeasuredTest.of({"spearman": defined, "ssim": undefined})
    assert (both.verdict, both.reason) == ("passes", "")
    assert sanity.Similarity.from_json(defined.to_json()).to_json() == defined.to_json()


@pytest.mark.parametrize("margin", [0, sanity.LEAST])
@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.001, 0.5, "passes"), (0, 0.5, "undecided"), (math.nan, math.nan, "undecided")],
)
def test_the_side_of_a_margin(low: float, high: float, verdict: str, margin: float) -> None:
    assert sanity.OF_SIDE[sanity.Mean(0, low + margin, high).side(margin)] == verdict
    mirrored = {"passes": "fails"}.get(verdict, verdict)
    assert sanity.OF_SIDE[sanity.Mean(0, -high, -low - margin).side(margin)] == mirrored


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
    assert sanity.combine_verdicts(verdicts) == wanted


def pair(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    first = rng.normal(size=(3, *shape))
    return first, first + rng.normal(size=(3, *shape))


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(spearmanr(first.ravel(), second.ravel()).statistic)


@pytest.mark.parametrize("shape", [(2, 2), (7, 7), (13, 20)])
def test_rank_correlations_equal_scipy(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    first, second = (np.round(maps, 1) for maps in pair(rng, shape))  # with ties
    similar = sanity.compare(prepare(first), prepare(second))
    for row, (one, two) in enumerate(zip(first, second, strict=True)):
        assert similar["spearman"][row] == pytest.approx(correlation(one, two))
        assert similar["absolute"][row] == pytest.approx(correlation(np.abs(one), np.abs(two)))


@pytest.mark.parametrize(("shape", "side"), [((7, 7), 7), ((6, 9), 5), ((3, 4), 3), ((20, 16), 7)])
def test_ssim_equals_skimage(rng: np.random.Generator, shape: tuple[int, int], side: int) -> None:
    first, second = (sanity.scale(maps) for maps in pair(rng, shape))
    for one, two, value in zip(first, second, sanity.ssim(first, second), strict=True):
        assert value == pytest.approx(structural_similarity(one, two, win_size=side, data_range=1))
    assert np.isnan(sanity.ssim(first[:, :2], second[:, :2])).all(), "below three it is undefined"


def test_a_map_is_like_itself_and_its_negative_but_for_the_sign(rng: np.random.Generator) -> None:
    maps = rng.normal(size=(2, 8, 8))
    same = sanity.compare(prepare(maps), prepare(5 * maps + 3))
    np.testing.assert_allclose([same["spearman"], same["ssim"]], 1)
    turned = sanity.compare(prepare(maps), prepare(-maps))
    np.testing.assert_allclose(turned["spearman"], -1)
    np.testing.assert_allclose(turned["absolute"], 1)


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_a_flat_map_or_one_with_nan_is_undefined(rng: np.random.Generator, value: float) -> None:
    maps = rng.normal(size=(2, 8, 8))
    odd = maps.copy()
    odd[0] = value
    for similar in sanity.compare(prepare(maps), prepare(odd)).values():
        assert np.isnan(similar).tolist() == [True, False]


def test_permutation(sample: Sample, rng: np.random.Generator) -> None:
    maps, others = rng.normal(size=(2, 24, 9, 9))
    measures = sanity.compare_networks(prepare(maps), [prepare(others)], sample)
    assert sanity.MeasuredTest.of(measures).verdict == "passes"
    measures = sanity.compare_networks(prepare(maps), [prepare(maps)], sample)
    assert {similar.verdict for similar in measures.values()} == {"fails"}
    codes, pairs = sample.bootstrap.codes, enumerate(sample.partners)
    assert (codes[sample.partners] != codes).all(), "of other patients"
    wanted = np.mean([correlation(maps[row], maps[partner]) for row, partner in pairs])
    assert measures["spearman"].chance.value == pytest.approx(wanted)


def test_seeds(sample: Sample, rng: np.random.Generator) -> None:
    maps = rng.normal(size=(3, 24, 9, 9))
    assert sanity.compare_seeds(maps, sample).verdict == "fails"
    alike = rng.normal(size=(24, 9, 9)) + 0.2 * maps
    test = sanity.compare_seeds(alike, sample)
    assert (test.verdict, test.networks) == ("passes", 3)
    pairs = [(one, two, row) for one, two in [(0, 1), (0, 2), (1, 2)] for row in range(24)]
    wanted = np.mean([correlation(alike[one, row], alike[two, row]) for one, two, row in pairs])
    assert test.value == pytest.approx(wanted)


def test_what_all_images_share_is_no_agreement(sample: Sample, rng: np.random.Generator) -> None:
    """Two networks that always point at the same place agree only by chance."""
    prior = 3 * rng.normal(size=(9, 9))
    test = sanity.compare_seeds(prior + rng.normal(size=(2, 24, 9, 9)), sample)
    assert test.value == pytest.approx(test.chance.value, abs=0.05)
    assert test.value > 0.8
    assert test.verdict == "fails"


def test_a_map_that_moves_along_is_stable(plane, study_of, pixels) -> None:
    study = study_of(pixels)
    test = sanity.compare_shifted(plane, study, study.maps(plane))
    assert test.verdict == "passes"
    assert test.value == pytest.approx(1)  # moved back exactly, and no margin enters
    study.images = study.images[:, :, :9, :9]
    with pytest.raises(ConfigError, match="more than 9 pixels a side, got 9"):
        sanity.compare_shifted(plane, study, np.zeros((24, 9, 9)))


def test_a_map_that_stays_is_not(plane: nn.Module, study_of) -> None:
    """Each batch gets its maps by position in the sequence, whatever it shows: a lookup."""
    numbers = iter(range(10**6))

    def lookup(net: nn.Module, batch: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(next(numbers) % 3)  # three batches
        return torch.rand(len(batch), 16, 16, generator=generator)

    study = study_of(lookup)
    test = sanity.compare_shifted(plane, study, study.maps(plane))
    assert (test.verdict, test.shifts) == ("fails", list(sanity.SHIFTS))


STEPS = 8


@pytest.fixture
def study(study_of, evidence: Explain) -> Study:
    """The region that the network looks at is bright; a blur takes its light away."""
    made = study_of(evidence)
    made.images = made.images * 0.2
    made.images[:, :, :6, :6] += 0.7
    return made


def test_curves_equal_a_loop(plane: nn.Module, study: Study) -> None:
    maps = study.maps(plane)
    found = sanity.perturb(plane, study, maps, 1, STEPS)
    blurred = np.stack(
        [ndimage.gaussian_filter(each[0].numpy(), 1.0, mode="nearest") for each in study.images]
    )[:, None]
    np.testing.assert_allclose(sanity.blur(study.images).numpy(), blurred, atol=1e-6)
    originals = study.images.numpy()
    weight, bias = plane.head.weight[1].detach().numpy(), plane.head.bias[1].item()
    for name, first, last in (("deletion", originals, blurred), ("insertion", blurred, originals)):
        curves = np.zeros((24, STEPS + 1))
        for row in range(24):
            order = np.argsort(-maps[row].ravel(), kind="stable")
            pixels = first[row].ravel().copy()
            for step in range(STEPS + 1):
                for place in order[: round(step / STEPS * 256)]:
                    pixels[place] = last[row].ravel()[place]
                curves[row, step] = 1 / (1 + np.exp(-(pixels @ weight + bias)))
        areas = [trapezoid(curve, dx=1 / STEPS) for curve in curves]
        # beyond the evidence all weights are 0, so that the order of ties does not matter
        np.testing.assert_allclose(found[name].curves["map"], curves.mean(axis=0), atol=1e-6)
        assert found[name].area.value == pytest.approx(np.mean(areas), abs=1e-6)


def test_true_evidence_beats_the_controls_and_inverted_fails(plane, study: Study) -> None:
    maps = study.maps(plane)
    found, inverted = (sanity.perturb(plane, study, each, 1, STEPS) for each in (maps, -maps))
    for name in ("deletion", "insertion"):
        assert (found[name].verdict, inverted[name].verdict) == ("passes", "fails")
        assert found[name].controls["random"].advantage.low > 0.02
    curves = found["insertion"].curves
    assert curves["map"][0] == curves["random"][0] == curves["centre"][0]
    assert curves["map"][-1] == curves["random"][-1] == curves["centre"][-1]


@pytest.mark.parametrize("size", [4, 16])
def test_a_flat_map_is_the_random_order(plane: nn.Module, study: Study, size: int) -> None:
    found = sanity.perturb(plane, study, np.zeros((24, size, size)), 1, STEPS)
    for name in ("deletion", "insertion"):
        assert found[name].curves["map"] == found[name].curves["random"]
        assert found[name].verdict == "undecided"


@pytest.mark.parametrize(
    ("order", "verdict"), [("centre", "undecided"), ("random", "fails"), ("both", "fails")]
)
def test_worse_than_the_centre_alone_does_not_fail(study, rng, order, verdict) -> None:
    """The grain of a map can make it worse than an order without grain."""
    curves = {name: np.full((STEPS + 1, 24), 0.5) for name in ("map", "random", "centre")}
    for name in ("random", "centre"):
        curves[name] += 0.1 if order in (name, "both") else -0.1
    assert sanity.compare_curves(curves, study, 1).verdict == verdict


def test_a_map_with_nan_has_no_area_and_a_single_step_no_curve(
    plane: nn.Module, study: Study
) -> None:
    maps = study.maps(plane)
    maps[:20, 0, 0] = np.nan
    found = sanity.perturb(plane, study, maps, 1, STEPS)["insertion"]
    assert (found.verdict, found.area.undefined) == ("undecided", pytest.approx(20 / 24))
    assert np.isfinite(found.area.value)
    with pytest.raises(ConfigError, match=r"steps .* 2, got 1"):
        sanity.perturb(plane, study, maps, 1, 1)
