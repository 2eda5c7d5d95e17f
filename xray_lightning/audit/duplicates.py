"""Images that are one picture under two ids: equal pixels, or nearly equal ones.

Candidates are pairs whose perceptual hashes differ in at most ``DISTANCE`` of 64 bits: the DCT hash
of Zauner (2010, section 3.2.1) of the image at 32 px, without his mean filter, the coefficients
(1, 1) to (8, 8) against their median. Of them those are duplicates whose squares at 64 px correlate
by at least ``CORRELATION`` (Pearson). The README of this folder says what that finds, and what not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn
from threadpoolctl import threadpool_limits

from xray_lightning.data.cache import open_cache
from xray_lightning.data.geometry import fit_square
from xray_lightning.data.partition import Indices, Split
from xray_lightning.data.source import Source, readable_records
from xray_lightning.errors import ConfigError
from xray_lightning.records import Record, patient_ids, patients_known
from xray_lightning.results import Result

DISTANCE = 8  # bits of 64
CORRELATION = 0.98
LISTED = 20  # pairs
SIDE = 64  # px, of the squares that are correlated

_HASH_SIDE, _COEFFICIENTS = 32, slice(1, 9)
_TILE = 512  # hashes; a tile of products stays in the processor's cache, 1 MB
_CHUNK = 1024  # pairs or images that are floats at one time

Squares = npt.NDArray[np.uint8]  # (N, S, S)
Mask = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.bool_]  # (N, 64)
Pairs = npt.NDArray[np.int64]  # (M, 2), the first below the second, in order


@dataclass(frozen=True)
class PairCount(Result):
    """Pairs of one kind; None where the label table tells no patients."""

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
    known, owners = patients_known(records), patient_ids(records)
    first, second = pairs.T
    crossing = (homes[first] == "test") != (homes[second] == "test")
    crossing &= (homes[first] != "") & (homes[second] != "")
    others = owners[first] != owners[second]
    tested = np.where(homes[first] == "test", first, second)[crossing]

    def count(kind: Mask) -> PairCount:
        masks = kind, kind & others, kind & crossing, kind & crossing & others
        total, of_two, crossed, unseen = (int(mask.sum()) for mask in masks)
        return PairCount(total, of_two if known else None, crossed, unseen if known else None)

    worst = np.lexsort((-correlation, ~others, ~crossing))[:LISTED].tolist()
    return Duplicates(
        images=len(records),
        size=squares.shape[1],
        blank=blank,
        exact=count(exact),
        near=count(~exact),
        test_images=len(np.unique(tested)),
        closest=[
            Pair(
                images=(records[first[at]].image_id, records[second[at]].image_id),
                subsets=(str(homes[first[at]]), str(homes[second[at]])),
                same_patient=not others[at] if known else None,
                exact=bool(exact[at]),
                correlation=float(correlation[at]),
            )
            for at in worst
        ],
    )


def find_pairs(squares: Squares) -> tuple[Pairs, Mask, npt.NDArray[np.float64], int]:
    """Pairs of alike squares (M, 2), whether equal (M,), correlation (M,); how many are blank."""
    bits, digests, blank = hash_images(squares)
    (kept,) = np.nonzero(~blank)
    pairs = kept[close_pairs(bits[kept])]
    exact = np.array([digests[i] == digests[j] for i, j in pairs.tolist()], dtype=np.bool_)
    correlation = np.where(exact, 1.0, correlate(squares, pairs))
    alike = correlation >= CORRELATION
    return pairs[alike], exact[alike], correlation[alike], int(blank.sum())


def hash_images(squares: Squares) -> tuple[Bits, list[bytes], Mask]:
    """Perceptual hash of each image, (N, 64), a digest of its pixels, whether it is blank, (N,)."""
    bits, blank = np.empty((len(squares), 64), dtype=np.bool_), np.empty(len(squares), np.bool_)
    digests = []
    for rows in _chunks(len(squares)):
        digests += [blake2b(square.tobytes(), digest_size=16).digest() for square in squares[rows]]
        small = _shrink(squares[rows], _HASH_SIDE).astype(np.float32)
        waves = dctn(small, axes=(1, 2))[:, _COEFFICIENTS, _COEFFICIENTS].reshape(-1, 64)
        bits[rows] = waves > np.median(waves, axis=1, keepdims=True)
        blank[rows] = np.ptp(small, axis=(1, 2)) == 0
    return bits, digests, blank


def close_pairs(bits: Bits, distance: int = DISTANCE) -> Pairs:
    """Pairs of hashes (N, 64) that differ in at most ``distance`` bits: all are compared."""
    signs = np.where(bits, np.float32(1), np.float32(-1))  # a product: 64 less twice the different
    tiles = [np.empty((0, 2), dtype=np.int64)]
    with threadpool_limits(1):  # beside other load, threads that wait for each other take longer
        for top in range(0, len(signs), _TILE):
            for left in range(top, len(signs), _TILE):
                products = signs[top : top + _TILE] @ signs[left : left + _TILE].T
                near = np.flatnonzero(products >= bits.shape[1] - 2 * distance)
                rows, columns = np.divmod(near, products.shape[1])
                close = np.column_stack([rows + top, columns + left])
                tiles.append(close[close[:, 0] < close[:, 1]])
    pairs = np.concatenate(tiles)
    return pairs[np.lexsort(pairs.T[::-1])]


def correlate(squares: Squares, pairs: Pairs) -> npt.NDArray[np.float64]:
    """Pearson correlation of the two images of each pair at 64 px, (M,)."""
    rows, places = np.unique(pairs, return_inverse=True)
    small = np.empty((len(rows), SIDE, SIDE), dtype=np.uint8)
    for chunk in _chunks(len(rows)):
        small[chunk] = _shrink(squares[rows[chunk]], SIDE)
    correlation = np.empty(len(pairs))
    for chunk in _chunks(len(pairs)):
        first, second = (_standardise(small[side]) for side in places.reshape(-1, 2)[chunk].T)
        correlation[chunk] = np.einsum("np,np->n", first, second)
    return correlation


def _standardise(images: Squares) -> npt.NDArray[np.float32]:
    """Pixels of mean 0 and length 1, (n, S S); all 0 for an image without structure."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(length, np.float32(1e-6)))


def _shrink(squares: Squares, side: int) -> Squares:
    return np.stack([fit_square(square, side) for square in squares])  # (n, side, side)


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, count, _CHUNK))
