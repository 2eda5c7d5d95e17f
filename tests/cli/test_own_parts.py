"""Parts of the user's own by ``_target_``, from a folder of settings outside the package."""

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from xray_lightning import CheckpointError, ConfigError, load_checkpoint
from xray_lightning.cli.app import APP, run_verb
from xray_lightning.cli.train import train

MODULE = """
import pytorch_lightning as pl
import torch
from torch import nn


class Head(nn.Module):
    def __init__(self, channels, labels, *, dropout=0.0, k=3):
        super().__init__()
        self.k, self.classifier = k, nn.Linear(channels, labels)

    def forward(self, features):
        return self.classifier(features.flatten(2).topk(self.k).values.mean(dim=2))


class Net(nn.Module):
    def __init__(self, labels, image_size, width=4):
        super().__init__()
        self.config = {"width": width}
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, 4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(len(labels))
        )
        self.layers(torch.zeros(1, 1, image_size, image_size))

    def forward(self, images):
        return self.layers(images)


class Loss(nn.Module):
    def forward(self, logits, targets):
        return ((torch.sigmoid(logits) - targets) ** 2).nanmean()


class Shout(pl.Callback):
    def on_train_end(self, trainer, pl_module):
        print("trained with a callback of my own")


def brier(scores, targets):
    return ((scores - targets) ** 2).mean()
"""
HEAD = "{_target_: my_parts.Head, _partial_: true, k: 1}"
SETTINGS = {
    "model/own_head.yaml": "_target_: xray_lightning.XrayNet\nbackbone: test_resnet\n"
    f"image_size: ${{image_size}}\nhead: {HEAD}\n",
    "model/own_net.yaml": "_target_: my_parts.Net\nimage_size: ${image_size}\nwidth: 3\n",
    "loss/own.yaml": "_target_: my_parts.Loss\n",
    "callbacks/own.yaml": "shout: {_target_: my_parts.Shout}\nbrier:\n"
    "  _target_: xray_lightning.WatchMetric\n  name: brier\n"
    "  function: {_target_: my_parts.brier, _partial_: true}\n",
}
TOY = ["data.patients=24", "image_size=32", "batch_size=8", "epochs=1", "draws=20", "threads=1"]
TOY += ["loss=own", "callbacks=own", "logger=none", "trainer=cpu", "report=false"]
TOY += ["monitor=val/brier"]


@pytest.mark.parametrize("model", ["own_head", "own_net"])
def test_a_folder_of_settings(model, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "my_parts.py").write_text(MODULE)
    for name, text in SETTINGS.items():
        (tmp_path / "settings" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "settings" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert train(["--config-dir", "settings", f"model={model}", *TOY, "hydra.run.dir=run"]) == 0
    printed = capsys.readouterr()
    assert "trained with a callback of my own" in printed.out
    assert pd.read_csv("run/metrics.csv")["val/brier"].between(0, 1).all()
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["val"]["checkpoint"] == {"epoch": 1, "choice": "best val/brier"}
    best = Path("run/checkpoints/best.ckpt")
    with pytest.raises(CheckpointError, match=r"my_parts\.\w+' is not of this package"):
        load_checkpoint(best).build_net()
    with pytest.raises(ConfigError, match=r"my_parts"):
        run_verb("evaluate", [best])
    run_verb("evaluate", [best, "trust=true", "draws=20", "hydra.run.dir=again"])
    again = json.loads(Path("again/metrics.json").read_text())
    assert again["test"]["auroc"] == metrics["test"]["auroc"]
    Image.effect_noise((32, 32), 64).save("a.png")
    for text in ("predict run a.png --out p", "export run --out m.pt2 format=pt2"):
        verb = text.split()
        asked = [CliRunner().invoke(APP, [*verb, *trust]) for trust in ([], ["trust=true"])]
        assert [result.exit_code for result in asked] == [2, 0], asked
        assert "trust=true on the command line" in asked[0].output
    words = ["predict", "run", "a.png", "trust=true", "maps=true", "--out", "q"]
    drawn = CliRunner().invoke(APP, words)
    assert (drawn.exit_code, "no maps" in drawn.output) == (2, True), drawn.output
