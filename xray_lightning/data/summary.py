"""What is in a data set under a split, counted from its label table alone."""

from dataclasses import dataclass, field

import numpy as np

from xray_lightning.data.partition import SUBSETS, Split
from xray_lightning.data.several import find_untold
from xray_lightning.data.source import Source
from xray_lightning.records import patient_ids, read_column, target_matrix
from xray_lightning.results import Result


@dataclass(frozen=True)
class SubsetCounts(Result):
    """Counts of one subset."""

    images: int
    patients: int | None  # how many; None where the label table does not tell them
    positives: dict[str, int]  # images with each label
    known: dict[str, int]  # images whose target of each label is known


@dataclass(frozen=True)
class DataSummary(Result):
    """Counts of a data set, over all and by subset."""

    data: str  # the source's title
    images: int  # records in the label table
    patients: int | None  # how many; None where the label table does not tell them
    boxes: int  # how many, on ``images_with_boxes``
    positives: dict[str, int]  # images with each label
    fingerprint: str  # of the split named ``split``
    subsets: dict[str, SubsetCounts] = field(metadata={"was": "parts"})  # counts of each
    split: str
    images_with_boxes: int
    missing: int  # images that are not on disk
    # patients with images in several subsets; None where patients are unknown
    leaked_patients: int | None
    notes: list[str]  # what a user should know about the data and the split, one sentence each
    # of the label table before anything is left out, see ``Source``
    counts: dict[str, dict[str, int]] = field(default_factory=dict)


def summarise_data(source: Source, split: Split) -> DataSummary:
    """Counts of a label table under a split of all its records; reads no pixels."""
    patients, targets = patient_ids(source.records), target_matrix(source.records)
    known, boxes = not find_untold(source), read_column(source.records, "boxes")

    def count(rows: np.ndarray | slice) -> SubsetCounts:
        positives = (targets[rows] == 1).sum(axis=0).tolist()
        told = (~np.isnan(targets[rows])).sum(axis=0).tolist()
        return SubsetCounts(
            images=len(targets[rows]),
            patients=len(np.unique(patients[rows])) if known else None,
            positives=dict(zip(source.labels, positives, strict=True)),
            known=dict(zip(source.labels, told, strict=True)),
        )

    whole = count(slice(None))
    return DataSummary(
        data=source.title,
        images=whole.images,
        patients=whole.patients,
        boxes=sum(map(len, boxes)),
        positives=whole.positives,
        fingerprint=split.fingerprint,
        subsets={subset: count(split.subsets[subset]) for subset in SUBSETS},
        split=split.name,
        images_with_boxes=sum(map(bool, boxes)),
        missing=len(source.missing),
        leaked_patients=split.leaked_patients,
        notes=[*source.notes, *split.notes],
        counts={table: dict(rows) for table, rows in source.counts.items()},
    )
