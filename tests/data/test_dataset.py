"""Samples are functions of (seed, index)."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from xray_lightning import ImageCache, Phantom, augment_light, open_cache
from xray_lightning.data.dataset import XrayDataset
from xray_lightning.data.transforms import equalise

PHANTOM = Phantom(patients=8, size=32)
RECORDS = PHANTOM.records
ROWS = np.arange(len(RECORDS))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ImageCache:
    root: Path = tmp_path_factory.mktemp("cache")
    return open_cache(PHANTOM, RECORDS, size=32, root=root, progress=False)


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
    augment = augment_light()
    data = XrayDataset(RECORDS, cache, ROWS, augment=augment)
    plain = XrayDataset(RECORDS, cache, ROWS)
    assert torch.equal(data[2]["image"], plain[2]["image"])
    assert torch.equal(plain[2, 7]["image"], plain[2]["image"])
    expected = augment(np.array(cache.images[2]), 7)
    np.testing.assert_array_equal(data[2, 7]["image"][0], expected / np.float32(255))
    assert not torch.equal(data[2, 8]["image"], data[2, 7]["image"])


def test_equalisation_comes_before_augmentation(cache: ImageCache) -> None:
    augment = augment_light()
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
