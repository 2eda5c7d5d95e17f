"""Permuted labels, other seeds and small shifts, on maps whose answer is known."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import shift as scipy_shift
from scipy.stats import spearmanr
from torch import Tensor, nn

from xray_lightning.errors import ConfigError
from xray_lightning.explain.sanity.similarity import (
    SHIFTS,
    permutation_facts,
    prepared,
    seed_facts,
    shift_facts,
    shifted,
)
from xray_lightning.explain.sanity.study import Explain, Study
from xray_lightning.explain.sanity.verdicts import Sample

StudyOf = Callable[[Explain], Study]


def test_permutation(sample: Sample, rng: np.random.Generator) -> None:
    maps, others = rng.normal(size=(2, 24, 9, 9))
    assert permutation_facts(prepared(others), prepared(maps), sample)["verdict"] == "passes"
    found = permutation_facts(prepared(maps), prepared(maps), sample)
    assert {each["verdict"] for each in found["measures"].values()} == {"fails"}
    wanted = np.mean(
        [
            spearmanr(maps[row].ravel(), maps[partner].ravel()).statistic
            for row, partner in enumerate(sample.partners)
        ]
    )
    assert found["measures"]["spearman"]["chance"]["value"] == pytest.approx(wanted)


def test_seeds(sample: Sample, rng: np.random.Generator) -> None:
    maps = rng.normal(size=(3, 24, 9, 9))
    assert seed_facts(maps, sample)["verdict"] == "fails"
    alike = rng.normal(size=(24, 9, 9)) + 0.2 * maps
    found = seed_facts(alike, sample)
    assert (found["verdict"], found["networks"]) == ("passes", 3)
    pairs = [(0, 1), (0, 2), (1, 2)]
    wanted = np.mean(
        [
            spearmanr(alike[one, row].ravel(), alike[two, row].ravel()).statistic
            for one, two in pairs
            for row in range(24)
        ]
    )
    assert found["value"] == pytest.approx(wanted)


def test_what_all_images_share_is_no_agreement(sample: Sample, rng: np.random.Generator) -> None:
    """Two networks that always point at the same place agree only by chance."""
    prior = 3 * rng.normal(size=(9, 9))
    found = seed_facts(prior + rng.normal(size=(2, 24, 9, 9)), sample)
    assert found["value"] == pytest.approx(found["chance"]["value"], abs=0.05)
    assert found["value"] > 0.8
    assert found["verdict"] == "fails"


def test_one_network_cannot_agree(sample: Sample) -> None:
    with pytest.raises(ConfigError, match="agreement needs maps of two networks, got 1"):
        seed_facts(np.zeros((1, 24, 9, 9)), sample)


@pytest.mark.parametrize("move", [*SHIFTS, (3, -2)])
def test_shifted_equals_scipy(images: Tensor, move: tuple[int, int]) -> None:
    wanted = scipy_shift(images.numpy(), (0, 0, *move), order=0, mode="nearest")
    np.testing.assert_array_equal(shifted(images, *move).numpy(), wanted)


def test_a_map_that_moves_along_is_stable(
    plane: nn.Module, study_of: StudyOf, pixels: Explain
) -> None:
    study = study_of(pixels)
    found = shift_facts(plane, study, study.maps(plane))
    assert found["verdict"] == "passes"
    assert found["value"] == pytest.approx(1)  # moved back exactly, and no margin enters


def test_a_map_that_stays_is_not(plane: nn.Module, study_of: StudyOf) -> None:
    """Each batch gets its maps by position in the sequence, whatever it shows: a lookup."""
    numbers = iter(range(10**6))

    def lookup(net: nn.Module, batch: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(next(numbers) % 3)  # three batches
        return torch.rand(len(batch), 16, 16, generator=generator)

    study = study_of(lookup)
    found = shift_facts(plane, study, study.maps(plane))
    assert found["verdict"] == "fails"
    assert found["shifts"] == [list(each) for each in SHIFTS]


def test_images_too_small_to_shift(plane: nn.Module, study_of: StudyOf, pixels: Explain) -> None:
    study = study_of(pixels)
    study.images = study.images[:, :, :9, :9]
    with pytest.raises(ConfigError, match="images must have more than 9 pixels a side, got 9"):
        shift_facts(plane, study, np.zeros((24, 9, 9)))
