"""What a table may tell of a DICOM header: an allow-list, so that what is not named here stays out.

Names, ids, dates, places, UIDs, comments and private elements are not read. Of the elements below
only values that cannot name a person pass: words of a fixed vocabulary, and numbers; so of the
manufacturer, a free text, which passes if each of its words belongs to makers' names. Ages from 90
on become 90, as the Safe Harbor rule of HIPAA (45 CFR 164.514) demands.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from xray_lightning.data.tables import OLDEST, age_in_years
from xray_lightning.errors import InvalidImageError

OLDEST_TOLD = 90.0  # years

VIEWS = ("AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO", "LATERAL", "LAT")  # PS3.3 C.8.1.1
_MODALITY = re.compile(r"CR|DX|DR|RG|RF|XA|MG|OT|SC|CT|MR|US|PX|IO")
_PHOTOMETRIC = re.compile(r"MONOCHROME[12]|RGB|PALETTE COLOR|YBR_[A-Z0-9_]+")
_MAKERS = """
    ab ag agfa americas and arcoma canon care carestream co company corp corporation diagnostic
    digital dmc dr drgem drtech eastman electronics elema europe film fuji fujifilm ge gems general
    gevaert gmbh health healthcare healthineers hologic hitachi icrco imaging inc international
    italray kodak konica listem llc ltd lumisys mec medical mindray minolta neusoft nv oy philips
    photo planmed primax products ray rayence sa samsung sectra shimadzu siemens solutions spa
    swissray systems technologies technology toshiba trixell united usa varian vidar vieworks x
"""
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?")


def _word(*allowed: str) -> Callable[[str], str]:
    return lambda text: text if text in allowed else ""


def _numbers(text: str) -> str:
    """Numbers, as they are written, separated by spaces; none if one of them is none."""
    numbers = [number.strip() for number in text.split("\\")]
    return " ".join(numbers) if all(map(_NUMBER.fullmatch, numbers)) else ""


def _maker(text: str) -> str:
    words = re.split(r"[ .,&()/+_-]+", text.lower().strip(" .)"))
    return text if set(words) <= {*_MAKERS.split()} else ""


def _age(text: str) -> str:
    try:
        age = age_in_years(text)
    except ValueError:
        return ""
    return f"{min(age, OLDEST_TOLD):g}" if 0 <= age <= OLDEST else ""


def _matching(pattern: re.Pattern[str]) -> Callable[[str], str]:
    return lambda text: text if pattern.fullmatch(text) else ""


ALLOWED: Mapping[str, tuple[str, Callable[[str], str]]] = {  # column: element and what may pass
    "modality": ("Modality", _matching(_MODALITY)),
    "view": ("ViewPosition", _word(*VIEWS)),
    "laterality": ("ImageLaterality", _word("R", "L", "U", "B")),
    "series_laterality": ("Laterality", _word("R", "L")),
    "age": ("PatientAge", _age),
    "sex": ("PatientSex", _word("M", "F", "O")),
    "pixel_spacing_mm": ("PixelSpacing", _numbers),
    "imager_pixel_spacing_mm": ("ImagerPixelSpacing", _numbers),
    "manufacturer": ("Manufacturer", _maker),
    "photometric": ("PhotometricInterpretation", _matching(_PHOTOMETRIC)),
    "window_center": ("WindowCenter", _numbers),
    "window_width": ("WindowWidth", _numbers),
    "voi_function": ("VOILUTFunction", _word("LINEAR", "LINEAR_EXACT", "SIGMOID")),
}
_INTEGERS = {
    "rows": "Rows",
    "columns": "Columns",
    "bits_allocated": "BitsAllocated",
    "bits_stored": "BitsStored",
    "signed": "PixelRepresentation",
}
COLUMNS = (*ALLOWED, *_INTEGERS, "transfer_syntax")


def read_headers(path: Path) -> dict[str, str]:
    """The allowed facts of a DICOM file that is known to be readable, one text per column.

    Text elements are taken as stored: pydicom would check them and warn, for each file of RSNA.

    Raises:
        InvalidImageError: pydicom cannot make sense of an element; its value is not repeated.
    """
    try:
        return _read(path)
    except OSError:
        raise
    except Exception as error:  # damaged elements can raise anything in pydicom
        raise InvalidImageError(
            f"{path}: a header element is damaged ({type(error).__name__}). Correct the header"
        ) from error


def _read(path: Path) -> dict[str, str]:
    wanted = [keyword for keyword, _ in ALLOWED.values()] + list(_INTEGERS.values())
    header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=wanted)
    facts = {column: allow(_text(header, name)) for column, (name, allow) in ALLOWED.items()}
    facts |= {column: _integer(header, name) for column, name in _INTEGERS.items()}
    syntax = header.file_meta.get("TransferSyntaxUID")
    known = syntax is not None and syntax.is_transfer_syntax and not syntax.is_private
    return facts | {"transfer_syntax": syntax.name if known else ""}


def _text(header: Dataset, keyword: str) -> str:
    if keyword not in header:
        return ""
    value = header.get_item(keyword).value
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    return text.strip(" \0")


def _integer(header: Dataset, keyword: str) -> str:
    return str(int(header[keyword].value)) if keyword in header else ""
