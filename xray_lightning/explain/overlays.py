"""Images of a data set under their heat maps, and everything that is drawn of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.geometry import Rectangle, box_to_square
from xray_lightning.explain.choice import Floats, Place
from xray_lightning.explain.grid import Grids, grid_of
from xray_lightning.explain.maps import cell_grids, class_maps
from xray_lightning.models.network import XrayNet
from xray_lightning.writing import open_replacing

BATCH = 16  # images a pass


@dataclass(frozen=True, eq=False)
class Overlay:
    """One image, and the map of one finding over this very image."""

    image_id: str  # its id
    label: str  # the finding
    image: Floats  # (S, S) in [0, 1]
    heat: Floats  # the finding's map, (h, w)
    boxes: tuple[Rectangle, ...]  # of the finding, x, y, width, height in pixels of the image
    score: float  # of the finding
    target: float  # 1 present, 0 absent, NaN unknown
    grids: Grids = field(default_factory=dict)  # where the cells of the map see the image
    mark: str = ""  # a word in its caption


def make_overlays(
    net: XrayNet,
    data: XrayDataModule,
    subset: str,
    places: Sequence[Place],
    scores: Floats,
    *,
    method: str = "cam",
) -> list[Overlay]:
    """Images of a subset, each with its own map, boxes, score (of (n, L)) and target."""
    grids = cell_grids(net, data.image_size)
    records, targets = data.subset_records(subset), data.subset_targets(subset)
    overlays = []
    for (row, label), image, heat in iterate_maps(net, data, subset, places, method=method):
        column, boxes = data.labels.index(label), square_boxes(data, subset, row, label)
        score, target = float(scores[row, column]), float(targets[row, column])
        image_id = records[row].image_id
        overlays.append(Overlay(image_id, label, image, heat, boxes, score, target, grids))
    return overlays


def iterate_maps(
    net: XrayNet, data: XrayDataModule, subset: str, places: Sequence[Place], *, method: str = "cam"
) -> Iterator[tuple[Place, Floats, Floats]]:
    """Each place with its image (S, S) in [0, 1] and map (h, w), a batch at a time."""
    dataset, device = data.dataset(subset), next(net.parameters()).device
    for start in range(0, len(places), BATCH):
        batch = places[start : start + BATCH]
        images = torch.stack([dataset[row]["image"] for row, _ in batch])  # (B, 1, S, S)
        labels = sorted({label for _, label in batch})
        maps = class_maps(net, images.to(device), labels=labels, method=method)  # (B, K, h, w)
        heats = maps.float().cpu().numpy()
        for number, place in enumerate(batch):
            yield place, images[number, 0].numpy(), heats[number, labels.index(place[1])]


def square_boxes(data: XrayDataModule, subset: str, row: int, label: str) -> tuple[Rectangle, ...]:
    """The boxes of a finding in pixels of the square the network sees."""
    record = data.subset_records(subset)[row]
    frame = record.box_frame
    if frame is None:
        dataset = data.dataset(subset)
        height, width = dataset.cache.sizes[dataset.rows[row]].tolist()
        frame = width, height
    return tuple(
        box_to_square((box.x, box.y, box.width, box.height), frame, data.image_size)
        for box in record.boxes
        if box.label == label
    )


def write_maps(overlays: Sequence[Overlay], path: Path) -> None:
    """Raw maps of N overlays: arrays image_id, label, score, target (N,), and maps (N, h, w).

    Cell i of a side sees the image around pixel first + i * step, both (N,).
    Boxes are rows of x, y, width, height in pixels of the square image, (M, 4), with the overlay
    each belongs to in box_of, (M,).
    """
    heats = [overlay.heat for overlay in overlays]
    boxes = [(number, *box) for number, overlay in enumerate(overlays) for box in overlay.boxes]
    grids = [grid_of(len(one.heat), len(one.image), one.grids) for one in overlays]
    table = np.array(boxes, dtype=np.float64).reshape(-1, 5)
    with open_replacing(path, "wb") as file:
        np.savez(
            file,
            image_id=np.array([overlay.image_id for overlay in overlays], dtype=np.str_),
            label=np.array([overlay.label for overlay in overlays], dtype=np.str_),
            score=np.array([overlay.score for overlay in overlays], dtype=np.float32),
            target=np.array([overlay.target for overlay in overlays], dtype=np.float32),
            maps=np.stack(heats) if heats else np.empty((0, 0, 0), np.float32),
            first=np.array([grid.first for grid in grids]),
            step=np.array([grid.step for grid in grids]),
            boxes=table[:, 1:],
            box_of=table[:, 0].astype(np.int64),
        )
