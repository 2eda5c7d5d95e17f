"""DICOM radiographs: a file becomes a grey image in [0, 1] and a few facts that identify nobody.

::

    elements.py       bytes -> the attributes that are looked at (pydicom splits the file)
    layout.py         the Image Pixel module, checked against limits before anything is allocated
    encapsulation.py  the pieces of compressed pixel data -> one byte string per frame
    codecs.py         transfer syntaxes -> decoders
    samples.py        pixel data -> integer codes (H, W) or (H, W, 3)
    grey.py           codes -> grey: modality, VOI, inversion, padding; the equations of PS3.3
    facts.py          view, laterality, age, sex, spacing, manufacturer; and the notes
    reader.py         all of it, in order
"""

from xray_lightning.data.dicom.facts import Facts, tally
from xray_lightning.data.dicom.reader import DicomImage, is_dicom, read_dicom, read_dicom8, to_uint8

__all__ = ["DicomImage", "Facts", "is_dicom", "read_dicom", "read_dicom8", "tally", "to_uint8"]
