"""Images of a data set under their heat maps: which ones, and everything that is drawn of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.geometry import box_to_square
from xray_lightning.errors import ConfigError
from xray_lightning.explain.grid import Grids
from xray_lightning.explain.maps import cell_grids, class_maps
from xray_lightning.models.network import XrayNet

Box = tuple[float, float, float, float]  # x, y, width, height
Floats = npt.NDArray[np.float32]
Place = tuple[int, str]  # row of a part, and the finding whose map is shown

CHOICES = {
    "fixed": "the first images with the finding",
    "confident": "the highest scores of the finding",
    "errors": "the lowest scores with the finding and the highest without, in turn",
    "boxes": "the first images with a box of the finding",
}
BATCH = 16  # images a pass


@dataclass(frozen=True, eq=False)
class Overlay:
    """One image, and the map of one finding over this very image.

    Attributes:
        image_id: its id.
        label: the finding.
        image: (S, S) in [0, 1].
        heat: the finding's map, (h, w).
        boxes: of the finding, x, y, width, height in pixels of the image.
        score: of the finding.
        target: 1 present, 0 absent, NaN unknown.
        grids: where the cells of the map see the image.
    """

    image_id: str
    label: str
    image: Floats
    heat: Floats
    boxes: tuple[Box, ...]
    score: float
    target: float
    grids: Grids = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """Which images are looked at; by a rule, never by hand.

    Args:
        rule: a key of ``CHOICES``.
        images: how many of each finding.
        labels: the findings; None: all of the data.

    Raises:
        ConfigError: an unknown rule, or a number out of range.
    """

    rule: str = "fixed"
    images: int = 2
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.rule not in CHOICES:
            raise ConfigError(f"rule must be one of {', '.join(CHOICES)}, got {self.rule!r}")
        if not isinstance(self.images, int) or self.images < 1:
            raise ConfigError(f"images must be an integer of at least 1, got {self.images!r}")

    def require_labels(self, known: Sequence[str]) -> None:
        """Refuse findings the data does not have.

        Raises:
            ConfigError: names them.
        """
        if unknown := sorted(set(self.labels or ()) - set(known)):
            raise ConfigError(f"labels must be of {', '.join(known)}, got {', '.join(unknown)}")

    def places(self, data: XrayDataModule, subset: str, scores: Floats) -> list[Place]:
        """The images of a part by the rule, finding by finding; fewer where there are no more.

        An image whose scores, (n, L) of the part, are NaN is not chosen by them.

        Raises:
            ConfigError: the data has no such label.
        """
        self.require_labels(data.labels)
        targets = data.subset_targets(subset)
        boxed = [{box.label for box in record.boxes} for record in data.subset_records(subset)]
        places = []
        for label in self.labels or data.labels:
            column = data.labels.index(label)
            has_box = np.array([label in names for names in boxed])
            rows = chosen_rows(self.rule, scores[:, column], targets[:, column], has_box)
            places += [(int(row), label) for row in rows[: self.images]]
        return places


def chosen_rows(
    rule: str, scores: Floats, targets: Floats, has_box: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Rows of one finding in the order a rule takes them; equal scores in table order.

    Scores, targets (NaN unknown) and ``has_box`` are (n,).

    >>> chosen_rows("errors", np.array([0.9, 0.1, 0.8, 0.2]), np.array([1, 1, 0, 0]), np.zeros(4))
    array([1, 2, 0, 3])
    """
    present, scored = np.flatnonzero(targets == 1), ~np.isnan(scores)
    if rule == "fixed":
        return present
    if rule == "boxes":
        return np.flatnonzero(has_box)
    if rule == "confident":
        known = np.flatnonzero(scored)
        return known[np.argsort(-scores[known], kind="stable")]
    present, absent = present[scored[present]], np.flatnonzero((targets == 0) & scored)
    missed = present[np.argsort(scores[present], kind="stable")]
    false = absent[np.argsort(-scores[absent], kind="stable")]
    turns = np.concatenate([2 * np.arange(len(missed)), 2 * np.arange(len(false)) + 1])
    return np.concatenate([missed, false])[np.argsort(turns, kind="stable")]


def overlays(
    net: XrayNet,
    data: XrayDataModule,
    subset: str,
    places: Sequence[Place],
    scores: Floats,
    *,
    method: str = "cam",
) -> list[Overlay]:
    """Images of a part as the network sees them, each with its own map, boxes, score and target.

    ``scores`` (n, L) are those of the part; the methods are those of
    :func:`~xray_lightning.explain.class_maps`.
    """
    seen = looked_at(net, data, subset, places, method=method)
    grids = cell_grids(net, data.image_size)
    return [
        _overlay(data, subset, place, scores, image=image, heat=heat, grids=grids)
        for place, image, heat in seen
    ]


def looked_at(
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


def square_boxes(data: XrayDataModule, subset: str, row: int, label: str) -> tuple[Box, ...]:
    """The boxes of a finding in pixels of the square the network sees."""
    record = data.records[data.split.subsets[subset][row]]
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


def _overlay(
    data: XrayDataModule,
    subset: str,
    place: Place,
    scores: Floats,
    *,
    image: Floats,
    heat: Floats,
    grids: Grids,
) -> Overlay:
    row, label = place
    column = data.labels.index(label)
    return Overlay(
        image_id=data.subset_records(subset)[row].image_id,
        label=label,
        image=image,
        heat=heat,
        boxes=square_boxes(data, subset, row, label),
        score=float(scores[row, column]),
        target=float(data.subset_targets(subset)[row, column]),
        grids=grids,
    )
