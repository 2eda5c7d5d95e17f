"""CheXpert v1.0 and v1.0-small (Irvin et al., AAAI 2019), as Stanford packs them; CheXlocalize.

============  ======================================================================================
images        ``train.csv`` 223,414 of 64,540 patients and 187,641 studies, ``valid.csv`` 234 of 200
              studies, CheXlocalize's ``test_labels.csv`` 668 of 500; 8-bit JPEG,
              ``train/patient00001/study1/view1_frontal.jpg``
labels        14, per study: a lateral film carries those of its study. Training: by the labeler, 1
              present, 0 absent, -1 uncertain, blank not mentioned; No Finding is 1 or blank alone.
              Validation: the majority of three radiologists; test: of five. No -1 in these
patients      ``patient00001`` of the path; no dates
views         AP, PA, and of 17 films called frontal LL or RL; LL for lateral films; "frontal" for
              the frontal films of the test part, whose table tells no more
masks         CheXlocalize (Saporta et al., Nature Machine Intelligence 2022),
              ``gt_segmentations_{val,test}.json``: ten findings by radiologists
============  ======================================================================================

Official split: the valid part is validation where the test part is there. Where it is not, it is
the test set, and validation is carved from training by patient: 200 studies are the only ones that
radiologists labelled, and a network must not be chosen on what it is scored on. Traps:
``data/README.md``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xray_lightning.data.geometry import Packed, draw_runs, surround_runs, unpack_mask
from xray_lightning.data.source import Mask, Source, find_files, locate_files, read_facts, say
from xray_lightning.data.tables import Table, open_text, read_table
from xray_lightning.data.uncertain import SMOOTH, Choice, Codes, Coding, code_matrix, count_codes
from xray_lightning.errors import ConfigError, DataNotFoundError, TableError
from xray_lightning.records import NAN, NO_FINDING, Record, Records, read_column
from xray_lightning.wording import fault

FACTS = read_facts("chexpert")
LABELS = FACTS.labels
UNMASKED = (NO_FINDING, "Pneumonia", "Pleural Other", "Fracture")
MASKED = tuple(label for label in LABELS if label not in UNMASKED)
FOLDERS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
_SIZE = ("images", "patients", "studies", "frontal", "lateral")


class CheXpert(Source, published="chexpert"):
    """A CheXpert folder; ``allow_missing`` is as of every :class:`Source`.

    Args:
        root: the folder with the tables, or the one around it.
        views: of the images to keep, of PA, AP, frontal, LL and RL; None: all.
        uncertain, blank, smooth, seed: what -1 is, and what is not mentioned, see
            :class:`~xray_lightning.data.uncertain.Coding`.
        segmentations: CheXlocalize's files of masks.

    Raises:
        ConfigError: a choice or view that there is not, or several archives in the folder.
        DataNotFoundError, TableError: as every :class:`Source` of a folder; also for masks.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        views: Sequence[str] | None = ("PA", "AP", "frontal"),
        uncertain: Choice = "ignore",
        blank: Choice = "negative",
        smooth: Sequence[float] = SMOOTH,
        seed: int = 0,
        segmentations: Sequence[str | Path] = (),
        allow_missing: bool = False,
    ) -> None:
        folder, notes = self.open_folder(root, allow_missing=allow_missing)
        self.root = folder = _find_archive(folder)
        coding = Coding(LABELS, uncertain, blank, smooth, seed)
        self.choices = coding.describe()
        parts, counts = dict[str, Records](), dict[str, dict[str, int]]()
        for part, path in _find_tables(folder).items():
            parts[part], own = _read_part(path, part, folder, coding, notes)
            counts |= {part + name: rows for name, rows in own.items()}
        self.official = _assign_parts(parts)
        expected = {name: rows for name, rows in FACTS.counts.items() if name.split()[0] in parts}
        self.facts = replace(FACTS, counts=expected)
        records: Sequence[Record] = Records.join(list(parts.values()))
        self._masks: dict[str, dict[str, Packed]] = {}  # image -> label -> mask
        self._told: set[str] = set()  # images of which the files of masks tell what is absent
        for file in [segmentations] if isinstance(segmentations, str | Path) else segmentations:
            records = self._add_masks(Path(file), records, notes)
        self.fill(records, notes, views=views, counts=counts)

    def mask(self, record: Record, label: str) -> Mask | None:
        """Where radiologists saw a finding, (H, W) bool; None where no file of masks tells it.

        Raises:
            MissingImagesError: the finding is absent, and the file that tells the size is too.
        """
        if packed := self._masks.get(record.image_id, {}).get(label):
            return draw_runs(*packed)
        absent = record.image_id in self._told and label in MASKED
        return np.zeros(self.read(record).shape, np.bool_) if absent else None

    def _add_masks(self, path: Path, records: Sequence[Record], notes: list[str]) -> list[Record]:
        """Take the masks of a file; returns the records with boxes around their masks."""
        by_key = {"_".join(r.image_id.split("/")[1:]).partition(".")[0]: r for r in records}
        masks = read_masks(path)
        if unknown := [key for key in masks if key not in by_key]:
            raise TableError(f"{path} has masks of {unknown[0]!r}, which is in no table")
        own = {by_key[key].image_id: packed for key, packed in masks.items()}
        self._masks |= own
        parts, columns = {image.split("/")[0] for image in own}, list(map(LABELS.index, MASKED))
        others = [r for r in records if r.image_id.split("/")[0] in parts and r.image_id not in own]
        silent = {r.image_id for r in others if 1 in [r.targets[column] for column in columns]}
        self._told |= {r.image_id for r in others} - silent | own.keys()
        notes += say("masks", path.name, len(own), len(others), len(silent))
        return [_draw_boxes(r, own[r.image_id]) if r.image_id in own else r for r in records]


def read_masks(path: Path) -> dict[str, dict[str, Packed]]:
    """Key of the image (``patient64622_study1_view1_frontal``) -> label -> mask."""
    with open_text(path, "file of masks (data.segmentations)") as file:
        entries = json.load(file)
    masks: dict[str, dict[str, Packed]] = {}
    place = "its first key"
    try:
        for key, findings in entries.items():
            place, masks[key] = key, {}
            for finding, mask in findings.items():
                place = f"{key}, {finding}"
                label = MASKED[MASKED.index(FACTS.synonyms.get(finding, finding))]
                masks[key][label] = unpack_mask(mask["counts"], *mask["size"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TableError(f"{path}: {place}: no mask of one of its findings ({error!r})") from error
    return masks


def _draw_boxes(record: Record, masks: Mapping[str, Packed]) -> Record:
    """The record with a box around each of its masks."""
    drawn = (surround_runs(runs, height, label) for label, (runs, height, _) in masks.items())
    frames = [(width, height) for _, height, width in masks.values()]
    boxes = tuple(filter(None, drawn))
    return replace(record, boxes=boxes, box_frame=frames[0]) if boxes else record


def _find_tables(folder: Path) -> dict[str, Path]:
    """Part -> its table, of those that are there."""
    paths = {part: find_files(folder, *names) for part, names in FACTS.files.items()}
    return {part: own[0] for part, own in paths.items() if own}


def _find_archive(root: Path) -> Path:
    """The folder of the tables: the root, or the one below it that has some."""
    folders = [root] if _find_tables(root) else sorted(filter(_find_tables, root.glob("*/")))
    if not folders:
        raise DataNotFoundError(f"there is no label table {root / 'train.csv'}. {FACTS.expected}")
    if len(folders) > 1:
        raise ConfigError(fault("several_archives", root, folders))
    return folders[0]


def _assign_parts(parts: Mapping[str, Sequence[Record]]) -> dict[str, frozenset[str]] | None:
    """The official split; None without training, or with nothing else."""
    ids = {part: frozenset(read_column(rows, "image_id")) for part, rows in parts.items()}
    train = ids.pop("train", None)
    if not ids or train is None:
        return None
    test = ids.get("test", ids.get("valid", frozenset()))
    known = {"train": train, "val": ids["valid"]} if len(ids) == 2 else {"train_val": train}
    return {**known, "test": test}


def _read_part(
    path: Path, part: str, folder: Path, coding: Coding, notes: list[str]
) -> tuple[Records, dict[str, dict[str, int]]]:
    """The rows of a part's table, and its counts; adds its notes."""
    table = read_table(path, "Path", once="Path")
    ids, lateral = _read_films(table, part)
    codes, ages = code_matrix(table, LABELS), np.array(table.numbers("Age"))
    targets = coding.read(codes, ids["image_id"])
    if absent := [label for label in LABELS if label not in table.columns]:
        targets[:, list(map(LABELS.index, absent))] = NAN
        notes.append(f"{table.path.name} lacks {', '.join(absent)}: unknown")
    sizes = [len({*column}) for column in ids.values()]
    counts = _count_part(table, codes, ages, [*sizes, lateral.count(False), lateral.count(True)])
    notes += say("odd_rows", part, counts[" odd"], counts[" views"])
    words = zip(lateral, table.text("AP/PA"), strict=True)
    place = next(filter(Path.is_dir, (folder / name for name in FOLDERS[part])), folder / part)
    records = Records(
        **ids,
        targets=targets,
        path=locate_files(place, [image[len(part) + 1 :] for image in ids["image_id"]]),
        age=np.where(ages == 0, NAN, ages).tolist(),
        sex=table.sexes("Sex", notes),
        view=["LL" if side else word or "frontal" for side, word in words],
    )
    return records, counts


def _count_part(
    table: Table, codes: Codes, ages: npt.NDArray[np.float64], sizes: Sequence[int]
) -> dict[str, dict[str, int]]:
    views, sexes = table.count("AP/PA"), table.count("Sex")
    views.pop("", None)
    strange = len(table) - sexes.get("Male", 0) - sexes.get("Female", 0)
    silent = int(np.isnan(codes).all(axis=1).sum())
    odd = {"sex unknown": strange, "age 0": int((ages == 0).sum()), "no label": silent}
    told = {f" {name}": rows for name, rows in count_codes(codes, LABELS).items()}
    return {"": dict(zip(_SIZE, sizes, strict=True)), " views": views, " odd": odd, **told}


def _read_films(table: Table, part: str) -> tuple[dict[str, list[str]], list[bool]]:
    """Image, patient and study of each row, and whether it is lateral, all by its path."""
    paths, folders = table.column("Path"), "|".join(FOLDERS[part])
    form = rf"(?:.*/)?(?:{folders})/patient\d+/study\d+/[^/]*(?:frontal|lateral)\.\w+"
    if not (right := paths.str.contains(f"^{form}$")).all():
        wanted = f"as {part}/patient00001/study1/view1_frontal.jpg"
        table.convert("Path", dict.fromkeys(paths.filter(right)).__getitem__, wanted)
    pieces = paths.str.split("/").list
    patient, file = pieces.get(-3), pieces.get(-1)
    study = patient + "/" + pieces.get(-2)
    columns = {"image_id": f"{part}/" + study + "/" + file, "patient_id": patient}
    ids = {name: column.to_list() for name, column in (columns | {"study_id": study}).items()}
    return ids, file.str.contains(r"lateral\.\w+$").to_list()
