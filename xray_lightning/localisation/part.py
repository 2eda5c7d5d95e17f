"""The images of a part that have boxes, and their maps by every method."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.phantom import Phantom
from xray_lightning.data.source import Source
from xray_lightning.explain import cell_grids
from xray_lightning.grid import shrunk
from xray_lightning.localisation.located import Located
from xray_lightning.metrics.pointing import Heat
from xray_lightning.models.network import XrayNet
from xray_lightning.overlays import Place, looked_at, square_boxes
from xray_lightning.records import Record


def boxed_places(data: XrayDataModule, part: str) -> list[Place]:
    """Row and finding of every image and finding with a box, finding by finding."""
    boxed = [{box.label for box in record.boxes} for record in data.part_records(part)]
    return [(row, label) for label in data.labels for row, names in enumerate(boxed)
            if label in names]  # fmt: skip


def located_part(
    net: XrayNet,
    data: XrayDataModule,
    part: str,
    methods: Sequence[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Located]:
    """Maps, boxes and, of a phantom, masks of each finding that has boxes in a part.

    Args:
        net: the network.
        data: its data.
        part: "val" or "test".
        methods: of :func:`~xray_lightning.explain.class_maps`.
        progress: told the maps made, and how many there will be.
    """
    places = boxed_places(data, part)
    maps: dict[str, dict[str, list[Heat]]] = {label: {} for _, label in places}
    for number, method in enumerate(methods):
        seen = looked_at(net, data, part, places, method=method)
        for done, ((_, label), _, heat) in enumerate(seen, 1):
            maps[label].setdefault(method, []).append(heat)
            progress(number * len(places) + done, len(methods) * len(places))
    found, grids = {}, cell_grids(net, data.image_size)
    for label, by_method in maps.items():
        rows = [row for row, name in places if name == label]
        records = [data.part_records(part)[row] for row in rows]
        found[label] = Located(
            {method: np.stack(heats) for method, heats in by_method.items()},
            [square_boxes(data, part, row, label) for row in rows],
            [record.patient_id for record in records],
            exact_masks(data.source, records, label, data.image_size),
            grids,
        )
    return found


def exact_masks(
    source: Source, records: Sequence[Record], label: str, size: int
) -> npt.NDArray[np.bool_] | None:
    """Where a phantom drew a finding, (N, size, size); None for other data.

    A pixel counts if the finding covers half of it; of a finding that covers no pixel by half,
    those it covers most.
    """
    if not isinstance(source, Phantom):
        return None
    covered = [shrunk(source.mask(record, label), (size, size)) for record in records]
    return np.stack([share >= min(0.5, share.max()) for share in covered])
