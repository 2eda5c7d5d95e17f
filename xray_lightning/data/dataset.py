"""Samples and their order, both a function of (seed, epoch, index) alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from xray_lightning.data.cache import ImageCache
from xray_lightning.data.transforms import equalise
from xray_lightning.records import Record, target_matrix

Image = npt.NDArray[np.uint8]
Augment = Callable[[Image, int], Image]
SampleKey = tuple[int, int]  # position in the data set, seed of its augmentation


class Sample(TypedDict):
    """One image; in a batch every entry has a leading dimension B.

    Attributes:
        image: (1, H, W) float32 in [0, 1].
        targets: (L,) float32, NaN where unknown.
        index: position in the data set's part.
        image_id: the record's id.
    """

    image: Tensor
    targets: Tensor
    index: int
    image_id: str


class Batch(TypedDict):
    """B samples: image (B, 1, H, W), targets (B, L), index (B,), image_id B strings."""

    image: Tensor
    targets: Tensor
    index: Tensor
    image_id: list[str]


class XrayDataset(Dataset[Sample]):
    """Cached images of some records.

    Args:
        records: the N records.
        cache: the cached pixels, (M, H, W) uint8; a spawned worker gets its path, not the pixels.
        rows: row of the cache for each record, (N,).
        augment: called with (image, seed) if the key carries a seed; None: no augmentation.
        clahe: equalise the histogram first.
    """

    def __init__(
        self,
        records: Sequence[Record],
        cache: ImageCache,
        rows: npt.NDArray[np.int64],
        *,
        augment: Augment | None = None,
        clahe: bool = False,
    ) -> None:
        self.image_ids = [record.image_id for record in records]
        self.targets = torch.from_numpy(target_matrix(records))  # (N, L)
        self.cache = cache
        self.rows = rows
        self.augment = augment
        self.clahe = clahe

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, key: int | SampleKey) -> Sample:
        index, seed = key if isinstance(key, tuple) else (key, None)
        image = np.array(self.cache.images[self.rows[index]])  # a copy: the map is read-only
        if self.clahe:
            image = equalise(image)
        if self.augment is not None and seed is not None:
            image = self.augment(image, seed)
        pixels = torch.from_numpy(np.ascontiguousarray(image)).unsqueeze(0)  # (1, H, W)
        return {
            "image": pixels.to(torch.float32).div_(255),
            "targets": self.targets[index],
            "index": index,
            "image_id": self.image_ids[index],
        }


class EpochSampler(Sampler[SampleKey]):
    """A new order and new augmentation seeds each epoch, derived from (seed, epoch) alone.

    A last batch of one image is left out of the epoch (batch norm cannot train on it); another
    image is left out the next time.

    Args:
        length: number of samples N.
        batch_size: images a batch, to know the size of the last one.
        seed: the run's seed.
        rank: number of this process.
        world: number of processes; each gets an equal share.
    """

    def __init__(
        self, length: int, *, batch_size: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        share = length // world
        self.share = share - 1 if share % batch_size == 1 and share > 1 else share
        self.length, self.seed, self.rank, self.world = length, seed, rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.share

    def __iter__(self) -> Iterator[SampleKey]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(self.length)
        seeds = generator.integers(2**31, size=self.length)  # seeds[i] belongs to sample i
        for index in order[self.rank :: self.world][: self.share].tolist():
            yield index, int(seeds[index])
