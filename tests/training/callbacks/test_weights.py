"""The average against the formula; metrics.csv, one row an epoch; the best checkpoint.

Each also after a stop, a move and a resume.
"""

import logging
import math
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader
from toy import quiet_trainer

import xray_lightning as xl
from xray_lightning.training.callbacks import epochs
from xray_lightning.training.callbacks.weights import RunCheckpoint


class Record(pl.Callback):
    """The network before the first step and after each one, in float64."""

    def __init__(self) -> None:
        self.states: list[dict[str, np.ndarray]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module) -> None:
        self.on_train_batch_end(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module, *rest) -> None:
        if trainer.global_step == len(self.states):  # after a step, not after each batch
            state = pl_module.net.state_dict()
            self.states.append({name: tensor.double().numpy() for name, tensor in state.items()})


def raw(path: Path) -> dict[str, object]:
    return dict(torch.load(path, weights_only=True))


def same(ours, theirs) -> None:
    """Equal to the bit."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            same(value, theirs[key])
    elif isinstance(ours, list):
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
    else:
        assert torch.equal(ours, theirs) if torch.is_tensor(ours) else ours == theirs


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_formula(accumulate: int, fit) -> None:
    record = Record()
    task, folder = fit(record, xl.EMA(decay=0.6), accumulate_grad_batches=accumulate)
    expected = dict(record.states[0])
    for step, state in enumerate(record.states[1:], start=1):
        decay = min(0.6, (1 + step) / (10 + step))
        for name, value in state.items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    stored = xl.load_checkpoint(folder / "weights.ckpt").state
    assert len(record.states) > 6
    assert any("running_mean" in name for name in stored)
    for name, tensor in stored.items():
        if tensor.is_floating_point():
            np.testing.assert_allclose(tensor, expected[name], rtol=2e-4, atol=1e-6)
        else:
            assert tensor == record.states[-1][name], "a count is not averaged"
        assert torch.equal(task.net.state_dict()[name], tensor), "training leaves the average"
    weights = record.states[-1]["head.classifier.weight"]
    assert np.abs(weights - expected["head.classifier.weight"]).max() > 1e-3


def test_the_average_is_judged_and_kept(fit, data: xl.XrayDataModule) -> None:
    _, folder = fit(xl.EMA(decay=0.9))
    table = pd.read_csv(folder / "metrics.csv")
    for name in ("weights", "last"):
        net = xl.load_checkpoint(folder / f"{name}.ckpt").build_net()
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
        found = trainer.validate(xl.XrayTask(net), data, verbose=False)[0]
        assert table["val/loss"].iloc[-1] == pytest.approx(found["val/loss"], rel=1e-8)
    assert "ema" not in raw(folder / "weights.ckpt")


def test_training_goes_on_as_without(fit) -> None:
    _, plain = fit(name="plain")
    _, averaged = fit(xl.EMA(decay=0.9), name="averaged")
    ours, theirs = raw(averaged / "last.ckpt"), raw(plain / "last.ckpt")
    same(ours["optimizer_states"], theirs["optimizer_states"])
    for name, tensor in ours["ema"]["weights"].items():
        assert torch.equal(tensor, theirs["state_dict"][f"net.{name}"]), name
    assert ours["ema"]["updates"] == ours["global_step"]
    trained = [pd.read_csv(folder / "metrics.csv")["train/loss"] for folder in (plain, averaged)]
    pd.testing.assert_series_equal(*trained)


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("change", [partial(xl.EMA, decay=0.9), partial(xl.FreezeBackbone, 2)])
def test_resumed_equals_uninterrupted(epochs: int, change, fit) -> None:
    """Of frozen epochs in the middle, and where they end."""
    _, whole = fit(change(), name="whole")
    _, begun = fit(change(), name="begun", stop=epochs)
    assert raw(begun / "last.ckpt")["epoch"] == epochs - 1
    fit(change(), name="begun", resume=begun / "last.ckpt")
    ours, theirs = raw(begun / "last.ckpt"), raw(whole / "last.ckpt")
    for subset in ("state_dict", "ema", "optimizer_states", "lr_schedulers"):
        same(ours.get(subset), theirs.get(subset))
    same(raw(begun / "weights.ckpt")["state_dict"], raw(whole / "weights.ckpt")["state_dict"])
    clock = ["images_per_second"]
    tables = [pd.read_csv(path / "metrics.csv").drop(columns=clock) for path in (begun, whole)]
    pd.testing.assert_frame_equal(*tables)


def test_weights_saved_within_an_epoch_are_the_average(fit, tmp_path: Path) -> None:
    record = Record()
    keep = ModelCheckpoint(
        tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1, save_weights_only=True
    )
    fit(record, xl.EMA(decay=0.5), keep, limit_train_batches=3, stop=1)
    average = record.states[0]["head.classifier.bias"]
    for step in (1, 2):
        decay = (1 + step) / (10 + step)
        average = decay * average + (1 - decay) * record.states[step]["head.classifier.bias"]
    found = raw(tmp_path / "step=2.ckpt")["state_dict"]["net.head.classifier.bias"]
    np.testing.assert_allclose(found, average, atol=1e-6)


def test_a_later_run_without_it_keeps_its_own_weights(fit, data, tmp_path) -> None:
    task, _ = fit(xl.EMA(decay=0.9), stop=1)
    trainer = quiet_trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    trainer.fit(task, data)
    trainer.save_checkpoint(tmp_path / "later.ckpt")
    state = raw(tmp_path / "later.ckpt")["state_dict"]
    same({name.removeprefix("net."): state[name] for name in state}, dict(task.net.state_dict()))


def test_rows_become_a_table(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    epochs.write_rows([{"epoch": 0.0, "loss": 1 / 3}], path)
    epochs.write_rows([{"epoch": 0.0, "loss": 1 / 3}, {"epoch": 1.0, "auroc": math.nan}], path)
    assert path.read_text().splitlines() == ["epoch,loss,auroc", "0,0.333333333,", "1,,"]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize("first", [True, False])
def test_images_of_all_processes_count_and_only_the_first_logs(first, tmp_path, caplog) -> None:
    metrics = epochs.MetricsFile(tmp_path / "metrics.csv", "val/brier")
    fake = SimpleNamespace(world_size=3, current_epoch=4, max_epochs=9, global_step=15)
    groups = [{"lr": 0.25, "lr_scale": 0.5}, {"lr": 7.0}]
    fake.optimizers, fake.is_global_zero = [SimpleNamespace(param_groups=groups)], first
    fake.callback_metrics = dict[str, torch.Tensor]()
    metrics.on_train_epoch_start(fake, fake)
    fake.callback_metrics |= {"val/auroc": torch.tensor(0.75), "val/brier": torch.tensor(0.25)}
    for size in (8, 8, 5):
        metrics.on_train_batch_end(fake, fake, None, {"targets": torch.zeros(size, 2)}, 0)
    with caplog.at_level(logging.INFO):
        metrics.on_train_epoch_end(fake, fake)
    assert caplog.messages == ["epoch 5/9  val/auroc 0.7500  val/brier 0.2500"] * first
    assert metrics.path.is_file() == first
    row = metrics.rows[0]
    assert row["images_seen"] == metrics.images_seen == 63
    assert row["images_per_second"] == pytest.approx(63 / metrics.seconds)
    assert (row["epoch"], row["step"], row["lr"], row["val/auroc"]) == (4, 15, 0.5, 0.75)


def test_a_row_for_each_epoch(fit, data: xl.XrayDataModule) -> None:
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


def test_an_epoch_that_ends_before_validation_has_no_figures_of_it(fit) -> None:
    _, folder = fit(stop=1)
    steps = int(pd.read_csv(folder / "metrics.csv")["step"][0])
    _, folder = fit(name="steps", max_steps=steps + 1)
    table = pd.read_csv(folder / "metrics.csv")
    assert table["step"].tolist() == [steps, steps + 1]
    assert table["val/loss"].isna().tolist() == [False, True]
    assert table["train/loss"].notna().all()


def test_batches_that_share_a_step_all_count(fit) -> None:
    runs = [fit(name=str(n), stop=1, accumulate_grad_batches=n)[1] for n in (1, 2)]
    tables = [pd.read_csv(run / "metrics.csv") for run in runs]
    columns = ("images_seen", "step", "lr")
    seen, steps, rates = ([table[name][0] for table in tables] for name in columns)
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


def drawn(seed: int, epoch: int, before: int = 0, rank: int = 0) -> torch.Tensor:
    torch.rand(before)  # whatever was drawn before
    trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank)
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


NAN = float("nan")
SCORES = (0.6, 0.9, 0.7, 0.8, 0.95)  # of the epochs


class Scripted(pl.LightningModule):
    def __init__(self, scores: tuple[float, ...] = SCORES) -> None:
        super().__init__()
        self.scores = scores
        self.weight = nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.weight * batch).sum()

    def on_train_epoch_end(self) -> None:
        self.log("score", self.scores[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(
    kind: type[ModelCheckpoint], folder: Path, epochs: int, scores: tuple[float, ...] = SCORES
) -> ModelCheckpoint:
    place = folder / "checkpoints"
    settings = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    best = kind(place, "best", monitor="score", mode="max", save_weights_only=True, **settings)
    keep = [best, kind(place, "last", **settings)]
    trainer = quiet_trainer(folder, max_epochs=epochs, callbacks=keep)
    last = place / "last.ckpt"
    loader = DataLoader(torch.ones(2, 1))
    start = last if last.exists() else None
    trainer.fit(Scripted(scores), loader, ckpt_path=start, weights_only=True)
    return best


def epoch(folder: Path, name: str) -> int:
    return int(torch.load(folder / "checkpoints" / name, weights_only=True)["epoch"])


@pytest.mark.filterwarnings("ignore:.*can be")
@pytest.mark.parametrize("before", [RunCheckpoint, ModelCheckpoint])
@pytest.mark.parametrize("moving", ["moved", "copied", "stayed"])
def test_a_moved_run_keeps_its_best(before, moving, tmp_path) -> None:
    first, second = tmp_path / "first", tmp_path / "elsewhere" / "second"
    train(before, first, 3)
    assert (epoch(first, "best.ckpt"), epoch(first, "last.ckpt")) == (1, 2)
    if moving == "stayed":
        second = first
    else:
        (shutil.copytree if moving == "copied" else shutil.move)(first, second)
    original = sorted(path.read_bytes() for path in first.rglob("*.ckpt"))
    train(RunCheckpoint, second, 4)
    assert (epoch(second, "best.ckpt"), epoch(second, "last.ckpt")) == (1, 3)  # 0.9 beats 0.8
    train(RunCheckpoint, second, 5)
    assert (epoch(second, "best.ckpt"), epoch(second, "last.ckpt")) == (4, 4)  # 0.95 is better
    assert sorted(path.name for path in second.rglob("*.ckpt")) == ["best.ckpt", "last.ckpt"]
    if moving == "copied":  # and where it was copied from, nothing changed
        assert sorted(path.read_bytes() for path in first.rglob("*.ckpt")) == original


@pytest.mark.filterwarnings("ignore:.*can be")
@pytest.mark.parametrize(
    ("scores", "kept", "choice"),
    [
        ((NAN, NAN, NAN), 2, "last epoch: score was undefined in every one"),
        ((NAN, 0.5, NAN), 1, "best score"),
        ((0.5, NAN, 0.4), 0, "best score"),
        ((0.5, 0.5, 0.5), 0, "best score"),
    ],
)
@pytest.mark.parametrize("moved", [False, True])
def test_without_a_score_the_last_epoch_is_kept(scores, kept, choice, moved, tmp_path) -> None:
    if moved:
        train(RunCheckpoint, tmp_path / "before", 2, scores)
        shutil.move(tmp_path / "before", tmp_path / "run")
    best = train(RunCheckpoint, tmp_path / "run", 3, scores)
    assert epoch(tmp_path / "run", "best.ckpt") == kept
    assert isinstance(best, RunCheckpoint)
    assert best.choice == choice
