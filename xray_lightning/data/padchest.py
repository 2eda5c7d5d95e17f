"""PadChest of the Hospital San Juan, Alicante (BIMCV; Bustos et al., MedIA 2020), as downloaded.

=========  =========================================================================================
images     160,861 of 67,625 patients in 109,931 studies; PNG in folders named by ``ImageDir`` (0 to
           50, and 54), or flat; 16 bits a pixel that hold 12 (144,051) or 10 (16,810)
labels     193 words, Spanish reports translated; read by physicians (39,053) or a network (121,808)
table      ``PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv``, gzip-compressed or not
views      PA 91,728, L 49,579 (here LL), AP_horizontal 14,346 (supine), AP 4,559, COSTAL 630,
           EXCLUDE 11, UNK 8
split      none
=========  =========================================================================================

Counted in the table. Traps: ``data/README.md``. Not checked, for no image was at hand: that the
files hold the stored bits without a shift (a value above them is an error), and that none is
inverted.
"""

import ast
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xray_lightning.data.images import Pixels, read_record
from xray_lightning.data.partition import NameIndex, read_list
from xray_lightning.data.source import Identity, Source, find_table, index_images, read_facts, say
from xray_lightning.data.tables import LOST_ID, Rows, Table, allowed_ages, read_table
from xray_lightning.data.vocabulary import LabelMap, encode_words, name_map, read_label_map
from xray_lightning.errors import ConfigError, TableError, require_choice
from xray_lightning.records import Record, Records
from xray_lightning.wording import fault

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
LABEL_MAP = Path(__file__).with_suffix(".yaml")
FRONTAL = ("PA", "AP", "AP_horizontal")
LABELLED_BY = {"all": "", "physician": "Physician"}
REASONS = ("exclude", "suboptimal study")  # labels of images that are no use
SILENT = frozenset({"", "unchanged"})  # labels that tell nothing
FACTS = read_facts("padchest")

_IDS = _IMAGE, _FOLDER, _STUDY, _PATIENT = "ImageID", "ImageDir", "StudyID", "PatientID"
_PERSON = _DATE, _BIRTH, _SEX = "StudyDate_DICOM", "PatientBirth", "PatientSex_DICOM"
_READ = _VIEW, _AGE_GROUP, _METHOD, _LABELS = "Projection", "Pediatric", "MethodLabel", "Labels"
_STORED = _BITS, _GREY = "BitsStored_DICOM", "PhotometricInterpretation_DICOM"
Reasons = npt.NDArray[np.object_]  # why each row is left out, "" where it is not, (N,)
_COLUMNS = (*_IDS, *_PERSON, *_READ, *_STORED)


class PadChest(Source, published="padchest"):
    """A PadChest folder; ``root`` and ``allow_missing`` are as of every :class:`Source`.

    Args:
        label_map: words of each label, see ``padchest.yaml``, which is taken unless named.
        views: of the images wanted, PA, AP, AP_horizontal, LL, COSTAL, unknown; None: all.
        pediatric: whether the images that the table marks as children's are wanted.
        labelled_by: "physician": only the reports that physicians labelled; or "all".
        exclude: a list of images to go without, one a line, such as damaged files.

    Raises:
        ConfigError: ``labelled_by`` or ``views`` is none of those, or nothing is left.
        DataNotFoundError, TableError, DataError: as every :class:`Source` of a folder; also without
            the map or list, for a row not MONOCHROME2, or a name in ``exclude`` that it lacks.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        label_map: str | Path | None = None,
        views: Sequence[str] | None = FRONTAL,
        pediatric: bool = True,
        labelled_by: str = "all",
        exclude: str | Path | None = None,
        allow_missing: bool = False,
    ) -> None:
        require_choice("labelled_by", labelled_by, LABELLED_BY)
        folder, notes = self.open_folder(root, allow_missing=allow_missing)
        self.labels = tuple(words := read_label_map(Path(label_map or LABEL_MAP)))
        chosen = {} if labelled_by == "all" else {"labelled_by": labelled_by}
        chosen |= {} if pediatric else {"pediatric": "false"}
        self.choices = chosen | name_map(words, LABEL_MAP)
        path = find_table(folder, [TABLE], FACTS.expected, notes)
        table = read_table(path, *_COLUMNS, once=_IMAGE)
        table.refuse_blanks(_PATIENT, LOST_ID)
        wanted = "MONOCHROME2: whether such a file is inverted is not known"
        table.convert(_GREY, {"MONOCHROME2": _GREY}.__getitem__, wanted)
        rows, cells = table.parse_distinct(_LABELS, parse_labels, "a list of words as ['mass']")
        told = [frozenset(map(str.strip, cell)) for cell in cells]
        reasons = np.array(list(map(_find_reason, told)), dtype=object)[rows]
        _find_others(table, exclude, pediatric, labelled_by, reasons)
        left_out = Counter(filter(None, reasons.tolist())).most_common()
        folders = [folder, *(folder / name for name in table.count(_FOLDER))]
        paths = index_images(folders, (".png",), "name")
        targets = np.array([encode_words(labels, words) for labels in told])[rows]
        records = _make_records(table, targets, paths, notes)[np.flatnonzero(reasons == "")]
        if not records:
            raise ConfigError(fault("nothing_left", left_out))
        notes += say("rows_left_out", left_out)
        bits = table.convert(_BITS, {str(n): n for n in range(8, 17)}.__getitem__, "8 to 16")
        self._bits = dict(zip(table.text(_IMAGE), bits, strict=True))
        counts = _count_table(table, rows, cells, words, notes)
        stray = paths.keys() - self._bits.keys()
        self.fill(records, notes, views=views, counts=counts, stray=stray)

    def read(self, record: Record) -> Pixels:
        """The image by its stored bits, (H, W) uint8: ``round(255 value / (2**bits - 1))``."""
        return read_record(record, self._bits[record.path.name] if record.path else 16)

    def identity(self) -> Identity:
        """Of all sources, and a checksum of the stored bits."""
        bits = zlib.crc32(repr(sorted(self._bits.items())).encode())
        return {**super().identity(), "stored_bits": f"{bits:08x}"}


def parse_labels(cell: str) -> tuple[str, ...]:
    """The entries of a cell of ``Labels`` as they stand there; none for a blank or ``nan``.

    >>> parse_labels("['normal', ' pneumonia']")
    ('normal', ' pneumonia')
    """
    if cell in ("", "nan"):
        return ()
    try:  # a list in single quotes alone is JSON in double ones, which is read ten times as fast
        plain = '"' not in cell and "\\" not in cell
        words = json.loads(cell.replace("'", '"')) if plain else ast.literal_eval(cell)
    except SyntaxError as error:
        raise ValueError from error
    if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        raise ValueError
    return tuple(words)


def _count_table(
    table: Table, rows: Rows, cells: Sequence[Sequence[str]], words: LabelMap, notes: list[str]
) -> dict[str, dict[str, int]]:
    """What stands in the table, labels ``cells[rows[i]]`` in row i; a note of unused words."""
    told = [{word.strip() for word in entries} for entries in cells]
    numbers, used = np.bincount(rows), frozenset[str]().union(*told)

    def count(times: Iterable[int]) -> int:  # in all rows, by how often it is so in each cell
        return int(numbers @ list(times))

    notes += say("unused_words", sorted(frozenset().union(*words.values()) - used))
    columns = {"patients": _PATIENT, "studies": _STUDY, "folders": _FOLDER}
    sizes = {key: table.column(name).n_unique() for key, name in columns.items()}
    labels = {
        "different": len(used - {""}),
        "none": count(not entries for entries in cells),
        **{repr(w): count(own.count(w) for own in cells) for w in ("pneumonia", " pneumonia")},
        **{w: count(w in own for own in told) for w in FACTS.counts[_LABELS] if w in used},
    }
    named = {name: table.count(name) for name in FACTS.counts if name in _COLUMNS}
    return {"table": {"images": len(table), **sizes}, **named, _LABELS: labels}


def _find_reason(labels: Set[str]) -> str:
    """Why an image with these labels is left out; "" where it is not."""
    if labels <= SILENT:
        return "no label but 'unchanged'" if labels - {""} else "no labels"
    return next((f"labelled {word!r}" for word in REASONS if word in labels), "")


def _find_others(
    table: Table, exclude: str | Path | None, pediatric: bool, labelled_by: str, reasons: Reasons
) -> None:
    """Add why rows are left out for other reasons than their labels, where none stands there."""
    others = {"projection EXCLUDE": table.column(_VIEW) == "EXCLUDE"}
    if exclude:
        index = NameIndex(table.text(_IMAGE))
        listed = set(read_list(Path(exclude), index))
        if unknown := sorted(listed - index.ids):
            raise TableError(fault("excluded", exclude, unknown))
        others["in data.exclude"] = table.column(_IMAGE).is_in(listed)
    if not pediatric:
        others["children"] = table.column(_AGE_GROUP) == "PED"
    if method := LABELLED_BY[labelled_by]:
        others[f"not labelled by a {labelled_by}"] = table.column(_METHOD) != method
    for reason, left_out in others.items():
        reasons[left_out.to_numpy() & (reasons == "")] = reason


def _make_records(
    table: Table, targets: npt.NDArray[np.float64], paths: Mapping[str, Path], notes: list[str]
) -> Records:
    images = table.text(_IMAGE)
    births = np.array(table.numbers(_BIRTH))  # 1930.0
    years = table.convert(_DATE, lambda cell: int(cell[:4]), "a date such as 20140915")
    return Records(
        image_id=images,
        patient_id=table.text(_PATIENT),
        targets=targets,
        path=map(paths.get, images),
        age=allowed_ages(np.array(years) - births, notes),
        sex=table.sexes(_SEX, notes),
        view=table.convert(_VIEW, lambda cell: FACTS.views.get(cell, cell), "a view"),
        study_id=table.text(_STUDY),
    )
