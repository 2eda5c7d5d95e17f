"""Images that are one picture under two ids, and what they do to a split."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xray_lightning.audit.label_table import find_anonymous
from xray_lightning.data.cache import open_cache
from xray_lightning.data.copies import CORRELATION, DISTANCE, SIDE, Mask, Squares, find_pairs
from xray_lightning.data.partition import Indices, Split
from xray_lightning.data.source import Source, readable_records
from xray_lightning.errors import ConfigError
from xray_lightning.records import Record, patient_ids
from xray_lightning.results import Result

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
        raise ConfigError(
            f"duplicates=true compares at {SIDE} px or more: image_size={size} is too small"
        )
    records = readable_records(source)
    cache = open_cache(source, records, size=size, root=cache_dir)
    for place in range(len(records)):
        cache.square(place)
        report(place + 1, len(records))
    row = {record.image_id: place for place, record in enumerate(records)}
    subsets = {}
    for subset, rows in split.subsets.items():
        places = [row.get(source.records[place].image_id, -1) for place in rows]
        subsets[subset] = np.array([place for place in places if place >= 0], dtype=np.int64)
    duplicates = count_duplicates(cache.images, records, subsets)
    return replace(duplicates, not_on_disk=len(source.records) - len(records))


def count_duplicates(
    squares: Squares, records: Sequence[Record], subsets: Mapping[str, Indices]
) -> Duplicates:
    """Find the duplicates among squares (N, S, S) of ``fit_square``, by what they do to a split."""
    pairs, exact, correlation, blank = find_pairs(squares)
    homes = np.full(len(records), "", dtype="<U5")  # the subset of each image, "" for none
    for name, rows in subsets.items():
        homes[rows] = name
    anonymous, owners = find_anonymous(records), patient_ids(records)
    known = not anonymous.any()
    first, second = pairs.T
    crossing = (homes[first] == "test") != (homes[second] == "test")
    crossing &= (homes[first] != "") & (homes[second] != "")
    others = owners[first] != owners[second]

    def count(kind: Mask) -> PairCount:
        masks = kind, kind & others, kind & crossing, kind & crossing & others
        total, of_two, crossed, unseen = (int(mask.sum()) for mask in masks)
        return PairCount(total, of_two if known else None, crossed, unseen if known else None)

    compared, between = _count_hospitals(records, pairs)
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
        compared=compared,
        between=between,
    )


def _count_hospitals(
    records: Sequence[Record], pairs: npt.NDArray[np.int64]
) -> tuple[dict[str, int], dict[str, int]]:
    """Images that were compared of each data set, and pairs (P, 2) of them between two."""
    hospitals = np.array([record.hospital for record in records])
    names = [str(name) for name in dict.fromkeys(hospitals.tolist()) if name]
    sets = {name: hospitals == name for name in names}
    between = {
        f"{a} and {b}": int((sets[a][pairs] & sets[b][pairs[:, ::-1]]).sum())
        for a, b in combinations(names, 2)
    }
    return {name: int(own.sum()) for name, own in sets.items()}, between
