"""What format 1 wrote is read in today's names, and gives today's numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from running import xray

import xray_lightning
from xray_lightning.checkpoint import KEY, load_checkpoint, store_operating_points
from xray_lightning.formats import TARGETS, upgrade_settings
from xray_lightning.models.network import XrayNet

FORMAT_1 = Path(__file__).parent / "format_1.json"  # of a run of commit fd777cd: 24 patients, 32 px


@pytest.mark.parametrize("name", sorted(set(TARGETS.values())))
def test_today_has_every_class(name: str) -> None:
    assert name.removeprefix("xray_lightning.") in xray_lightning.__all__


def test_targets_at_any_depth_and_nothing_else() -> None:
    old = {"a": [{"_target_": "xray_lightning.losses.BCE", "x": 1}], "b": "xray_lightning.task"}
    new = {"a": [{"_target_": "xray_lightning.BCE", "x": 1}], "b": "xray_lightning.task"}
    assert upgrade_settings(old) == new
    assert upgrade_settings(new) == new


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of format 1; its weights, too large for the repository, are drawn again."""
    entries: dict[str, object] = json.loads(FORMAT_1.read_text())
    rng, state = np.random.default_rng(0), {}
    for name, tensor in XrayNet(**entries["net"]).state_dict().items():
        if tensor.ndim > 1:
            scale = np.sqrt(tensor[0].numel()).astype(np.float32)
            drawn = torch.from_numpy(rng.standard_normal(tensor.shape, np.float32) / scale)
        else:
            drawn = torch.full_like(tensor, name.endswith(("weight", "running_var")))
        state[f"net.{name}"] = drawn
    torch.save({KEY: entries, "state_dict": state, "epoch": 0}, tmp_path / "old.ckpt")
    return tmp_path / "old.ckpt"


def test_a_checkpoint_of_format_1(checkpoint: Path) -> None:
    entries = json.loads(FORMAT_1.read_text())
    description = load_checkpoint(checkpoint).description
    assert description.operating_points == entries["validation"]
    assert description.split["subsets"] == entries["split"]["parts"]
    assert description.config["loss"]["_target_"] == "xray_lightning.BCE"
    store_operating_points(checkpoint, {"rule": "f1"})
    assert torch.load(checkpoint, weights_only=True)[KEY]["format"] == 2
    assert load_checkpoint(checkpoint).description.operating_points == {"rule": "f1"}


def test_at_first_it_had_no_operating_points(checkpoint: Path) -> None:
    raw = torch.load(checkpoint, weights_only=True)
    del raw[KEY]["validation"]
    torch.save(raw, checkpoint)
    assert load_checkpoint(checkpoint).description.operating_points == {}


def test_it_evaluates_to_the_number_of_its_time(checkpoint, monkeypatch) -> None:
    monkeypatch.chdir(checkpoint.parent)
    text = xray("evaluate", checkpoint, "draws=20", "--out", "out")
    assert "mean test AUROC 0.5898148169120153 over 6 labels" in text
