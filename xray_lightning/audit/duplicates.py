"""Images that are one picture under two ids: equal pixels, or nearly equal ones.

Two steps. Candidates are pairs whose perceptual hashes differ in at most ``DISTANCE`` of 64 bits:
the DCT hash of Zauner (2010, section 3.2.1) of the image at 32 px, without his mean filter, the
coefficients (1, 1) to (8, 8) against their median. Of them those are duplicates whose squares at 64
px correlate by at least ``CORRELATION`` (Pearson). Measured on NIH's and RSNA's images:

==========================================  ===============  ====================================
pairs                                       bits that differ  correlation
==========================================  ===============  ====================================
338 radiographs as PNG and as RSNA's JPEG,  0 or 2           at least 0.9999
40 at 512 and at 1024 px
438,516 of two exposures among NIH's 937    3 pairs: 6;      at most 0.953; of the 26: 0.927
                                            26: at most 8
==========================================  ===============  ====================================

Of copies of the 937 were found: all with gamma 0.7, noise (sd 10 of 255) or JPEG of quality 20;
98.7 % with gamma 1.5; 85 % turned by 1 degree; 57 % cropped by 1 % at each edge, 9 % by 2 %; 46 %
with the greys cut to 60 to 200. What is mirrored, inverted or cropped by 5 % is not found. A normal
tail of Fisher's z of the closest pairs extrapolates to 10 to 35 false pairs among the 6.3 billion
of all NIH images; the phantom's plain anatomy gives 51 among the 483,000 pairs of 983 images.

Every pair of hashes is compared: lists of pieces (the pigeonhole principle) gain nothing at 8 of 64
bits, where a piece of 16 may differ in 2.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn
from threadpoolctl import threadpool_limits

from xray_lightning.data.geometry import fit_square
from xray_lightning.data.partition import Indices
from xray_lightning.records import Record, patient_ids, patients_known

DISTANCE = 8  # bits of 64
CORRELATION = 0.98
NAMED = 20  # pairs that are listed
SIDE = 64  # px, of the squares that are correlated

_HASH_SIDE, _COEFFICIENTS = 32, slice(1, 9)
_TILE = 512  # hashes; a tile of products stays in the processor's cache, 1 MB
_CHUNK = 1024  # pairs or images that are floats at one time

Squares = npt.NDArray[np.uint8]  # (N, S, S)
Mask = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.bool_]  # (N, 64)
Pairs = npt.NDArray[np.int64]  # (M, 2), the first below the second, in order


@dataclass(frozen=True, eq=False)
class Twins:
    """Pairs of images that show the same picture.

    Attributes:
        pairs: positions, (M, 2).
        exact: whether their pixels are equal, (M,).
        correlation: of the two, (M,); 1 where they are equal.
        blank: how many images have one grey value alone; they are compared with none.
    """

    pairs: Pairs
    exact: Mask
    correlation: npt.NDArray[np.float64]
    blank: int


@dataclass(frozen=True)
class Count:
    """Pairs of one kind.

    Attributes:
        pairs: all.
        other_patients: of two patients, by the label table; None where it tells none.
        learned_and_tested: one image in train or val, the other in test.
        leaked_unseen: of these, of two patients: a split by patient does not prevent them.
    """

    pairs: int
    other_patients: int | None
    learned_and_tested: int
    leaked_unseen: int | None


@dataclass(frozen=True)
class Named:
    """One pair.

    Attributes:
        images: both ids.
        parts: of both, "" for an image in none.
        same_patient: by the label table; None where it tells none.
        exact: whether the pixels are equal.
        correlation: of the squares.
    """

    images: tuple[str, str]
    parts: tuple[str, str]
    same_patient: bool | None
    exact: bool
    correlation: float


@dataclass(frozen=True)
class Duplicates:
    """What duplicates a data set has, and which of them a split parts.

    Attributes:
        images: how many were compared.
        size: side in px of the squares they were compared at.
        blank: without any structure, not compared.
        exact: pairs of equal pixels.
        near: the other pairs.
        test_images: of the test set, with a duplicate in train or val.
        named: the first pairs, those that cross into test first.
    """

    images: int
    size: int
    blank: int
    exact: Count
    near: Count
    test_images: int
    named: list[Named]


def duplicates(
    squares: Squares, records: Sequence[Record], subsets: Mapping[str, Indices]
) -> Duplicates:
    """Find the duplicates and sort them by what they do to a split.

    ``squares`` (N, S, S) are those of ``data.geometry.fit_square``; a memory map will do.
    """
    twins = find_twins(squares)
    subset = _homes(len(records), subsets)
    owners = patient_ids(records)
    first, second = twins.pairs.T
    crossing = (subset[first] == "test") != (subset[second] == "test")
    crossing &= (subset[first] != "") & (subset[second] != "")
    known, others = patients_known(records), owners[first] != owners[second]
    tested = np.where(subset[first] == "test", first, second)[crossing]

    def count(kind: Mask) -> Count:
        masks = kind, kind & others, kind & crossing, kind & crossing & others
        pairs, of_two, crossed, unseen = (int(mask.sum()) for mask in masks)
        return Count(pairs, of_two if known else None, crossed, unseen if known else None)

    def named(at: int) -> Named:
        images = records[first[at]].image_id, records[second[at]].image_id
        places = str(subset[first[at]]), str(subset[second[at]])
        exact, correlation = bool(twins.exact[at]), float(twins.correlation[at])
        same = not others[at] if known else None
        return Named(images, places, same, exact, correlation)

    worst = np.lexsort((-twins.correlation, ~others, ~crossing))[:NAMED].tolist()
    return Duplicates(
        images=len(records),
        size=squares.shape[1],
        blank=twins.blank,
        exact=count(twins.exact),
        near=count(~twins.exact),
        test_images=len(np.unique(tested)),
        named=[named(at) for at in worst],
    )


def _homes(count: int, subsets: Mapping[str, Indices]) -> npt.NDArray[np.str_]:
    """The part of each image, "" for none, (N,)."""
    subset = np.full(count, "", dtype="<U5")
    for name, rows in subsets.items():
        subset[rows] = name
    return subset


def find_twins(squares: Squares) -> Twins:
    """Pairs of equal or nearly equal images among N, (N, S, S) uint8."""
    bits, digests, blank = hashes(squares)
    (kept,) = np.nonzero(~blank)
    pairs = kept[close_pairs(bits[kept])]
    exact = np.array([digests[i] == digests[j] for i, j in pairs.tolist()], dtype=np.bool_)
    correlation = np.where(exact, 1.0, correlations(squares, pairs))
    found = correlation >= CORRELATION
    return Twins(pairs[found], exact[found], correlation[found], int(blank.sum()))


def hashes(squares: Squares) -> tuple[Bits, list[bytes], Mask]:
    """Perceptual hash of each image, (N, 64), a digest of its pixels, whether it is blank, (N,)."""
    bits, blank = np.empty((len(squares), 64), dtype=np.bool_), np.empty(len(squares), np.bool_)
    digests = []
    for rows in _chunks(len(squares)):
        digests += [blake2b(each.tobytes(), digest_size=16).digest() for each in squares[rows]]
        small = _shrunk(squares[rows], _HASH_SIDE).astype(np.float32)
        waves = dctn(small, axes=(1, 2))[:, _COEFFICIENTS, _COEFFICIENTS].reshape(-1, 64)
        bits[rows] = waves > np.median(waves, axis=1, keepdims=True)
        blank[rows] = np.ptp(small, axis=(1, 2)) == 0
    return bits, digests, blank


def close_pairs(bits: Bits, distance: int = DISTANCE) -> Pairs:
    """Pairs of hashes that differ in at most ``distance`` bits.

    With bits as +1 and -1, (N, 64), a product is 64 less twice the bits that differ.
    """
    signs = np.where(bits, np.float32(1), np.float32(-1))
    found = [np.empty((0, 2), dtype=np.int64)]
    with threadpool_limits(1):  # beside other load, threads that wait for each other take longer
        for top in range(0, len(signs), _TILE):
            for left in range(top, len(signs), _TILE):
                products = signs[top : top + _TILE] @ signs[left : left + _TILE].T
                near = np.flatnonzero(products >= bits.shape[1] - 2 * distance)
                rows, columns = np.divmod(near, products.shape[1])
                close = np.column_stack([rows + top, columns + left])
                found.append(close[close[:, 0] < close[:, 1]])
    pairs = np.concatenate(found)
    return pairs[np.lexsort(pairs.T[::-1])]


def correlations(squares: Squares, pairs: Pairs) -> npt.NDArray[np.float64]:
    """Pearson correlation of the two images of each pair at 64 px, (M,)."""
    rows, places = np.unique(pairs, return_inverse=True)
    small = np.empty((len(rows), SIDE, SIDE), dtype=np.uint8)
    for chunk in _chunks(len(rows)):
        small[chunk] = _shrunk(squares[rows[chunk]], SIDE)
    found = np.empty(len(pairs))
    for chunk in _chunks(len(pairs)):
        first, second = (_standard(small[side]) for side in places.reshape(-1, 2)[chunk].T)
        found[chunk] = np.einsum("np,np->n", first, second)
    return found


def _standard(images: Squares) -> npt.NDArray[np.float32]:
    """Pixels of mean 0 and length 1, (n, S S); all 0 for an image without structure."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(length, np.float32(1e-6)))


def _shrunk(squares: Squares, side: int) -> Squares:
    """(n, side, side)."""
    return np.stack([fit_square(each, side) for each in squares])


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, count, _CHUNK))
