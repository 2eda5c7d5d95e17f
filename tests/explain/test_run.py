"""``explain_checkpoint`` from Python, on a random network and the phantom."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy import data_fixture, quiet_trainer, toy_data, toy_net

from xray_lightning import XrayDataModule, XrayNet, explain_checkpoint
from xray_lightning.checkpoint import Checkpoint, Description
from xray_lightning.errors import ConfigError
from xray_lightning.explain import run
from xray_lightning.explain.run import Explanation, predict_subsets, require_explainable

QUICK: dict[str, object] = {"draws": 50, "positives": 12, "saliency": ()}
data = data_fixture(120, batch_size=16)


@pytest.fixture(scope="module")
def checkpoint(data: XrayDataModule) -> Checkpoint:
    net = toy_net(data.labels)
    split = {"subsets": data.split.subset_fingerprints}
    description = Description(net.config, dict(data.preprocessing), split, {"seed": 0})
    return Checkpoint(Path("run/best.ckpt"), description, net.state_dict(), 0)


def other(checkpoint: Checkpoint, **config) -> Checkpoint:
    description = replace(checkpoint.description, config=config)
    state = {name: (tensor * 1.01).to(tensor.dtype) for name, tensor in checkpoint.state.items()}
    return replace(checkpoint, description=description, state=state)


def test_everything(checkpoint, data, tmp_path, monkeypatch) -> None:
    others = {"a": other(checkpoint, seed=1), "b": other(checkpoint, seed=0, permute_labels=True)}
    monkeypatch.setattr(run, "load_checkpoint", lambda path: others[path])
    explanation = explain_checkpoint(
        checkpoint, data, trainer=quiet_trainer(tmp_path), methods=("gradcam", "gradient"),
        label="Infiltration", seeds=["a"], permuted="b", **QUICK | {"saliency": ("gradient",)},
    )  # fmt: skip
    plain = json.loads(json.dumps(explanation.to_json(), allow_nan=False))
    assert "overlays" not in plain
    assert Explanation.from_json(plain).to_json() == plain
    places = explanation.localisation
    assert list(places.labels) == list(explanation.gallery) == list(explanation.overlays)
    for label, of_label in places.labels.items():
        wanted = {"gradcam", "gradient", "random", "centre", "ceiling", "ceiling 32x32"}
        assert set(of_label.methods) - {"mean box"} == wanted
        overlays = explanation.overlays[label]
        assert {overlay.label for overlay in overlays} == {label}
        assert [overlay.mark for overlay in overlays] == sorted(o.mark for o in overlays)
    tests = explanation.saliency["gradient"]
    assert tests.finding == "Infiltration"
    assert tests.images <= 12


def test_validation_without_saliency(checkpoint, data, tmp_path) -> None:
    explanation = explain_checkpoint(
        checkpoint, data, trainer=quiet_trainer(tmp_path), subset="val", methods=["cam"], **QUICK
    )
    assert explanation.subset == "val"
    assert (explanation.saliency, explanation.saliency_missing) == ({}, "")
    assert explanation.localisation.labels


def test_nobody_to_test(checkpoint, tmp_path) -> None:
    few, asked = toy_data(tmp_path / "cache", 12), QUICK | {"methods": (), "saliency": ("cam",)}
    explanation = explain_checkpoint(checkpoint, few, trainer=quiet_trainer(tmp_path), **asked)
    assert "no finding with an AUROC on validation" in explanation.saliency_missing


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"subset": "train"}, "'train'"),
        ({"methods": ["guess"]}, "'guess'"),
        ({"label": "Cough"}, "'Cough'"),
        ({"positives": 1}, "positives"),
        ({"draws": 0}, "draws"),
        ({"doubts": 1}, "doubts: neighbours are of other patients, and test has one"),
    ],
)
def test_settings_that_cannot_work(setting, name, checkpoint, data, monkeypatch) -> None:
    one = {**data.split.subsets, "test": data.split.subsets["test"][:1]}
    monkeypatch.setattr(data, "split", replace(data.split, subsets=one))
    with pytest.raises(ConfigError, match=name):
        explain_checkpoint(checkpoint, data, **QUICK | setting)


def test_networks_that_cannot_be_compared(checkpoint, data, monkeypatch) -> None:
    """What else is refused is tested with the command."""
    own = checkpoint.description
    wider = replace(checkpoint, description=replace(own, net=own.net | {"dropout": 0.9}))
    for loaded, said in (
        (wider, "has another network or preprocessing than"),
        (other(checkpoint, seed=1, permute_labels=True), "seeds= needs the opposite"),
    ):
        monkeypatch.setattr(run, "load_checkpoint", lambda path, loaded=loaded: loaded)
        with pytest.raises(ConfigError, match=said):
            require_explainable(checkpoint, data, "test", ["cam"], seeds=["x"])


def test_the_network_goes_where_the_trainer_was(data, monkeypatch) -> None:
    """Lightning moves it back to the CPU."""
    device = torch.device("meta")
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=device))
    monkeypatch.setattr(run, "predict_subset", lambda *_: "scores")
    net = XrayNet(data.labels, "test_resnet", image_size=32)
    assert predict_subsets(net, data, trainer) == {"val": "scores", "test": "scores"}
    assert {parameter.device for parameter in net.parameters()} == {device}


@pytest.mark.parametrize("subset", ["test", "all", "val"])
def test_images_tune_nothing_for_themselves(subset, checkpoint, data, monkeypatch) -> None:
    """Of images=all the validation images are scored too: no threshold comes from them."""
    tuned: list[int] = []
    monkeypatch.setattr(run, "tune_reference", lambda *_, size, seed: tuned.append(size))
    if subset == "all":
        every = {**data.split.subsets, "test": np.arange(len(data.records))}
        monkeypatch.setattr(data, "split", replace(data.split, subsets=every))
    name = "val" if subset == "val" else "test"
    scores = np.zeros_like(data.subset_targets(name))
    places, maps = run._localise(checkpoint.build_net(), data, scores, name, ["cam"], 9, 0, False)
    assert (list(places.labels), tuned) == (list(maps), [32] * (subset == "test"))
