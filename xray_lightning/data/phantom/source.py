"""``Phantom``, a data set that needs no download: it draws its radiographs when they are read."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from xray_lightning.data.phantom.anatomy import chest_of
from xray_lightning.data.phantom.patients import Visit, history, is_test_patient
from xray_lightning.data.phantom.plate import Mask, expose, plate_of
from xray_lightning.data.phantom.render import finding_masks, render
from xray_lightning.data.phantom.shortcut import marker_of
from xray_lightning.data.phantom.signs import components
from xray_lightning.data.source import Pixels
from xray_lightning.errors import ConfigError
from xray_lightning.labels import CHEST_XRAY14, encode
from xray_lightning.records import Box, Record

RENDERER = 1  # raise whenever the pixels, boxes or patients of a given seed change
SMALLEST = 32


class Phantom:
    """Seeded, procedural frontal chest radiographs with the 14 findings of ChestX-ray14.

    Every image depends on the seed, the size and its image id alone, so a phantom of 100 patients
    holds the first 100 patients of one of 400. See ``Source`` for the attributes.

    Args:
        patients: how many, each with 1 to 20 images; at least 2, one per official part.
        seed: of everything random, at least 0.
        size: side of the square images in pixels, at least 32.
        shortcut: None, or "marker": a plate in a corner that goes with one label, see ``Marker``.
        shortcut_label: that label.
        shortcut_strength: share of its films that carry the plate; of the others, 1 less that.

    Raises:
        ConfigError: an argument is out of its range.

    >>> phantom = Phantom(patients=3, size=64)
    >>> phantom.read(phantom.records[0]).shape
    (64, 64)
    """

    name = title = "phantom"  # the title says so if a shortcut is planted
    labels: tuple[str, ...] = CHEST_XRAY14
    missing: Sequence[str] = ()
    allow_missing = False
    notes: Sequence[str] = (
        "These radiographs are synthetic: drawn from simple shapes, they test code and methods, "
        "and say nothing about patients.",
        "Findings are exaggerated and rare ones raised in frequency; the official split repeats "
        "the direction of NIH's bias (test patients are sicker and more often AP), not its size.",
    )

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
        check("patients", patients, 2, "one for each part of the official split")
        check("seed", seed, 0, "a non-negative whole number")
        check("size", size, SMALLEST, "pixels on a side, below which nothing can be seen")
        self.patients, self.seed, self.size = patients, seed, size
        self._marker = marker_of(shortcut, shortcut_label, shortcut_strength)
        if self._marker:
            self.title = f"phantom (planted: marker, {shortcut_label}, {shortcut_strength})"
        self.population = f"phantom-{seed}"
        visits = [visit for patient in range(patients) for visit in history(seed, patient)]
        self._visits = {visit.image_id: visit for visit in visits}
        self.records: Sequence[Record] = tuple(self._record(visit) for visit in visits)
        test = frozenset(v.image_id for v in visits if is_test_patient(v.patient))
        parts = {"train_val": frozenset(self._visits) - test, "test": test}
        self.official: Mapping[str, frozenset[str]] | None = parts

    def read(self, record: Record) -> Pixels:
        """The radiograph, (size, size) uint8, drawn now. Thread-safe.

        Raises:
            ConfigError: the record is not one of this phantom's.
        """
        visit = self._visit(record)
        pixels = render(self.seed, visit, self.size, visit.findings)
        if self._marker:
            self._marker.burn(pixels, self.seed, visit)
        return pixels

    def marker(self, record: Record) -> Mask:
        """Exactly where the planted plate is, (size, size) bool; all False where none is.

        Raises:
            ConfigError: the record is not one of this phantom's.
        """
        visit = self._visit(record)
        if self._marker is None:
            return np.zeros((self.size, self.size), dtype=np.bool_)
        return self._marker.mask(self.seed, visit, self.size)

    def word(self, record: Record) -> str:
        """What is burned in beside the side marker: "AP", "PORT" or "".

        Raises:
            ConfigError: the record is not one of this phantom's.
        """
        visit = self._visit(record)
        blank = np.zeros((self.size, self.size), np.float32)  # the letters do not depend on it
        return expose(blank, self.seed, visit, plate_of(self.seed, visit, self.size))[1]

    def mask(self, record: Record, label: str) -> Mask:
        """Exactly where a finding was drawn, (size, size) bool.

        Raises:
            ConfigError: the record is not one of this phantom's, or lacks the finding.
        """
        visit = self._visit(record)
        if label not in visit.findings:
            raise ConfigError(
                f"image {record.image_id} has no {label!r}; it has "
                f"{', '.join(visit.findings) or 'no finding'}"
            )
        chest = chest_of(self.seed, visit, visit.findings)
        plate = plate_of(self.seed, visit, self.size)
        return finding_masks(plate, self.seed, visit, [label], chest)[label]

    def identity(self) -> dict[str, str | int | float | bool]:
        """Plain values that change when the pixels do."""
        facts: dict[str, str | int | float | bool] = {
            "name": self.name,
            "renderer": RENDERER,
            "patients": self.patients,
            "seed": self.seed,
            "size": self.size,
        }
        if self._marker:
            facts |= {"marker": self._marker.label, "marker_strength": self._marker.strength}
        return facts

    def _visit(self, record: Record) -> Visit:
        try:
            return self._visits[record.image_id]
        except KeyError:
            raise ConfigError(
                f"{record.image_id!r} is no image of a phantom of {self.patients} patients and "
                f"seed {self.seed}; take records from its own `records`"
            ) from None

    def _record(self, visit: Visit) -> Record:
        return Record(
            image_id=visit.image_id,
            patient_id=f"p{visit.patient:04d}",
            targets=encode(visit.findings, CHEST_XRAY14),
            boxes=boxes_of(self.seed, visit, self.size),
            box_frame=(self.size, self.size),
            age=float(visit.age),
            sex=visit.sex,
            view=visit.view,
            follow_up=float(visit.follow_up),
        )


def boxes_of(seed: int, visit: Visit, size: int) -> tuple[Box, ...]:
    """The tight rectangle of every component of every finding of a visit."""
    if not visit.findings:
        return ()
    chest, plate = chest_of(seed, visit, visit.findings), plate_of(seed, visit, size)
    return tuple(
        Box(label, *map(float, cv2.boundingRect(mask.astype(np.uint8))))
        for label in visit.findings
        for mask in components(plate, seed, visit, label, chest)
    )


def check(name: str, value: int, least: int, meaning: str) -> None:
    """Refuse a setting that is no whole number or too small.

    Raises:
        ConfigError: naming the value and the least one allowed.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(
            f"{name} must be a whole number of at least {least} ({meaning}), got {value!r}"
        )
