"""Maps against boxes: every method and control, every metric, with patient intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from xray_lightning.data.geometry import Rectangle
from xray_lightning.errors import ConfigError, require_number
from xray_lightning.explain.maps import EVEN, Grids, enlarge, grid_of, shrink
from xray_lightning.metrics import localisation as scoring
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.intervals import Estimate, Floats, divided
from xray_lightning.results import Result
from xray_lightning.wording import fault

CONTROLS = ("random", "centre", "mean box", "ceiling")
BOXES, MASKS = "the union of its boxes", "its exact mask"
SIGMA = 0.25  # of the centre Gaussian, as a share of the image's side
MINIMUM = 10  # images and patients with boxes: with fewer no interval is given, and nothing tuned
Drawn = Mapping[str, Floats]  # of each method, (1 + D, F): the sample's metrics and the draws'
TOO_FEW = f"too few: fewer than {MINIMUM} images or patients, no interval"
Boxes = Sequence[Sequence[Rectangle]]  # of each image: x, y, width, height on the square


@dataclass(frozen=True, eq=False)
class AnnotatedMaps:
    """The N images that have boxes of one finding; a ConfigError for an empty mask or a NaN."""

    maps: Mapping[str, scoring.Heat]  # of each method, (N, h, w) float32, h and w its own
    boxes: Boxes  # in pixels of the square the network sees; each reader's counts on its own
    patients: Sequence[str]  # N ids
    # (N, S, S), for the pointing game, energy and average precision; None: the union of the boxes
    masks: scoring.Region | None = None
    grids: Grids = field(default_factory=dict)  # where the cells of the maps see the square
    place: str = BOXES  # of the finding, in words

    def __post_init__(self) -> None:
        if self.masks is not None and not self.masks.any(axis=(1, 2)).all():
            raise ConfigError("a mask is empty; leave its image out")
        for name, maps in self.maps.items():
            if wrong := int((~np.isfinite(maps)).sum()):
                raise ConfigError(f"maps of {name!r} must be finite, {wrong} values are not")

    def regions(self, size: int) -> scoring.Region:
        """The place of the finding in each image, (N, S, S); a ConfigError for a box outside."""
        if self.masks is None:
            return np.stack([scoring.region_of(boxes, size) for boxes in self.boxes])
        return self.masks


def control_maps(
    annotated: AnnotatedMaps, size: int, seed: Sequence[int], sigma: float, others: Boxes | None
) -> dict[str, scoring.Heat]:
    """Maps (N, h, w) that need no network, at the resolution of the first method's."""
    # "random" favours the border, whose cells have fewer neighbours to be levelled by, so it points
    # inside a little less often than by area. "mean box": of ``others`` or, None, of the other
    # patients here, the share whose boxes cover a cell; of one patient, none. "ceiling": the place
    # itself at h x w (for other resolutions "ceiling 28x28" too), no bound on the energy inside or
    # IoBB: a map of only the middle of a place gets more. ``sigma`` is a share of the side.
    shapes = list(dict.fromkeys(maps.shape[1:] for maps in annotated.maps.values()))
    shape, grids, regions = shapes[0], annotated.grids, annotated.regions(size)
    drawn = np.random.default_rng(seed).random((len(regions), *shape), dtype=np.float32)
    middle = centre_gaussian(shape, size, sigma, grids)
    controls = {"random": drawn, "centre": np.broadcast_to(middle, drawn.shape)}
    boxes = annotated.boxes if others is None else others
    cells = np.stack([shrink(scoring.region_of(own, size), shape, grids) for own in boxes])
    if others is not None:
        controls["mean box"] = np.broadcast_to(cells.mean(axis=0), drawn.shape)
    elif len(set(annotated.patients)) > 1:
        controls["mean box"] = mean_of_others(cells, annotated.patients)
    for sides in shapes:
        name = "ceiling" if sides == shape else "ceiling {}x{}".format(*sides)
        controls[name] = np.stack([shrink(region, sides, grids) for region in regions])
    return controls


def centre_gaussian(
    shape: tuple[int, int], size: int, sigma: float, grids: Grids = EVEN
) -> scoring.Heat:
    """A Gaussian on the middle of a square, ``sigma`` a share of its ``size``, at cells (h, w)."""
    require_number("sigma, a share of the image's side,", sigma, 0, ends="(]")
    down, across = (
        (grid.first + np.arange(cells) * grid.step + 0.5) / size - 0.5
        for cells, grid in ((cells, grid_of(cells, size, grids)) for cells in shape)
    )
    squares = across[None] ** 2 + down[:, None] ** 2
    return np.exp(-squares / (2 * sigma**2)).astype(np.float32)


def mean_of_others(maps: scoring.Heat, patients: npt.ArrayLike) -> scoring.Heat:
    """Mean of the maps of all other patients, (N, h, w)."""
    codes = np.unique(np.asarray(patients), return_inverse=True)[1]
    sums = np.zeros((codes.max() + 1, *maps.shape[1:]))
    np.add.at(sums, codes, maps)
    rest = len(codes) - np.bincount(codes)
    means = (sums.sum(axis=0) - sums) / rest[:, None, None]
    return np.asarray(means[codes].clip(0), dtype=np.float32)


@dataclass(frozen=True)
class MapMetrics(Result):
    """Of one method or control, see :func:`~xray_lightning.metrics.localisation.score_map`."""

    # 95 % percentile intervals over patients, NaN where all draws are equal or fewer than 39

    pointing_game: Estimate
    energy: Estimate
    average_precision: Estimate
    centre: Estimate
    iou: Estimate
    iobb: Estimate
    t_iou: dict[str, Estimate]  # one for each overlap, "0.1" to "0.9"
    t_iobb: dict[str, Estimate]
    afp: dict[str, Estimate]
    without_energy: int = 0  # maps without a positive value, of one label
    labels: int = 0  # that a mean is over

    @classmethod
    def of(cls, drawn: Floats, *, patients: int, **more: Any) -> Self:
        """Of the sample's row and those of the draws, (1 + D, F) in the order of ``METRICS``."""
        metrics: dict[str, Any] = {}
        for (name, *overlap), column in zip(scoring.METRICS, drawn.T, strict=True):
            estimate = Estimate.of_draws(column, patients)
            if overlap:
                metrics.setdefault(name, {})[overlap[0]] = estimate
            else:
                metrics[name] = estimate
        return cls(**metrics, **more)


@dataclass(frozen=True)
class MeanLocalisation(Result):
    """Means over so many labels."""

    labels: int
    note: str
    methods: dict[str, MapMetrics]


@dataclass(frozen=True)
class LabelLocalisation(Result):
    """One label; ``area`` is the mean share of the image of its place: what chance would get."""

    images: int
    patients: int
    boxes: int
    area: float
    note: str
    methods: dict[str, MapMetrics]
    place: str = BOXES


@dataclass(frozen=True)
class Threshold(Result):
    """Shares of a map's range that its boxes reach, and where they come from."""

    shares: list[float]
    source: str


@dataclass(frozen=True)
class LocalisationSettings(Result):
    """What the metrics were taken with; ``mean_box``: whose boxes each label's control is of."""

    size: int
    tolerance: float
    sigma: float
    draws: int
    seed: int
    mean_box: dict[str, str]


@dataclass(frozen=True)
class Localisation(Result):
    """Metrics of every method beside the controls; thresholds by label and method."""

    labels: dict[str, LabelLocalisation]
    mean: MeanLocalisation
    thresholds: dict[str, dict[str, Threshold]]
    settings: LocalisationSettings

    @property
    def rows(self) -> list[tuple[str, int, LabelLocalisation | MeanLocalisation]]:
        """Each label with how many boxes it has; last the mean, with all boxes."""
        boxes = sum(label.boxes for label in self.labels.values())
        labels = ((name, label.boxes, label) for name, label in self.labels.items())
        return [*labels, ("mean", boxes, self.mean)]


@dataclass(frozen=True)
class Reference:
    """Of images of other patients; no label with too few boxes: their mean is a weak control."""

    shares: Mapping[tuple[str, str], float]  # thresholds by (label, method)
    boxes: Mapping[str, Boxes]
    patients: frozenset[str]

    def threshold(self, label: str, method: str, stated: Sequence[float]) -> "Threshold":
        """The one that was tuned, else the stated."""
        if (label, method) not in self.shares:
            return Threshold(list(stated), "stated")
        source = f"tuned on {len(self.boxes[label])} reference images"
        return Threshold([self.shares[label, method]], source)


def tune_reference(
    validation: Mapping[str, AnnotatedMaps], *, size: int, sigma: float = SIGMA, seed: int = 0
) -> Reference:
    """Tune the threshold of every method and control of each label on images not to be scored."""
    shares, boxes = {}, {}
    for label, annotated in validation.items():
        if min(len(annotated.boxes), len(set(annotated.patients))) < MINIMUM:
            continue
        boxes[label] = annotated.boxes
        controls = control_maps(annotated, size, [seed, *label.encode()], sigma, None)
        for method, maps in {**annotated.maps, **controls}.items():
            large = (enlarge(heat, size, annotated.grids) for heat in maps)
            shares[label, method] = scoring.tune_threshold(large, annotated.boxes)
    return Reference(shares, boxes, frozenset(_patients(validation)))


def evaluate_localisation(
    # images of each label, of one or more, that have boxes of it; all have the same methods
    scored: Mapping[str, AnnotatedMaps],
    *,
    size: int,  # side of the square in pixels
    # stated shares of a map's range for its boxes, used where none was tuned
    threshold: Sequence[float] = scoring.WANG,
    # thresholds tuned on other patients, and their boxes for the mean box
    reference: Reference | None = None,
    tolerance: float = 0.0,  # pixels beside the place that the pointing game still counts as a hit
    sigma: float = SIGMA,  # of the centre Gaussian, as a share of the side
    draws: int = 1000,  # of the bootstrap over patients
    seed: int = 0,  # of the bootstrap and the random map
) -> Localisation:
    """Metrics of every method beside the controls, per label and as the mean over the labels."""
    reference = reference or Reference({}, {}, frozenset())
    if shared := reference.patients.intersection(_patients(scored)):
        raise ConfigError(fault("tuned_on_scored", shared))
    boxes = reference.boxes
    bootstrap, first = PatientBootstrap(_patients(scored), draws, seed), 0  # of all labels
    labels, thresholds, drawn = {}, {}, {}
    for label, annotated in scored.items():
        own = np.arange(first, first := first + len(annotated.boxes))
        controls = control_maps(annotated, size, [seed, *label.encode()], sigma, boxes.get(label))
        maps = {**annotated.maps, **controls}
        thresholds[label] = {name: reference.threshold(label, name, threshold) for name in maps}
        sums = _sum_metrics(annotated, maps, thresholds[label], size, tolerance)
        patients = bootstrap.subset(own).compact()
        drawn[label] = {  # (1 + D, F) of each method; NaN where undefined
            name: divided(*np.split(patients.sums(np.column_stack(pair)), 2, axis=1))
            for name, pair in sums.items()
        }
        labels[label] = _of_label(annotated, size, drawn[label], sums)
    whose = ("scored images of other patients", "reference images")
    mean_box = {label: whose[label in boxes] for label in scored}
    settings = LocalisationSettings(size, tolerance, sigma, draws, seed, mean_box)
    return Localisation(labels, _mean(labels, drawn), thresholds, settings)


def _patients(annotated: Mapping[str, AnnotatedMaps]) -> list[str]:
    return [patient for maps in annotated.values() for patient in maps.patients]


def _sum_metrics(
    annotated: AnnotatedMaps,
    maps: Mapping[str, scoring.Heat],
    thresholds: Mapping[str, Threshold],
    size: int,
    tolerance: float,
) -> dict[str, tuple[Floats, Floats]]:
    """Sums and weights of each method's metrics in each image, (N, F) each."""
    regions, sums = annotated.regions(size), {}
    near = [scoring.widen(region, tolerance) for region in regions]
    for name, heats in maps.items():
        rows = []
        for heat, region, boxes, around in zip(heats, regions, annotated.boxes, near, strict=True):
            large, shares = enlarge(heat, size, annotated.grids), thresholds[name].shares
            rows.append(scoring.score_map(large, region, boxes, shares=shares, near=around))
        sums[name] = np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])
    return sums


def _of_label(
    annotated: AnnotatedMaps, size: int, drawn: Drawn, sums: Mapping[str, tuple[Floats, Floats]]
) -> LabelLocalisation:
    images, patients = len(annotated.boxes), len(set(annotated.patients))
    enough = patients if min(images, patients) >= MINIMUM else 0  # 0: no interval
    boxes, area = sum(map(len, annotated.boxes)), float(annotated.regions(size).mean())
    methods = {}
    for name, (_, weights) in sums.items():
        dark = int((weights[:, scoring.METRICS.index(("energy",))] == 0).sum())
        methods[name] = MapMetrics.of(drawn[name], patients=enough, without_energy=dark)
    note, place = "" if enough else TOO_FEW, annotated.place
    return LabelLocalisation(images, patients, boxes, area, note, methods, place)


def _mean(labels: Mapping[str, LabelLocalisation], drawn: Mapping[str, Drawn]) -> MeanLocalisation:
    """Over the labels; a draw counts only if every label is defined in it."""
    few = [label for label, localisation in labels.items() if localisation.note]
    enough, methods = 0 if few else min(own.patients for own in labels.values()), {}
    for name in max(drawn.values(), key=len):  # a label of one patient has no mean box
        of_labels = np.stack([own[name] for own in drawn.values() if name in own])  # (L, 1 + D, F)
        known = np.broadcast_to(~np.isnan(of_labels[:, :1]), of_labels.shape)
        means = divided(np.where(known, of_labels, 0).sum(axis=0), known.sum(axis=0))
        methods[name] = MapMetrics.of(means, patients=enough, labels=len(of_labels))
    note = f"no interval: too few images or patients of {', '.join(few)}" if few else ""
    return MeanLocalisation(len(labels), note, methods)
