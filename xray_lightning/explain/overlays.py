"""Heat maps of images that are chosen by a rule, never by hand: after each epoch, and in files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger

from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.geometry import Rectangle, box_to_square, pad_square
from xray_lightning.data.source import Mask, Source
from xray_lightning.errors import ConfigError, DataError, require_choice, require_integer
from xray_lightning.explain import maps
from xray_lightning.explain.localisation import BOXES, MASKS, AnnotatedMaps, Boxes
from xray_lightning.metrics.localisation import Heat, Region, pointing_game, region_of
from xray_lightning.models.network import XrayNet
from xray_lightning.records import Record
from xray_lightning.wording import fault, tell
from xray_lightning.writing import open_replacing, save_figure

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Place = tuple[int, str]  # row of a subset, and the finding whose map is shown

RULES = ("fixed", "confident", "errors", "boxes")  # of a finding's heat maps
BATCH = 16  # images a pass


def order_rows(rule: str, scores: Floats, targets: Floats, has_box: Mask) -> Rows:
    """Rows of one finding in the order one of ``RULES`` takes them, by scores and targets (n,)."""
    if rule in ("fixed", "boxes"):
        return np.flatnonzero(targets == 1 if rule == "fixed" else has_box)
    scored = int((~np.isnan(scores)).sum())  # the others come last
    lowest, highest = (np.argsort(keys, kind="stable")[:scored] for keys in (scores, -scores))
    if rule == "confident":
        return highest
    missed, false = lowest[targets[lowest] == 1], highest[targets[highest] == 0]
    turns = np.concatenate([2 * np.arange(len(missed)), 2 * np.arange(len(false)) + 1])
    return np.concatenate([missed, false])[np.argsort(turns, kind="stable")]


@dataclass(frozen=True)
class Choice:
    """Which images heat maps are drawn of; a ConfigError for an unknown rule, or images below 1."""

    rule: str = "fixed"  # of ``RULES``
    images: int = 2  # of each finding
    labels: tuple[str, ...] | None = None  # the findings; None: all of the data

    def __post_init__(self) -> None:
        require_choice("rule", self.rule, RULES)
        require_integer("images", self.images, 1)

    def require_labels(self, known: Sequence[str]) -> None:
        """Refuse findings the data does not have with a ConfigError."""
        if unknown := sorted(set(self.labels or ()) - set(known)):
            raise ConfigError(f"labels must be of {', '.join(known)}, got {', '.join(unknown)}")

    def places(self, data: XrayDataModule, subset: str, scores: Floats) -> list[Place]:
        """The images of a subset by the rule, finding by finding; fewer where there are no more."""
        self.require_labels(data.labels)
        targets, places = data.subset_targets(subset), []
        boxed = [{box.label for box in record.boxes} for record in data.subset_records(subset)]
        for label in self.labels or data.labels:
            column = data.labels.index(label)
            has_box = np.array([label in labels for labels in boxed], dtype=np.bool_)
            rows = order_rows(self.rule, scores[:, column], targets[:, column], has_box)
            places += [(row, label) for row in rows[: self.images].tolist()]
        return places


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
    grids: maps.Grids = field(default_factory=dict)  # where the cells of the map see the image
    mark: str = ""  # a word in its caption


def make_overlays(
    net: XrayNet,
    data: XrayDataModule,
    subset: str,
    places: Sequence[Place],
    scores: Floats,
    *,
    method: str = "cam",
    heats: Iterable[Floats] | None = None,  # the maps, where they are made already
) -> list[Overlay]:
    """Images of a subset, each with its own map, boxes, score (of (n, L)) and target."""
    heats = iterate_maps(net, data, subset, places, method=method) if heats is None else heats
    grids = maps.cell_grids(net, data.image_size)
    records, targets = data.subset_records(subset), data.subset_targets(subset)
    dataset, overlays = data.dataset(subset), []
    for (row, label), heat in zip(places, heats, strict=True):
        column, boxes = data.labels.index(label), square_boxes(data, subset, row, label)
        score, target = float(scores[row, column]), float(targets[row, column])
        image_id, image = records[row].image_id, dataset[row]["image"][0].numpy()
        overlays.append(Overlay(image_id, label, image, heat, boxes, score, target, grids))
    return overlays


def iterate_maps(
    net: XrayNet, data: XrayDataModule, subset: str, places: Sequence[Place], *, method: str = "cam"
) -> Iterator[Floats]:
    """The map (h, w) of each place, made a batch at a time."""
    dataset, device = data.dataset(subset), next(net.parameters()).device
    for start in range(0, len(places), BATCH):
        batch = places[start : start + BATCH]
        images = torch.stack([dataset[row]["image"] for row, _ in batch])  # (B, 1, S, S)
        labels = sorted({label for _, label in batch})
        made = maps.class_maps(net, images.to(device), labels=labels, method=method)
        heats = made.float().cpu().numpy()  # (B, K, h, w)
        for number, (_, label) in enumerate(batch):
            yield heats[number, labels.index(label)]


def square_boxes(data: XrayDataModule, subset: str, row: int, label: str) -> tuple[Rectangle, ...]:
    """The boxes of a finding in pixels of the square the network sees."""
    record = data.records[index := data.split.subsets[subset][row]]
    width, height = record.box_frame or data.cache.sizes[index][::-1].tolist()
    own = [(b.x, b.y, b.width, b.height) for b in record.boxes if b.label == label]
    return tuple(box_to_square(box, (width, height), data.image_size) for box in own)


def find_boxed(data: XrayDataModule, subset: str) -> list[Place]:
    """Row and finding of every image with a box, by finding; not where most readers saw none."""
    records = data.subset_records(subset)
    return [
        (row, label)
        for column, label in enumerate(data.labels)
        for row, one in enumerate(records)
        if any(b.label == label and (not b.reader or one.targets[column] != 0) for b in one.boxes)
    ]


def map_annotated(
    net: XrayNet,
    data: XrayDataModule,
    subset: str,
    methods: Sequence[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, AnnotatedMaps]:
    """Maps, boxes and, where the set has them, masks of each finding with boxes in a subset."""
    places = find_boxed(data, subset)
    boxed = {place: square_boxes(data, subset, *place) for place in places}
    for (row, _), own in boxed.items():
        if np.reshape(own, (-1, 2, 2)).sum(axis=1).max() > data.image_size + 1:
            raise DataError(fault("box_beyond", data.subset_records(subset)[row]))
    drawn: dict[str, dict[str, list[Heat]]] = {label: {} for _, label in places}
    for number, method in enumerate(methods):
        made = iterate_maps(net, data, subset, places, method=method)
        for done, ((_, label), heat) in enumerate(zip(places, made, strict=True), 1):
            drawn[label].setdefault(method, []).append(heat)
            progress(number * len(places) + done, len(methods) * len(places))
    annotated, grids = {}, maps.cell_grids(net, data.image_size)
    for label, by_method in drawn.items():
        rows = [row for row, name in places if name == label]
        records = [data.subset_records(subset)[row] for row in rows]
        boxes = [boxed[row, label] for row in rows]
        masks, place = exact_masks(data.source, records, label, boxes, data.image_size)
        stacks = {method: np.stack(heats) for method, heats in by_method.items()}
        patients = [record.patient_id for record in records]
        annotated[label] = AnnotatedMaps(stacks, boxes, patients, masks, grids, place)
    return annotated


def choose_hits(annotated: AnnotatedMaps, method: str, size: int, count: int = 4) -> dict[int, str]:
    """Row -> "hit" or "miss": the first ``count`` whose maximum is in the finding, and is not."""
    pairs = zip(annotated.maps[method], annotated.regions(size), strict=True)
    large = ((maps.enlarge(heat, size, annotated.grids), region) for heat, region in pairs)
    hit = np.array([pointing_game(heat, region) > 0.5 for heat, region in large])
    kinds = {"hit": np.flatnonzero(hit)[:count], "miss": np.flatnonzero(~hit)[:count]}
    return {row: mark for mark, rows in kinds.items() for row in rows.tolist()}


def exact_masks(
    source: Source, records: Sequence[Record], label: str, boxes: Boxes, size: int
) -> tuple[Region | None, str]:
    """Where a finding is, (N, size, size), and in what words; by boxes in images without a mask."""
    drawn = [source.mask(record, label) for record in records]
    masks = [None if mask is None else square_mask(mask, size) for mask in drawn]
    if exact := sum(mask is not None for mask in masks):
        pairs = zip(masks, boxes, strict=True)
        regions = [region_of(own, size) if mask is None else mask for mask, own in pairs]
        some = f"{MASKS} in {exact:,} of {len(masks):,} images, else {BOXES}"
        return np.stack(regions), MASKS if exact == len(masks) else some
    readers = max(len({b.reader for b in one.boxes if b.label == label}) for one in records)
    many = f"{BOXES} by up to {readers} readers an image, each box counting on its own in IoU"
    return None, many if readers > 1 else BOXES


def square_mask(mask: Region, size: int) -> Region:
    """A mask (H, W) on the ``fit_square``, (size, size): pixels it covers by half, else by most."""
    covered = maps.shrink(pad_square(mask.view(np.uint8)), (size, size))
    return np.asarray((covered > 0) & (covered >= min(0.5, covered.max())))


def write_maps(overlays: Sequence[Overlay], path: Path) -> None:
    """Raw maps of N overlays: image_id, label, score, target (N,), maps (N, h, w), boxes (M, 4)."""
    # cell i of a side sees pixel first + i * step, (N,); boxes, in px, are of overlay box_of, (M,)
    heats = [overlay.heat for overlay in overlays]
    boxes = [(number, *box) for number, overlay in enumerate(overlays) for box in overlay.boxes]
    grids = [maps.grid_of(len(one.heat), len(one.image), one.grids) for one in overlays]
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


class HeatMaps(pl.Callback):
    """Draws maps of chosen images to a folder and to TensorBoard, and keeps their raw values.

    Of several processes the first draws; a rule that asks for scores knows those of its own share
    of the images.

    Raises:
        ConfigError: an unknown method, or ``every`` is not an integer of at least 1; at the start
            of a run: a label the data does not have, method "cbam" for a network without gates, or
            another kind of module.
    """

    def __init__(
        self,
        # for ``val_epoch1.png``, ``test.png`` and, beside each, ``.npz`` with the raw maps
        folder: str | Path,
        # makes the figure from overlays and a title
        draw: Callable[[Sequence[Overlay], str], Figure],
        *,
        choice: Choice | None = None,  # of the images
        method: str = "cam",  # of :func:`~xray_lightning.explain.maps.class_maps`
        every: int = 1,  # epochs from one figure to the next
    ) -> None:
        require_integer("every", every, 1)
        maps.require_method(method)
        self.folder, self.draw, self.every = Path(folder), draw, every
        self.choice, self.method = choice or Choice(), method
        self._scores: dict[int, Floats] = {}  # by position in the subset

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be drawn, before training."""
        if stage != "predict":
            net, data = require_xray(trainer, pl_module)
            self.choice.require_labels(data.labels)
            if self.method == maps.GATES:
                net.require_gates()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the scores."""
        self._scores |= zip(batch["index"].tolist(), outputs.float().cpu().numpy(), strict=True)

    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment]  # *_ takes the rest

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the validation set."""
        epoch = trainer.current_epoch + 1
        if not trainer.sanity_checking and epoch % self.every == 0:
            self._draw_scored(trainer, pl_module, "val", f"val_epoch{epoch}")
        self._scores.clear()

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the test set."""
        self._draw_scored(trainer, pl_module, "test", "test")
        self._scores.clear()

    def _draw_scored(
        self, trainer: pl.Trainer, module: pl.LightningModule, subset: str, name: str
    ) -> None:
        if not trainer.is_global_zero:
            return
        net, data = require_xray(trainer, module)
        scores = np.full((len(data.split.subsets[subset]), len(net.labels)), np.nan, np.float32)
        for row, of_image in self._scores.items():
            scores[row] = of_image
        columns = [net.labels.index(label) for label in data.labels]
        figure = self.draw_subset(net, data, subset, scores[:, columns], name)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                step = trainer.global_step
                logger.experiment.add_figure(f"maps/{subset}", figure, step, close=False)

    def draw_subset(
        self, net: XrayNet, data: XrayDataModule, subset: str, scores: Floats, name: str
    ) -> Figure:
        """Draw the chosen images of a subset; the figure and the raw maps go to the folder."""
        places = self.choice.places(data, subset, scores)
        overlays = make_overlays(net, data, subset, places, scores, method=self.method)
        (title,) = tell(__package__, "heat_maps", data, subset, self.method, self.choice.rule)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_maps(overlays, self.folder / f"{name}.npz")
        figure = self.draw(overlays, title)
        save_figure(figure, self.folder / f"{name}.png")
        return figure


def require_xray(trainer: pl.Trainer, module: pl.LightningModule) -> tuple[XrayNet, XrayDataModule]:
    """The network and the data of a run; a ConfigError if they are of other classes."""
    net, data = getattr(module, "net", None), getattr(trainer, "datamodule", None)
    if not isinstance(net, XrayNet) or not isinstance(data, XrayDataModule):
        raise ConfigError(fault("no_xray", type(module).__name__, type(data).__name__))
    return net, data
