"""Regions without findings: what covering one costs a score, and a map's energy there.

Both stand against the body. Energy is a blunt test: on networks that had learned the phantom's
planted marker, input gradients put 4 to 5 % of their energy into the corners, twice as much as on
one that had not, but half of what the area alone would give. So a map that is clear proves nothing.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xray_lightning.data.source import Mask, Pixels
from xray_lightning.explain.maps import EVEN, Grids, enlarge
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.intervals import Floats, divided, mean_of_defined, percentile_interval
from xray_lightning.metrics.ranks import Codes
from xray_lightning.models.batches import run_batches
from xray_lightning.models.network import XrayNet
from xray_lightning.results import Result

BORDER = 0.1  # of the side: depth of the frame all round
CORNER = 0.15  # of the side: each of the four squares
WINDOW = 0.25  # of the side: of the median that fills what is covered
# Letters: what stands out by CONTRAST from an opening with a square of LETTER of the side; each
# piece at most LETTER high and WORD wide, its middle within NEAR of the border, outside the lungs.
CONTRAST, LETTER, WORD, NEAR = 0.2, 0.13, 0.22, 0.2
GROW = 0.02  # of the side, around the letters: their soft edges

FLAGGED, CLEAR, UNDECIDED = "flagged", "not flagged", "undecided"
# of several verdicts: the least if all must be flagged, the greatest if one is enough
RISING = (CLEAR, UNDECIDED, FLAGGED)
BATCH = 64
LEAST = 10  # patients with something and without, below which nothing is decided
# What covering a region may cost an honest model; chosen on trainings that the README does not show
# (phantom 1, seeds 10 and 11).
AUROC_MARGIN = 0.05
LOGIT_MARGIN = 0.25  # standard deviations
MARKER = "planted marker"
DEPTHS = {"outside": BORDER, "border": BORDER, "corners": CORNER}  # of the thinnest part


def to_grey(images: Tensor) -> npt.NDArray[np.uint8]:
    """Images (N, 1, H, W) in [0, 1] as grey values, (N, H, W)."""
    return np.asarray(images[:, 0].mul(255).round().to(torch.uint8).numpy())


def find_body(pixels: Pixels) -> tuple[Mask, Mask]:
    """The body with everything in it, and the dark parts in it, (H, W) each."""
    # The largest piece above Otsu's threshold of the blurred image, rows filled; what was filled is
    # the lungs, and a gap between trunk and arm. All, where nothing stands out.
    smooth = cv2.GaussianBlur(pixels, (0, 0), 0.015 * min(pixels.shape))
    _, bright = cv2.threshold(smooth, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    count, pieces, sizes, _ = cv2.connectedComponentsWithStats(bright)
    if count < 2:
        return np.ones(pixels.shape, np.bool_), np.zeros(pixels.shape, np.bool_)
    largest = pieces == 1 + sizes[1:, cv2.CC_STAT_AREA].argmax()
    ways = (np.logical_or.accumulate(largest[:, ::step], axis=1)[:, ::step] for step in (1, -1))
    inside: Mask = np.logical_and(*ways)
    return inside, inside & ~largest


def mask_border(shape: tuple[int, int], depth: float = BORDER) -> Mask:
    """The border all round, (H, W)."""
    return np.logical_or.outer(*_near_ends(shape, depth))


def mask_corners(shape: tuple[int, int]) -> Mask:
    """The four corners, (H, W)."""
    return np.logical_and.outer(*_near_ends(shape, CORNER))


def _near_ends(shape: tuple[int, int], depth: float) -> list[Mask]:
    """The rows (H,) and columns (W,) within ``depth`` of the side from an end."""
    ends = (np.minimum(np.arange(side), np.arange(side)[::-1]) for side in shape)
    return [end < round(depth * len(end)) for end in ends]


def mask_letters(pixels: Pixels, lungs: Mask) -> Mask:
    """Letters and plates burned into the film, by the rule above, (H, W)."""
    side = min(pixels.shape)
    square = np.ones((round(LETTER * side) | 1,) * 2, np.uint8)
    raised = cv2.morphologyEx(pixels, cv2.MORPH_TOPHAT, square) > 255 * CONTRAST
    _, pieces, sizes, middles = cv2.connectedComponentsWithStats(raised.astype(np.uint8))
    near = mask_border(pixels.shape, NEAR) & ~lungs
    columns, rows = np.rint(middles).astype(int).T
    high, wide = sizes[:, cv2.CC_STAT_HEIGHT], sizes[:, cv2.CC_STAT_WIDTH]
    kept = near[rows, columns] & (high <= LETTER * side) & (wide <= WORD * side)
    kept[0] = False  # the background
    grown = np.ones((2 * max(1, round(GROW * side)) + 1,) * 2, np.uint8)
    return np.asarray(cv2.dilate(kept[pieces].astype(np.uint8), grown) > 0)


def mask_elsewhere(mask: Mask, inside: Mask, draw: np.random.Generator) -> Mask:
    """A region as large as the mask (if there is room), random patches of body off it, (H, W)."""
    noise = cv2.GaussianBlur(draw.standard_normal(mask.shape), (0, 0), LETTER / 3 * min(mask.shape))
    allowed = inside & ~mask
    order = np.argsort(np.where(allowed, -noise, np.inf), axis=None)
    patches = np.zeros(mask.size, np.bool_)
    patches[order[: min(int(mask.sum()), int(allowed.sum()))]] = True
    return patches.reshape(mask.shape)


def cover(pixels: Pixels, mask: Mask) -> Pixels:
    """The image with the region filled by the local median, (H, W)."""
    fill = cv2.medianBlur(pixels, round(WINDOW * min(pixels.shape)) | 1)
    return np.where(mask, fill, pixels)


@dataclass(frozen=True)
class Check(Result):
    """A number, its 95 % interval by patients, and on which side of its margin it lies."""

    value: float  # on the sample
    interval: tuple[float, float]  # percentiles, patients resampled; NaN where draws are equal
    margin: float  # what an honest model may reach
    verdict: str  # flagged: the whole interval lies above the margin; not flagged: below

    @classmethod
    def of(cls, draws: Floats, margin: float) -> "Check":
        """From the number of the sample and of each draw, (1 + D,); undecided without interval."""
        low, high = percentile_interval(draws[1:], constant=True)
        verdict = FLAGGED if low > margin else CLEAR if high < margin else UNDECIDED
        return cls(float(draws[0]), percentile_interval(draws[1:]), margin, verdict)


@dataclass(frozen=True)
class Occlusion:
    """Logits of N images with a region covered, and with as much of the body covered instead."""

    logits: Floats  # (N, L)
    control: Floats  # (N, L)
    area: Floats  # (N,): share of each image that is covered


@dataclass(frozen=True)
class Drop(Result):
    """How far a metric falls when a region is covered."""

    region: Check  # flagged above the metric's margin
    control: Check  # the same with as much of the body covered
    excess: Check  # drop less that of the control; flagged above 0
    verdict: str  # flagged if both drop and excess are, not flagged if one of them is not

    @classmethod
    def of(cls, margin: float, region: Floats, control: Floats) -> "Drop":
        """From the drops of the sample and of each draw, (1 + D,) each; draws are paired."""
        drop, excess = Check.of(region, margin), Check.of(region - control, 0.0)
        verdict = min(drop.verdict, excess.verdict, key=RISING.index)
        return cls(drop, Check.of(control, margin), excess, verdict)


@dataclass(frozen=True)
class ScoreDrop(Result):
    """What covering a region costs one label."""

    images: int  # that have the region at all
    area: float  # mean share of those images that was covered
    auroc: Drop
    logit: Drop  # of the gap between positives and negatives, in standard deviations: it sees a
    # shortcut beside which the label is read well enough without
    verdict: str  # flagged if one of the two is; not flagged if neither is


def occlude(net: XrayNet, images: Tensor, marker: Mask | None, seed: int) -> dict[str, Occlusion]:
    """Logits of images (N, 1, H, W) in [0, 1] with a region or the marker (N, H, W) covered."""
    # They are covered in 256 grey values, which is what files hold; ``seed``: of patches.
    areas, logits = [], []
    regions: dict[str, Mask] = {}
    for start in range(0, len(images), BATCH):
        covered = []  # of each image, (R, 2, H, W)
        for row, pixels in enumerate(to_grey(images[start : start + BATCH]), start):
            (inside, lungs), shape = find_body(pixels), pixels.shape
            regions = {"corners": mask_corners(shape), "border": mask_border(shape)}
            regions["letters"] = mask_letters(pixels, lungs)
            regions |= {} if marker is None else {MARKER: marker[row]}
            pairs = [
                (mask, mask_elsewhere(mask, inside, np.random.default_rng((seed, row))))
                for mask in regions.values()
            ]
            covered.append([[cover(pixels, mask) for mask in pair] for pair in pairs])
            areas.append([mask.mean() for mask in regions.values()])
        grey = torch.from_numpy(np.stack(covered, axis=2))  # (R, 2, B, H, W)
        answers = run_batches(
            net, grey.flatten(0, 2), lambda batch: net(batch[:, None] / 255), batch_size=BATCH
        )
        logits.append(answers.double().numpy().reshape(*grey.shape[:3], -1))
    of_regions = zip(regions, np.concatenate(logits, axis=2), np.transpose(areas), strict=True)
    return {name: Occlusion(both[0], both[1], area) for name, both, area in of_regions}


def measure_drop(
    logits: Floats, occlusion: Occlusion, index: int, targets: Floats, bootstrap: PatientBootstrap
) -> ScoreDrop:
    """What covering a region costs the label at ``index``; logits (N, L) of the whole images."""
    if are_few(bootstrap.codes, targets):  # no draws: no interval and no verdict
        bootstrap = bootstrap.of(bootstrap.codes, bootstrap.counts[:1])
    own = logits[:, index]
    hidden = occlusion.logits[:, index], occlusion.control[:, index]
    whole, spread = bootstrap.auroc(own, targets), float(own.std()) or np.nan
    falls = (whole - bootstrap.auroc(values, targets) for values in hidden)
    gaps = (measure_gap((own - values) / spread, targets, bootstrap) for values in hidden)
    auroc, logit = Drop.of(AUROC_MARGIN, *falls), Drop.of(LOGIT_MARGIN, *gaps)
    there = occlusion.area[occlusion.area > 0]
    verdict = max(auroc.verdict, logit.verdict, key=RISING.index)
    return ScoreDrop(len(there), float(mean_of_defined(there)), auroc, logit, verdict)


def are_few(codes: Codes, attribute: Floats) -> bool:
    """Whether fewer than ``LEAST`` patients have the attribute, (N,) 0, 1 or NaN, or lack it."""
    return min(len(np.unique(codes[attribute == side])) for side in (0, 1)) < LEAST


def measure_gap(values: Floats, targets: Floats, bootstrap: PatientBootstrap) -> Floats:
    """Mean value (N,) of the positives less that of the negatives in each draw, (1 + D,)."""
    present, absent = (bootstrap.mean(np.where(targets == s, values, np.nan)) for s in (1, 0))
    return present - absent


@dataclass(frozen=True)
class Energy(Result):
    """Where the maps of a label's positives lie."""

    share: float  # mean share of a map's energy in the region
    area: float  # mean share of the image that the region is: what an even map would give
    density: Check  # energy an area there, of that and the rest of the body's: 0.5 where alike
    undefined: int  # maps without any energy, which are left out
    grid: tuple[int, int]  # places of the map, height and width
    verdict: str  # of the density; undecided where a place of the map is larger than the region


def normalise_map(values: Floats, shape: tuple[int, int], grids: Grids = EVEN) -> Floats:
    """A map (h, w) as energy on the image, (H, W), summing to 1; NaN for an even map."""
    # What lies above the map's own median counts, so that a constant added to the map (the bias of
    # a class activation map) changes nothing.
    large = enlarge(values.astype(np.float64), shape, grids)
    above = np.maximum(large - np.median(large), 0)
    total = above.sum()
    return np.asarray(above / total if total > 0 else np.full(shape, np.nan))


def measure_energy(
    maps: Floats, images: Tensor, bootstrap: PatientBootstrap, grids: Grids = EVEN
) -> dict[str, Energy]:
    """Energy of maps (n, h, w) of images (n, 1, H, W) in [0, 1] with their label, by region."""
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in DEPTHS}
    for values, pixels in zip(maps, to_grey(images), strict=True):
        (inside, _), shape = find_body(pixels), pixels.shape
        energy = normalise_map(values, shape, grids)
        masks = ~inside, mask_border(shape), mask_corners(shape)
        for name, mask in zip(DEPTHS, masks, strict=True):
            rest = inside & ~mask
            rows[name].append((energy[mask].sum(), mask.mean(), energy[rest].sum(), rest.mean()))
    regions, grid = {}, (maps.shape[1], maps.shape[2])
    for name, depth in DEPTHS.items():
        sums = np.array(rows[name])  # energy and area there, and of the rest of the body, (n, 4)
        defined = ~np.isnan(sums[:, 0])
        sums, drawn = sums[defined], bootstrap.subset(defined)
        there, body = (drawn.ratio(*pair.T) for pair in (sums[:, :2], sums[:, 2:]))
        density = Check.of(divided(there, there + body), 0.5)
        verdict = density.verdict if 1 / min(grid) <= depth else UNDECIDED
        share, area = mean_of_defined(sums[:, :2]).tolist()
        regions[name] = Energy(share, area, density, int((~defined).sum()), grid, verdict)
    return regions
