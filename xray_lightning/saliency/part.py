"""The saliency tests on images of a part."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.explain import cell_grids, class_map
from xray_lightning.models.network import XrayNet
from xray_lightning.records import Record
from xray_lightning.saliency.facts import saliency_facts
from xray_lightning.saliency.verdicts import FEWEST, NOT_RUN, Facts


def finding_to_test(data: XrayDataModule, part: str, auroc: npt.NDArray[np.float64]) -> str | None:
    """The finding that the network knows best, of those on enough patients of a part.

    Args:
        data: the data.
        part: whose images are to be looked at.
        auroc: on validation, (L,), NaN where undefined.

    Returns:
        None if no finding with a defined AUROC is on at least 10 patients.
    """
    targets, records = data.part_targets(part), data.part_records(part)
    known = [
        (value, label)
        for index, (value, label) in enumerate(zip(auroc, data.labels, strict=True))
        if not np.isnan(value) and _patients(targets[:, index], records) >= FEWEST
    ]
    return max(known)[1] if known else None


def part_saliency(
    net: XrayNet,
    data: XrayDataModule,
    part: str,
    label: str,
    method: str,
    *,
    images: int = 48,
    others: Sequence[XrayNet] = (),
    permuted: XrayNet | None = None,
    draws: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Facts:
    """The facts of :func:`~.facts.saliency_facts` on images of a part that have the finding.

    Args:
        net: in evaluation mode.
        data: gives the images.
        part: "val" or "test".
        label: the finding.
        method: of :func:`~xray_lightning.explain.class_maps`.
        images: at most so many, drawn with ``seed``.
        others: networks trained from other seeds.
        permuted: a network trained on permuted labels.
        draws: of the bootstrap.
        seed: of everything random.
        progress: told the images passed through a network, and how many there will be.
    """
    dataset, records = data.dataset(part), data.part_records(part)
    present = data.part_targets(part)[:, data.labels.index(label)]
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(present == 1)).tolist()[:images]
    patients = [records[row].patient_id for row in rows]
    if len(set(patients)) < 2:
        return {"verdict": NOT_RUN, "reason": f"{label} is on {len(set(patients))} patients only"}
    return saliency_facts(
        net,
        lambda network, batch: class_map(network, batch, label, method=method),
        torch.stack([dataset[row]["image"] for row in rows]),
        patients,
        label=net.labels.index(label),
        grids=cell_grids(net, data.image_size),
        others=others,
        permuted=permuted,
        draws=draws,
        seed=seed,
        progress=progress,
    )


def _patients(targets: npt.NDArray[np.float32], records: Sequence[Record]) -> int:
    return len({records[row].patient_id for row in np.flatnonzero(targets == 1).tolist()})
