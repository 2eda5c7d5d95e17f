"""Files, names, arguments, threads; and the way through ``read_image``."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from xray_lightning.data import files
from xray_lightning.data.dicom import is_dicom, read_dicom, read_dicom8, to_uint8
from xray_lightning.data.images import decode_image, read_image
from xray_lightning.errors import ConfigError, InvalidImageError

Make = Callable[..., bytes]


def test_files_and_names(dicom: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, path = dicom([[0, 51, 255]], BitsAllocated=8), tmp_path / "a.dcm"
    path.write_bytes(data)
    np.testing.assert_array_equal(read_dicom(path).pixels, read_dicom(data).pixels)
    with pytest.raises(InvalidImageError, match=r"absent\.dcm: cannot be opened \(No such file"):
        read_dicom(tmp_path / "absent.dcm")
    with pytest.raises(InvalidImageError, match=r"^DICOM data: "):
        read_dicom(b"")
    monkeypatch.setattr(files, "MAX_FILE", 100)
    with pytest.raises(InvalidImageError, match=r"a\.dcm: the file is larger than 100 bytes"):
        read_dicom(path)


def test_a_file_without_preamble(dicom: Make, tmp_path: Path) -> None:
    data = dicom([[0, 51, 255]], BitsAllocated=8)
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
