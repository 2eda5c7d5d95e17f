"""The images of a study, and maps and scores of a network on them, in batches."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xray_lightning.errors import ConfigError
from xray_lightning.explain.grid import Grids
from xray_lightning.explain.sanity.verdicts import Sample
from xray_lightning.metrics.bootstrap import Floats

# Map (B, h, w) of one label, from a network and images (B, 1, S, S) on its device.
Explain = Callable[[Any, Tensor], Tensor]


@dataclass
class Study:
    """N images, and what is done with them; each method goes through them once.

    Attributes:
        images: (N, 1, S, S) in [0, 1], on the CPU.
        sample: their patients.
        explain: the method under test.
        batch: images at a time, at least 2 (a batch norm learns nothing from one).
        advance: told how many images were done.
        grids: where the cells of the maps see the image.
        maps_made: images explained so far.
        scores_made: images scored so far.
        shape: of the maps, once there is one.
    """

    images: Tensor
    sample: Sample
    explain: Explain
    batch: int
    advance: Callable[[int], None]
    grids: Grids = field(default_factory=dict)
    maps_made: int = 0
    scores_made: int = 0
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.ndim != 4 or shape[1] != 1 or shape[2] != shape[3]:
            raise ConfigError(f"expected images of shape (N, 1, S, S), got {shape}")
        if shape[0] != len(self.sample.codes):
            raise ConfigError(f"{shape[0]} images, but {len(self.sample.codes)} patients' ids")
        if self.batch < 2:
            raise ConfigError(f"batch must be at least 2, got {self.batch}")

    def maps(self, net: nn.Module, images: Tensor | None = None) -> Floats:
        """Maps (N, h, w) of the study's images, or of others of their shape.

        Raises:
            ConfigError: the method gives no map for each image, or maps of another size than
                before (all networks must be of one architecture).
        """
        found = []
        for batch in self.batches(net, images):
            made = self.explain(net, batch).detach()
            self.shape = self.shape or made.shape[1:]
            if made.ndim != 3 or made.shape != (len(batch), *self.shape):
                raise ConfigError(
                    f"a map method must give (B, h, w), in one study of one size; of {len(batch)} "
                    f"images it gave {tuple(made.shape)}, first {tuple(self.shape)}"
                )
            found.append(made.double().cpu().numpy())
            self.maps_made += len(batch)
            self.advance(len(batch))
        return np.concatenate(found)

    @torch.no_grad()
    def scores(self, net: nn.Module, label: int, images: Tensor | None = None) -> Floats:
        """Scores (N,) of one label, after the sigmoid.

        Raises:
            ConfigError: a label the network does not have.
        """
        found = []
        for batch in self.batches(net, images):
            logits = net(batch)
            if not 0 <= label < logits.shape[1]:
                raise ConfigError(f"label must be 0 to {logits.shape[1] - 1}, got {label}")
            found.append(logits[:, label].double().sigmoid().cpu().numpy())
            self.scores_made += len(batch)
            self.advance(len(batch))
        return np.concatenate(found)

    def batches(self, net: nn.Module, images: Tensor | None = None) -> Iterator[Tensor]:
        """The images on the network's device; no batch has fewer than ``batch`` if all have."""
        images = self.images if images is None else images
        device = next(net.parameters()).device
        for part in images.tensor_split(max(1, len(images) // self.batch)):
            yield part.to(device)


def copied(net: nn.Module) -> nn.Module:
    """A copy in evaluation mode: whatever a method does to it, the network is left alone."""
    return copy.deepcopy(net).eval()
