"""The shapes of one chest: lungs, heart, diaphragm, bones, as outlines in the body's own frame.

The frame: the image spans -0.5 to 0.5 on both axes, x grows towards the patient's left (the right
of the picture), y downwards. An outline is an array of points, (N, 2). Side -1 is the patient's
right lung, +1 the left.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xray_lightning.data.phantom.patients import (
    BODY_STREAM,
    VISIT_STREAM,
    Visit,
    generator,
)

Points = npt.NDArray[np.float64]  # (N, 2)
SIDES = (-1, 1)
CARDIOPHRENIC = 0.05  # the diaphragm meets the heart this much higher than the ribs


def points(x: npt.ArrayLike, y: npt.ArrayLike) -> Points:
    """Two coordinates, broadcast, as points, (..., 2)."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    both = np.empty((*np.broadcast_shapes(x.shape, y.shape), 2))
    both[..., 0], both[..., 1] = x, y
    return both


def rounded(corners: Points, rounds: int = 3) -> Points:
    """A closed outline with its corners cut (Chaikin), (N, 2) to (N * 2**rounds, 2)."""
    for _ in range(rounds):
        following = np.roll(corners, -1, axis=0)
        cut = (0.75 * corners + 0.25 * following, 0.25 * corners + 0.75 * following)
        corners = np.stack(cut, axis=1).reshape(-1, 2)
    return corners


@dataclass(frozen=True, slots=True)
class Lung:
    """One lung, and coordinates inside it.

    Attributes:
        side: -1 the patient's right, +1 the left.
        width: from the midline to the lateral wall at the base.
        apex: y of the top.
        floor: y of the costophrenic angle.
        dome: height of the diaphragm's dome.
    """

    side: int
    width: float
    apex: float
    floor: float
    dome: float

    def at(self, across: npt.ArrayLike, down: npt.ArrayLike) -> Points:
        """Points given in lung coordinates.

        ``across``: 0 at the mediastinum, 1 at the lateral wall; ``down``: 0 at the apex, 1 at the
        diaphragm.
        """
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

    def diaphragm(self) -> Points:
        """The lower border, from the midline outwards."""
        return self.at(np.linspace(0, 1, 24), 1.0)


@dataclass(frozen=True, slots=True)
class Chest:
    """One patient's chest as it stands on the day of one visit.

    Attributes:
        right: the right lung (on the left of the picture).
        left: the left lung.
        heart: transverse width of the heart over that of the thorax, the cardiothoracic ratio.
        air: how dark the lungs are; 1 is usual.
        habitus: soft tissue, -1 thin to 1 stout.
        breast: density of the breast shadows, 0 for none.
        knob: radius of the aortic knob.
        vessels: how many times as wide as usual the lung vessels are.
    """

    right: Lung
    left: Lung
    heart: float
    air: float
    habitus: float
    breast: float
    knob: float
    vessels: float

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
        shape = rounded(points(x, top + (base - top) * np.array(y)))
        low, high = shape[:, 0].min(), shape[:, 0].max()
        shape[:, 0] = total * ((shape[:, 0] - low) / (high - low) - 0.35)
        return shape


def chest_of(seed: int, visit: Visit, findings: Collection[str]) -> Chest:
    """The chest at a visit: the patient's own build, the day's breath, and what findings change.

    ``findings`` are those to draw; normally ``visit.findings``.
    """
    body = generator(seed, BODY_STREAM, visit.patient)
    day = generator(seed, VISIT_STREAM, visit.patient, visit.follow_up)
    woman, in_bed = visit.sex == "F", visit.view == "AP"
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
        right=Lung(-1, width, apex, floor - 0.012 + tilt - lift / 2, dome),
        left=Lung(1, width * 0.98, apex, floor + 0.012 - tilt - lift / 2, 0.9 * dome),
        heart=max(ratio + enlarged, 0.52) if wide else ratio,
        air=1.2 if inflated else 1.0,
        habitus=habitus,
        breast=float(body.uniform(0.4, 1.0)) if woman else 0.0,
        knob=knob + 0.00025 * (visit.age - 50),
        vessels=1.3 if "Edema" in findings else 1.0,
    )
