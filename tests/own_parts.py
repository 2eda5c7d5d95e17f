"""Parts that a user writes: none of them knows this package, but a data set and a splitter do."""

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from xray_lightning import Box, Record, Source, make_split


class TopMean(nn.Module):
    """A head: mean of the k strongest places."""

    def __init__(self, channels: int, labels: int, *, dropout: float = 0.0, k: int = 3) -> None:
        super().__init__()
        self.k, self.classifier = k, nn.Linear(channels, labels)

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(features.flatten(2).topk(self.k).values.mean(dim=2))


class Small(nn.Module):
    """A network for images of 32 px."""

    def __init__(self, labels: list[str], width: int = 4) -> None:
        super().__init__()
        self.config = {"width": width}
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(len(labels))
        )
        self.layers(torch.zeros(1, 1, 32, 32))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Sized(Small):
    def __init__(self, labels: list[str], image_size: int, width: int) -> None:
        super().__init__(labels, width + image_size - 32)


class OwnLoss(nn.Module):
    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return ((torch.sigmoid(logits) - targets) ** 2).nanmean()


class Count(pl.Callback):
    epochs = 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epochs += 1

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        print(f"a callback of my own counted {self.epochs}")


def brier(scores: np.ndarray, targets: np.ndarray) -> float:
    return float(((scores - targets) ** 2).mean())


class Clinic(Source):
    """A folder of PNG files that are named patient_visit_finding."""

    name = "clinic"
    labels = ("Mass", "Edema")

    def __init__(self, root):
        self.root = Path(root)
        self.records = [self.tell(path) for path in sorted(self.root.glob("*.png"))]

    def tell(self, path):
        targets = tuple(float(label in path.stem) for label in self.labels)
        boxes = (Box("Mass", 4, 2, 8, 6),) if "Mass" in path.stem else ()
        return Record(path.name, path.stem.split("_")[0], targets, path, boxes=boxes)


def split_by_digit(records, official, *, test="5"):
    """Patient p5 tests, p4 validates."""
    homes = {test: "test", "4": "val"}
    subsets = {"train": [], "val": [], "test": []}
    for position, record in enumerate(records):
        subsets[homes.get(record.patient_id[1:], "train")].append(position)
    return make_split("digit", records, subsets, settings={"test": test})


def positives_twice(targets, patients, generator):
    """Every image once, those with a finding twice."""
    ill = np.flatnonzero((targets == 1).any(axis=1))
    return generator.permutation(np.concatenate([np.arange(len(targets)), ill]))
