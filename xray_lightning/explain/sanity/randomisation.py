"""Maps of a network whose layers become random again, from the head down to the input."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from xray_lightning.errors import require_integer
from xray_lightning.explain.sanity import study as rules
from xray_lightning.explain.sanity.study import (
    MEASURES,
    Mean,
    Prepared,
    Sample,
    Similarity,
    Study,
    compare,
    compare_pairs,
    prepare,
)
from xray_lightning.metrics.intervals import mean_of_defined
from xray_lightning.models.batches import iterate_batches
from xray_lightning.results import Result

FEWEST_NETWORKS = 4  # of which a bootstrap draws the same one only in 2 % of cases


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
    layers = _layers(module, name)
    if not layers:
        return []
    children = list(module.named_children())
    if len(layers) <= most or not children:
        return [Stage(name, tuple(layers))]
    pieces = [Stage(name, (name,))] if module._parameters else []
    for child, part in children:
        pieces += _split(f"{name}.{child}", part, most)
    return pieces


def _place_gates(stages: Sequence[Stage]) -> list[Stage]:
    """CBAM blocks moved from ``attention`` into the stage of the module they stand behind."""
    blocks = [layer for stage in stages for layer in stage.layers if layer.startswith("attention.")]
    moved = []
    for stage in stages:
        own = [layer for layer in stage.layers if layer not in blocks]
        behind = [block for block in blocks if _last_before(block, stages) in own]
        if own:
            moved.append(Stage(stage.name, (*own, *behind)))
    return moved


def _last_before(block: str, stages: Sequence[Stage]) -> str:
    """The last layer of the module that a CBAM block's layer stands behind."""
    gated = "backbone." + block.split(".")[1].replace("-", ".")
    layers = [layer for stage in stages for layer in stage.layers]
    return [layer for layer in layers if f"{layer}.".startswith(f"{gated}.")][-1]


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
    spearman: Mean
    absolute: Mean
    ssim: Mean


@dataclass(frozen=True)
class Randomisation(rules.MeasuredTest):
    """Maps of random networks against those of the trained one; the cascade, head first."""

    networks: int = 0
    stages: list[RandomStage] = field(default_factory=list)


def randomise(net: nn.Module, study: Study, original: Prepared, networks: int) -> Randomisation:
    """Do maps change when what the network learned is taken away, from the head to the input?"""
    # Adebayo et al., Sanity Checks for Saliency Maps (NeurIPS 2018), sections 3 and 4. Stages are
    # reset and stay so in one network; the verdict is of ``networks`` wholly random ones. "passes":
    # low by :mod:`~.study`, and not shown to exceed that of two random networks; "fails": high.
    # Takes S + R - 1 maps of each image for S stages and R networks.
    require_integer("networks", networks, FEWEST_NETWORKS)
    stages, sample = find_stages(net), study.sample
    generator = np.random.default_rng(sample.seed)
    cascade = map_randomised(net, study, [(stage,) for stage in stages], generator)
    random = [cascade[-1]]
    for _ in range(networks - 1):
        random += map_randomised(net, study, [stages], generator)
    steps = zip(stages, (compare(original, maps) for maps in cascade), strict=True)
    return Randomisation.of(
        _compare_random(original, random, sample),
        networks=networks,
        stages=[
            RandomStage(stage.name, len(stage.layers), *(sample.mean(step[m]) for m in MEASURES))
            for stage, step in steps
        ],
    )


def map_randomised(
    net: nn.Module, study: Study, steps: Sequence[Sequence[Stage]], generator: np.random.Generator
) -> list[Prepared]:
    """Maps after each step, at which these stages become random beside those before."""
    random, device = rules.copy_network(net), next(net.parameters()).device
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
        maps.append(prepare(study.maps(random)))
    return maps


def _compare_random(
    original: Prepared, random: Sequence[Prepared], sample: Sample
) -> dict[str, Similarity]:
    """The similarity by each measure, of (R, N)."""
    numbers = range(len(random))
    from_original = compare_pairs([(original, maps) for maps in random], sample)
    pairs = {(i, j): compare(random[i], random[j]) for i in numbers for j in range(i)}
    results = {}
    for name in MEASURES:
        among = [  # of one random network to the others, (N,)
            mean_of_defined(np.stack([pairs[pair][name] for pair in pairs if network in pair]))
            for network in numbers
        ]
        control = np.stack(among)
        results[name] = sample.rate_similarity(*from_original[name], high=False, control=control)
    return results
