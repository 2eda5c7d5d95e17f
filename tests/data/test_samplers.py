"""The order of an epoch is a function of (seed, epoch); a balanced one holds what it promises."""

from collections import Counter
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import xray_lightning as xl
from xray_lightning.data.samplers import EpochSampler, Plan, Shard, occurrences, prevalence

NAN = np.nan
# 200 images of 60 patients: half of them normal, two common findings, a rare one, one never seen.
DRAW = np.random.default_rng(3)
TARGETS = np.zeros((200, 4), np.float32)
TARGETS[:70, 0] = 1
TARGETS[50:100, 1] = 1
TARGETS[[7, 99], 2] = 1
TARGETS[150:, 0] = NAN  # neither normal nor a finding
PATIENTS = [f"p{number}" for number in DRAW.permutation(np.arange(200) % 60)]
NORMAL = set(range(100, 150))
PLANS: list[Plan] = [xl.uniform_sampler, xl.disease_balanced_sampler, xl.patient_balanced_sampler]


def sampler(
    length: int, batch_size: int = 4, plan: Plan = xl.uniform_sampler, **settings: int
) -> EpochSampler:
    bound = partial(plan, TARGETS[:length], PATIENTS[:length])
    return EpochSampler(bound, length, batch_size=batch_size, **({"seed": 0} | settings))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("share", [0, 0.1, 0.25, 0.5, 0.9])
def test_share_of_normal_images_is_exact(share: float) -> None:
    order = xl.disease_balanced_sampler(TARGETS, PATIENTS, rng(), normal_share=share).tolist()
    assert len(order) == 200
    counts = Counter(index for index in order if index in NORMAL)
    assert sum(counts.values()) == round(200 * share)
    assert not set(order) & set(range(150, 200)), "not known to be normal, and no finding"
    if counts:
        turns = [counts[index] for index in NORMAL]
        assert max(turns) - min(turns) <= 1, "they take turns"


def test_findings_are_drawn_uniformly_then_their_images() -> None:
    """Against the expectation of the naive description, by a chi-square test of 200 epochs."""
    drawn = np.concatenate(
        [
            xl.disease_balanced_sampler(TARGETS, PATIENTS, rng(seed), normal_share=0.5)
            for seed in range(200)
        ]
    )
    counts = np.bincount(drawn, minlength=200)
    ill = (TARGETS[:, :3] == 1).any(axis=1)
    chance = np.zeros(200)
    for column in (TARGETS[:, :3] == 1).T:
        chance[column] += 1 / 3 / column.sum()
    expected = chance[ill] * counts[ill].sum()
    assert chisquare(counts[ill], expected).pvalue > 0.001
    assert counts[7] > 20 * counts[8], "the rare finding comes as often as a common one"


def test_the_order_of_a_balanced_epoch_is_mixed() -> None:
    order = xl.disease_balanced_sampler(TARGETS, PATIENTS, rng())
    places = np.flatnonzero([index in NORMAL for index in order])
    assert abs(places.mean() - 99.5) < 20
    assert not np.array_equal(np.diff(places), np.ones(len(places) - 1))


def test_one_image_of_each_patient() -> None:
    chosen = Counter[int]()
    for seed in range(300):
        order = xl.patient_balanced_sampler(TARGETS, PATIENTS, rng(seed))
        assert len(order) == 60
        assert len({PATIENTS[index] for index in order}) == 60
        chosen.update(order.tolist())
    assert set(chosen) == set(range(200))
    for patient in ("p0", "p41"):
        counts = [chosen[index] for index, name in enumerate(PATIENTS) if name == patient]
        assert chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, NAN])
def test_a_share_that_is_none(share: float) -> None:
    with pytest.raises(xl.ConfigError, match=r"normal_share must be at least 0 and below 1, got"):
        xl.disease_balanced_sampler(TARGETS, PATIENTS, rng(), normal_share=share)


def test_nothing_to_balance() -> None:
    with pytest.raises(
        xl.DataError, match=r"no training image has a positive; use sampler=uniform"
    ):
        xl.disease_balanced_sampler(TARGETS[100:], PATIENTS[100:], rng())
    with pytest.raises(
        xl.DataError, match=r"no training image has all targets 0; .*normal_share=0"
    ):
        xl.disease_balanced_sampler(TARGETS[:100], PATIENTS[:100], rng())
    order = xl.disease_balanced_sampler(TARGETS[:100], PATIENTS[:100], rng(), normal_share=0)
    assert len(order) == 100


def test_prevalence() -> None:
    expected = [np.nanmean(column) for column in TARGETS.T]
    np.testing.assert_allclose(prevalence(TARGETS), expected, rtol=1e-6)
    assert np.isnan(prevalence(np.full((3, 1), NAN, np.float32))).all()


def test_occurrences() -> None:
    order, seen, expected = rng().integers(20, size=300), Counter[int](), []
    for index in order.tolist():
        expected.append(seen[index])
        seen[index] += 1
    assert occurrences(order).tolist() == expected


def test_uniform_order_and_seeds() -> None:
    """The order of the first release, to the bit: its runs can be repeated."""
    order = sampler(21, batch_size=7, seed=5)
    order.set_epoch(3)
    generator = np.random.default_rng((5, 3))
    positions, seeds = generator.permutation(21), generator.integers(2**31, size=21)
    assert list(order) == [(index, seeds[index]) for index in positions]
    assert sorted(positions) == list(range(21))


def test_repeated_draws_are_augmented_differently() -> None:
    keys = list(sampler(200, plan=xl.disease_balanced_sampler))
    assert max(Counter(index for index, _ in keys).values()) > 10
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("plan", PLANS)
def test_an_epoch_can_be_had_again(plan: Plan) -> None:
    order = sampler(199, batch_size=7, plan=plan)
    orders = []
    for epoch in range(5):
        order.set_epoch(epoch)
        keys = list(order)
        assert len(keys) == len(order)
        assert all(0 <= seed < 2**31 for _, seed in keys)
        orders.append(keys)
    assert all(first != second for first, second in pairwise(orders))
    order.set_epoch(2)
    assert list(order) == orders[2]
    assert list(order) == orders[2]


@pytest.mark.parametrize("plan", PLANS)
def test_seed_and_epoch_alone_decide(plan: Plan) -> None:
    first, other = sampler(199, seed=1, plan=plan), sampler(199, seed=2, plan=plan)
    assert list(sampler(199, seed=1, plan=plan)) == list(first)
    assert list(other) != list(first)
    first.set_epoch(2)
    other.set_epoch(1)
    assert list(first) != list(other)
    torch.manual_seed(0)
    np.random.seed(0)
    keys = list(first)
    torch.manual_seed(1)
    np.random.seed(1)
    assert list(first) == keys


@pytest.mark.parametrize("batch_size", [2, 3, 8, 100])
@pytest.mark.parametrize("length", [1, 2, 3, 9, 16, 17, 25, 100])
def test_no_batch_of_one_image(length: int, batch_size: int) -> None:
    order = sampler(length, batch_size=batch_size)
    keys = list(order)
    assert len(keys) == len(order)
    lonely = length % batch_size == 1 and length > 1
    assert len(keys) == length - lonely
    assert len(keys) % batch_size != 1 or length == 1


def test_no_batch_of_one_patient_and_batches_of_one_image_where_they_are_asked_for() -> None:
    assert len(list(sampler(200, batch_size=59, plan=xl.patient_balanced_sampler))) == 59
    assert len(sampler(9, batch_size=1)) == len(list(sampler(9, batch_size=1))) == 9


def test_another_image_is_left_out_each_time() -> None:
    order, missing = sampler(9, batch_size=4), set()
    for epoch in range(12):
        order.set_epoch(epoch)
        missing |= set(range(9)) - {index for index, _ in order}
    assert len(missing) > 4


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("length", "world"), [(140, 2), (141, 2), (143, 3), (164, 8), (134, 2)])
def test_processes_share_the_order_of_one(length: int, world: int, plan: Plan) -> None:
    alone = sampler(length, batch_size=1, plan=plan)
    order = [sampler(length, 8, plan, rank=rank, world=world) for rank in range(world)]
    for epoch in range(3):
        alone.set_epoch(epoch)
        for each in order:
            each.set_epoch(epoch)
        shards = [list(each) for each in order]
        assert {len(shard) for shard in shards} == {len(order[0])}
        assert len(shards[0]) % 8 != 1
        dealt = [key for turn in zip(*shards, strict=True) for key in turn]
        assert dealt == list(alone)[: len(dealt)]
        assert len(set(dealt)) == len(dealt) >= len(alone) - 2 * world


@pytest.mark.parametrize(("length", "world"), [(1, 1), (7, 1), (7, 2), (8, 2), (9, 4), (4, 4)])
def test_shards_hold_every_image_once(length: int, world: int) -> None:
    shards = [list(Shard(length, rank=rank, world=world)) for rank in range(world)]
    for rank, shard in enumerate(shards):
        assert shard == list(range(length))[rank::world]
        assert len(Shard(length, rank=rank, world=world)) == len(shard)
    assert sorted(index for shard in shards for index in shard) == list(range(length))
