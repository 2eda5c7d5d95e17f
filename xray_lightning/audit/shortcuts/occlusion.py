"""What a score loses when a region without findings is covered, against covering the chest."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xray_lightning.audit.shortcuts.checks import Check, all_flagged, any_flagged
from xray_lightning.audit.shortcuts.regions import (
    Mask,
    cover,
    find_body,
    mask_border,
    mask_corners,
    mask_elsewhere,
    mask_letters,
    to_grey,
)
from xray_lightning.data.source import Pixels
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.intervals import Floats
from xray_lightning.models.batches import run_batches
from xray_lightning.models.network import XrayNet
from xray_lightning.results import Result

BATCH = 64

# What covering a region may cost an honest model; chosen on trainings that the README does not show
# (phantom 1, seeds 10 and 11).
AUROC_MARGIN = 0.05
LOGIT_MARGIN = 0.25  # standard deviations
MARKER = "planted marker"


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
    def of(cls, region: Floats, control: Floats, margin: float) -> "Drop":
        """From the drops of the sample and of each draw, (1 + D,) each; draws are paired."""
        drop, excess = Check.of(region, margin), Check.of(region - control, 0.0)
        verdict = all_flagged([drop.verdict, excess.verdict])
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


def predict_logits(net: XrayNet, images: Tensor) -> Floats:
    """Logits (N, L); the network is in evaluation mode."""
    return np.asarray(run_batches(net, images, batch_size=BATCH).double().numpy())


def pool_features(net: XrayNet, images: Tensor) -> Floats:
    """Mean over the feature map, (N, C); the network is in evaluation mode."""

    def pool(batch: Tensor) -> Tensor:
        return net.forward_features(batch).mean(dim=(2, 3))

    return np.asarray(run_batches(net, images, pool, batch_size=BATCH).double().numpy())


def occlude(
    net: XrayNet, images: Tensor, marker: npt.NDArray[np.bool_] | None, seed: int
) -> dict[str, Occlusion]:
    """Logits of images (N, 1, H, W) in [0, 1] with a region covered, by region.

    They are covered in 256 grey values, which is what files hold; ``marker`` (N, H, W) is a further
    region, ``seed`` that of the patches inside the body.
    """
    batches: dict[str, list[tuple[Floats, Floats, Floats]]] = defaultdict(list)
    for start in range(0, len(images), BATCH):
        grey = to_grey(images[start : start + BATCH])
        masks = [None] * len(grey) if marker is None else marker[start : start + BATCH]
        pictures: dict[str, list[tuple[Pixels, Pixels, float]]] = defaultdict(list)
        for row, (pixels, known) in enumerate(zip(grey, masks, strict=True), start):
            regions, inside = find_regions(pixels, known)
            for name, mask in regions.items():
                patches = mask_elsewhere(mask, inside, np.random.default_rng((seed, row)))
                both = cover(pixels, mask), cover(pixels, patches)
                pictures[name].append((*both, float(mask.mean())))
        for name, rows in pictures.items():
            region, control, area = zip(*rows, strict=True)
            logits = [predict_logits(net, _to_tensor(covered)) for covered in (region, control)]
            batches[name].append((logits[0], logits[1], np.array(area)))
    return {
        name: Occlusion(*(np.concatenate(column) for column in zip(*rows, strict=True)))
        for name, rows in batches.items()
    }


def find_regions(pixels: Pixels, marker: Mask | None) -> tuple[dict[str, Mask], Mask]:
    """Every region that is covered in an image, and its body, (H, W) each."""
    inside, lungs = find_body(pixels)
    regions = {"corners": mask_corners(pixels.shape), "border": mask_border(pixels.shape)}
    regions["letters"] = mask_letters(pixels, lungs)
    return regions | ({} if marker is None else {MARKER: marker}), inside


def measure_drop(
    logits: Floats, occlusion: Occlusion, index: int, targets: Floats, bootstrap: PatientBootstrap
) -> ScoreDrop:
    """What covering a region costs the label at ``index``; logits (N, L) of the whole images."""
    whole, region, control = (
        bootstrap.auroc(values[:, index], targets)
        for values in (logits, occlusion.logits, occlusion.control)
    )
    auroc = Drop.of(whole - region, whole - control, AUROC_MARGIN)
    spread = float(logits[:, index].std()) or np.nan
    gaps = [
        measure_gap((logits - values)[:, index] / spread, targets, bootstrap)
        for values in (occlusion.logits, occlusion.control)
    ]
    logit = Drop.of(gaps[0], gaps[1], LOGIT_MARGIN)
    there = occlusion.area > 0
    return ScoreDrop(
        images=int(there.sum()),
        area=float(occlusion.area[there].mean()) if there.any() else np.nan,
        auroc=auroc,
        logit=logit,
        verdict=any_flagged([auroc.verdict, logit.verdict]),
    )


def measure_gap(values: Floats, targets: Floats, bootstrap: PatientBootstrap) -> Floats:
    """Mean value (N,) of the positives less that of the negatives in each draw, (1 + D,)."""
    positive, negative = (
        bootstrap.ratio(np.where(targets == sign, values, 0), targets == sign) for sign in (1, 0)
    )
    return np.asarray(positive - negative)


def _to_tensor(images: Sequence[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(images)).unsqueeze(1).to(torch.float32).div_(255)
