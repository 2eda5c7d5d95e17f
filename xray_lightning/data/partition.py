"""A split as data, and the proof that it is one: disjoint parts, disjoint patients, none empty."""

import hashlib
import json
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from xray_lightning.errors import SplitError
from xray_lightning.records import Record, patients_known

Indices = npt.NDArray[np.int64]
SUBSETS = ("train", "val", "test")
LEAKY = "image"  # the one split that may share patients


class LeakySubsetsWarning(UserWarning):
    """Images of one patient stand in more than one part: the test scores will flatter."""


class FaultySplitError(SplitError):
    """The split shares patients or images between its parts, or leaves images out.

    Attributes:
        split: as it is, for who wants to count its faults; no training may use it.
    """

    def __init__(self, message: str, split: "Split") -> None:
        super().__init__(message)
        self.split = split


@dataclass(frozen=True, eq=False)
class Split:
    """Three disjoint sets of records; ``make_split`` makes one.

    Attributes:
        name: "official", "patient", "kfold", "image" or "csv".
        subsets: ascending positions in the records, one array (n,) for each of ``PARTS``.
        fingerprint: 16 hex digits; equal exactly if all parts hold the same image ids.
        subset_fingerprints: the same for each part alone.
        leaked_patients: patients with images in more than one part; None: patients are unknown.
        settings: the arguments that made the split, as plain values.
        notes: what a user should know about it, one sentence each.
    """

    name: str
    subsets: Mapping[str, Indices]
    fingerprint: str
    subset_fingerprints: Mapping[str, str]
    leaked_patients: int | None
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def fingerprint(ids: Mapping[str, Iterable[str]]) -> str:
    """First 16 hex digits of the SHA-256 of each part's image ids, sorted, as ASCII JSON.

    >>> fingerprint({"test": ["b.png", "a.png"]}) == fingerprint({"test": ["a.png", "b.png"]})
    True
    """
    text = json.dumps(
        {subset: sorted(ids[subset]) for subset in sorted(ids)}, separators=(",", ":")
    )
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def split_facts(split: Split) -> dict[str, Any]:
    """Name and fingerprints of a split as plain values."""
    return {
        "name": split.name,
        "settings": dict(split.settings),
        "fingerprint": split.fingerprint,
        "parts": dict(split.subset_fingerprints),
        "images": {subset: len(rows) for subset, rows in split.subsets.items()},
        "leaked_patients": split.leaked_patients,
    }


def make_split(
    name: str,
    records: Sequence[Record],
    subsets: Mapping[str, npt.ArrayLike],
    *,
    settings: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    faults: Sequence[str] = (),
) -> Split:
    """A split that has been proven.

    ``subsets`` are positions in any order; named "image" they may share patients, which warns;
    ``faults`` are what is wrong already.

    Raises:
        SplitError: a part is absent, empty or out of range.
        FaultySplitError: there are faults, or parts share an image or a patient.
    """
    if set(subsets) != set(SUBSETS):
        raise SplitError(f"a split has the parts {', '.join(SUBSETS)}, got {sorted(subsets)}")
    arrays = {subset: np.sort(np.asarray(subsets[subset], dtype=np.int64)) for subset in SUBSETS}
    for subset, indices in arrays.items():
        _check_range(subset, indices, len(records))
        indices.flags.writeable = False
    faults = [*faults, *_images_twice(records, arrays)]
    known, shared = patients_known(records), shared_patients(records, arrays)
    if shared and known and name != LEAKY:
        faults.append(_shared_fault(shared))
    leaked = len(shared) if known else None
    notes = (*notes, *(f"no training may use this split: {fault}" for fault in faults))
    split = Split(
        name, arrays, *_fingerprints(records, arrays), leaked, dict(settings or {}), notes
    )
    if faults:
        raise FaultySplitError(faults[0], split)
    if leaked:
        _warn_of_leak(records, arrays, leaked)
    return split


def with_test(split: Split, records: Sequence[Record], test: Indices) -> Split:
    """The split with another test set, to judge a model that was trained elsewhere.

    ``test`` (n,) are ascending positions in the records; they may lie in the other parts too.
    """
    subsets = {**split.subsets, "test": test}
    whole, own = _fingerprints(records, subsets)
    return replace(split, subsets=subsets, fingerprint=whole, subset_fingerprints=own)


def _fingerprints(
    records: Sequence[Record], subsets: Mapping[str, Indices]
) -> tuple[str, dict[str, str]]:
    """Of all parts together, and of each alone."""
    ids = {subset: [records[i].image_id for i in indices] for subset, indices in subsets.items()}
    return fingerprint(ids), {subset: fingerprint({subset: ids[subset]}) for subset in subsets}


def shared_patients(
    records: Sequence[Record], subsets: Mapping[str, Indices]
) -> dict[str, list[str]]:
    """The patients with images in more than one part, sorted, and those parts."""
    seen: dict[str, list[str]] = defaultdict(list)
    for subset, indices in subsets.items():
        for patient in {records[i].patient_id for i in indices}:
            seen[patient].append(subset)
    return {patient: seen[patient] for patient in sorted(seen) if len(seen[patient]) > 1}


def _check_range(subset: str, indices: Indices, count: int) -> None:
    if not len(indices):
        raise SplitError(
            f"the {subset} set is empty: give it a larger fraction, or check that its images are "
            "in the label table and on disk"
        )
    if indices[0] < 0 or indices[-1] >= count:
        raise SplitError(
            f"the {subset} set has positions {indices[0]} to {indices[-1]}, the records have 0 to "
            f"{count - 1}"
        )


def _images_twice(records: Sequence[Record], subsets: Mapping[str, Indices]) -> list[str]:
    """A sentence if there are such images."""
    positions, uses = np.unique(np.concatenate(list(subsets.values())), return_counts=True)
    twice = positions[uses > 1]
    if not len(twice):
        return []
    where = [subset for subset, indices in subsets.items() if twice[0] in indices]
    return [
        f"{len(twice):,} images stand twice in the split, the first is "
        f"{records[twice[0]].image_id} ({' and '.join(where)}): every image belongs to one part"
    ]


def _shared_fault(shared: Mapping[str, Sequence[str]]) -> str:
    patient, where = next(iter(shared.items()))
    return (
        f"{len(shared):,} patients have images in more than one part, the first is {patient} "
        f"({' and '.join(where)}): mend the lists, or set split=patient"
    )


def _warn_of_leak(records: Sequence[Record], subsets: Mapping[str, Indices], shared: int) -> None:
    trained = {records[i].patient_id for i in subsets["train"]}
    leaked = sum(records[i].patient_id in trained for i in subsets["test"]) / len(subsets["test"])
    warnings.warn(
        f"leaky split: {shared:,} patients have images in more than one part, and the patient "
        f"of {leaked:.1%} of the test images is in train; use it only for comparison",
        LeakySubsetsWarning,
        stacklevel=4,
    )
