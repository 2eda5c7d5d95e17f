"""Record, Box and the 14 findings: one radiograph as a row of a data set."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xray_lightning.errors import TableError
from xray_lightning.wording import fault

NAN = math.nan
NO_FINDING = "No Finding"
OLDEST = 110.0  # years; the first release of ChestX-ray14 has some above 400

# Order of the dataset paper (Wang et al., CVPR 2017, table of ChestX-ray14).
CHEST_XRAY14 = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia"),
    *("Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening"),
    "Hernia",
)

# BBox_List_2017.csv writes one finding differently from the label table.
ALIASES = {"Infiltrate": "Infiltration", "Pleural Thickening": "Pleural_Thickening"}


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle drawn around a finding, in pixels of the original image."""

    label: str  # the finding
    x: float  # left edge
    y: float  # upper edge
    width: float  # extent to the right
    height: float  # extent downwards
    reader: str = ""  # who drew it; "" where the table does not say


@dataclass(frozen=True, slots=True)
class Record:
    """One radiograph."""

    image_id: str  # unique within the data set; for files the file name
    patient_id: str  # equal for all images of one patient
    # one number per label: 1 present, 0 absent, NaN unknown, (L,); a number between is a share that
    # a loss may train on and that every metric takes as unknown
    targets: tuple[float, ...]
    # the file, or None where there is none (missing on disk, or procedural)
    path: Path | None = None
    boxes: tuple[Box, ...] = ()  # rectangles in pixels of ``box_frame``
    # (width, height) of the image the boxes were drawn on; None: the file's own size
    box_frame: tuple[int, int] | None = None
    age: float = NAN  # years, NaN if unknown or impossible
    sex: str = ""  # "M", "F" or "" if unknown
    view: str = ""  # "PA", "AP", "LL", ... or "" if unknown
    follow_up: float = NAN  # 0 for a patient's first image; NaN if unknown
    study_id: str = ""  # equal for all images of one examination; "" if unknown
    hospital: str = ""  # name of the data set, where several are read together; else ""


class Records(Sequence[Record]):
    """Records over columns (N,), targets (N, L), by field; each made when asked for; slices too."""

    def __init__(self, **columns: Any) -> None:
        columns["targets"] = np.asarray(columns["targets"], dtype=np.float64)
        self.columns: dict[str, npt.NDArray[Any]] = {
            name: column if isinstance(column, np.ndarray) else np.fromiter(column, object)
            for name, column in columns.items()
        }

    @classmethod
    def join(cls, parts: Sequence["Records"]) -> "Records":
        """Those of all parts, which have the same columns."""
        names = parts[0].columns
        return cls(**{name: np.concatenate([p.columns[name] for p in parts]) for name in names})

    def __len__(self) -> int:
        return len(self.columns["image_id"])

    def __iter__(self) -> Iterator[Record]:
        return map(Record, *(read_column(self, name) for name in _DEFAULTS))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice | np.ndarray):
            return Records(**{name: column[index] for name, column in self.columns.items()})
        fields = {name: column[index] for name, column in self.columns.items()}
        return Record(**fields | {"targets": tuple(fields["targets"].tolist())})


_DEFAULTS = {field.name: field.default for field in fields(Record)}


def read_column(records: Sequence[Record], name: str) -> list[Any]:
    """One field of each record, (N,)."""
    if not isinstance(records, Records):
        return [getattr(record, name) for record in records]
    if name not in records.columns:
        return [_DEFAULTS[name]] * len(records)
    column = records.columns[name].tolist()
    return list(map(tuple, column)) if name == "targets" else column


def take_records(records: Sequence[Record], rows: npt.NDArray[np.integer]) -> Sequence[Record]:
    """The records at some positions."""
    return records[rows] if isinstance(records, Records) else [records[i] for i in rows.tolist()]


def replace_columns(records: Sequence[Record], **columns: Any) -> Records:
    """The records with every column, some of them others than theirs."""
    own = records.columns if isinstance(records, Records) else {}
    rest = _DEFAULTS.keys() - own.keys() - columns.keys()
    return Records(**own | {name: read_column(records, name) for name in rest} | columns)


def unite(targets: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Targets (N, n) of a union, (N,): 1 if any is 1, 0 if all are 0, else NaN; of one, itself.

    >>> unite(np.array([[0.0, 1.0], [0.0, 0.0], [0.0, math.nan]])).tolist()
    [1.0, 0.0, nan]
    >>> unite(np.array([[0.3]])).tolist(), unite(np.empty((1, 0))).tolist()
    ([0.3], [nan])
    """
    if targets.shape[1] == 1:
        return targets[:, 0]
    absent = (targets == 0).all(axis=1) & (targets.shape[1] > 0)
    return np.where((targets == 1).any(axis=1), 1.0, np.where(absent, 0.0, NAN))


def rename_labels(
    records: Sequence[Record],
    own: Sequence[str],  # their K labels
    labels: Sequence[str],  # the L labels they get
    words: Mapping[str, Sequence[str]],  # label -> those of their own whose union it is, if any
) -> Records:
    """The records with other labels: a target is that of a union, NaN where no label tells it."""
    places = [[own.index(word) for word in words.get(label, ())] for label in labels]
    whole = replace_columns(records)
    known = whole.columns["targets"] if len(records) else np.empty((0, len(own)))
    targets = [unite(known[:, union]) for union in places]
    matrix = np.reshape(targets, (len(labels), len(records)))  # also of no label or record
    boxes = [
        tuple(replace(b, label=name) for b in drawn for name in words if b.label in words[name])
        for drawn in whole.columns["boxes"]
    ]
    return replace_columns(whole, targets=matrix.T, boxes=boxes)


def is_known(targets: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Where a target is 1 or 0; a share between the two tells a metric as little as NaN."""
    return np.asarray((targets == 0) | (targets == 1))


def prevalence(targets: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Share of positives among the known targets of each label, (L,); NaN where none is known."""
    known = is_known(targets).sum(axis=0)
    return np.where(known, (targets == 1).sum(axis=0) / np.maximum(known, 1), NAN)


def target_matrix(records: Sequence[Record], *, shares: bool = False) -> npt.NDArray[np.float32]:
    """Targets of all records, (N, L), NaN where unknown; shares stay only where they are asked for.

    >>> target_matrix([Record("a.png", "1", (1.0, 0.7))]).tolist()
    [[1.0, nan]]
    """
    if isinstance(records, Records):
        targets = records.columns["targets"].astype(np.float32)
    else:
        targets = np.array([record.targets for record in records], dtype=np.float32)
    return targets if shares else np.where(is_known(targets), targets, np.float32(np.nan))


def patient_ids(records: Sequence[Record]) -> npt.NDArray[np.str_]:
    """Patient of each record, (N,)."""
    return np.array(read_column(records, "patient_id"), dtype=np.str_)


def patients_known(records: Sequence[Record]) -> bool:
    """Whether the label table tells patients; where it does not, each image counts as its own."""
    return read_column(records, "patient_id") != read_column(records, "image_id")


def canonical(finding: str, labels: Sequence[str], place: str) -> str:
    """The name of ``finding``, spaces around it allowed, in ``labels``; ``place``: where it stands.

    >>> canonical("Infiltrate", CHEST_XRAY14, "row 2")
    'Infiltration'
    """
    name = finding.strip()
    name = ALIASES.get(name, name)
    if name not in labels:
        raise TableError(fault("unknown_label", place, finding.strip(), labels, NO_FINDING))
    return name


def encode(findings: Iterable[str], labels: Sequence[str], place: str = "") -> tuple[float, ...]:
    """Targets (L,) of one image, 1.0 for a finding; ``No Finding`` is the all-zero vector."""
    words = {word.strip() for word in findings}
    if NO_FINDING in words and len(words) > 1:
        raise TableError(f"{place}: {NO_FINDING!r} stands beside {sorted(words - {NO_FINDING})}")
    present = {canonical(word, labels, place) for word in words - {NO_FINDING}}
    return tuple(float(label in present) for label in labels)
