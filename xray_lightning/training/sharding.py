"""Weights shared out among processes, for a network that one GPU is too small to train."""

import copy
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy, StrategyRegistry
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from xray_lightning.errors import ConfigError
from xray_lightning.models.network import XrayNet
from xray_lightning.wording import fault

NAME = "fsdp2"


class FSDP(ModelParallelStrategy):
    """Each process holds its share of weights, gradients and optimiser state (Zhao 2023, FSDP2).

    Registered with Lightning as ``strategy="fsdp2"``. A step is that of DistributedDataParallel;
    the weights of a block are collected while it computes. Checkpoints are whole, as any other.
    """

    def __init__(self) -> None:
        super().__init__(1, 1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """One dimension, of all processes."""
        self._data_parallel_size = self.world_size
        super().setup_environment()


StrategyRegistry.register(NAME, FSDP, FSDP.__doc__, override=True)


def shard(net: nn.Module, mesh: Any) -> nn.Module:
    """Share out each of timm's blocks, then what is left; returns a copy that is whole."""
    whole = copy.deepcopy(net)
    net.to(memory_format=torch.contiguous_format)  # torch shares out no channels_last
    for name, module in [*net.named_modules()]:
        if name.split(".")[-2:-1] == ["blocks"]:
            fully_shard(module, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return whole


@torch.no_grad()
def fill_whole(whole: nn.Module, net: nn.Module, device: torch.device) -> nn.Module:
    """Collect the weights that lie in all processes, all of which must ask."""
    shares, whole = net.state_dict(), whole.to(device).eval()
    for name, tensor in whole.state_dict().items():
        share = shares[name]
        tensor.copy_(share.full_tensor() if isinstance(share, DTensor) else share)
    return whole


def require_shardable(trainer: pl.Trainer, net: nn.Module, *, averaged: bool) -> None:
    """Refuse what shares of weights would make wrong.

    Raises:
        ConfigError: Lightning's own ``strategy=fsdp``, which flattens weights, so that none of them
            would be decayed; a moving average of the weights; a network with parts of the user's
            own, or with batch norms, which each process would count for itself.
    """
    if isinstance(trainer.strategy, FSDPStrategy):
        raise ConfigError(f"trainer.strategy=fsdp flattens weights: use trainer.strategy={NAME}")
    if not isinstance(trainer.strategy, FSDP):
        return
    if averaged:
        raise ConfigError(f"trainer.strategy={NAME} keeps no average: ema_decay=null")
    if not isinstance(net, XrayNet) or "." in net.config["head"]:
        raise ConfigError(f"trainer.strategy={NAME} is for networks and heads of this package")
    if any(name.endswith("running_mean") for name, _ in net.named_buffers()):
        raise ConfigError(fault("batch_norms", NAME, net.config["backbone"]))
