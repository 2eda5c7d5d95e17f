"""All tests of one method on one network, as plain values."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.explain.grid import EVEN, Grids
from xray_lightning.explain.maps import cell_grids, class_map
from xray_lightning.explain.sanity.evidence import evidence_facts
from xray_lightning.explain.sanity.layers import batch_norms, stages
from xray_lightning.explain.sanity.similarity import (
    SHIFTS,
    permutation_facts,
    prepared,
    randomisation_facts,
    seed_facts,
    shift_facts,
)
from xray_lightning.explain.sanity.study import Explain, Study, copied
from xray_lightning.explain.sanity.verdicts import FEWEST, NOT_RUN, Facts, Sample, together
from xray_lightning.metrics.bootstrap import Floats
from xray_lightning.models.network import XrayNet
from xray_lightning.records import Record

TESTS = ("randomisation", "permutation", "deletion", "insertion", "seeds", "shifts")
DRAWS = 1000
NETWORKS = 5
STEPS = 8


def saliency_facts(
    net: nn.Module,
    explain: Explain,
    images: Tensor,
    patients: npt.ArrayLike,
    *,
    label: int,
    grids: Grids = EVEN,
    others: Sequence[nn.Module] = (),
    permuted: nn.Module | None = None,
    networks: int = NETWORKS,
    steps: int = STEPS,
    draws: int = DRAWS,
    seed: int = 0,
    batch: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Facts:
    """Every test of a map method that can be run, each with numbers, intervals and a verdict.

    The rules stand in :mod:`~.verdicts` and at each test. The networks given are copied: neither
    they nor the random state of torch or NumPy change.

    Args:
        net: gives logits (B, L) of images (B, 1, S, S).
        explain: the method, ``explain(net, images)``: maps (B, h, w) of one label.
        images: (N, 1, S, S) in [0, 1], on the CPU; best with the finding.
        patients: N ids.
        label: position of that label.
        grids: where the cells of the maps see the image.
        others: networks trained like ``net`` from other seeds.
        permuted: a network trained like ``net`` on labels permuted among the training images.
        networks: wholly random ones that the verdict on randomisation rests on.
        steps: of deletion and insertion.
        draws: of the bootstrap over patients.
        seed: of everything random.
        batch: images at a time, at least 2.
        progress: told the images passed through a network, and how many there will be.

    Returns:
        A key for each of ``TESTS``, whose "verdict" is "passes", "fails", "undecided" or "not run";
        "verdict" of all that ran; "note" if there are too few patients; "images", "patients",
        "map" (its shape), "flat" (share of maps with one value everywhere, as Grad-CAM's where all
        evidence is negative), "maps" and "scores" (how many of them were made), "label", "draws",
        "seed".

    Raises:
        ConfigError: shapes that do not fit, one patient, or a setting out of range.
    """
    each = _passes(net, len(others), permuted is not None, networks, steps)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, each * len(images))

    study = Study(images, Sample.of(patients, draws, seed), explain, batch, advance, grids)
    judged = copied(net)
    maps = study.maps(judged)
    tests = {
        "randomisation": randomisation_facts(net, study, prepared(maps), networks),
        "permutation": _permutation(study, maps, permuted),
        **evidence_facts(judged, study, maps, label, steps),
        "seeds": _seeds(study, maps, others),
        "shifts": shift_facts(judged, study, maps),
    }
    count = study.sample.counts.shape[1]
    too_few = f"{count} patients are too few for an interval, which needs {FEWEST}"
    return {
        **tests,
        "verdict": together(test["verdict"] for test in tests.values()),
        "note": too_few if count < FEWEST else "",
        "images": len(images),
        "patients": count,
        "map": list(maps.shape[1:]),
        "flat": float(np.mean(np.ptp(maps, axis=(1, 2)) == 0)),
        "maps": study.maps_made,
        "scores": study.scores_made,
        "label": label,
        "draws": draws,
        "seed": seed,
    }


def _permutation(study: Study, maps: Floats, permuted: nn.Module | None) -> Facts:
    if permuted is None:
        return {"verdict": NOT_RUN, "reason": "no network trained on permuted labels was given"}
    shuffled = prepared(study.maps(copied(permuted)))
    return permutation_facts(shuffled, prepared(maps), study.sample)


def _seeds(study: Study, maps: Floats, others: Sequence[nn.Module]) -> Facts:
    if not others:
        return {"verdict": NOT_RUN, "reason": "no network of another seed was given"}
    found = [study.maps(copied(other)) for other in others]
    return seed_facts(np.stack([maps, *found]), study.sample)


def _passes(net: nn.Module, others: int, permuted: bool, networks: int, steps: int) -> int:
    """How often each image passes through a network."""
    subsets = stages(net)
    norms = [bool(batch_norms(net, subset.layers)) for subset in subsets]
    random = len(subsets) + networks - 1
    first = norms.index(True) if True in norms else random  # stages before it need no calibration
    return random + (random - first) + 1 + permuted + others + len(SHIFTS) + 2 + 6 * (steps - 1)


def finding_to_test(
    data: XrayDataModule, subset: str, auroc: npt.NDArray[np.float64]
) -> str | None:
    """The finding that the network knows best, of those on enough patients of a part.

    ``auroc`` (L,) is that on validation, NaN where undefined.

    Returns:
        None if no finding with a defined AUROC is on at least 10 patients.
    """
    targets, records = data.subset_targets(subset), data.subset_records(subset)
    known = [
        (value, label)
        for index, (value, label) in enumerate(zip(auroc, data.labels, strict=True))
        if not np.isnan(value) and _patients(targets[:, index], records) >= FEWEST
    ]
    return max(known)[1] if known else None


def subset_saliency(
    net: XrayNet,
    data: XrayDataModule,
    subset: str,
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

    At most ``images`` of them, drawn with ``seed``; the methods are those of
    :func:`~xray_lightning.explain.class_maps`.
    """
    dataset, records = data.dataset(subset), data.subset_records(subset)
    present = data.subset_targets(subset)[:, data.labels.index(label)]
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
