"""Runs after ``-m``, compared; ``xray tune``: what is refused, and a study with trainings."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn
from hydra.types import RunMode
from omegaconf import OmegaConf
from running import TOY, XRAY, kill, read_table, start, write_run, xray

import xray_lightning.training
from xray_lightning.cli.multirun import SweepTable
from xray_lightning.evaluation.sweep import SweepComparison, SweepRun
from xray_lightning.report.page import say
from xray_lightning.report.terminal import finish_sweep, show, write_sweep


def config(folder: Path, mode: RunMode = RunMode.MULTIRUN):
    return OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}, "mode": mode}})


def run(settings: str, val: float | None, **more: object) -> SweepRun:
    known = {"split": "patient", "fingerprint": "f", "val": val, "test": val, "val_labels": 14}
    return replace(SweepRun("0", settings, 0, "finished"), **{**known, **more})


def test_tables_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "0", ["loss=bce", "split=patient"], 0.75)
    write_run(tmp_path / "1", ["loss=auc", "split=patient"], 0.875)
    write_run(tmp_path / "2", ["loss=bce", "split=official"], None, "official")
    SweepTable().on_multirun_end(config(tmp_path))
    assert [row["test"] for row in read_table(tmp_path / "comparison.csv")] == ["0.75", "0.875", ""]
    ranking = read_table(tmp_path / "ranking.csv")
    wanted = ("auc split=patient", "bce split=patient", "bce split=official")
    assert [row["settings"] for row in ranking] == [f"loss={settings}" for settings in wanted]
    assert [row["test_mean"] for row in ranking] == ["0.875", "", ""]
    assert (ranking[0]["seeds"], ranking[0]["folders"]) == ("0", "1")
    plain = json.loads((tmp_path / "ranking.json").read_text())
    assert [len(each) for each in plain["rankings"]] == [2, 1]
    assert (tmp_path / "comparison.png").stat().st_size > 5000
    text = capsys.readouterr().out
    assert text.index("split patient [f-patient]") < text.index("split official [f-official]")
    assert "Tables of different splits are not comparable" in text
    assert "0.7500" in text
    assert "n = 1" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("0", "1", "2", "comparison.csv", "comparison.png", "ranking.csv", "ranking.json")
    ], "no temporary folder stays"


def test_files_are_kept_up_to_date_after_each_run(tmp_path: Path) -> None:
    SweepTable().on_multirun_end(config(tmp_path))
    assert not list(tmp_path.iterdir()), "nothing started"
    write_run(tmp_path / "0", ["seed=0"])
    SweepTable().on_job_end(config(tmp_path, RunMode.RUN), JobReturn())
    assert not (tmp_path / "comparison.csv").exists(), "a single run compares nothing"
    SweepTable().on_job_end(config(tmp_path), JobReturn())
    assert (tmp_path / "comparison.csv").exists()


def test_a_failure_gives_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "0", ["loss=bce"])
    (tmp_path / "1").mkdir()
    failure = {"overrides": ["loss=auc"], "seed": 3, "message": "the loss [x] became nan"}
    (tmp_path / "1/failure.json").write_text(json.dumps(failure))
    with pytest.raises(SystemExit, match="1"):
        SweepTable().on_multirun_end(config(tmp_path))
    text = capsys.readouterr().out
    assert "failed: #1 loss=auc seed=3 the loss [x] became nan" in text
    assert "loss=bce" in text
    plain = json.loads((tmp_path / "ranking.json").read_text())
    assert plain["not_finished"][0]["state"] == "failed"


def test_only_failures_have_a_table_but_no_figure(tmp_path: Path) -> None:
    write_sweep(SweepComparison((replace(run("a", None), state="failed"),)), tmp_path)
    assert (tmp_path / "comparison.csv").is_file()
    assert not (tmp_path / "comparison.png").exists()


def test_the_command(tmp_path: Path) -> None:
    write_run(tmp_path / "0", ["loss=bce"], 0.75)
    write_run(tmp_path / "1", ["loss=auc"])
    assert xray("sweep", tmp_path).count("0.5000") == 1
    assert xray("sweep", tmp_path, "test=true").count("0.5000") == 2
    told = json.loads(xray("sweep", tmp_path, "test=true", "--json"))
    assert told["rankings"][0][1]["test_mean"] == 0.5
    hidden = json.loads((tmp_path / "ranking.json").read_text())
    assert hidden["rankings"][0][1]["test_mean"] is None, "the files show the chosen one only"


def remarks(*runs: SweepRun, all_tests: bool) -> str:
    return "\n".join(say("sweep", SweepComparison(runs).leaderboards, all_tests))


def test_remarks_say_what_the_tables_do_not() -> None:
    alone = [run("a", 0.5), run("b", 0.6, val_labels=13), run("b", None)]
    text = remarks(*alone, all_tests=False)
    for remark in ("n = 1", "some runs have none", "different numbers of labels", "test=true"):
        assert remark in text
    fair = [run("a", 0.5), run("a", 0.6), run("b", 0.5), run("b", 0.4)]
    assert not remarks(*fair, all_tests=True)


def test_runs_that_do_not_vary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(*finish_sweep(SweepComparison((run("", 0.5),)), tmp_path)[0])
    assert "all runs" in capsys.readouterr().out


SMALL = [*TOY, "data.patients=40", "data.size=32", "epochs=2", "weights=none", "draws=50"]
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
    kill(start([*XRAY, "tune", *words], begun))
    told = json.loads(xray("tune", *words, "--json"))
    assert [trial["state"] for trial in told["trials"]] == ["complete"] * 3
    assert (told["finished"], told["effects"]) == (3, {})
    for trial in told["trials"]:
        run = study / str(trial["number"])
        auroc = json.loads((run / "metrics.json").read_text())["val"]["auroc"]
        assert trial["value"] == auroc["mean"]
        rate = f"optim.optimizer.lr={trial['settings']['optim.optimizer.lr']}"
        assert rate in json.loads((run / "environment.json").read_text())["overrides"]
    assert (study / "study.png").stat().st_size > 10_000
    output = xray("tune", *words)  # all trials are there
    best = told["best"]
    assert f"best of 3 finished trials: {best['number']}, val/auroc {best['value']:.4f}" in output
    assert "what mattered is asked from 10 trials on, finished or pruned" in output
    assert "holds a study of other settings" in xray("tune", *words, "seed=1", code=2)
    assert f"loss={best['settings']['loss']}" in xray("sweep", study)
