"""The images of a study, maps and scores of them, how alike maps are, and the rules of verdicts.

Chance is the similarity of maps of different patients' images: what maps share because all chests
are built alike, or all maps of a method. Halfway was set before anything was measured. Later came,
after noise images, ``LEAST`` and that an excess must be shown to count; after the phantom's
effusions, that a flat map is the random order and that the centre alone fails none.

- A similarity is high if the 95 % interval of its distance to halfway, the middle between chance
  and 1 (equal maps), lies entirely above 0, low if it lies entirely below; else it is neither.
- A map is better than a control if the interval of its paired advantage, in units of the score,
  lies entirely above ``LEAST``, worse if it lies entirely below -``LEAST``.
- With fewer than ``FEWEST`` patients whose value is defined, or with values for fewer than half of
  the images, there is no interval, and the verdict is "undecided".
- Of several measures or tests together: "fails" if one fails, "passes" if all pass, else
  "undecided". One that is defined for no image is "not run" and left out; so are all, if all are.

A measure is undefined, NaN, of a map that is the same everywhere or has a NaN, and SSIM of a map
below 3 x 3.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import scipy  # .stats, a second's import, loads at its first use
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from xray_lightning.errors import ConfigError, require_integer
from xray_lightning.explain.maps import Grids, enlarge
from xray_lightning.metrics import intervals
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.intervals import NAN, NONE, Floats, mean_of_defined
from xray_lightning.metrics.ranks import Codes
from xray_lightning.models.batches import iterate_batches, run_batches
from xray_lightning.progress import Report
from xray_lightning.results import Json, Result

PASSES, FAILS, UNDECIDED, NOT_RUN = "passes", "fails", "undecided", "not run"
OF_SIDE = {1: PASSES, 0: UNDECIDED, -1: FAILS}
FEWEST = 10
MARGIN = 0.1  # of similarity: an excess over two random networks up to this does not count
LEAST = 0.01  # of the score: a smaller advantage does not count
UNDEFINED = "the maps are flat, too small or not finite for every image"

MEASURES = ("spearman", "absolute", "ssim")
Prepared = dict[str, Floats]  # measure -> what of N maps does not depend on the other map

WINDOW = 7  # of SSIM, at most
CONSTANTS = 0.01**2, 0.03**2  # of SSIM, K1 and K2 of the paper, for maps from 0 to 1

SHIFTS = ((0, 1), (2, 0), (0, -3), (-4, 0))  # rows and columns, in pixels of the image

# Map (B, h, w) of one label, from a network and images (B, 1, S, S) on its device.
Explain = Callable[[Any, Tensor], Tensor]

BLUR = 1 / 16  # standard deviation of the baseline's Gaussian, as a share of the side
CONTROLS = ("random", "centre")


@dataclass(frozen=True)
class Mean(Result):
    """A mean over images and its 95 % interval; NaN where undefined."""

    value: float = NAN  # on the sample
    low: float = NAN  # of the 95 % over patients, and over networks where there are several
    # the other end. Equal ends decide a verdict, but JSON leaves them out: an interval of no width
    # says nothing of other images
    high: float = NAN
    undefined: float = 1.0  # share of the values that are NaN

    def side(self, margin: float = 0.0) -> int:
        """1 if the interval lies entirely above the margin, -1 entirely below -margin, else 0."""
        return int(self.low > margin) - int(self.high < -margin)

    def to_json(self) -> Json:
        """Plain values; ``interval`` in place of its ends, None where there is no width."""
        values = super().to_json()
        ends = [values.pop("low"), values.pop("high")]
        interval = ends if self.high - self.low > intervals.ROUNDING else None
        return {"value": values.pop("value"), "interval": interval, **values}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` gave."""
        low, high = values["interval"] or NONE
        return super().from_json({**values, "low": low, "high": high})


@dataclass(frozen=True)
class Similarity(Mean):
    """How alike maps are, the same of maps of different patients' images, and a verdict."""

    verdict: str = NOT_RUN
    reason: str = ""
    chance: Mean = Mean()
    from_halfway: Mean = Mean()  # distance to the middle between chance and 1
    control: Mean | None = None  # the similarity of two random networks' maps
    excess: Mean | None = None  # what is above it
    networks: int | None = None
    shifts: list[tuple[int, int]] | None = None


@dataclass(frozen=True)
class MeasuredTest(Result):
    """A test by several measures of similarity, and their verdict together."""

    verdict: str = NOT_RUN
    reason: str = ""
    measures: dict[str, Similarity] = field(default_factory=dict)

    @classmethod
    def of(cls, measures: dict[str, Similarity], **more: Any) -> Self:
        """With the verdict of the measures together."""
        verdict = combine_verdicts(measure.verdict for measure in measures.values())
        reason = UNDEFINED if verdict == NOT_RUN else ""
        return cls(verdict=verdict, reason=reason, measures=measures, **more)


@dataclass(frozen=True)
class Sample:
    """The patients of N images and draws of them; ``partners`` (N,): for each one of another."""

    bootstrap: PatientBootstrap
    partners: Codes
    seed: int

    @classmethod
    def of(cls, patients: npt.ArrayLike, draws: int, seed: int) -> "Sample":
        """Draws, and a random partner for each image; a ConfigError for one patient."""
        if (count := len(np.unique(np.asarray(patients)))) < 2:
            raise ConfigError(f"maps are compared between patients: give two, got {count}")
        bootstrap = PatientBootstrap(patients, draws, seed)
        generator, codes = np.random.default_rng(seed), bootstrap.codes
        partners = [generator.choice(np.flatnonzero(codes != code)) for code in codes]
        return cls(bootstrap, np.asarray(partners, dtype=np.intp), seed)

    def mean(self, values: Floats) -> Mean:
        """Mean of values (N,), or (R, N) of R networks that are a sample too, over the known."""
        # Patients by percentiles, networks by Student's t, together as Zou and Donner 2008.
        values = np.atleast_2d(values)
        known = ~np.isnan(values)
        sums = self.bootstrap.sums(np.vstack([np.where(known, values, 0), known]).T)
        total, count = np.split(sums, 2, axis=1)  # (1 + D, R)
        means = intervals.divided(total.sum(axis=1), count.sum(axis=1))
        patients = len(np.unique(self.bootstrap.codes[known.any(axis=0)]))
        enough = patients if patients >= FEWEST and known.mean() >= 0.5 else 0
        ends = intervals.percentile_interval(means[1:], enough, constant=True)
        own = intervals.divided(total[0], count[0])[count[0] > 0]  # of each network
        value, freedom = float(means[0]), max(len(own) - 1, 1)
        error = float(np.sqrt(((own - value) ** 2).sum() / (freedom * (freedom + 1))))
        networks = intervals.Spread(error, freedom).around(0.0)
        below, above = np.hypot(np.subtract(ends, value), networks).tolist()
        return Mean(value, value - below, value + above, float(1 - known.mean()))

    def rate_similarity(
        self, similarity: Floats, chance: Floats, *, high: bool, control: Floats | None = None
    ) -> Similarity:
        """Verdict on a similarity, (N,) or (R, N), by its chance: of different patients' images."""
        # not ``high``: low passes, unless its excess over ``control`` lies above ``MARGIN``
        value, halfway = self.mean(similarity), self.mean(similarity - (1 + chance) / 2)
        verdict = OF_SIDE[halfway.side() if high else -halfway.side()]
        excess = None if control is None else self.mean(similarity - control)
        if excess is not None and verdict == PASSES and excess.side(MARGIN) > 0:
            verdict = UNDECIDED
        undefined = bool(np.isnan(similarity).all())
        return Similarity(
            **vars(value),
            verdict=NOT_RUN if undefined else verdict,
            reason=UNDEFINED if undefined else "",
            chance=self.mean(chance),
            from_halfway=halfway,
            control=None if control is None else self.mean(control),
            excess=excess,
        )


def combine_verdicts(verdicts: Iterable[str]) -> str:
    """One verdict of several."""
    run = {verdict for verdict in verdicts if verdict != NOT_RUN}
    if not run or FAILS in run:
        return FAILS if run else NOT_RUN
    return PASSES if run == {PASSES} else UNDECIDED


@dataclass
class Study:
    """N images, and what is done with them; each method goes through them once."""

    images: Tensor  # (N, 1, S, S) in [0, 1], on the CPU
    sample: Sample
    explain: Explain
    batch: int  # images at a time, at least 2: a batch norm learns nothing from one
    grids: Grids = field(default_factory=dict)
    progress: Report = lambda done, total: None
    total: int = 0
    done: int = 0
    maps_made: int = 0
    scores_made: int = 0

    def advance(self, count: int) -> None:
        """So many images passed through a network."""
        self.done += count
        self.progress(self.done, self.total)

    def maps(self, net: nn.Module, images: Tensor | None = None) -> Floats:
        """Maps (N, h, w) of the study's images, or of others of their shape."""
        images = self.images if images is None else images
        maps = []
        for batch in iterate_batches(net, images, self.batch, full=True):
            maps.append(self.explain(net, batch).detach().double().cpu().numpy())
            self.advance(len(batch))
        self.maps_made += len(images)
        return np.concatenate(maps)

    def scores(self, net: nn.Module, label: int, images: Tensor | None = None) -> Floats:
        """Scores (N,) of one label, after the sigmoid."""
        images = self.images if images is None else images
        logits = run_batches(net, images, batch_size=self.batch, full=True)
        self.scores_made += len(images)
        self.advance(len(images))
        return np.asarray(logits[:, label].double().sigmoid().numpy())


def prepare(maps: Floats) -> Prepared:
    """What :func:`compare` needs of maps (N, h, w)."""
    ranks = rank_places(maps), rank_places(np.abs(maps))
    return dict(zip(MEASURES, (*ranks, scale(maps)), strict=True))


def compare(first: Prepared, second: Prepared) -> Prepared:
    """Similarity of each map to its counterpart, (N,) of each measure.

    "spearman" is the rank correlation over places, "absolute" that of the absolute values (Adebayo
    et al., Sanity Checks for Saliency Maps, NeurIPS 2018, section 4.1: a map may only change its
    sign), and "ssim" the structural similarity of maps scale to 0 to 1.
    """
    correlations = {name: (first[name] * second[name]).sum(axis=1) for name in MEASURES[:2]}
    return {**correlations, "ssim": ssim(first["ssim"], second["ssim"])}


def compare_pairs(
    pairs: Sequence[tuple[Prepared, Prepared]], sample: Sample
) -> dict[str, list[Floats]]:
    """Similarity of each pair's maps and, by chance, of different patients', (P, N) each."""
    same = [compare(one, two) for one, two in pairs]
    chance = [compare(one, {m: two[m][sample.partners] for m in MEASURES}) for one, two in pairs]
    return {m: [np.stack([pair[m] for pair in of]) for of in (same, chance)] for m in MEASURES}


@np.errstate(invalid="ignore")  # 0 / 0 of a flat map
def rank_places(maps: Floats) -> Floats:
    """Ranks of the places (ties share theirs) less their mean, of length 1: (N, h * w)."""
    ranks = scipy.stats.rankdata(maps.reshape(len(maps), -1), axis=1)
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    return np.asarray(ranks / np.sqrt((ranks**2).sum(axis=1, keepdims=True)))


@np.errstate(invalid="ignore")  # 0 / 0 of a flat map
def scale(maps: Floats) -> Floats:
    """Each map from 0, its least value, to 1, its greatest."""
    low = maps.min(axis=(1, 2), keepdims=True)
    return np.asarray((maps - low) / (maps.max(axis=(1, 2), keepdims=True) - low))


def ssim(first: Floats, second: Floats) -> Floats:
    """Wang et al., Image Quality Assessment (IEEE TIP 2004), eq. 13, of maps in [0, 1]: (N,)."""
    # square windows of ``WINDOW`` a side (or the largest odd side that fits), unbiased variances
    side = min(WINDOW, *first.shape[1:])
    side -= 1 - side % 2
    if side < 3:
        return np.full(len(first), np.nan)
    one, two = torch.from_numpy(first)[:, None], torch.from_numpy(second)[:, None]
    mean_1, mean_2, square_1, square_2, product = (
        F.avg_pool2d(each, side, stride=1) for each in (one, two, one**2, two**2, one * two)
    )
    unbiased = side**2 / (side**2 - 1)
    variances = unbiased * (square_1 - mean_1**2 + square_2 - mean_2**2)
    covariance = unbiased * (product - mean_1 * mean_2)
    c_1, c_2 = CONSTANTS
    means = (2 * mean_1 * mean_2 + c_1) / (mean_1**2 + mean_2**2 + c_1)
    values = means * (2 * covariance + c_2) / (variances + c_2)
    return np.asarray(values.mean(dim=(1, 2, 3)).numpy())


def compare_networks(
    original: Prepared,
    others: Sequence[Prepared],
    sample: Sample,
    controls: Mapping[str, Floats] | None = None,
) -> dict[str, Similarity]:
    """Maps against those of networks that know nothing of the labels: "passes" if low."""
    # one trained on permuted labels (Adebayo et al., section 5; over patients), or random ones
    pairs, controls = compare_pairs([(original, maps) for maps in others], sample), controls or {}
    return {
        measure: sample.rate_similarity(*both, high=False, control=controls.get(measure))
        for measure, both in pairs.items()
    }


def compare_seeds(maps: Floats, sample: Sample) -> Similarity:
    """Agreement of K > 1 networks' maps (K, N, h, w), the mean over pairs; "passes" if high."""
    # these networks are taken as given: the interval is over patients
    pairs = list(combinations([prepare(own) for own in maps], 2))
    both = map(mean_of_defined, compare_pairs(pairs, sample)["spearman"])
    return replace(sample.rate_similarity(*both, high=True), networks=len(maps))


def compare_shifted(net: nn.Module, study: Study, original: Floats) -> Similarity:
    """Stability when the image moves by one to four pixels, mean of four; "passes" if high."""
    # what enters repeats the edge; the map is moved back and compared without a margin of 4 pixels
    margin = max(abs(step) for move in SHIFTS for step in move)
    side, pairs = study.images.shape[-1], []
    if side <= 2 * margin + 1:
        raise ConfigError(f"images must have more than {2 * margin + 1} pixels a side, got {side}")

    def inner(maps: Floats) -> Prepared:
        return prepare(maps[:, margin:-margin, margin:-margin])

    still = inner(enlarge(original, side, study.grids))
    for rows, columns in SHIFTS:
        # down and right, the edges repeated
        images = ndimage.shift(study.images.numpy(), (0, 0, rows, columns), order=0, mode="nearest")
        maps = study.maps(net, torch.from_numpy(images))
        moved = enlarge(maps, side, study.grids)
        back = inner(np.roll(moved, (-rows, -columns), axis=(1, 2)))  # the margin is cut off
        pairs.append((still, back))
    both = map(mean_of_defined, compare_pairs(pairs, study.sample)["spearman"])
    return replace(study.sample.rate_similarity(*both, high=True), shifts=list(SHIFTS))


@dataclass(frozen=True)
class ControlOrder(Result):
    """Area under the curve of a control's order, and the map's advantage over it."""

    area: Mean
    advantage: Mean
    verdict: str


@dataclass(frozen=True)
class Perturbation(Result):
    """Deletion or insertion: area under the map's curve, the controls, and all curves."""

    verdict: str
    area: Mean
    controls: dict[str, ControlOrder]
    curves: dict[str, list[float]]


def perturb(
    net: nn.Module, study: Study, maps: Floats, label: int, steps: int
) -> dict[str, Perturbation]:
    """Deletion and insertion, each against a random order and an order from the centre outwards."""
    # An area lies under the score (after the sigmoid) by the share of pixels changed; the advantage
    # is the map's insertion less the control's, or the control's deletion less the map's. Random is
    # the order of noise of the map's resolution, enlarged alike, as the grain alone moves areas; it
    # also breaks ties: a flat map is exactly random. "passes": better than both by :mod:`~.sanity`;
    # "fails": worse than random (worse than the centre may be the grain). NaN: areas undefined.
    require_integer("steps", steps, 2)
    blurred = blur(study.images)
    ends = study.scores(net, label), study.scores(net, label, blurred)
    side = study.images.shape[-1]
    from_centre = np.abs(np.arange(side) - (side - 1) / 2)
    noise = np.random.default_rng(study.sample.seed).random(maps.shape)
    large, ties = (enlarge(own, side, study.grids) for own in (maps, noise))
    centre = np.broadcast_to(-np.hypot(from_centre[:, None], from_centre), ties.shape)
    every = {"map": large, "random": ties, "centre": centre}
    orders = {order: rank_pixels(places, ties) for order, places in every.items()}
    tests = {}
    for name, (first, last), scores in (
        ("deletion", (study.images, blurred), ends),
        ("insertion", (blurred, study.images), ends[::-1]),
    ):
        curves = {}
        for order, ranks in orders.items():
            mixed = (mix(first, last, ranks, step / steps) for step in range(1, steps))
            middle = [study.scores(net, label, images) for images in mixed]
            curves[order] = np.stack([scores[0], *middle, scores[1]])  # (1 + steps, N)
        curves["map"][:, np.isnan(maps).any(axis=(1, 2))] = np.nan
        tests[name] = compare_curves(curves, study, 1 if name == "insertion" else -1)
    return tests


def blur(images: Tensor) -> Tensor:
    """The baseline: images (N, 1, S, S) under a Gaussian of ``BLUR`` of their side."""
    sigma = BLUR * images.shape[-1]
    blurred = ndimage.gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="nearest")
    return torch.from_numpy(blurred)


def mix(first: Tensor, last: Tensor, ranks: Codes, share: float) -> Tensor:
    """The first images (N, 1, S, S), with a share of the pixels, by rank, of the last ones."""
    changed = torch.from_numpy(ranks < round(share * ranks.shape[1]))
    return torch.where(changed.view_as(first), last, first)


def rank_pixels(maps: Floats, ties: Floats) -> Codes:
    """Rank of each place in its map, 0 the greatest, (N, S * S)."""
    count = len(maps)
    order = np.lexsort((-ties.reshape(count, -1), -maps.reshape(count, -1)), axis=1)
    return np.argsort(order, axis=1)


def compare_curves(curves: Mapping[str, Floats], study: Study, sign: int) -> Perturbation:
    """Verdict on curves (1 + steps, N) of each order; sign: 1 if a large area is good, else -1."""
    areas = {name: (curve[1:] + curve[:-1]).mean(axis=0) / 2 for name, curve in curves.items()}
    mean, controls = study.sample.mean, {}
    for name in CONTROLS:
        advantage = mean(sign * (areas["map"] - areas[name]))
        controls[name] = ControlOrder(mean(areas[name]), advantage, OF_SIDE[advantage.side(LEAST)])
    verdict = combine_verdicts(control.verdict for control in controls.values())
    if verdict == FAILS != controls["random"].verdict:
        verdict = UNDECIDED
    drawn = {name: mean_of_defined(curve.T).tolist() for name, curve in curves.items()}
    return Perturbation(verdict, mean(areas["map"]), controls, drawn)
