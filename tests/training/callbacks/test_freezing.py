"""Frozen to the bit, then thawed, after a resume too; and the gate fitted at a run's end."""

import copy
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LambdaCallback
from running import run_alone
from torch.optim import SGD
from toy import toy_net

import xray_lightning as xl
from xray_lightning.training.callbacks.weights import draw_films


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_only_the_head_learns_then_everything(accumulate: int, fit) -> None:
    states: list[dict[str, torch.Tensor]] = []  # before the first epoch and after each
    modes: list[set[bool]] = []  # of the norms, at each batch

    def note_state(trainer: pl.Trainer, task) -> None:
        states.append(copy.deepcopy(task.net.state_dict()))

    def note_modes(trainer: pl.Trainer, task, *_) -> None:
        norms = [each for each in task.net.modules() if isinstance(each, torch.nn.BatchNorm2d)]
        modes.append({norm.training for norm in norms})
        assert len(norms) > 3
        assert task.training

    record = LambdaCallback(
        on_fit_start=note_state, on_train_epoch_end=note_state, on_train_batch_start=note_modes
    )
    task, _ = fit(xl.FreezeBackbone(epochs=2), record, accumulate_grad_batches=accumulate)
    head = {"head.classifier.weight", "head.classifier.bias"}
    assert [changed(*pair) for pair in pairwise(states)] == [head, head, set(task.net.state_dict())]
    batches = len(modes) // 3
    assert modes == [{False}] * 2 * batches + [{True}] * batches
    assert all(parameter.requires_grad for parameter in task.parameters())


def by_hand(*, wrapped: bool) -> tuple[list[dict[str, torch.Tensor]], int]:
    """Two frozen epochs and one more of a plain loop, clipped, with momentum and weight decay."""
    task = xl.XrayTask(toy_net(("a", "b"))).train()
    freeze = xl.FreezeBackbone(epochs=2)
    optimizer = SGD(task.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    trainer = SimpleNamespace(current_epoch=0, model=object() if wrapped else task)
    states, always = [], 0
    for epoch in range(3):
        trainer.current_epoch = epoch
        freeze.on_train_epoch_start(trainer, task)
        always += all(parameter.requires_grad for parameter in task.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            task.loss(task(torch.rand(6, 1, 32, 32)), torch.ones(6, 2)).backward()
            freeze.on_after_backward(trainer, task)
            torch.nn.utils.clip_grad_norm_(task.parameters(), 0.01)
            optimizer.step()
        states.append(copy.deepcopy(task.net.state_dict()))
    return states, always


def test_without_touching_requires_grad_it_is_the_same() -> None:
    plain, plain_always = by_hand(wrapped=False)
    wrapped, wrapped_always = by_hand(wrapped=True)
    assert (plain_always, wrapped_always) == (1, 3)
    for one, other in zip(plain, wrapped, strict=True):
        assert not changed(one, other)
    assert changed(plain[0], plain[1]) == {"head.classifier.weight", "head.classifier.bias"}
    assert len(changed(plain[1], plain[2])) > 20


NOTHING = "of max_epochs=3: the backbone will learn nothing"


@pytest.mark.parametrize(
    ("epochs", "loaded", "warning"),
    [(2, "all", ""), (3, "all", NOTHING), (4, "all", NOTHING), (1, None, "holds random weights")],
)
def test_what_is_not_worth_freezing(epochs, loaded, warning, caplog) -> None:
    net = SimpleNamespace(backbone=None, load_report=loaded)
    trainer = SimpleNamespace(max_epochs=3)
    xl.FreezeBackbone(epochs=epochs).on_fit_start(trainer, SimpleNamespace(net=net))
    assert len(caplog.messages) == bool(warning)
    assert not warning or caplog.messages[0].startswith(f"freeze_epochs={epochs} {warning}")


SCRIPT = r"""
import sys, torch, pytorch_lightning as pl
from toy import quiet_trainer, toy_data, toy_net
from xray_lightning import FreezeBackbone, XrayTask

class Record(pl.Callback):
    states = []
    def on_train_epoch_start(self, trainer, pl_module):
        self.states.append({k: v.clone() for k, v in pl_module.net.state_dict().items()})
    on_train_end = on_train_epoch_start

if __name__ == "__main__":
    devices, folder = int(sys.argv[1]), sys.argv[2]
    data = toy_data(folder, 20, batch_size=4)
    task = XrayTask(toy_net(data.labels))
    record = Record()
    plain = dict.fromkeys(("use_distributed_sampler", "enable_checkpointing"), False)
    settings = {"callbacks": [FreezeBackbone(epochs=2), record], "max_epochs": 3, **plain}
    trainer = quiet_trainer(folder, devices=devices, strategy="ddp", **settings)
    trainer.fit(task, data)
    first = {k: v for k, v in record.states[0].items() if not k.startswith("head.")}
    for epoch, frozen in ((1, True), (2, True), (3, False)):
        state = record.states[epoch]
        kept = all(torch.equal(state[k], v) for k, v in first.items())
        before = record.states[epoch - 1]["head.classifier.weight"]
        moved = not torch.equal(state["head.classifier.weight"], before)
        assert (kept, moved) == (frozen, True), (epoch, kept, moved)
    print(f"as expected {trainer.world_size}\n", end="")
"""


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_distributed_data_parallel(devices: int, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(devices), str(tmp_path / "cache")]
    assert run_alone(command).stdout.count(f"as expected {devices}") == devices


def test_it_is_stored(fit, data: xl.XrayDataModule) -> None:
    """With it the weights and torch's random state are those of a run without."""
    records = data.subset_records("train")
    runs = [fit(*callbacks, name=str(len(callbacks)))[1] for callbacks in ([], [xl.FitGate(0.1)])]
    states = [xl.load_checkpoint(run / "last.ckpt") for run in runs]
    assert states[0].weights_sha256 == states[1].weights_sha256
    assert states[0].gate is None
    for name in ("weights.ckpt", "last.ckpt"):
        gate = xl.load_checkpoint(runs[1] / name).gate
        assert gate is not None
        assert gate.youngest == min(record.age for record in records)
        assert (gate.films, gate.false_alarms) == (len(records), 2 / (gate.validation + 1))
    fit(xl.FitGate(0.1), name="1", resume=runs[1] / "last.ckpt")  # a gate does not stop a resume


def test_random_state_stays_and_other_networks_have_none(data: xl.XrayDataModule, fit) -> None:
    task, folder = fit()
    before = torch.get_rng_state()
    xl.FitGate().store([folder / "last.ckpt"], task, data)
    assert torch.equal(torch.get_rng_state(), before)
    task.net = torch.nn.Linear(1, 1)
    with pytest.raises(xl.ConfigError, match="Linear is no XrayNet"):
        xl.FitGate().store([], task, data)


def test_films_are_capped(data: xl.XrayDataModule) -> None:
    drawn = [draw_films(data, "train", 5, np.random.default_rng(1)) for _ in range(2)]
    assert drawn[0].shape == (5, 1, 32, 32)
    assert torch.equal(drawn[0], drawn[1])
