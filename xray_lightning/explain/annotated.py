"""Maps of a finding on images with boxes of it, and maps that need no network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.geometry import Rectangle, padding
from xray_lightning.data.source import Source
from xray_lightning.errors import ConfigError
from xray_lightning.explain.grid import EVEN, Grids, enlarge, grid_of, shrink
from xray_lightning.explain.maps import cell_grids
from xray_lightning.explain.overlays import Place, choose, iterate_maps, square_boxes
from xray_lightning.metrics.localisation import Heat, Region, pointing_game, region_of
from xray_lightning.models.network import XrayNet
from xray_lightning.records import Record

CONTROLS = ("random", "centre", "mean box", "ceiling")
BOXES, MASKS = "the union of its boxes", "its exact mask"
SIGMA = 0.25  # of the centre Gaussian, as a share of the image's side

Boxes = Sequence[Sequence[Rectangle]]  # of each image: x, y, width, height on the square


@dataclass(frozen=True, eq=False)
class AnnotatedMaps:
    """The N images that have boxes of one finding.

    Args:
        maps: of each method, (N, h, w) float32; methods may differ in h and w.
        boxes: of the finding in each image, in pixels of the square the network sees
            (:func:`~xray_lightning.data.geometry.box_to_square`).
        patients: N ids.
        masks: exact places, (N, S, S) bool; then pointing game, energy and average precision are of
            the mask, all figures of boxes still of the boxes. None: of the union of the boxes,
            whoever drew them; in figures of boxes the box of each reader counts on its own.
        grids: where the cells of the maps see the square.
        place: what these figures take for the place of the finding, in words.

    Raises:
        ConfigError: a mask is empty, or a map holds NaN.
    """

    maps: Mapping[str, Heat]
    boxes: Boxes
    patients: Sequence[str]
    masks: Region | None = None
    grids: Grids = field(default_factory=dict)
    place: str = BOXES

    def __post_init__(self) -> None:
        if self.masks is not None and not self.masks.any(axis=(1, 2)).all():
            raise ConfigError("a mask is empty; leave its image out")
        for name, maps in self.maps.items():
            if wrong := int((~np.isfinite(maps)).sum()):
                raise ConfigError(f"maps of {name!r} must be finite, {wrong} values are not")

    def regions(self, size: int) -> Region:
        """The place of the finding in each image, (N, S, S); a ConfigError for a box outside."""
        if self.masks is None:
            return np.stack([region_of(boxes, size) for boxes in self.boxes])
        return self.masks


def control_maps(
    annotated: AnnotatedMaps, size: int, seed: Sequence[int], sigma: float, others: Boxes | None
) -> dict[str, Heat]:
    """What needs no network, at the resolution of the first method's maps, (N, h, w) each.

    - "random": every cell drawn from [0, 1). Enlarging favours cells at the border, which have
      fewer neighbours to be levelled by, so it points inside a little less often than by area.
    - "centre": a Gaussian on the middle of the image.
    - "mean box": for each cell the share of other images whose boxes cover it.
    - "ceiling": the place itself, brought to h x w and scored like a map: what a map of that
      resolution gets that knows the place. No bound on the energy inside or IoBB: a map that shows
      only the middle of a place can get more. Where another method has another resolution, there
      is "ceiling 28x28" too.

    The mean box is of ``others``, boxes of images of other patients; None: of the other patients in
    ``annotated``; with one patient there is none. ``sigma`` is a share of the square's side.
    """
    shapes = list(dict.fromkeys(maps.shape[1:] for maps in annotated.maps.values()))
    shape, grids, regions = shapes[0], annotated.grids, annotated.regions(size)
    drawn = np.random.default_rng(seed).random((len(regions), *shape), dtype=np.float32)
    middle = centre_gaussian(shape, size, sigma, grids)
    controls = {"random": drawn, "centre": np.broadcast_to(middle, drawn.shape)}
    boxes = annotated.boxes if others is None else others
    cells = np.stack([shrink(region_of(own, size), shape, grids) for own in boxes])
    if others is not None:
        controls["mean box"] = np.broadcast_to(cells.mean(axis=0), drawn.shape)
    elif len(set(annotated.patients)) > 1:
        controls["mean box"] = mean_of_others(cells, annotated.patients)
    for sides in shapes:
        name = "ceiling" if sides == shape else "ceiling {}x{}".format(*sides)
        controls[name] = np.stack([shrink(region, sides, grids) for region in regions])
    return controls


def centre_gaussian(shape: tuple[int, int], size: int, sigma: float, grids: Grids = EVEN) -> Heat:
    """A Gaussian on the middle of a square, at the cells of a map, (h, w).

    ``sigma`` is a share of the side of the square, ``size`` pixels; ``grids``: where the cells see
    it.
    """
    if not sigma > 0:
        raise ConfigError(f"sigma must be a positive share of the image's side, got {sigma}")
    down, across = (
        (grid.first + np.arange(cells) * grid.step + 0.5) / size - 0.5
        for cells, grid in ((cells, grid_of(cells, size, grids)) for cells in shape)
    )
    squares = across[None] ** 2 + down[:, None] ** 2
    return np.exp(-squares / (2 * sigma**2)).astype(np.float32)


def mean_of_others(maps: Heat, patients: npt.ArrayLike) -> Heat:
    """Mean of the maps of all other patients, (N, h, w)."""
    codes = np.unique(np.asarray(patients), return_inverse=True)[1]
    sums = np.zeros((codes.max() + 1, *maps.shape[1:]))
    np.add.at(sums, codes, maps)
    rest = len(codes) - np.bincount(codes)
    means = (sums.sum(axis=0) - sums) / rest[:, None, None]
    return np.asarray(means[codes].clip(0), dtype=np.float32)


def find_boxed(data: XrayDataModule, subset: str) -> list[Place]:
    """Row and finding of every image and finding with a box, finding by finding.

    A reader's box counts where the target is not 0: most readers may have called it absent.
    """
    places = []
    records = data.subset_records(subset)
    for column, label in enumerate(data.labels):
        for row, record in enumerate(records):
            drawn = [box for box in record.boxes if box.label == label]
            if any(not box.reader or record.targets[column] != 0 for box in drawn):
                places.append((row, label))
    return places


def map_annotated(
    net: XrayNet,
    data: XrayDataModule,
    subset: str,
    methods: Sequence[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, AnnotatedMaps]:
    """Maps, boxes and, where the set has them, masks of each finding with boxes in a subset."""
    places = find_boxed(data, subset)
    maps: dict[str, dict[str, list[Heat]]] = {label: {} for _, label in places}
    for number, method in enumerate(methods):
        made = iterate_maps(net, data, subset, places, method=method)
        for done, ((_, label), _, heat) in enumerate(made, 1):
            maps[label].setdefault(method, []).append(heat)
            progress(number * len(places) + done, len(methods) * len(places))
    annotated, grids = {}, cell_grids(net, data.image_size)
    for label, by_method in maps.items():
        rows = [row for row, name in places if name == label]
        records = [data.subset_records(subset)[row] for row in rows]
        boxes = [square_boxes(data, subset, row, label) for row in rows]
        masks, place = exact_masks(data.source, records, label, boxes, data.image_size)
        annotated[label] = AnnotatedMaps(
            {method: np.stack(heats) for method, heats in by_method.items()},
            boxes,
            [record.patient_id for record in records],
            masks,
            grids,
            place,
        )
    return annotated


def choose_hits(annotated: AnnotatedMaps, method: str, size: int, count: int = 4) -> dict[int, str]:
    """The first images whose map has its maximum in the finding, and the first where it has not.

    Of the N images rows of hits, then of misses, at most ``count`` of either; "hit" or "miss" for
    each. A maximum of tied pixels is a hit if most of them lie in the finding.
    """
    pairs = zip(annotated.maps[method], annotated.regions(size), strict=True)
    large = ((enlarge(heat, size, annotated.grids), region) for heat, region in pairs)
    hit = np.array([pointing_game(heat, region) > 0.5 for heat, region in large])
    kinds = {"hit": np.flatnonzero(hit), "miss": np.flatnonzero(~hit)}
    chosen = choose(kinds, count=count)
    return {row: mark for mark, rows in chosen.items() for row in rows.tolist()}


def exact_masks(
    source: Source, records: Sequence[Record], label: str, boxes: Boxes, size: int
) -> tuple[Region | None, str]:
    """Where a finding is, (N, size, size), None if the set has no masks; and what this place is.

    Where the set has masks of some of the images alone, the place in the others is the union of the
    ``boxes``, which are in pixels of the square.
    """
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
    """A mask (H, W) on the square of ``fit_square``, (size, size).

    A pixel counts if the mask covers half of it; of a mask that covers no pixel by half, those it
    covers most.
    """
    height, width = mask.shape
    (top, left), side = padding(height, width), max(height, width)
    square = np.zeros((side, side), dtype=np.bool_)
    square[top : top + height, left : left + width] = mask
    covered = shrink(square, (size, size))
    return np.asarray((covered > 0) & (covered >= min(0.5, covered.max())))
