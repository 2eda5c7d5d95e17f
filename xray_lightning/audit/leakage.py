"""What a model has seen of its test set: patients, exposures, images of somebody's test list."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from xray_lightning.data.partition import Indices, shared_patients
from xray_lightning.records import Record, patients_known

UNKNOWN = "the label table tells no patients, so every image counts as its own"
LEARNED = ("train", "val")  # val chooses the checkpoint, so it is not new to a model either


@dataclass(frozen=True)
class Leak:
    """Patients (or images, or exposures) in more than one part; None where that is not known.

    Attributes:
        shared: how many are in more than one part.
        between: "train and test" and so on: how many are in both.
        test_images: of the test set.
        in_train: test images whose patient (exposure) has an image in train.
        in_train_or_val: in train or val.
    """

    shared: int | None
    between: dict[str, int | None]
    test_images: int
    in_train: int | None
    in_train_or_val: int | None

    @property
    def shares(self) -> tuple[float, float] | None:
        """Of the test images, in train, and in train or val."""
        if self.in_train is None or self.in_train_or_val is None:
            return None
        return self.in_train / self.test_images, self.in_train_or_val / self.test_images


@dataclass(frozen=True)
class Listed:
    """Images of a known list in this data.

    Attributes:
        name: of the list.
        listed: names in it.
        found: of them in this label table.
        absent: names in it that are of no image here.
        first_absent: one of them, "" if there is none.
        parts: part to how many of its images are in the list.
    """

    name: str
    listed: int
    found: int
    absent: int
    first_absent: str
    parts: dict[str, int]


def leak(records: Sequence[Record], subsets: Mapping[str, Indices]) -> Leak:
    """Patients that stand in more than one part; unknown where the label table tells none."""
    if not patients_known(records):
        between = {f"{first} and {second}": None for first, second in combinations(subsets, 2)}
        return Leak(None, {**between}, len(subsets["test"]), None, None)
    shared = shared_patients(records, subsets)
    owners = [record.patient_id for record in records]
    return _leak(owners, subsets, list(shared.values()))


def exposure_leak(exposures: Sequence[str], subsets: Mapping[str, Indices]) -> Leak:
    """Images, or exposures under two ids, in more than one part.

    ``exposures`` (N,) are the ids of the records, or names of their exposures, e.g. NIH's of RSNA
    images.
    """
    homes: dict[str, list[str]] = defaultdict(list)
    for subset, rows in subsets.items():
        for name in {exposures[row] for row in rows}:
            homes[name].append(subset)
    return _leak(exposures, subsets, [each for each in homes.values() if len(each) > 1])


def listed(
    name: str,
    names: Collection[str],
    aliases: Sequence[Collection[str]],
    subsets: Mapping[str, Indices],
) -> Listed:
    """How much of a list (a known test set) is in each part.

    ``aliases`` (N,) are all names of each record: its id, and its NIH name where a map tells it.
    """
    wanted = set(names)
    hit = np.array([not wanted.isdisjoint(each) for each in aliases], dtype=np.bool_)
    counts = {subset: int(hit[rows].sum()) for subset, rows in subsets.items()}
    absent = wanted.difference(*aliases)
    first = min(absent, default="")
    return Listed(name, len(wanted), int(hit.sum()), len(absent), first, counts)


def _leak(
    owners: Sequence[str], subsets: Mapping[str, Indices], homes: Sequence[Sequence[str]]
) -> Leak:
    between: dict[str, int | None] = {
        f"{first} and {second}": sum(first in each and second in each for each in homes)
        for first, second in combinations(subsets, 2)
    }
    sets = {subset: {owners[row] for row in subsets[subset]} for subset in LEARNED}
    test = [owners[row] for row in subsets["test"]]
    in_train = sum(owner in sets["train"] for owner in test)
    learned = sets["train"] | sets["val"]
    return Leak(len(homes), between, len(test), in_train, sum(owner in learned for owner in test))
