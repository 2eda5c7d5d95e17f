"""Parameter groups and learning-rate schedules."""

import math
from typing import Any

from torch import nn

from xray_lightning.errors import ConfigError


def parameter_groups(net: nn.Module, head_lr: float | None = None) -> list[dict[str, Any]]:
    """Backbone and head, each with and without weight decay.

    Norms and biases (vectors) are not decayed. All parameters are in the groups from the start,
    frozen or not, so that a resumed run finds its optimiser state.

    Args:
        net: an :class:`~xray_lightning.models.network.XrayNet`.
        head_lr: learning rate of the head; None: that of the backbone.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in net.named_parameters():
        part = "head" if name.startswith("head.") else "backbone"
        decayed = parameter.ndim > 1
        key = part if decayed else f"{part}_without_decay"
        group = groups.setdefault(key, {"name": key, "params": []})
        group["params"].append(parameter)
        if not decayed:
            group["weight_decay"] = 0.0
        if part == "head" and head_lr is not None:
            group["lr"] = head_lr
    return list(groups.values())


class Cosine:
    """Linear warm-up, then half a cosine down to a floor, as a factor of the learning rate.

    An object of plain numbers and not a function: LambdaLR stores it in the checkpoint.

    Args:
        warmup_epochs: epochs of linear growth from almost 0.
        floor: last factor.

    Raises:
        ConfigError: a negative warm-up, or a floor outside [0, 1].
    """

    def __init__(self, *, warmup_epochs: float = 1.0, floor: float = 0.01) -> None:
        _check_warmup(warmup_epochs)
        if not 0 <= floor <= 1:
            raise ConfigError(f"optim.schedule.floor must lie between 0 and 1, got {floor}")
        self.warmup_epochs, self.floor = warmup_epochs, floor
        self.warmup_steps, self.total_steps = 0.0, 1.0

    def start(self, total_steps: int, steps_per_epoch: float) -> None:
        """Told by the task before the first step."""
        self.total_steps = float(total_steps)
        self.warmup_steps = min(self.warmup_epochs * steps_per_epoch, total_steps / 2)

    def __call__(self, step: int) -> float:
        """Factor at an optimiser step."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        done = (step - self.warmup_steps) / max(1.0, self.total_steps - self.warmup_steps)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Plateau:
    """Linear warm-up, then a cut each time the validation AUROC stops growing.

    Args:
        warmup_epochs: epochs of linear growth from almost 0.
        factor: of each cut.
        patience: epochs without a better value that are let pass.

    Raises:
        ConfigError: a negative warm-up or patience, or a factor that is no cut.
    """

    def __init__(
        self, *, warmup_epochs: float = 0.0, factor: float = 0.1, patience: int = 5
    ) -> None:
        _check_warmup(warmup_epochs)
        if not 0 < factor < 1:
            raise ConfigError(f"optim.schedule.factor must lie between 0 and 1, got {factor}")
        if patience < 0:
            raise ConfigError(f"optim.schedule.patience must be 0 or more, got {patience}")
        self.warmup_epochs, self.cut, self.patience = warmup_epochs, factor, patience
        self.warmup_steps = 0.0
        self.scale, self.best, self.bad_epochs = 1.0, -math.inf, 0

    def start(self, total_steps: int, steps_per_epoch: float) -> None:
        """Told by the task before the first step."""
        self.warmup_steps = self.warmup_epochs * steps_per_epoch

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
        return self.scale * min(1.0, (step + 1) / (self.warmup_steps + 1))


Schedule = Cosine | Plateau


def _check_warmup(warmup_epochs: float) -> None:
    if warmup_epochs < 0:
        raise ConfigError(f"optim.schedule.warmup_epochs must be 0 or more, got {warmup_epochs}")
