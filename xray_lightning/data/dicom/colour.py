"""Colour -> grey: ITU-R 601 luma, Y = 0.299 R + 0.587 G + 0.114 B (PS3.3 C.7.6.3.1.2)."""

import numpy as np
import numpy.typing as npt

from xray_lightning.data.dicom.codecs import Codes, gives_rgb
from xray_lightning.data.dicom.elements import Elements, refusal
from xray_lightning.data.dicom.grey import look_up, read_lut
from xray_lightning.data.dicom.layout import Layout
from xray_lightning.data.dicom.samples import Values

WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)


def luma(
    codes: Codes, stored: Values, elements: Elements, layout: Layout
) -> npt.NDArray[np.float32]:
    """Grey of a colour frame, (H, W) in [0, 1]; neither VOI nor padding apply to colour.

    Args:
        codes: (H, W, 3), (H, W, 1) of YBR_FULL_422, or (H, W) of a palette.
        stored: stored value of every code, (N,).
        elements: the header, for the palette.
        layout: the layout it was read by.

    Raises:
        InvalidImageError: the samples are signed, or the palette is corrupt or segmented.
    """
    if layout.signed:
        raise refusal("its colour samples are signed", "Correct the header")
    if layout.photometric == "PALETTE COLOR":
        return np.take(_palette(stored, elements), codes)
    scaled = (stored / stored.max()).astype(np.float32)  # (N,)
    if gives_rgb(elements.syntax) or layout.photometric in ("RGB", "YBR_ICT", "YBR_RCT"):
        return np.take(scaled, codes) @ WEIGHTS
    return np.take(scaled, codes[:, :, 0])  # Y is luma already


def _palette(stored: Values, elements: Elements) -> npt.NDArray[np.float32]:
    """Luma of every code, (N,)."""
    if elements.value("SegmentedRedPaletteColorLookupTableData") is not None:
        raise refusal("its palette is segmented", "Convert it to RGB")
    grey = np.zeros(len(stored), np.float32)
    for name, weight in zip(("Red", "Green", "Blue"), WEIGHTS, strict=True):
        first, table, bits = read_lut(elements, f"{name}PaletteColorLookupTable", signed=False)
        grey += weight * (look_up(stored, first, table) / (2**bits - 1)).astype(np.float32)
    return grey
