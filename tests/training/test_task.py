"""Real, tiny runs without Hydra: what is logged, the schedule, and what stops a run."""

import math
from collections.abc import Callable
from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim import SGD, AdamW
from toy import Findings, data_fixture, quiet_trainer, toy_data, toy_net

import xray_lightning as xl
from xray_lightning.training.optim import Constant, Cosine, Plateau, Schedule
from xray_lightning.training.task import require_finite

data = data_fixture(40, size=64, batch_size=16, augment=xl.augment_light(), seed=1)


@pytest.fixture
def trainer(tmp_path) -> Callable[..., Trainer]:
    return partial(quiet_trainer, tmp_path, max_epochs=1, enable_checkpointing=False)


def new_task(
    data: xl.XrayDataModule, schedule: Schedule | None = None, loss: nn.Module | None = None
) -> xl.XrayTask:
    net = toy_net(data.labels)
    return xl.XrayTask(net, loss, optimizer=partial(AdamW, lr=3e-3), schedule=schedule)


class Rates(pl.Callback):
    """Learning rate used by each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


def test_what_is_logged_is_that_of_a_validation(data, trainer) -> None:
    task = new_task(data, loss=xl.WeightedBCE(data.positive_weight()))
    net = task.net
    before, rates = net.head.classifier.weight.clone(), Rates()
    runner = trainer(max_epochs=2, callbacks=[rates])
    runner.fit(task, data)
    assert set(rates.rates) == {3e-3}, "constant without a schedule"
    assert not torch.equal(net.head.classifier.weight, before)
    names = {"train/loss", "val/loss", "val/auroc", "val/auroc_defined"}
    assert set(runner.callback_metrics) == names | {f"val/auroc/{label}" for label in data.labels}
    assert "val/auroc/Hernia" in runner.callback_metrics
    for name, value in runner.validate(task, data, verbose=False)[0].items():
        last = float(runner.callback_metrics[name])
        assert value == last or (math.isnan(value) and math.isnan(last))
    for value in (runner.callback_metrics["val/loss"], net.head.classifier.weight):
        assert torch.isfinite(value).all()


@pytest.mark.parametrize("subset", ["val", "test"])
def test_logged_figures_are_those_of_the_predictions(subset, data, trainer) -> None:
    """Whose summary is tested against scikit-learn in tests/evaluation."""
    task, runner = new_task(data), trainer()
    runner.fit(task, data)
    judge = runner.validate if subset == "val" else runner.test
    logged = judge(task, data, verbose=False)[0]
    predictions = xl.predict_subset(trainer(), task, data, subset)
    summary = xl.summarise(predictions, data.split.subset_fingerprints[subset])
    assert np.float32(logged[f"{subset}/auroc"]) == np.float32(summary["auroc"]["mean"])
    assert logged[f"{subset}/auroc_defined"] == summary["auroc"]["defined"] > 3
    told = np.array([summary["auroc"]["labels"][label] for label in data.labels], dtype=float)
    np.testing.assert_equal([logged[f"{subset}/auroc/{label}"] for label in data.labels], told)
    loss = F.binary_cross_entropy(*map(torch.from_numpy, (predictions.scores, predictions.targets)))
    assert logged[f"{subset}/loss"] == pytest.approx(float(loss), rel=1e-5)


def test_validation_loss_is_the_mean_over_the_known_targets(trainer, tmp_path, rng) -> None:
    """Not over the batches, whose means count unlike many; before a fit, in it, and after."""
    targets = rng.integers(0, 2, (60, 2)).astype(float)
    targets[rng.random(targets.shape) < 0.5] = np.nan
    data = toy_data(tmp_path, Findings(("a", "b"), targets), batch_size=5)
    task = new_task(data)
    for _ in range(2):
        runner = trainer()
        logged = runner.validate(task, data, verbose=False)[0]
        table = xl.predict_subset(trainer(), task, data, "val")
        known = torch.from_numpy(~np.isnan(table.targets))
        truth = torch.from_numpy(table.targets)[known]
        loss = F.binary_cross_entropy(torch.from_numpy(table.scores)[known], truth)
        assert logged["val/loss"] == pytest.approx(float(loss), rel=1e-5)
        runner.fit(task, data)
        assert torch.isfinite(runner.callback_metrics["val/loss"])


def test_training_loss_is_the_mean_over_the_images(data, trainer) -> None:
    task = new_task(data)
    task.optimizer = partial(SGD, lr=0.0)
    seen: list[tuple[float, int]] = []

    class Listen(nn.Module):
        def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
            loss = F.binary_cross_entropy_with_logits(logits, targets)
            if logits.requires_grad:
                seen.append((float(loss.detach()), len(targets)))
            return loss

    task.loss = Listen()
    runner = trainer(limit_val_batches=0)
    runner.fit(task, data)
    losses, sizes = zip(*seen, strict=True)
    expected = np.average(losses, weights=sizes)
    assert len(set(sizes)) == 2  # the last batch is smaller
    assert float(runner.callback_metrics["train/loss"]) == pytest.approx(expected, rel=1e-5)


def test_validation_while_training_is_without_mirror_images(data, trainer) -> None:
    task = new_task(data)
    plain = trainer().validate(task, data, verbose=False)[0]
    task.tta = "flip"
    batch = next(iter(data.test_dataloader()))
    task.eval().validation_step(batch, 0)  # as a stop amid validation leaves it
    np.testing.assert_equal(trainer().validate(task, data, verbose=False)[0], plain)
    with pytest.raises(xl.ConfigError, match="tta must be one of none, flip, got 'rotate'"):
        xl.XrayTask(task.net, tta="rotate")


@pytest.mark.parametrize("labels", [("Pneumonia",), ("Pneumonia", "Unread")])
def test_one_label_that_is_known(labels, trainer, tmp_path) -> None:
    targets = np.full((40, len(labels)), np.nan)
    targets[:, 0] = np.arange(40) % 2
    data = toy_data(tmp_path, Findings(labels, targets))
    task, runner = new_task(data, loss=xl.WeightedBCE(data.positive_weight())), trainer()
    runner.fit(task, data)
    logged = dict(runner.callback_metrics)
    summary = xl.summarise(xl.predict_subset(runner, task, data, "val"), "")
    assert logged["val/auroc_defined"] == 1
    assert float(logged["val/auroc"]) == np.float32(summary["auroc"]["mean"])
    assert logged["val/auroc/Pneumonia"] == logged["val/auroc"]
    assert all(logged[f"val/auroc/{label}"].isnan() for label in labels[1:])
    assert torch.isfinite(logged["train/loss"])


@pytest.mark.parametrize(("accumulate", "by_steps"), [(1, False), (2, False), (1, True)])
def test_cosine_follows_the_steps_of_the_run(accumulate, by_steps, data, trainer) -> None:
    """An epoch of warm-up is an epoch of batches, also where max_steps ends the run."""
    per_epoch = math.ceil(len(data.train_dataloader()) / accumulate)
    length = {"max_epochs": -1, "max_steps": 3 * per_epoch} if by_steps else {"max_epochs": 3}
    rates, expected = Rates(), Cosine(warmup_epochs=1, floor=0.1)
    runner = trainer(**length, callbacks=[rates], accumulate_grad_batches=accumulate)
    runner.fit(new_task(data, Cosine(warmup_epochs=1, floor=0.1)), data)
    expected.start(3 * per_epoch, per_epoch)
    assert rates.rates == pytest.approx([3e-3 * expected(step) for step in range(3 * per_epoch)])
    assert int(np.argmax(rates.rates)) == per_epoch


def test_a_schedule_needs_an_end(data: xl.XrayDataModule, trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(xl.ConfigError, match="a schedule needs the length of the run: set max_"):
        trainer(max_epochs=-1).fit(new_task(data, Cosine()), data)
    with pytest.raises(xl.ConfigError, match="max_steps must be at least"):
        trainer(max_steps=1).fit(new_task(data, Cosine()), data)


def test_layer_decay_of_a_run(data: xl.XrayDataModule, trainer: Callable[..., Trainer]) -> None:
    task, rates = new_task(data, Constant()), Rates()
    task.layer_decay, task.head_lr = 0.5, 1e-2
    runner = trainer(callbacks=[rates], limit_train_batches=2)
    runner.fit(task, data)
    groups = {group["name"]: group["lr"] for group in runner.optimizers[0].param_groups}
    assert set(rates.rates) == {groups["backbone_5"]} == {3e-3 * 0.5**5}
    assert groups["head"] == 1e-2


def test_plateau_is_told_after_each_epoch(data, trainer) -> None:
    schedule, rates = Plateau(patience=0, factor=0.5), Rates()
    schedule.best = 2.0  # nothing will be better: a cut each epoch
    schedule.update = told = Mock(wraps=schedule.update)
    runner = trainer(max_epochs=3, callbacks=[rates])  # its sanity check does not count
    runner.fit(new_task(data, schedule), data)
    assert told.call_count == 3
    assert np.float32(told.call_args.args[0]) == float(runner.callback_metrics["val/auroc"])
    per_epoch = len(data.train_dataloader())
    # LambdaLR has set the rate of the first step of an epoch before the validation
    firsts = [3e-3 * 0.5 ** ((step - 1) // per_epoch) for step in range(1, 3 * per_epoch)]
    assert rates.rates == pytest.approx([3e-3, *firsts])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number(value: float) -> None:
    match = rf"the loss became {value} in epoch 5 on the images a\.png, b\.png\. .*optimizer\.lr"
    with pytest.raises(xl.NonFiniteLossError, match=match):
        require_finite(torch.tensor(value), ["a.png", "b.png"], 4)
    require_finite(torch.tensor(1e30), ["a.png"], 4)


class Exploding(nn.Module):
    """Becomes infinite at its third batch."""

    calls = 0

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        self.calls += logits.requires_grad
        return logits.mean() * (math.inf if self.calls == 3 else 1.0)


def test_a_run_stops_at_the_first_one(data, trainer) -> None:
    task = new_task(data, loss=Exploding())
    loader = data.train_dataloader()
    loader.sampler.set_epoch(0)
    ids = [batch["image_id"] for batch in loader][2]
    with pytest.raises(xl.NonFiniteLossError, match="in epoch 1") as caught:
        trainer().fit(task, data)
    assert f"on the images {', '.join(ids)}. " in str(caught.value)
