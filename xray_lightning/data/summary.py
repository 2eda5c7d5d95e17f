"""What label tables hold: counts under a split, and the common vocabulary beside each set's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from xray_lightning.data import vocabulary
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


@dataclass(frozen=True)
class LabelUse(Result):
    """How one data set tells a finding, and in how many images."""

    words: tuple[str, ...]  # its own labels; () where it does not tell the finding
    derived: bool  # from other findings, of which this one is the union
    wider: tuple[str, ...]  # wider findings it tells instead, which are not used
    positives: int | None  # images; None where only the vocabulary was read
    negatives: int | None
    unknown: int | None  # NaN, or a share between 0 and 1


@dataclass(frozen=True)
class LabelRow(Result):
    """A finding of the vocabulary, or a label that only its data set knows."""

    label: str
    snomed: int | None  # SNOMED CT code
    wider: tuple[str, ...]
    narrower: tuple[str, ...]
    sets: dict[str, LabelUse]


@dataclass(frozen=True)
class LabelTable(Result):
    """The findings that at least one of some data sets tells by its own labels."""

    rows: list[LabelRow]
    images: dict[str, int | None]  # of each data set; None where only the vocabulary was read


def tabulate_labels(sources: Mapping[str, Source | None]) -> LabelTable:
    """How data sets tell the findings of the vocabulary; of None what it says, without counts."""
    known = {name: source or _unread(name) for name, source in sources.items()}
    labels = vocabulary.union_labels(list(known.values()))
    uses = {name: list(_count(source, labels)) for name, source in known.items()}
    findings = vocabulary.read_vocabulary()
    rows = []
    for place, label in enumerate(labels):
        finding = findings.get(label) or vocabulary.Finding(label, None, (), (), {})
        cells = {name: uses[name][place] for name in known}
        links = finding.wider, vocabulary.list_narrower(label)
        rows.append(LabelRow(label, finding.snomed, *links, cells))
    images = {name: len(source) if source else None for name, source in sources.items()}
    return LabelTable(rows, images)


def _unread(name: str) -> Source:
    """A data set of which only the words of the vocabulary are known."""
    source = Source()
    source.name = name
    words = (finding.words.get(name, ()) for finding in vocabulary.read_vocabulary().values())
    source.labels = tuple(dict.fromkeys(chain.from_iterable(words)))
    return source


def _count(source: Source, labels: list[str]) -> Iterator[LabelUse]:
    relabelled = vocabulary.Relabelled(source, tuple(labels))
    for label, targets in zip(labels, target_matrix(relabelled.records).T, strict=True):
        told = relabelled.wordings.get(label, vocabulary.Wording(()))
        wider = [name for name in vocabulary.list_wider(label) if vocabulary.tells(source, name)]
        positives, negatives = (int((targets == sign).sum()) for sign in (1, 0))
        counts = positives, negatives, len(targets) - positives - negatives
        counted = counts if source.records else (None,) * 3
        yield LabelUse(told.words, told.derived, () if told.words else tuple(wider), *counted)
