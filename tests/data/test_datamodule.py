"""Samples and batches: the same from any number of workers, nothing random in evaluation."""

import pickle
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy import Findings, toy_data

import xray_lightning as xl
from xray_lightning.data import samplers
from xray_lightning.data.datamodule import XrayDataModule, XrayDataset, default_workers
from xray_lightning.data.transforms import augment_light, equalise
from xray_lightning.records import prevalence

NAN = np.nan
SIZE = 32
PHANTOM = xl.Phantom(patients=24, size=SIZE)
RECORDS = PHANTOM.records
ROWS = np.arange(len(RECORDS))

pytestmark = [  # loader processes are the point here
    pytest.mark.filterwarnings("ignore:.*use of fork.* may lead to deadlocks"),  # Python 3.12 on
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker"),  # on a single core
]


@pytest.fixture(scope="module")
def cache(folder) -> xl.ImageCache:
    return xl.open_cache(PHANTOM, RECORDS, size=SIZE, root=folder, progress=False)


def samples(cache: xl.ImageCache, rows: np.ndarray = ROWS, **settings) -> XrayDataset:
    records = [RECORDS[row] for row in rows]
    targets = torch.tensor([record.targets for record in records])
    return XrayDataset([r.image_id for r in records], targets, cache, rows, **settings)


def test_a_sample_is_the_cached_image(cache: xl.ImageCache) -> None:
    rows = ROWS[::-1]
    data = samples(cache, rows)
    assert len(data) == len(RECORDS)
    for index, row in enumerate(rows):
        sample = data[index]
        assert (sample["image"].shape, sample["image"].dtype) == ((1, SIZE, SIZE), torch.float32)
        expected = cache.images[row] / np.float32(255)
        np.testing.assert_array_equal(sample["image"][0].numpy(), expected)
        assert sample["targets"].tolist() == list(RECORDS[row].targets)
        assert (sample["index"], sample["image_id"]) == (index, RECORDS[row].image_id)


def test_a_seed_augments_what_is_equalised_and_its_absence_does_not(cache: xl.ImageCache) -> None:
    augment = augment_light()
    data, plain = samples(cache, augment=augment), samples(cache)
    assert torch.equal(data[2]["image"], plain[2]["image"])
    assert torch.equal(plain[2, 7]["image"], plain[2]["image"])
    expected = augment(np.array(cache.images[2]), 7)
    np.testing.assert_array_equal(data[2, 7]["image"][0], expected / np.float32(255))
    assert not torch.equal(data[2, 8]["image"], data[2, 7]["image"])
    data = samples(cache, augment=augment, clahe=True)
    equalised = equalise(np.array(cache.images[3]))  # before the augmentation
    np.testing.assert_array_equal(data[3]["image"][0], equalised / np.float32(255))
    expected = augment(equalised, 5) / np.float32(255)
    np.testing.assert_array_equal(data[3, 5]["image"][0], expected)


def test_a_changed_sample_leaves_the_cache_alone_and_a_spawned_worker_gets_no_pixels(cache) -> None:
    data = samples(cache)
    before = data[0]["image"].clone()
    data[0]["image"].zero_()
    assert torch.equal(data[0]["image"], before)
    text = pickle.dumps(data)  # NumPy would pickle the whole memory map, 7 GB for NIH at 256 px
    assert len(text) < cache.parts[0].images.nbytes / 2
    again = pickle.loads(text)
    for index in range(len(data)):
        assert torch.equal(again[index]["image"], data[index]["image"])


module = partial(toy_data, of=PHANTOM, augment=augment_light())


def trainer_of(rank: int = 0, world: int = 1, epoch: int = 0):
    place = {"global_rank": rank, "world_size": world, "num_devices": world}
    return SimpleNamespace(**place, current_epoch=epoch, state=SimpleNamespace(status=None))


def epochs(data: XrayDataModule, numbers: Sequence[int] = (0, 1)) -> list[list[object]]:
    """The batches of some epochs, as Lightning asks for them."""
    loader = data.train_dataloader()
    batches = []
    for number in numbers:
        loader.sampler.set_epoch(number)
        batches.append(list(loader))
    return batches


def same(first: list[object], second: list[object]) -> bool:
    if [batch["image_id"] for batch in first] != [batch["image_id"] for batch in second]:
        return False
    tensors = ("image", "targets", "index")
    pairs = zip(first, second, strict=True)
    return all(torch.equal(one[key], two[key]) for one, two in pairs for key in tensors)


def by_name(batches: list[object]) -> dict[str, torch.Tensor]:
    pairs = (zip(batch["image_id"], batch["image"], strict=True) for batch in batches)
    return {name: image for batch in pairs for name, image in batch}


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_do_not_change_the_batches(workers: int, folder) -> None:
    torch.manual_seed(workers)  # must not matter
    expected = epochs(module(folder, workers=0))
    found = epochs(module(folder, workers=workers))
    assert all(map(same, found, expected))
    assert not same(found[0], found[1])


def test_epochs_seeds_and_no_global_random_number(folder) -> None:
    state, data = torch.get_rng_state(), module(folder)
    later, again = epochs(data, (5,))[0], epochs(data, (3, 4, 5))[2]
    assert same(later, again)
    list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), state)
    first, other = epochs(module(folder, seed=0))[0], epochs(module(folder, seed=1))[0]
    assert not same(first, other)
    images, others = by_name(first), by_name(other)
    changed = [not torch.equal(images[name], others[name]) for name in set(images) & set(others)]
    assert np.mean(changed) > 0.9


def test_batches(folder) -> None:
    data = module(folder)
    batches = epochs(data)[0]
    rows = data.split.subsets["train"]
    sizes = [len(batch["image"]) for batch in batches]
    assert (sum(sizes), set(sizes[:-1])) == (len(rows) - (len(rows) % 8 == 1), {8})
    for batch in batches:
        assert batch["image"].shape[1:] == (1, SIZE, SIZE)
        assert batch["image"].dtype == batch["targets"].dtype == torch.float32
        assert 0 <= batch["image"].min() <= batch["image"].max() <= 1
        for position, name, targets in zip(
            batch["index"], batch["image_id"], batch["targets"], strict=True
        ):
            record = data.records[rows[position]]
            assert record.image_id == name
            assert targets.tolist() == list(record.targets)


def test_each_process_gets_its_share(folder) -> None:
    names: list[set[str]] = []
    for rank in range(2):
        data = module(folder, batch_size=4)
        data.trainer = trainer_of(rank, 2)
        names.append({name for batch in epochs(data)[0] for name in batch["image_id"]})
    assert not names[0] & names[1]
    assert len(names[0]) == len(names[1]) > 10


def test_a_resumed_run_starts_at_its_epoch(folder) -> None:
    data, resumed, other = module(folder), module(folder), module(folder)
    assert data.state_dict() == {"next_epoch": 0}
    data.trainer = trainer_of(epoch=2)
    resumed.load_state_dict(data.state_dict())
    other.trainer = trainer_of(epoch=3)
    for again in (resumed, other):
        assert same(list(again.train_dataloader()), epochs(module(folder), (3,))[0])


@pytest.mark.parametrize(
    "plan", [samplers.disease_balanced_sampler, samplers.patient_balanced_sampler]
)
def test_a_sampler_changes_training_alone(plan: samplers.Plan, folder) -> None:
    plain, balanced = module(folder), module(folder, sampler=plan)
    known = prevalence(plain.subset_targets("train"))
    assert np.array_equal(prevalence(plain.draw_targets()), known)  # the uniform one
    loader = balanced.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader)
    drawn = np.concatenate([batch["targets"] for batch in batches])
    planned = balanced.draw_targets()
    np.testing.assert_array_equal(drawn, planned[: len(drawn)])
    assert len(drawn) >= len(planned) - 1
    assert not np.array_equal(prevalence(planned), known)
    for subset in ("val", "test"):
        assert same(list(balanced.evaluation_loader(subset)), list(plain.evaluation_loader(subset)))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("subset", ["val", "test"])
def test_nothing_random_where_a_model_is_judged(subset: str, workers: int, folder) -> None:
    data = module(folder, workers=workers)
    loader = data.val_dataloader() if subset == "val" else data.test_dataloader()
    first, second = list(loader), list(loader)
    assert same(first, second)
    cached = data.cache.images[data.split.subsets[subset]]
    images = torch.cat([batch["image"] for batch in first])
    np.testing.assert_array_equal(images[:, 0].numpy(), cached / np.float32(255))
    names = [name for batch in first for name in batch["image_id"]]
    assert names == [record.image_id for record in data.subset_records(subset)]
    targets = torch.cat([batch["targets"] for batch in first])
    np.testing.assert_array_equal(targets.numpy(), data.subset_targets(subset))


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("subset", ["val", "test"])
def test_processes_share_what_they_judge(subset: str, world: int, folder) -> None:
    names = []
    for rank in range(world):
        data = module(folder, batch_size=2)
        data.trainer = trainer_of(rank, world)
        loader = data.val_dataloader() if subset == "val" else data.test_dataloader()
        batches = list(loader)
        assert len(batches) == len(loader)
        alone = module(folder, batch_size=2).evaluation_loader(subset, rank, world)
        assert same(batches, list(alone))
        names.append([name for batch in batches for name in batch["image_id"]])
    expected = [record.image_id for record in module(folder).subset_records(subset)]
    assert names == [expected[rank::world] for rank in range(world)]


def test_more_processes_than_images(folder) -> None:
    data = module(folder)
    count = len(data.subset_records("val"))
    match = f"{count + 1} processes cannot share the {count} images of the val set; use .*={count}"
    with pytest.raises(xl.ConfigError, match=match):
        data.require_images(count + 1)
    with pytest.raises(xl.ConfigError, match=match):
        data.evaluation_loader("test", 0, count + 1)
    data.trainer = trainer_of(0, count + 1)
    with pytest.raises(xl.ConfigError, match=match):
        data.setup()
    data.require_images(count)


@pytest.mark.parametrize("subset", ["train", "val", "test"])
def test_equalisation_in_every_part(subset: str, folder) -> None:
    plain = module(folder).dataset(subset)
    equalised = module(folder, clahe=True, augment=None).dataset(subset)
    for index in range(3):
        pixels = np.array(plain.cache.images[plain.rows[index]])
        expected = equalise(pixels) / np.float32(255)
        np.testing.assert_array_equal(equalised[index]["image"][0].numpy(), expected)


FIVE = tuple(f"label {number}" for number in range(5))
TARGETS = np.array(
    [
        [1, 0, NAN, 1, NAN],
        [0, 0, 1, 1, NAN],
        [0, 0, 0, 1, NAN],
        [0, NAN, 0, 1, NAN],
        [1, 1, 1, 0, 1],  # validation
        [0, 0, NAN, 0, 0],  # test
    ]
)


def first_four_train(records: Sequence[xl.Record], official) -> xl.Split:
    return xl.make_split("csv", records, {"train": [0, 1, 2, 3], "val": [4], "test": [5]})


@pytest.fixture
def facts(tmp_path) -> XrayDataModule:
    return XrayDataModule(Findings(FIVE, TARGETS), split=first_four_train, cache_dir=tmp_path)


def test_counts_of_the_labels_and_subsets(facts: XrayDataModule) -> None:
    weight = facts.positive_weight()
    assert weight.dtype == torch.float32
    # 3 absent / 1 present; no positive; 2 / 1 with one unknown; no negative; all unknown
    np.testing.assert_array_equal(weight.numpy(), [3, NAN, 2, 0, NAN])
    assert facts.class_counts().tolist() == [[3, 3, 2, 0, 0], [1, 0, 1, 4, 0]]
    assert facts.labels_without_positives("train") == ["label 1", "label 4"]
    assert facts.labels_without_positives("val") == ["label 3"]
    assert facts.labels_without_positives("test") == [f"label {number}" for number in range(5)]

    np.testing.assert_array_equal(facts.targets, TARGETS.astype(np.float32))
    np.testing.assert_array_equal(facts.subset_targets("train"), TARGETS[:4].astype(np.float32))
    assert [record.image_id for record in facts.subset_records("test")] == ["5.png"]
    assert facts.preprocessing == {"image_size": 224, "clahe": False}
    assert not list(facts.cache_dir.iterdir())  # no pixel was needed


def test_missing_images(nih_folder, tmp_path) -> None:
    (nih_folder.root / "images" / "00000001_001.png").unlink()
    match = r"1 of the 5 images .*'nih' are not on disk, the first is 00000001_001\.png.*allow_mis"
    with pytest.raises(xl.MissingImagesError, match=match):
        XrayDataModule(xl.ChestXray14(nih_folder.root), cache_dir=tmp_path)
    settings = {"split": xl.official_split, "image_size": 8, "batch_size": 2, "cache_dir": tmp_path}
    data = XrayDataModule(xl.ChestXray14(nih_folder.root, allow_missing=True), **settings)
    assert len(data.records) == 4
    batch = next(iter(data.test_dataloader()))
    assert batch["image_id"] == ["00000003_000.png", "00000003_001.png"]
    assert batch["image"].shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("cores", "on_gpu", "workers"),
    [(1, False, 0), (64, False, 0), (1, True, 1), (2, True, 1), (6, True, 5), (64, True, 8)],
)
def test_default_workers(cores: int, on_gpu: bool, workers: int) -> None:
    assert default_workers(cores, on_gpu) == workers


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_of_a_loader(workers: int, folder) -> None:
    data = module(folder, workers=workers)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert (loader.num_workers, loader.persistent_workers) == (workers, workers > 0)
        assert loader.batch_size == 8
    expected = default_workers(1, False)
    if not torch.cuda.is_available():
        assert module(folder).val_dataloader().num_workers == expected


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        *(({"image_size": s}, f"image_size must be .* of at least 8, got {s}") for s in (7, 32.5)),
        ({"augment": "light"}, r"augment='light' is no function: .*, such as .* augment_light\(\)"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"workers": -1}, "workers must be an integer of at least 0, got -1"),
        ({}, "subset must be one of train, val, test, got 'all'"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, object], match: str, folder) -> None:
    with pytest.raises(xl.ConfigError, match=match):
        module(folder, **settings).dataset("all")


def test_permuted_labels_are_of_the_training_part_alone(folder) -> None:
    plain, dealt = module(folder), module(folder, permute_labels=True)
    for subset in ("val", "test"):
        assert torch.equal(plain.dataset(subset).targets, dealt.dataset(subset).targets)
    before, after = plain.subset_targets("train"), dealt.subset_targets("train")
    assert not np.array_equal(before, after)
    assert sorted(map(tuple, before)) == sorted(map(tuple, after))
    assert torch.equal(dealt.dataset("train").targets, torch.from_numpy(after))
    assert torch.equal(plain.positive_weight(), dealt.positive_weight())
    assert np.array_equal(after, module(folder, permute_labels=True).subset_targets("train"))
    other = module(folder, permute_labels=True, seed=1).subset_targets("train")
    assert not np.array_equal(after, other)
