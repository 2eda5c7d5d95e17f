"""ChestX-ray14 of the NIH Clinical Center (Wang et al., CVPR 2017), read as it was downloaded.

============  ======================================================================================
images        112,120 frontal radiographs of 30,805 patients, PNG, 1024 x 1024, 8-bit grey (some
              RGBA); in ``images/``, ``images_001/images/`` ... ``images_012/images/``, or flat
labels        14 findings mined from reports by text search: present or absent, never uncertain
table         ``Data_Entry_2017_v2020.csv``, or the older ``Data_Entry_2017.csv``
lists         ``train_val_list.txt`` (86,524 images of 28,008 patients) and ``test_list.txt``
              (25,596 of 2,797), no patient in both
boxes         ``BBox_List_2017.csv``: 984 boxes by radiologists on 880 images of the test list, in
              pixels of the 1024 x 1024 image; 8 findings
============  ======================================================================================

Tables may be gzip-compressed. Traps: ``data/README.md``.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from xray_lightning.data.partition import NameIndex, read_list
from xray_lightning.data.source import Source, find_files, find_table, index_images, read_facts, say
from xray_lightning.data.tables import Table, open_text, read_boxes, read_table
from xray_lightning.errors import DataNotFoundError, SplitError, TableError
from xray_lightning.records import CHEST_XRAY14, Box, Records, encode, read_column
from xray_lightning.wording import fault

BOX_FRAME = (1024, 1024)  # (width, height) in px of the images the radiologists saw

TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")  # best first
LISTS = read_facts("nih").files
_IMAGE, _PATIENT, _AGE, _VIEW = "Image Index", "Patient ID", "Patient Age", "View Position"
_FINDINGS, _FOLLOW_UP, _SEX = "Finding Labels", "Follow-up #", "Patient Gender"
_BOX_COLUMNS = (_IMAGE, "Finding Label", "Bbox [x", "y", "w", "h]")
_IMAGE_FOLDER = re.compile(r"images(_\d+)?")


class ChestXray14(Source, published="nih"):
    """An NIH folder; ``root`` and ``allow_missing`` are as of every :class:`Source`.

    Args:
        table: another label table, a path relative to ``root`` or absolute. The lists and the box
            list are then looked for in ``root`` first, and next to the table second.

    Raises:
        DataNotFoundError, TableError, DataError: as every :class:`Source` of a folder; also with
            only one of the two lists.
        SplitError: the lists share images.
    """

    population = "nih"
    labels = CHEST_XRAY14

    def __init__(
        self, root: str | Path, *, allow_missing: bool = False, table: str | Path | None = None
    ) -> None:
        folder, notes = self.open_folder(root, allow_missing=allow_missing)
        path = folder / table if table else find_table(folder, TABLES, self.facts.expected, notes)
        folders = list(dict.fromkeys([folder, path.parent]))
        paths = index_images(find_image_folders(folder), (".png", ".jpg", ".jpeg"), "name")
        records = make_records(read_table(path), folders, paths, notes)
        ids = read_column(records, "image_id")
        self.official = _read_lists(folders, ids, notes)
        self.fill(records, notes, stray=paths.keys() - set(ids))


def make_records(
    table: Table, folders: Sequence[Path], paths: Mapping[str, Path], notes: list[str]
) -> Records:
    """One record per row of the label table."""
    sex = "Patient Sex" if "Patient Sex" in table.columns else _SEX  # both names were published
    table.require(_IMAGE, _FINDINGS, _FOLLOW_UP, _PATIENT, _AGE, sex, _VIEW, once=_IMAGE)
    images = table.text(_IMAGE)
    boxes: dict[str, tuple[Box, ...]] = {}
    if path := _find_file(folders, "BBox_List_2017.csv"):
        boxes = read_boxes(read_table(path), _BOX_COLUMNS, CHEST_XRAY14, set(images))
    rows, cells = table.distinct(_FINDINGS)  # 836, each of which is encoded once
    firsts = zip(cells, np.unique(rows, return_index=True)[1].tolist(), strict=True)
    places = ((cell.split("|"), f"{table.place(i)} ({images[i]})") for cell, i in firsts)
    targets = [encode(findings, CHEST_XRAY14, place) for findings, place in places]
    return Records(
        image_id=images,
        patient_id=table.convert(_PATIENT, lambda cell: str(int(cell)), "a whole number"),
        targets=np.array(targets)[rows],
        path=map(paths.get, images),
        boxes=[boxes.get(image, ()) for image in images],
        box_frame=[BOX_FRAME] * len(images),
        age=table.ages(_AGE, notes),
        sex=table.sexes(sex, notes),
        view=table.convert(_VIEW, str.upper, "a view"),
        follow_up=table.numbers(_FOLLOW_UP),
    )


def _find_file(folders: Sequence[Path], *names: str) -> Path | None:
    return next((path for folder in folders for path in find_files(folder, *names)), None)


def find_image_folders(root: Path) -> Iterator[Path]:
    """The folder and its folders of images, images/ and images_001/images/."""
    yield root
    for path in root.glob("images*"):
        if _IMAGE_FOLDER.fullmatch(path.name) and path.is_dir():
            yield from find_image_folders(path)


def _read_lists(
    folders: Sequence[Path], images: Sequence[str], notes: list[str]
) -> dict[str, frozenset[str]] | None:
    """Ids of the label table in each of the publisher's lists; None if there are no lists."""
    paths = {subset: _find_file(folders, *names) for subset, names in LISTS.items()}
    absent = [subset for subset, path in paths.items() if path is None]
    if len(absent) == len(LISTS):
        return None
    if absent:
        raise DataNotFoundError(fault("one_list", folders[0] / LISTS[absent[0]][0]))
    index = NameIndex(images)
    listed = {subset: frozenset(read_list(path, index)) for subset, path in paths.items() if path}
    if shared := sorted(listed["train_val"] & listed["test"]):
        raise SplitError(fault("lists_share", paths, shared))
    for subset, names in listed.items():
        notes += say("unknown_names", subset, len(names - index.ids), len(names))
    anywhere = listed["train_val"] | listed["test"]
    notes += say("in_no_list", [name for name in images if name not in anywhere], len(images))
    return {subset: names & index.ids for subset, names in listed.items()}


# --- RSNA's published map from its ids to NIH's names, which tells the images of one patient ------

RSNA_KEYS = ("patientId", "subset_img_id")
NIH_KEYS = ("Image Index", "image", "img_id")
WANTED = f"It needs one of {', '.join(RSNA_KEYS)} and one of {', '.join(NIH_KEYS)}"

_NIH_IMAGE = re.compile(r"(\d{1,8})_(\d{3})(\.png)?", re.IGNORECASE)


def require_all(path: Path, images: Iterable[str], named: Collection[str], remedy: str) -> None:
    """Check that a table names all images of the label table."""
    if absent := [image for image in images if image not in named]:
        raise TableError(fault("lacks_images", path, absent, remedy))


def match_exposures(
    path: Path, boxes: Iterable[str], chosen: Sequence[str], notes: list[str]
) -> dict[str, str]:
    """NIH's name of every image of the label table."""
    names = read_nih_map(path)
    require_all(path, boxes, names, "complete the map, or go without (data.nih_map=null)")
    notes += say("same_exposure", len(chosen) - len({names[image] for image in chosen}))
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
    images: dict[str, str] = {}
    for place, row in _read_rows(path):
        keys = [next((key for key in own if key in row), "") for own in (RSNA_KEYS, NIH_KEYS)]
        if "" in keys:
            raise TableError(fault("no_map_to_nih", path, row, WANTED))
        rsna, nih = (str(row[key]) for key in keys)
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


def _read_rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Place and cells of each row of a table, or object of a JSON list."""
    if ".json" not in [suffix.lower() for suffix in path.suffixes]:
        table = read_table(path)
        rows = zip(*map(table.text, table.columns), strict=True)
        cells = (dict(zip(table.columns, row, strict=True)) for row in rows)
        return ((table.place(i), row) for i, row in enumerate(cells))
    with open_text(path, "JSON map (data.nih_map)") as file:
        entries = json.load(file)
    if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
        raise TableError(f"{path} is not a list of objects. {WANTED}")
    return ((f"{path}, object {n}", entry) for n, entry in enumerate(entries, start=1))
