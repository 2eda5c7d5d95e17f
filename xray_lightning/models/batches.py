"""Images through a network: a batch at a time, in evaluation mode, its modules watched."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def iterate_batches(
    net: nn.Module, images: Tensor, batch_size: int, *, full: bool = False
) -> Iterator[Tensor]:
    """Batches (B, ...) of images (N, ...) on the network's device, B at most ``batch_size``."""
    # ``full`` spreads the remainder over the others, so that none has fewer than ``batch_size`` (if
    # N has): for batch statistics, and methods that need two images.
    device = next(net.parameters()).device
    count = max(1, len(images) // batch_size)
    for batch in images.tensor_split(count) if full else torch.split(images, batch_size):
        yield batch.to(device)


def run_batches(
    net: nn.Module,  # tells the device; the function, if none is given
    images: Tensor,  # (N, ...) on any device, N at least 1
    # of a batch (B, ...) on the network's device, to (B, ...)
    function: Callable[[Tensor], Tensor] | None = None,
    *,
    batch_size: int = 64,  # images per batch
    full: bool = False,  # see ``iterate_batches``
) -> Tensor:
    """What a function gives for images, without gradients, on the CPU; the network's mode stays."""
    function = function or net
    with torch.no_grad():
        batches = iterate_batches(net, images, batch_size, full=full)
        return torch.cat([function(batch).cpu() for batch in batches])


@contextmanager
def evaluation_mode(net: nn.Module) -> Iterator[None]:
    """Evaluation mode within, then each module's own mode again."""
    modes = [(module, module.training) for module in net.modules()]  # a frozen norm has another
    try:
        net.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def record_outputs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Any]]]:
    """What each module gives within, by its name, one entry a call."""
    outputs: dict[str, list[Any]] = {name: [] for name in modules}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: outputs[name].append(output)

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_hook(keep(name)))
        yield outputs
