"""metrics.csv: one row an epoch, also after a resume."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from xray_lightning import XrayDataModule, XrayTask
from xray_lightning.training.callbacks import epochs

Fit = Callable[..., tuple[XrayTask, Path]]
COLUMNS = ("images_seen", "step", "lr")


def test_rows_become_a_table(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    epochs.write_rows([{"epoch": 0.0, "loss": 1 / 3}], path)
    epochs.write_rows([{"epoch": 0.0, "loss": 1 / 3}, {"epoch": 1.0, "auroc": math.nan}], path)
    assert path.read_text().splitlines() == ["epoch,loss,auroc", "0,0.333333333,", "1,,"]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


def test_an_interrupted_write_keeps_the_older_table(tmp_path, monkeypatch) -> None:
    path = tmp_path / "metrics.csv"
    epochs.write_rows([{"epoch": 0.0}], path)

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        epochs.write_rows([{"epoch": 5.0}], path)
    assert path.read_text().splitlines() == ["epoch", "0"]


def test_images_of_all_processes_count_and_the_rate_before_layer_decay(tmp_path: Path) -> None:
    metrics = epochs.MetricsFile(tmp_path / "metrics.csv")
    fake: Any = SimpleNamespace(world_size=3)
    metrics.on_train_epoch_start(fake, fake)
    for size in (8, 8, 5):
        metrics.on_train_batch_end(fake, fake, None, {"targets": torch.zeros(size, 2)}, 0)
    fake = SimpleNamespace(
        world_size=3,
        callback_metrics={"val/auroc": torch.tensor(0.75)},
        current_epoch=4,
        global_step=15,
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.25, "lr_scale": 0.5}, {"lr": 7.0}])],
        is_global_zero=True,
    )
    metrics.on_train_epoch_end(fake, fake)
    row = metrics.rows[0]
    assert row["images_seen"] == metrics.images_seen == 63
    assert row["images_per_second"] == pytest.approx(63 / metrics.seconds)
    assert (row["epoch"], row["step"], row["lr"], row["val/auroc"]) == (4, 15, 0.5, 0.75)


def test_a_row_for_each_epoch(fit: Fit, data: XrayDataModule) -> None:
    """A resumed run's table is compared with that of one run in test_weights.py."""
    task, folder = fit()
    table = pd.read_csv(folder / "metrics.csv")
    assert table["epoch"].tolist() == [0, 1, 2]
    images = len(data.split.subsets["train"])
    images -= images % 6 == 1
    assert table["images_seen"].tolist() == [images, 2 * images, 3 * images]
    assert (table["images_per_second"] > 0).all()
    last = task.trainer.callback_metrics
    for name in ("val/auroc", "val/loss", "train/loss"):  # AUROC is undefined of so few
        assert table[name].iloc[-1] == pytest.approx(float(last[name]), rel=1e-8, nan_ok=True)
    assert [f"val/auroc/{label}" in table for label in data.labels] == [True] * 14


def test_batches_that_share_a_step_all_count(fit: Fit) -> None:
    tables = [
        pd.read_csv(fit(name=str(n), stop=1, accumulate_grad_batches=n)[1] / "metrics.csv")
        for n in (1, 2)
    ]
    seen, steps, rates = ([table[name][0] for table in tables] for name in COLUMNS)
    assert seen[0] == seen[1] > 12
    assert steps[1] == math.ceil(steps[0] / 2)
    assert rates[1] == rates[0], "an epoch of warm-up is over in both"


def test_state_is_plain_and_is_kept_apart(tmp_path: Path) -> None:
    metrics = epochs.MetricsFile(tmp_path / "metrics.csv")
    metrics.rows, metrics.images_seen, metrics.seconds = [{"epoch": 0.0}], 7, 1.5
    torch.save(metrics.state_dict(), tmp_path / "state.ckpt")
    other = epochs.MetricsFile(tmp_path / "other.csv")
    other.load_state_dict(torch.load(tmp_path / "state.ckpt", weights_only=True))
    assert other.state_dict() == metrics.state_dict()
    other.rows.append({"epoch": 1.0})
    assert len(metrics.rows) == 1


def test_line() -> None:
    metrics = {"val/auroc": torch.tensor(0.71239), "train/loss": 0.5, "other": 3.0, "val/loss": 1.0}
    line = "epoch 3/8  train/loss 0.5000  val/loss 1.0000  val/auroc 0.7124"
    assert epochs.epoch_line(3, 8, metrics) == line
    assert epochs.epoch_line(1, None, {}) == "epoch 1/None"
    assert epochs.epoch_line(1, 1, {"val/auroc": float("nan")}) == "epoch 1/1  val/auroc nan"


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_process_logs(first: bool, caplog: pytest.LogCaptureFixture) -> None:
    trainer: Any = SimpleNamespace(
        is_global_zero=first, current_epoch=0, max_epochs=2, callback_metrics={"train/loss": 0.25}
    )
    with caplog.at_level(logging.INFO):
        epochs.EpochLine().on_train_epoch_end(trainer, trainer)
    assert caplog.messages == (["epoch 1/2  train/loss 0.2500"] if first else [])


def drawn(seed: int, epoch: int, before: int = 0, rank: int = 0) -> torch.Tensor:
    torch.rand(before)  # whatever was drawn before
    trainer: Any = SimpleNamespace(current_epoch=epoch, global_rank=rank)
    epochs.EpochSeed(seed).on_train_epoch_start(trainer, trainer)
    return torch.rand(5)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_same_epoch_same_numbers_and_others_else(seed: int) -> None:
    assert torch.equal(drawn(seed, 7), drawn(seed, 7, before=13))
    assert not torch.equal(drawn(seed, 2), drawn(seed + 1, 2))
    assert not torch.equal(drawn(seed, 2), drawn(seed, 2, rank=1)), "processes drop out differently"


def test_every_seed_epoch_and_process_has_its_own() -> None:
    for seeds in (
        {epochs.epoch_seed(seed, epoch) for seed in range(30) for epoch in range(30)},
        {epochs.epoch_seed(3, epoch, rank) for epoch in range(30) for rank in range(30)},
    ):
        assert len(seeds) == 900
        assert all(0 <= seed < 2**32 for seed in seeds)
    expected = int(np.random.SeedSequence((5, 6)).generate_state(1)[0])  # the first release's
    assert epochs.epoch_seed(5, 6) == expected
