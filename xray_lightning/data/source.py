"""What every data set offers: a page of records, and pixels on request."""

import hashlib
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from xray_lightning.errors import MissingImagesError
from xray_lightning.records import Record

Pixels = npt.NDArray[np.uint8]  # (H, W)


class Source(Protocol):
    """A data set: NIH's folder, RSNA's, a CSV table, the phantom.

    Attributes:
        name: short name used in file names, e.g. "nih".
        title: the name for tables, with what their figures depend on ("rsna (negatives: all)").
        population: equal for data sets whose patient ids name the same people ("nih" for NIH, and
            for RSNA with the map); "" where ids must not leave the data, or cannot be compared.
        labels: the L labels, in the order of every target vector.
        records: every image of the label table, in table order, on disk or not.
        missing: ids of the records without a file, in table order.
        allow_missing: whether commands that read pixels may leave the missing ones out.
        official: image ids of each part as the publisher split them: {"train_val", "test"} or
            {"train", "val", "test"}; None if there is no such split.
        notes: what a user should know about this copy of the data, one sentence each
            ("16 impossible ages became NaN").
    """

    name: str
    title: str
    population: str
    labels: tuple[str, ...]
    records: Sequence[Record]
    missing: Sequence[str]
    allow_missing: bool
    official: Mapping[str, frozenset[str]] | None
    notes: Sequence[str]

    def read(self, record: Record) -> Pixels:
        """The image at its original size, (H, W) uint8. Thread-safe.

        Raises:
            InvalidImageError: the file is unreadable; the message names it and the reason.
        """
        ...

    def identity(self) -> dict[str, str | int | float | bool]:
        """Plain values that change when the pixels do (folder, seed, reader version)."""
        ...


def with_labels(source: Source, labels: Sequence[str]) -> Source:
    """The data set with some of its labels alone, its images unchanged; a note names the others."""
    columns = [source.labels.index(label) for label in labels]
    narrowed = copy(source)
    narrowed.labels = tuple(labels)
    narrowed.records = [
        replace(
            record,
            targets=tuple(record.targets[column] for column in columns),
            boxes=tuple(box for box in record.boxes if box.label in labels),
        )
        for record in source.records
    ]
    if left_out := [label for label in source.labels if label not in labels]:
        narrowed.notes = [*source.notes, f"labels left out: {', '.join(left_out)}"]
    return narrowed


def patient_keys(population: str, records: Sequence[Record]) -> list[str]:
    """A name for the patient of each record that a checkpoint may carry, (N,).

    16 hex digits of SHA-256 over population and patient id. Ids are few, so a hash hides nothing
    from somebody who tries them all: a population is only named where the ids are public anyway.
    """
    ids = {record.patient_id for record in records}
    digest = {each: hashlib.sha256(f"{population}/{each}".encode()).hexdigest() for each in ids}
    return [digest[record.patient_id][:16] for record in records]


def usage_notes(source: Source) -> list[str]:
    """The source's notes, and what a command that reads pixels leaves out."""
    left_out = (
        f"{len(source.missing):,} of {len(source.records):,} images are not on disk and are "
        "LEFT OUT (data.allow_missing=true)"
    )
    return [*source.notes, *([left_out] if source.missing else [])]


def readable_records(source: Source) -> list[Record]:
    """The records whose pixels can be read.

    Raises:
        MissingImagesError: some are not on disk and ``allow_missing`` is false, or none is.
    """
    if not source.missing:
        return list(source.records)
    if not source.allow_missing:
        raise MissingImagesError(
            f"{len(source.missing):,} of the {len(source.records):,} images in the label table of "
            f"{source.name!r} are not on disk, the first is {source.missing[0]}. Complete the "
            "download, or set data.allow_missing=true to use only the images that are there"
        )
    if len(source.missing) == len(source.records):
        raise MissingImagesError(
            f"none of the {len(source.records):,} images in the label table of {source.name!r} is "
            f"on disk, not even {source.missing[0]}: are they in another folder?"
        )
    absent = set(source.missing)
    return [record for record in source.records if record.image_id not in absent]
