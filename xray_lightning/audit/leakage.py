"""What a model has seen of its test set: patients, exposures, images of a known test list."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from xray_lightning.audit.duplicates import Duplicates
from xray_lightning.audit.label_table import LabelTable
from xray_lightning.data.partition import SUBSETS, Indices, Split
from xray_lightning.data.several import Several, find_untold
from xray_lightning.data.source import Source
from xray_lightning.results import Json, Result

UNKNOWN = "the label table tells no patients"


@dataclass(frozen=True)
class Overlap(Result):
    """Patients (or images, or exposures) in more than one subset; None where that is unknown."""

    shared: int | None  # how many are in more than one subset
    between: dict[str, int | None]  # "train and test" and so on: how many are in both
    test_images: int
    in_train: int | None  # test images whose patient (exposure) has an image in train
    in_train_or_val: int | None  # val chooses the checkpoint: not new to a model either
    # data sets that tell no patients, which are not counted, and what counts as one there
    untold: dict[str, str] = field(default_factory=dict)  # {"siim": "image", "openi": "report"}
    drawn: str = "patients"  # what the bootstrap draws: those, or "patients, images, reports"

    @property
    def shares(self) -> tuple[float, float] | None:
        """Of the test images, in train, and in train or val."""
        if self.in_train is None or self.in_train_or_val is None:
            return None
        return self.in_train / self.test_images, self.in_train_or_val / self.test_images

    def to_json(self) -> Json:
        """With the shares."""
        return {**super().to_json(), "shares": self.shares and list(self.shares)}


@dataclass(frozen=True)
class ListMatch(Result):
    """Images of a known list (a test set) in this data."""

    name: str  # of the list
    listed: int  # names in it
    present: int = field(metadata={"was": "found"})  # images here that it names
    absent: int  # names in it that are of no image here
    first_absent: str  # one of them, "" without any
    subsets: dict[str, int] = field(metadata={"was": "parts"})  # its images in each subset


@dataclass(frozen=True)
class CheckpointOverlap(Result):
    """What a checkpoint has learned from of this data."""

    path: str
    comparable: bool  # whether its patients and those of the data have common names
    population: str | None  # whose patients it names
    same_training_images: bool  # as the split's
    same_test_images: bool
    seen: dict[str, int] | None  # images of each subset whose patient it was trained or chosen on


@dataclass(frozen=True)
class Leakage(Result):
    """Everything a model may have seen of the test set."""

    patients: Overlap
    images: Overlap
    exposures: Overlap | None  # one radiograph under two ids, by a map; None without one
    lists: list[ListMatch]
    checkpoint: CheckpointOverlap | None
    duplicates: Duplicates | None  # None: the pixels were not compared


def count_overlap(owners: Sequence[str] | None, subsets: Mapping[str, Indices]) -> Overlap:
    """How many owners (N,), patients, ids or exposures, have images in more than one subset."""
    pairs = {f"{first} and {second}": {first, second} for first, second in combinations(subsets, 2)}
    if owners is None:
        return Overlap(None, dict.fromkeys(pairs), len(subsets["test"]), None, None)
    homes: dict[str, set[str]] = defaultdict(set)
    for subset, rows in subsets.items():
        for row in rows:
            homes[owners[row]].add(subset)
    test = [homes[owners[row]] for row in subsets["test"]]
    return Overlap(
        shared=sum(len(home) > 1 for home in homes.values()),
        between={
            name: sum(pair <= home for home in homes.values()) for name, pair in pairs.items()
        },
        test_images=len(test),
        in_train=sum("train" in home for home in test),
        in_train_or_val=sum(len(home) > 1 for home in test),
    )


def read_labels(source: Source) -> LabelTable:
    """The label table of a data set, or of several."""
    untold = find_untold(source)
    homes = untold if isinstance(source, Several) else ["" for _ in untold]
    return LabelTable.of(source.records, source.labels, homes)


def count_patients(source: Source, subsets: Mapping[str, Indices]) -> Overlap:
    """How many patients have images in more than one subset, where data sets tell them."""
    owners = find_untold(source)
    homes = [record.hospital or source.name for record in source.records]
    told = np.array([home not in owners for home in homes])
    counted = {subset: rows[told[rows]] for subset, rows in subsets.items()}
    patients = [record.patient_id for record in source.records] if len(counted["test"]) else None
    drawn = [Source.owner] * bool(told.any()) + sorted(set(owners.values()))
    overlap = count_overlap(patients, counted if patients else subsets)
    return replace(overlap, untold=owners, drawn=", ".join(f"{owner}s" for owner in drawn))


def match_list(
    name: str,
    names: Collection[str],
    aliases: Sequence[Collection[str]],
    subsets: Mapping[str, Indices],
) -> ListMatch:
    """How much of a list is in each subset; ``aliases`` (N,) are all names of each record."""
    wanted = set(names)
    listed = np.array([not wanted.isdisjoint(own) for own in aliases], dtype=np.bool_)
    counts = {subset: int(listed[rows].sum()) for subset, rows in subsets.items()}
    absent = wanted.difference(*aliases)
    first = min(absent, default="")
    return ListMatch(name, len(wanted), int(listed.sum()), len(absent), first, counts)


def match_checkpoint(path: Path, source: Source, split: Split) -> CheckpointOverlap:
    """Images of each subset whose patient the checkpoint learned from."""
    from xray_lightning.checkpoint import load_checkpoint  # torch takes seconds to import
    from xray_lightning.evaluation.overlap import seen_before

    description = load_checkpoint(path).description
    seen = seen_before(description, source.population, source.records)
    own = description.split.get("subsets", {})
    counts = None
    if seen is not None:
        counts = {subset: int(seen[split.subsets[subset]].sum()) for subset in SUBSETS}
    return CheckpointOverlap(
        path=str(path),
        comparable=seen is not None,
        population=description.split.get("population") or None,
        same_training_images=own.get("train") == split.subset_fingerprints["train"],
        same_test_images=own.get("test") == split.subset_fingerprints["test"],
        seen=counts,
    )
