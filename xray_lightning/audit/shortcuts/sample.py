"""The images of a subset that shortcut tests look at, and what is known about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xray_lightning.audit.baselines import score_by_metadata
from xray_lightning.audit.label_table import LabelTable
from xray_lightning.audit.shortcuts.regions import Mask
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.phantom import Phantom
from xray_lightning.data.source import Source
from xray_lightning.metrics.intervals import Floats
from xray_lightning.records import Record, patient_ids

LIMIT = 2000  # images: a drawn sample of a larger subset


@dataclass(frozen=True, eq=False)
class Sample:
    """N images that a network has not learned from."""

    labels: tuple[str, ...]  # L, those of the network
    images: Tensor  # (N, 1, H, W) in [0, 1]
    targets: Floats  # (N, L), NaN where unknown
    patients: npt.ArrayLike  # N ids
    marker: Mask | None = None  # (N, H, W): where one is; None: nothing is known
    attributes: Mapping[str, Floats] = field(default_factory=dict)  # for probes: 0, 1 or NaN, (N,)
    floor: Floats | None = None  # (N, L): scores that needed no image, NaN for a label without


def draw_sample(
    data: XrayDataModule, subset: str, labels: Sequence[str], *, limit: int = LIMIT, seed: int = 0
) -> Sample:
    """At most ``limit`` images of a subset, without flips, drawn with ``seed``."""
    # Attributes: sex, view and, of the phantom, the words of portable films; floor: trees on the
    # training set's metadata. One of the ``labels`` that the data lacks is unknown in every image.
    chosen, images = draw_images(data, subset, limit, seed)
    records = [data.subset_records(subset)[row] for row in chosen]
    rows = data.split.subsets[subset][chosen]
    return Sample(
        labels=tuple(labels),
        images=images,
        targets=_align(data.targets[rows], data.labels, labels),
        patients=patient_ids(records),
        marker=locate_marker(data.source, records, data.image_size),
        attributes=read_attributes(data.source, records),
        floor=_score_floor(data, rows, labels, seed),
    )


def draw_images(
    data: XrayDataModule, subset: str, limit: int, seed: int
) -> tuple[list[int], Tensor]:
    """At most ``limit`` images (N, 1, S, S) of a subset and their rows in it, in table order."""
    dataset = data.dataset(subset)
    rows: list[int] = np.random.default_rng(seed).permutation(len(dataset))[:limit].tolist()
    return sorted(rows), torch.stack([dataset[row]["image"] for row in sorted(rows)])


def locate_marker(source: Source, records: Sequence[Record], size: int) -> Mask | None:
    """Where a phantom's marker is, to the last pixel it touches, (N, size, size); else None."""
    if not isinstance(source, Phantom) or "marker" not in source.identity():
        return None
    masks = [source.marker(record).astype(np.float32) for record in records]
    side = (size, size)
    return np.stack([cv2.resize(mask, side, interpolation=cv2.INTER_AREA) > 0 for mask in masks])


def read_attributes(source: Source, records: Sequence[Record]) -> dict[str, Floats]:
    """What a probe can ask for, name -> 1, 0 or NaN, (N,)."""
    sex = [{"M": 1.0, "F": 0.0}.get(record.sex, np.nan) for record in records]
    view = [{"AP": 1.0, "PA": 0.0}.get(record.view, np.nan) for record in records]
    attributes = {"sex: M": sex, "view: AP": view}
    hospitals = {record.hospital for record in records}
    for name in sorted(hospitals) if len(hospitals) > 1 else ():
        attributes[f"hospital: {name}"] = [float(record.hospital == name) for record in records]
    if isinstance(source, Phantom):
        attributes["word: AP or PORT"] = [float(source.word(record) != "") for record in records]
    return {name: np.array(column) for name, column in attributes.items()}


def _align(columns: npt.ArrayLike, own: Sequence[str], labels: Sequence[str]) -> Floats:
    """Columns (N, L) of ``labels`` from those of the data's own, NaN where it lacks one."""
    aligned = np.full((len(np.asarray(columns)), len(labels)), np.nan)
    aligned[:, [labels.index(label) for label in own]] = columns
    return aligned


def _score_floor(
    data: XrayDataModule, rows: npt.NDArray[np.int64], labels: Sequence[str], seed: int
) -> Floats | None:
    train = data.split.subsets["train"]
    learned, shown = ({data.records[row].patient_id for row in places} for places in (train, rows))
    if learned & shown:
        return None  # with images=all or a split that leaks it would know the answers
    scores = score_by_metadata(LabelTable.of(data.records, data.labels), train, rows, seed)
    return None if scores is None else _align(scores, data.labels, labels)
