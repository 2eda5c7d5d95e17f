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

Tables may be gzip-compressed. Traps: the headers split ``OriginalImage[Width,Height]`` and
``Bbox [x,y,w,h]`` over columns; the lists end without a newline; the box list writes
``Infiltrate``; the older table writes ages as ``058Y`` and has some above 400.
"""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from xray_lightning.data.images import READER_VERSION, read_record
from xray_lightning.data.names import NameIndex, read_list
from xray_lightning.data.source import Pixels
from xray_lightning.data.tables import (
    Table,
    counted,
    disk_notes,
    existing_folder,
    names_in,
    read_boxes,
    read_table,
)
from xray_lightning.errors import DataError, DataNotFoundError, SplitError
from xray_lightning.records import CHEST_XRAY14, Box, Record, encode

BOX_FRAME = (1024, 1024)  # (width, height) in px of the images the radiologists saw

TABLES = tuple(  # best first
    name + suffix
    for name in ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
    for suffix in ("", ".gz")
)
BOX_TABLES = ("BBox_List_2017.csv", "BBox_List_2017.csv.gz")
LISTS = {  # part -> names of its list: NIH's own, and Kaggle's
    "train_val": ("train_val_list.txt", "train_val_list_NIH.txt"),
    "test": ("test_list.txt", "test_list_NIH.txt"),
}
EXPECTED = (
    "An NIH folder holds Data_Entry_2017_v2020.csv, the images in images/ or images_001/images/ ..."
    " images_012/images/, and optionally train_val_list.txt, test_list.txt and BBox_List_2017.csv"
)

_IMAGE, _PATIENT, _AGE, _VIEW = "Image Index", "Patient ID", "Patient Age", "View Position"
_FINDINGS, _FOLLOW_UP, _SEX = "Finding Labels", "Follow-up #", "Patient Gender"
_BOX_COLUMNS = (_IMAGE, "Finding Label", "Bbox [x", "y", "w", "h]")
_IMAGE_FOLDER = re.compile(r"images(_\d+)?")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


class ChestXray14:
    """An NIH folder as a ``Source``; the protocol explains the attributes.

    Args:
        root: the folder.
        allow_missing: let commands that read pixels leave out the images that are not on disk.
        table: another label table, a path relative to ``root`` or absolute. The lists and the box
            list are then looked for in ``root`` first, and next to the table second.

    Raises:
        DataNotFoundError: no folder, no label table, or only one of the two lists.
        TableError: a table lacks a column, repeats an image, names an unknown label or image, or
            has a malformed number.
        SplitError: the lists share images.
        DataError: two folders hold a file of the same name.
    """

    name: str = "nih"
    title: str = "nih"
    population: str = "nih"
    labels: tuple[str, ...] = CHEST_XRAY14

    def __init__(
        self, root: str | Path, *, allow_missing: bool = False, table: str | Path | None = None
    ) -> None:
        self.root = existing_folder(root, EXPECTED)
        self.allow_missing = allow_missing
        notes: list[str] = []
        entries = read_table(self.root / table if table else _find_table(self.root, notes))
        folders = list(dict.fromkeys([self.root, entries.path.parent]))
        paths = _index_images(self.root)
        self.records: Sequence[Record] = _records(entries, folders, paths, notes)
        ids = [record.image_id for record in self.records]
        self.missing: Sequence[str] = tuple(image for image in ids if image not in paths)
        self.official: Mapping[str, frozenset[str]] | None = _official(folders, ids, notes)
        extra = len(paths) - (len(ids) - len(self.missing))
        notes += disk_notes(len(ids), len(self.missing), extra)
        self.notes: Sequence[str] = tuple(notes)

    def read(self, record: Record) -> Pixels:
        """The image at its original size, (H, W) uint8. Thread-safe.

        Raises:
            InvalidImageError: the file is no intact image.
            MissingImagesError: the record has no file.
        """
        return read_record(record)

    def identity(self) -> dict[str, str | int | float | bool]:
        """The folder and the version of the reader."""
        return {"source": self.name, "root": str(self.root.resolve()), "reader": READER_VERSION}


def _records(
    table: Table, folders: Sequence[Path], paths: Mapping[str, Path], notes: list[str]
) -> tuple[Record, ...]:
    """One record per row of the label table."""
    sex = "Patient Sex" if "Patient Sex" in table.columns else _SEX  # both names were published
    table.require(_IMAGE, _FINDINGS, _FOLLOW_UP, _PATIENT, _AGE, sex, _VIEW)
    table.refuse_repeats(_IMAGE)
    images = table.text(_IMAGE)
    boxes = _boxes(folders, set(images))
    columns = (
        images,
        table.convert(_PATIENT, lambda cell: str(int(cell)), "a whole number"),
        _targets(table),
        map(paths.get, images),
        [boxes.get(image, ()) for image in images],
        itertools.repeat(BOX_FRAME),
        table.ages(_AGE, notes),
        table.sexes(sex, notes),
        table.convert(_VIEW, str.upper, "a view"),
        table.numbers(_FOLLOW_UP),
    )
    return tuple(map(Record, *columns))


def _boxes(folders: Sequence[Path], images: Collection[str]) -> Mapping[str, tuple[Box, ...]]:
    path = _first_file(folders, BOX_TABLES)
    return read_boxes(read_table(path), _BOX_COLUMNS, CHEST_XRAY14, images) if path else {}


def _targets(table: Table) -> list[tuple[float, ...]]:
    """Targets of each row; the table has 836 distinct cells, so each is encoded once, (N, L)."""
    cells, images = table.text(_FINDINGS), table.text(_IMAGE)
    known: dict[str, tuple[float, ...]] = {}
    for i, cell in enumerate(cells):
        if cell not in known:
            known[cell] = encode(cell.split("|"), CHEST_XRAY14, f"{table.place(i)} ({images[i]})")
    return [known[cell] for cell in cells]


def _first_file(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    candidates = (folder / name for folder in folders for name in names)
    return next((path for path in candidates if path.is_file()), None)


def _find_table(root: Path, notes: list[str]) -> Path:
    """The best label table in the folder.

    Raises:
        DataNotFoundError: there is none; says so if a sub-folder has one.
    """
    found = [name for name in TABLES if (root / name).is_file()]
    if not found:
        inside = sorted(path for name in TABLES for path in root.glob(f"*/{name}"))
        hint = f"There is one in {inside[0].parent}: is that the folder meant?" if inside else ""
        raise DataNotFoundError(
            f"there is no label table {root / TABLES[0]} (nor {', '.join(TABLES[1:])}). "
            f"{hint or EXPECTED}"
        )
    notes += [f"{found[0]} was read; {other} beside it was not" for other in found[1:]]
    return root / found[0]


def _index_images(root: Path) -> dict[str, Path]:
    """File name -> file, for the images in the folder and in its folders of images.

    Raises:
        DataError: two folders hold a file of the same name.
    """
    paths: dict[str, Path] = {}
    folders = [root]
    while folders:
        folder = folders.pop()
        for name in names_in(folder):
            if name.lower().endswith(_IMAGE_SUFFIXES) and not name.startswith("."):
                path = folder / name
                if paths.setdefault(name, path) is not path:
                    both = " and ".join(sorted(map(str, (path, paths[name]))))
                    raise DataError(f"{both} have the same name. Remove one of them")
            elif _IMAGE_FOLDER.fullmatch(name) and (folder / name).is_dir():
                folders.append(folder / name)
    return paths


def _official(
    folders: Sequence[Path], images: Sequence[str], notes: list[str]
) -> dict[str, frozenset[str]] | None:
    """Ids of the label table in each of the publisher's lists; None if there are no lists.

    Raises:
        DataNotFoundError: only one of the lists is there.
        SplitError: the lists share images.
    """
    found = {subset: _first_file(folders, names) for subset, names in LISTS.items()}
    absent = [subset for subset, path in found.items() if path is None]
    if len(absent) == len(LISTS):
        return None
    if absent:
        raise DataNotFoundError(
            f"there is no list {folders[0] / LISTS[absent[0]][0]}, but the other of the two is "
            "there. Add it, or remove the other to go without the official split"
        )
    index = NameIndex(images)
    listed = {subset: frozenset(read_list(path, index)) for subset, path in found.items() if path}
    shared = sorted(listed["train_val"] & listed["test"])
    if shared:
        raise SplitError(
            f"{found['train_val']} and {found['test']} share {counted(len(shared), 'image')}, the "
            f"first is {shared[0]}. Download both again"
        )
    _note_list_gaps(listed, images, notes)
    known = frozenset(images)
    return {subset: names & known for subset, names in listed.items()}


def _note_list_gaps(
    listed: Mapping[str, frozenset[str]], images: Sequence[str], notes: list[str]
) -> None:
    """Note the names that only a list or only the label table has."""
    known, anywhere = frozenset(images), frozenset().union(*listed.values())
    for subset, names in listed.items():
        if names - known:
            notes.append(
                f"{len(names - known):,} of the {len(names):,} images in the official {subset} "
                "list are not in the label table and were left out of the list"
            )
    unlisted = [image for image in images if image not in anywhere]
    if unlisted:
        notes.append(
            f"{len(unlisted):,} of the {len(images):,} images in the label table are in neither "
            f"official list, the first is {unlisted[0]}"
        )
