"""train() in Python: what a run leaves, parts of the user's own, and what its sampler changes.

SIGTERM and SIGHUP as schedulers and terminals send them: in time, said, with an exit code.
"""

import json
import logging
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from own_parts import Count, OwnLoss, Small, TopMean
from running import TOY, TRAIN, XRAY, start
from running import run as call
from sklearn.metrics import average_precision_score
from toy import data_fixture, toy_data, toy_net

from xray_lightning import XrayDataModule, XrayNet, XrayTask, load_checkpoint, train
from xray_lightning.cli.build import data_from, task_from
from xray_lightning.cli.config import compose_settings
from xray_lightning.errors import CheckpointError, ConfigError, SplitError
from xray_lightning.folders import lock_folder
from xray_lightning.training import environment
from xray_lightning.training.callbacks.epochs import WatchMetric
from xray_lightning.training.environment import compare_prevalence, write_environment
from xray_lightning.training.run import MONITOR, TrainingRun, choose_by, log_run, lowest_kept
from xray_lightning.writing import read_json

FAST = partial(torch.optim.AdamW, lr=0.1)  # so that the epochs differ
data = data_fixture(24)


def precision(scores: np.ndarray, targets: np.ndarray) -> float:
    return float(average_precision_score(targets.ravel(), scores.ravel()))


@pytest.fixture(scope="module")
def run(data: XrayDataModule, folder: Path) -> TrainingRun:
    """With a head, a loss, a callback and a metric of one's own."""
    net = toy_net(data.labels, head=TopMean, head_options={"k": 1})
    task, count = XrayTask(net, OwnLoss()), Count()
    more = {"callbacks": [count], "metrics": {"precision": precision}, "tolerance": 0}
    run = train(task, data, folder, epochs=2, **more)
    assert count.epochs == 2
    return run


def test_what_a_run_leaves(run: TrainingRun, folder: Path, data: XrayDataModule) -> None:
    table = pd.read_csv(folder / "metrics.csv")
    assert run.best_epoch == int(table["val/auroc"].argmax()) + 1
    assert run.val_auroc == pytest.approx(table["val/auroc"].max(), rel=1e-7)
    assert run.choice == "best val/auroc"
    assert run.images_seen == table["images_seen"].iloc[-1] > 0
    assert run.seconds > 0
    assert run.last.is_file()
    assert load_checkpoint(run.best).epoch + 1 == run.best_epoch
    assert read_json(folder / "environment.json")["split"]["fingerprint"] == data.split.fingerprint
    assert TrainingRun.from_json(run.to_json()) == run


def test_an_own_metric_is_that_of_all_validation_images(run, folder, data) -> None:
    logged = pd.read_csv(folder / "metrics.csv")["val/precision"]
    net = load_checkpoint(run.best, trust=True).build_net()
    batches: list[object] = list(data.val_dataloader())
    with torch.no_grad():
        scores = np.concatenate([torch.sigmoid(net(batch["image"])) for batch in batches])
    targets = np.concatenate([batch["targets"] for batch in batches])
    assert logged[run.best_epoch - 1] == pytest.approx(precision(scores, targets), rel=1e-6)


@pytest.mark.parametrize(
    ("monitor", "best"),
    [("val/precision", np.argmax), ("val/brier", np.argmin), ("val/loss", np.argmin)],
)
def test_another_metric_chooses(monitor: str, best, data, tmp_path) -> None:
    """Of three epochs the one that is best by it; what is told of AUROC is of that epoch."""
    torch.manual_seed(1)
    task = XrayTask(Small(list(data.labels)), labels=data.labels, optimizer=FAST)
    run = train(task, data, tmp_path, epochs=3, metrics={"precision": precision}, monitor=monitor)
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert run.best_epoch == best(table[monitor]) + 1 == load_checkpoint(run.best).epoch + 1
    assert run.choice == f"best {monitor}"
    assert run.val_auroc == pytest.approx(table["val/auroc"][run.best_epoch - 1], rel=1e-7)


def test_the_last_epoch_within_an_error_of_the_best(data: XrayDataModule, tmp_path: Path) -> None:
    torch.manual_seed(1)
    task = XrayTask(Small(list(data.labels)), labels=data.labels, optimizer=FAST)
    run = train(task, data, tmp_path, epochs=4)
    table = pd.read_csv(tmp_path / "metrics.csv")
    rows = SimpleNamespace(rows=table.to_dict("records"))
    good = table.index[table["val/auroc"] >= lowest_kept(rows, data, 1)]
    assert run.best_epoch == max(good) + 1 > table["val/auroc"].idxmax() + 1
    assert run.choice == "last epoch within the error of the best val/auroc"


def test_the_error_of_a_published_auroc() -> None:
    """Hanley and McNeil 1982: 0.893 of 51 abnormal and 58 normal has an error of 0.032."""
    sick = np.repeat([1.0, 0.0], [102, 116])  # two images a patient, which count once
    records = [SimpleNamespace(patient_id=str(row // 2)) for row in range(218)]
    data = SimpleNamespace(labels=["a", "b", "c"], subset_records=lambda _: records)
    data.subset_targets = lambda _: np.stack([sick, 0 * sick, sick], axis=1)
    each = {"val/auroc/a": 0.893, "val/auroc/b": math.nan, "val/auroc/c": 0.893}
    table = SimpleNamespace(rows=[{MONITOR: 0.893, **each}, {MONITOR: 0.8}])
    errors = 0.893 - np.array([lowest_kept(table, data, times) for times in (1, 2)])
    assert errors == pytest.approx(np.array([0.032, 0.064]) / math.sqrt(2), rel=0.02)


def test_what_can_choose(data: XrayDataModule, tmp_path: Path) -> None:
    own = WatchMetric("mine", lambda s, t: (s - t).square().nanmean(), "min", tensors=True)
    lacking = data.labels_without_positives("val")
    known = min({*data.labels} - {*lacking})
    assert choose_by("val/mine", [own], data) == ([], "min")
    assert choose_by(f"val/auroc/{known}", [], data) == ([], "max")
    ((watch,), mode) = choose_by(f"val/calibration_error/{known}", [], data)
    assert (watch.name, mode) == (f"calibration_error/{known}", "min")
    wrong = r"no metric monitor={}; known are val/loss, val/auroc, .*logs: val/mine"
    for monitor in ("val/auroch", "auroc", "val/auroc/", "val/auroc/Nothing", None):
        with pytest.raises(ConfigError, match=wrong.format(monitor)):
            choose_by(monitor, [own], data)
    with pytest.raises(ConfigError, match=f"gain/{lacking[0]} is undefined on validation"):
        choose_by(f"val/precision_recall_gain/{lacking[0]}", [], data)
    with pytest.raises(ConfigError, match=r"other direction of val/mine: .*mode=min"):
        choose_by("val/mine", [own, pl.callbacks.EarlyStopping("val/mine", mode="max")], data)
    with pytest.raises(ConfigError, match="tolerance must be a number of at least 0, got -1"):
        train(None, data, tmp_path, tolerance=-1)


def test_an_own_head_is_built_again_by_those_who_trust_it(run: TrainingRun) -> None:
    with pytest.raises(CheckpointError, match=r"TopMean' is not of this package.*trust=True"):
        load_checkpoint(run.best).build_net()
    net = load_checkpoint(run.best, trust=True).build_net()
    assert isinstance(net.head, TopMean)
    assert net.head.k == 1
    assert isinstance(net.new().head, TopMean)


def test_it_goes_on_from_its_last_checkpoint(run: TrainingRun, data: XrayDataModule) -> None:
    net = XrayNet(data.labels, "test_resnet", image_size=32, head=TopMean, head_options={"k": 1})
    resume = load_checkpoint(run.last)
    further = train(XrayTask(net, OwnLoss()), data, run.folder, epochs=3, resume=resume)
    assert further.images_seen == run.images_seen * 3 // 2
    other = toy_data(data.cache_dir, 25)
    with pytest.raises(SplitError, match=resume.description.split["fingerprint"]):
        train(XrayTask(net), other, run.folder, resume=resume)


def test_any_module_with_logits(data: XrayDataModule, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Small does not say its labels"):
        XrayTask(Small(["a"]))
    with pytest.raises(ConfigError, match=f"labels {data.labels[-1]}, .*in this order"):
        train(XrayTask(Small(list(data.labels)), labels=data.labels[::-1]), data, tmp_path)
    task = XrayTask(Small(list(data.labels), width=3), labels=data.labels)
    run = train(task, data, tmp_path, epochs=1)
    assert not math.isnan(run.val_auroc)
    trusted, foreign = (load_checkpoint(run.best, trust=trust) for trust in (True, False))
    with pytest.raises(CheckpointError, match=r"class '.*Small' is not of this package"):
        foreign.build_net()
    images = torch.rand(2, 1, 32, 32)
    for net in (trusted.build_net(), foreign.build_net(Small(list(data.labels), width=3))):
        torch.testing.assert_close(net(images), task.net.eval()(images), rtol=0, atol=0)


def test_a_trainer_without_the_callbacks_of_a_run(data: XrayDataModule, tmp_path: Path) -> None:
    task = XrayTask(Small(list(data.labels)), labels=data.labels)
    with pytest.raises(ConfigError, match="the trainer has no MetricsFile"):
        train(task, data, tmp_path, trainer=pl.Trainer(accelerator="cpu", logger=False))


SMALL = [*TOY, "data.patients=60", "threads=1"]
LONG = [*SMALL, "epochs=500"]


def test_what_a_sampler_changes(tmp_path: Path) -> None:
    plain = data_from(compose_settings(SMALL))
    assert environment.describe_sampling(plain) is None
    assert all(subset == drawn for subset, drawn in compare_prevalence(plain).values())
    config = compose_settings([*SMALL, "sampler=disease_balanced", "sampler.normal_share=0.25"])
    data = data_from(config)
    shares = compare_prevalence(data)
    targets = data.subset_targets("train")
    assert shares["Hernia"][0] == pytest.approx(targets[:, -1].mean())
    assert shares["Hernia"][1] == pytest.approx(data.draw_targets(10)[:, -1].mean())
    assert shares["normal images"][1] == pytest.approx(0.25, abs=0.5 / len(targets))
    line = environment.describe_sampling(data)
    assert line is not None
    name = max(shares, key=lambda name: shares[name][1] / shares[name][0])
    subset, drawn = shares[name]
    assert f"{name} {100 * subset:.1f}% -> {100 * drawn:.1f}%" in line
    write_environment(tmp_path, data, pl.Trainer(accelerator="cpu", logger=False), seed=0)
    facts = json.loads((tmp_path / "environment.json").read_text())
    assert facts["prevalence"] == {name: list(pair) for name, pair in shares.items()}
    assert facts["processes"] == 1


@pytest.mark.parametrize(
    ("overrides", "lines", "warned"),
    [
        (["loss=weighted_bce"], 0, False),
        (["sampler=patient_balanced", "compile=true"], 1, False),
        (["sampler=disease_balanced", "loss=weighted_bce"], 1, True),
    ],
)
def test_the_log(overrides, lines, warned, caplog) -> None:
    config = compose_settings([*SMALL, *overrides])
    data = data_from(config)
    two = SimpleNamespace(world_size=2)
    with caplog.at_level(logging.INFO):
        log_run(data, task_from(config, data), two)
    assert caplog.text.count("the sampler changes the prevalence in training: ") == lines
    assert ("loss: counted on the training set, not on what" in caplog.text) == warned
    assert f"2 processes x {config.batch_size} images a step" in caplog.text
    assert ("compile: the first step with each number" in caplog.text) == config.compile


def restored() -> None:
    """A background job of a non-interactive shell inherits an ignored SIGINT."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def stopped(
    command: list[str],
    folder: Path,
    ready: Callable[[subprocess.Popen[str]], object],
    number: int = signal.SIGTERM,
    **variables: str,
) -> str:
    """What a command says that gets a signal once it is ready; it must end within 5 s, alone."""
    session = {"start_new_session": True, "preexec_fn": restored, "env": os.environ | variables}
    process = start(command, ready, cwd=folder, **session)
    try:
        begun = time.monotonic()
        process.send_signal(number)
        text, _ = process.communicate(timeout=60)
        assert time.monotonic() - begun < 7  # 5 s, and 2 on a busy machine
        assert process.returncode == 128 + number, text[-3000:]
        assert f"stopped by {signal.Signals(number).name}; what was written is kept" in text
        assert "Traceback" not in text
        while time.monotonic() - begun < 15:  # no loader or other process lingers
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.1)
        else:
            pytest.fail("processes linger")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return text


def there(path: Path) -> Callable[[object], bool]:
    return lambda _: path.is_file()


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    call([*TRAIN, *SMALL, "epochs=1", "hydra.run.dir=done"], folder)
    return folder


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGTERM, 2)]
)
def test_training(number: int, workers: int, tmp_path: Path) -> None:
    command = [*TRAIN, *LONG, f"workers={workers}", "hydra.run.dir=run"]
    text = stopped(command, tmp_path, there(tmp_path / "run/checkpoints/last.ckpt"), number)
    assert f"continue with: python train.py resume={tmp_path / 'run'}" in text
    assert not (tmp_path / "run/metrics.json").exists()


@pytest.mark.slow
@pytest.mark.alone
def test_the_first_epoch(tmp_path: Path) -> None:
    """The same command and resume= both go on after a stop before the first checkpoint."""
    command = [*TRAIN, *SMALL, "epochs=1", "hydra.run.dir=run"]
    stopped(command, tmp_path, there(tmp_path / "run/montage.png"))
    assert not (tmp_path / "run/checkpoints/last.ckpt").exists()
    call(command, tmp_path)
    first = json.loads((tmp_path / "run/metrics.json").read_text())
    command[-1] = "hydra.run.dir=again"
    stopped(command, tmp_path, there(tmp_path / "again/montage.png"))
    call([*TRAIN, "resume=again"], tmp_path)
    assert json.loads((tmp_path / "again/metrics.json").read_text()) == first


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(
    ("verb", "sign"),
    [
        (["evaluate", "done/checkpoints/best.ckpt", "draws=300000"], "out"),
        (["explain", "done/checkpoints/best.ckpt", "draws=300000"], "out"),
        (["shortcuts", "done/checkpoints/best.ckpt", "draws=300000"], "out"),
        (["score", "table.csv", "draws=300000", "subgroups=true"], "out"),
        (["audit", "data.patients=9000", "draws=20000"], "out"),
        (["compare", "table.csv", "table.csv", "--draws", "3000000"], ""),
        (["cache", "image_size=128", "data.patients=5000"], "outputs/cache/*/done.bin"),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)
def test_verbs(verb: list[str], sign: str, finished: Path, tmp_path: Path) -> None:
    for name in ("done", "outputs"):
        if verb[0] != "cache":
            (tmp_path / name).symlink_to(finished / name)
    if sign == "out":
        verb = [*verb, f"hydra.run.dir={tmp_path / 'out'}"]
    (tmp_path / "table.csv").write_bytes((finished / "done/predictions_test.csv").read_bytes())
    if verb[0] == "score":
        verb += ["data.patients=60"]
    begun = time.monotonic()

    def ready(_: object) -> bool:
        return bool(list(tmp_path.glob(sign))) if sign else time.monotonic() - begun > 6

    assert "start it again to go on" in stopped([*XRAY, *verb], tmp_path, ready)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]])
def test_a_sweep_stops_as_a_whole(launcher: list[str], tmp_path: Path) -> None:
    command = [*TRAIN, "-m", "seed=0,1,2", *LONG, *launcher, "hydra.sweep.dir=sweep"]
    text = stopped(command, tmp_path, there(tmp_path / "sweep/0/checkpoints/last.ckpt"))
    assert "start the same command again: it runs only what is missing" in text
    assert not list(tmp_path.glob("sweep/*/failure.json"))
    assert not (tmp_path / "sweep/2").exists()
    assert not [path for path in tmp_path.rglob(".*") if path.is_dir()]
    for place in (tmp_path / "sweep").glob("[01]"):  # joblib kills its processes while they write
        with lock_folder(place):  # as the next start does
            assert not list(place.rglob(".*.partial"))


@pytest.mark.slow
@pytest.mark.alone
def test_slurm_requeues(tmp_path: Path) -> None:
    """SIGUSR1 asks Slurm to requeue, SIGTERM ends the job, and the same command goes on."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/asked\n")
    (tools / "scontrol").chmod(0o755)
    job = {"SLURM_JOB_ID": "4321", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1"}
    job |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    job |= {"SLURM_NODELIST": "127.0.0.1", "PATH": f"{tools}:{os.environ['PATH']}"}
    command = [*TRAIN, *SMALL, "epochs=6", "hydra.run.dir=run"]
    asked = []

    def ready(process: subprocess.Popen[str]) -> bool:
        if (tmp_path / "run/checkpoints/last.ckpt").is_file() and not asked:
            asked.append(process.send_signal(signal.SIGUSR1))
        return (tmp_path / "asked").is_file()

    stopped(command, tmp_path, ready, **job)
    assert (tmp_path / "asked").read_text() == "requeue 4321\n"
    call(command, tmp_path, **job)
    command[-1] = "hydra.run.dir=uninterrupted"
    call(command, tmp_path)
    ours, theirs = (tmp_path / name / "metrics.json" for name in ("run", "uninterrupted"))
    assert ours.read_text() == theirs.read_text()
    assert not list(tmp_path.glob("run/hpc_ckpt*"))
