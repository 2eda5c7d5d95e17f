"""The search for duplicate images at the size of ChestX-ray14."""

from statistics import median
from time import perf_counter

import numpy as np
import pytest

from xray_lightning.data.copies import close_pairs, correlate, hash_images
from xray_lightning.data.geometry import fit_square
from xray_lightning.data.images import decode_image

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]

IMAGES, PLANTED = 112_120, 1000


def test_hashing_and_comparing(radiographs, bench) -> None:
    squares = np.stack([fit_square(decode_image(p.read_bytes(), p.name), 224) for p in radiographs])
    many = np.tile(squares, (25, 1, 1))
    pairs = np.random.default_rng(0).integers(len(many), size=(5000, 2))

    def hash_all() -> int:
        return len(hash_images(many)[0])

    def compare() -> int:
        return len(correlate(many, pairs))

    found = bench.rates(3, hashes=hash_all, pairs=compare)
    bench.remark(f"{median(found['hashes']):,.0f} squares of 224 px a second hashed and digested")
    bench.ratio("seconds_to_hash_nih", IMAGES / median(found["hashes_cpu"]), "<=30")
    bench.remark(f"{median(found['pairs']):,.0f} pairs a second correlated, one thread")


def test_pairs_among_all_of_nih(bench) -> None:
    rng = np.random.default_rng(0)
    bits = rng.random((IMAGES, 64)) < 0.5
    rows = rng.permutation(IMAGES)[: 2 * PLANTED].reshape(2, PLANTED)
    bits[rows[1]] = bits[rows[0]]
    for row in rows[1]:
        bits[row, rng.permutation(64)[: rng.integers(9)]] ^= True
    start = perf_counter()
    pairs = close_pairs(bits)
    seconds = perf_counter() - start
    bench.remark(f"{IMAGES:,} hashes: {len(pairs):,} close pairs")
    bench.ratio("close_pairs_seconds", seconds, "<=30")
    found = set(map(tuple, pairs.tolist()))
    assert all(tuple(sorted(pair)) in found for pair in rows.T.tolist())
