"""Studies of settings, the training replaced by a script that writes what a training leaves.

Run as a program, this file is a worker on a study.
"""

import json
import sys
from functools import partial
from operator import methodcaller
from pathlib import Path

import numpy as np
import optuna
import pytest
from filelock import FileLock, Timeout
from optuna.trial import TrialState
from running import kill, start

from xray_lightning.errors import ConfigError, XrayError
from xray_lightning.training import study as module
from xray_lightning.training.study import describe, measure_effects, open_study, run_study

SCRIPT = """
import json, sys, time
from pathlib import Path
given = dict(word.split("=") for word in sys.argv[1:])
x, run, speed = float(given["x"]), Path(given["hydra.run.dir"]), float(given.get("speed", 0))
with (run / "starts").open("a") as file:
    file.write("started\\n")
if given.get("fails", "") in (run.name, "all"):
    sys.exit("more\\nerror: x is too large")
rows = ["epoch,val/auroc,val/loss"]
for epoch in range(6):
    time.sleep(speed)
    rows.append(f"{epoch},{1 - (x - 0.3) ** 2 - 0.1 / (epoch + 1)},{x}")
    (run / "new").write_text("\\n".join(rows))
    (run / "new").rename(run / "metrics.csv")
mean = None if given.get("undefined") else 1 - (x - 0.3) ** 2
(run / "metrics.json").write_text(json.dumps({"val": {"auroc": {"mean": mean}}}))
"""
SPACE = {"x": methodcaller("suggest_float", "x", 0.0, 1.0)}


@pytest.fixture(autouse=True)
def _script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.setattr(module, "TRAIN", (str(tmp_path / "script.py"),))
    monkeypatch.setattr(module, "POLL", 0.01)


def search(folder: Path, *settings: str, metric: str = "val/auroc", warmup: int = 9, **how):
    folder.mkdir(exist_ok=True)
    study = open_study(folder, ["x", *settings], metric=metric, warmup=warmup)
    run_study(study, folder, settings, SPACE, metric=metric, **how)
    return study


def drawn(study: optuna.Study) -> list[float]:
    return [trial.params["x"] for trial in study.trials]


def test_the_best_is_found_and_a_study_goes_on_as_if_it_had_not_ended(tmp_path: Path) -> None:
    lines: list[str] = []
    whole = search(tmp_path / "whole", count=16, report=lines.append)
    assert abs(whole.best_params["x"] - 0.3) < 0.05
    assert lines[0] == f"trial 0: x={drawn(whole)[0]}"
    assert lines[1] == f"trial 0: val/auroc {whole.trials[0].value:.4f}"
    search(tmp_path / "parts", count=7)
    assert drawn(search(tmp_path / "parts", count=16)) == drawn(whole)
    assert drawn(search(tmp_path / "other", count=2, seed=1)) != drawn(whole)[:2]
    told = json.loads(json.dumps(describe(whole)))
    assert (told["finished"], told["best"]) == (16, told["trials"][whole.best_trial.number])
    with pytest.raises(ConfigError, match=r"whole holds a study of other settings: \['y=1'\]"):
        search(tmp_path / "whole", "y=1")


def test_another_metric(tmp_path: Path) -> None:
    study = search(tmp_path / "a", metric="val/loss", count=12)
    assert study.best_params["x"] < 0.2
    assert study.best_value == study.best_params["x"]


def test_what_is_worse_than_the_median_is_pruned(tmp_path: Path) -> None:
    study = search(tmp_path / "a", "speed=0.1", warmup=2, count=10)
    pruned = study.get_trials(states=[TrialState.PRUNED])
    assert pruned
    for trial in pruned:
        run = tmp_path / "a" / str(trial.number)
        assert not (run / "metrics.json").exists()
        failure = json.loads((run / "failure.json").read_text())
        assert (failure["state"], failure["overrides"][0]) == ("pruned", "speed=0.1")
        steps = trial.intermediate_values
        assert min(len(steps), 6) > 2
        before = [t.intermediate_values for t in study.trials[: trial.number]]
        last = max(steps)
        assert steps[last] < np.median([each[last] for each in before if last in each])


def test_failures(tmp_path: Path) -> None:
    with pytest.raises(XrayError, match=r"trial 0 failed: x is too large \(.*0/output.log\)"):
        search(tmp_path / "a", "fails=all")
    with pytest.raises(XrayError, match=r"trial 0 failed: val/auroc is undefined"):
        search(tmp_path / "b", "undefined=1")
    lines: list[str] = []
    study = search(tmp_path / "c", "fails=1", count=3, report=lines.append)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert lines[3].startswith("trial 1: x is too large")
    assert describe(study)["effects"] == {}


def test_two_workers_one_killed_and_one_that_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    words = [sys.executable, __file__, str(tmp_path / "script.py"), str(folder)]
    kill(start(words, lambda process: process.stdout.readline()))
    other = start(words, lambda process: process.stdout.readline())
    study = search(folder, "speed=0.1", count=8)
    assert "val/auroc" in other.communicate()[0]
    assert other.returncode == 0
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 8
    starts = [len((folder / str(n) / "starts").read_text().split()) for n in range(8)]
    assert starts[1:] == [1] * 7, "no trial is trained by two"


def test_the_training_of_a_killed_study_is_waited_for(tmp_path: Path, monkeypatch) -> None:
    trial = open_study(tmp_path, ["x"]).ask()
    (run := tmp_path / "0").mkdir()
    (run / "metrics.json").write_text('{"val": {"auroc": {"mean": 0.5}}}')
    monkeypatch.setattr(module, "FileLock", partial(FileLock, timeout=0.05))
    with FileLock(run / ".lock"), pytest.raises(Timeout):
        module.run_trial(trial, [], run, "val/auroc")
    assert module.run_trial(trial, [], run, "val/auroc") == (TrialState.COMPLETE, 0.5, "")


def simulate(count: int, effect: float, seed: int, prune: bool = False) -> dict[str, float]:
    """What mattered in a study by TPE of three settings, one of which may matter."""
    sampler, rng = optuna.samplers.TPESampler(seed=seed), np.random.default_rng(seed)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    for _ in range(count):
        trial = study.ask()
        rate = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        trial.suggest_int("layers", 1, 3)
        trial.suggest_categorical("loss", ["bce", "focal"])
        value = rng.normal() - effect * (np.log10(rate) + 3) ** 2
        for epoch in range(6):
            trial.report(value if epoch == 5 else 0.9 * value + 0.44 * rng.normal(), epoch)
            if prune and epoch < 5 and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, value)
    effects, epoch = measure_effects(study.trials)
    assert epoch == (3 if prune else None)
    return effects


@pytest.mark.parametrize("prune", [False, True])
def test_what_mattered(prune: bool) -> None:
    """Of 100 studies of pure noise some 5 say that a setting matters; a real one is found."""
    count = 60 if prune else 24
    noise = [min(simulate(count, 0, seed, prune).values()) < 0.05 for seed in range(100)]
    assert sum(noise) <= 11  # 99.6 % of binomial(100, 0.05)
    found = [simulate(40, 3, seed, prune) for seed in range(10)]
    assert sum(one["lr"] < 0.05 for one in found) >= 9
    assert list(found[0]) == sorted(found[0], key=found[0].get)


def test_few_trials_are_not_asked_and_repeats_are_one(tmp_path: Path) -> None:
    assert simulate(9, 3, 0) == {}
    study = search(tmp_path / "a", count=9)
    study.add_trials(study.trials[:5])
    assert measure_effects(study.trials) == ({}, None)


@pytest.mark.parametrize("settings", [1, 2, 4])
def test_slices_are_drawn(settings: int, tmp_path: Path) -> None:
    study = optuna.create_study()
    for _ in range(3):
        trial = study.ask()
        study.tell(trial, sum(trial.suggest_float(f"{n}", 0, 1) for n in range(settings)))
    module.draw_slices(study, "val/loss", tmp_path / "study.png")
    assert (tmp_path / "study.png").stat().st_size > 5000


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    search(tmp_path / "a", count=1)
    with (tmp_path / "a/study.log").open("a") as file:
        file.write('{"op_code": 4, "wor\n{}\n')
    with pytest.raises(ConfigError, match=r"a/study.log is damaged \(.*name another folder"):
        search(tmp_path / "a")
    (tmp_path / "a/config.yaml").touch()
    with pytest.raises(ConfigError, match="a is the folder of a run"):
        search(tmp_path / "a")


if __name__ == "__main__":
    module.TRAIN, module.POLL = (sys.argv[1],), 0.01
    search(Path(sys.argv[2]), "speed=0.1", count=8, report=partial(print, flush=True))
