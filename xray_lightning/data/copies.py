"""Images that are one picture under two ids, by their squares: equal pixels, or nearly equal ones.

Candidates are pairs whose perceptual hashes differ in at most ``DISTANCE`` of 64 bits: the DCT hash
of Zauner (2010, section 3.2.1) of the image at 32 px, without his mean filter, the coefficients
(1, 1) to (8, 8) against their median. Of them those are copies whose squares at 64 px correlate
by at least ``CORRELATION`` (Pearson). The README of ``audit/`` says what that finds, and what not.
"""

from collections.abc import Iterator
from hashlib import blake2b

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
Pairs = npt.NDArray[np.int64]  # (M, 2), the first below the second, in order


def find_pairs(squares: Squares) -> tuple[Pairs, Mask, npt.NDArray[np.float64], int]:
    """Pairs of alike squares (M, 2), whether equal (M,), correlation (M,); how many are blank."""
    bits, digests, blank = hash_images(squares)
    (kept,) = np.nonzero(~blank)
    pairs = kept[close_pairs(bits[kept])]
    exact = np.array([digests[i] == digests[j] for i, j in pairs.tolist()], dtype=np.bool_)
    correlation = np.where(exact, 1.0, correlate(squares, pairs))
    alike = correlation >= CORRELATION
    return pairs[alike], exact[alike], correlation[alike], int(blank.sum())


def find_copies(first: Squares, second: Squares) -> Pairs:
    """Places of the pictures that are in both (M, 2), of squares of any two sizes from 64 px on."""
    hashed = [hash_images(squares) for squares in (first, second)]
    bits, blank = (np.concatenate([side[place] for side in hashed]) for place in (0, 2))
    (kept,) = np.nonzero(~blank)
    near: Pairs = kept[close_pairs(bits[kept])]
    crossing = (near[:, 0] < len(first)) & (near[:, 1] >= len(first))
    pairs: Pairs = near[crossing] - np.array([0, len(first)])
    sides = zip((first, second), pairs.T, strict=True)
    small = [_shrink(squares[places], SIDE) for squares, places in sides if len(places)]
    if not small:
        return pairs
    joined = np.column_stack([np.arange(len(pairs)), len(pairs) + np.arange(len(pairs))])
    return pairs[correlate(np.concatenate(small), joined) >= CORRELATION]


def hash_images(squares: Squares) -> tuple[Bits, list[bytes], Mask]:
    """Perceptual hash of each image, (N, 64), a digest of its pixels, whether it is blank, (N,)."""
    bits, blank = np.empty((len(squares), 64), dtype=np.bool_), np.empty(len(squares), np.bool_)
    digests = []
    for rows in _chunks(len(squares)):
        digests += [blake2b(square.tobytes(), digest_size=16).digest() for square in squares[rows]]
        small = _shrink(squares[rows], _HASH_SIDE).astype(np.float32)
        waves = scipy.fft.dctn(small, axes=(1, 2))[:, _COEFFICIENTS, _COEFFICIENTS].reshape(-1, 64)
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
