"""What a sweep, started again, does with each run's folder; training itself is replaced."""

import json
import logging
import os
from copy import deepcopy
from functools import cache
from unittest.mock import ANY, Mock

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from xray_lightning import processes
from xray_lightning.cli import fit as restart
from xray_lightning.cli.build import own_cores, reusable
from xray_lightning.cli.config import compose_settings, in_sweep
from xray_lightning.cli.fit import require_same_settings, sweep_run
from xray_lightning.errors import ConfigError
from xray_lightning.folders import lock_folder
from xray_lightning.processes import number_lines
from xray_lightning.writing import HOST


@pytest.fixture(autouse=True)
def hydra(monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    """Hydra's own settings inside run 3 of a sweep."""
    values = {"mode": RunMode.MULTIRUN, "job": {"num": 3}, "launcher": {"_target_": "Basic"}}
    values["overrides"] = {"task": ["loss=bce", "seed=0"]}
    config = OmegaConf.create({"hydra": values})
    monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")  # cores of a machine with one process
    return config.hydra


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """In place of fit."""
    monkeypatch.setattr(restart, "fit", fit := Mock(return_value=0.75))
    monkeypatch.setattr(restart, "resume_run", lambda run, changes: (f"{run.name}'s own", changes))
    return fit


@cache
def composition(*overrides: str) -> DictConfig:
    return compose_settings(overrides)


def settings(run, *overrides: str) -> DictConfig:
    config = deepcopy(composition(*overrides))
    config.run_dir = str(run)
    return config


def started(run, *overrides: str) -> DictConfig:
    """The settings of a run that got as far as writing them down."""
    config = settings(run, *overrides)
    run.mkdir(exist_ok=True)
    OmegaConf.save(reusable(restart.to_container(config)), run / "config.yaml")
    return config


def test_a_new_run_is_trained(tmp_path, trained: Mock) -> None:
    config = settings(tmp_path)
    assert sweep_run(config) == 0.75
    trained.assert_called_once_with(config, None, source=None)


def test_a_finished_run_is_skipped(tmp_path, trained, capsys) -> None:
    config = started(tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps({"val": {"auroc": {"mean": 0.5}}}))
    assert (sweep_run(config), trained.called) == (0.5, False)
    assert f"finished before: {tmp_path}, validation AUROC 0.5000" in capsys.readouterr().out


def test_an_interrupted_run_goes_on(tmp_path, trained: Mock) -> None:
    config = started(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    (tmp_path / "failure.json").write_text("{}")
    assert sweep_run(config) == 0.75
    trained.assert_called_once_with(f"{tmp_path.name}'s own", ["trust=true"], source=None)
    assert not (tmp_path / "failure.json").exists(), "it is no failure any more"


@pytest.mark.parametrize("how", ["sweep", "same command", "resume"])
def test_a_run_without_an_epoch_starts_anew(how, tmp_path, monkeypatch, hydra) -> None:
    monkeypatch.setattr(restart, "fit", fit := Mock())
    config = started(tmp_path)
    (tmp_path / "tensorboard").mkdir()
    for name in ("environment.json", "metrics.csv", "train.log", "montage.png"):
        (tmp_path / name).touch()
    if how != "sweep":
        hydra.mode = RunMode.RUN
    if how == "resume":
        hydra.overrides.task = [f"resume={tmp_path}", "workers=1"]
        config.resume, config.run_dir = str(tmp_path), "elsewhere"
    (sweep_run if how == "sweep" else restart.start_run)(config)
    fit.assert_called_once_with(ANY, None, source=None)
    assert (fit.call_args.args[0].run_dir, fit.call_args.args[0].seed) == (str(tmp_path), 0)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".lock", "config.yaml", "montage.png", "train.log"]


def test_a_single_run_is_not_repeated_in_a_folder(tmp_path, trained, hydra) -> None:
    hydra.mode = RunMode.RUN
    config = started(tmp_path)
    with pytest.raises(ConfigError, match=r"holds a run with other settings: seed=0 \(now 1\)"):
        restart.start_run(settings(tmp_path, "seed=1"))
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ConfigError, match=f"{tmp_path} holds a run already: resume="):
        restart.start_run(config)
    assert not trained.called


def test_two_sweeps_at_once(tmp_path, trained, caplog) -> None:
    """The run that the other one trains is left to it and not marked."""
    with lock_folder(tmp_path):
        assert sweep_run(settings(tmp_path)) is None
    assert f"({os.getpid()} on {HOST})" in caplog.text
    assert not trained.called
    assert not (tmp_path / "failure.json").exists()


@pytest.mark.parametrize("fault", [RuntimeError("a loader died"), KeyboardInterrupt("Ctrl-C")])
def test_a_stop_is_no_failure(fault: BaseException, tmp_path, monkeypatch) -> None:
    """Whatever a library raises because of a signal, the sweep stops and the run is not marked."""
    monkeypatch.setattr(restart, "fit", Mock(side_effect=fault))
    monkeypatch.setattr(processes, "STOPPED_BY", [15] * isinstance(fault, Exception))
    with pytest.raises(type(fault), match=str(fault)):
        sweep_run(settings(tmp_path))
    assert not (tmp_path / "failure.json").exists()


@pytest.mark.parametrize("surroundings", ["workers=3", "threads=1", "cache_dir=elsewhere"])
def test_surroundings_may_change(tmp_path, surroundings: str) -> None:
    started(tmp_path / "a", "augment=light")
    path = tmp_path / "a/config.yaml"
    for line in ("monitor: val/auroc\n", "resident: auto\n", "  'on': auto\n"):
        text = path.read_text()
        assert line in text
        path.write_text(text.replace(line, "", 1))  # as an earlier version wrote it
    require_same_settings(settings(tmp_path / "b", "augment=light", surroundings), tmp_path / "a")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=1", r"seed=0 \(now 1\)"),
        ("monitor=val/loss", r"monitor=val/auroc \(now val/loss\)"),
        ("loss=focal", r"loss\._target_=xray_lightning\.BCE \(now .*Focal"),
        ("split.fractions=[0.6,0.2,0.2]", r"split\.fractions=\[0\.7, 0\.1, 0\.2\] \(now \[0\.6"),
    ],
)
def test_another_run_is_refused(tmp_path, trained, override, message) -> None:
    started(tmp_path)
    with pytest.raises(ConfigError, match=f"holds a run with other settings: .*{message}"):
        sweep_run(settings(tmp_path, override))
    assert not trained.called
    assert not (tmp_path / "failure.json").exists(), "the other run is not marked"


@pytest.mark.parametrize(
    ("error", "message", "traceback"),
    [
        (ConfigError("epochs must be 1 or more"), "epochs must be 1 or more", False),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero", True),
    ],
)
def test_a_failure_is_written_down_and_the_sweep_goes_on(
    tmp_path, monkeypatch, caplog, error, message, traceback
) -> None:
    monkeypatch.setattr(restart, "fit", Mock(side_effect=error))
    assert sweep_run(settings(tmp_path)) is None
    facts = json.loads((tmp_path / "failure.json").read_text())
    assert facts.pop("schema") == 2
    assert facts == {"overrides": ["loss=bce", "seed=0"], "seed": 0, "message": message}
    (record,) = caplog.records
    assert str(error) in record.getMessage()
    assert bool(record.exc_info) == traceback


def test_lines_name_their_run_on_the_terminal_only(tmp_path) -> None:
    terminal, file = logging.StreamHandler(), logging.FileHandler(tmp_path / "train.log")
    root = logging.getLogger()
    for handler in (terminal, file):
        root.addHandler(handler)
    try:
        number_lines(3)
        record = logging.LogRecord("x", logging.INFO, "x", 1, "epoch 1", None, None)
        assert terminal.format(record).endswith("INFO #3 epoch 1")
        assert file.format(record) == "epoch 1"
    finally:
        for handler in (terminal, file):
            root.removeHandler(handler)
            handler.close()


@pytest.mark.parametrize(
    ("launcher", "cores"),
    [
        ({"_target_": "hydra.BasicLauncher"}, 8),
        ({"_target_": "x.JoblibLauncher", "n_jobs": 2}, 4),
        ({"_target_": "x.JoblibLauncher", "n_jobs": 3}, 2),
        ({"_target_": "x.JoblibLauncher", "n_jobs": -1}, 1),
        ({"_target_": "x.JoblibLauncher", "n_jobs": -5}, 2),
        ({"_target_": "x.JoblibLauncher", "n_jobs": 99}, 1),
        ({"_target_": "x.LocalLauncher", "cpus_per_task": None}, 1),
        ({"_target_": "x.LocalLauncher", "cpus_per_task": 4}, 4),
        ({"_target_": "x.SlurmLauncher", "cpus_per_task": 16}, 8),
        ({"_target_": "x.SlurmLauncher", "cpus_per_task": None}, 8),
    ],
)
def test_cores_are_shared(hydra: DictConfig, launcher: dict[str, object], cores: int) -> None:
    hydra.launcher = launcher
    OmegaConf.set_struct(hydra, True)
    assert (in_sweep(), own_cores(1)) == (True, cores)
    hydra.mode = RunMode.RUN
    assert (in_sweep(), own_cores(1)) == (False, 8), "a single run has all"
