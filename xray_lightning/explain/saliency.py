"""All tests of one map method on one network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from xray_lightning.checkpoint import Checkpoint
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.evaluation.predict import summarise
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.explain.grid import EVEN, Grids
from xray_lightning.explain.maps import cell_grids, class_map
from xray_lightning.explain.sanity import study as rules
from xray_lightning.explain.sanity.evidence import Perturbation, perturb
from xray_lightning.explain.sanity.randomisation import (
    Randomisation,
    batch_norms,
    find_stages,
    randomise,
)
from xray_lightning.explain.sanity.study import (
    FEWEST,
    NOT_RUN,
    SHIFTS,
    MeasuredTest,
    Sample,
    Similarity,
    compare_permuted,
    compare_seeds,
    compare_shifted,
    prepare,
)
from xray_lightning.metrics.intervals import Floats
from xray_lightning.models.network import XrayNet
from xray_lightning.progress import Report, show_progress
from xray_lightning.records import patient_ids
from xray_lightning.results import Result

TESTS = ("randomisation", "permutation", "deletion", "insertion", "seeds", "shifts")
DRAWS = 1000
NETWORKS = 5
STEPS = 8


@dataclass(frozen=True)
class SaliencyTests(Result):
    """Every test of a map method, None where it did not run, and the verdict of those that did."""

    verdict: str = NOT_RUN
    reason: str = ""  # why nothing ran
    note: str = ""
    finding: str = ""
    randomisation: Randomisation | None = None
    permutation: MeasuredTest | None = None
    deletion: Perturbation | None = None
    insertion: Perturbation | None = None
    seeds: Similarity | None = None
    shifts: Similarity | None = None
    images: int = 0
    patients: int = 0
    map: tuple[int, ...] = ()  # the shape of one
    flat: float = float("nan")  # share with one value, as Grad-CAM's where all evidence is negative
    maps: int = 0
    scores: int = 0
    label: int = 0
    draws: int = DRAWS
    seed: int = 0

    def verdict_of(self, test: str) -> str:
        """Of one of ``TESTS``."""
        result = getattr(self, test)
        return self.verdict if result is None else str(result.verdict)


def run_saliency_tests(
    net: nn.Module,  # gives logits (B, L) of images (B, 1, S, S)
    explain: rules.Explain,  # the method, ``explain(net, images)``: maps (B, h, w) of one label
    images: Tensor,  # (N, 1, S, S) in [0, 1], on the CPU; best with the finding
    patients: npt.ArrayLike,  # N ids
    *,
    label: int,  # position of that label
    grids: Grids = EVEN,  # where the cells of the maps see the image
    others: Sequence[nn.Module] = (),  # networks trained like ``net`` from other seeds
    # a network trained like ``net`` on labels permuted among the training images
    permuted: nn.Module | None = None,
    networks: int = NETWORKS,  # wholly random ones that the verdict on randomisation rests on
    steps: int = STEPS,  # of deletion and insertion
    draws: int = DRAWS,  # of the bootstrap over patients
    seed: int = 0,  # of everything random
    batch: int = 16,  # images at a time, at least 2
    # told the images passed through a network, and how many there will be
    progress: Report = lambda done, total: None,
) -> SaliencyTests:
    """Every test of a map method that can be run, on copies; rules in :mod:`~.sanity.study`."""
    passes = _count_passes(net, len(others), permuted is not None, networks, steps)
    total = passes * len(images)
    sample = Sample.of(patients, draws, seed)
    study = rules.Study(images, sample, explain, batch, grids, progress, total)
    tested = rules.copy_network(net)
    maps = study.maps(tested)
    tests = {
        "randomisation": randomise(net, study, prepare(maps), networks),
        **_compare_networks(study, maps, others, permuted),
        **perturb(tested, study, maps, label, steps),
        "shifts": compare_shifted(tested, study, maps),
    }
    count = study.sample.bootstrap.patients
    too_few = f"{count} patients are too few for an interval, which needs {FEWEST}"
    verdict = rules.combine_verdicts(test.verdict for test in tests.values())  # type: ignore[attr-defined]
    flat = float(np.mean(np.ptp(maps, axis=(1, 2)) == 0))
    return SaliencyTests(
        verdict=verdict, note=too_few if count < FEWEST else "", **tests,  # type: ignore[arg-type]
        images=len(images), patients=count, map=maps.shape[1:], flat=flat,
        maps=study.maps_made, scores=study.scores_made, label=label, draws=draws, seed=seed,
    )  # fmt: skip


def _compare_networks(
    study: rules.Study, maps: Floats, others: Sequence[nn.Module], permuted: nn.Module | None
) -> dict[str, Result]:
    """The tests with networks of other seeds and of permuted labels, which may not be there."""
    tests: dict[str, Result] = {
        "permutation": MeasuredTest(reason="no network trained on permuted labels was given"),
        "seeds": Similarity(reason="no network of another seed was given"),
    }
    if permuted is not None:
        shuffled = prepare(study.maps(rules.copy_network(permuted)))
        tests["permutation"] = compare_permuted(shuffled, prepare(maps), study.sample)
    if others:
        theirs = [study.maps(rules.copy_network(other)) for other in others]
        tests["seeds"] = compare_seeds(np.stack([maps, *theirs]), study.sample)
    return tests


def _count_passes(net: nn.Module, others: int, permuted: bool, networks: int, steps: int) -> int:
    """How often each image passes through a network."""
    stages = find_stages(net)
    norms = [bool(batch_norms(net, stage.layers)) for stage in stages]
    random = len(stages) + networks - 1
    first = norms.index(True) if True in norms else random  # stages before it need no calibration
    return random + (random - first) + 1 + permuted + others + len(SHIFTS) + 2 + 6 * (steps - 1)


def choose_finding(data: XrayDataModule, subset: str, validation: Predictions | None) -> str:
    """The finding of best AUROC on validation, on at least 10 patients of a subset; "" if none."""
    if validation is None:
        return ""
    aurocs = summarise(validation, "")["auroc"]["labels"]
    present, patients = data.subset_targets(subset) == 1, patient_ids(data.subset_records(subset))
    known = [
        (aurocs[label], label)
        for label, column in zip(data.labels, present.T, strict=True)
        if aurocs[label] is not None and len(np.unique(patients[column])) >= FEWEST
    ]
    return max(known, default=(0.0, ""))[1]


def run_subset_tests(
    net: XrayNet,
    data: XrayDataModule,
    subset: str,
    label: str,  # "": no tests
    methods: Sequence[str],
    others: Sequence[Checkpoint],  # from other seeds
    permuted: Sequence[Checkpoint],  # one, or none
    *,
    images: int,
    draws: int,
    seed: int,
    progress: bool,
) -> dict[str, SaliencyTests]:
    """:func:`run_saliency_tests` of each method, on at most ``images`` with the finding."""
    if not label or not methods:
        return {}
    dataset, records = data.dataset(subset), data.subset_records(subset)
    present = data.subset_targets(subset)[:, data.labels.index(label)]
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(present == 1)).tolist()[:images]
    patients = [records[row].patient_id for row in rows]
    if (count := len(set(patients))) < 2:
        few = SaliencyTests(reason=f"{label} is on {count} patients only", finding=label)
        return dict.fromkeys(methods, few)
    shown = torch.stack([dataset[row]["image"] for row in rows])
    grids, tests = cell_grids(net, data.image_size), {}
    for method in methods:
        with show_progress(f"saliency tests of {method}, {label}", shown=progress) as report:
            explain = partial(class_map, label=label, method=method)
            of_method = run_saliency_tests(
                net, explain, shown, patients, label=net.labels.index(label), grids=grids,
                others=[other.build_net() for other in others],
                permuted=permuted[0].build_net() if permuted else None,
                draws=draws, seed=seed, progress=report,
            )  # fmt: skip
        tests[method] = replace(of_method, finding=label)
    return tests
