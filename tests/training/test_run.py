"""train() in Python: what a run leaves, parts of the user's own, and what its sampler changes."""

import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from toy import toy_data

from xray_lightning import XrayDataModule, XrayNet, XrayTask, load_checkpoint, train
from xray_lightning.cli.build import data_from, task_from
from xray_lightning.cli.config import compose_settings
from xray_lightning.errors import CheckpointError, ConfigError, SplitError
from xray_lightning.training.environment import (
    compare_prevalence,
    describe_sampling,
    write_environment,
)
from xray_lightning.training.run import TrainingRun, log_run
from xray_lightning.writing import read_json


class TopMean(nn.Module):
    """A head of one's own: mean of the k strongest places."""

    def __init__(self, channels: int, labels: int, *, dropout: float = 0.0, k: int = 3) -> None:
        super().__init__()
        self.k, self.classifier = k, nn.Linear(channels, labels)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier(features.flatten(2).topk(self.k).values.mean(dim=2))
        return logits


class Small(nn.Module):
    """A network that knows nothing of this package."""

    def __init__(self, labels: list[str], image_size: int = 0, width: int = 4) -> None:
        super().__init__()
        self.config = {"width": width}
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(len(labels))
        )
        self.layers(torch.zeros(1, 1, 32, 32))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


class OwnLoss(nn.Module):
    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return ((torch.sigmoid(logits) - targets) ** 2).nanmean()


class Count(pl.Callback):
    epochs = 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epochs += 1


def precision(scores: np.ndarray, targets: np.ndarray) -> float:
    return float(average_precision_score(targets.ravel(), scores.ravel()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> XrayDataModule:
    return toy_data(tmp_path_factory.mktemp("cache"), 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "run"


@pytest.fixture(scope="module")
def run(data: XrayDataModule, folder: Path) -> TrainingRun:
    """With a head, a loss, a callback and a metric of one's own."""
    torch.manual_seed(0)
    net = XrayNet(data.labels, "test_resnet", image_size=32, head=TopMean, head_options={"k": 1})
    count = Count()
    metrics = {"precision": precision}
    run = train(
        XrayTask(net, OwnLoss()), data, folder, epochs=2, callbacks=[count], metrics=metrics
    )
    assert count.epochs == 2
    return run


def test_what_a_run_leaves(run: TrainingRun, folder: Path, data: XrayDataModule) -> None:
    table = pd.read_csv(folder / "metrics.csv")
    assert run.best_epoch == int(table["val/auroc"].argmax()) + 1
    assert run.val_auroc == pytest.approx(table["val/auroc"].max(), rel=1e-7)
    assert run.choice == "best val/auroc"
    assert run.images_seen == table["images_seen"].iloc[-1] > 0
    assert run.seconds > 0
    assert run.last.is_file()
    assert load_checkpoint(run.best).epoch + 1 == run.best_epoch
    assert read_json(folder / "environment.json")["split"]["fingerprint"] == data.split.fingerprint
    assert TrainingRun.from_json(run.to_json()) == run


def test_an_own_metric_is_that_of_all_validation_images(run, folder, data) -> None:
    logged = pd.read_csv(folder / "metrics.csv")["val/precision"]
    net = load_checkpoint(run.best, trust=True).build_net()
    batches: list[Any] = list(data.val_dataloader())
    with torch.no_grad():
        scores = np.concatenate([torch.sigmoid(net(batch["image"])) for batch in batches])
    targets = np.concatenate([batch["targets"] for batch in batches])
    assert logged[run.best_epoch - 1] == pytest.approx(precision(scores, targets), rel=1e-6)


def test_an_own_head_is_built_again_by_those_who_trust_it(run: TrainingRun) -> None:
    with pytest.raises(CheckpointError, match=r"TopMean' is not of this package.*trust=True"):
        load_checkpoint(run.best).build_net()
    net = load_checkpoint(run.best, trust=True).build_net()
    assert isinstance(net.head, TopMean)
    assert net.head.k == 1
    assert isinstance(net.new().head, TopMean)


def test_it_goes_on_from_its_last_checkpoint(run: TrainingRun, data: XrayDataModule) -> None:
    net = XrayNet(data.labels, "test_resnet", image_size=32, head=TopMean, head_options={"k": 1})
    resume = load_checkpoint(run.last)
    further = train(XrayTask(net, OwnLoss()), data, run.folder, epochs=3, resume=resume)
    assert further.images_seen == run.images_seen * 3 // 2
    other = toy_data(data.cache_dir, 25)
    with pytest.raises(SplitError, match=resume.description.split["fingerprint"]):
        train(XrayTask(net), other, run.folder, resume=resume)


def test_any_module_with_logits(data: XrayDataModule, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Small does not say its labels"):
        XrayTask(Small(["a"]))
    task = XrayTask(Small(list(data.labels), width=3), labels=data.labels)
    run = train(task, data, tmp_path, epochs=1)
    assert not math.isnan(run.val_auroc)
    with pytest.raises(CheckpointError, match=r"class '.*Small' is not of this package"):
        load_checkpoint(run.best).build_net()
    images = torch.rand(2, 1, 32, 32)
    nets = [
        load_checkpoint(run.best, trust=True).build_net(),
        load_checkpoint(run.best).build_net(Small(list(data.labels), width=3)),
    ]
    with torch.no_grad():
        for net in nets:
            torch.testing.assert_close(net(images), task.net.eval()(images), rtol=0, atol=0)


def test_a_trainer_without_the_callbacks_of_a_run(data: XrayDataModule, tmp_path: Path) -> None:
    task = XrayTask(Small(list(data.labels)), labels=data.labels)
    with pytest.raises(ConfigError, match="the trainer has no MetricsFile"):
        train(task, data, tmp_path, trainer=pl.Trainer(accelerator="cpu", logger=False))


SMALL = ["data.patients=60", "image_size=32", "model=resnet50", "model.backbone=resnet10t"]


def test_uniform_changes_nothing() -> None:
    data = data_from(compose_settings(SMALL)[0])
    assert describe_sampling(data) is None
    assert all(subset == drawn for subset, drawn in compare_prevalence(data).values())


def test_what_a_sampler_changes(tmp_path: Path) -> None:
    config, _ = compose_settings([*SMALL, "sampler=disease_balanced", "sampler.normal_share=0.25"])
    data = data_from(config)
    shares = compare_prevalence(data)
    targets = data.subset_targets("train")
    assert shares["Hernia"][0] == pytest.approx(targets[:, -1].mean())
    assert shares["Hernia"][1] == pytest.approx(data.draw_targets(10)[:, -1].mean())
    assert shares["normal images"][1] == pytest.approx(0.25, abs=0.5 / len(targets))
    line = describe_sampling(data)
    assert line is not None
    name = max(shares, key=lambda name: shares[name][1] / shares[name][0])
    subset, drawn = shares[name]
    assert f"{name} {100 * subset:.1f}% -> {100 * drawn:.1f}%" in line
    write_environment(tmp_path, data, pl.Trainer(accelerator="cpu", logger=False), seed=0)
    facts = json.loads((tmp_path / "environment.json").read_text())
    assert facts["prevalence"] == {name: list(pair) for name, pair in shares.items()}
    assert facts["processes"] == 1


@pytest.mark.parametrize(
    ("overrides", "lines", "warned"),
    [
        (["loss=weighted_bce"], 0, False),
        (["sampler=patient_balanced"], 1, False),
        (["sampler=disease_balanced", "loss=weighted_bce"], 1, True),
    ],
)
def test_the_log(overrides, lines, warned, caplog) -> None:
    config, _ = compose_settings([*SMALL, *overrides])
    data = data_from(config)
    two: Any = SimpleNamespace(world_size=2)
    with caplog.at_level(logging.INFO):
        log_run(data, task_from(config, data), two)
    assert caplog.text.count("the sampler changes the prevalence in training: ") == lines
    assert ("loss: counted on the training set, not on what" in caplog.text) == warned
    assert f"2 processes x {config.batch_size} images a step" in caplog.text
