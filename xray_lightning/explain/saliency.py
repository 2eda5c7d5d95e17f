"""All tests of one map method on one network, and networks whose layers become random again."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from xray_lightning.checkpoint import Checkpoint
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.errors import require_integer
from xray_lightning.evaluation.predict import summarise
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.explain import sanity
from xray_lightning.explain.maps import EVEN, Grids, cell_grids, class_map
from xray_lightning.metrics.intervals import Floats, mean_of_defined
from xray_lightning.models.batches import iterate_batches
from xray_lightning.models.network import XrayNet
from xray_lightning.progress import Report, show_progress
from xray_lightning.records import patient_ids
from xray_lightning.results import Result

FEWEST_NETWORKS = 4  # below, Student's t of what lies between them is hardly ever decided
TESTS = ("randomisation", "permutation", "deletion", "insertion", "seeds", "shifts")
DRAWS = 1000
NETWORKS = 5
STEPS = 8


class Stage(NamedTuple):
    """Layers that become random together."""

    name: str  # of the module they are, or of the first and the last
    layers: tuple[str, ...]  # names of the modules that own parameters


def find_stages(net: nn.Module) -> list[Stage]:
    """The layers in the order in which they become random: the head first, the input last."""
    # ``named_modules`` backwards, a CBAM block, registered last, with the module it stands behind;
    # larger modules than a quarter of the layers are opened, neighbours merged up to an eighth
    layers = _layers(net)
    stages = []
    for name, child in net.named_children():
        merged: list[Stage] = []
        for piece in _split(name, child, len(layers) / 4):
            if merged and len(merged[-1].layers) + len(piece.layers) <= len(layers) / 8:
                first = merged.pop()
                ends = first.name.split(" to ")[0], piece.name
                piece = Stage(" to ".join(ends), first.layers + piece.layers)
            merged.append(piece)
        stages += merged
    if "" in layers:  # parameters of the network itself
        stages.insert(0, Stage("network", ("",)))
    return _place_gates(stages)[::-1]


def _layers(module: nn.Module, name: str = "") -> list[str]:
    """Names of the modules that own parameters."""
    return [own for own, part in module.named_modules(prefix=name) if part._parameters]


def _split(name: str, module: nn.Module, most: float) -> list[Stage]:
    layers, children = _layers(module, name), list(module.named_children())
    if len(layers) <= most or not children:
        return [Stage(name, tuple(layers))] if layers else []
    pieces = [Stage(name, (name,))] if module._parameters else []
    for child, part in children:
        pieces += _split(f"{name}.{child}", part, most)
    return pieces


def _place_gates(stages: Sequence[Stage]) -> list[Stage]:
    """CBAM blocks moved from ``attention`` into the stage of the module they stand behind."""
    layers = [layer for stage in stages for layer in stage.layers]
    blocks = [layer for layer in layers if layer.startswith("attention.")]
    last = {}  # layer of the module that each stands behind
    for block in blocks:
        gated = f"backbone.{block.split('.')[1].replace('-', '.')}."
        last[block] = [layer for layer in layers if f"{layer}.".startswith(gated)][-1]
    moved = []
    for stage in stages:
        if own := [layer for layer in stage.layers if layer not in blocks]:
            behind = [block for block in blocks if last[block] in own]
            moved.append(Stage(stage.name, (*own, *behind)))
    return moved


@torch.no_grad()
def reset(net: nn.Module, layers: Iterable[str], generator: np.random.Generator) -> None:
    """Draw the parameters of these layers anew, in place, on a CPU; torch's random state stays."""
    # By ``reset_parameters``; a module without (layer scale, position embedding, attention) has its
    # values shuffled: they keep their distribution and lose their places; a single number stays.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(generator.integers(2**62)))
        for name in layers:
            module = net.get_submodule(name)
            initialise = getattr(module, "reset_parameters", None)
            if callable(initialise):
                initialise()
                continue
            for values in module.parameters(recurse=False):
                order = torch.randperm(values.numel())
                values.copy_(values.flatten()[order].view_as(values))


@torch.no_grad()
def calibrate(net: nn.Module, layers: Iterable[str], batches: Iterable[Tensor]) -> None:
    """Give the batch norms among these layers the mean statistics of batches (B > 1, 1, H, W)."""
    # with mean 0 and variance 1 the features of a hundred random layers vanish in the rounding, and
    # maps would be noise whatever the method; the network is in evaluation mode
    norms = batch_norms(net, layers)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.training = True
    for batch in batches:
        net(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.training = False


def batch_norms(net: nn.Module, layers: Iterable[str]) -> list[_BatchNorm]:
    """Those of the layers that are batch norms with statistics."""
    modules = map(net.get_submodule, layers)
    return [m for m in modules if isinstance(m, _BatchNorm) and m.track_running_stats]


@dataclass(frozen=True)
class RandomStage(Result):
    """Similarity to the trained network's maps once a stage and those before it are random."""

    name: str
    layers: int
    spearman: sanity.Mean
    absolute: sanity.Mean
    ssim: sanity.Mean


@dataclass(frozen=True)
class Randomisation(sanity.MeasuredTest):
    """Maps of random networks against those of the trained one; the cascade, head first."""

    networks: int = 0
    stages: list[RandomStage] = field(default_factory=list)


def randomise(
    net: nn.Module, study: sanity.Study, original: sanity.Prepared, networks: int
) -> Randomisation:
    """Do maps change when what the network learned is taken away, from the head to the input?"""
    # Adebayo et al., Sanity Checks for Saliency Maps (NeurIPS 2018), sections 3 and 4. Stages are
    # reset and stay so in one network; the verdict is of ``networks`` wholly random ones. "passes":
    # low by :mod:`~.sanity`, and not shown to exceed that of two random networks; "fails": high.
    # Takes S + R - 1 maps of each image for S stages and R networks.
    require_integer("networks", networks, FEWEST_NETWORKS)
    stages, sample = find_stages(net), study.sample
    generator = np.random.default_rng(sample.seed)
    cascade = map_randomised(net, study, [(stage,) for stage in stages], generator)
    random = [cascade[-1]]
    for _ in range(networks - 1):
        random += map_randomised(net, study, [stages], generator)
    steps = zip(stages, (sanity.compare(original, maps) for maps in cascade), strict=True)
    rows = [
        RandomStage(stage.name, len(stage.layers), *map(sample.mean, step.values()))
        for stage, step in steps
    ]
    # similarity of each network's maps to the others', by measure
    alike = {m: np.full((networks, networks, len(study.images)), np.nan) for m in sanity.MEASURES}
    for i, j in combinations(range(networks), 2):
        for m, similarity in sanity.compare(random[j], random[i]).items():
            alike[m][i, j] = alike[m][j, i] = similarity
    controls = {m: mean_of_defined(pairs) for m, pairs in alike.items()}  # (R, N) each
    measures = sanity.compare_networks(original, random, sample, controls)
    return Randomisation.of(measures, networks=networks, stages=rows)


def map_randomised(
    net: nn.Module,
    study: sanity.Study,
    steps: Sequence[Sequence[Stage]],
    generator: np.random.Generator,
) -> list[sanity.Prepared]:
    """Maps after each step, at which these stages become random beside those before."""
    random, device = deepcopy(net).eval(), next(net.parameters()).device
    done: list[str] = []
    maps = []
    for step in steps:
        layers = [layer for stage in step for layer in stage.layers]
        reset(random.cpu(), layers, generator)
        random.to(device)
        done += layers
        if batch_norms(random, done):
            calibrate(random, done, iterate_batches(random, study.images, study.batch, full=True))
            study.advance(len(study.images))
        maps.append(sanity.prepare(study.maps(random)))
    return maps


@dataclass(frozen=True)
class SaliencyTests(Result):
    """Every test of a map method, None where it did not run, and the verdict of those that did."""

    verdict: str = sanity.NOT_RUN
    reason: str = ""  # why nothing ran
    note: str = ""
    finding: str = ""
    randomisation: Randomisation | None = None
    permutation: sanity.MeasuredTest | None = None
    deletion: sanity.Perturbation | None = None
    insertion: sanity.Perturbation | None = None
    seeds: sanity.Similarity | None = None
    shifts: sanity.Similarity | None = None
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
    explain: sanity.Explain,  # the method, ``explain(net, images)``: maps (B, h, w) of one label
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
    """Every test of a map method that can be run, on copies; rules in :mod:`~.sanity`."""
    passes = _count_passes(net, len(others), permuted is not None, networks, steps)
    sample = sanity.Sample.of(patients, draws, seed)
    study = sanity.Study(images, sample, explain, batch, grids, progress, passes * len(images))
    tested = deepcopy(net).eval()  # whatever a method does to it, the network is left alone
    maps = study.maps(tested)
    tests = {
        "randomisation": randomise(net, study, sanity.prepare(maps), networks),
        **_compare_networks(study, maps, others, permuted),
        **sanity.perturb(tested, study, maps, label, steps),
        "shifts": sanity.compare_shifted(tested, study, maps),
    }
    count = study.sample.bootstrap.patients
    too_few = f"{count} patients are too few for an interval, which needs {sanity.FEWEST}"
    verdict = sanity.combine_verdicts(test.verdict for test in tests.values())  # type: ignore[attr-defined]
    flat = float(np.mean(np.ptp(maps, axis=(1, 2)) == 0))
    return SaliencyTests(
        verdict=verdict, note=too_few if count < sanity.FEWEST else "", **tests,  # type: ignore[arg-type]
        images=len(images), patients=count, map=maps.shape[1:], flat=flat,
        maps=study.maps_made, scores=study.scores_made, label=label, draws=draws, seed=seed,
    )  # fmt: skip


def _compare_networks(
    study: sanity.Study, maps: Floats, others: Sequence[nn.Module], permuted: nn.Module | None
) -> dict[str, Result]:
    """The tests with networks of other seeds and of permuted labels, which may not be there."""
    tests: dict[str, Result] = {
        "permutation": sanity.MeasuredTest(reason="no network of permuted labels was given"),
        "seeds": sanity.Similarity(reason="no network of another seed was given"),
    }
    if permuted is not None:
        shuffled = sanity.prepare(study.maps(deepcopy(permuted).eval()))
        measures = sanity.compare_networks(sanity.prepare(maps), [shuffled], study.sample)
        tests["permutation"] = sanity.MeasuredTest.of(measures)
    if others:
        theirs = [study.maps(deepcopy(other).eval()) for other in others]
        tests["seeds"] = sanity.compare_seeds(np.stack([maps, *theirs]), study.sample)
    return tests


def _count_passes(net: nn.Module, others: int, permuted: bool, networks: int, steps: int) -> int:
    """How often each image passes through a network."""
    stages = find_stages(net)
    norms = [bool(batch_norms(net, stage.layers)) for stage in stages]
    random = len(stages) + networks - 1
    first = norms.index(True) if True in norms else random  # stages before it need no calibration
    given = 1 + permuted + others + len(sanity.SHIFTS)
    return random + (random - first) + given + 2 + 6 * (steps - 1)


def choose_finding(data: XrayDataModule, subset: str, validation: Predictions | None) -> str:
    """The finding of best AUROC on validation, on at least 10 patients of a subset; "" if none."""
    if validation is None:
        return ""
    aurocs = summarise(validation, "")["auroc"]["labels"]
    present, patients = data.subset_targets(subset) == 1, patient_ids(data.subset_records(subset))
    known = [
        (aurocs[label], label)
        for label, column in zip(data.labels, present.T, strict=True)
        if aurocs[label] is not None and len(np.unique(patients[column])) >= sanity.FEWEST
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
