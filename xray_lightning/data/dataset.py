"""Samples, a function of (seed, index) alone."""

from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from xray_lightning.data.cache import ImageCache
from xray_lightning.data.samplers import SampleKey
from xray_lightning.data.transforms import equalise
from xray_lightning.records import Record, target_matrix

Image = npt.NDArray[np.uint8]
Augment = Callable[[Image, int], Image]


class Sample(TypedDict):
    """One image; in a batch every entry has a leading dimension B."""

    image: Tensor  # (1, H, W) float32 in [0, 1]
    targets: Tensor  # (L,) float32, NaN where unknown
    index: int  # position in the subset
    image_id: str  # the record's id


class Batch(TypedDict):
    """B samples: image (B, 1, H, W), targets (B, L), index (B,), image_id B strings."""

    image: Tensor
    targets: Tensor
    index: Tensor
    image_id: list[str]


class XrayDataset(Dataset[Sample]):
    """Cached images of some records."""

    def __init__(
        self,
        records: Sequence[Record],  # N
        cache: ImageCache,  # (M, S, S) uint8; a spawned worker gets its path, not the pixels
        rows: npt.NDArray[np.int64],  # of the cache for each record, (N,)
        *,
        augment: Augment | None = None,  # called with (image, seed) if the key carries a seed
        clahe: bool = False,  # equalise the histogram first
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
        image = self.cache.square(self.rows[index])
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
