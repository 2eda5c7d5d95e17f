"""Makes DICOM files with pydicom, one attribute at a time."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

Make = Callable[..., bytes]


@disable_value_validation()  # tests want invalid values
def make_dicom(
    values: np.ndarray | list[list[int]],
    *,
    syntax: str = ExplicitVRLittleEndian,
    frames: list[bytes] | None = None,
    without: tuple[str, ...] = (),
    pixel_bytes: bytes | None = None,
    **attributes: Any,
) -> bytes:
    """A MONOCHROME2 file of (H, W) values, 16 bits; attributes overwrite or add.

    Args:
        values: the pixels.
        syntax: transfer syntax.
        frames: compressed frames, to be encapsulated in place of the values.
        without: attributes to leave out.
        pixel_bytes: pixel data in place of the values.
        attributes: by keyword.
    """
    pixels = np.asarray(values)
    little = UID(syntax) != "1.2.840.10008.1.2.2"
    dataset = Dataset()
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    bits = attributes.get("BitsAllocated", 16)
    dataset.BitsAllocated = bits
    dataset.BitsStored = bits
    dataset.PixelRepresentation = 0
    for keyword, value in attributes.items():
        setattr(dataset, keyword, Sequence(value) if keyword.endswith("Sequence") else value)
    if "HighBit" not in attributes:
        dataset.HighBit = dataset.BitsStored - 1
    if frames is not None:
        dataset.PixelData = encapsulate(frames)
    else:
        word = f"{'<' if little else '>'}{'i' if dataset.PixelRepresentation else 'u'}{bits // 8}"
        data = pixels.astype(word).tobytes() if pixel_bytes is None else pixel_bytes
        dataset.PixelData = data + bytes(len(data) % 2)
    dataset["PixelData"].VR = "OW" if bits == 16 and frames is None else "OB"
    for keyword in without:
        delattr(dataset, keyword)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def dicom() -> Make:
    """See ``make_dicom``."""
    return make_dicom
