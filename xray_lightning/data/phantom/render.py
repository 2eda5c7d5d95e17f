"""A radiograph of one visit: anatomy and findings summed up as density, then exposed.

Density is what the beam meets: soft tissue and bone add, air in the lungs takes away. A finding
takes away air (it is brighter) or adds some (pneumothorax, emphysema), so that it can never be
denser than the tissue around, and one beside the heart hides the heart's border, as in life.
"""

from collections.abc import Collection, Mapping

import cv2
import numpy as np
import numpy.typing as npt

from xray_lightning.data.phantom.anatomy import SIDES, Chest, Points, chest_of, points
from xray_lightning.data.phantom.body import (
    abdomen,
    airways,
    bones,
    breasts,
    mediastinum,
    trunk,
    vessels,
)
from xray_lightning.data.phantom.film import expose
from xray_lightning.data.phantom.findings import regions
from xray_lightning.data.phantom.patients import BODY_STREAM, Visit, generator
from xray_lightning.data.phantom.plate import Density, Mask, Plate, plate_of
from xray_lightning.data.phantom.signs import (
    FREE_AIR,
    LOOKS,
    components,
    pleural_line,
    shadow,
)
from xray_lightning.data.source import Pixels

TISSUE, BELLY, CENTRE, HEART, AIR = 0.64, 0.11, 0.06, 0.10, 0.5
HIDDEN = 0.8  # share of the lung's air that heart and mediastinum take


def render(seed: int, visit: Visit, size: int, findings: Collection[str]) -> Pixels:
    """The film of a visit with the given findings, (size, size) uint8."""
    chest, plate = chest_of(seed, visit, findings), plate_of(seed, visit, size)
    masks = finding_masks(plate, seed, visit, findings, chest)
    return expose(density(plate, seed, visit, chest, masks), seed, visit, plate)[0]


def finding_masks(
    plate: Plate, seed: int, visit: Visit, findings: Collection[str], chest: Chest
) -> dict[str, Mask]:
    """The exact mask of each finding, (H, W)."""
    return {
        label: np.logical_or.reduce(components(plate, seed, visit, label, chest))
        for label in findings
    }


def density(
    plate: Plate, seed: int, visit: Visit, chest: Chest, masks: Mapping[str, Mask]
) -> Density:
    """Everything the beam meets, about 0 to 1, (H, W)."""
    trunk_shape = plate.fill(trunk(chest))
    heart = plate.soft(plate.fill([chest.heart_outline()]), 0.006)
    centre = plate.soft(plate.fill(mediastinum(chest)), 0.008)
    belly = plate.soft(plate.fill(abdomen(chest)) * trunk_shape, 0.005)
    total = layers((belly, BELLY), (centre, CENTRE), (heart, HEART))
    total += soft_tissue(plate, chest, trunk_shape)
    air = lung_air(plate, chest, np.maximum(heart, centre, out=centre))
    tree = vessels(plate, seed, visit, chest)
    for label in [name for name in LOOKS if name in masks]:  # in a fixed order: floats round
        air *= shadow(plate, seed, visit, label, masks[label])
    if "Pneumothorax" in masks:
        free = plate.soft(masks["Pneumothorax"], 0.002)
        tree *= 1 - free
        total += 0.12 * pleural_line(masks["Pneumothorax"], plate) * air
        air *= 1 + (FREE_AIR - 1) * free
    tree *= 0.25
    tree -= AIR * chest.air
    total += np.multiply(air, tree, out=tree)
    add_stomach(total, plate, seed, visit, chest)
    if "Hernia" in masks:
        total += hernia_shadow(plate, seed, visit, chest)
    return total


def layers(*weighted: tuple[Density, float]) -> Density:
    """The weighted sum of images, in one pass each, (H, W); temporary arrays cost page faults."""
    total = np.zeros_like(weighted[0][0])
    for image, weight in weighted:
        cv2.scaleAdd(image, weight, total, total)
    return total


def soft_tissue(plate: Plate, chest: Chest, trunk_shape: npt.NDArray[np.uint8]) -> Density:
    """Everything but heart, lungs and belly: flesh, bones, breasts, less the airways, (H, W)."""
    flesh = layers((plate.soft(trunk_shape, 0.006), 0.3), (plate.soft(trunk_shape, 0.03), 0.7))
    parts = [(bones(plate, chest), 1.0), (airways(plate), -0.1)]
    if chest.breast:
        parts.append((breasts(plate, chest), 0.07))
    tissue = layers(*parts)
    tissue += TISSUE + 0.03 * chest.habitus
    tissue *= flesh
    return tissue


def lung_air(plate: Plate, chest: Chest, covered: Density) -> Density:
    """Air in the lungs, deepest in the middle of each and less where covered, 0 to 1, (H, W)."""
    lungs = plate.fill(chest.lung(side).outline() for side in SIDES)
    air, depth = plate.soft(lungs, 0.004), plate.soft(lungs, 0.035)
    depth *= 0.45
    depth += 0.55
    air *= depth
    air *= 1 - HIDDEN * covered
    return air


def add_stomach(total: Density, plate: Plate, seed: int, visit: Visit, chest: Chest) -> None:
    """Gas under the left dome of half the patients, in place."""
    draw = generator(seed, BODY_STREAM, visit.patient, 2)
    if draw.random() < 0.5:
        gas = lens(chest.left.at(0.45, 1.0) + points(0.0, 0.018), draw.uniform(0.04, 0.07), 0.05)
        total -= 0.3 * plate.soft(plate.fill([gas]), 0.006)


def lens(top: Points, half: float, depth: float) -> Points:
    """A half ellipse with a flat lower border: gas above fluid, (N, 2)."""
    angle = np.linspace(np.pi, 2 * np.pi, 20)
    return top + points(half * np.cos(angle), depth + depth * np.sin(angle))


def hernia_shadow(plate: Plate, seed: int, visit: Visit, chest: Chest) -> Density:
    """The stomach behind the heart: a round shadow with gas above a flat fluid level, (H, W)."""
    [[outline]] = regions(seed, visit, "Hernia", chest)
    low, high = outline.min(axis=0), outline.max(axis=0)
    middle, radius = (low + high) / 2, (high[0] - low[0]) / 2
    gas = lens(np.array([middle[0], low[1] + 0.2 * radius]), 0.72 * radius, 0.6 * radius)
    wall = plate.soft(plate.fill([outline]), 0.003)
    return np.float32(0.1) * wall - np.float32(0.19) * plate.soft(plate.fill([gas]), 0.003)
