"""What every data set offers: a page of records, and pixels on request. Subclass ``Source``."""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import numpy.typing as npt
import yaml  # type: ignore[import-untyped]

from xray_lightning.data.files import READER_VERSION
from xray_lightning.errors import ConfigError, DataError, DataNotFoundError, MissingImagesError
from xray_lightning.records import Record, read_column, rename_labels, take_records
from xray_lightning.wording import fault, tell

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

Pixels = npt.NDArray[np.uint8]  # (H, W)
Mask = npt.NDArray[np.bool_]  # (H, W)
Identity = dict[str, str | int | float | bool]
Counts = Mapping[str, Mapping[str, int]]  # table -> what is counted in it -> number

PUBLISHED = Path(__file__).with_name("published.yaml")
say = partial(tell, __package__)  # the notes on a subject


class UnknownPatientsWarning(UserWarning):
    """Images of one patient cannot be recognised, so no split can keep them together."""


@dataclass(frozen=True)
class Facts:
    """What is fixed about a published data set, see ``published.yaml``."""

    expected: str = ""  # what its folder holds
    unknown_patients: str = ""  # why patients cannot be told apart
    labels: tuple[str, ...] = ()  # the L labels
    synonyms: Mapping[str, str] = field(default_factory=dict)  # another word of its for a label
    views: Mapping[str, str] = field(default_factory=dict)  # its words for ours
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)  # part -> names of its table
    counts: Counts = field(default_factory=dict)  # what stands in its tables
    no_labels: Sequence[str] = ()  # columns, in any case, that tell of the image or the split


@cache
def read_facts(name: str) -> Facts:
    """What ``published.yaml`` tells of a data set."""
    entry = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))[name]
    facts = Facts(**{key.replace(" ", "_"): value for key, value in entry.items()})
    return replace(facts, labels=tuple(facts.labels))


class Example(TypedDict):
    """One radiograph at its original size, as a network of this package takes it."""

    image: "Tensor"  # (1, H, W) float32 in [0, 1]
    targets: "Tensor"  # (L,) float32: 1 present, 0 absent, NaN unknown; a share trains a loss
    image_id: str
    patient_id: str


class Source:
    """A data set: NIH's folder, RSNA's, a CSV table, the phantom, or a subclass of yours.

    A subclass sets ``labels`` and ``records``, whose ``path`` is the file of each image; all else
    has a default. One that draws or stores its images otherwise has its own ``read``, ``identity``
    and ``missing``. That of a published folder ends in ``fill``, and raises DataNotFoundError where
    there is no such folder or label table, TableError with the row where a table lacks a column,
    names an image twice, an unknown label or image, or has a cell or box that cannot be, and
    DataError where two files are one image.

    Attributes:
        name: short name used in file names, e.g. "nih".
        population: equal for data sets whose patient ids name the same people ("nih" for NIH, and
            for RSNA with the map); "" where ids must not leave the data, or cannot be compared; of
            several data sets the names between commas.
        unknown_patients: why patients cannot be told apart, and what helps; "" where they can.
        owner: what a patient id names: "patient", or the "report" of a set that tells none.
        labels: the L labels, in the order of every target vector.
        records: every image of the label table, in table order, on disk or not.
        root: the folder of the images, if there is one.
        allow_missing: let commands that read pixels leave out the images that are not on disk.
        official: image ids of each subset as the publisher split them: {"train_val", "test"} or
            {"train", "val", "test"}; None if there is no such split.
        notes: what a user should know about this copy of the data, one sentence each
            ("16 impossible ages became NaN").
        exposures: the name of the radiograph that an image shows, where it has another elsewhere
            (RSNA's map to NIH): equal names, one exposure.
        choices: how labels were read where there is a choice ({"uncertain": "zeros"}); part of the
            title and of every split's fingerprint.
        counts: what stands in the table as it was published, before anything is left out:
            {"views": {"AP": 161_590, "PA": 29_420}}.
        facts: what is fixed about a published set.
    """

    name: str = "source"
    population: str = ""
    unknown_patients: str = ""
    owner: str = "patient"
    labels: tuple[str, ...] = ()
    records: Sequence[Record] = ()
    root: Path | None = None
    allow_missing: bool = False
    official: Mapping[str, frozenset[str]] | None = None
    notes: Sequence[str] = ()
    exposures: Mapping[str, str] = MappingProxyType({})
    choices: Mapping[str, str] = MappingProxyType({})
    counts: Counts = MappingProxyType({})
    facts: Facts = Facts()

    def __init_subclass__(cls, published: str = "") -> None:
        """Of a set in ``published.yaml`` the entry's name: its own, with its facts and labels."""
        if published:
            cls.name, cls.facts = published, read_facts(published)
            cls.labels = cls.facts.labels or cls.labels

    @property
    def title(self) -> str:
        """The name in tables, with what their figures depend on ("rsna (negatives: all)")."""
        chosen = ", ".join(f"{name}: {choice}" for name, choice in self.choices.items())
        return f"{self.name} ({chosen})" if chosen else self.name

    @cached_property
    def missing(self) -> Sequence[str]:
        """Ids of the records without a file, in table order."""
        there = read_column(self.records, "path")
        images = read_column(self.records, "image_id")
        return tuple(image for image, path in zip(images, there, strict=True) if path is None)

    def read(self, record: Record) -> Pixels:
        """The image at its original size, (H, W) uint8. Thread-safe.

        Raises:
            InvalidImageError: the file is not an intact image; names it and the reason.
            MissingImagesError: the record has no file.
        """
        from xray_lightning.data.images import read_record  # its decoders

        return read_record(record)

    def mask(self, record: Record, label: str) -> Mask | None:
        """Exactly where a finding is, (H, W) bool in the frame of the image, at any scale.

        None: the set has no mask of it; all False: the set tells that it is absent. Maps are scored
        on images with boxes: an image with a mask has a box around it too.
        """
        return None

    def identity(self) -> Identity:
        """Plain values that change when the pixels do: another identity, another cache."""
        folder = {"root": str(self.root.resolve())} if self.root else {}
        return {"source": self.name, **folder, "reader": READER_VERSION}

    def open_folder(self, root: str | Path, *, allow_missing: bool) -> tuple[Path, list[str]]:
        """Take the folder of a published set; it, and a list for notes on what is odd there."""
        self.root, self.allow_missing = require_directory(root, self.facts.expected), allow_missing
        return self.root, []

    def fill(
        self,
        records: Sequence[Record],
        notes: Iterable[str] = (),
        *,
        views: Sequence[str] | None = None,  # of the records to keep; None: all
        counts: Counts = MappingProxyType({}),  # what stands in the table
        stray: Collection[str] = (),  # images on disk that the table does not name
    ) -> None:
        """Take the records of a folder; notes say what is not as one expects."""
        self.unknown_patients = "" if self.population else self.facts.unknown_patients
        said = [*filter(None, [self.unknown_patients]), *notes]
        said += say("counts", counts, self.facts.counts)
        self.counts, self.records = dict(counts), select_views(records, views, said)
        self.notes = (*said, *say("missing", len(self.missing), len(self), len(stray)))
        if self.unknown_patients:  # said to who called the constructor
            text = f"{self.title}: {self.unknown_patients}"
            warnings.warn(text, UnknownPatientsWarning, stacklevel=3)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        import torch  # here alone: tables are read and split without it

        record = self.records[index]
        return {
            "image": torch.from_numpy(self.read(record))[None].float().div_(255),  # (1, H, W)
            "targets": torch.tensor(record.targets, dtype=torch.float32),  # (L,)
            "image_id": record.image_id,
            "patient_id": record.patient_id,
        }

    def plot(self, index: int) -> "Figure":
        """The radiograph of a record with its boxes and findings; ``figure.savefig(path)``."""
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle

        record = self.records[index]
        pixels = self.read(record)
        height, width = pixels.shape
        figure = Figure(figsize=(6, 6 * height / width + 0.5), layout="constrained")
        axes = figure.subplots()
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        frame_width, frame_height = record.box_frame or (width, height)
        across, down = width / frame_width, height / frame_height
        for box in record.boxes:
            corner = box.x * across, box.y * down
            size = box.width * across, box.height * down
            axes.add_patch(Rectangle(corner, *size, fill=False, color="yellow"))
            axes.text(*corner, box.label, color="yellow", va="bottom", parse_math=False)
        told = say("targets", dict(zip(self.labels, record.targets, strict=True)))
        axes.set_title(f"{record.image_id}: {'; '.join(told)}")
        axes.title.set_parse_math(False)  # labels and names are text, whatever they hold
        return figure


def choose_labels(asked: str | Sequence[str], *sides: Sequence[str]) -> tuple[str, ...]:
    """The labels asked for, by name or as "shared" (what all sides have); each must be shared."""
    shared = [label for label in sides[0] if all(label in side for side in sides)]
    named = [asked] if isinstance(asked, str) else list(asked)
    chosen = shared if asked == "shared" else named
    if not chosen or not set(chosen) <= set(shared):
        raise ConfigError(fault("not_shared", named, shared))
    return tuple(chosen)


def select_labels(source: Source, labels: Sequence[str]) -> Source:
    """The data set with some of its labels alone, its images unchanged; a note names the others."""
    narrowed = copy(source)
    narrowed.labels = tuple(labels)
    itself = {label: (label,) for label in labels}
    narrowed.records = rename_labels(source.records, source.labels, labels, itself)
    narrowed.notes = [*source.notes, *say("other_labels", source.labels, labels)]
    return narrowed


def patient_keys(population: str, records: Sequence[Record]) -> list[str]:
    """16 hex digits of SHA-256 of population and patient id, for a checkpoint to carry, (N,)."""
    # a hash of few ids hides nothing: a population is only named where its ids are public anyway;
    # records of several sets (``hospital``) have it in their patient ids already
    ids = [r.patient_id if r.hospital else f"{population}/{r.patient_id}" for r in records]
    digest = {name: hashlib.sha256(name.encode()).hexdigest()[:16] for name in set(ids)}
    return [digest[name] for name in ids]


def usage_notes(source: Source) -> list[str]:
    """The source's notes, and what a command that reads pixels leaves out."""
    return [*source.notes, *say("left_out", len(source.missing), len(source.records))]


def readable_records(source: Source) -> list[Record]:
    """The records whose pixels can be read; an error where some may not be left out."""
    ids: set[str] = set()
    columns = (read_column(source.records, name) for name in ("image_id", "targets"))
    for image, targets in zip(*columns, strict=True):  # a data set of the user's own may be wrong
        if len(targets) != len(source.labels):
            raise DataError(fault("number_of_targets", source, image, targets))
        if image in ids:
            raise DataError(f"{source.name}: two records have the image_id {image!r}")
        ids.add(image)
    if not source.missing:
        return list(source.records)
    if not source.allow_missing:
        raise MissingImagesError(fault("not_on_disk", source))
    if len(source.missing) == len(source.records):
        raise MissingImagesError(fault("none_on_disk", source))
    absent = set(source.missing)
    return [record for record in source.records if record.image_id not in absent]


def used_records(source: Source) -> Source:
    """The data set with the records a run can use, of which its split is one."""
    if not (source.missing and source.allow_missing):
        return source
    used = copy(source)
    used.records = readable_records(source)
    return used


def require_directory(path: str | Path, wanted: str) -> Path:
    """The folder as a Path; an error says what is ``wanted`` where there is none."""
    folder = Path(path)
    if not folder.is_dir():
        raise DataNotFoundError(fault("no_folder", folder, wanted))
    return folder


def find_files(folder: Path, *names: str) -> list[Path]:
    """Those of the files that are there, in this order, each gzip-compressed or not."""
    paths = (folder / f"{name}{end}" for name in names for end in ("", ".gz"))
    return [path for path in paths if path.is_file()]


def locate_files(folder: Path, files: Sequence[str]) -> list[Path | None]:
    """Where each file of a folder is, by one scan of each below it; None where it is not there."""
    if not folder.is_dir():
        return [None] * len(files)
    paths = [folder / file for file in files]
    below = {path.parent for path in paths}
    there = {place: frozenset(list_names(place)) for place in below if place.is_dir()}
    return [path if path.name in there.get(path.parent, ()) else None for path in paths]


def find_table(folder: Path, names: Sequence[str], expected: str, notes: list[str]) -> Path:
    """The first of the label tables that is there; a note names the others."""
    if present := find_files(folder, *names):
        notes += say("beside", *present[:1], present[1:])
        return present[0]
    inside = sorted(path for name in names for path in folder.glob(f"*/{name}*"))
    raise DataNotFoundError(fault("no_table", folder / names[0], names[1:], inside, expected))


def list_names(folder: str | Path) -> list[str]:
    """Names in a folder but for broken links, by one scan without a look at each file."""
    with os.scandir(folder) as entries:
        return [e.name for e in entries if not e.is_symlink() or Path(e.path).exists()]


def index_images(
    folders: Iterable[Path], suffixes: Sequence[str], key: str = "stem"
) -> dict[str, Path]:
    """Image id (stem or name) -> its one visible file of these suffixes, in folders there are."""
    paths: dict[str, Path] = {}
    for folder in filter(Path.is_dir, folders):
        for name in list_names(folder):
            if not name.lower().endswith(tuple(suffixes)) or name.startswith("."):
                continue
            path = folder / name
            if (first := paths.setdefault(getattr(path, key), path)) is not path:
                raise DataError(fault("one_image", sorted([path, first], key=str)))
    return paths


def select_views(
    records: Sequence[Record], views: Sequence[str] | None, notes: list[str]
) -> Sequence[Record]:
    """The records of some views (None: all); a note counts the others."""
    if views is None:
        return records
    words = [view or "unknown" for view in read_column(records, "view")]
    there = Counter(words)
    if isinstance(views, str) or not there.keys() & set(views):
        raise ConfigError(f"data.views is a list of {', '.join(sorted(there))}; got {views!r}")
    notes += say("other_views", sorted(there.keys() - set(views)), there, views)
    return take_records(records, np.flatnonzero([word in views for word in words]))
