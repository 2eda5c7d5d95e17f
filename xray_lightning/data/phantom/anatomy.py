"""One healthy chest: lungs, heart, diaphragm, bones, vessels, and the density they add up to.

Outlines lie in the body's own frame, see ``film``. Side -1 is the patient's right lung, +1 the
left.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from xray_lightning.data.phantom import film
from xray_lightning.data.phantom.film import Canvas, Density, Points, Stroke, blur, disc, points
from xray_lightning.data.phantom.patients import Stream, Visit

SIDES = (-1, 1)
CARDIOPHRENIC = 0.05  # the diaphragm meets the heart this much higher than the ribs
HILUM = (0.085, -0.02)
TISSUE = 0.64  # density of the trunk without lungs, heart and bones
HIDDEN = 0.8  # share of the lung's air that heart and mediastinum take


@dataclass(frozen=True, slots=True)
class Lung:
    """One lung, and coordinates inside it."""

    side: int  # -1 the patient's right, +1 the left
    width: float  # from the midline to the lateral wall at the base
    apex: float  # y of the top
    floor: float  # y of the costophrenic angle
    dome: float  # height of the diaphragm's dome

    def at(self, across: npt.ArrayLike, down: npt.ArrayLike) -> Points:
        """Points of the lung: across, 0 mediastinum, 1 lateral wall; down, 0 apex, 1 diaphragm."""
        across, down = np.asarray(across, float), np.asarray(down, float)
        medial = 0.058 + 0.05 * (1 - down) ** 3
        lateral = 0.12 + (self.width - 0.12) * (1 - (1 - down) ** 2.4) ** 0.55
        bump = 1 - np.abs(2 * across - 1) ** 2.6
        diaphragm = self.floor - CARDIOPHRENIC * (1 - across) - self.dome * bump
        return points(
            self.side * (medial + (lateral - medial) * across),
            self.apex + down * (diaphragm - self.apex),
        )

    def band(self, upper: npt.ArrayLike, lower: npt.ArrayLike, ends: tuple[float, float]) -> Points:
        """The region between two curves ``down(across)``, each (N,), from one end to the other."""
        upper, lower = np.broadcast_arrays(np.asarray(upper, float), np.asarray(lower, float))
        across = np.linspace(*ends, len(upper))
        outer = self.at(ends[1], np.linspace(upper[-1], lower[-1], 16))
        inner = self.at(ends[0], np.linspace(lower[0], upper[0], 8))
        return np.concatenate([self.at(across, upper), outer, self.at(across, lower)[::-1], inner])

    def strip(
        self, inner: npt.ArrayLike, outer: npt.ArrayLike, ends: tuple[float, float]
    ) -> Points:
        """The region between two curves ``across(down)``, each (N,), from one end to the other."""
        inner, outer = np.broadcast_arrays(np.asarray(inner, float), np.asarray(outer, float))
        down = np.linspace(*ends, len(inner))
        return np.concatenate([self.at(inner, down), self.at(outer, down)[::-1]])

    def outline(self) -> Points:
        """The whole lung."""
        across = np.linspace(0, 1, 24)
        side = self.at(1.0, np.linspace(0, 1, 28) ** 2)
        medial = self.at(0.0, np.linspace(1, 0, 10))
        return np.concatenate([side, self.at(across[::-1], 1.0), medial])


@dataclass(frozen=True, slots=True)
class Chest:
    """One patient's chest as it stands on the day of one visit."""

    visit: Visit
    right: Lung  # on the left of the picture
    left: Lung
    heart: float  # width over that of the thorax, the cardiothoracic ratio
    air: float  # how dark the lungs are; 1 is usual
    habitus: float  # soft tissue, -1 thin to 1 stout
    breast: float  # density of the breast shadows, 0 for none
    knob: float  # radius of the aortic knob
    vessels: float  # how many times as wide as usual the lung vessels are

    @property
    def lungs(self) -> list[Points]:
        """The outlines of both."""
        return [self.right.outline(), self.left.outline()]

    def lung(self, side: int) -> Lung:
        """The lung of a side, -1 or +1."""
        return self.left if side > 0 else self.right

    def heart_outline(self) -> Points:
        """The heart's silhouette; its width is ``heart`` times the thorax's."""
        total = self.heart * (self.right.width + self.left.width)
        base = (self.right.floor + self.left.floor) / 2 - 0.055
        top = base - 0.235 - 0.25 * (total - 0.3)
        x = [0.05, 0.35, 0.62, 0.95, 1.02, 0.8, 0.3, -0.3, -0.52, -0.56, -0.4, -0.15]
        y = [0.0, 0.13, 0.38, 0.68, 0.93, 1.06, 1.1, 1.04, 0.9, 0.6, 0.25, 0.02]
        shape = film.round_corners(points(x, top + (base - top) * np.array(y)))
        low, high = shape[:, 0].min(), shape[:, 0].max()
        shape[:, 0] = total * ((shape[:, 0] - low) / (high - low) - 0.35)
        return shape


def build_chest(visit: Visit, findings: Collection[str]) -> Chest:
    """The chest at a visit: the patient's own build, the day's breath, and what findings change."""
    body, day = visit.draws(Stream.BODY), visit.draws(Stream.VISIT, visit.follow_up)
    woman, in_bed = visit.sex == "F", visit.in_bed
    width = 0.352 - 0.012 * woman + body.uniform(-0.018, 0.018) + day.normal(0, 0.003)
    floor = 0.285 + body.uniform(-0.02, 0.02) + day.normal(0, 0.012) - 0.045 * in_bed
    dome = 0.062 + body.uniform(-0.012, 0.012) + day.normal(0, 0.004) + 0.01 * in_bed
    apex = -0.365 + body.uniform(-0.012, 0.012)
    ratio = 0.428 + body.uniform(-0.03, 0.03) + 0.0004 * (visit.age - 50) + day.normal(0, 0.006)
    enlarged = body.uniform(0.1, 0.175) + day.normal(0, 0.008)
    tilt, habitus, knob = body.normal(0, 0.006), body.uniform(-1, 1), body.uniform(0.024, 0.034)
    inflated, wide = "Emphysema" in findings, "Cardiomegaly" in findings
    if inflated:
        width, floor, dome, ratio = width + 0.022, floor + 0.048, 0.3 * dome, 0.88 * ratio
    ratio += 0.028 * in_bed
    lift = 0.03 if "Atelectasis" in findings else 0.0
    return Chest(
        visit,
        right=Lung(-1, width, apex, floor - 0.012 + tilt - lift / 2, dome),
        left=Lung(1, width * 0.98, apex, floor + 0.012 - tilt - lift / 2, 0.9 * dome),
        heart=max(ratio + enlarged, 0.52) if wide else ratio,
        air=1.2 if inflated else 1.0,
        habitus=habitus,
        breast=float(body.uniform(0.4, 1.0)) if woman else 0.0,
        knob=knob + 0.00025 * (visit.age - 50),
        vessels=1.3 if "Edema" in findings else 1.0,
    )


# --- outlines and lines of what every chest has ---------------------------------------------


def trunk(chest: Chest) -> list[Points]:
    """Neck, shoulders and trunk against the air around."""
    half = 0.425 + 0.035 * chest.habitus + 0.3 * (chest.left.width - 0.352)
    x = np.array([0.085, 0.095, 0.14, 0.3, 0.43, 0.6, 0.6, half + 0.02, half - 0.01, half])
    y = np.array([-0.62, -0.44, -0.415, -0.37, -0.33, -0.2, 0.02, 0.0, 0.15, 0.62])
    return [film.round_corners(np.concatenate([points(x, y), points(-x[::-1], y[::-1])]))]


def abdomen(chest: Chest) -> list[Points]:
    """Everything below the diaphragm."""
    flank, across = chest.right.width + 0.02, np.linspace(0, 1, 24)
    domes = [chest.right.at(across, 1.0)[::-1], chest.left.at(across, 1.0)]
    return [np.concatenate([*domes, points([flank, -flank], [0.7, 0.7])])]


def mediastinum(chest: Chest) -> list[Points]:
    """The band between the lungs with the aortic knob on the left."""
    y = np.array([-0.62, -0.42, -0.3, -0.2, -0.1, 0.0, 0.2, 0.3])
    right = points([-0.05, -0.06, -0.068, -0.072, -0.075, -0.08, -0.06, -0.06], y)
    left = points([0.05, 0.06, 0.062, 0.06, 0.066, 0.075, 0.06, 0.06], y)
    knob = np.array([0.068, -0.15]) + chest.knob * disc(0.0, (1.0, 1.15), count=24)
    return [np.concatenate([left, right[::-1]]), knob]


def bone_strokes(chest: Chest) -> list[Stroke]:
    """Ribs, fainter front ends (six pairs) under those behind (nine); clavicles; spine."""
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
    behind = np.concatenate(back)  # dense at their edges
    ribs = [Stroke(np.concatenate(front), 0.019, 0.3), Stroke(behind, 0.021, 0.8)]
    ribs.append(Stroke(behind, 0.0105, 0.52))
    s = np.linspace(0, 1, 10)
    both = np.reshape(SIDES, (2, 1))
    lift = chest.right.apex + 0.065
    collar = points(both * (0.03 + 0.33 * s), lift - 0.06 * s - 0.02 * np.sin(3 * s))
    column = points([[0.0, 0.0]], [-0.62, 0.62])
    discs = points([-0.03, 0.03], np.arange(-0.48, 0.5, 0.058)[:, None])
    spine = [Stroke(column, 0.072, 0.65), Stroke(discs, 0.012, 0.28)]
    return [*ribs, Stroke(collar, 0.028), *spine]


def branches(draw: Generator, start: Points, side: int, angle: Points, reach: Points) -> Points:
    """Wavering lines outwards, one per angle and reach (K,), (K, 8, 2)."""
    way = angle[:, None] + np.cumsum(draw.normal(0, 0.13, (len(angle), 8)), axis=1)
    steps = points(side * np.cos(way), np.sin(way)) * (reach[:, None, None] / 8)
    return np.asarray(start + np.cumsum(steps, axis=1) - steps[:, :1])


def lens(top: Points, half: float, depth: float) -> Points:
    """A half ellipse with a flat lower border: gas above fluid, (N, 2)."""
    angle = np.linspace(np.pi, 2 * np.pi, 20)
    return top + points(half * np.cos(angle), depth + depth * np.sin(angle))


# --- densities --------------------------------------------------------------------------------


def draw_vessels(canvas: Canvas, chest: Chest) -> Density:
    """Hila, and vessels that leave them, branch and grow thin, 0 to about 1, (H, W)."""
    draw = chest.visit.draws(Stream.BODY, 1)
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
    strokes = [
        Stroke(np.concatenate(twigs), 0.0038 * chest.vessels),
        Stroke(main[:, 3:], 0.005 * chest.vessels),
        Stroke(main[:, :4], 0.0095 * chest.vessels),
    ]
    lines = canvas.blur_lines(strokes, 0.002)
    places = (points(s * HILUM[0], HILUM[1] + 0.012 * s) for s in SIDES)
    hila = (disc(place, (0.028, 0.05), count=20) for place in places)
    return np.float32(0.75) * lines + np.float32(0.6) * blur(canvas.fill(hila), 0.014)


def draw_tissue(canvas: Canvas, chest: Chest) -> Density:
    """Everything but heart, lungs and belly: flesh, bones, breasts, less the airways, (H, W)."""
    shape = canvas.fill(trunk(chest))
    flesh = film.add_layers((blur(shape, 0.006), 0.3), (blur(shape, 0.03), 0.7))
    bones = np.float32(0.125) * canvas.blur_lines(bone_strokes(chest), 0.003)
    trachea = points([0.0, 0.003, 0.0], [-0.6, -0.3, -0.1])
    right = points([0.0, -0.045, -0.09], [-0.11, -0.07, -0.04])
    left = points([0.0, 0.055, 0.1], [-0.11, -0.06, -0.035])
    airways = [Stroke(trachea[None], 0.036), Stroke(np.stack([right, left]), 0.019)]
    layers = [(bones, 1.0), (canvas.blur_lines(airways, 0.006), -0.1)]
    if chest.breast:
        places = (points(side * 0.23, chest.right.floor - 0.1) for side in SIDES)
        ovals = (disc(place, (0.135, 0.15), count=30) for place in places)
        shadows = blur(canvas.fill(ovals), 0.02)
        layers.append((np.float32(chest.breast) * shadows, 0.07))
    tissue = film.add_layers(*layers)
    tissue += TISSUE + 0.03 * chest.habitus
    tissue *= flesh
    return tissue


def draw_air(canvas: Canvas, chest: Chest, covered: Density) -> Density:
    """Air in the lungs, deepest in the middle of each and less where covered, 0 to 1, (H, W)."""
    lungs = canvas.fill(chest.lungs)
    air, depth = blur(lungs, 0.004), blur(lungs, 0.035)
    depth *= 0.45
    depth += 0.55
    air *= depth
    air *= 1 - HIDDEN * covered
    return air


def draw_stomach_gas(canvas: Canvas, chest: Chest) -> Density | None:
    """Gas under the left dome, 0 to 1, (H, W); None for half of the patients."""
    draw = chest.visit.draws(Stream.BODY, 2)
    if draw.random() >= 0.5:
        return None
    gas = lens(chest.left.at(0.45, 1.0) + points(0.0, 0.018), draw.uniform(0.04, 0.07), 0.05)
    return blur(canvas.fill([gas]), 0.006)
