"""Google's labels of NIH images by radiologists (Majkowska et al., Radiology 2020).

=========  =========================================================================================
images     4,376 of ChestX-ray14's, of 1,695 patients: 1,962 of the official test list (860
           patients), 2,414 of train_val (835), no patient in both; Google's page says 4,374
labels     Fracture, Pneumothorax, Airspace opacity, Nodule or mass: YES or NO by three radiologists
           each, until they agreed; blank where an image was not put to them
tables     ``google2019_nih-chest-xray-labels.csv`` (both in one, with ``Set Id``), or Google's own
           ``four_findings_expert_labels/validation_labels.csv`` and ``test_labels.csv``, also flat;
           gzip-compressed or not; each row also has NIH's columns and its text-mined labels
=========  =========================================================================================

Counted in the first table; of Google's own files the names of the columns are known from others'
code, none was at hand. How often the two agree: ``data/README.md``.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xray_lightning.data.nih import find_image_folders, make_records, read_nih_map
from xray_lightning.data.source import Source, find_files, find_table, index_images, read_facts, say
from xray_lightning.data.tables import Table, read_table
from xray_lightning.errors import ConfigError, TableError, require_choice
from xray_lightning.records import CHEST_XRAY14, NAN, Records, read_column, replace_columns, unite

FACTS = read_facts("nih_expert")
EXPERT_LABELS = FACTS.labels
FINDINGS = {  # told by several -> the labels of NIH, and of a network, whose union each is
    "Pneumothorax": ("Pneumothorax",),
    "Nodule or mass": ("Nodule", "Mass"),
    "Pneumonia": ("Pneumonia",),
}
TABLE = "google2019_nih-chest-xray-labels.csv"
SETS = {"val": "train_val", "test": "test"}  # Set Id -> the official subset
TEXT_MINER, GOOGLE, RSNA = "NIH's text miner", "Google's radiologists", "RSNA's readers"
_IMAGE, _SET = "Image Index", "Set Id"


@dataclass(frozen=True)
class Truth:
    """What somebody says of images."""

    name: str  # who
    labels: tuple[str, ...]  # the L labels
    targets: Mapping[str, tuple[float, ...]]  # image id -> 1 present, 0 absent, NaN unknown, (L,)

    def tell(self, label: str, images: Iterable[str]) -> npt.NDArray[np.float64]:
        """Targets of some images, (N,), also of a union of labels; NaN where nothing is said."""
        words = (label,) if label in self.labels else FINDINGS.get(label, ())
        places = [self.labels.index(word) for word in words if {*words} <= {*self.labels}]
        nothing = (NAN,) * len(self.labels)
        return unite(np.array([self.targets.get(image, nothing) for image in images])[:, places])


class NihExperts(Source, published="nih_expert"):
    """An NIH folder with Google's labels; ``root``, ``allow_missing`` as of every :class:`Source`.

    Args:
        truth: whose labels are the targets: "experts", Google's four; or "text", NIH's 14 of the
            same images, which a network trained on NIH can be evaluated on.
        rsna: RSNA's folder, whose readers saw 1,140 of these images too; with ``nih_map``.
        nih_map: RSNA's published map to NIH.

    Attributes:
        truths: NIH's text miner, Google's radiologists, and RSNA's readers where they are named.

    Raises:
        ConfigError: ``truth`` is neither of the two, or one of ``rsna`` and ``nih_map`` is missing.
        DataNotFoundError, TableError, DataError: as every :class:`Source` of a folder; also with
            one of Google's two tables alone.
    """

    population = "nih"

    def __init__(
        self,
        root: str | Path,
        *,
        truth: str = "experts",
        rsna: str | Path | None = None,
        nih_map: str | Path | None = None,
        allow_missing: bool = False,
    ) -> None:
        require_choice("truth", truth, ("experts", "text"))
        if (rsna is None) != (nih_map is None):
            raise ConfigError(f"rsna and nih_map go together, got {rsna!r} and {nih_map!r}")
        folder, notes = self.open_folder(root, allow_missing=allow_missing)
        self.choices = {"truth": truth}
        paths = index_images(find_image_folders(folder), (".png", ".jpg"), "name")
        tables, subsets = read_tables(folder, notes)
        words, experts = {"YES": 1.0, "NO": 0.0, "": NAN}, dict[str, tuple[float, ...]]()
        for table in tables:
            told = (table.convert(name, words.__getitem__, "YES or NO") for name in EXPERT_LABELS)
            experts |= zip(table.text(_IMAGE), zip(*told, strict=True), strict=True)
        records = Records.join([make_records(table, (), paths, notes) for table in tables])
        images = read_column(records, "image_id")
        mined = dict(zip(images, read_column(records, "targets"), strict=True))
        text = Truth(TEXT_MINER, CHEST_XRAY14, mined)
        third = [] if rsna is None or nih_map is None else [read_rsna(rsna, nih_map, subsets)]
        self.truths = (text, Truth(GOOGLE, EXPERT_LABELS, experts), *third)
        chosen = self.truths[truth == "experts"]
        self.labels = chosen.labels
        self.official = {
            name: frozenset(image for image in subsets if subsets[image] == name)
            for name in SETS.values()
        }
        notes += say("selection", len(self.official["train_val"]))
        counts = _count_truths(records, self.official, self.truths)
        records = replace_columns(records, targets=[chosen.targets[image] for image in images])
        self.fill(records, notes, counts=counts)


def read_tables(root: Path, notes: list[str]) -> tuple[list[Table], dict[str, str]]:
    """The tables in the folder, and the official subset of every image."""
    if paths := find_files(root, TABLE):
        table = read_table(paths[0], _IMAGE, *EXPERT_LABELS, once=_IMAGE)
        own = table.convert(_SET, SETS.__getitem__, "val or test")
        return [table], dict(zip(table.text(_IMAGE), own, strict=True))
    tables, subsets = [], dict[str, str]()
    for subset, names in FACTS.files.items():
        path = find_table(root, names, FACTS.expected, notes)
        tables.append(table := read_table(path, _IMAGE, *EXPERT_LABELS, once=_IMAGE))
        if shared := sorted(subsets.keys() & table.text(_IMAGE)):
            raise TableError(f"{table.path}: {shared[0]} is in the other table too")
        subsets |= dict.fromkeys(table.text(_IMAGE), subset)
    return tables, subsets


def read_rsna(root: str | Path, nih_map: str | Path, images: Mapping[str, str]) -> Truth:
    """What RSNA's readers say of some NIH images: whether an opacity suspicious for pneumonia."""
    names = read_nih_map(Path(nih_map))
    from xray_lightning.data.rsna import Rsna  # pydicom

    source = Rsna(root, nih_map=nih_map, headers=False)
    told = {names[record.image_id]: record.targets for record in source.records}
    return Truth(RSNA, ("Pneumonia",), {image: told[image] for image in images if image in told})


def _count_truths(
    records: Records, subsets: Mapping[str, Collection[str]], truths: Sequence[Truth]
) -> dict[str, dict[str, int]]:
    """Images, and for the findings that two truths name the positives of each and of both."""
    images, patients = (read_column(records, name) for name in ("image_id", "patient_id"))
    table = {"images": len(images), "patients": len({*patients})}
    counts = {"table": table | {name: len(ids) for name, ids in subsets.items()}}
    for finding in ("Pneumothorax", "Nodule or mass"):
        mined, read = (truth.tell(finding, images) == 1 for truth in truths[:2])
        told = {TEXT_MINER: mined, GOOGLE: read, "both": mined & read}
        counts[finding] = {name: int(where.sum()) for name, where in told.items()}
    return counts
