"""``xray explain`` on a toy run: files, figures that agree with the maps, and refusals."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from xray_lightning.cli.app import APP
from xray_lightning.cli.build import data_from, task_from
from xray_lightning.cli.compose import describe, fit
from xray_lightning.cli.explain import scored
from xray_lightning.cli.explain_settings import own_settings
from xray_lightning.cli.overrides import composed
from xray_lightning.errors import ConfigError
from xray_lightning.explain.maps import METHODS
from xray_lightning.models.network import XrayNet

TOY = ["data.patients=120", "image_size=64", "batch_size=16", "epochs=1", "model=resnet50"]
TOY += ["model.backbone=resnet10t", "trainer=cpu", "threads=1", "logger=none", "callbacks=none"]
TOY += ["draws=50"]
QUICK = ["draws=50", "positives=12", "threads=1"]


def trained(folder: Path, *more: str) -> Path:
    options = [*TOY, f"cache_dir={folder.parent / 'cache'}", f"hydra.run.dir={folder}", *more]
    config, _ = composed(options)
    fit(config)
    return folder / "checkpoints" / "best.ckpt"


def explain(checkpoint: Path, *overrides: str) -> Result:
    return CliRunner().invoke(APP, ["explain", str(checkpoint), *overrides])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    return trained(folder / "run")


@pytest.fixture(scope="module")
def done(checkpoint: Path, folder: Path) -> Result:
    """Everything, with another seed and a network of permuted labels."""
    other = trained(folder / "other", "seed=1", "report=false")
    permuted = trained(folder / "permuted", "permute_labels=true", "report=false")
    result = explain(
        checkpoint, *QUICK, "methods=gradcam,gradient", "saliency=cam", "label=Infiltration",
        f"seeds={other}", f"permuted={permuted}",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return result


def test_everything_is_written_and_shown(done: Result, checkpoint: Path) -> None:
    place = checkpoint.parents[1] / "explain"
    facts = json.loads((place / "explain.json").read_text())
    assert facts["fingerprint"] in done.stdout
    found = facts["localisation"]
    for label, name in facts["gallery"].items():
        assert label in done.stdout
        assert cv2.imread(str(place / name)) is not None
        with np.load((place / name).with_suffix(".npz")) as kept:
            assert set(kept["label"]) == {label}
            assert kept["maps"].shape[1:] == (2, 2)  # 64 px through a ResNet
    assert list(found["labels"]) == list(facts["gallery"])
    for each in found["labels"].values():
        wanted = {"gradcam", "gradient", "random", "centre", "ceiling", "ceiling 64x64"}
        assert set(each["methods"]) - {"mean box"} == wanted
    verdicts = {test["verdict"] for test in facts["saliency"]["cam"].values()
                if isinstance(test, dict)}  # fmt: skip
    assert verdicts <= {"passes", "fails", "undecided", "not run"}
    for test in ("seeds", "permutation", "deletion", "insertion", "randomisation"):
        assert facts["saliency"]["cam"][test]["verdict"] in done.stdout
        assert "given" not in facts["saliency"]["cam"][test].get("reason", "")
    assert set(facts["shortcuts"]["labels"]) == set(found["labels"]) | set(facts["auroc"]["labels"])
    assert "AUROC of a linear probe of the features" in done.stdout
    assert (place / "saliency.png").is_file()
    assert "published" in facts
    assert facts["published"] == []  # of NIH's boxes alone


def test_the_report_of_the_run_shows_it(done: Result, checkpoint: Path) -> None:
    run = checkpoint.parents[1]
    before = (run / "report.html").read_text()
    assert "Where does it look?" not in before
    assert CliRunner().invoke(APP, ["report", str(run)]).exit_code == 0
    facts = json.loads((run / "explain" / "explain.json").read_text())
    assert json.loads((run / "report.json").read_text())["explain"] == facts
    text = (run / "report.html").read_text()
    section = text[text.index('<section id="explain">') : text.index('<section id="training">')]
    assert section.count("data:image/webp") == len(facts["gallery"]) + 1  # and the tests' curves
    for label, each in facts["localisation"]["labels"].items():
        value = each["methods"]["gradcam"]["pointing_game"]["value"]
        assert f"<td>{each['boxes']}</td><td>{value:.3f}</td>" in section
        assert f"<td>{facts['shortcuts']['labels'][label]['verdict']}</td></tr>" in section
    assert f"<td>{facts['saliency']['cam']['deletion']['verdict']}</td>" in section
    assert not re.search(r"(src|href)=.http", text)
    (run / "explain" / "explain.json").write_text(json.dumps(facts | {"fingerprint": "0"}))
    result = CliRunner().invoke(APP, ["report", str(run)])
    assert (result.exit_code, "is of other images [0] than the run's" in result.output) == (2, True)
    (run / "explain" / "explain.json").write_text("{}")
    result = CliRunner().invoke(APP, ["report", str(run)])
    assert (result.exit_code, "makes it again" in result.output) == (2, True)
    assert "lacks checkpoint, fingerprint" in result.output


def test_a_part_and_settings_of_ones_own(checkpoint: Path, tmp_path: Path) -> None:
    """On validation no threshold is tuned; what is not asked for is left out."""
    result = explain(
        checkpoint, *QUICK, "subset=val", "methods=cam", "saliency=none", "shortcuts=false",
        f"hydra.run.dir={tmp_path / 'out'}",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert facts["subset"] == "val"
    assert facts["saliency"] == {}
    assert facts["shortcuts"] == {}
    thresholds = facts["localisation"]["thresholds"].values()
    assert {each["source"] for methods in thresholds for each in methods.values()} == {"stated"}
    assert "stated thresholds" in result.stdout


def test_json_and_nothing_to_localise(checkpoint: Path, tmp_path: Path) -> None:
    result = explain(
        checkpoint, *QUICK, "methods=none", "saliency=none", "shortcuts=false", "--json",
        f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)  # notes go to stderr
    assert "synthetic" in result.stderr
    assert facts["localisation"] is None
    assert facts["localisation_missing"] == "no method was asked for"
    assert facts["gallery"] == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subset=train", "subset must be val or test, got 'train'"),
        ("methods=cam,guess", "methods must be none, all, or of cam, .*, got guess"),
        ("saliency=", "saliency must be none, all, or of cam, .*, got nothing"),
        ("shortcuts=maybe", "shortcuts must be true or false, got 'maybe'"),
        ("positives=1", "positives must be an integer of at least 2, got '1'"),
        ("permuted=a.ckpt,b.ckpt", "permuted takes one checkpoint, got a.ckpt, b.ckpt"),
        ("draws=0", "draws must be an integer of at least 1, got '0'"),
        ("tta=flip", "tta=flip: nothing here depends on it"),
    ],
)
def test_settings_that_cannot_work(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        own_settings([text])


def test_settings(tmp_path: Path) -> None:
    settings, rest = own_settings(["methods=[cam, gradient]", "saliency=all", "data=nih"])
    assert settings.methods == ("cam", "gradient")
    assert settings.saliency == METHODS
    assert rest == ["data=nih"]


def test_gates_of_a_network_without_cbam(checkpoint: Path) -> None:
    result = explain(checkpoint, "methods=cbam")
    assert result.exit_code == 2
    assert "this network has no spatial gates that act" in result.output


def test_networks_that_cannot_be_compared(checkpoint: Path, folder: Path) -> None:
    other = trained(folder / "wide", "model.backbone=resnet18", "report=false")
    result = explain(checkpoint, *QUICK, f"seeds={other}")
    assert result.exit_code == 2
    assert "has another network or preprocessing than" in result.output
    assert not list((checkpoint.parents[1]).glob("explain_*"))
    for more, message in (
        ([f"seeds={checkpoint}"], "has seed=0, as another one"),
        ([f"permuted={checkpoint}"], "permute_labels=false: permuted= needs the opposite"),
        (["label=Cough"], "label must be one of Atelectasis"),
        (["subset=val", "split.seed=1", "data.seed=7"], "validation set is not that of the"),
    ):
        result = explain(checkpoint, *QUICK, *more)
        assert (result.exit_code, message in result.output) == (2, True), result.output
    result = explain(checkpoint.parent / "none.ckpt")
    assert (result.exit_code, "no checkpoint at" in result.output) == (2, True)


def test_what_is_too_few_or_shared_is_said(checkpoint: Path, tmp_path: Path) -> None:
    """Of images=all the validation images are scored too: no threshold comes from them."""
    few = ["saliency=cam", "label=Hernia", "shortcuts=false"]
    result = explain(
        checkpoint, *QUICK, *few, "data.seed=7", "data.patients=30", "images=all", "methods=cam",
        f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "explain.json").read_text())
    assert facts["images"] > 50
    thresholds = facts["localisation"]["thresholds"].values()
    assert {each["source"] for methods in thresholds for each in methods.values()} == {"stated"}
    assert facts["saliency"]["cam"]["note"] in result.stdout
    assert facts["saliency"]["cam"]["patients"] < 10
    result = explain(
        checkpoint, *QUICK, "data.seed=7", "data.patients=12", "saliency=cam", "methods=none",
        "shortcuts=false", f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    assert "no saliency tests: no finding with an AUROC on validation" in result.stdout
    assert not (tmp_path / "saliency.png").exists(), "of the run before"


def test_the_report_of_a_run_is_about_its_best_checkpoint(checkpoint: Path) -> None:
    last = checkpoint.with_name("last.ckpt")
    result = explain(last, *QUICK, "methods=none", "saliency=none", "shortcuts=false")
    fingerprint = json.loads((checkpoint.parents[1] / "metrics.json").read_text())["test"]
    place = checkpoint.parents[1] / f"explain_{fingerprint['fingerprint']}"
    assert (place / "explain.json").is_file(), result.output
    shutil.rmtree(place)


def test_the_network_goes_where_the_trainer_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning moves it back to the CPU."""
    device = torch.device("meta")
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=device))
    monkeypatch.setattr("xray_lightning.cli.explain.trainer_from", lambda *_, **__: trainer)
    monkeypatch.setattr("xray_lightning.cli.explain.predict_subset", lambda *_: "scores")
    data = SimpleNamespace(split=SimpleNamespace(subsets={"val": [0], "test": [1]}))
    net = XrayNet(("a",), "test_resnet", image_size=32)
    found: Any = SimpleNamespace(data=data, config=None)
    assert scored(found, net) == {"val": "scores", "test": "scores"}
    assert {each.device for each in net.parameters()} == {device}


def test_a_run_on_permuted_labels_says_so(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    for permuted in ("false", "true"):
        options = [*TOY, f"permute_labels={permuted}", f"cache_dir={tmp_path}"]
        config, _ = composed(options)
        data, trainer = data_from(config), SimpleNamespace(world_size=1)
        caplog.clear()
        describe(config, data, task_from(config, data), cast(Any, trainer))
        assert ("training labels are dealt anew" in caplog.text) == (permuted == "true")
