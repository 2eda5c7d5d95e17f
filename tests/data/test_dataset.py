"""Samples and their order are functions of (seed, epoch, index)."""

import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from xray_lightning.data.cache import ImageCache, open_cache
from xray_lightning.data.dataset import EpochSampler, XrayDataset
from xray_lightning.data.phantom import Phantom
from xray_lightning.data.transforms import equalise, light

PHANTOM = Phantom(patients=8, size=32)
RECORDS = PHANTOM.records
ROWS = np.arange(len(RECORDS))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ImageCache:
    root: Path = tmp_path_factory.mktemp("cache")
    return open_cache(PHANTOM, RECORDS, size=32, root=root, progress=False)


def sampler(length: int, batch_size: int = 4, **settings: int) -> EpochSampler:
    return EpochSampler(length, batch_size=batch_size, **({"seed": 0} | settings))


# --- samples --------------------------------------------------------------------------------


def test_a_sample_is_the_cached_image(cache: ImageCache) -> None:
    rows = ROWS[::-1]
    data = XrayDataset(RECORDS[::-1], cache, rows)
    assert len(data) == len(RECORDS)
    for index, row in enumerate(rows):
        sample = data[index]
        assert sample["image"].shape == (1, 32, 32)
        assert sample["image"].dtype == torch.float32
        np.testing.assert_array_equal(
            sample["image"][0].numpy(), cache.images[row] / np.float32(255)
        )
        assert sample["targets"].tolist() == list(RECORDS[row].targets)
        assert (sample["index"], sample["image_id"]) == (index, RECORDS[row].image_id)


def test_a_seed_augments_and_its_absence_does_not(cache: ImageCache) -> None:
    augment = light()
    data = XrayDataset(RECORDS, cache, ROWS, augment=augment)
    plain = XrayDataset(RECORDS, cache, ROWS)
    assert torch.equal(data[2]["image"], plain[2]["image"])
    assert torch.equal(plain[2, 7]["image"], plain[2]["image"])
    expected = augment(np.array(cache.images[2]), 7)
    np.testing.assert_array_equal(data[2, 7]["image"][0], expected / np.float32(255))
    assert not torch.equal(data[2, 8]["image"], data[2, 7]["image"])


def test_equalisation_comes_before_augmentation(cache: ImageCache) -> None:
    augment = light()
    data = XrayDataset(RECORDS, cache, ROWS, augment=augment, clahe=True)
    equalised = equalise(np.array(cache.images[3]))
    np.testing.assert_array_equal(data[3]["image"][0], equalised / np.float32(255))
    expected = augment(equalised, 5) / np.float32(255)
    np.testing.assert_array_equal(data[3, 5]["image"][0], expected)


def test_a_changed_sample_leaves_the_cache_alone(cache: ImageCache) -> None:
    data = XrayDataset(RECORDS, cache, ROWS)
    before = data[0]["image"].clone()
    data[0]["image"].zero_()
    assert torch.equal(data[0]["image"], before)


def test_a_spawned_worker_gets_no_pixels(cache: ImageCache) -> None:
    """NumPy would pickle the whole memory map: 7 GB for NIH at 256 px, once for each worker."""
    data = XrayDataset(RECORDS, cache, ROWS, clahe=True)
    text = pickle.dumps(data)
    assert len(text) < cache.images.nbytes / 2
    again = pickle.loads(text)
    for index in range(len(data)):
        assert torch.equal(again[index]["image"], data[index]["image"])


# --- order --------------------------------------------------------------------------------------


def test_an_epoch_is_a_permutation() -> None:
    order = sampler(21, batch_size=7)
    orders = []
    for epoch in range(5):
        order.set_epoch(epoch)
        keys = list(order)
        assert sorted(index for index, _ in keys) == list(range(21))
        assert all(0 <= seed < 2**31 for _, seed in keys)
        assert len({seed for _, seed in keys}) == 21
        orders.append(keys)
    assert all(first != second for first, second in pairwise(orders))
    order.set_epoch(2)
    assert list(order) == orders[2]
    assert list(order) == orders[2]


def test_seed_and_epoch_alone_decide() -> None:
    first, other = sampler(30, seed=1), sampler(30, seed=2)
    assert list(sampler(30, seed=1)) == list(first)
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


def test_batches_of_one_image_where_they_are_asked_for() -> None:
    assert len(sampler(9, batch_size=1)) == len(list(sampler(9, batch_size=1))) == 9


def test_another_image_is_left_out_each_time() -> None:
    order, missing = sampler(9, batch_size=4), set()
    for epoch in range(12):
        order.set_epoch(epoch)
        missing |= set(range(9)) - {index for index, _ in order}
    assert len(missing) > 4


@pytest.mark.parametrize(("length", "world"), [(40, 2), (41, 2), (43, 3), (64, 8), (34, 2)])
def test_processes_share_without_overlap(length: int, world: int) -> None:
    alone = sampler(length, batch_size=8)
    order = [sampler(length, batch_size=8, rank=rank, world=world) for rank in range(world)]
    for epoch in range(3):
        alone.set_epoch(epoch)
        for each in order:
            each.set_epoch(epoch)
        shards = [list(each) for each in order]
        assert len({len(shard) for shard in shards}) == 1
        assert len(shards[0]) == len(order[0])
        keys = [key for shard in shards for key in shard]
        assert len(set(keys)) == len(keys)
        assert len(keys) >= length - 2 * world
        assert len(shards[0]) % 8 != 1
        assert dict(keys).items() <= dict(alone_keys(length, epoch)).items()


def alone_keys(length: int, epoch: int) -> list[tuple[int, int]]:
    """Every sample's seed in an epoch; the seed does not depend on the number of processes."""
    order = sampler(length, batch_size=1)
    order.set_epoch(epoch)
    return list(order)
