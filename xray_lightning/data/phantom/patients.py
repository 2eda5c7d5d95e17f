"""Who the phantom's patients are: sex, age, visits, views, and findings that come and stay.

Patients come in wards of 28. In each ward every finding is the complaint of one patient, the other
14 came for something else; so no label is absent from a data set of 28 patients or more. Every
seventh patient belongs to the official test set, and is sicker, comes back more often and lies in
bed more often, as in NIH's official split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import yaml  # type: ignore[import-untyped]

from xray_lightning.records import CHEST_XRAY14

WARD_SIZE = 2 * len(CHEST_XRAY14)
TEST_EVERY = 7
MOST_VISITS = 20
COMPANION_CHANCE = 0.15


class Stream(IntEnum):
    """What a random generator is for; one stream per purpose, so that none disturbs another."""

    WARD, HISTORY, BODY, VISIT, FILM, FINDING, MARKER = range(7)


@dataclass(frozen=True, slots=True)
class Finding:
    """A row of ``findings.yaml``: how a finding comes and stays, and its shadow."""

    frequency: float  # relative to the others, in NIH's order but with the rare ones raised
    stays: float  # chance that it is still there at the next visit
    companions: Sequence[str] = ()  # findings that often come with it
    opacity: float = 0.0  # share of the lung's air it takes away; 0: drawn in a way of its own
    border: float = 0.0  # blur of its border, a share of the image
    cloud: float = 0.0  # how uneven it is, 0 homogeneous to 1
    lines: str = ""  # drawn inside: "net" (fibrosis) or "bronchi" (air in pneumonia)
    cut: bool = True  # whether its mask ends at the lungs' border


_TABLE = yaml.safe_load(Path(__file__).with_name("findings.yaml").read_text(encoding="utf-8"))
FINDINGS = {label: Finding(**_TABLE[label]) for label in CHEST_XRAY14}
FREQUENCIES = np.array([finding.frequency for finding in FINDINGS.values()])


@dataclass(frozen=True, slots=True)
class Visit:
    """One radiograph of one patient, before it is taken."""

    seed: int  # of the phantom
    patient: int  # from 0
    follow_up: int  # 0 for the first visit
    age: int  # years
    sex: str  # "M" or "F"
    view: str  # "PA" (standing) or "AP" (in bed)
    findings: tuple[str, ...]  # what is to be seen, in the order of ``CHEST_XRAY14``

    @property
    def image_id(self) -> str:
        """Unique within one phantom, such as p0012_003."""
        return f"p{self.patient:04d}_{self.follow_up:03d}"

    @property
    def in_bed(self) -> bool:
        """Whether the film was taken in bed, from the front."""
        return self.view == "AP"

    def draws(self, stream: Stream, *key: int) -> np.random.Generator:
        """Random numbers of this patient for one purpose; the same in every process."""
        return generator(self.seed, stream, self.patient, *key)


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """The random stream of one purpose; ``key`` tells wards, patients and visits apart."""
    return np.random.default_rng([seed, stream, *key])


def is_test_patient(patient: int) -> bool:
    """Whether the official split tests on this patient."""
    return patient % TEST_EVERY == 1


def draw_complaint(seed: int, patient: int) -> str | None:
    """What a patient first came for; None for the half of each ward without a fixed finding."""
    ward, bed = divmod(patient, WARD_SIZE)
    draw = generator(seed, Stream.WARD, ward)
    labels = len(CHEST_XRAY14)
    tested = [(3 * ward + offset) % labels for offset in range(3)] + [labels]
    others = [slot for slot in range(WARD_SIZE) if slot not in tested]
    slots = np.empty(WARD_SIZE, dtype=int)
    is_test = np.arange(WARD_SIZE) % TEST_EVERY == 1
    slots[is_test] = draw.permutation(tested)
    slots[~is_test] = draw.permutation(others)
    return CHEST_XRAY14[slots[bed]] if slots[bed] < labels else None


def draw_findings(draw: np.random.Generator, mean: float) -> set[str]:
    """Findings by chance, a Poisson number of that mean, the frequent ones more often."""
    chances = FREQUENCIES / FREQUENCIES.sum()
    return set(draw.choice(CHEST_XRAY14, size=draw.poisson(mean), p=chances).tolist())


def draw_history(seed: int, patient: int) -> list[Visit]:
    """All visits of a patient; depends on ``seed`` and ``patient`` alone."""
    draw = generator(seed, Stream.HISTORY, patient)
    test = is_test_patient(patient)
    sex = "M" if draw.random() < 0.56 else "F"
    age = int(np.clip(draw.normal(49, 16), 18, 92))
    if (complaint := draw_complaint(seed, patient)) is None:
        findings = draw_findings(draw, 0.6 if test else 0.28)
    else:  # what goes with it, and chance ones
        companions = FINDINGS[complaint].companions
        findings = {complaint, *(c for c in companions if draw.random() < COMPANION_CHANCE)}
        findings |= draw_findings(draw, 0.7 if test else 0.5)
    mean_visits = (1.65 + 0.55 * min(len(findings), 3)) * (1.7 if test else 1.0)
    visits = []
    for follow_up in range(min(int(draw.geometric(1.0 / mean_visits)), MOST_VISITS)):
        if follow_up:  # some healed, perhaps a new one
            kept = {name for name in sorted(findings) if draw.random() < FINDINGS[name].stays}
            findings = kept | draw_findings(draw, 0.38 if test else (0.3 if findings else 0.1))
        in_bed = 0.24 + 0.09 * min(len(findings), 3) + (0.14 if test else 0.0)
        view = "AP" if draw.random() < in_bed else "PA"
        names = tuple(label for label in CHEST_XRAY14 if label in findings)
        visits.append(Visit(seed, patient, follow_up, age + follow_up // 4, sex, view, names))
    return visits
