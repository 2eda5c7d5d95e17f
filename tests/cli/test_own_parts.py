"""Parts of the user's own by ``_target_``, from a folder of settings outside the package."""

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from running import xray

from xray_lightning import ConfigError
from xray_lightning.cli.app import run_verb
from xray_lightning.cli.train import train

SETTINGS = {
    "model/own_head.yaml": "_target_: xray_lightning.XrayNet\nbackbone: test_resnet\n"
    "image_size: ${image_size}\nhead: {_target_: own_parts.TopMean, _partial_: true, k: 1}\n",
    "model/own_net.yaml": "_target_: own_parts.Sized\nimage_size: ${image_size}\nwidth: 3\n",
    "loss/own.yaml": "_target_: own_parts.OwnLoss\n",
    "callbacks/own.yaml": "count: {_target_: own_parts.Count}\nbrier:\n"
    "  _target_: xray_lightning.WatchMetric\n  name: brier\n"
    "  function: {_target_: own_parts.brier, _partial_: true}\n",
}
TOY = ["data.patients=24", "image_size=32", "batch_size=8", "epochs=1", "draws=20", "threads=1"]
TOY += ["loss=own", "callbacks=own", "logger=none", "trainer=cpu", "report=false"]
TOY += ["monitor=val/brier"]


@pytest.mark.parametrize("model", ["own_head", "own_net"])
def test_a_folder_of_settings(model, tmp_path, monkeypatch, capsys) -> None:
    for name, text in SETTINGS.items():
        (tmp_path / "settings" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "settings" / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    assert train(["--config-dir", "settings", f"model={model}", *TOY, "hydra.run.dir=run"]) == 0
    assert "a callback of my own counted 1" in capsys.readouterr().out
    assert pd.read_csv("run/metrics.csv")["val/brier"].between(0, 1).all()
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["val"]["checkpoint"] == {"epoch": 1, "choice": "best val/brier"}
    best = Path("run/checkpoints/best.ckpt")
    with pytest.raises(ConfigError, match=r"own_parts"):
        run_verb("evaluate", [best])
    run_verb("evaluate", [best, "trust=true", "draws=20", "hydra.run.dir=again"])
    again = json.loads(Path("again/metrics.json").read_text())
    assert again["test"]["auroc"] == metrics["test"]["auroc"]
    Image.effect_noise((32, 32), 64).save("a.png")
    for text in ("predict run a.png --out p", "export run --out m.pt2 format=pt2"):
        assert "trust=true on the command line" in xray(*text.split(), code=2)
        xray(*text.split(), "trust=true")
    words = ["predict", "run", "a.png", "trust=true", "maps=true", "--out", "q"]
    assert "no maps" in xray(*words, code=2)
