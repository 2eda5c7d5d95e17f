"""What may be told of a header: one allow-list, so that what is not in ``allowed.yaml`` stays out.

Names, ids, dates, places, UIDs, comments and private elements are not looked at. Of the elements
there only values that cannot name a person pass: words of a fixed vocabulary, and numbers; so of
the manufacturer, a free text, which passes if each of its words belongs to makers' names. In a
table ages from 90 on become 90, as the Safe Harbor rule of HIPAA (45 CFR 164.514) demands.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from pydicom.uid import UID

from xray_lightning.data.dicom.header import NUMBER, Header, name_errors, read_header
from xray_lightning.errors import InvalidImageError
from xray_lightning.records import OLDEST

OLDEST_TOLD = 90  # years

_TABLE = yaml.safe_load(Path(__file__).with_name("allowed.yaml").read_text(encoding="utf-8"))
_MAKER = f"({'|'.join(_TABLE['makers'].split())})"
_PATTERNS = {
    "NUMBERS": f"{NUMBER}( {NUMBER})*",
    "MAKERS": rf"(?i){_MAKER}([ .,&()/+_-]+{_MAKER})*[ .)]*",
}
_SPACINGS = ("ImagerPixelSpacing", "PixelSpacing", "NominalScannedPixelSpacing")
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}

# column: element, and the pattern of what may pass; None: a whole number
ALLOWED = {
    column: (keyword, _PATTERNS.get(pattern, pattern))
    for column, (keyword, pattern) in _TABLE["elements"].items()
}
COLUMNS = (*ALLOWED, "transfer_syntax")

TOLD, UNKNOWN = ("age", "sex", "view"), (math.nan, "", "")
_LAST = 0x00185101  # ViewPosition, behind age and sex


@dataclass(frozen=True)
class Acquisition:
    """How a radiograph was taken; "" or NaN where that is unknown or may not be told.

    The spacing is ImagerPixelSpacing (at the detector), else PixelSpacing (calibrated, or unknown),
    else NominalScannedPixelSpacing (a digitised film), as ``spacing_tag`` says.
    """

    modality: str = ""
    view: str = ""  # such as PA, AP, LL
    laterality: str = ""  # of the image, or else of the series: L, R, B or U
    age: float = math.nan  # years
    sex: str = ""  # M, F or O
    manufacturer: str = ""
    spacing: tuple[float, float] = (math.nan, math.nan)  # mm, of rows and of columns
    spacing_tag: str = ""


def read_acquisition(header: Header) -> tuple[Acquisition, list[str]]:
    """How a radiograph was taken, and notes on what was ignored or is invalid."""
    told = {column: _read_allowed(header, column) for column in ALLOWED}
    coded = ("view", "laterality", "series_laterality", "sex")
    keywords = [ALLOWED[column][0] for column in coded if not told[column]]
    notes = [f"invalid {keyword}" for keyword in keywords if header.text(keyword)]
    age = _read_age(header, notes)
    spacing, spacing_tag = _read_spacing(header, notes)
    if header.has_overlays():
        notes.append("overlays are ignored")
    if header.text("BurnedInAnnotation") == "YES":
        notes.append("burned-in annotation is not removed")
    laterality = told["laterality"] or told["series_laterality"]
    words = laterality, age, told["sex"], told["manufacturer"], spacing, spacing_tag
    return Acquisition(told["modality"], told["view"], *words), notes


def read_allowed(path: Path) -> dict[str, str]:
    """What a table may tell of a DICOM file that is known to be readable: a text per column."""
    with path.open("rb") as file, name_errors(str(path)):
        header, _ = read_header(file)
        told = {column: _read_allowed(header, column) for column in ALLOWED}
    age = _read_age(header, [])
    told["age"] = "" if math.isnan(age) else f"{min(age, OLDEST_TOLD):g}"
    syntax = UID(header.syntax)
    known = syntax.is_transfer_syntax and not syntax.is_private
    return told | {"transfer_syntax": str(syntax.name) if known else ""}


def describe_films(paths: Sequence[Path | None], notes: list[str]) -> dict[str, list[float | str]]:
    """Columns age, sex and view of N radiographs by their headers; NaN and "" where unknown."""
    films = [_describe_film(path) if path else None for path in paths]
    if opened := [film for film in films if film]:  # a note counts them, and what they lack
        lost = (sum(str(film[k]) in ("", "nan") for film in opened) for k in range(len(TOLD)))
        lacks = [f"no {name} in {n:,}" for name, n in zip(TOLD, lost, strict=True) if n]
        notes.append(", ".join([f"age, sex and view by {len(opened):,} DICOM headers", *lacks]))
    return {name: [(film or UNKNOWN)[k] for film in films] for k, name in enumerate(TOLD)}


def _describe_film(path: Path) -> tuple[float, str, str] | None:
    """By the header of a file; None of one that is no DICOM, or whose pixels will be an error."""
    try:
        with path.open("rb") as file:
            header, _ = read_header(file, _LAST)
    except (InvalidImageError, OSError):
        return None
    age, sex, view = _read_age(header, []), *(_read_allowed(header, c) for c in ("sex", "view"))
    return age, sex.replace("O", ""), "LL" if view in ("LATERAL", "LAT") else view


def _read_allowed(header: Header, column: str) -> str:
    """What may pass of an element, its values separated by spaces."""
    keyword, pattern = ALLOWED[column]
    if pattern is None:
        return "".join(map(str, header.integers(keyword)[:1]))
    text = " ".join(header.texts(keyword))
    return text if re.fullmatch(pattern, text) else ""


def _read_age(header: Header, notes: list[str]) -> float:
    """PatientAge (an AS: three digits and a unit) in years; RSNA's bare numbers are years."""
    text = _read_allowed(header, "age")
    if not text:
        notes.extend(["invalid PatientAge"] if header.text("PatientAge") else [])
        return math.nan
    if text[-1] not in _YEARS:
        notes.append("invalid PatientAge: no unit, read as years")
    age = int(text.rstrip("DWMY")) * _YEARS.get(text[-1], 1)
    notes += [f"invalid PatientAge: above {OLDEST:g} years, ignored"] if age > OLDEST else []
    return age if age <= OLDEST else math.nan


def _read_spacing(header: Header, notes: list[str]) -> tuple[tuple[float, float], str]:
    """(rows, columns) in mm, and the attribute it is from."""
    for keyword in _SPACINGS:
        try:
            numbers = header.decimals(keyword)
        except InvalidImageError:
            numbers = [0.0]  # like a spacing of nothing, said below
        if len(numbers) == 2 and min(numbers) > 0:
            uneven = max(numbers) > 1.01 * min(numbers)
            notes += ["pixels are not square, read as if they were"] if uneven else []
            return (numbers[0], numbers[1]), keyword
        if numbers:
            notes.append(f"invalid {keyword}")
    return (math.nan, math.nan), ""


def tally(notes: Iterable[Iterable[str]]) -> str:
    """One line for the notes of many files, "3 files: overlays are ignored (3)"; '' if none."""
    files = [dict.fromkeys(notes_of_file) for notes_of_file in notes]
    counts = Counter(note for notes_of_file in files for note in notes_of_file)
    parts = [f"{note} ({count:,})" for note, count in counts.most_common()]
    return f"{len(files):,} files: {', '.join(parts)}" if parts else ""
