"""A split as data, the proof that it is one, and the lists of image ids it may come from.

Lists are read in the forms people publish. Proven is that no image and no patient stands in two
subsets, and that no subset is empty.
"""

import csv
import hashlib
import json
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xray_lightning.data.source import Source, say
from xray_lightning.data.tables import Table, open_text
from xray_lightning.errors import DataNotFoundError, SplitError, TableError
from xray_lightning.records import Record, patient_ids, patients_known, read_column
from xray_lightning.wording import fault
from xray_lightning.writing import from_spreadsheet

Indices = npt.NDArray[np.int64]
Images = Sequence[Record]
Lists = Mapping[str, Set[str]]  # subset -> image ids
SUBSETS = ("train", "val", "test")
ALIASES = dict.fromkeys(("valid", "validate", "validation", "development"), "val")  # in tables
LEAKY = "image"  # the one split that may share patients

HEADERS = {"image", "imageindex", "imageid", "imagename", "imagepath", "img", "imgid", "id"}
HEADERS |= {"name", "file", "filename", "path", "patientid"}

_ENDING = re.compile(r"\.(png|jpe?g|dcm|dicom|tiff?|bmp)$", re.IGNORECASE)
_NUMBERS = re.compile(r"([\s,;]+[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?)+$", re.IGNORECASE)
_SAMPLE = 500  # lines that tell the form of a list


class LeakySubsetsWarning(UserWarning):
    """Images of one patient are in several subsets: the test figures will flatter."""


class FaultySplitError(SplitError):
    """The split shares patients or images between its subsets, or leaves images out."""

    def __init__(self, message: str, split: "Split") -> None:
        super().__init__(message)
        self.split = split  # to count its faults; no training may use it


@dataclass(frozen=True, eq=False)
class Split:
    """Three disjoint sets of records; ``make_split`` makes one.

    Attributes:
        name: "official", "patient", "kfold", "image", "csv", "lists", or that of your own.
        subsets: ascending positions in the records, one array (n,) for each of ``SUBSETS``.
        fingerprint: 16 hex digits; equal exactly if all subsets hold the same image ids.
        subset_fingerprints: the same for each subset alone.
        leaked_patients: patients with images in several subsets; None: patients are unknown.
        settings: the arguments that made the split, as plain values.
        notes: what a user should know about it, one sentence each.
        definition: the title of a data set whose labels were read by choice; fingerprints of
            different ones differ.
    """

    name: str
    subsets: Mapping[str, Indices]
    fingerprint: str
    subset_fingerprints: Mapping[str, str]
    leaked_patients: int | None
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    definition: str = ""


Splitter = Callable[[Images, Mapping[str, frozenset[str]] | None], Split]


def fingerprint(ids: Mapping[str, Iterable[str]]) -> str:
    """First 16 hex digits of the SHA-256 of each subset's image ids, sorted, as ASCII JSON."""
    lists = {subset: sorted(names) for subset, names in ids.items()}
    text = json.dumps(lists, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def describe_split(split: Split) -> dict[str, Any]:
    """Name and fingerprints of a split as plain values."""
    return {
        "name": split.name,
        "settings": dict(split.settings),
        "fingerprint": split.fingerprint,
        "subsets": dict(split.subset_fingerprints),
        "parts": dict(split.subset_fingerprints),  # the name of schema 1
        "images": {subset: len(rows) for subset, rows in split.subsets.items()},
        "leaked_patients": split.leaked_patients,
    }


def make_split(
    name: str,
    records: Images,
    subsets: Mapping[str, npt.ArrayLike],
    *,
    settings: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    faults: Sequence[str] = (),
) -> Split:
    """A split that has been proven; what a splitter of yours returns.

    Args:
        name: of the split; one named "image" may share patients, which warns.
        records: the N records.
        subsets: their positions, in any order, for each of ``SUBSETS``.
        settings: the arguments that made the split, as plain values.
        notes: what a user should know about it, one sentence each.
        faults: what is wrong with it already.

    Raises:
        SplitError: a subset is absent, empty or out of range.
        FaultySplitError: there are faults, or subsets share an image or a patient.
    """
    if set(subsets) != set(SUBSETS):
        raise SplitError(f"a split has the subsets {', '.join(SUBSETS)}, got {sorted(subsets)}")
    arrays = {subset: np.sort(np.asarray(subsets[subset], dtype=np.int64)) for subset in SUBSETS}
    for subset, indices in arrays.items():
        if not len(indices):
            raise SplitError(fault("empty_subset", subset))
        if indices[0] < 0 or indices[-1] >= len(records):
            raise SplitError(fault("positions", subset, indices, len(records) - 1))
        indices.flags.writeable = False
    faults = [*faults, *_find_repeats(records, arrays)]
    known, shared = patients_known(records), find_shared_patients(records, arrays)
    faults += say("shared", shared) if known and name != LEAKY else []
    leaked = len(shared) if known else None
    notes = (*notes, *(f"no training may use this split: {fault}" for fault in faults))
    split = Split(name, arrays, "", {}, leaked, dict(settings or {}), notes)
    split = replace_test(split, records, arrays["test"])  # which gives it its fingerprints
    if faults:
        raise FaultySplitError(faults[0], split)
    if leaked:
        patients = patient_ids(records)
        seen = np.isin(patients[arrays["test"]], patients[arrays["train"]]).mean()
        (text,) = say("leaky", leaked, f"{seen:.1%}")
        warnings.warn(text, LeakySubsetsWarning, stacklevel=4)  # of who called the splitter
    return split


def replace_test(split: Split, records: Images, test: Indices) -> Split:
    """The split with another test set, ascending positions (n,), perhaps of other subsets too."""
    subsets = {**split.subsets, "test": test}
    images = np.array(read_column(records, "image_id"), dtype=object)
    ids = {subset: images[rows].tolist() for subset, rows in subsets.items()}
    told = {"definition": [split.definition]} if split.definition else {}
    own = {subset: fingerprint({subset: names, **told}) for subset, names in ids.items()}
    whole = fingerprint(ids | told)
    return replace(split, subsets=subsets, fingerprint=whole, subset_fingerprints=own)


def split_source(source: Source, splitter: Splitter, records: Images) -> Split:
    """Split records of a data set; how its labels were read is part of the fingerprints."""
    if not records:
        raise DataNotFoundError(f"{source.title}: there is no image of it in {source.root}")
    split = splitter(records, source.official)
    if not source.choices:
        return split
    return replace_test(replace(split, definition=source.title), records, split.subsets["test"])


def find_shared_patients(records: Images, subsets: Mapping[str, Indices]) -> dict[str, list[str]]:
    """The patients with images in several subsets, sorted, and those subsets."""
    patients = np.array(read_column(records, "patient_id"), dtype=object)
    there = {subset: {*patients[rows]} for subset, rows in subsets.items()}
    shared = [name for name, count in Counter(chain(*there.values())).items() if count > 1]
    return {name: [subset for subset in there if name in there[subset]] for name in sorted(shared)}


def _find_repeats(records: Images, subsets: Mapping[str, Indices]) -> list[str]:
    """A sentence if an image stands in the split more than once."""
    positions, uses = np.unique(np.concatenate(list(subsets.values())), return_counts=True)
    twice = positions[uses > 1]
    if not len(twice):
        return []
    where = [subset for subset, indices in subsets.items() if twice[0] in indices]
    return say("twice", len(twice), records[twice[0]].image_id, where)


class NameIndex:
    """The image that a name means: its id, or an id with or without a folder or an ending."""

    # an ending is one of an image file: ``1.2.840.1`` and ``1.2.840.2`` are two images

    def __init__(self, ids: Iterable[str]) -> None:
        self.ids = frozenset(ids)

    def find(self, name: str) -> str | None:
        """The id; None where no image, or more than one, may be meant."""
        for form in (name, from_spreadsheet(name)):
            if form in self.ids:
                return form
        path = _strip_ending(name)
        alike = self._alike.get(path.rpartition("/")[2], ())
        ends = ((image, f"/{_strip_ending(image)}") for image in alike)  # one may have more folders
        images = [i for i, end in ends if end.endswith(f"/{path}") or f"/{path}".endswith(end)]
        return images[0] if len(images) == 1 else None

    @cached_property
    def _alike(self) -> dict[str, list[str]]:
        """File name without folder and ending -> ids."""
        alike = defaultdict(list)
        for image in self.ids:
            alike[_strip_ending(image).rpartition("/")[2]].append(image)
        return dict(alike)


def read_list(path: Path, index: NameIndex) -> tuple[str, ...]:
    """The different names in a list: ids where an image is meant, else as they stand there."""
    # a name a line, perhaps with numbers behind it (``name 0 0 1``), or the column that names most
    # images of a table, with or without a header
    with open_text(path, "list") as file:
        lines = [line.strip() for line in file.read().splitlines() if line.strip()]
    if not lines:
        raise TableError(f"{path} is empty: it was to list images")
    forms = list(_read_forms(lines))
    parts = [form[:: len(form) // _SAMPLE + 1] for form in forms]
    hits = [sum(index.find(name) is not None for name in part) for part in parts]
    names = forms[hits.index(max(hits))]
    if _is_header(names[0], lines[0], index):
        names = names[1:]
    return tuple(dict.fromkeys(index.find(name) or name for name in names))


def _read_forms(lines: Sequence[str]) -> Iterator[Sequence[str]]:
    """What may be the names: whole lines, lines without the numbers at their end, each column."""
    yield lines
    yield [_NUMBERS.sub("", line) for line in lines]
    for separator in ",;\t":
        if separator in lines[0]:
            rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
            yield from zip_longest(*rows, fillvalue="")


def _is_header(name: str, line: str, index: NameIndex) -> bool:
    if index.find(name) is not None or _ENDING.search(name):
        return False
    word = "".join(letter for letter in name.lower() if letter.isalnum())
    return word in HEADERS or (any(mark in line for mark in ",;\t") and not _NUMBERS.search(line))


def _strip_ending(name: str) -> str:
    """With forward slashes, without an ending: ``images/1.2.840`` of ``images/1.2.840.PNG``."""
    return _ENDING.sub("", name.strip().replace("\\", "/"))


def locate_lists(records: Images, lists: Lists) -> tuple[dict[str, Indices], list[str]]:
    """Positions of the records that each list names; a fault if a record is in no list."""
    images = read_column(records, "image_id")
    subsets = {k: np.flatnonzero([image in ids for image in images]) for k, ids in lists.items()}
    everywhere = frozenset().union(*lists.values())
    nowhere = [image for image in images if image not in everywhere]
    return subsets, say("nowhere", nowhere, len(records))


def match_names(
    lists: Mapping[str, tuple[str, Iterable[str]]], index: NameIndex
) -> tuple[dict[str, set[str]], list[str]]:
    """The ids of each subset, by place and names of its list, and notes of names that mean none."""
    ids: dict[str, set[str]] = {}
    notes: list[str] = []
    for subset, (place, names) in lists.items():
        meant = {name: index.find(name) for name in names}
        unknown = [name for name, image in meant.items() if image is None]
        ids[subset] = {image for image in meant.values() if image is not None}
        notes += say("no_image", place, unknown, len(meant))
        if unknown and not ids[subset]:
            raise SplitError(fault("other_list", notes[-1], min(index.ids, default="")))
    return ids, notes


def read_split_column(table: Table, image: str = "image") -> dict[str, list[str]]:
    """Names of the images of each subset, by the column ``image`` and that named split."""
    known = dict(zip(SUBSETS, SUBSETS, strict=True)) | ALIASES
    wanted = "train, val (or valid, validation) or test"
    words = table.convert("split", lambda cell: known[cell.lower()], wanted)
    pairs = list(zip(table.text(image), words, strict=True))
    return {subset: [name for name, word in pairs if word == subset] for subset in SUBSETS}
