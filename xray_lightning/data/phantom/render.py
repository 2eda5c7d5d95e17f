"""A radiograph of one visit: a healthy chest and findings summed up as density, then exposed.

Density is what the beam meets: soft tissue and bone add, air in the lungs takes away. A finding
takes away air (it is brighter) or adds some (pneumothorax, emphysema), so that it can never be
denser than the tissue around, and one beside the heart hides the heart's border, as in life.
"""

from collections.abc import Collection, Mapping

import cv2
import numpy as np
import numpy.typing as npt

from xray_lightning.data.phantom.anatomy import SIDES, Chest, Points, chest_of, points, rounded
from xray_lightning.data.phantom.patients import BODY_STREAM, Visit, generator
from xray_lightning.data.phantom.plate import Density, Mask, Plate, Stroke, expose, plate_of
from xray_lightning.data.phantom.signs import (
    FREE_AIR,
    LOOKS,
    components,
    pleural_line,
    regions,
    shadow,
)
from xray_lightning.data.source import Pixels

HILUM = (0.085, -0.02)

TISSUE, BELLY, CENTRE, HEART, AIR = 0.64, 0.11, 0.06, 0.10, 0.5
HIDDEN = 0.8  # share of the lung's air that heart and mediastinum take


def trunk(chest: Chest) -> list[Points]:
    """Neck, shoulders and trunk against the air around."""
    half = 0.425 + 0.035 * chest.habitus + 0.3 * (chest.left.width - 0.352)
    x = np.array([0.085, 0.095, 0.14, 0.3, 0.43, 0.6, 0.6, half + 0.02, half - 0.01, half])
    y = np.array([-0.62, -0.44, -0.415, -0.37, -0.33, -0.2, 0.02, 0.0, 0.15, 0.62])
    right_side, left_side = points(-x[::-1], y[::-1]), points(x, y)
    return [rounded(np.concatenate([left_side, right_side]), 3)]


def abdomen(chest: Chest) -> list[Points]:
    """Everything below the diaphragm."""
    domes = [chest.right.diaphragm()[::-1], chest.left.diaphragm()]
    flank = chest.right.width + 0.02
    corners = points([flank, -flank], [0.7, 0.7])
    return [np.concatenate([*domes, corners])]


def mediastinum(chest: Chest) -> list[Points]:
    """The band between the lungs with the aortic knob on the left."""
    y = np.array([-0.62, -0.42, -0.3, -0.2, -0.1, 0.0, 0.2, 0.3])
    right = points([-0.05, -0.06, -0.068, -0.072, -0.075, -0.08, -0.06, -0.06], y)
    left = points([0.05, 0.06, 0.062, 0.06, 0.066, 0.075, 0.06, 0.06], y)
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    knob = np.array([0.068, -0.15]) + chest.knob * points(np.cos(angle), 1.15 * np.sin(angle))
    return [np.concatenate([left, right[::-1]]), knob]


def rib_strokes(chest: Chest) -> list[Stroke]:
    """Fainter front ends of ribs (six pairs) under those behind (nine), dense at their edges."""
    back, front = [], []
    s = np.linspace(0, 1, 14)
    number = np.arange(9)
    for side in SIDES:
        lung = chest.lung(side)
        start = lung.apex + (lung.floor - lung.apex) / 9.2 * number[:, None]
        wall = lung.at(1.0, np.minimum(0.06 + 0.115 * number, 1.0))
        reach = np.abs(wall[:, :1]) + 0.008  # (9, 1)
        sink = (0.02 + 0.012 * number[:, None]) * s**2 - 0.028 * np.sin(np.pi * s)
        back.append(points(side * (0.035 + (reach - 0.035) * s), start - 0.005 + sink))
        way = side * (reach - (reach - 0.13) * s)
        front.append(points(way, start + 0.04 + 0.13 * s**1.2)[1:7])
    behind = np.concatenate(back)
    return [
        Stroke(np.concatenate(front), 0.019, 0.3),
        Stroke(behind, 0.021, 0.8),
        Stroke(behind, 0.0105, 0.52),
    ]


def bones(plate: Plate, chest: Chest) -> Density:
    """Ribs, clavicles and spine, (H, W)."""
    s = np.linspace(0, 1, 10)
    side = np.reshape(SIDES, (2, 1))
    lift = chest.right.apex + 0.065
    collar = points(side * (0.03 + 0.33 * s), lift - 0.06 * s - 0.02 * np.sin(3 * s))
    column = points([[0.0, 0.0]], [-0.62, 0.62])
    discs = points([-0.03, 0.03], np.arange(-0.48, 0.5, 0.058)[:, None])
    strokes = [
        *rib_strokes(chest),
        Stroke(collar, 0.028, 1.0),
        Stroke(column, 0.072, 0.65),
        Stroke(discs, 0.012, 0.28),
    ]
    return np.float32(0.125) * plate.soft(plate.lines(strokes), 0.003)


def vessel_strokes(seed: int, visit: Visit, chest: Chest) -> list[Stroke]:
    """Vessels that leave each hilum, branch, and grow thin; the same at every visit."""
    draw = generator(seed, BODY_STREAM, visit.patient, 1)
    count = 10
    mains, twigs = [], []
    for side in SIDES:
        hilum = np.array([side * HILUM[0], HILUM[1] + 0.012 * side])
        angle = np.linspace(-1.35, 1.4, count) + draw.normal(0, 0.12, count)
        main = branches(draw, hilum, side, angle, draw.uniform(0.14, 0.27, count))
        mains.append(main)
        for fork in (2, 4, 5):
            turn = angle + draw.choice([-0.6, 0.6], count)
            reach = draw.uniform(0.06, 0.13, count)
            twigs.append(branches(draw, main[:, fork, None], side, turn, reach))
    main = np.concatenate(mains)
    wide = chest.vessels
    return [
        Stroke(np.concatenate(twigs), 0.0038 * wide),
        Stroke(main[:, 3:], 0.005 * wide),
        Stroke(main[:, :4], 0.0095 * wide),
    ]


def branches(
    draw: np.random.Generator, start: Points, side: int, angle: Points, reach: Points
) -> Points:
    """Wavering lines outwards, one per angle and reach (K,), (K, 8, 2)."""
    way = angle[:, None] + np.cumsum(draw.normal(0, 0.13, (len(angle), 8)), axis=1)
    steps = points(side * np.cos(way), np.sin(way)) * (reach[:, None, None] / 8)
    return np.asarray(start + np.cumsum(steps, axis=1) - steps[:, :1])


def vessels(plate: Plate, seed: int, visit: Visit, chest: Chest) -> Density:
    """Hila and lung vessels, 0 to about 1, (H, W)."""
    lines = plate.lines(vessel_strokes(seed, visit, chest))
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    oval = points(0.028 * np.cos(angle), 0.05 * np.sin(angle))
    hila = plate.fill(oval + points(s * HILUM[0], HILUM[1] + 0.012 * s) for s in SIDES)
    return np.float32(0.75) * plate.soft(lines, 0.002) + np.float32(0.6) * plate.soft(hila, 0.014)


def airways(plate: Plate) -> Density:
    """The air column of trachea and main bronchi, 0 to 1, (H, W)."""
    trachea = points([0.0, 0.003, 0.0], [-0.6, -0.3, -0.1])
    right = points([0.0, -0.045, -0.09], [-0.11, -0.07, -0.04])
    left = points([0.0, 0.055, 0.1], [-0.11, -0.06, -0.035])
    strokes = [Stroke(trachea[None], 0.036), Stroke(np.stack([right, left]), 0.019)]
    return plate.soft(plate.lines(strokes), 0.006)


def breasts(plate: Plate, chest: Chest) -> Density:
    """Shadows over the lower lungs, 0 to 1, (H, W); zero for men."""
    if not chest.breast:
        return np.zeros((plate.size, plate.size), np.float32)
    angle = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    oval = points(0.135 * np.cos(angle), 0.15 * np.sin(angle))
    low = chest.right.floor - 0.1
    shape = plate.fill(oval + points(side * 0.23, low) for side in SIDES)
    return np.float32(chest.breast) * plate.soft(shape, 0.02)


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
