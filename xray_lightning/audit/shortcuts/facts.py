"""All shortcut tests of a network as plain values, with a verdict and its reason for each label."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xray_lightning.audit.baselines import score_by_metadata
from xray_lightning.audit.label_table import LabelTable
from xray_lightning.audit.shortcuts.energy import Energy, energy_of
from xray_lightning.audit.shortcuts.occlusion import (
    Loss,
    answers,
    covered_logits,
    logits_of,
    loss_of,
    pooled_features,
)
from xray_lightning.audit.shortcuts.probe import Probe, probe, untrained
from xray_lightning.audit.shortcuts.verdicts import FLAGGED, UNDECIDED, auroc_over
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.phantom import Phantom
from xray_lightning.data.source import Source
from xray_lightning.errors import ConfigError
from xray_lightning.explain.grid import Grids
from xray_lightning.explain.maps import cell_grids, class_map
from xray_lightning.metrics.bootstrap import (
    Codes,
    Counts,
    Floats,
    patient_codes,
    patient_draws,
    percentile_interval,
)
from xray_lightning.models.network import XrayNet
from xray_lightning.records import Record, patient_ids
from xray_lightning.writing import to_plain

Facts = dict[str, Any]
Maps = Callable[[XrayNet, Tensor, str], Any]  # images (n, 1, H, W), a label -> (n, h, w)

CAUGHT, NOT_CAUGHT = "caught", "not caught"

LIMIT = 2000  # images: a drawn sample of a larger part


def shortcut_facts(
    net: XrayNet,
    images: Tensor,
    targets: npt.NDArray[np.floating],
    patients: npt.ArrayLike,
    *,
    marker: npt.NDArray[np.bool_] | None = None,
    known: Mapping[str, npt.NDArray[np.floating]] | None = None,
    floor: Floats | None = None,
    maps: Maps = class_map,
    draws: int = 1000,
    seed: int = 0,
) -> Facts:
    """Test a network for shortcuts on images it has not learned from.

    A label is *caught* if covering the corners, the border, the letters or the known marker is
    flagged: AUROC falls by more than 0.05, or the mean logits of positives and negatives come
    closer by more than 0.25 standard deviations, and by more than when as much of the body is
    covered; all by the 95 % intervals of a paired bootstrap over patients (see
    :class:`~.occlusion.Loss`). It is *not caught* if no region is flagged and none undecided, and
    *undecided* otherwise. Maps, probes and the floor are evidence beside that and decide nothing: a
    map may point where the score does not come from, and a probe reads what no score need use.

    Args:
        net: in evaluation mode.
        images: (N, 1, H, W) in [0, 1].
        targets: (N, L) of the network's labels, NaN where unknown.
        patients: N ids.
        marker: where a planted marker is, (N, H, W); None where nothing is known.
        known: further facts for the probes, name -> 0, 1 or NaN, (N,).
        floor: scores (N, L) that needed no image, NaN for a label without.
        maps: gives the maps that are judged.
        draws: of the bootstrap.
        seed: of draws, patches, folds and random weights.

    Returns:
        Plain values: "labels" (label with a known target -> "verdict", "reason", "auroc",
        "covered", "maps", "floor"), "probes" (name -> :class:`~.probe.Probe`), "images",
        "patients", "draws", "seed".

    Raises:
        ConfigError: the arrays do not belong together, or there are no images or draws.
    """
    _require_shapes(net, images, targets, marker)
    codes = patient_codes(patients)
    counts = patient_draws(codes, draws, seed)
    values = np.asarray(targets, np.float64)
    logits = logits_of(net, images)
    hidden = covered_logits(net, images, marker, seed)
    grids = cell_grids(net, images.shape[-1])
    labels = {}
    for index, label in enumerate(net.labels):
        column = values[:, index]
        if np.isnan(column).all():  # no label of these images
            continue
        losses = {
            name: loss_of(logits, each, index, column, codes, counts)
            for name, each in hidden.items()
        }
        lit = _map_energy(
            net, images, label, np.flatnonzero(column == 1), codes, counts, maps, grids
        )
        auroc = _auroc(logits[:, index], column, codes, counts)
        verdict, reason = verdict_of(losses, lit, auroc["value"])
        found: Facts = {"verdict": verdict, "reason": reason, "auroc": auroc}
        found |= {"positives": int((column == 1).sum()), "covered": losses, "maps": lit}
        if floor is not None:
            found["floor"] = _auroc(floor[:, index], column, codes, counts)
        labels[label] = found
    asked = {**(known or {}), **{label: values[:, net.labels.index(label)] for label in labels}}
    asked = {name: each for name, each in asked.items() if not np.isnan(each).all()}
    probes = _probes(net, images, asked, codes, counts, seed)
    facts: Facts = to_plain({"labels": labels, "probes": probes})
    sizes = {"images": len(images), "patients": int(counts.shape[1])}
    return facts | sizes | {"draws": draws, "seed": seed}


def verdict_of(
    losses: Mapping[str, Loss], lit: Mapping[str, Energy], auroc: float
) -> tuple[str, str]:
    """Verdict of a label by the rule of :func:`shortcut_facts`, and the reason in a sentence."""
    flagged = [name for name, each in losses.items() if each.verdict == FLAGGED]
    open_ones = [name for name, each in losses.items() if each.verdict == UNDECIDED]
    if flagged:
        worst = max(flagged, key=lambda name: losses[name].logit.region.value)
        reason = _cost(worst, losses[worst], auroc)
    elif open_ones:
        reason = _cost(open_ones[0], losses[open_ones[0]], auroc)
    else:
        most = max(each.auroc.region.value for each in losses.values())
        reason = f"covering any of the regions takes at most {max(most, 0):.3f} of its AUROC"
    there = [name for name, each in lit.items() if each.verdict == FLAGGED]
    if there:
        reason += f"; its maps are denser than in the body in: {', '.join(there)}"
    return CAUGHT if flagged else UNDECIDED if open_ones else NOT_CAUGHT, f"{reason}."


def _cost(name: str, each: Loss, auroc: float) -> str:
    if np.isnan(each.auroc.region.interval[0]):
        return "no interval: too few positives or negatives"
    figures = [
        f"{fall.region.value:.3f} ({fall.region.interval[0]:.3f} to {fall.region.interval[1]:.3f}; "
        f"as much of the body: {fall.control.value:.3f})"
        for fall in (each.auroc, each.logit)
    ]
    return (
        f"covering the {name} takes {figures[0]} of its AUROC of {auroc:.3f}, and brings positives "
        f"and negatives closer by {figures[1]} standard deviations"
    )


def _auroc(scores: Floats, targets: Floats, codes: Codes, counts: Counts) -> Facts:
    if np.isnan(scores).any():
        return {"value": np.nan, "interval": (np.nan, np.nan)}
    draws = auroc_over(scores, targets, codes, counts)
    return {"value": float(draws[0]), "interval": percentile_interval(draws[1:])}


def _map_energy(
    net: XrayNet,
    images: Tensor,
    label: str,
    rows: npt.NDArray[np.intp],
    codes: Codes,
    counts: Counts,
    maps: Maps,
    grids: Grids,
) -> dict[str, Energy]:
    if not len(rows):
        return {}
    chosen = images[torch.from_numpy(rows)]
    found = answers(net, lambda batch: maps(net, batch, label), chosen)
    return energy_of(found, chosen, codes[rows], counts, grids)


def _probes(
    net: XrayNet,
    images: Tensor,
    asked: Mapping[str, npt.NDArray[np.floating]],
    codes: Codes,
    counts: Counts,
    seed: int,
) -> dict[str, Probe]:
    both = [pooled_features(each, images) for each in (net, untrained(net, seed))]
    return {
        name: probe(both[0], both[1], np.asarray(facts, np.float64), codes, counts, seed)
        for name, facts in asked.items()
    }


def _require_shapes(
    net: XrayNet,
    images: Tensor,
    targets: npt.NDArray[np.floating],
    marker: npt.NDArray[np.bool_] | None,
) -> None:
    if images.ndim != 4 or images.shape[1] != 1:
        raise ConfigError(f"expected images of shape (N, 1, H, W), got {tuple(images.shape)}")
    wanted = (len(images), len(net.labels))
    if targets.shape != wanted:
        raise ConfigError(f"expected targets of shape {wanted}, got {targets.shape}")
    if marker is not None and marker.shape != (len(images), *images.shape[2:]):
        raise ConfigError(
            f"expected marker masks of shape {(len(images), *images.shape[2:])}, got {marker.shape}"
        )


def subset_shortcuts(
    net: XrayNet,
    data: XrayDataModule,
    subset: str = "test",
    *,
    maps: Maps = class_map,
    limit: int = LIMIT,
    draws: int = 1000,
    seed: int = 0,
) -> Facts:
    """The facts of :func:`~.facts.shortcut_facts` on images of a part, scored without flips.

    The probes ask for sex, view and, of the phantom, the words of portable films; the floor is the
    audit's: trees on the metadata of the training set. A phantom's planted marker is known. A
    label that the data lacks is unknown in every image. At most ``limit`` images are drawn, with
    ``seed``.
    """
    dataset = data.dataset(subset)
    order = np.random.default_rng(seed).permutation(len(dataset))[:limit]
    chosen = [int(row) for row in np.sort(order)]
    records = [data.subset_records(subset)[row] for row in chosen]
    rows = data.split.subsets[subset][chosen]
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
    columns, train = LabelTable.of(data.records, data.labels), data.split.subsets["train"]
    if {data.records[row].patient_id for row in train} & {
        data.records[row].patient_id for row in rows
    }:
        return None  # with images=all or a split that leaks it would know the answers
    scores = score_by_metadata(columns, train, rows, seed)
    return None if scores is None else _aligned(net, data, scores)
