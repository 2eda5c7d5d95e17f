"""Duplicates against the hash's formula, scipy's distances, NumPy's correlation, real twins."""

import math
from itertools import combinations
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from scipy.spatial.distance import pdist

from xray_lightning.data import copies as module
from xray_lightning.data.copies import close_pairs, correlate, find_copies, find_pairs, hash_images
from xray_lightning.data.geometry import fit_square
from xray_lightning.data.images import read_record
from xray_lightning.data.nih import ChestXray14, read_nih_map
from xray_lightning.data.rsna import Rsna

ROUGH = np.random.default_rng(0).random((40, 12, 12)).astype(np.float32)
SMOOTH = [cv2.resize(each, (128, 128), interpolation=cv2.INTER_CUBIC) for each in ROUGH]
SCENES = np.clip(20 + 200 * np.stack(SMOOTH), 0, 255).astype(np.uint8)  # no two alike


def block_means(image: np.ndarray, side: int) -> np.ndarray:
    """(side, side), whole numbers; halves go up, as OpenCV's area resize by 2 rounds them."""
    step = len(image) // side
    return np.floor(image.reshape(side, step, side, step).mean(axis=(1, 3)) + 0.5)


def test_the_hash_is_that_of_the_formula() -> None:
    bits, _ = hash_images(SCENES)
    waves = [np.cos(math.pi * k * (2 * np.arange(32) + 1) / 64) for k in range(1, 9)]
    for image, found in zip(SCENES, bits, strict=True):
        small = block_means(image, 32)
        table = np.array([[first @ small @ second for second in waves] for first in waves])
        assert (found == (table > np.median(table)).ravel()).all()
        assert found.sum() == 32


@pytest.mark.parametrize("tile", [7, 512])
def test_close_pairs_against_scipy(tile: int, monkeypatch: pytest.MonkeyPatch, rng) -> None:
    monkeypatch.setattr(module, "_TILE", tile)
    bits = rng.random((60, 64)) < 0.5
    for row, flips in enumerate([0, 1, 5, 8, 9, 12]):
        bits[40 + row] = bits[row]
        bits[40 + row, rng.permutation(64)[:flips]] ^= True
    distances = np.rint(64 * pdist(bits, "hamming"))
    wanted = np.column_stack(np.triu_indices(60, 1))[distances <= 8]
    np.testing.assert_array_equal(close_pairs(bits), wanted)
    assert wanted.tolist() == [[0, 40], [1, 41], [2, 42], [3, 43]]
    assert len(close_pairs(bits, 0)) == 1
    assert close_pairs(bits[:0]).shape == (0, 2)


def test_correlate_against_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 3)
    pairs = np.array([[0, 1], [0, 0], [2, 9], [30, 31], [5, 39]])
    small = [block_means(image, 64).ravel() for image in SCENES]
    wanted = [np.corrcoef(small[i], small[j])[0, 1] for i, j in pairs]
    np.testing.assert_allclose(correlate(SCENES, SCENES, pairs), wanted, atol=1e-5)
    speck = np.zeros((2, 640, 640), dtype=np.uint8)
    speck[0, 0, 0] = 1  # gone at 64 px: no structure, no division by zero
    assert correlate(speck, speck, np.array([[0, 1]])) == [0.0]


def test_altered_copies() -> None:
    image = SCENES[3]
    encoded, pixel = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], image.copy()
    pixel[5, 5] ^= 1
    copies = {
        "equal": image.copy(),
        "one pixel": pixel,
        "jpeg": cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE),
        "gamma": (255 * (image / 255) ** 0.8).astype(np.uint8),
        "mirrored": image[:, ::-1],
        "cropped": cv2.resize(image[12:-12, 12:-12], (128, 128)),
    }
    blank = np.full((2, 128, 128), 7, dtype=np.uint8)
    squares = np.concatenate([SCENES, np.stack(list(copies.values())), blank])
    pairs, exact, correlation, blanks = find_pairs(squares)
    assert blanks == 2
    names = [None] * len(SCENES) + [*copies]
    of_three = [(names[j], bool(e)) for (i, j), e in zip(pairs, exact, strict=True) if i == 3]
    near = ("one pixel", "jpeg", "gamma")
    assert of_three == [("equal", True), *((name, False) for name in near)]
    assert [tuple(pair) for pair in pairs if pair[0] != 3] == list(combinations(range(40, 44), 2))
    assert correlation[0] == 1 > correlation[2] >= 0.98


def test_copies_in_two_sets_of_squares() -> None:
    others = np.stack([cv2.resize(SCENES[7], (96, 96), interpolation=cv2.INTER_AREA)] * 2)
    others[0] = np.clip(others[0].astype(int) + 2, 0, 255)
    assert find_copies(SCENES, others).tolist() == [[7, 0], [7, 1]]
    assert find_copies(SCENES[:5], SCENES[5:]).shape == (0, 2)


def test_real_twins(shared_data) -> None:
    """RSNA's JPEG files and the 1024 px files are NIH's radiographs again; no two others are."""
    nih = ChestXray14(shared_data / "nih-sample")
    twins = read_nih_map(shared_data / "rsna-metadata/rsna_to_nih.csv.gz")
    with pytest.warns(UserWarning, match="patients cannot be told apart"):
        rsna = Rsna(shared_data / "rsna-sample")
    large = sorted((shared_data / "nih-1024").glob("*.png"))
    named = [(record.image_id, record) for record in nih.records]
    named += [(twins[record.image_id], record) for record in rsna.records]
    named += [(path.name, SimpleNamespace(path=path, image_id=path.name)) for path in large]
    squares = np.stack([fit_square(read_record(record), 64) for _, record in named])
    names = np.array([name for name, _ in named])
    pairs, _, correlation, _ = find_pairs(squares)
    assert (names[pairs[:, 0]] == names[pairs[:, 1]]).all()
    _, counts = np.unique(names, return_counts=True)
    assert len(pairs) == (counts * (counts - 1) // 2).sum() == 389
    assert correlation.min() > 0.999
