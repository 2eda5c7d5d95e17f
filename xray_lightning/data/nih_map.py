"""RSNA's published map from its ids to NIH's file names, which tells the images of one patient."""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from xray_lightning.data.names import NameIndex, read_list
from xray_lightning.data.tables import format_count, open_text, read_table
from xray_lightning.errors import SplitError, TableError

RSNA_KEYS = ("patientId", "subset_img_id")
NIH_KEYS = ("Image Index", "image", "img_id")
WANTED = f"It needs one of {', '.join(RSNA_KEYS)} and one of {', '.join(NIH_KEYS)}"

_NIH_IMAGE = re.compile(r"(\d{1,8})_(\d{3})(\.png)?", re.IGNORECASE)


def require_all(path: Path, images: Iterable[str], named: Collection[str], remedy: str) -> None:
    """Check that a table names all images of the label table."""
    if absent := [image for image in images if image not in named]:
        raise TableError(
            f"{path} lacks {format_count(len(absent), 'image')} of the label table, the first is "
            f"{absent[0]}: {remedy}"
        )


def match_exposures(
    path: Path, boxes: Iterable[str], chosen: Sequence[str], notes: list[str]
) -> dict[str, str]:
    """NIH's name of every image of the label table."""
    names = read_nih_map(path)
    require_all(path, boxes, names, "complete the map, or go without (data.nih_map=null)")
    twice = len(chosen) - len({names[image] for image in chosen})
    if twice:
        notes.append(f"{format_count(twice, 'image')} the same NIH exposure as another, by the map")
    return names


def split_as_nih(path: Path, exposures: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """RSNA ids on either side of NIH's official split."""
    listed = frozenset(read_list(path, NameIndex(exposures.values())))
    test = frozenset(image for image, name in exposures.items() if name in listed)
    if not test:
        raise SplitError(f"{path} names none of the images: is it NIH's test_list.txt?")
    return {"train_val": frozenset(exposures) - test, "test": test}


def read_nih_map(path: Path) -> dict[str, str]:
    """RSNA id -> NIH file name (``00019124_092.png``), by RSNA's published JSON list or a table."""
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
    """NIH's patient of an image, as ``ChestXray14`` writes it: "13" of ``00000013_002.png``."""
    return str(int(image.split("_")[0]))


def _table_pairs(path: Path) -> Iterator[tuple[str, str, str]]:
    """Place, RSNA id and NIH name of each row."""
    table = read_table(path)
    rsna, nih = (_find_key(path, keys, table.columns) for keys in (RSNA_KEYS, NIH_KEYS))
    for i, names in enumerate(zip(table.text(rsna), table.text(nih), strict=True)):
        yield table.place(i), *names


def _json_pairs(path: Path) -> Iterator[tuple[str, str, str]]:
    """Place, RSNA id and NIH name of each object."""
    with open_text(path, "JSON map (data.nih_map)") as file:
        entries = json.load(file)
    if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
        raise TableError(f"{path} is not a list of objects. {WANTED}")
    for number, entry in enumerate(entries, start=1):
        rsna, nih = (_find_key(path, keys, entry) for keys in (RSNA_KEYS, NIH_KEYS))
        yield f"{path}, object {number}", str(entry[rsna]), str(entry[nih])


def _find_key(path: Path, keys: Sequence[str], names: Collection[str]) -> str:
    """The first of the known names that is there."""
    for key in keys:
        if key in names:
            return key
    raise TableError(f"{path} is not a map from RSNA to NIH: it has {', '.join(names)}. {WANTED}")
