"""Weights shared out among processes: what is refused; tests/test_several_processes.py trains."""

from types import SimpleNamespace
from typing import Any

import pytest
from own_parts import Small, TopMean
from pytorch_lightning.strategies import FSDPStrategy
from toy import toy_net

from xray_lightning.errors import ConfigError
from xray_lightning.training.sharding import FSDP, require_shardable


@pytest.mark.parametrize(
    ("strategy", "net", "averaged", "said"),
    [
        (FSDPStrategy, toy_net(["a"]), False, r"strategy=fsdp flattens .*strategy=fsdp2"),
        (FSDP, toy_net(["a"]), True, "ema_decay=null"),
        (FSDP, Small(["a"]), False, "networks and heads of this package"),
        (FSDP, toy_net(["a"], head=TopMean), False, "networks and heads of this package"),
        (FSDP, toy_net(["a"]), False, "batch norms of test_resnet .*strategy=ddp"),
    ],
)
def test_what_shares_would_make_wrong(strategy: Any, net: Any, averaged: bool, said: str) -> None:
    trainer: Any = SimpleNamespace(strategy=strategy())
    with pytest.raises(ConfigError, match=said):
        require_shardable(trainer, net, averaged=averaged)
    require_shardable(SimpleNamespace(strategy=None), net, averaged=averaged)  # type: ignore[arg-type]
