"""The grey scale: files made with pydicom, values worked out by hand from PS3.3."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence

from xray_lightning.data.dicom import read_dicom, read_dicom8, to_uint8
from xray_lightning.data.dicom.grey import apply_window, weighted_percentiles
from xray_lightning.errors import ConfigError, InvalidImageError

Make = Callable[..., bytes]

LINEAR = {"WindowCenter": 50, "WindowWidth": 101}  # 0 -> 0, 100 -> 1; see test_linear_window


def lut(first: int, bits: int, entries: list[int], *, packed: bool = False) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", "OW", np.asarray(entries, "u1" if packed else "<u2").tobytes())
    return item


def grey(data: bytes, **options: Any) -> np.ndarray:
    """The pixels as a flat list; whatever is read, the 8-bit way must agree."""
    image = read_dicom(data, **options)
    assert image.pixels.dtype == np.float32
    if not options:
        np.testing.assert_array_equal(read_dicom8(data), to_uint8(image.pixels))
    return image.pixels.ravel()


def test_linear_window(dicom: Make) -> None:
    # (x - (c - 0.5)) / (w - 1) + 0.5 = (x - 49.5) / 100 + 0.5 = (x + 0.5) / 100
    found = grey(dicom([[0, 10, 49, 50, 99, 100, 4000]], **LINEAR))
    np.testing.assert_allclose(found, [0.005, 0.105, 0.495, 0.505, 0.995, 1, 1], rtol=1e-6)


def test_linear_window_below(dicom: Make) -> None:
    data = dicom([[-1, 0, -300]], PixelRepresentation=1, **LINEAR)
    np.testing.assert_allclose(grey(data), [0, 0.005, 0], rtol=1e-6)


def test_linear_exact_window(dicom: Make) -> None:
    # (x - 50) / 100 + 0.5
    data = dicom([[0, 10, 50, 100, 999]], WindowCenter=50, WindowWidth=100)
    exact = dicom(
        [[0, 10, 50, 100, 999]], **{**LINEAR, "WindowWidth": 100}, VOILUTFunction="LINEAR_EXACT"
    )
    np.testing.assert_allclose(grey(exact), [0, 0.1, 0.5, 1, 1], rtol=1e-6)
    assert grey(data)[1] != grey(exact)[1]


def test_sigmoid_window(dicom: Make) -> None:
    # 1 / (1 + exp(-4 (x - 50) / 100))
    data = dicom([[0, 50, 75, 65535]], WindowCenter=50, WindowWidth=100, VOILUTFunction="SIGMOID")
    expected = [1 / (1 + np.e**2), 0.5, 1 / (1 + np.e**-1), 1]
    np.testing.assert_allclose(grey(data), expected, rtol=1e-6)


def test_window_of_width_one_is_a_threshold(dicom: Make) -> None:
    # PS3.3 C.11.2.1.2: x <= c - 0.5 is black, all above white
    data = dicom([[49, 50, 51]], WindowCenter=50.5, WindowWidth=1)
    np.testing.assert_array_equal(grey(data), [0, 0, 1])


def test_first_window_by_default_others_by_index(dicom: Make) -> None:
    data = dicom([[0, 100]], WindowCenter=[50, 100], WindowWidth=[101, 201])
    np.testing.assert_allclose(grey(data), [0.005, 1], rtol=1e-6)
    np.testing.assert_allclose(grey(data, window=1), [0.0025, 0.5025], rtol=1e-6)
    with pytest.raises(InvalidImageError, match="window 2 is asked for, it has 2 windows, from 0"):
        grey(data, window=2)
    with pytest.raises(ConfigError, match="window and frame count from 0, got -1"):
        grey(data, window=-1)


def test_rescale_comes_before_the_window(dicom: Make) -> None:
    data = dicom([[500, 550, 600]], RescaleSlope=2, RescaleIntercept=-1000, **LINEAR)
    np.testing.assert_allclose(grey(data), [0.005, 1, 1], rtol=1e-6)


def test_negative_slope_turns_the_image_around(dicom: Make) -> None:
    data = dicom([[0, 50, 100]], RescaleSlope=-1, RescaleIntercept=100, **LINEAR)
    np.testing.assert_allclose(grey(data), [1, 0.505, 0.005], rtol=1e-6)
    full = dicom([[0, 51, 255]], BitsAllocated=8, RescaleSlope=-3, RescaleIntercept=7)
    np.testing.assert_allclose(grey(full), [1, 0.8, 0], atol=1e-7)


def test_modality_table_comes_before_the_window(dicom: Make) -> None:
    # first entry for 10: below it the first, past the end the last
    data = dicom([[0, 10, 11, 12, 99]], ModalityLUTSequence=[lut(10, 16, [0, 50, 100])], **LINEAR)
    np.testing.assert_allclose(grey(data), [0.005, 0.005, 0.505, 1, 1], rtol=1e-6)


def test_modality_table_wins_over_rescale_and_takes_negative_input(dicom: Make) -> None:
    item = lut(-2, 16, [10, 20, 30])
    data = dicom([[-3, -2, -1, 0, 5]], PixelRepresentation=1, ModalityLUTSequence=[item], **LINEAR)
    np.testing.assert_allclose(grey(data), [0.105, 0.105, 0.205, 0.305, 0.305], rtol=1e-6)


def test_voi_table_wins_over_the_window(dicom: Make) -> None:
    table = [0, 1000, 4095]
    data = dicom([[4, 5, 6, 7, 8]], VOILUTSequence=[lut(5, 12, table)], **LINEAR)
    np.testing.assert_allclose(grey(data), np.array([0, 0, 1000, 4095, 4095]) / 4095, rtol=1e-6)


def test_voi_table_by_index_after_a_rescale_to_negative(dicom: Make) -> None:
    tables = [lut(0, 16, [7, 7]), lut(-100, 16, [0, 65535])]
    data = dicom([[0, 1, 2]], VOILUTSequence=tables, RescaleIntercept=-100, RescaleSlope=1)
    np.testing.assert_array_equal(grey(data, window=1), [0, 1, 1])
    with pytest.raises(InvalidImageError, match="window 2 is asked for, it has 2 VOI tables"):
        grey(data, window=2)


@pytest.mark.parametrize("packed", [True, False])
def test_table_of_8_bit_entries(dicom: Make, packed: bool) -> None:
    data = dicom([[0, 1, 2]], VOILUTSequence=[lut(0, 8, [255, 51, 0, 0], packed=packed)])
    np.testing.assert_allclose(grey(data), [1, 0.2, 0], rtol=1e-6)


def test_table_of_65536_entries_has_a_count_of_0(dicom: Make) -> None:
    item = lut(0, 16, [])
    item["LUTDescriptor"].value = [0, 0, 16]
    item["LUTData"].value = np.arange(65536, dtype="<u2")[::-1].tobytes()
    np.testing.assert_array_equal(grey(dicom([[0, 65535]], VOILUTSequence=[item])), [1, 0])


@pytest.mark.parametrize("syntax", ["", ".1", ".2"])
def test_tables_in_every_byte_order(dicom: Make, syntax: str) -> None:
    order = ">" if syntax == ".2" else "<"
    item = lut(-1, 16, [])
    item["LUTDescriptor"].value = [3, -1, 16]
    item["LUTData"].value = np.array([0, 13107, 65535], f"{order}u2").tobytes()
    data = dicom(
        [[-1, 0, 1]],
        syntax=f"1.2.840.10008.1.2{syntax}",
        PixelRepresentation=1,
        VOILUTSequence=[item],
    )
    np.testing.assert_allclose(grey(data), [0, 0.2, 1], rtol=1e-6)


def test_inversion_comes_after_the_window_and_once(dicom: Make) -> None:
    for more in (
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"},
    ):
        found = grey(dicom([[0, 10, 4000]], **LINEAR, **more))
        np.testing.assert_allclose(found, [0.995, 0.895, 0], rtol=1e-6)
    plain = grey(dicom([[0, 10, 4000]], **LINEAR, PresentationLUTShape="IDENTITY"))
    np.testing.assert_allclose(plain, [0.005, 0.105, 1], rtol=1e-6)


def test_inversion_of_the_full_range(dicom: Make) -> None:
    data = dicom([[0, 51, 255]], BitsAllocated=8, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(grey(data), [1, 0.8, 0], atol=1e-7)


def test_8_bits_without_a_window_are_the_full_range(dicom: Make) -> None:
    image = read_dicom(dicom([[10, 51, 200]], BitsAllocated=8))
    np.testing.assert_allclose(image.pixels.ravel(), np.array([10, 51, 200]) / 255, rtol=1e-6)
    assert image.notes == ("no window: the full range is used",)
    few = dicom([[0, 3, 15]], BitsAllocated=16, BitsStored=4)
    np.testing.assert_allclose(grey(few), [0, 0.2, 1], rtol=1e-6)


def test_more_bits_without_a_window_are_percentiles(dicom: Make) -> None:
    values = np.arange(1000).reshape(20, 50)
    image = read_dicom(dicom(values, BitsStored=12))
    low, high = 4, 994  # the 5th and the 995th of a thousand
    expected = np.clip((values - low) / (high - low), 0, 1)
    np.testing.assert_allclose(image.pixels, expected, rtol=1e-6)
    assert image.notes == ("no window: percentiles are used",)


def test_percentiles_are_numpys_inverted_cdf() -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 300, 777)
    values = generator.permutation(300) * -1.5  # a modality table need not be monotone
    found = weighted_percentiles(values, np.bincount(pixels, minlength=300), (0.5, 42, 99.5))
    expected = np.percentile(values[pixels], (0.5, 42, 99.5), method="inverted_cdf")
    np.testing.assert_array_equal(found, expected)


def test_one_value_without_a_window_is_the_full_range(dicom: Make) -> None:
    image = read_dicom(dicom(np.full((3, 3), 1365), BitsStored=12))
    np.testing.assert_allclose(image.pixels, 1365 / 4095, rtol=1e-6)
    assert image.notes == ("no window: the full range is used",)


def test_padding_is_black_and_no_part_of_the_percentiles(dicom: Make) -> None:
    values = np.arange(1, 1001).reshape(20, 50)
    padded = np.concatenate([values, np.full((20, 50), 4000)])
    for shade, black in (("MONOCHROME2", 0), ("MONOCHROME1", 0)):
        more = {"PhotometricInterpretation": shade, "BitsStored": 12}
        plain = read_dicom(dicom(values, **more)).pixels
        image = read_dicom(dicom(padded, PixelPaddingValue=4000, **more))
        np.testing.assert_array_equal(image.pixels[:20], plain)
        assert (image.pixels[20:] == black).all()
        assert "pixel padding is black" in image.notes


@pytest.mark.parametrize(("value", "limit"), [(-2000, -1900), (-1900, -2000)])
def test_padding_range_includes_both_ends(dicom: Make, value: int, limit: int) -> None:
    data = dicom(
        [[-2001, -2000, -1950, -1900, -1899]],
        PixelRepresentation=1,
        PixelPaddingValue=value,
        PixelPaddingRangeLimit=limit,
        RescaleSlope=-1,  # padding is compared before the rescale
        RescaleIntercept=0,
        WindowCenter=0,
        WindowWidth=100,
    )
    np.testing.assert_array_equal(grey(data), [1, 0, 0, 0, 1])


def test_nothing_but_padding_is_refused(dicom: Make) -> None:
    with pytest.raises(InvalidImageError, match="all its pixels are padding"):
        read_dicom(dicom(np.full((3, 3), 7), BitsStored=12, PixelPaddingValue=7))


@pytest.mark.parametrize(
    ("attributes", "match"),
    [
        ({"RescaleSlope": 0, "RescaleIntercept": 1}, "its RescaleSlope is 0. Correct the header"),
        (
            {"RescaleSlope": 1, "RescaleIntercept": "-1e31"},
            r"its rescale, 1 x \+ -1e\+31, is beyond any unit",
        ),
        ({"WindowCenter": [5, 6], "WindowWidth": 3}, "it has 2 window centers, 1 widths"),
        ({"WindowWidth": 3}, "it has 0 window centers, 1 widths"),
        (
            {"WindowCenter": 5, "WindowWidth": 3, "VOILUTFunction": "CUBIC"},
            "its VOILUTFunction is none of LINEAR, LINEAR_EXACT, SIGMOID",
        ),
        ({"VOILUTSequence": [lut(0, 7, [1, 2])]}, r"its LUTDescriptor is corrupt: \[2, 0, 7\]"),
        ({"VOILUTSequence": [lut(0, 12, [1, 4096])]}, "its LUTData exceeds its 12 bits"),
        ({"VOILUTSequence": [Dataset()]}, r"its LUTDescriptor is corrupt: \[\]"),
        (
            {"ModalityLUTSequence": [lut(0, 16, [9, 9])], "BitsStored": 8},
            "its modality LUT maps every value to one",
        ),
    ],
)
def test_invalid_grey_scales_are_refused(
    dicom: Make, attributes: dict[str, Any], match: str
) -> None:
    with pytest.raises(InvalidImageError, match=f"^x: {match}"):
        read_dicom(dicom([[0, 1]], **attributes), name="x")


@pytest.mark.parametrize(
    "window",
    [
        {"WindowWidth": 0},
        {"WindowWidth": 0.5},
        {"WindowWidth": -3, "VOILUTFunction": "SIGMOID"},
        {"WindowWidth": 0, "VOILUTFunction": "LINEAR_EXACT"},
    ],
)
def test_a_window_of_no_width_is_none(dicom: Make, window: dict[str, Any]) -> None:
    pixels = np.arange(4096).reshape(64, 64)
    data = dicom(pixels, BitsStored=12, WindowCenter=5, **window)
    image = read_dicom(data)
    without = read_dicom(dicom(pixels, BitsStored=12))
    np.testing.assert_array_equal(image.pixels, without.pixels)
    assert image.notes == ("invalid WindowWidth: the window is ignored", *without.notes)
    notes: list[str] = []
    read_dicom8(data, notes=notes)
    assert tuple(notes) == image.notes


@pytest.mark.parametrize(("most", "white"), [(4095, 4095), (4094, 4095), (16383, 16383)])
def test_voi_table_of_fewer_bits_than_it_says(dicom: Make, most: int, white: int) -> None:
    """Agfa: 12-bit entries under a descriptor of 16; white is the highest 12-bit value."""
    image = read_dicom(dicom([[0, 1, 2]], VOILUTSequence=[lut(0, 16, [0, most // 2, most])]))
    np.testing.assert_allclose(image.pixels, [[0, most // 2 / white, most / white]], rtol=1e-6)
    bits = white.bit_length()
    assert image.notes == (f"VOI LUT of {bits}-bit entries, not 16: their own range is used",)


def test_voi_table_that_uses_half_its_range_is_believed(dicom: Make) -> None:
    image = read_dicom(dicom([[0, 1]], VOILUTSequence=[lut(0, 16, [0, 32767])]))
    np.testing.assert_allclose(image.pixels, [[0, 32767 / 65535]], rtol=1e-6)
    assert image.notes == ()


def group(**attributes: float) -> Dataset:
    """A functional group with a rescale and a window."""
    voi, values, both = Dataset(), Dataset(), Dataset()
    for keyword, value in attributes.items():
        setattr(voi if keyword.startswith("Window") else values, keyword, value)
    both.FrameVOILUTSequence = Sequence([voi])
    both.PixelValueTransformationSequence = Sequence([values])
    return both


SHARED_GROUP = group(WindowCenter=50, WindowWidth=101, RescaleSlope=2, RescaleIntercept=-100)


def test_window_and_rescale_of_functional_groups(dicom: Make) -> None:
    # x = 2 v - 100; (x + 0.5) / 100
    expected = [[0.005, 0.205, 0.805]]
    data = dicom([[50, 60, 90]], SharedFunctionalGroupsSequence=[SHARED_GROUP])
    image = read_dicom(data)
    np.testing.assert_allclose(image.pixels, expected, rtol=1e-6)
    assert image.notes == ()
    np.testing.assert_array_equal(read_dicom8(data), to_uint8(image.pixels))
    own = group(WindowCenter=50, WindowWidth=101, RescaleSlope=1, RescaleIntercept=0)
    data = dicom(
        [[0, 20, 80]],
        SharedFunctionalGroupsSequence=[SHARED_GROUP],
        PerFrameFunctionalGroupsSequence=[own],
        WindowCenter=9,
        WindowWidth=9,
    )
    np.testing.assert_allclose(read_dicom(data).pixels, expected, rtol=1e-6)


def test_a_frame_has_its_own_group(dicom: Make) -> None:
    groups = [
        group(WindowCenter=50, WindowWidth=101, RescaleSlope=slope, RescaleIntercept=0)
        for slope in (1, 2)
    ]
    data = dicom(
        [[10, 20]],
        NumberOfFrames=2,
        pixel_bytes=np.array([10, 20, 10, 20], "<u2").tobytes(),
        PerFrameFunctionalGroupsSequence=groups,
    )
    np.testing.assert_allclose(read_dicom(data, frame=0).pixels, [[0.105, 0.205]], rtol=1e-6)
    np.testing.assert_allclose(read_dicom(data, frame=1).pixels, [[0.205, 0.405]], rtol=1e-6)


@pytest.mark.parametrize("text", [b"NaN ", b"inf ", b"1.x ", b"1_0 "])
def test_no_number_is_refused(dicom: Make, text: bytes) -> None:
    data = dicom([[0, 1]], RescaleSlope=7777, RescaleIntercept=0).replace(b"7777", text)
    with pytest.raises(InvalidImageError, match="its RescaleSlope is no finite number"):
        read_dicom(data)


def test_short_table_is_refused(dicom: Make) -> None:
    item = lut(0, 16, [1, 2, 3])
    item["LUTDescriptor"].value = [4, 0, 16]
    with pytest.raises(
        InvalidImageError, match="its LUTData has 6 bytes for 4 entries: it is corr"
    ):
        read_dicom(dicom([[0, 1]], VOILUTSequence=[item]))


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("signed", [0, 1])
def test_against_pydicoms_own_pipeline(function: str, signed: int) -> None:
    generator = np.random.default_rng(1)
    dataset = Dataset()
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsStored, dataset.PixelRepresentation = 12, signed
    dataset.RescaleSlope, dataset.RescaleIntercept = 1.7, -311
    dataset.WindowCenter, dataset.WindowWidth = 512.25, 700.5
    dataset.VOILUTFunction = function
    stored = generator.integers(-2048, 2048, 500) + (0 if signed else 2048)
    theirs = apply_voi_lut(apply_modality_lut(stored, dataset), dataset)
    low, high = (np.array([-2048, 2047]) + (0 if signed else 2048)) * 1.7 - 311
    ours = apply_window(stored * 1.7 - 311, 512.25, 700.5, function)
    np.testing.assert_allclose(ours, (theirs - low) / (high - low), atol=1e-9)


def test_values_beyond_any_integer_get_the_ends_of_a_table() -> None:
    from xray_lightning.data.dicom.grey import look_up

    table = np.array([1.0, 2.0, 3.0])
    assert look_up(np.array([-1e30, 6.0, 1e30]), 5, table).tolist() == [1, 2, 3]
