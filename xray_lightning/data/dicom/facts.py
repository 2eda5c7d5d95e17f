"""What a header says about the acquisition, nothing that identifies a person; and the notes.

This is an allow-list: names, ids, dates and UIDs are never looked at. A code string that breaks the
standard is dropped, since it could be a name typed into the wrong field.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from xray_lightning.data.dicom.elements import Elements
from xray_lightning.errors import InvalidImageError

MAX_AGE = 120  # years; older is a mistake, NIH's table has some above 400

_CODE = re.compile(r"[A-Z0-9 _]{0,16}")
_AGE = re.compile(r"(\d{3})([DWMY])|(\d{1,3})")
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
_SPACINGS = ("ImagerPixelSpacing", "PixelSpacing", "NominalScannedPixelSpacing")


@dataclass(frozen=True)
class Facts:
    """Acquisition facts; '' or NaN where unknown.

    Args:
        modality: such as CR or DX.
        view: such as PA, AP, LL.
        laterality: L, R, B or U.
        age: in years.
        sex: M, F or O.
        manufacturer: of the equipment.
        spacing: distance of rows and of columns in mm.
        spacing_tag: where the spacing is from: ImagerPixelSpacing (at the detector), PixelSpacing
            (calibrated, or unknown) or NominalScannedPixelSpacing (a digitised film).
    """

    modality: str = ""
    view: str = ""
    laterality: str = ""
    age: float = math.nan
    sex: str = ""
    manufacturer: str = ""
    spacing: tuple[float, float] = (math.nan, math.nan)
    spacing_tag: str = ""


def read_facts(elements: Elements) -> tuple[Facts, list[str]]:
    """Facts, and notes on what was ignored or is invalid."""
    notes: list[str] = []
    spacing, tag = _spacing(elements, notes)
    maker = re.sub(r"[^ -~]", "?", elements.text("Manufacturer"))[:64]
    facts = Facts(
        modality=_code(elements, "Modality", notes),
        view=_code(elements, "ViewPosition", notes),
        laterality=_laterality(elements, notes),
        age=_age(elements, notes),
        sex=_code(elements, "PatientSex", notes, among="MFO"),
        manufacturer=maker,
        spacing=spacing,
        spacing_tag=tag,
    )
    if elements.has_overlays():
        notes.append("overlays are ignored")
    if elements.text("BurnedInAnnotation") == "YES":
        notes.append("burned-in annotation is not removed")
    return facts, notes


def tally(notes: Iterable[Iterable[str]]) -> str:
    """One line for the notes of many files, '' if there are none.

    >>> tally([["overlays are ignored"], [], ["overlays are ignored", "invalid PatientAge"]])
    '3 files: overlays are ignored (2), invalid PatientAge (1)'
    """
    files = [tuple(found) for found in notes]
    counts = Counter(note for found in files for note in set(found))
    parts = [f"{note} ({count:,})" for note, count in counts.most_common()]
    return f"{len(files):,} files: {', '.join(parts)}" if parts else ""


def _code(elements: Elements, keyword: str, notes: list[str], among: str = "") -> str:
    """A code string; of the letters ``among``, if given."""
    code = elements.text(keyword)
    if _CODE.fullmatch(code) and (not among or not code or code in tuple(among)):
        return code
    notes.append(f"invalid {keyword}")
    return ""


def _laterality(elements: Elements, notes: list[str]) -> str:
    code = _code(elements, "ImageLaterality", notes, among="LRBU")
    return code or _code(elements, "Laterality", notes, among="LRBU")


def _age(elements: Elements, notes: list[str]) -> float:
    """PatientAge (an AS: three digits and a unit); RSNA's bare numbers are years."""
    text = elements.text("PatientAge")
    match = _AGE.fullmatch(text)
    if not match:
        notes.extend(["invalid PatientAge"] if text else [])
        return math.nan
    digits, unit, bare = match.groups()
    if bare:
        notes.append("invalid PatientAge: no unit, read as years")
    age = int(bare or digits) * _YEARS[unit or "Y"]
    if age > MAX_AGE:
        notes.append("invalid PatientAge: above 120 years, ignored")
        return math.nan
    return age


def _spacing(elements: Elements, notes: list[str]) -> tuple[tuple[float, float], str]:
    """(rows, columns) in mm, and the attribute it is from."""
    for keyword in _SPACINGS:
        try:
            numbers = elements.decimals(keyword)
        except InvalidImageError:
            numbers = [0.0]  # no number: like a spacing of nothing, said below
        if len(numbers) == 2 and min(numbers) > 0:
            return (numbers[0], numbers[1]), keyword
        if numbers:
            notes.append(f"invalid {keyword}")
    return (math.nan, math.nan), ""
