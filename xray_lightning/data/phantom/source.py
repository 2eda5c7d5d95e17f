"""``Phantom``, a data set that needs no download: it draws its radiographs when they are read.

Density is what the beam meets: soft tissue and bone add, air in the lungs takes away. A finding
takes away air (it is brighter) or adds some (pneumothorax, emphysema), so that it can never be
denser than the tissue around, and one beside the heart hides the heart's border, as in life.
"""

from collections.abc import Collection, Mapping

import cv2
import numpy as np

from xray_lightning.data.phantom import anatomy, findings
from xray_lightning.data.phantom import patients as people
from xray_lightning.data.phantom.anatomy import Chest, build_chest
from xray_lightning.data.phantom.film import Canvas, Density, add_layers, blur, expose
from xray_lightning.data.phantom.findings import draw_components, draw_mask
from xray_lightning.data.phantom.patients import FINDINGS, Stream, Visit
from xray_lightning.data.source import Identity, Mask, Pixels, Source, say
from xray_lightning.errors import ConfigError, require_choice, require_integer
from xray_lightning.records import CHEST_XRAY14, Box, Record, encode
from xray_lightning.wording import fault

RENDERER = 1  # raise whenever the pixels, boxes or patients of a given seed change
MARKER_SIDE = 0.08  # as a share of the image: 5 pixels of 64
BRIGHT, DARK = 250, 20  # the marker, and the slit across it


class Phantom(Source):
    """Seeded, procedural frontal chest radiographs with the 14 findings of ChestX-ray14.

    Every image depends on the seed, the size and its image id alone, so a phantom of 100 patients
    holds the first 100 patients of one of 400. See ``Source`` for the attributes.

    Args:
        patients: how many, each with 1 to 20 images; at least 2, one for each official subset.
        seed: of everything random, at least 0.
        size: side of the square images in pixels, at least 32.
        shortcut: None, or "marker": a bright plate in a lower corner that goes with one label. The
            draw of each image is its own, and nothing else on the film changes.
        shortcut_label: that label.
        shortcut_strength: share of its films that carry the marker, 0.5 (it tells nothing) to 1 (it
            is the label); of the others, 1 less that. It is the marker's AUROC in any subset.

    Raises:
        ConfigError: an argument is out of its range; of a method: the record is of another phantom.

    >>> phantom = Phantom(patients=3, size=64)
    >>> phantom.read(phantom.records[0]).shape
    (64, 64)
    """

    name = "phantom"
    labels = CHEST_XRAY14
    missing = ()

    def __init__(
        self,
        patients: int = 400,
        *,
        seed: int = 0,
        size: int = 256,
        shortcut: str | None = None,
        shortcut_label: str = "Nodule",
        shortcut_strength: float = 0.9,
    ) -> None:
        require_integer("patients", patients, 2)  # one for each official subset
        require_integer("seed", seed, 0)
        require_integer("size", size, 32)  # pixels; on fewer nothing can be seen
        if shortcut is not None:
            require_choice("shortcut", shortcut, ["marker"])
        require_choice("shortcut_label", shortcut_label, CHEST_XRAY14)
        if not isinstance(shortcut_strength, int | float) or not 0.5 <= shortcut_strength <= 1:
            raise ConfigError(fault("shortcut_strength", shortcut_strength))
        self.patients, self.seed, self.size = patients, seed, size
        self._shortcut, self._label, self._strength = shortcut, shortcut_label, shortcut_strength
        self.population, self.notes = f"phantom-{seed}", say("phantom")
        visits = [v for patient in range(patients) for v in people.draw_history(seed, patient)]
        self._visits = {visit.image_id: visit for visit in visits}
        self.records = tuple(map(self._record, visits))
        test = frozenset(v.image_id for v in visits if people.is_test_patient(v.patient))
        self.official = {"train_val": frozenset(self._visits) - test, "test": test}

    @property
    def title(self) -> str:
        """The name, with the shortcut if one is planted."""
        planted = f" (planted: marker, {self._label}, {self._strength})" if self._shortcut else ""
        return self.name + planted

    def read(self, record: Record) -> Pixels:
        """The radiograph, (size, size) uint8, drawn now. Thread-safe."""
        visit = self._visit(record)
        pixels = render(visit, self.size, visit.findings)
        if place := self._marker_place(visit):
            marker = pixels[place]
            marker[:] = BRIGHT
            marker[2 * len(marker) // 5 : 3 * len(marker) // 5 + 1] = DARK
        return pixels

    def marker(self, record: Record) -> Mask:
        """Exactly where the planted plate is, (size, size) bool; all False where none is."""
        visit, mask = self._visit(record), np.zeros((self.size, self.size), dtype=np.bool_)
        if place := self._marker_place(visit):
            mask[place] = True
        return mask

    def word(self, record: Record) -> str:
        """What is burned in beside the side marker: "AP", "PORT" or ""."""
        blank = np.zeros((self.size, self.size), np.float32)  # the letters do not depend on it
        return expose(blank, self._visit(record))[1]

    def mask(self, record: Record, label: str) -> Mask:
        """Exactly where a finding was drawn, (size, size) bool.

        Raises:
            ConfigError: the image does not show the finding.
        """
        visit = self._visit(record)
        if label not in visit.findings:
            raise ConfigError(fault("no_finding", record.image_id, label, visit.findings))
        return draw_mask(Canvas(visit, self.size), build_chest(visit, visit.findings), label)

    def identity(self) -> Identity:
        """Plain values that change when the pixels do."""
        identity: Identity = {"name": self.name, "renderer": RENDERER, "patients": self.patients}
        identity |= {"seed": self.seed, "size": self.size}
        if self._shortcut:
            identity |= {"marker": self._label, "marker_strength": self._strength}
        return identity

    def _visit(self, record: Record) -> Visit:
        if record.image_id not in self._visits:
            raise ConfigError(fault("other_phantom", record.image_id, self))
        return self._visits[record.image_id]

    def _marker_place(self, visit: Visit) -> tuple[slice, slice] | None:
        """Rows and columns of the marker, in a lower corner; None on a film without it."""
        draw = visit.draws(Stream.MARKER, visit.follow_up)
        chance = self._strength if self._label in visit.findings else 1 - self._strength
        if not self._shortcut or draw.random() >= chance:
            return None
        side = round(MARKER_SIDE * self.size)
        across, up = (round(share * self.size) for share in draw.uniform(0.02, 0.05, 2))
        left = across if draw.random() < 0.5 else self.size - across - side
        return slice(self.size - up - side, self.size - up), slice(left, left + side)

    def _record(self, visit: Visit) -> Record:
        chest, canvas = build_chest(visit, visit.findings), Canvas(visit, self.size)
        boxes = (
            Box(label, float(x), float(y), float(width), float(height))
            for label in visit.findings
            for mask in draw_components(canvas, chest, label)
            for x, y, width, height in [cv2.boundingRect(mask.astype(np.uint8))]
        )
        return Record(
            image_id=visit.image_id,
            patient_id=f"p{visit.patient:04d}",
            targets=encode(visit.findings, CHEST_XRAY14),
            boxes=tuple(boxes),
            box_frame=(self.size, self.size),
            age=float(visit.age),
            sex=visit.sex,
            view=visit.view,
            follow_up=float(visit.follow_up),
        )


def render(visit: Visit, size: int, labels: Collection[str]) -> Pixels:
    """The film of a visit with the given findings, (size, size) uint8."""
    chest, canvas = build_chest(visit, labels), Canvas(visit, size)
    masks = {label: draw_mask(canvas, chest, label) for label in labels}
    return expose(draw_density(canvas, chest, masks), visit)[0]


def draw_density(canvas: Canvas, chest: Chest, masks: Mapping[str, Mask]) -> Density:
    """Everything the beam meets, about 0 to 1, (H, W)."""
    heart = blur(canvas.fill([chest.heart_outline()]), 0.006)
    centre = blur(canvas.fill(anatomy.mediastinum(chest)), 0.008)
    below = canvas.fill(anatomy.abdomen(chest)) * canvas.fill(anatomy.trunk(chest))
    belly = blur(below, 0.005)
    total = add_layers((belly, 0.11), (centre, 0.06), (heart, 0.1))
    total += anatomy.draw_tissue(canvas, chest)
    air = anatomy.draw_air(canvas, chest, np.maximum(heart, centre, out=centre))
    vessels = anatomy.draw_vessels(canvas, chest)
    for label, finding in FINDINGS.items():  # in a fixed order: floats round
        if finding.opacity and label in masks:
            air *= findings.draw_shadow(canvas, chest, label, masks[label])
    if "Pneumothorax" in masks:
        free = blur(masks["Pneumothorax"], 0.002)
        vessels *= 1 - free
        edge = blur(masks["Pneumothorax"], 0.005)  # of the retracted lung: bright
        total += 0.12 * (np.float32(4) * edge * (1 - edge)) * air
        air *= 1 + (findings.FREE_AIR - 1) * free
    vessels *= 0.25
    vessels -= 0.5 * chest.air
    total += np.multiply(air, vessels, out=vessels)
    if (gas := anatomy.draw_stomach_gas(canvas, chest)) is not None:
        total -= 0.3 * gas
    if "Hernia" in masks:
        total += findings.draw_hernia(canvas, chest)
    return total
