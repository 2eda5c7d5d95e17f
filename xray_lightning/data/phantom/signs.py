"""How findings look: what each one does to the air in the lungs within its mask."""

from dataclasses import dataclass

import numpy as np

from xray_lightning.data.phantom.anatomy import SIDES, Chest, points
from xray_lightning.data.phantom.findings import UNCUT, regions
from xray_lightning.data.phantom.patients import FINDING_STREAM, Visit, generator
from xray_lightning.data.phantom.plate import Density, Mask, Plate, Stroke
from xray_lightning.labels import CHEST_XRAY14


@dataclass(frozen=True, slots=True)
class Look:
    """The shadow of a finding.

    Attributes:
        opacity: share of the lung's air it takes away.
        border: blur of its border, a share of the image.
        cloud: how uneven it is, 0 homogeneous to 1.
        lines: what is drawn inside: "", "net" (fibrosis) or "bronchi" (air in pneumonia).
    """

    opacity: float
    border: float
    cloud: float = 0.0
    lines: str = ""


LOOKS = {
    "Atelectasis": Look(0.75, 0.005),
    "Effusion": Look(0.97, 0.008),
    "Infiltration": Look(0.42, 0.022, cloud=0.6),
    "Mass": Look(0.65, 0.006, cloud=0.1),
    "Nodule": Look(0.7, 0.004),
    "Pneumonia": Look(0.68, 0.016, cloud=0.45, lines="bronchi"),
    "Consolidation": Look(0.85, 0.006, cloud=0.1),
    "Edema": Look(0.55, 0.03, cloud=0.4),
    "Fibrosis": Look(0.25, 0.012, lines="net"),
    "Pleural_Thickening": Look(0.8, 0.006),
}
FREE_AIR = 1.22  # a pneumothorax is this much darker than lung
NET_OPACITY, BRONCHUS_AIR = 0.75, 0.6


def components(plate: Plate, seed: int, visit: Visit, label: str, chest: Chest) -> list[Mask]:
    """Exact masks of a finding, one per component, each (H, W); their union is its mask."""
    drawn = [plate.fill(region) for region in regions(seed, visit, label, chest)]
    if label not in UNCUT:
        lungs = plate.fill(chest.lung(side).outline() for side in SIDES)
        drawn = [region & lungs for region in drawn]
    return [region.astype(bool) for region in drawn if region.any()]


def shadow(plate: Plate, seed: int, visit: Visit, label: str, mask: Mask) -> Density:
    """The share of air left by a finding of ``LOOKS``, 1 where it is not, (H, W)."""
    look = LOOKS[label]
    index = CHEST_XRAY14.index(label)
    draw = generator(seed, FINDING_STREAM, visit.patient, index, visit.follow_up + 1, 1)
    opacity = look.opacity * draw.uniform(0.8, 1.1)
    alpha = plate.soft(mask, look.border)
    strength = alpha * np.float32(min(opacity, 0.99))
    if look.cloud:
        strength *= 1 - np.float32(look.cloud) * plate.cloud(draw, 24)
    if look.lines == "net":
        net = plate.soft(plate.lines(net_strokes(draw)), 0.001)
        strength = np.maximum(strength, np.float32(NET_OPACITY) * net * alpha)
    if look.lines == "bronchi":
        tubes = plate.soft(plate.lines(bronchi_strokes(draw)), 0.002)
        strength *= 1 - np.float32(BRONCHUS_AIR) * tubes
    return np.asarray(1 - strength)


def net_strokes(draw: np.random.Generator, count: int = 260) -> list[Stroke]:
    """Short crossing lines all over the lower lungs; the mask selects those to keep."""
    start = draw.uniform([-0.4, -0.15], [0.4, 0.35], (count, 2))
    bend = start + draw.normal(0, 0.018, (count, 2))
    end = bend + draw.normal(0, 0.018, (count, 2))
    return [Stroke(np.stack([start, bend, end], axis=1), 0.006)]


def bronchi_strokes(draw: np.random.Generator) -> list[Stroke]:
    """Air-filled tubes from both hila outwards; the mask selects those to keep."""
    angle = draw.uniform(-0.2, 1.1, (2, 4, 1))
    side = np.reshape(SIDES, (2, 1, 1))
    reach = np.linspace(0.02, 0.22, 6)
    lines = points(side * (0.09 + reach * np.cos(angle)), reach * np.sin(angle))
    lines += draw.normal(0, 0.004, lines.shape)
    return [Stroke(lines.reshape(-1, 6, 2), 0.011)]


def pleural_line(mask: Mask, plate: Plate) -> Density:
    """The thin bright edge of the retracted lung, at the mask's border, (H, W) in [0, 1]."""
    edge = plate.soft(mask, 0.005)
    return np.float32(4) * edge * (1 - edge)
