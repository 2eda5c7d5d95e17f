"""Random numbers of an epoch do not depend on the epochs before."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from xray_lightning.training.callbacks.seeding import EpochSeed, epoch_seed


def drawn(seed: int, epoch: int, before: int = 0, rank: int = 0) -> torch.Tensor:
    torch.rand(before)  # whatever was drawn before
    trainer: Any = SimpleNamespace(current_epoch=epoch, global_rank=rank)
    EpochSeed(seed).on_train_epoch_start(trainer, trainer)
    return torch.rand(5)


def test_same_epoch_same_numbers() -> None:
    assert torch.equal(drawn(1, 7), drawn(1, 7, before=13))


def test_every_seed_and_epoch_has_its_own() -> None:
    seeds = {epoch_seed(seed, epoch) for seed in range(30) for epoch in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert not torch.equal(drawn(1, 2), drawn(2, 1))


def test_processes_drop_out_differently() -> None:
    assert not torch.equal(drawn(1, 2, rank=0), drawn(1, 2, rank=1))
    seeds = {epoch_seed(3, epoch, rank) for epoch in range(30) for rank in range(30)}
    assert len(seeds) == 900


def test_one_process_draws_as_ever() -> None:
    expected = int(np.random.SeedSequence((5, 6)).generate_state(1)[0])  # the first release's
    assert epoch_seed(5, 6) == expected


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_any_seed_of_a_run_works(seed: int) -> None:
    assert torch.equal(drawn(seed, 0), drawn(seed, 0))
