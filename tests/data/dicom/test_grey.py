"""The grey scale: files made with pydicom, values worked out by hand from PS3.3."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence

from xray_lightning.data.dicom import read_dicom, read_dicom8, to_uint8
from xray_lightning.data.dicom.grey import apply_window, look_up, weighted_percentiles
from xray_lightning.errors import InvalidImageError

LINEAR = {"WindowCenter": 50, "WindowWidth": 101}  # (x - 49.5) / 100 + 0.5 = (x + 0.5) / 100
EXACT, SIGMOID = LINEAR | {"WindowWidth": 100}, [1 / (1 + np.e**2), 0.5, 1 / (1 + np.e**-1), 1]
FULL, PERCENTILES = "no window: the full range is used", "no window: percentiles are used"
MONO1, INVERSE = {"PhotometricInterpretation": "MONOCHROME1"}, {"PresentationLUTShape": "INVERSE"}
IDENTITY = {"PresentationLUTShape": "IDENTITY"}


def lut(first: int, bits: int, entries: list[int], *, packed: bool = False) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", "OW", np.asarray(entries, "u1" if packed else "<u2").tobytes())
    return item


def raw_lut(descriptor: list[int], data: bytes) -> Dataset:
    item = lut(min(descriptor[1], 0), descriptor[2], [])
    item["LUTDescriptor"].value, item["LUTData"].value = descriptor, data
    return item


def voi(*tables: Dataset) -> dict[str, object]:
    return {"VOILUTSequence": list(tables)}


def modality(table: Dataset) -> dict[str, object]:
    return {"ModalityLUTSequence": [table], **LINEAR}


def rescale(slope: float, intercept: float) -> dict[str, object]:
    return {"RescaleSlope": slope, "RescaleIntercept": intercept}


SIGNED, OCTETS = {"PixelRepresentation": 1}, {"BitsAllocated": 8}
BELOW = lut(-2, 16, [10, 20])
REVERSED = np.arange(65536, dtype="<u2")[::-1].tobytes()


@pytest.mark.parametrize(
    ("values", "attributes", "expected"),
    [
        ([0, 10, 49, 50, 99, 100, 4000], LINEAR, [0.005, 0.105, 0.495, 0.505, 0.995, 1, 1]),
        ([-1, 0, -300], {**SIGNED, **LINEAR}, [0, 0.005, 0]),
        # (x - 50) / 100 + 0.5, and 1 / (1 + exp(-4 (x - 50) / 100))
        ([0, 10, 50, 100, 999], {**EXACT, "VOILUTFunction": "LINEAR_EXACT"}, [0, 0.1, 0.5, 1, 1]),
        ([0, 50, 75, 65535], {**EXACT, "VOILUTFunction": "SIGMOID"}, SIGMOID),
        # PS3.3 C.11.2.1.2: a width of one is a threshold, x <= c - 0.5 black
        ([49, 50, 51], {"WindowCenter": 50.5, "WindowWidth": 1}, [0, 0, 1]),
        # the rescale comes before the window
        ([500, 550, 600], {**rescale(2, -1000), **LINEAR}, [0.005, 1, 1]),
        ([0, 50, 100], {**rescale(-1, 100), **LINEAR}, [1, 0.505, 0.005]),
        ([0, 51, 255], {**rescale(-3, 7), **OCTETS}, [1, 0.8, 0]),
        # a modality table: below its first entry the first, past the end the last
        ([0, 10, 11, 12, 99], modality(lut(10, 16, [0, 50, 100])), [0.005, 0.005, 0.505, 1, 1]),
        ([-3, -2, -1, 5], {**SIGNED, **modality(BELOW)}, [0.105, 0.105, 0.205, 0.205]),
        # a VOI table wins over the window
        ([4, 5, 6, 8], {**voi(lut(5, 12, [0, 1000, 4095])), **LINEAR}, [0, 0, 1000 / 4095, 1]),
        ([0, 1, 2], voi(lut(0, 8, [255, 51, 0, 0], packed=True)), [1, 0.2, 0]),
        ([0, 1, 2], voi(lut(0, 8, [255, 51, 0, 0])), [1, 0.2, 0]),
        ([0, 65535], voi(raw_lut([0, 0, 16], REVERSED)), [1, 0]),  # 0 means 65,536 entries
        # inversion after the window, and once
        ([0, 10, 4000], {**LINEAR, **MONO1}, [0.995, 0.895, 0]),
        ([0, 10, 4000], {**LINEAR, **INVERSE}, [0.995, 0.895, 0]),
        ([0, 10, 4000], {**LINEAR, **MONO1, **INVERSE}, [0.995, 0.895, 0]),
        ([0, 10, 4000], {**LINEAR, **MONO1, **IDENTITY}, [0.995, 0.895, 0]),
        ([0, 10, 4000], {**LINEAR, **IDENTITY}, [0.005, 0.105, 1]),
        ([0, 51, 255], {**OCTETS, **MONO1}, [1, 0.8, 0]),
        # without a window the full range
        ([0, 3, 15], {"BitsStored": 4}, [0, 0.2, 1]),
        ([10, 51, 200], OCTETS, [10 / 255, 0.2, 200 / 255]),
        ([1365] * 9, {"BitsStored": 12}, [1365 / 4095] * 9),
    ],
)
def test_values(dicom, values, attributes, expected) -> None:
    data = dicom([values], **attributes)
    image = read_dicom(data)
    assert image.pixels.dtype == np.float32
    np.testing.assert_allclose(image.pixels[0], expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(read_dicom8(data), to_uint8(image.pixels))
    windowed = "WindowCenter" in attributes or "VOILUTSequence" in attributes
    assert image.notes == (() if windowed else (FULL,))


def test_windows_and_tables_are_chosen_by_index(dicom) -> None:
    windows = dicom([[0, 100]], WindowCenter=[50, 100], WindowWidth=[101, 201])
    tables = [lut(0, 16, [7, 7]), lut(-100, 16, [0, 65535])]
    after_rescale = dicom([[0, 1, 2]], VOILUTSequence=tables, **rescale(1, -100))
    for data, window, expected in (
        (windows, 0, [0.005, 1]),
        (windows, 1, [0.0025, 0.5025]),
        (after_rescale, 1, [0, 1, 1]),
    ):
        np.testing.assert_allclose(read_dicom(data, window=window).pixels[0], expected, rtol=1e-6)
    for data in (windows, after_rescale):
        with pytest.raises(InvalidImageError, match="window 2 is asked for, it has 2"):
            read_dicom(data, window=2)


@pytest.mark.parametrize("syntax", ["", ".1", ".2"])
def test_tables_in_every_byte_order(dicom, syntax: str) -> None:
    order = ">" if syntax == ".2" else "<"
    item = raw_lut([3, -1, 16], np.array([0, 13107, 65535], f"{order}u2").tobytes())
    data = dicom([[-1, 0, 1]], syntax=f"1.2.840.10008.1.2{syntax}", **SIGNED, **voi(item))
    np.testing.assert_allclose(read_dicom(data).pixels[0], [0, 0.2, 1], rtol=1e-6)


def test_more_bits_without_a_window_are_percentiles(dicom) -> None:
    values = np.arange(1000).reshape(20, 50)
    image = read_dicom(dicom(values, BitsStored=12))
    low, high = 4, 994  # the 5th and the 995th of a thousand
    expected = np.clip((values - low) / (high - low), 0, 1)
    np.testing.assert_allclose(image.pixels, expected, rtol=1e-6)
    assert image.notes == (PERCENTILES,)


def test_percentiles_are_numpys_inverted_cdf(rng) -> None:
    pixels = rng.integers(0, 300, 777)
    values = rng.permutation(300) * -1.5  # a modality table need not be monotone
    ours = weighted_percentiles(values, np.bincount(pixels, minlength=300), (0.5, 42, 99.5))
    theirs = np.percentile(values[pixels], (0.5, 42, 99.5), method="inverted_cdf")
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_not_in_the_percentiles(dicom, photometric: str) -> None:
    values = np.arange(1, 1001).reshape(20, 50)
    padded = np.concatenate([values, np.full((20, 50), 4000)])
    more = {"PhotometricInterpretation": photometric, "BitsStored": 12}
    image = read_dicom(dicom(padded, PixelPaddingValue=4000, **more))
    np.testing.assert_array_equal(image.pixels[:20], read_dicom(dicom(values, **more)).pixels)
    assert (image.pixels[20:] == 0).all()
    assert "pixel padding is black" in image.notes


@pytest.mark.parametrize(("value", "limit"), [(-2000, -1900), (-1900, -2000)])
def test_padding_range_includes_both_ends(dicom, value: int, limit: int) -> None:
    padding = {"PixelPaddingValue": value, "PixelPaddingRangeLimit": limit}
    window = {"WindowCenter": 0, "WindowWidth": 100, **rescale(-1, 0)}  # padding comes before it
    data = dicom([[-2001, -2000, -1950, -1900, -1899]], **SIGNED, **padding, **window)
    np.testing.assert_array_equal(read_dicom(data).pixels[0], [1, 0, 0, 0, 1])


CUBIC = {"WindowCenter": 5, "WindowWidth": 3, "VOILUTFunction": "CUBIC"}


@pytest.mark.parametrize(
    ("attributes", "match"),
    [
        (rescale(0, 1), "RescaleSlope is 0"),
        ({"RescaleSlope": 1, "RescaleIntercept": "-1e31"}, r"1 x \+ -1e\+31"),
        ({"WindowCenter": [5, 6], "WindowWidth": 3}, "2 window centers, 1 widths"),
        ({"WindowWidth": 3}, "0 window centers, 1 widths"),
        (CUBIC, "none of LINEAR, LINEAR_EXACT, SIGMOID"),
        (voi(lut(0, 7, [1, 2])), r"LUTDescriptor is corrupt: \[2, 0, 7\]"),
        (voi(lut(0, 12, [1, 4096])), "LUTData exceeds its 12 bits"),
        (voi(Dataset()), r"LUTDescriptor is corrupt: \[\]"),
        (voi(raw_lut([4, 0, 16], bytes(6))), "LUTData has 6 bytes for 4 entries"),
        ({"ModalityLUTSequence": [lut(0, 16, [9, 9])], "BitsStored": 8}, "maps every value to one"),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 1, "BitsStored": 12}, "are padding"),
    ],
)
def test_invalid_grey_scales_are_refused(dicom, attributes, match) -> None:
    with pytest.raises(InvalidImageError, match=f"^x: .*{match}"):
        read_dicom(dicom([[0, 1]], **attributes), name="x")


@pytest.mark.parametrize("text", [b"NaN ", b"inf ", b"1.x ", b"1_0 "])
def test_what_is_not_a_number_is_refused(dicom, text: bytes) -> None:
    data = dicom([[0, 1]], **rescale(7777, 0)).replace(b"7777", text)
    with pytest.raises(InvalidImageError, match="its RescaleSlope is not a finite number"):
        read_dicom(data)


@pytest.mark.parametrize(
    "window",
    [
        {"WindowWidth": 0},
        {"WindowWidth": 0.5},
        {"WindowWidth": -3, "VOILUTFunction": "SIGMOID"},
        {"WindowWidth": 0, "VOILUTFunction": "LINEAR_EXACT"},
    ],
)
def test_a_window_without_a_width_is_ignored(dicom, window: dict[str, object]) -> None:
    pixels = np.arange(4096).reshape(64, 64)
    data = dicom(pixels, BitsStored=12, WindowCenter=5, **window)
    image, without = read_dicom(data), read_dicom(dicom(pixels, BitsStored=12))
    np.testing.assert_array_equal(image.pixels, without.pixels)
    assert image.notes == ("invalid WindowWidth: the window is ignored", *without.notes)
    notes: list[str] = []
    read_dicom8(data, notes=notes)
    assert tuple(notes) == image.notes


@pytest.mark.parametrize(
    ("most", "white"), [(4095, 4095), (4094, 4095), (16383, 16383), (32767, 65535)]
)
def test_voi_table_of_fewer_bits_than_it_says(dicom, most: int, white: int) -> None:
    """Agfa: 12-bit entries under a descriptor of 16; white is the highest 12-bit value."""
    image = read_dicom(dicom([[0, 1, 2]], **voi(lut(0, 16, [0, most // 2, most]))))
    np.testing.assert_allclose(image.pixels, [[0, most // 2 / white, most / white]], rtol=1e-6)
    note = f"VOI LUT of {white.bit_length()}-bit entries, not 16: their own range is used"
    assert image.notes == (() if white == 65535 else (note,))


def group(**attributes: float) -> Dataset:
    """A functional group with a rescale and a window, (x + 0.5) / 100."""
    window, values, both = Dataset(), Dataset(), Dataset()
    for keyword, value in {**LINEAR, **attributes}.items():
        setattr(window if keyword.startswith("Window") else values, keyword, value)
    both.FrameVOILUTSequence = Sequence([window])
    both.PixelValueTransformationSequence = Sequence([values])
    return both


def test_window_and_rescale_of_functional_groups(dicom) -> None:
    shared = {"SharedFunctionalGroupsSequence": [group(**rescale(2, -100))]}
    data = dicom([[50, 60, 90]], **shared)
    own = {"PerFrameFunctionalGroupsSequence": [group(**rescale(1, 0))]}
    both = dicom([[0, 20, 80]], WindowCenter=9, WindowWidth=9, **shared, **own)
    for made in (data, both):  # the frame's own wins
        image = read_dicom(made)
        np.testing.assert_allclose(image.pixels, [[0.005, 0.205, 0.805]], rtol=1e-6)
        assert image.notes == ()
        np.testing.assert_array_equal(read_dicom8(made), to_uint8(image.pixels))


def test_a_frame_has_its_own_group(dicom) -> None:
    groups = [group(**rescale(slope, 0)) for slope in (1, 2)]
    pixels = np.array([10, 20, 10, 20], "<u2").tobytes()
    more = {"NumberOfFrames": 2, "PerFrameFunctionalGroupsSequence": groups}
    data = dicom([[10, 20]], pixel_bytes=pixels, **more)
    for frame, expected in enumerate(([0.105, 0.205], [0.205, 0.405])):
        np.testing.assert_allclose(read_dicom(data, frame=frame).pixels[0], expected, rtol=1e-6)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("signed", [0, 1])
def test_against_pydicoms_own_pipeline(function: str, signed: int) -> None:
    dataset = Dataset()
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsStored, dataset.PixelRepresentation = 12, signed
    dataset.RescaleSlope, dataset.RescaleIntercept = 1.7, -311
    dataset.WindowCenter, dataset.WindowWidth = 512.25, 700.5
    dataset.VOILUTFunction = function
    stored = np.random.default_rng(1).integers(-2048, 2048, 500) + (0 if signed else 2048)
    theirs = apply_voi_lut(apply_modality_lut(stored, dataset), dataset)
    low, high = (np.array([-2048, 2047]) + (0 if signed else 2048)) * 1.7 - 311
    ours = apply_window(stored * 1.7 - 311, 512.25, 700.5, function)
    np.testing.assert_allclose(ours, (theirs - low) / (high - low), atol=1e-9)


def test_values_beyond_any_integer_get_the_ends_of_a_table() -> None:
    table = np.array([1.0, 2.0, 3.0])
    assert look_up(np.array([-1e30, 6.0, 1e30]), 5, table).tolist() == [1, 2, 3]
