"""Optimisers over parameter groups, and learning-rate schedules."""

import inspect
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

from timm.models._manipulate import group_with_matcher
from torch import nn
from torch.optim import Optimizer

from xray_lightning.errors import ConfigError, require_integer, require_number
from xray_lightning.wording import fault

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]


def make_optimizer(
    factory: OptimizerFactory,
    net: nn.Module,
    head_lr: float | None = None,
    layer_decay: float | None = None,
) -> Optimizer:
    """The optimiser over :func:`parameter_groups`, each at its share of the learning rate."""
    groups = parameter_groups(net, head_lr, layer_decay)
    try:
        optimizer = factory(groups)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optim.optimizer: {error}") from error
    for group in optimizer.param_groups:
        if "lr_scale" in group:
            group["lr"] *= group["lr_scale"]
        require_number(f"the learning rate of {group['name']}", group["lr"], 0)
    return optimizer


def fuse(factory: Any, device: str, clip: float | None) -> OptimizerFactory:
    """One kernel a step on a GPU, where torch has one and Lightning clips no gradients before."""
    known = inspect.signature(getattr(factory, "func", factory)).parameters
    unsaid = "fused" in known and "fused" not in getattr(factory, "keywords", {})
    return partial(factory, fused=True) if unsaid and device == "cuda" and not clip else factory


def parameter_groups(
    net: nn.Module, head_lr: float | None = None, layer_decay: float | None = None
) -> list[dict[str, Any]]:
    """Backbone and head (all that is not the backbone's), each with and without weight decay."""
    # Norms and biases (vectors) are not decayed. All parameters are in the groups from the start,
    # frozen or not, so that a resumed run finds its optimiser state. With ``layer_decay`` the
    # backbone falls into a group a layer, each with its ``lr_scale``.
    backbone = getattr(net, "backbone", None)
    depths = {} if layer_decay is None else layer_depths(backbone, layer_decay)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in net.named_parameters():
        part, _, rest = name.partition(".")
        key = "backbone" if part == "backbone" else "head"
        settings = {"lr": head_lr} if key == "head" and head_lr is not None else {}
        if key == "backbone" and layer_decay is not None:
            key = f"backbone_{depths[rest]}"
            settings["lr_scale"] = layer_decay ** depths[rest]
        if parameter.ndim <= 1:
            key += "_without_decay"
            settings["weight_decay"] = 0.0
        groups.setdefault(key, {"name": key, "params": [], **settings})["params"].append(parameter)
    return list(groups.values())


def layer_depths(backbone: Any, layer_decay: float) -> dict[str, int]:
    """Layers between each parameter of a timm network and its head, by name."""
    # timm's own count (``timm.optim.param_groups_layer_decay``, after BEiT, Bao 2021): the head and
    # a norm before it are layer 0, the last block is layer 1.
    require_number("optim.layer_decay", layer_decay, 0, 1, "(]")
    stated = getattr(backbone, "pretrained_cfg", {})
    heads = stated.get("classifier")
    if not heads or not hasattr(backbone, "group_matcher"):
        raise ConfigError(fault("no_layers", stated.get("architecture")))
    head = f"{heads if isinstance(heads, str) else heads[0]}.weight"  # the bare backbone lacks it
    named = chain(backbone.named_parameters(), [(head, None)])
    layers = group_with_matcher(named, backbone.group_matcher(coarse=False), reverse=True)
    return {name: layers[head] - layer for name, layer in layers.items()}


class Constant:
    """Linear warm-up, then the full learning rate. A schedule is a factor of the learning rate.

    An object of plain numbers and not a function: LambdaLR stores it in the checkpoint.
    ``warmup_epochs``: of linear growth from almost 0; ConfigError: a negative one.
    """

    def __init__(self, *, warmup_epochs: float = 0.0) -> None:
        self.warmup_epochs = require_number("schedule.warmup_epochs", warmup_epochs, 0)
        self.total_steps, self.steps_per_epoch = 1.0, 1.0

    def start(self, total_steps: int, steps_per_epoch: float) -> None:
        """Told by the task before the first step."""
        self.total_steps, self.steps_per_epoch = float(total_steps), float(steps_per_epoch)

    def __call__(self, step: int) -> float:
        """Factor at an optimiser step."""
        return min(1.0, (step + 1) / (self.warmup_epochs * self.steps_per_epoch + 1))


class Cosine(Constant):
    """Linear warm-up, of at most half of the run, then half a cosine down to a floor.

    As :class:`Constant`, and ``floor``: last factor; ConfigError: a floor outside [0, 1].
    """

    def __init__(self, *, warmup_epochs: float = 1.0, floor: float = 0.01) -> None:
        super().__init__(warmup_epochs=warmup_epochs)
        self.floor = require_number("schedule.floor", floor, 0, 1, "[]")

    def __call__(self, step: int) -> float:
        """Factor at an optimiser step."""
        warmup = min(self.warmup_epochs * self.steps_per_epoch, self.total_steps / 2)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1.0, self.total_steps - warmup)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Step(Constant):
    """Linear warm-up, then a cut by ``factor`` after each of some epochs.

    As :class:`Constant`, and ``milestones``: epochs after which the rate is cut, in the run or not;
    ConfigError: milestones that do not grow, or a factor that is no cut.
    """

    def __init__(
        self,
        *,
        warmup_epochs: float = 0.0,
        milestones: Sequence[int] = (30, 60, 90),
        factor: float = 0.1,
    ) -> None:
        super().__init__(warmup_epochs=warmup_epochs)
        self.cut = require_number("schedule.factor", factor, 0, 1, "()")
        self.milestones = list(milestones)
        if self.milestones != sorted(set(milestones)) or min(milestones, default=1) < 1:
            raise ConfigError(fault("milestones", self.milestones))

    def __call__(self, step: int) -> float:
        """Factor at an optimiser step."""
        cuts = bisect_right(self.milestones, step // self.steps_per_epoch)
        return float(self.cut**cuts) * super().__call__(step)


class Plateau(Constant):
    """Linear warm-up, then a cut by ``factor`` each time the validation AUROC stops growing.

    As :class:`Constant`, and ``patience``: epochs without a better value that are let pass;
    ConfigError: a negative patience, or a factor that is no cut.
    """

    def __init__(
        self, *, warmup_epochs: float = 0.0, factor: float = 0.1, patience: int = 5
    ) -> None:
        super().__init__(warmup_epochs=warmup_epochs)
        self.cut = require_number("schedule.factor", factor, 0, 1, "()")
        self.patience = require_integer("schedule.patience", patience, 0)
        self.scale, self.best, self.bad_epochs = 1.0, -math.inf, 0

    def update(self, value: float) -> None:
        """Told by the task after each validation; an undefined value counts as no progress."""
        if value > self.best:
            self.best, self.bad_epochs = value, 0
            return
        self.bad_epochs += 1
        if self.bad_epochs > self.patience:
            self.scale *= self.cut
            self.bad_epochs = 0

    def __call__(self, step: int) -> float:
        """Factor at an optimiser step."""
        return self.scale * super().__call__(step)


Schedule = Constant | Cosine | Step | Plateau
