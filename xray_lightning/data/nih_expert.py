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

Counted in the first table. Positive by NIH's text miner, by the radiologists, by both: Pneumothorax
238, 238, 109; Nodule or mass (Nodule, Mass or both) 455, 605, 256. The images are a selection rich
in findings, so agreement is no estimate of prevalence. Of Google's own files the names of the
columns are known from others' code; none was at hand.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from xray_lightning.data.nih import find_image_folders, make_records, read_nih_map
from xray_lightning.data.rsna import Rsna
from xray_lightning.data.source import Source, find_files, find_table, index_images, read_facts
from xray_lightning.data.tables import Table, format_count, read_table
from xray_lightning.errors import ConfigError, TableError, require_choice
from xray_lightning.records import CHEST_XRAY14, NAN, Record, unite

FACTS = read_facts("nih_expert")
EXPERT_LABELS = FACTS.labels
UNIONS = {"Nodule or mass": ("Nodule", "Mass")}  # exact: what the text miner says in two labels
TABLE, FOLDER = "google2019_nih-chest-xray-labels.csv", "four_findings_expert_labels"
OWN = {"validation_labels.csv": "train_val", "test_labels.csv": "test"}  # Google's two tables
SETS = {"val": "train_val", "test": "test"}  # Set Id -> the official subset
SELECTION = (
    "a selection rich in findings: its prevalences are no hospital's",
    "{} of NIH's train_val list: a network trained on it has learned the text miner's labels of "
    "these (split=official subset=test leaves them out)",
)
TEXT_MINER, GOOGLE, RSNA = "NIH's text miner", "Google's radiologists", "RSNA's readers"
_IMAGE, _SET = "Image Index", "Set Id"


@dataclass(frozen=True)
class Truth:
    """What somebody says of images."""

    name: str  # who
    labels: tuple[str, ...]  # the L labels
    targets: Mapping[str, tuple[float, ...]]  # image id -> 1 present, 0 absent, NaN unknown, (L,)

    def tell(self, label: str, image: str) -> float:
        """The target of an image, also of a union of labels; NaN where nothing is said of it."""
        targets = self.targets.get(image, (NAN,) * len(self.labels))
        words = (label,) if label in self.labels else UNIONS.get(label, (label,))
        if not set(words) <= set(self.labels):
            return NAN
        return unite([targets[self.labels.index(word)] for word in words])


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
        paths = index_images(find_image_folders(folder), (".png", ".jpg"), lambda path: path.name)
        tables, subsets = read_tables(folder, notes)
        experts = {image: own for table in tables for image, own in read_experts(table).items()}
        records = [record for table in tables for record in make_records(table, (), paths, notes)]
        text = Truth(TEXT_MINER, CHEST_XRAY14, {r.image_id: r.targets for r in records})
        third = [] if rsna is None or nih_map is None else [read_rsna(rsna, nih_map, subsets)]
        self.truths = (text, Truth(GOOGLE, EXPERT_LABELS, experts), *third)
        chosen = self.truths[truth == "experts"]
        self.labels = chosen.labels
        self.official = {
            name: frozenset(image for image in subsets if subsets[image] == name)
            for name in SETS.values()
        }
        learned = format_count(len(self.official["train_val"]), "image")
        self.fill(
            [replace(r, targets=chosen.targets[r.image_id]) for r in records],
            [*notes, *(note.format(learned) for note in SELECTION)],
            counts=_count_truths(records, self.official, self.truths),
        )


def read_tables(root: Path, notes: list[str]) -> tuple[list[Table], dict[str, str]]:
    """The tables in the folder, and the official subset of every image."""
    read = partial(read_table, once=_IMAGE)
    if paths := find_files(root, TABLE):
        table = read(paths[0], _IMAGE, *EXPERT_LABELS)
        own = table.convert(_SET, SETS.__getitem__, "val or test")
        return [table], dict(zip(table.text(_IMAGE), own, strict=True))
    tables, subsets = [], dict[str, str]()
    for name, subset in OWN.items():
        names = [f"{FOLDER}/{name}", f"{FOLDER}_{name}"]
        path = find_table(root, names, FACTS.expected, notes)
        tables.append(table := read(path, _IMAGE, *EXPERT_LABELS))
        if shared := sorted(subsets.keys() & table.text(_IMAGE)):
            raise TableError(f"{table.path}: {shared[0]} is in the other table too")
        subsets |= dict.fromkeys(table.text(_IMAGE), subset)
    return tables, subsets


def read_experts(table: Table) -> dict[str, tuple[float, ...]]:
    """Google's labels of each image, (4,)."""
    words = {"YES": 1.0, "NO": 0.0, "": NAN}
    columns = (table.convert(name, words.__getitem__, "YES or NO") for name in EXPERT_LABELS)
    return dict(zip(table.text(_IMAGE), zip(*columns, strict=True), strict=True))


def read_rsna(root: str | Path, nih_map: str | Path, images: Mapping[str, str]) -> Truth:
    """What RSNA's readers say of some NIH images: whether an opacity suspicious for pneumonia."""
    names = read_nih_map(Path(nih_map))
    source = Rsna(root, nih_map=nih_map, headers=False)
    told = {names[record.image_id]: record.targets for record in source.records}
    return Truth(RSNA, ("Pneumonia",), {image: told[image] for image in images if image in told})


def _count_truths(
    records: Sequence[Record], subsets: Mapping[str, Collection[str]], truths: Sequence[Truth]
) -> dict[str, dict[str, int]]:
    """Images, and for the findings that two truths name the positives of each and of both."""
    table = {"images": len(records), "patients": len({r.patient_id for r in records})}
    counts = {"table": table | {name: len(ids) for name, ids in subsets.items()}}
    for finding in ("Pneumothorax", "Nodule or mass"):
        told = [[t.tell(finding, r.image_id) == 1 for r in records] for t in truths[:2]]
        both = sum(one and two for one, two in zip(*told, strict=True))
        counts[finding] = {TEXT_MINER: sum(told[0]), GOOGLE: sum(told[1]), "both": both}
    return counts
