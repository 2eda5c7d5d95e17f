"""The fourteen findings: where each one lies in a given chest, and what it does to the lungs' air.

Every function of a finding takes the chest, the patient's random stream of that finding (so that it
stays in its place between visits) and a growth factor near 1, and yields one region per component.
A region is a list of outlines, united. The mask of a finding is its regions, cut at the lungs'
border unless ``findings.yaml`` says otherwise.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from xray_lightning.data.phantom import film
from xray_lightning.data.phantom.anatomy import SIDES, Chest, Lung, lens
from xray_lightning.data.phantom.film import Canvas, Density, Points, Stroke, blur, disc, points
from xray_lightning.data.phantom.patients import FINDINGS, Stream
from xray_lightning.data.source import Mask
from xray_lightning.records import CHEST_XRAY14

Draw = np.random.Generator
Region = list[Points]
Outlines = Callable[[Chest, Draw, float], Iterable[Region]]

FREE_AIR = 1.22  # a pneumothorax is this much darker than lung
NET_OPACITY, BRONCHUS_AIR = 0.75, 0.6


def waves(draw: Draw, depth: float, count: int = 24) -> npt.NDArray[np.float64]:
    """A smooth random curve around 0, (count,)."""
    turn = np.linspace(0, 2 * np.pi, count)
    curve = np.zeros(count)
    for k, phase in enumerate(draw.uniform(0, 2 * np.pi, 3)):
        curve += depth / (k + 1) * np.sin(turn * (k + 0.5) + phase)
    return curve


def one_side(chest: Chest, draw: Draw) -> Lung:
    """A lung by chance."""
    return chest.lung(int(draw.choice(SIDES)))


def one_or_both(chest: Chest, draw: Draw, both: float) -> list[Lung]:
    """Both lungs with a given chance, else one."""
    first = one_side(chest, draw)
    return [first, chest.lung(-first.side)] if draw.random() < both else [first]


def atelectasis(chest: Chest, draw: Draw, growth: float) -> Iterator[Region]:
    """Plates across the lower zone, or a collapsed lobe as a wedge at the mediastinum."""
    lung = one_side(chest, draw)
    if draw.random() < 0.3:
        reach = growth * draw.uniform(0.6, 0.8)
        border = lung.at(reach * np.linspace(0, 1, 8), np.linspace(0.3, 1, 8))
        yield [np.concatenate([border, lung.at(np.linspace(0.6, 0, 8), 1.0)])]
        return
    for place in draw.uniform(0.58, 0.7) + np.arange(draw.integers(1, 3)) * 0.17:
        middle = place + draw.uniform(-0.07, 0.07) * np.linspace(-1, 1, 24) + waves(draw, 0.012)
        half = growth * draw.uniform(0.028, 0.04)
        yield [lung.band(middle - half, middle + half, (draw.uniform(0.1, 0.25), 0.93))]


def effusion(chest: Chest, draw: Draw, growth: float) -> Iterator[Region]:
    """Fluid in the costophrenic angle, its upper border rising towards the wall."""
    for lung in one_or_both(chest, draw, 0.35):
        across = np.linspace(0, 1, 24)
        depth = growth * draw.uniform(0.03, 0.24)
        yield [lung.band(1 - depth - (0.12 + 0.3 * depth) * across**3, 1.0, (0.0, 1.0))]


def infiltration(chest: Chest, draw: Draw, growth: float) -> Iterator[Region]:
    """Ill-defined patches scattered around one place, in one lung or both."""
    for lung in one_or_both(chest, draw, 0.4):
        across, down = draw.uniform(0.35, 0.7), draw.uniform(0.3, 0.75)
        spots: Region = []
        for _ in range(draw.integers(3, 6)):
            place = lung.at(*np.clip(np.array([across, down]) + draw.normal(0, 0.12, 2), 0.1, 0.9))
            spots.append(disc(place, growth * draw.uniform(0.04, 0.075, 2), draw.normal(0, 0.1, 3)))
        yield spots


def mass(chest: Chest, draw: Draw, growth: float) -> Iterator[Region]:
    """One disc of 12 to 18 % of the image's width."""
    place = one_side(chest, draw).at(draw.uniform(0.4, 0.65), draw.uniform(0.25, 0.7))
    yield [disc(place, growth * draw.uniform(0.06, 0.088), draw.normal(0, 0.04, 3))]


def nodule(chest: Chest, draw: Draw, growth: float) -> Iterator[Region]:
    """One to three discs of 5 to 8 % of the image's width."""
    for _ in range(draw.integers(1, 4)):
        place = one_side(chest, draw).at(draw.uniform(0.3, 0.82), draw.uniform(0.2, 0.85))
        yield [disc(place, growth * draw.uniform(0.027, 0.038), draw.normal(0, 0.03, 3))]


def pneumonia(chest: Chest, draw: Draw, growth: float) -> Iterator[Region]:
    """A patch over the middle or lower zone of one lung, with uneven borders."""
    lung = one_side(chest, draw)
    upper = draw.uniform(0.42, 0.58)
    lower = min(upper + growth * draw.uniform(0.26, 0.36), 0.95)
    ends = (0.08, draw.uniform(0.75, 0.97))
    yield [lung.band(upper + waves(draw, 0.04), lower + waves(draw, 0.03), ends)]


def pneumothorax(chest: Chest, draw: Draw, growth: float) -> Iterator[Region]:
    """Free air between the lateral wall and the retracted lung, widest at the apex."""
    lung = one_side(chest, draw)
    width, end = growth * draw.uniform(0.22, 0.42), draw.uniform(0.6, 0.97)
    down = np.linspace(0, 1, 24)
    yield [lung.strip(1 - width * (1 - 0.75 * down) - 0.3 * (1 - down) ** 6, 1.0, (0.0, end))]


def consolidation(chest: Chest, draw: Draw, growth: float) -> Iterator[Region]:
    """A whole lobe, upper or lower, with the fissure as a sharp border."""
    lung = one_side(chest, draw)
    fissure = np.linspace(-0.5, 0.5, 24) * draw.uniform(-0.12, 0.12)
    extent = growth * draw.uniform(0.26, 0.34)
    if draw.random() < 0.5:
        yield [lung.band(0.03, 0.1 + extent + fissure, (0.0, 1.0))]
    else:
        upper = draw.uniform(0.5, 0.6) + fissure
        yield [lung.band(upper, upper + extent, (0.0, 1.0))]


def edema(chest: Chest, draw: Draw, growth: float) -> Iterator[Region]:
    """Haze around both hila, like the wings of a bat."""
    across, down = draw.uniform(0.3, 0.38), draw.uniform(0.45, 0.55)
    radius = growth * draw.uniform([0.1, 0.13], [0.125, 0.17])
    yield from ([disc(chest.lung(s).at(across, down), radius, [0.1, 0.05])] for s in SIDES)


def fibrosis(chest: Chest, draw: Draw, growth: float) -> Iterator[Region]:
    """A crescent at the periphery of both bases, with a net of lines in it."""
    depth, upper = growth * draw.uniform(0.4, 0.55), draw.uniform(0.4, 0.55)
    inner = 1 - depth * np.linspace(0.25, 1, 24) ** 0.8
    yield from ([chest.lung(side).strip(inner, 0.995, (upper, 0.97))] for side in SIDES)


def pleural_thickening(chest: Chest, draw: Draw, growth: float) -> Iterator[Region]:
    """A band along the lateral wall, or a cap over the apex."""
    for lung in one_or_both(chest, draw, 0.3):
        if draw.random() < 0.35:
            cap = growth * draw.uniform(0.09, 0.13) + waves(draw, 0.012)
            yield [lung.band(0.0, cap, (0.0, 1.0))]
        else:
            depth = growth * draw.uniform(0.11, 0.16) * (1 + waves(draw, 0.15))
            ends = (draw.uniform(0.12, 0.3), draw.uniform(0.65, 0.85))
            yield [lung.strip(1 - depth, 1.0, ends)]


def hernia(chest: Chest, draw: Draw, growth: float) -> Iterator[Region]:
    """A round shadow behind the heart, above the diaphragm."""
    bottom = chest.heart_outline()[:, 1].max()
    radius = growth * draw.uniform(0.06, 0.085)
    stomach = disc((draw.uniform(0.0, 0.06), bottom - 0.85 * radius), radius)
    yield [film.round_corners(stomach, 1)]


OUTLINES: dict[str, Outlines] = {  # by the finding's name in small letters
    "cardiomegaly": lambda chest, *_: [[chest.heart_outline()]],
    "emphysema": lambda chest, *_: [[lung] for lung in chest.lungs],
    **{each.__name__: each for each in (atelectasis, effusion, infiltration, mass, nodule)},
    **{each.__name__: each for each in (pneumonia, pneumothorax, consolidation, edema)},
    **{each.__name__: each for each in (fibrosis, pleural_thickening, hernia)},
}


def regions(chest: Chest, label: str) -> list[Region]:
    """Where a finding lies, a region per component, at the patient's own side and place."""
    visit, index = chest.visit, CHEST_XRAY14.index(label)
    growth = visit.draws(Stream.FINDING, index, visit.follow_up + 1).normal(1, 0.07)
    draw = visit.draws(Stream.FINDING, index)
    return [*OUTLINES[label.lower()](chest, draw, float(np.clip(growth, 0.85, 1.15)))]


def draw_components(canvas: Canvas, chest: Chest, label: str) -> list[Mask]:
    """Exact masks of a finding, one per component, each (H, W); their union is its mask."""
    masks = [canvas.fill(region) for region in regions(chest, label)]
    if FINDINGS[label].cut:
        lungs = canvas.fill(chest.lungs)
        masks = [mask & lungs for mask in masks]
    return [mask.astype(bool) for mask in masks if mask.any()]


def draw_mask(canvas: Canvas, chest: Chest, label: str) -> Mask:
    """The exact mask of a finding, (H, W)."""
    return np.asarray(np.logical_or.reduce(draw_components(canvas, chest, label)))


def draw_shadow(canvas: Canvas, chest: Chest, label: str, mask: Mask) -> Density:
    """The share of air that a finding with an opacity leaves, 1 where it is not, (H, W)."""
    finding, visit = FINDINGS[label], chest.visit
    draw = visit.draws(Stream.FINDING, CHEST_XRAY14.index(label), visit.follow_up + 1, 1)
    opacity = finding.opacity * draw.uniform(0.8, 1.1)
    alpha = blur(mask, finding.border)
    strength = alpha * np.float32(min(opacity, 0.99))
    if finding.cloud:
        strength *= 1 - np.float32(finding.cloud) * canvas.cloud(draw, 24)
    if finding.lines == "net":
        start = draw.uniform([-0.4, -0.15], [0.4, 0.35], (260, 2))  # all over the lower lungs
        bend = start + draw.normal(0, 0.018, start.shape)
        end = bend + draw.normal(0, 0.018, start.shape)
        net = canvas.blur_lines([Stroke(np.stack([start, bend, end], axis=1), 0.006)], 0.001)
        strength = np.maximum(strength, np.float32(NET_OPACITY) * net * alpha)
    if finding.lines == "bronchi":
        angle = draw.uniform(-0.2, 1.1, (2, 4, 1))  # from both hila outwards
        reach = np.linspace(0.02, 0.22, 6)
        across = np.reshape(SIDES, (2, 1, 1)) * (0.09 + reach * np.cos(angle))
        lines = points(across, reach * np.sin(angle))
        lines += draw.normal(0, 0.004, lines.shape)
        tubes = canvas.blur_lines([Stroke(lines.reshape(-1, 6, 2), 0.011)], 0.002)
        strength *= 1 - np.float32(BRONCHUS_AIR) * tubes
    return np.asarray(1 - strength)


def draw_hernia(canvas: Canvas, chest: Chest) -> Density:
    """The stomach behind the heart: a round shadow with gas above a flat fluid level, (H, W)."""
    [[outline]] = regions(chest, "Hernia")
    low, high = outline.min(axis=0), outline.max(axis=0)
    middle, radius = (low + high) / 2, (high[0] - low[0]) / 2
    gas = lens(np.array([middle[0], low[1] + 0.2 * radius]), 0.72 * radius, 0.6 * radius)
    wall = np.float32(0.1) * blur(canvas.fill([outline]), 0.003)
    return wall - np.float32(0.19) * blur(canvas.fill([gas]), 0.003)
