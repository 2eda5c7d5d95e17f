"""Random numbers of an epoch derived from (seed, epoch), so that a resumed run draws the same."""

import numpy as np
import pytorch_lightning as pl
import torch


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """A seed for torch's generators, different for each (seed, epoch, number of the process)."""
    return int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1)[0])


class EpochSeed(pl.Callback):
    """Seeds torch at the start of each training epoch (dropout, stochastic depth).

    Lightning does not restore torch's random state when a run resumes.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed."""
        torch.manual_seed(epoch_seed(self.seed, trainer.current_epoch, trainer.global_rank))
