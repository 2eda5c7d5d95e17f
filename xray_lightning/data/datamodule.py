"""From a data set to samples, a function of (seed, index) alone, and to batches of its subsets."""

import inspect
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerStatus
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from xray_lightning.data.cache import ImageCache, open_cache
from xray_lightning.data.on_device import change, keep_images
from xray_lightning.data.partition import SUBSETS, Indices, Splitter, describe_split, split_source
from xray_lightning.data.samplers import EpochSampler, Plan, SampleKey, Shard, uniform_sampler
from xray_lightning.data.source import Source, readable_records, select_labels
from xray_lightning.data.splits import patient_split
from xray_lightning.data.transforms import Image, equalise
from xray_lightning.data.vocabulary import find_ancestors
from xray_lightning.errors import ConfigError, require_choice, require_integer
from xray_lightning.folders import prepare_folder
from xray_lightning.progress import show_progress
from xray_lightning.records import Record, target_matrix
from xray_lightning.wording import fault
from xray_lightning.writing import write_json

Augment = Callable[[Image, int], Image]
STATISTICS = ("positive_weight", "class_counts", "ancestors")  # of the training set, by method


class Sample(TypedDict):
    """One image; in a batch every entry has a leading dimension B."""

    image: Tensor  # (1, H, W) float32 in [0, 1]; on the way to a GPU its bytes, or its row there
    targets: Tensor  # (L,) float32, NaN where unknown
    index: int  # position in the subset
    image_id: str  # the record's id


class Batch(TypedDict):
    """B samples: image (B, 1, H, W), targets (B, L), index (B,), image_id B strings."""

    image: Tensor
    targets: Tensor
    index: Tensor
    image_id: list[str]


@dataclass(eq=False)
class XrayDataset(Dataset[Sample]):
    """Cached images of N records."""

    image_ids: Sequence[str]  # (N,)
    targets: Tensor  # (N, L)
    cache: ImageCache  # (M, S, S) uint8; a spawned worker gets its path, not the pixels
    rows: npt.NDArray[np.int64]  # of the cache for each record, (N,)
    augment: Augment | None = None  # called with (image, seed) if the key carries a seed
    clahe: bool = False  # equalise the histogram first
    raw: bool = False  # scaling, and augmentation by ``changes``, are left to the training device
    resident: bool = False  # which has the images, too: their rows are enough

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, key: int | SampleKey) -> Sample:
        index, seed = key if isinstance(key, tuple) else (key, None)
        targets, image_id = self.targets[index], self.image_ids[index]
        sample: Any = {"targets": targets, "index": index, "image_id": image_id}
        changes = getattr(self.augment, "changes", None)
        if self.raw and changes and seed is not None:
            sample |= changes.draw(seed, self.cache.images.shape[1])
        if self.resident:
            return cast("Sample", sample | {"image": int(self.rows[index])})
        image = self.square(self.rows[index])
        if self.augment is not None and seed is not None and not (self.raw and changes):
            image = self.augment(image, seed)
        pixels = torch.from_numpy(np.ascontiguousarray(image)).unsqueeze(0)  # (1, H, W)
        sample["image"] = pixels if self.raw else pixels.to(torch.float32).div_(255)
        return cast("Sample", sample)

    def square(self, row: int) -> Image:
        """An image of the cache, (S, S) uint8, as it is before augmentation."""
        image = self.cache.square(row)
        return equalise(image) if self.clahe else image


def default_workers(cores: int, on_gpu: bool) -> int:
    """Loader processes: up to 8 feed a GPU; none takes a core from training on a CPU."""
    return min(8, max(1, cores - 1)) if on_gpu else 0


class XrayDataModule(pl.LightningDataModule):
    """Batches of a data set.

    Args:
        source: the data set.
        split: makes the split from (records, official lists); default: by patient, 70/10/20 %.
        sampler: plan of the training images of an epoch, see :mod:`.samplers`.
        image_size: side of the square images the network sees, in pixels.
        batch_size: images a batch, in each process.
        augment: random change of training images, called with (image, seed).
        clahe: equalise the histogram of every image, in every subset.
        workers: loader processes; None: 0 on a CPU, up to 8 beside a GPU.
        resident: "true" keeps all images on the GPU that trains, "auto" where a quarter of its free
            memory is enough and nothing is left for a CPU to do with them; "false" never.
        cache_dir: folder of the decoded images.
        cache_local: folder of a copy of them, on this machine's own disk, to read instead.
        seed: order of the training images and their augmentation.
        permute_labels: permute the targets among the training images, by the seed: a control for
            heat maps, which must then look otherwise (Adebayo et al. 2018, section 4.2).

    Raises:
        ConfigError: a setting is not a whole number, or too small; ``resident`` beside a CPU that
            augments.
        MissingImagesError: images are not on disk and the source does not allow that.
        SplitError: the split is empty or shares patients.
    """

    def __init__(
        self,
        source: Source,
        *,
        split: Splitter = patient_split,
        sampler: Plan = uniform_sampler,
        image_size: int = 224,
        batch_size: int = 32,
        augment: Augment | None = None,
        clahe: bool = False,
        workers: int | None = None,
        cache_dir: str | Path = "outputs/cache",
        cache_local: str | Path | None = None,
        resident: str | bool = "auto",
        seed: int = 0,
        permute_labels: bool = False,
    ) -> None:
        super().__init__()
        require_integer("image_size", image_size, 8)
        require_integer("batch_size", batch_size, 1)
        require_integer("workers", 0 if workers is None else workers, 0)
        for name, made in {"split": split, "sampler": sampler, "augment": augment}.items():
            if not (made is None or callable(made)):
                raise ConfigError(fault("no_function", name, made))
        self.source, self.labels = source, source.labels
        self.image_size, self.batch_size, self.seed = image_size, batch_size, seed
        self.augment, self.clahe, self.permute_labels = augment, clahe, permute_labels
        self.sampler, self.workers = sampler, workers
        self.cache_dir, self.cache_local = cache_dir, cache_local
        self.resident, self.augment_on = str(resident).lower(), getattr(augment, "on", "auto")
        require_choice("resident", self.resident, ("auto", "true", "false"))
        self.by_cpu = getattr(augment, "by_cpu", augment is not None)  # what augments
        if self.by_cpu and self.resident == "true":
            raise ConfigError(fault("resident_augmented"))
        self.records = readable_records(source)
        self.split = split_source(source, split, self.records)
        self.next_epoch = 0
        self._kept: Tensor | None = None  # all images, where the training device has them

    @cached_property
    def cache(self) -> ImageCache:
        """The images of all records; opening it decodes those that are not there yet."""
        keep = partial(open_cache, root=self.cache_dir, local=self.cache_local)
        return keep(self.source, self.records, size=self.image_size)

    @cached_property
    def targets(self) -> npt.NDArray[np.float32]:
        """Targets of all records, (N, L)."""
        return target_matrix(self.records)

    def keep_labels(self, labels: Sequence[str]) -> None:
        """Go on with some of the labels alone; the split stays."""
        self.source = select_labels(self.source, labels)
        self.labels, self.records = self.source.labels, readable_records(self.source)
        self.__dict__.pop("targets", None)

    def subset_records(self, subset: str) -> list[Record]:
        """The records of "train", "val" or "test"."""
        return [self.records[index] for index in self.split.subsets[subset]]

    def subset_targets(self, subset: str, *, shares: bool = False) -> npt.NDArray[np.float32]:
        """Targets of one subset, (n, L), NaN where unknown; ``shares``: as training sees them."""
        targets = target_matrix(self.records, shares=True) if shares else self.targets
        targets = targets[self.split.subsets[subset]]
        if subset == "train" and self.permute_labels:
            return np.random.default_rng(self.seed).permutation(targets)
        return targets

    def positive_weight(self) -> Tensor:
        """Weight (N - n) / n of the positives of each label in the training set, (L,).

        NaN for a label without positives: its weight is undefined.
        """
        absent, present = self.class_counts().double()
        weight: Tensor = absent / present.masked_fill(present == 0, torch.nan)
        return weight.float()

    def class_counts(self) -> Tensor:
        """Images of the training set known to be without and with each label, (2, L), int64."""
        targets = torch.from_numpy(self.subset_targets("train"))
        return torch.stack([(targets == 0).sum(dim=0), (targets == 1).sum(dim=0)])

    def ancestors(self) -> Tensor:
        """Whether label j is a wider finding of which label i is one kind, (L, L), by labels.yaml.

        Raises:
            ConfigError: no label is a kind of another.
        """
        wider = find_ancestors(self.labels)
        if not wider:
            raise ConfigError(fault("no_hierarchy", self.labels))
        rows = [[other in wider.get(label, ()) for other in self.labels] for label in self.labels]
        return torch.tensor(rows)

    def complete_loss(self, loss: nn.Module | partial[nn.Module]) -> nn.Module:
        """The loss; a partial one gets those of ``STATISTICS`` that it has parameters for."""
        if isinstance(loss, nn.Module):
            return loss
        wanted = inspect.signature(loss).parameters.keys() & set(STATISTICS)
        return loss(**{name: getattr(self, name)() for name in wanted})

    def labels_without_positives(self, subset: str) -> list[str]:
        """Labels that no image of a subset carries; their AUROC is undefined."""
        counts = (self.subset_targets(subset) == 1).sum(axis=0)
        return [label for label, count in zip(self.labels, counts, strict=True) if count == 0]

    @property
    def preprocessing(self) -> dict[str, int | bool]:
        """What turns a decoded image into the network's input, as plain values."""
        return {"image_size": self.image_size, "clahe": self.clahe}

    def draw_targets(self, epochs: int = 1) -> npt.NDArray[np.float32]:
        """Targets of the images of the first epochs as the sampler draws them, (M, L); no pixels.

        Raises:
            ConfigError: the sampler refuses its settings.
            DataError: the sampler cannot draw from this training set.
        """
        plan = self._plan()
        orders = [plan(np.random.default_rng((self.seed, epoch))) for epoch in range(epochs)]
        return self.subset_targets("train")[np.concatenate(orders)]

    def _plan(self) -> Callable[[np.random.Generator], Indices]:
        records = self.subset_records("train")
        patients = [record.patient_id for record in records]
        wanted = inspect.signature(self.sampler).parameters
        more = {"hospitals": [r.hospital for r in records]} if "hospitals" in wanted else {}
        return partial(self.sampler, self.subset_targets("train"), patients, **more)

    def require_images(self, world: int) -> None:
        """Refuse to share a subset among more processes than it has images.

        Each needs a batch: with the first one DDP takes over the first process's running statistics
        of batch norm, which differ between processes while they train.

        Raises:
            ConfigError: names the subset and both numbers.
        """
        for subset in SUBSETS:
            if (count := len(self.split.subsets[subset])) < world:
                raise ConfigError(fault("fewer_images", world, count, subset))

    def require_trainer(self, trainer: pl.Trainer) -> None:
        """As :meth:`require_images`; and refuse a GPU's work on a CPU, and no validation at all."""
        self.require_images(trainer.world_size)
        if trainer.limit_val_batches == 0:
            raise ConfigError("limit_val_batches=0: validation chooses the checkpoint, leave some")
        on_gpu = trainer.strategy.root_device.type == "cuda"
        if not on_gpu and (self.augment_on == "gpu" or self.resident == "true"):
            raise ConfigError(fault("without_gpu", self.augment_on, self.resident))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Do what a loader left to the training device."""
        images = batch["image"]
        if self._kept is not None and images.dtype == torch.int64:
            images = self._kept[images]
        images = images.float().div_(255) if images.dtype == torch.uint8 else images
        drawn = {name: batch.pop(name) for name in ("places", "blurs") if name in batch}
        return batch | {"image": change(images, **drawn) if drawn else images}

    def _feed(self, loader: DataLoader[Sample], *, keep: bool = False) -> DataLoader[Sample]:
        """A loader whose batches go through :meth:`on_after_batch_transfer`, if Lightning asks."""
        if self.trainer is None or self.trainer.state.status != TrainerStatus.RUNNING:
            return loader  # by hand
        dataset, device = cast("XrayDataset", loader.dataset), self.trainer.strategy.root_device
        on_gpu = device.type == "cuda"
        dataset.raw = self.augment_on == "gpu" or (on_gpu and self.augment_on == "auto")
        kept = self._kept is not None and self._kept.device == device
        if keep and dataset.raw and not (kept or self.by_cpu or self.resident == "false"):
            room = torch.cuda.mem_get_info(device)[0] / 4 if on_gpu else 0
            if kept := self.resident == "true" or math.prod(self.cache.images.shape) <= room:
                self._kept = keep_images(dataset.square, len(self.records), device)
        dataset.resident = dataset.raw and kept
        return loader

    def prepare_data(self) -> None:
        """Decode the images that are not in the cache yet; one process does, the others wait."""
        _ = self.cache

    def setup(self, stage: str | None = None) -> None:
        """Open the cache; raises as :meth:`require_images`, of the trainer's processes."""
        self.require_images(self._place()[1])
        self.prepare_data()

    def _place(self) -> tuple[int, int]:
        """Rank of this process and number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def dataset(self, subset: str) -> XrayDataset:
        """The samples of "train", "val" or "test"; only training samples can be augmented."""
        require_choice("subset", subset, SUBSETS)
        self.setup()
        training = subset == "train"
        ids = [record.image_id for record in self.subset_records(subset)]
        targets = torch.from_numpy(self.subset_targets(subset, shares=training))
        augment, rows = self.augment if training else None, self.split.subsets[subset]
        return XrayDataset(ids, targets, self.cache, rows, augment, self.clahe)

    def write_litdata(self, folder: str | Path) -> None:
        """Write the cached squares as LitData shards, a folder for each subset, and data.json.

        A sample holds image (S, S) uint8, targets (L,) float32 (NaN where unknown), image_id,
        patient_id and subset. data.json, written last, names the labels and the split.

        Raises:
            ConfigError: litdata is not installed; the folder cannot be written to, or holds files.
        """
        try:
            from litdata.streaming import Cache
        except ImportError as error:
            raise ConfigError(f'no {error.name}: pip install "xray_lightning[litdata]"') from error
        if any((folder := prepare_folder(Path(folder))).iterdir()):
            raise ConfigError(f"{folder} is not empty: name a new folder for the shards")
        cache, done = self.cache, 0
        with show_progress("writing shards", unit="images") as report:
            for subset, rows in self.split.subsets.items():
                shards = Cache(str(folder / subset), chunk_bytes="64MB")
                for place, row in enumerate(rows.tolist()):
                    record, image = self.records[row], cache.square(row)
                    told = {"image_id": record.image_id, "patient_id": record.patient_id}
                    targets = np.array(record.targets, np.float32)
                    shards[place] = {"image": image, "targets": targets, "subset": subset, **told}
                    report(done := done + 1, len(self.records))
                shards.done()
                shards.merge()  # its index
        about = {"data": self.source.title, "labels": self.labels, "image_size": self.image_size}
        write_json(about | {"split": describe_split(self.split)}, folder / "data.json")

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled, augmented batches; the order depends on (seed, epoch) alone.

        The sampler starts at a resumed run's next epoch: its workers begin to load before
        Lightning tells the sampler which epoch it is.
        """
        dataset = self.dataset("train")
        rank, world = self._place()
        settings = {"batch_size": self.batch_size, "seed": self.seed, "rank": rank, "world": world}
        sampler = EpochSampler(self._plan(), len(dataset), **settings)
        sampler.set_epoch(max(self.next_epoch, self.trainer.current_epoch if self.trainer else 0))
        return self._feed(self._loader(dataset, sampler), keep=True)

    def state_dict(self) -> dict[str, int]:
        """The epoch that follows the one just trained; part of the checkpoint."""
        return {"next_epoch": self.trainer.current_epoch + 1 if self.trainer else 0}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take the epoch to go on with."""
        self.next_epoch = state_dict["next_epoch"]

    def val_dataloader(self) -> DataLoader[Sample]:
        """This process's share of the validation set, see :meth:`evaluation_loader`."""
        return self._feed(self.evaluation_loader("val", *self._place()))

    def test_dataloader(self) -> DataLoader[Sample]:
        """This process's share of the test set, see :meth:`evaluation_loader`."""
        return self._feed(self.evaluation_loader("test", *self._place()))

    def evaluation_loader(self, subset: str, rank: int = 0, world: int = 1) -> DataLoader[Sample]:
        """Every world-th image of a subset in table order, unaugmented: each in one process only.

        Raises as :meth:`require_images`.
        """
        self.require_images(world)
        dataset = self.dataset(subset)
        return self._loader(dataset, Shard(len(dataset), rank=rank, world=world))

    def _loader(self, dataset: XrayDataset, sampler: EpochSampler | Shard) -> DataLoader[Sample]:
        on_gpu = torch.cuda.is_available()
        workers = self.workers
        if workers is None:
            here = self.trainer.num_devices if self.trainer else 1  # processes share the cores
            workers = default_workers((os.cpu_count() or 1) // here, on_gpu)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=workers,
            pin_memory=on_gpu,
            generator=torch.Generator(),  # an iterator draws a number: not from dropout's stream
            persistent_workers=workers > 0,
        )
