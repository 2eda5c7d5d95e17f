"""Who the phantom's patients are: sex, age, visits, views, and findings that come and stay.

Patients come in wards of 28. In each ward every finding is the complaint of one patient, the other
14 came for something else; so no label is absent from a data set of 28 patients or more. Every
seventh patient belongs to the official test part, and is sicker, comes back more often and lies in
bed more often, as in NIH's official split.
"""

from dataclasses import dataclass

import numpy as np

from xray_lightning.labels import CHEST_XRAY14

WARD = 2 * len(CHEST_XRAY14)
TEST_EVERY = 7
MOST_VISITS = 20

# What a random generator is for; one stream per purpose, so that none disturbs another.
WARD_STREAM, HISTORY_STREAM, BODY_STREAM, VISIT_STREAM, FILM_STREAM, FINDING_STREAM = range(6)
MARKER_STREAM = 6

# Chances relative to each other, in NIH's order of frequency but with the rare ones raised.
FREQUENCY = {
    "Atelectasis": 12.0,
    "Cardiomegaly": 3.0,
    "Effusion": 12.0,
    "Infiltration": 20.0,
    "Mass": 4.5,
    "Nodule": 5.0,
    "Pneumonia": 4.5,
    "Pneumothorax": 5.0,
    "Consolidation": 6.5,
    "Edema": 6.0,
    "Emphysema": 4.0,
    "Fibrosis": 3.0,
    "Pleural_Thickening": 2.5,
    "Hernia": 3.0,
}
CHANCES = np.array([FREQUENCY[label] for label in CHEST_XRAY14]) / sum(FREQUENCY.values())

# Findings that often come together.
COMPANIONS = {
    "Atelectasis": ("Effusion",),
    "Cardiomegaly": ("Effusion", "Edema"),
    "Consolidation": ("Effusion", "Atelectasis"),
    "Edema": ("Effusion", "Cardiomegaly"),
    "Effusion": ("Atelectasis",),
    "Emphysema": ("Pneumothorax",),
    "Fibrosis": ("Pleural_Thickening",),
    "Mass": ("Nodule",),
    "Nodule": ("Mass",),
    "Pneumonia": ("Infiltration", "Consolidation"),
}
COMPANION_CHANCE = 0.15

# Chance that a finding is still there at the next visit; the rest heal faster.
CHRONIC = frozenset(
    {"Cardiomegaly", "Emphysema", "Fibrosis", "Hernia", "Mass", "Nodule", "Pleural_Thickening"}
)
STAYS_CHRONIC, STAYS_ACUTE = 0.88, 0.62


@dataclass(frozen=True, slots=True)
class Visit:
    """One radiograph of one patient, before it is taken.

    Attributes:
        patient: number of the patient, from 0.
        follow_up: 0 for the first visit.
        age: years.
        sex: "M" or "F".
        view: "PA" (standing) or "AP" (in bed).
        findings: what is to be seen, in the order of ``CHEST_XRAY14``.
    """

    patient: int
    follow_up: int
    age: int
    sex: str
    view: str
    findings: tuple[str, ...]

    @property
    def image_id(self) -> str:
        """Unique within one phantom.

        >>> Visit(12, 3, 50, "F", "PA", ()).image_id
        'p0012_003'
        """
        return f"p{self.patient:04d}_{self.follow_up:03d}"


def generator(seed: int, purpose: int, *key: int) -> np.random.Generator:
    """The random stream of one purpose, patient and visit; the same in every process."""
    return np.random.default_rng([seed, purpose, *key])


def is_test_patient(patient: int) -> bool:
    """Whether the official split tests on this patient."""
    return patient % TEST_EVERY == 1


def complaint(seed: int, patient: int) -> str | None:
    """What a patient first came for; None for the half of each ward without a fixed finding."""
    ward, bed = divmod(patient, WARD)
    draw = generator(seed, WARD_STREAM, ward)
    labels = len(CHEST_XRAY14)
    tested = [(3 * ward + offset) % labels for offset in range(3)] + [labels]
    others = [slot for slot in range(WARD) if slot not in tested]
    slots = np.empty(WARD, dtype=int)
    is_test = np.arange(WARD) % TEST_EVERY == 1
    slots[is_test] = draw.permutation(tested)
    slots[~is_test] = draw.permutation(others)
    slot = int(slots[bed])
    return CHEST_XRAY14[slot] if slot < labels else None


def first_findings(seed: int, patient: int, draw: np.random.Generator) -> set[str]:
    """Findings of the first visit: the complaint, what goes with it, and chance ones."""
    test = is_test_patient(patient)
    found: set[str] = set()
    main = complaint(seed, patient)
    if main is not None:
        found.add(main)
        found |= {name for name in COMPANIONS.get(main, ()) if draw.random() < COMPANION_CHANCE}
    mean = (0.7 if test else 0.5) if main is not None else (0.6 if test else 0.28)
    return found | set(draw.choice(CHEST_XRAY14, size=draw.poisson(mean), p=CHANCES).tolist())


def next_findings(found: set[str], test: bool, draw: np.random.Generator) -> set[str]:
    """Findings of the next visit: some healed, perhaps a new one."""
    kept = {
        name
        for name in sorted(found)
        if draw.random() < (STAYS_CHRONIC if name in CHRONIC else STAYS_ACUTE)
    }
    mean = 0.38 if test else (0.3 if found else 0.1)
    return kept | set(draw.choice(CHEST_XRAY14, size=draw.poisson(mean), p=CHANCES).tolist())


def visit_count(findings: int, test: bool, draw: np.random.Generator) -> int:
    """Number of visits, geometric with a mean that grows with the first findings."""
    mean = (1.65 + 0.55 * min(findings, 3)) * (1.7 if test else 1.0)
    return min(int(draw.geometric(1.0 / mean)), MOST_VISITS)


def history(seed: int, patient: int) -> list[Visit]:
    """All visits of a patient; depends on ``seed`` and ``patient`` alone."""
    draw = generator(seed, HISTORY_STREAM, patient)
    test = is_test_patient(patient)
    sex = "M" if draw.random() < 0.56 else "F"
    age = int(np.clip(draw.normal(49, 16), 18, 92))
    found = first_findings(seed, patient, draw)
    visits = []
    for follow_up in range(visit_count(len(found), test, draw)):
        if follow_up:
            found = next_findings(found, test, draw)
        in_bed = 0.24 + 0.09 * min(len(found), 3) + (0.14 if test else 0.0)
        view = "AP" if draw.random() < in_bed else "PA"
        names = tuple(label for label in CHEST_XRAY14 if label in found)
        visits.append(Visit(patient, follow_up, age + follow_up // 4, sex, view, names))
    return visits
