"""Which NIH radiograph an RSNA image is: only this tells which RSNA images share a patient.

Two forms are read, both perhaps gzip-compressed: the JSON that RSNA published
(``pneumonia-challenge-dataset-mappings_2018.json``, a list of objects with ``subset_img_id`` and
``img_id``), and a table with a column of RSNA's ids (``patientId`` or ``subset_img_id``) and one
of NIH's file names (``Image Index``, ``image`` or ``img_id``).
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from xray_lightning.data.tables import read_table
from xray_lightning.errors import DataNotFoundError, TableError

RSNA_KEYS = ("patientId", "subset_img_id")
NIH_KEYS = ("Image Index", "image", "img_id")
WANTED = f"It needs one of {', '.join(RSNA_KEYS)} and one of {', '.join(NIH_KEYS)}"

_NIH_IMAGE = re.compile(r"(\d{1,8})_(\d{3})(\.png)?", re.IGNORECASE)


def read_nih_map(path: Path) -> dict[str, str]:
    """RSNA id -> NIH file name (``00019124_092.png``).

    Raises:
        DataNotFoundError: there is no such file.
        TableError: it has neither form, an id stands twice with two images, or a name is none of
            NIH's.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    pairs = _json_pairs(path) if ".json" in suffixes else _table_pairs(path)
    images: dict[str, str] = {}
    for place, rsna, nih in pairs:
        match = _NIH_IMAGE.fullmatch(nih)
        if not rsna or not match:
            raise TableError(f"{place}: {rsna!r} -> {nih!r} does not name an NIH image (*_000.png)")
        name = f"{int(match[1]):08d}_{match[2]}.png"
        if images.setdefault(rsna, name) != name:
            raise TableError(f"{place}: {rsna} is {name} here and {images[rsna]} before")
    return images


def nih_patient(image: str) -> str:
    """NIH's patient of an image, written as ``ChestXray14`` writes it.

    >>> nih_patient("00000013_002.png")
    '13'
    """
    return str(int(image.split("_")[0]))


def _table_pairs(path: Path) -> Iterable[tuple[str, str, str]]:
    """Place, RSNA id and NIH name of each row."""
    table = read_table(path)
    rsna, nih = (_key(path, keys, table.columns) for keys in (RSNA_KEYS, NIH_KEYS))
    rows = zip(table.text(rsna), table.text(nih), strict=True)
    return ((table.place(i), *row) for i, row in enumerate(rows))


def _json_pairs(path: Path) -> Iterable[tuple[str, str, str]]:
    """Place, RSNA id and NIH name of each object."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:
            entries = json.load(file)
    except FileNotFoundError as error:
        raise DataNotFoundError(f"there is no map {path}: check data.nih_map") from error
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise TableError(f"{path} is no readable JSON ({error}). Download it again") from error
    if not (isinstance(entries, list) and all(isinstance(each, dict) for each in entries)):
        raise TableError(f"{path} is no list of objects. {WANTED}")
    for number, entry in enumerate(entries, start=1):
        rsna, nih = (_key(path, keys, entry) for keys in (RSNA_KEYS, NIH_KEYS))
        yield f"{path}, object {number}", str(entry[rsna]), str(entry[nih])


def _key(path: Path, keys: Sequence[str], found: Mapping[str, object]) -> str:
    """The one of the known names that is there."""
    for key in keys:
        if key in found:
            return key
    raise TableError(f"{path} is no map from RSNA to NIH: it has {', '.join(found)}. {WANTED}")
