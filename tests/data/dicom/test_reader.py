"""Files, names, arguments, threads; real files: pydicom's test data, RSNA's against NIH's.

Whatever the bytes: an image in [0, 1] or InvalidImageError, in bounded time and memory.
"""

import csv
import gzip
import os
import random
import resource
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels.encoders import RLELosslessEncoder

from xray_lightning.data.dicom import pixels as module
from xray_lightning.data.dicom import read_dicom, read_dicom8, tally, to_uint8
from xray_lightning.data.dicom.header import read_layout, split_file
from xray_lightning.data.dicom.pixels import read_codes
from xray_lightning.data.files import is_dicom
from xray_lightning.data.images import decode_image, read_image
from xray_lightning.errors import ConfigError, InvalidImageError

Make = Callable[..., bytes]
FOLDERS = [Path(pydicom.__file__).parent / "data/test_files"]
if spec := find_spec("data_store"):  # the package pydicom-data
    FOLDERS += [Path(place) for place in spec.submodule_search_locations or []]
FILES = [path for folder in FOLDERS for path in sorted(folder.rglob("*")) if path.is_file()]
FILES = [path for path in FILES if path.suffix in ("", ".dcm")]
# Chest and projection radiographs among them, by name or by folder.
RADIOGRAPHS = {"6154", "6247", "6278"} | {
    f"{name}_{end}.dcm" for name in ("RG1", "RG3") for end in ("J2KI", "J2KR", "UNCI", "UNCR")
}
REFUSALS = {"has no pixel data": 60, "is in colour": 30, "only 8 or 16 bits allocated": 8}
REFUSALS |= {"frames. Choose one": 5, "without file meta information": 2, "is not a DICOM file": 1}
REFUSALS |= {"its pixels end at byte": 1, "its codestream is": 1, "no valid TransferSyntaxUID": 1}
REFUSALS |= {"its NumberOfFrames is not a finite number": 1}
CASES = Path(os.environ["XRAY_DATA"]).with_name("cases") / "dicom"


def test_every_file_is_an_image_or_refused_for_a_known_reason() -> None:
    reasons: Counter[str] = Counter()
    names = set()
    for path in FILES:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # one of them mixes explicit and implicit VR
                pixels = read_dicom(path).pixels
        except InvalidImageError as error:
            (reason,) = (reason for reason in REFUSALS if reason in str(error))
            reasons[reason] += 1
            continue
        names.add(path.name)
        assert (pixels.ndim, pixels.dtype) == (2, np.float32)
        assert 0 <= pixels.min() <= pixels.max() <= 1
    assert all(reasons[reason] >= least for reason, least in REFUSALS.items()), reasons
    assert names >= RADIOGRAPHS & {path.name for path in FILES}
    assert len(names) >= 50


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_stored_values_and_colours_are_pydicoms() -> None:
    compared: Counter[str] = Counter()
    for path in FILES:
        try:
            header, pixels = split_file(path.read_bytes())
            layout = read_layout(header)
            frame = layout.frames - 1
            codes, values = read_codes(header, pixels, layout, frame)
            theirs = pydicom.pixels.pixel_array(pydicom.dcmread(path), index=frame, raw=True)
        except (InvalidImageError, UserWarning):
            continue
        except (RuntimeError, NotImplementedError, AttributeError):  # a plug-in is not installed
            continue
        lossy = header.syntax.endswith((".4.50", ".4.51", ".4.91"))
        if not layout.photometric.startswith("YBR_F"):  # we give RGB for some, pydicom never
            atol = 1 if lossy else 0
            np.testing.assert_allclose(values[codes], theirs, atol=atol, err_msg=str(path))
        compared[header.syntax.removeprefix("1.2.840.10008.1.2")] += 1
    assert set(compared) >= {"", ".1", ".2", ".1.99", ".5", ".4.50", ".4.90", ".4.91"}, compared
    assert sum(compared.values()) > 60


def twins(shared_data: Path, folder: str) -> list[tuple[Path, Path]]:
    """(RSNA's DICOM file, NIH's PNG of the same exposure)."""
    images = {path.name: path for path in (shared_data / folder).rglob("*.png")}
    with gzip.open(shared_data / "rsna-metadata" / "rsna_to_nih.csv.gz", "rt") as file:
        rows = {row["patientId"]: row["Image Index"] for row in csv.DictReader(file)}
    files = sorted((shared_data / "rsna-sample").rglob("*.dcm"))
    return [(path, images[rows[path.stem]]) for path in files if rows[path.stem] in images]


@pytest.mark.parametrize(
    ("folder", "least", "step", "mean", "most"),
    [("nih-1024", 11, 1, 1.5, 20), ("nih-sample", 301, 30, 1, 255)],
)
def test_rsna_and_nih_agree(shared_data, folder, least, step, mean, most) -> None:
    """Same pixels but for the JPEG. Measured: on all 11 pairs at 1024 px mean 1.13, most 14; on all
    pairs at 512 px, reduced by area, mean 0.5, correlation 0.99993.
    """
    pairs = twins(shared_data, folder)
    assert len(pairs) >= least
    for dicom, png in pairs[::step]:
        nih = cv2.imread(str(png), cv2.IMREAD_GRAYSCALE)
        rsna = read_dicom(dicom).pixels
        rsna = 255 * cv2.resize(rsna, nih.shape[::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(nih - rsna).mean() < mean
        assert np.abs(nih - rsna).max() < most
        assert np.corrcoef(nih.ravel(), rsna.ravel())[0, 1] > 0.9995


def test_what_rsna_tells_is_nihs_and_its_notes_one_line(shared_data: Path) -> None:
    with gzip.open(shared_data / "nih-metadata" / "Data_Entry_2017_v2020.csv.gz", "rt") as file:
        rows = {row[0]: row[4:7] for row in csv.reader(file)}  # age, sex, view
    pairs = twins(shared_data, "nih-sample")[:25]
    images = [read_dicom(dicom) for dicom, _ in pairs]
    for image, (_, png) in zip(images, pairs, strict=True):
        age, sex, view = rows[png.name]
        assert (image.acquisition.sex, image.acquisition.view) == (sex, view)
        assert abs(image.acquisition.age - float(age)) <= 1  # NIH has corrected ages since
    line = tally(image.notes for image in images)
    assert line.startswith("25 files: ")
    assert "invalid PatientAge: no unit, read as years (25)" in line
    assert "no window: the full range is used (25)" in line


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not there")
def test_the_shared_cases() -> None:
    images = {path.stem: read_dicom(path) for path in sorted(CASES.glob("*.dcm"))}
    for name, like in {
        "j2k_prec16_stored10": "j2k_prec16_stored12",
        "jll_prec12_stored10": "j2k_prec16_stored12",
        "agfa_voi_lut": "voi_lut_12",
    }.items():
        np.testing.assert_array_equal(images[name].pixels, images[like].pixels)
    note = "VOI LUT of 12-bit entries, not 16: their own range is used"
    assert images["agfa_voi_lut"].notes == (note,)
    # the group's slope is 1, its intercept -100, the window 1000 by 500
    for name, intercept in (("functional_groups", -100.0), ("no_preamble_meta", 0.0)):
        values = pydicom.dcmread(CASES / f"{name}.dcm", force=True).pixel_array + intercept
        expected = np.clip((values - 999.5) / 499 + 0.5, 0, 1)
        np.testing.assert_allclose(images[name].pixels, expected, atol=1e-6)
    assert images["functional_groups"].notes == ()
    assert images["ww_zero"].notes[0] == "invalid WindowWidth: the window is ignored"


def test_files_names_and_a_file_without_preamble(dicom: Make, tmp_path: Path) -> None:
    data, path = dicom([[0, 51, 255]], BitsAllocated=8), tmp_path / "a.dcm"
    path.write_bytes(data)
    np.testing.assert_array_equal(read_dicom(path).pixels, read_dicom(data).pixels)
    with pytest.raises(InvalidImageError, match=r"absent\.dcm: cannot be opened \(No such file"):
        read_dicom(tmp_path / "absent.dcm")
    with pytest.raises(InvalidImageError, match=r"^DICOM data: "):
        read_dicom(b"")
    (tmp_path / "bare").write_bytes(data[132:])
    np.testing.assert_array_equal(read_image(tmp_path / "bare"), [[0, 51, 255]])
    np.testing.assert_array_equal(read_dicom(data[132:]).pixels, read_dicom(data).pixels)


@pytest.mark.parametrize(("argument", "value"), [("colour", "red"), ("frame", -1), ("window", -1)])
def test_arguments_are_checked(dicom: Make, argument: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{argument} .*{value}"):
        read_dicom(dicom([[0]]), **{argument: value})


def test_to_uint8_rounds_to_the_nearest() -> None:
    values = np.array([0, 0.4, 0.6, 127.5, 254.6, 255]) / 255
    np.testing.assert_array_equal(to_uint8(values.astype(np.float32)), [0, 0, 1, 128, 255, 255])


def test_the_image_reader_reads_dicom(dicom: Make, tmp_path: Path) -> None:
    data = dicom([[0, 1000, 4095]], BitsStored=12, WindowCenter=2048, WindowWidth=4096)
    path = tmp_path / "without_suffix"
    path.write_bytes(data)
    for pixels in (read_image(path), decode_image(data, "x"), read_dicom8(data)):
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, [[0, 62, 255]])
    assert is_dicom(b"", "x.DCM")
    assert is_dicom(data)
    assert not is_dicom(b"\x89PNG", "x.png")


def test_threads_agree(dicom: Make) -> None:
    generator = np.random.default_rng(0)
    made = [dicom(generator.integers(0, 4096, (40, 30)), BitsStored=12) for _ in range(20)]
    alone = [read_dicom(data).pixels for data in made]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(read_dicom, made * 5))
    for expected, image in zip(alone * 5, together, strict=True):
        np.testing.assert_array_equal(image.pixels, expected)


UID = "1.2.840.10008.1.2"
SECONDS = 10.0  # generous for a loaded machine; a mutation takes milliseconds
GROWTH = 2**30  # bytes; 100 million pixels of 16 bits take 600 MB
SIZE = (48, 64)
SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
SETTINGS = settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=SLOW
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
        ".5": RLELosslessEncoder.encode(pydicom.dcmread(BytesIO(dicom(words)))),
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
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHILD_SECONDS", 5.0)
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


def test_mutations_of_real_files(shared_data: Path) -> None:
    paths = sorted((shared_data / "rsna-sample").rglob("*.dcm"))[:3]
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
