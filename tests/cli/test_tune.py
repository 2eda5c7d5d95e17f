"""``xray tune``: what is refused before a training, and a study with trainings."""

import json
import os
import sys
from pathlib import Path

import pytest
from running import ROOT, XRAY, start, xray

import xray_lightning.training

SMALL = ["data.patients=40", "data.size=32", "image_size=32", "epochs=2", "trainer=cpu"]
SMALL += ["model=resnet50", "model.backbone=resnet10t", "weights=none", "report=false", "draws=50"]
SMALL += ["callbacks=none", "logger=none"]
RATE = "optim.optimizer.lr=tag(log,interval(1e-4,1e-2))"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([RATE], "xray tune needs study=DIR and a range, such as"),
        (["study=a", "seed=1"], "xray tune needs study=DIR and a range, such as"),
        (["study=a", "optim.optimizer.lr=interval(2,1)"], "an interval rises"),
        (["study=a", "optim.optimizer.lr=tag(log,interval(0,1))"], "begins above 0"),
        (["study=a", "optim.lr=interval(0,1)"], "unknown setting optim.lr: optim.optimizer.lr?"),
        (["study=a", "loss=bce,fokal"], "fokal"),
        (["study=a", "freeze_epochs=range(3,0)"], "freeze_epochs=range(3,0): this range is empty"),
        (["study=a", "epochs=tag(lgo,interval(1,2))"], "no tag but log"),
        (["study=a", "monitor=val/loss,val/auroc"], "not tuned: data, split, seed and monitor"),
        (["study=a", "split.seed=1,2"], "split.seed=1,2: no tag but log; not tuned: data, split"),
        (["study=a", "epochs=choice(0,3)"], "epochs must be an integer of at least 1, got 0"),
        (["study=a", RATE, "data=nih", "data.root=nowhere"], "nowhere"),
        (["study=a", RATE, "trials=0"], "trials must be an integer of at least 1"),
    ],
)
def test_what_cannot_be_tuned(words, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in xray("tune", *words, code=2)
    assert not list(tmp_path.glob("*/study.log"))


def test_optuna_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "xray_lightning.training.study", raising=False)
    monkeypatch.delattr(xray_lightning.training, "study", raising=False)  # of another test
    output = xray("tune", f"study={tmp_path / 'a'}", RATE, code=2)
    assert 'no optuna: pip install "xray_lightning[tune]"' in output


@pytest.mark.slow
def test_a_killed_study_goes_on(tmp_path: Path) -> None:
    """A killed command's training ends by itself; the next command takes its trial over."""
    study = tmp_path / "study"
    words = [f"study={study}", "trials=3", RATE, "loss=choice(bce,focal)", *SMALL]
    words.append(f"cache_dir={tmp_path / 'cache'}")
    begun = lambda _: (study / "0/metrics.csv").is_file()  # noqa: E731
    killed = start([*XRAY, "tune", *words], begun, env=os.environ | {"PYTHONPATH": str(ROOT)})
    killed.kill()
    killed.communicate()
    told = json.loads(xray("tune", *words, "--json"))
    assert [trial["state"] for trial in told["trials"]] == ["complete"] * 3
    assert told["finished"] == 3
    assert told["effects"] == {}
    for trial in told["trials"]:
        run = study / str(trial["number"])
        assert (
            trial["value"] == json.loads((run / "metrics.json").read_text())["val"]["auroc"]["mean"]
        )
        rate = f"optim.optimizer.lr={trial['settings']['optim.optimizer.lr']}"
        assert rate in json.loads((run / "environment.json").read_text())["overrides"]
    assert (study / "study.png").stat().st_size > 10_000
    output = xray("tune", *words)  # all trials are there
    best = told["best"]
    assert f"best of 3 finished trials: {best['number']}, val/auroc {best['value']:.4f}" in output
    assert "what mattered is asked from 10 trials on, finished or pruned" in output
    assert "holds a study of other settings" in xray("tune", *words, "seed=1", code=2)
    assert f"loss={best['settings']['loss']}" in xray("sweep", study)
