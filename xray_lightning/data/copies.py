"""Images that are one picture under two ids, by their squares: equal pixels, or nearly equal ones.

Candidates are pairs whose perceptual hashes differ in at most ``DISTANCE`` of 64 bits: the DCT hash
of Zauner (2010, section 3.2.1) of the image at 32 px, without his mean filter, the coefficients
(1, 1) to (8, 8) against their median. Of them those are copies whose squares at 64 px correlate
by at least ``CORRELATION`` (Pearson). The README of ``audit/`` says what that finds, and what not.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import scipy  # its parts load at their first use
from threadpoolctl import threadpool_limits

from xray_lightning.data.cache import Rows
from xray_lightning.data.geometry import fit_square

DISTANCE = 8  # bits of 64
CORRELATION = 0.98
SIDE = 64  # px, of the squares that are correlated

_HASH_SIDE, _COEFFICIENTS = 32, slice(1, 9)
_TILE = 512  # hashes; a tile of products stays in the processor's cache, 1 MB
_CHUNK = 1024  # pairs or images that are floats at one time

Grey = npt.NDArray[np.uint8]
Squares = Grey | Rows  # (N, S, S)
Mask = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.bool_]  # (N, 64)
Places = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.int64]  # (M, 2), the first below the second, in order


def find_pairs(squares: Squares) -> tuple[Pairs, Mask, npt.NDArray[np.float64], int]:
    """Pairs of alike squares (M, 2), whether equal (M,), correlation (M,); how many are blank."""
    bits, blank = hash_images(squares)
    (kept,) = np.nonzero(~blank)
    near = kept[close_pairs(bits[kept])]
    correlation = correlate(squares, squares, near)
    alike = correlation >= CORRELATION
    pairs = near[alike]
    equal = [np.array_equal(squares[i], squares[j]) for i, j in pairs.tolist()]
    exact = np.array(equal, dtype=np.bool_)
    return pairs, exact, np.where(exact, 1.0, correlation[alike]), int(blank.sum())


def find_copies(first: Squares, second: Squares) -> Pairs:
    """Places of the pictures that are in both (M, 2), of squares of any two sizes from 64 px on."""
    hashed = [hash_images(squares) for squares in (first, second)]
    bits, blank = map(np.concatenate, zip(*hashed, strict=True))
    (kept,) = np.nonzero(~blank)
    near: Pairs = kept[close_pairs(bits[kept])]
    crossing = (near[:, 0] < len(first)) & (near[:, 1] >= len(first))
    pairs: Pairs = near[crossing] - np.array([0, len(first)])
    return pairs[correlate(first, second, pairs) >= CORRELATION]


def hash_images(squares: Squares) -> tuple[Bits, Mask]:
    """Perceptual hash of each image, (N, 64), and whether it is blank, (N,)."""
    bits, blank = np.empty((len(squares), 64), dtype=np.bool_), np.empty(len(squares), np.bool_)
    for rows in _chunks(len(squares)):
        small = _shrink(squares[rows], _HASH_SIDE).astype(np.float32)
        waves = scipy.fft.dctn(small, axes=(1, 2))[:, _COEFFICIENTS, _COEFFICIENTS].reshape(-1, 64)
        bits[rows] = waves > np.median(waves, axis=1, keepdims=True)
        blank[rows] = np.ptp(small, axis=(1, 2)) == 0
    return bits, blank


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


def correlate(first: Squares, second: Squares, pairs: Pairs) -> npt.NDArray[np.float64]:
    """Pearson correlation at 64 px of an image of the first and one of the second squares, (M,)."""
    sides = [_shrink_used(*side) for side in zip((first, second), pairs.T, strict=True)]
    correlation = np.empty(len(pairs))
    for chunk in _chunks(len(pairs)):
        flat = (_standardise(small[places[chunk]]) for small, places in sides)
        correlation[chunk] = np.einsum("np,np->n", *flat)
    return correlation


def _shrink_used(squares: Squares, rows: Places) -> tuple[Grey, Places]:
    """The different ones of some rows at 64 px, (n, 64, 64), and the place of each row, (M,)."""
    used, places = np.unique(rows, return_inverse=True)
    small = np.empty((len(used), SIDE, SIDE), dtype=np.uint8)
    for chunk in _chunks(len(used)):
        small[chunk] = _shrink(squares[used[chunk]], SIDE)
    return small, places


def _standardise(images: Grey) -> npt.NDArray[np.float32]:
    """Pixels of mean 0 and length 1, (n, S S); all 0 for an image without structure."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(length, np.float32(1e-6)))


def _shrink(squares: Grey, side: int) -> Grey:
    return np.stack([fit_square(square, side) for square in squares])  # (n, side, side)


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, count, _CHUNK))
