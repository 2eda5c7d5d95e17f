"""The shortcut tests on a part of a data set."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch

from xray_lightning.audit.baselines import metadata_scores
from xray_lightning.audit.columns import Columns
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.phantom import Phantom
from xray_lightning.data.source import Source
from xray_lightning.explain import class_map
from xray_lightning.metrics.clusters import Floats
from xray_lightning.models.network import XrayNet
from xray_lightning.records import Record, patient_ids
from xray_lightning.shortcuts.facts import Facts, Maps, shortcut_facts

LIMIT = 2000  # images: a drawn sample of a larger part


def part_shortcuts(
    net: XrayNet,
    data: XrayDataModule,
    part: str = "test",
    *,
    maps: Maps = class_map,
    limit: int = LIMIT,
    draws: int = 1000,
    seed: int = 0,
) -> Facts:
    """The facts of :func:`~.facts.shortcut_facts` on images of a part, scored without flips.

    The probes ask for sex, view and, of the phantom, the words of portable films; the floor is the
    audit's: trees on the metadata of the training part. A phantom's planted marker is known.

    Args:
        net: in evaluation mode; a label that the data lacks is unknown in every image.
        data: gives the images and the training part's metadata.
        part: "val" or "test".
        maps: gives the maps that are judged.
        limit: at most so many images, drawn with ``seed``.
        draws: of the bootstrap.
        seed: of everything random.
    """
    dataset = data.dataset(part)
    order = np.random.default_rng(seed).permutation(len(dataset))[:limit]
    chosen = [int(row) for row in np.sort(order)]
    records = [data.part_records(part)[row] for row in chosen]
    rows = data.split.parts[part][chosen]
    return shortcut_facts(
        net,
        torch.stack([dataset[row]["image"] for row in chosen]),
        _aligned(net, data, data.targets[rows].astype(np.float64)),
        patient_ids(records),
        marker=planted(data.source, records, data.image_size),
        known=known_facts(data.source, records),
        floor=_floor(net, data, rows, seed),
        maps=maps,
        draws=draws,
        seed=seed,
    )


def planted(source: Source, records: Sequence[Record], size: int) -> npt.NDArray[np.bool_] | None:
    """Where a phantom's marker is, to the last pixel it touches, (N, size, size); else None."""
    if not isinstance(source, Phantom) or "marker" not in source.identity():
        return None
    masks = [source.marker(record).astype(np.float32) for record in records]
    side = (size, size)
    return np.stack([cv2.resize(mask, side, interpolation=cv2.INTER_AREA) > 0 for mask in masks])


def known_facts(source: Source, records: Sequence[Record]) -> dict[str, Floats]:
    """What a probe can ask for, name -> 1, 0 or NaN, (N,)."""
    sex = [{"M": 1.0, "F": 0.0}.get(record.sex, np.nan) for record in records]
    view = [{"AP": 1.0, "PA": 0.0}.get(record.view, np.nan) for record in records]
    found = {"sex: M": np.array(sex), "view: AP": np.array(view)}
    if isinstance(source, Phantom):
        found["word: AP or PORT"] = np.array(
            [float(source.word(record) != "") for record in records]
        )
    return found


def _aligned(net: XrayNet, data: XrayDataModule, values: Floats) -> Floats:
    """Columns (N, L) of the network's labels from those of the data's, NaN where it lacks one."""
    found = np.full((len(values), len(net.labels)), np.nan)
    found[:, [net.labels.index(label) for label in data.labels]] = values
    return found


def _floor(
    net: XrayNet, data: XrayDataModule, rows: npt.NDArray[np.int64], seed: int
) -> Floats | None:
    columns, train = Columns.of(data.records, data.labels), data.split.parts["train"]
    if {data.records[row].patient_id for row in train} & {
        data.records[row].patient_id for row in rows
    }:
        return None  # with images=all or a split that leaks it would know the answers
    scores = metadata_scores(columns, train, rows, seed)
    return None if scores is None else _aligned(net, data, scores)
