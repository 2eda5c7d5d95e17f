"""The best checkpoint of a run that was stopped, moved and resumed."""

import shutil
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader
from toy import quiet_trainer

from xray_lightning.training.callbacks.weights import RunCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*can be")
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


UNDEFINED = "last epoch: score was undefined in every one"


@pytest.mark.parametrize(
    ("scores", "kept", "choice"),
    [
        ((NAN, NAN, NAN), 2, UNDEFINED),
        ((NAN, 0.5, NAN), 1, "best score"),
        ((0.5, NAN, 0.4), 0, "best score"),
        ((0.5, 0.5, 0.5), 0, "best score"),
    ],
)
def test_without_a_score_the_last_epoch_is_kept(scores, kept, choice, tmp_path) -> None:
    best = train(RunCheckpoint, tmp_path, 3, scores)
    assert epoch(tmp_path, "best.ckpt") == kept
    assert isinstance(best, RunCheckpoint)
    assert best.choice == choice


def test_nor_is_a_resumed_run_content_with_an_earlier_one(tmp_path: Path) -> None:
    train(RunCheckpoint, tmp_path / "a", 2, (NAN,) * 4)
    shutil.move(tmp_path / "a", tmp_path / "b")
    best = train(RunCheckpoint, tmp_path / "b", 4, (NAN,) * 4)
    assert epoch(tmp_path / "b", "best.ckpt") == 3
    assert isinstance(best, RunCheckpoint)
    assert best.choice == UNDEFINED
