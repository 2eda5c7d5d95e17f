"""DICOM radiographs: a file becomes a grey image in [0, 1] and what identifies nobody.

::

    header.py       bytes -> the attributes that are looked at, and how the pixels lie
    acquisition.py  what may be told of a header: view, age, spacing, ...; and the notes
    pixels.py       pixel data -> integer codes (H, W) or (H, W, 3)
    grey.py         codes -> grey: modality, VOI, inversion, padding; the equations of PS3.3
    reader.py       all of it, in order

pydicom splits headers, sequences and fragments. Why it does not decode: ``data/README.md``.
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
