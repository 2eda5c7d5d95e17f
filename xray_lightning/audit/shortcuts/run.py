"""All shortcut tests of a network, with a verdict and its reason for each label."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xray_lightning.audit.shortcuts.occlusion import (
    BATCH,
    CLEAR,
    FLAGGED,
    RISING,
    UNDECIDED,
    Energy,
    ScoreDrop,
    measure_drop,
    measure_energy,
    occlude,
    predict_logits,
)
from xray_lightning.audit.shortcuts.probe import Probe, build_untrained, pool_features
from xray_lightning.audit.shortcuts.sample import LIMIT, Sample, draw_sample
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.explain.maps import cell_grids, class_map
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.intervals import Estimate, Floats
from xray_lightning.models.batches import iterate_batches
from xray_lightning.models.network import XrayNet
from xray_lightning.results import Result
from xray_lightning.wording import tell

Maps = Callable[[XrayNet, Tensor, str], Any]  # images (n, 1, H, W), a label -> (n, h, w)

WORDS = "xray_lightning.audit"  # whose sentences
CAUGHT, NOT_CAUGHT = "caught", "not caught"
OF_LABEL = {FLAGGED: CAUGHT, UNDECIDED: UNDECIDED, CLEAR: NOT_CAUGHT}


@dataclass(frozen=True)
class LabelShortcut(Result):
    """What the tests say of one label."""

    verdict: str  # caught, not caught or undecided, see :func:`examine`
    reason: str  # in a sentence
    auroc: Estimate
    positives: int
    covered: dict[str, ScoreDrop]  # by region
    maps: dict[str, Energy]  # by region; {} without positives
    floor: Estimate | None = None  # AUROC of the scores that needed no image


@dataclass(frozen=True)
class Shortcuts(Result):
    """Which labels a network reads off the film instead of the chest; shortcuts.json."""

    labels: dict[str, LabelShortcut]  # those with a known target
    probes: dict[str, Probe]  # by attribute or label
    images: int
    patients: int
    draws: int
    seed: int
    data: str = ""
    fingerprint: str = ""  # of the images they were drawn from
    weights_sha256: str = ""


def find_shortcuts(
    net: XrayNet,
    data: XrayDataModule,
    subset: str = "test",
    *,
    maps: Maps = class_map,
    limit: int = LIMIT,
    draws: int = 1000,
    seed: int = 0,
) -> Shortcuts:
    """Test a network in evaluation mode on a subset it has not learned from, see :func:`examine`.

    At most ``limit`` images are drawn; ``maps`` gives the maps whose energy is measured, ``seed``
    is that of images, draws over patients, patches, folds and random weights.
    """
    sample = draw_sample(data, subset, net.labels, limit=limit, seed=seed)
    shortcuts = examine(net, sample, maps=maps, draws=draws, seed=seed)
    fingerprint = data.split.subset_fingerprints[subset]
    return replace(shortcuts, data=data.source.title, fingerprint=fingerprint)


def examine(
    net: XrayNet, sample: Sample, *, maps: Maps = class_map, draws: int = 1000, seed: int = 0
) -> Shortcuts:
    """Test a network for shortcuts on images it has not learned from."""
    # The rule, its two limits and what stands beside the verdict: audit/README.md, "What the
    # shortcut tests decide". Regions: corners, border, letters and a known marker.
    bootstrap = PatientBootstrap(sample.patients, draws, seed)
    logits = predict_logits(net, sample.images)
    occlusions = occlude(net, sample.images, sample.marker, seed)
    columns = {
        label: column
        for label, column in zip(net.labels, sample.targets.T.astype(np.float64), strict=True)
        if not np.isnan(column).all()
    }
    labels = {}
    for label, column in columns.items():
        index, rows = net.labels.index(label), np.flatnonzero(column == 1)
        drops = {
            region: measure_drop(logits, occlusion, index, column, bootstrap)
            for region, occlusion in occlusions.items()
        }
        energy = _measure_maps(net, sample.images[rows], label, bootstrap.subset(rows), maps)
        auroc = Estimate.of_draws(bootstrap.auroc(logits[:, index], column))
        scores = None if sample.floor is None else sample.floor[:, index]
        floor = None if scores is None else _estimate_floor(scores, column, bootstrap)
        verdict, reason = decide(drops, energy, auroc.value)
        labels[label] = LabelShortcut(verdict, reason, auroc, len(rows), drops, energy, floor)
    nets = net, build_untrained(net, seed)
    features = [pool_features(model, sample.images) for model in nets]
    probes = {
        name: Probe.of(features, attribute, bootstrap, seed)
        for name, attribute in {**sample.attributes, **columns}.items()
        if not np.isnan(attribute).all()
    }
    return Shortcuts(labels, probes, len(sample.images), bootstrap.patients, draws, seed)


def decide(
    drops: Mapping[str, ScoreDrop], energy: Mapping[str, Energy], auroc: float
) -> tuple[str, str]:
    """Verdict of a label by the rule of audit/README.md, and the reason in a sentence."""
    verdict = max((drop.verdict for drop in drops.values()), key=RISING.index)
    worst, *more = (name for name, drop in drops.items() if drop.verdict == verdict)
    if verdict != UNDECIDED:
        kind = "auroc" if verdict == CLEAR else "logit"
        worst = max([worst, *more], key=lambda name: getattr(drops[name], kind).region.value)
    dense = [name for name, region in energy.items() if region.verdict == FLAGGED]
    about = worst, drops[worst], auroc, verdict == CLEAR, dense
    return OF_LABEL[verdict], tell(WORDS, "shortcut", *about)[0]


def write_gist(shortcuts: Shortcuts) -> str:
    """Which labels were caught, and how many not, in a line."""
    return tell(WORDS, "caught", shortcuts.labels)[0]


def _estimate_floor(scores: Floats, targets: Floats, bootstrap: PatientBootstrap) -> Estimate:
    """NaN where there are no scores."""
    known = not np.isnan(scores).any()
    return Estimate.of_draws(bootstrap.auroc(scores, targets)) if known else Estimate(np.nan)


def _measure_maps(
    net: XrayNet, images: Tensor, label: str, bootstrap: PatientBootstrap, maps: Maps
) -> dict[str, Energy]:
    """Of images (n, 1, H, W) with the label; {} without any."""
    if not len(images):
        return {}
    batches = [maps(net, batch, label) for batch in iterate_batches(net, images, BATCH)]
    evidence = torch.cat([torch.as_tensor(batch).cpu() for batch in batches]).double().numpy()
    return measure_energy(evidence, images, bootstrap, cell_grids(net, images.shape[-1]))
