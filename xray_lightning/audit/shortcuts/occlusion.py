"""What a score loses when a region without findings is covered, against covering the chest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xray_lightning.audit.shortcuts.regions import (
    Mask,
    body_of,
    corners,
    covered,
    elsewhere,
    frame,
    letters,
)
from xray_lightning.audit.shortcuts.verdicts import Check, all_flagged, any_flagged, auroc_over
from xray_lightning.data.source import Pixels
from xray_lightning.metrics.bootstrap import Codes, Counts, Floats, ratio_over
from xray_lightning.models.network import XrayNet

BATCH = 64

# What covering a region may cost an honest model; chosen on trainings that the README does not show
# (phantom 1, seeds 10 and 11).
AUROC_MARGIN = 0.05
LOGIT_MARGIN = 0.25  # standard deviations
EXACT = "planted marker"


def answers(net: XrayNet, ask: Callable[[Tensor], Any], images: Tensor) -> Floats:
    """What ``ask`` gives for images (N, 1, H, W) on the network's device, (N, ...)."""
    device = next(net.parameters()).device
    starts = range(0, len(images), BATCH)
    subsets = [torch.as_tensor(ask(images[start : start + BATCH].to(device))) for start in starts]
    return np.asarray(torch.cat(subsets).detach().cpu().double().numpy())


@torch.no_grad()
def logits_of(net: XrayNet, images: Tensor) -> Floats:
    """Logits (N, L); the network is in evaluation mode."""
    return answers(net, net, images)


@torch.no_grad()
def pooled_features(net: XrayNet, images: Tensor) -> Floats:
    """Mean over the feature map, (N, C); the network is in evaluation mode."""
    return answers(net, lambda batch: net.forward_features(batch).mean(dim=(2, 3)), images)


@dataclass(frozen=True)
class Covered:
    """Logits of N images with a region covered, and with as much of the body covered instead.

    Attributes:
        logits: (N, L).
        control: (N, L).
        area: share of each image that is covered, (N,).
    """

    logits: Floats
    control: Floats
    area: Floats


@dataclass(frozen=True)
class Fall:
    """How far a figure falls when a region is covered.

    Attributes:
        region: the fall; flagged above the figure's margin.
        control: the same with as much of the body covered.
        excess: fall less that of the control; flagged above 0.
        verdict: flagged if both the fall and the excess are, not flagged if one of them is not.
    """

    region: Check
    control: Check
    excess: Check
    verdict: str

    @classmethod
    def of(cls, region: Floats, control: Floats, margin: float) -> "Fall":
        """From the falls of the sample and of each draw, (1 + D,) each; draws are paired."""
        fall, excess = Check.of(region, margin), Check.of(region - control, 0.0)
        verdict = all_flagged([fall.verdict, excess.verdict])
        return cls(fall, Check.of(control, margin), excess, verdict)


@dataclass(frozen=True)
class Loss:
    """What covering a region costs one label.

    Attributes:
        images: how many have the region at all.
        area: mean share of those images that was covered.
        auroc: fall of AUROC, what the score is worth.
        logit: how much closer the mean logits of positives and negatives come, in standard
            deviations of the label's logits; it sees a shortcut beside which the label is read
            well enough without.
        verdict: flagged if one of the two is; not flagged if neither is.
    """

    images: int
    area: float
    auroc: Fall
    logit: Fall
    verdict: str


def regions_of(pixels: Pixels, exact: Mask | None) -> tuple[dict[str, Mask], Mask]:
    """Every region that is covered in an image, and its body, (H, W) each."""
    inside, lungs = body_of(pixels)
    found = {"corners": corners(pixels.shape), "border": frame(pixels.shape)}
    found["letters"] = letters(pixels, lungs)
    return found | ({} if exact is None else {EXACT: exact}), inside


def covered_logits(
    net: XrayNet, images: Tensor, exact: npt.NDArray[np.bool_] | None, seed: int
) -> dict[str, Covered]:
    """The network's answers to covered images, by region.

    Args:
        net: in evaluation mode.
        images: (N, 1, H, W) in [0, 1]; covered in 256 grey values, which is what files hold.
        exact: where a marker is known to be, (N, H, W); None where nothing is known.
        seed: of the patches inside the body.
    """
    found: dict[str, list[tuple[Floats, Floats, Floats]]] = {}
    for start in range(0, len(images), BATCH):
        grey = images[start : start + BATCH, 0].mul(255).round().to(torch.uint8).numpy()
        masks = [None] * len(grey) if exact is None else exact[start : start + BATCH]
        batch: dict[str, list[tuple[Pixels, Pixels, float]]] = {}
        for row, (pixels, known) in enumerate(zip(grey, masks, strict=True)):
            regions, inside = regions_of(pixels, known)
            for name, mask in regions.items():
                draw = np.random.default_rng((seed, start + row))
                other = elsewhere(mask, inside, draw)
                both = covered(pixels, mask), covered(pixels, other)
                batch.setdefault(name, []).append((*both, float(mask.mean())))
        for name, rows in batch.items():
            region, control, area = zip(*rows, strict=True)
            logits = [logits_of(net, _to_tensor(each)) for each in (region, control)]
            found.setdefault(name, []).append((logits[0], logits[1], np.array(area)))
    return {
        name: Covered(*(np.concatenate(each) for each in zip(*subsets, strict=True)))
        for name, subsets in found.items()
    }


def loss_of(
    logits: Floats, each: Covered, index: int, targets: Floats, codes: Codes, counts: Counts
) -> Loss:
    """What covering a region costs the label at ``index``.

    ``logits`` (N, L) are of the images as they are, ``each`` of the covered ones; targets (N,) are
    NaN where unknown. ``counts`` (1 + D, P): the sample, then bootstrap draws, each of which judges
    all the same images.
    """
    plain, region, control = (
        auroc_over(values[:, index], targets, codes, counts)
        for values in (logits, each.logits, each.control)
    )
    auroc = Fall.of(plain - region, plain - control, AUROC_MARGIN)
    spread = float(logits[:, index].std()) or np.nan
    gaps = [
        gap_over((logits - values)[:, index] / spread, targets, codes, counts)
        for values in (each.logits, each.control)
    ]
    logit = Fall.of(gaps[0], gaps[1], LOGIT_MARGIN)
    there = each.area > 0
    return Loss(
        images=int(there.sum()),
        area=float(each.area[there].mean()) if there.any() else np.nan,
        auroc=auroc,
        logit=logit,
        verdict=any_flagged([auroc.verdict, logit.verdict]),
    )


def gap_over(values: Floats, targets: Floats, codes: Codes, counts: Counts) -> Floats:
    """Mean value (N,) of the positives less that of the negatives in each draw, (D,)."""
    positive, negative = (
        ratio_over(counts, codes, np.where(targets == sign, values, 0), targets == sign)
        for sign in (1, 0)
    )
    return np.asarray(positive - negative)


def _to_tensor(images: Sequence[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(images)).unsqueeze(1).to(torch.float32).div_(255)
