"""DICOM radiographs: a file becomes a grey image in [0, 1] and what identifies nobody.

``data/README.md`` draws the way from bytes to grey, and says why pydicom does not decode.
"""

from xray_lightning.data.dicom.acquisition import Acquisition, tally
from xray_lightning.data.dicom.reader import DicomImage, is_dicom, read_dicom, read_dicom8, to_uint8

__all__ = [
    "Acquisition",
    "DicomImage",
    "is_dicom",
    "read_dicom",
    "read_dicom8",
    "tally",
    "to_uint8",
]
