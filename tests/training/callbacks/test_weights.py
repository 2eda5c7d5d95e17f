"""The average against the formula; what is judged, what is kept, and that a resume is exact."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from toy import quiet_trainer

from xray_lightning import EMA, ConfigError, XrayDataModule, XrayTask, load_checkpoint

Fit = Callable[..., tuple[XrayTask, Path]]


class Record(pl.Callback):
    """The network before the first step and after each one, in float64."""

    def __init__(self) -> None:
        self.states: list[dict[str, np.ndarray]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.on_train_batch_end(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *rest: Any) -> None:
        if trainer.global_step == len(self.states):  # after a step, not after each batch
            state = pl_module.net.state_dict()
            self.states.append({name: tensor.double().numpy() for name, tensor in state.items()})


def raw(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def same(ours: Any, theirs: Any) -> None:
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
def test_the_formula(accumulate: int, fit: Fit) -> None:
    record = Record()
    task, folder = fit(record, EMA(decay=0.6), accumulate_grad_batches=accumulate)
    expected = dict(record.states[0])
    for step, state in enumerate(record.states[1:], start=1):
        decay = min(0.6, (1 + step) / (10 + step))
        for name, value in state.items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    stored = load_checkpoint(folder / "weights.ckpt").state
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


def test_the_average_is_judged_and_kept(fit: Fit, data: XrayDataModule) -> None:
    _, folder = fit(EMA(decay=0.9))
    table = pd.read_csv(folder / "metrics.csv")
    for name in ("weights", "last"):
        net = load_checkpoint(folder / f"{name}.ckpt").build_net()
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
        found = trainer.validate(XrayTask(net), data, verbose=False)[0]
        assert table["val/loss"].iloc[-1] == pytest.approx(found["val/loss"], rel=1e-8)
    assert "ema" not in raw(folder / "weights.ckpt")


def test_training_goes_on_as_without(fit: Fit) -> None:
    _, plain = fit(name="plain")
    _, averaged = fit(EMA(decay=0.9), name="averaged")
    ours, theirs = raw(averaged / "last.ckpt"), raw(plain / "last.ckpt")
    same(ours["optimizer_states"], theirs["optimizer_states"])
    for name, tensor in ours["ema"]["weights"].items():
        assert torch.equal(tensor, theirs["state_dict"][f"net.{name}"]), name
    assert ours["ema"]["updates"] == ours["global_step"]
    trained = [pd.read_csv(folder / "metrics.csv")["train/loss"] for folder in (plain, averaged)]
    pd.testing.assert_series_equal(*trained)


@pytest.mark.parametrize("epochs", [1, 2])
def test_resumed_equals_uninterrupted(epochs: int, fit: Fit) -> None:
    _, whole = fit(EMA(decay=0.9), name="whole")
    _, begun = fit(EMA(decay=0.9), name="begun", stop=epochs)
    assert raw(begun / "last.ckpt")["epoch"] == epochs - 1
    fit(EMA(decay=0.9), name="begun", resume=begun / "last.ckpt")
    ours, theirs = raw(begun / "last.ckpt"), raw(whole / "last.ckpt")
    for subset in ("state_dict", "ema", "optimizer_states", "lr_schedulers"):
        same(ours[subset], theirs[subset])
    same(raw(begun / "weights.ckpt")["state_dict"], raw(whole / "weights.ckpt")["state_dict"])
    clock = ["images_per_second"]
    tables = [pd.read_csv(path / "metrics.csv").drop(columns=clock) for path in (begun, whole)]
    pd.testing.assert_frame_equal(*tables)


def test_weights_saved_within_an_epoch_are_the_average(fit: Fit, tmp_path: Path) -> None:
    record = Record()
    keep = ModelCheckpoint(
        tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1, save_weights_only=True
    )
    ema = EMA(decay=0.5)
    fit(record, ema, keep, limit_train_batches=3, stop=1)
    average = record.states[0]["head.classifier.bias"]
    for step in (1, 2):
        decay = (1 + step) / (10 + step)
        average = decay * average + (1 - decay) * record.states[step]["head.classifier.bias"]
    found = raw(tmp_path / "step=2.ckpt")["state_dict"]["net.head.classifier.bias"]
    np.testing.assert_allclose(found, average, atol=1e-6)


def test_a_later_run_without_it_keeps_its_own_weights(fit, data, tmp_path) -> None:
    task, _ = fit(EMA(decay=0.9), stop=1)
    trainer = quiet_trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    trainer.fit(task, data)
    trainer.save_checkpoint(tmp_path / "later.ckpt")
    state = raw(tmp_path / "later.ckpt")["state_dict"]
    same({name.removeprefix("net."): state[name] for name in state}, dict(task.net.state_dict()))


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, 2.0])
def test_decay_that_cannot_work(decay: float) -> None:
    with pytest.raises(ConfigError, match=f"ema_decay must lie between 0 and 1, got {decay}"):
        EMA(decay=decay)
