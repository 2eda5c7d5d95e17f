"""What a model has seen of its test set: patients, exposures, known lists, one picture twice."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from xray_lightning.audit.label_table import LabelTable, find_anonymous
from xray_lightning.data.copies import CORRELATION, DISTANCE, SIDE, Mask, Pairs, Squares, find_pairs
from xray_lightning.data.partition import SUBSETS, Indices, Split, locate_lists
from xray_lightning.data.several import Several, find_untold
from xray_lightning.data.source import Source, readable_records
from xray_lightning.errors import ConfigError
from xray_lightning.records import Record, patient_ids, read_column
from xray_lightning.results import Json, Result
from xray_lightning.wording import fault

LISTED = 20  # pairs


@dataclass(frozen=True)
class PairCount(Result):
    """Pairs of one kind; None where a label table tells no patients."""

    pairs: int  # all
    other_patients: int | None  # of two patients
    learned_and_tested: int  # one image in train or val, the other in test
    leaked_unseen: int | None  # of these, of two patients: a split by patient does not prevent them


@dataclass(frozen=True)
class Pair(Result):
    """Two images that show one picture."""

    images: tuple[str, str]  # ids
    subsets: tuple[str, str] = field(metadata={"was": "parts"})  # "" for an image in none
    same_patient: bool | None  # None where the label table does not tell
    exact: bool  # whether the pixels are equal
    correlation: float  # of the squares


@dataclass(frozen=True)
class Duplicates(Result):
    """The duplicates of a data set, and what they do to a split."""

    images: int  # compared
    size: int  # px: side of the squares they were compared at
    blank: int  # images without any structure, which are compared with none
    exact: PairCount  # pairs of equal pixels
    near: PairCount  # the other pairs
    test_images: int  # of the test set, with a duplicate in train or val
    closest: list[Pair] = field(metadata={"was": "named"})  # those that cross into test first
    not_on_disk: int = 0
    distance: int = DISTANCE
    correlation: float = CORRELATION
    # of several data sets: images of each that were compared, and pairs across ("nih and rsna")
    compared: dict[str, int] = field(default_factory=dict)
    between: dict[str, int] = field(default_factory=dict)
    in_subsets: dict[str, int] = field(default_factory=dict)  # images of each that were compared


def compare_images(
    source: Source,
    split: Split,
    *,
    size: int,
    cache_dir: str | Path,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Duplicates:
    """Find the duplicates among the images on disk, by their squares in the image cache.

    ``size`` is the side of the squares in px, ``report`` is told how many are done.

    Raises:
        ConfigError: the size is below 64, too small to compare radiographs.
    """
    if size < SIDE:
        raise ConfigError(fault("small_for_copies", SIDE, size))
    from xray_lightning.data.cache import open_cache  # the decoders

    records = readable_records(source)
    cache = open_cache(source, records, size=size, root=cache_dir)
    for place in range(len(records)):
        cache.square(place)
        report(place + 1, len(records))
    images = np.array(read_column(source.records, "image_id"))
    lists = {subset: {*images[rows].tolist()} for subset, rows in split.subsets.items()}
    subsets = locate_lists(records, lists)[0]
    duplicates = count_duplicates(cache.images, records, subsets, name_untold(source))
    return replace(duplicates, not_on_disk=len(source.records) - len(records))


def count_duplicates(
    squares: Squares,
    records: Sequence[Record],
    subsets: Mapping[str, Indices],
    untold: Collection[str] = (),
) -> Duplicates:
    """Find the duplicates among squares (N, S, S) of ``fit_square``, by what they do to a split.

    ``untold`` hospitals tell no patients: whether theirs are of two is not known.
    """
    pairs, exact, correlation, blank = find_pairs(squares)
    homes = np.full(len(records), "", dtype="<U5")  # the subset of each image, "" for none
    for name, rows in subsets.items():
        homes[rows] = name
    anonymous, owners = find_anonymous(records, untold), patient_ids(records)
    known = not anonymous.any()
    first, second = pairs.T
    crossing = (homes[first] == "test") != (homes[second] == "test")
    crossing &= (homes[first] != "") & (homes[second] != "")
    others = owners[first] != owners[second]

    def count(kind: Mask) -> PairCount:
        masks = kind, kind & others, kind & crossing, kind & crossing & others
        total, of_two, crossed, unseen = (int(mask.sum()) for mask in masks)
        return PairCount(total, of_two if known else None, crossed, unseen if known else None)

    worst = np.lexsort((-correlation, ~others, ~crossing))[:LISTED].tolist()
    return Duplicates(
        *(len(records), squares.shape[1], blank, count(exact), count(~exact)),
        test_images=len(np.unique(np.where(homes[first] == "test", first, second)[crossing])),
        closest=[
            Pair(
                images=(records[first[at]].image_id, records[second[at]].image_id),
                subsets=(str(homes[first[at]]), str(homes[second[at]])),
                same_patient=None if anonymous[pairs[at]].any() else not others[at],
                exact=bool(exact[at]),
                correlation=float(correlation[at]),
            )
            for at in worst
        ],
        in_subsets={name: len(rows) for name, rows in subsets.items()},
        **_count_hospitals(records, pairs),
    )


def _count_hospitals(records: Sequence[Record], pairs: Pairs) -> Json:
    """Images that were compared of each data set, and pairs (P, 2) of them between two."""
    hospitals = read_column(records, "hospital")
    compared = Counter(filter(None, hospitals))
    met = Counter(frozenset((hospitals[a], hospitals[b])) for a, b in pairs.tolist())
    between = {f"{a} and {b}": met[frozenset((a, b))] for a, b in combinations(compared, 2)}
    return {"compared": dict(compared), "between": between}


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
    also = ("shares",)

    @property
    def shares(self) -> tuple[float, float] | None:
        """Of the test images, in train, and in train or val."""
        if self.in_train is None or self.in_train_or_val is None:
            return None
        return self.in_train / self.test_images, self.in_train_or_val / self.test_images


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
        between={k: sum(pair <= home for home in homes.values()) for k, pair in pairs.items()},
        test_images=len(test),
        in_train=sum("train" in home for home in test),
        in_train_or_val=sum(len(home) > 1 for home in test),
    )


def read_labels(source: Source) -> LabelTable:
    """The label table of a data set, or of several."""
    return LabelTable.of(source.records, source.labels, name_untold(source))


def name_untold(source: Source) -> list[str]:
    """The data sets that tell no patients, as records name them: "" is the only one."""
    return [name if isinstance(source, Several) else "" for name in find_untold(source)]


def count_patients(source: Source, subsets: Mapping[str, Indices]) -> Overlap:
    """How many patients have images in more than one subset, where data sets tell them."""
    owners = find_untold(source)
    told = np.array([(r.hospital or source.name) not in owners for r in source.records])
    counted = {subset: rows[told[rows]] for subset, rows in subsets.items()}
    patients = read_column(source.records, "patient_id") if len(counted["test"]) else None
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
    from xray_lightning.evaluation.model import seen_before

    description = load_checkpoint(path).description
    seen = seen_before(description, source.population, source.records)
    own = description.split.get("subsets", {})
    return CheckpointOverlap(
        path=str(path),
        comparable=seen is not None,
        population=description.split.get("population") or None,
        same_training_images=own.get("train") == split.subset_fingerprints["train"],
        same_test_images=own.get("test") == split.subset_fingerprints["test"],
        seen=None if seen is None else {k: int(seen[split.subsets[k]].sum()) for k in SUBSETS},
    )
