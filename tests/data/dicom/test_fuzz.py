"""Any bytes give an image or InvalidImageError: nothing else, no hang, no memory beyond a limit.

Seeded: the same mutations in every run. The long run is marked slow; in it and in the short one a
decoder that crashed would take pytest down with it, which is a failure too.
"""

import random
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels.encoders import RLELosslessEncoder

from xray_lightning.data.dicom import pixels, read_dicom
from xray_lightning.errors import InvalidImageError

Make = Callable[..., bytes]

UID = "1.2.840.10008.1.2"
SECONDS = 10.0  # generous for a loaded machine; a mutation takes milliseconds
GROWTH = 2**30  # bytes; 100 million pixels of 16 bits take 600 MB
SIZE = (48, 64)
SETTINGS = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def seeds(dicom: Make) -> dict[str, bytes]:
    """A small valid file of every transfer syntax, with tables, a window and padding."""
    generator = np.random.default_rng(0)
    wide = np.add.outer(np.arange(48), np.arange(64)) * 30 + generator.integers(0, 99, SIZE)
    words, octets = wide.astype(np.uint16), (wide >> 4).astype(np.uint8)
    entries = b"\0\0\x80\x80\xff\xff"
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [3, 0, 16])
    table.add_new("LUTData", "OW", entries)
    plain = {"WindowCenter": [2000, 1000], "WindowWidth": [3000, 99], "PixelPaddingValue": 3}
    rle = RLELosslessEncoder.encode(
        words.tobytes(), rows=48, columns=64, samples_per_pixel=1, bits_allocated=16,
        bits_stored=16, pixel_representation=0, number_of_frames=1,
        photometric_interpretation="MONOCHROME2",
    )  # fmt: skip
    jpeg, j2k = imagecodecs.jpeg8_encode, imagecodecs.jpeg2k_encode
    frames = {
        ".4.50": jpeg(octets),
        ".4.51": jpeg(words, bitspersample=12),
        ".4.57": jpeg(words, lossless=True, predictor=5),
        ".4.70": jpeg(words, lossless=True, predictor=1),
        ".4.80": imagecodecs.jpegls_encode(words),
        ".4.90": j2k(words, codecformat="j2k"),
        ".4.91": j2k(words, codecformat="j2k", level=60),
        ".4.201": imagecodecs.htj2k_encode(words),
        ".5": rle,
        ".1.98": words.tobytes(),
    }
    files = {end: dicom(words, syntax=UID + end, **plain) for end in ("", ".1", ".2", ".1.99")}
    for end, frame in frames.items():
        bits = 8 if end == ".4.50" else 16
        files[end] = dicom(words, syntax=UID + end, frames=[frame], BitsAllocated=bits)
    colour = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "BitsAllocated": 8}
    octets = np.stack([octets, octets // 2, octets // 3], 2)
    palette: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name in ("Red", "Green", "Blue"):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [3, 0, 16]
        palette[f"{name}PaletteColorLookupTableData"] = entries
    movie = {"NumberOfFrames": 2, "syntax": f"{UID}.4.90", "frames": [frames[".4.90"]] * 2}
    return files | {
        "tables": dicom(words, ModalityLUTSequence=[table], VOILUTSequence=[table]),
        "movie": dicom(words, **movie),
        "rgb": dicom(octets, PhotometricInterpretation="RGB", syntax=f"{UID}.2", **colour),
        "pairs": dicom(octets, PhotometricInterpretation="YBR_FULL_422", **colour),
        "palette": dicom(words, **palette),
    }


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut off, repeated or put in; often in the header or the codestream's."""
    content = bytearray(data)
    start = max(data.rfind(b"\xe0\x7f\x10\0"), data.rfind(b"\x7f\xe0\0\x10"), 0)
    kind = rng.random()
    if kind < 0.15:
        del content[rng.randrange(len(content)) :]
    elif kind < 0.35:
        at = rng.randrange(132, len(content))
        gone, new = (0, rng.randbytes(rng.randrange(1, 9))) if kind < 0.25 else (20, b"")
        content[at : at + rng.randrange(gone * 2 + 1)] = new
    else:
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            places = ((132, start + 12), (start, start + 150), (132, len(content)))
            low, high = rng.choice(places)
            at = rng.randrange(low, max(low + 1, min(high, len(content))))
            flipped = content[at] ^ 1 << rng.randrange(8)
            content[at] = rng.choice((0, 1, 255, rng.randrange(256), flipped))
    return bytes(content)


def survives(data: bytes) -> bool:
    """Read; True if there is an image. Whatever is no InvalidImageError fails the test."""
    start, image, message = time.monotonic(), None, ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pydicom on damaged headers
        try:
            image = read_dicom(data, frame=0, colour="luma")
        except InvalidImageError as error:
            message = str(error)
    assert time.monotonic() - start < SECONDS
    if image is None:
        assert message.startswith("DICOM data: ")
        return False
    assert image.pixels.ndim == 2
    assert np.isfinite(image.pixels).all()
    assert 0 <= image.pixels.min() <= image.pixels.max() <= 1
    return True


def peak() -> int:
    """Bytes of memory this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzz(files: dict[str, bytes], count: int, seed: int) -> dict[str, int]:
    """How many of the mutations of each file still give an image."""
    before = peak()
    images = {}
    for name, data in files.items():
        rng = random.Random(f"{seed} {name}")
        images[name] = sum(survives(mutated(data, rng)) for _ in range(count))
    assert peak() - before < GROWTH
    return images


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "CHILD_SECONDS", 5.0)


def test_mutations_of_every_syntax(dicom: Make) -> None:
    files = seeds(dicom)
    assert all(survives(data) for data in files.values())
    fuzz({".4.80": files.pop(".4.80")}, count=4, seed=1)  # a child process each
    images = fuzz(files, count=40, seed=1)
    assert all(0 < count < 40 for count in images.values()), images


@pytest.mark.slow
def test_many_mutations(dicom: Make) -> None:
    files = seeds(dicom)
    fuzz({".4.80": files.pop(".4.80")}, count=20, seed=2)
    fuzz(files, count=500, seed=2)


def test_mutations_of_real_files(real_data: Callable[[str], Path]) -> None:
    paths = sorted(real_data("rsna-sample").rglob("*.dcm"))[:3]
    fuzz({path.stem: path.read_bytes() for path in paths}, count=15, seed=3)


@given(st.binary(max_size=400), st.sampled_from(["", ".1", ".2", ".1.99", ".4.50", ".4.90", ".5"]))
@SETTINGS
def test_arbitrary_bytes_after_a_valid_start(rest: bytes, end: str) -> None:
    uid = (UID + end).encode() + b"\0" * (len(UID + end) % 2)
    meta = b"\x02\0\x10\0UI" + len(uid).to_bytes(2, "little") + uid
    assert not survives(rest)
    survives(bytes(128) + b"DICM" + meta + rest)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "Rows": st.integers(0, 65535),
            "Columns": st.integers(0, 65535),
            "BitsStored": st.integers(1, 20),
            "HighBit": st.integers(0, 20),
            "PixelRepresentation": st.integers(0, 2),
            "SamplesPerPixel": st.integers(0, 4),
            "NumberOfFrames": st.integers(0, 2**31 - 1),
            "PixelPaddingValue": st.integers(0, 32767),
            "RescaleSlope": st.sampled_from([0, -1e300, 1e-300, 1e308, -0.5]),
            "RescaleIntercept": st.sampled_from([0, 1e308, -1e308]),
            "WindowCenter": st.sampled_from([0, 1e308, -5]),
            "WindowWidth": st.sampled_from([0, 1, 1e-300, 1e308]),
            "VOILUTFunction": st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID", "CUBIC"]),
            "PhotometricInterpretation": st.sampled_from(["MONOCHROME1", "RGB", "YBR_FULL_422"]),
        },
    )
)
@SETTINGS
def test_arbitrary_headers(dicom: Make, attributes: dict[str, object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom on numbers too long for their attribute
        data = dicom([[0, 1, 2]], **attributes)
    survives(data)
