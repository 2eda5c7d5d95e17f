"""A network's layers from the head down to the input, and how they become random again."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class Stage:
    """Layers that become random together.

    Attributes:
        name: of the module they are, or of the first and the last.
        layers: names of the modules that own parameters.
    """

    name: str
    layers: tuple[str, ...]


def stages(net: nn.Module) -> list[Stage]:
    """The layers in the order in which they become random: the head first, the input last.

    The order is that of ``named_modules``, backwards; a CBAM block, which the network registers
    last, counts as part of the module it stands behind. A stage holds at most a quarter of the
    layers; larger modules are opened. Neighbours inside one child of the network are merged up to
    an eighth. So ResNet-18 gives its head, its four stages and its stem.
    """
    layers = _layers(net)
    found = []
    for name, child in net.named_children():
        merged: list[Stage] = []
        for piece in _pieces(name, child, len(layers) / 4):
            if merged and len(merged[-1].layers) + len(piece.layers) <= len(layers) / 8:
                first = merged.pop()
                ends = first.name.split(" to ")[0], piece.name
                piece = Stage(" to ".join(ends), first.layers + piece.layers)
            merged.append(piece)
        found += merged
    if "" in layers:  # parameters of the network itself
        found.insert(0, Stage("network", ("",)))
    return _gated(found)[::-1]


def _layers(module: nn.Module, name: str = "") -> list[str]:
    """Names of the modules that own parameters."""
    return [each for each, part in module.named_modules(prefix=name) if part._parameters]


def _pieces(name: str, module: nn.Module, most: float) -> list[Stage]:
    layers = _layers(module, name)
    if not layers:
        return []
    children = list(module.named_children())
    if len(layers) <= most or not children:
        return [Stage(name, tuple(layers))]
    pieces = [Stage(name, (name,))] if module._parameters else []
    for child, part in children:
        pieces += _pieces(f"{name}.{child}", part, most)
    return pieces


def _gated(found: Sequence[Stage]) -> list[Stage]:
    """CBAM blocks moved from ``attention`` into the stage of the module they stand behind."""
    blocks = [layer for each in found for layer in each.layers if layer.startswith("attention.")]
    moved = []
    for stage in found:
        own = [layer for layer in stage.layers if layer not in blocks]
        behind = [block for block in blocks if _last_before(block, found) in own]
        if own:
            moved.append(Stage(stage.name, (*own, *behind)))
    return moved


def _last_before(block: str, found: Sequence[Stage]) -> str:
    """The last layer of the module that a CBAM block's layer stands behind."""
    gated = "backbone." + block.split(".")[1].replace("-", ".")
    layers = [layer for stage in found for layer in stage.layers]
    return [layer for layer in layers if f"{layer}.".startswith(f"{gated}.")][-1]


@torch.no_grad()
def reset(net: nn.Module, layers: Iterable[str], generator: np.random.Generator) -> None:
    """Draw the parameters of these layers anew, in place; torch's own random state stays.

    A module with ``reset_parameters`` (convolutions, linear layers, norms with their affine part
    and statistics) is reset by it. Of any other, such as one that owns a layer scale, a position
    embedding or the projections of an attention, each parameter's values are shuffled: they keep
    their distribution and lose their places; a single number stays. The network lies on the CPU, so
    that a device's random state is not used; ``layers`` names its modules that own parameters;
    ``generator`` is drawn from once.
    """
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
    """Give the batch norms among these layers the statistics of these images.

    With the initial statistics, mean 0 and variance 1, a random network of a hundred layers gives
    features that vanish in the rounding, and its maps would be noise whatever the method. The
    network is in evaluation mode. Each of the batches (B, 1, H, W) has at least two images; the
    mean over batches is taken.
    """
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
