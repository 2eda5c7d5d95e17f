"""``xray shortcuts`` on checkpoints of the phantom."""

import json
from pathlib import Path

import pytest
import running
from running import TRAIN, XRAY

from xray_lightning.cli.app import run_verb
from xray_lightning.cli.config import compose_settings
from xray_lightning.cli.fit import fit
from xray_lightning.errors import ConfigError


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A run of seconds on films with a marker; its scores mean nothing."""
    tiny = ["experiment=phantom/shortcut", "data.patients=40", "image_size=32", "batch_size=8"]
    tiny += ["model.backbone=test_resnet", "callbacks=none", "trainer=debug", "logger=none"]
    tiny += ["trainer.max_epochs=1", "threads=1", "workers=0", "draws=20", "report=false"]
    fit(compose_settings([*tiny, f"cache_dir={folder / 'cache'}", f"run_dir={folder / 'run'}"]))
    return folder / "run"


def test_files_tables_and_json(run) -> None:
    checkpoint = run / "checkpoints/best.ckpt"
    facts = json.loads(running.xray("shortcuts", checkpoint, "--json"))[str(checkpoint)]
    assert {"schema": 2, **facts} == json.loads((run / "shortcuts.json").read_text())
    assert (facts["data"], facts["draws"]) == ("phantom (planted: marker, Nodule, 0.9)", 20)
    assert list(facts["labels"]["Nodule"]["covered"])[-1] == "planted marker"
    other = run / "other"
    both = [checkpoint, run / "checkpoints/last.ckpt"]
    text = running.xray("shortcuts", *both, "data.shortcut=null", "draws=10", "--out", other)
    assert "planted" not in text
    assert "random weights" in text
    assert text.count("; undecided: ") == 4  # below each table, and a line for each checkpoint
    assert json.loads((other / "shortcuts.json").read_text())["data"] == "phantom"


def test_patients_it_learned_from_are_refused(run) -> None:
    with pytest.raises(ConfigError, match="overlap=exclude"):
        run_verb("shortcuts", [run / "checkpoints/best.ckpt", "split.seed=1"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shortcut", "shortcut_clean"])
def test_a_trained_network(name: str, tmp_path) -> None:
    """As the README shows, of a smaller network: the planted marker is caught, nothing else is."""
    train = [f"experiment=phantom/{name}", "model.backbone=resnet10t", "seed=3", "threads=1"]
    train += ["report=false", "callbacks.heat_maps=null", "draws=20"]  # none of the tests' figures
    train += ["hydra.run.dir=run", "logger=none"]
    running.run([*TRAIN, *train], tmp_path)
    running.run([*XRAY, "shortcuts", "run/checkpoints/best.ckpt", "draws=2000"], tmp_path)
    labels = json.loads((tmp_path / "run/shortcuts.json").read_text())["labels"]
    caught = [label for label, each in labels.items() if each["verdict"] == "caught"]
    assert caught == (["Nodule"] if name == "shortcut" else [])
