"""Sweeps as a user runs them: killed and started again, with a failing run, by each launcher."""

import json
import os
import signal
from pathlib import Path

import pytest
from running import TOY, TRAIN, read_table, run, start

pytestmark = pytest.mark.slow

SMALL = [*TOY, "data.patients=60", "epochs=2"]


def state(run_folder: Path) -> dict[str, tuple[bytes, int]]:
    files = sorted(path for path in run_folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_killed_sweep_runs_only_what_is_missing(tmp_path: Path) -> None:
    command = [*TRAIN, "-m", "sweep=seeds", "seed=0,1,2", *SMALL, "epochs=4"]
    trains = lambda _: [*tmp_path.glob("outputs/sweep_seeds_*/1/checkpoints/last.ckpt")]  # noqa: E731
    process = start(command, trains, 480, cwd=tmp_path, start_new_session=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (sweep,) = tmp_path.glob("outputs/sweep_seeds_*")  # run 0 is finished, run 1 is in training
    assert not (sweep / "1/metrics.json").exists()
    before = state(sweep / "0")
    text = run(command, tmp_path)
    assert state(sweep / "0") == before, "a finished run is not touched"
    assert text.count("finished before: ") == 1
    assert list(tmp_path.glob("outputs/sweep_*")) == [sweep]
    rows = read_table(sweep / "comparison.csv")
    assert [(row["state"], row["seed"]) for row in rows] == [("finished", s) for s in "012"]
    facts = [json.loads((sweep / f"{n}/environment.json").read_text()) for n in range(3)]
    assert ["resumed" in each for each in facts] == [False, True, False]
    assert [len((sweep / f"{n}/metrics.csv").read_text().splitlines()) for n in range(3)] == [5] * 3
    (ranked,) = json.loads((sweep / "ranking.json").read_text())["rankings"]
    assert (ranked[0]["n"], ranked[0]["seeds"]) == (3, [0, 1, 2])
    text = run([*command[:-1], "epochs=5", f"hydra.sweep.dir={sweep}"], tmp_path, 2)
    assert "holds a run with other settings: epochs=4 (now 5)" in text


def test_a_failing_run_does_not_stop_the_others(tmp_path: Path) -> None:
    wild = ["optim.optimizer.lr=1e30,3e-4", "schedule=constant", "optim.head_lr=null"]
    text = run([*TRAIN, "-m", *wild, *SMALL, "hydra.sweep.dir=sweep"], tmp_path, 1)
    text = text.replace("1e30", "1e+30")
    assert "failed: #0 optim.optimizer.lr=1e+30 seed=0 the loss became nan" in text
    assert "Traceback" not in text
    plain = json.loads((tmp_path / "sweep/ranking.json").read_text())
    assert [each["state"] for each in plain["not_finished"]] == ["failed"]
    assert plain["rankings"][0][0]["folders"] == ["1"]
    assert "failed: the loss became nan" in (tmp_path / "sweep/0/train.log").read_text()


@pytest.mark.parametrize(
    ("launcher", "share"), [("joblib", "n_jobs=2"), ("submitit_local", "cpus_per_task=1")]
)
def test_launchers(tmp_path: Path, launcher: str, share: str) -> None:
    command = [*TRAIN, "sweep=seeds", "seed=0,1", *SMALL]
    command += [f"hydra/launcher={launcher}", f"hydra.launcher.{share}"]
    text = run(command, tmp_path)
    (sweep,) = tmp_path.glob("outputs/sweep_seeds_*")
    assert "ranked by validation AUROC" in text
    facts = [json.loads((sweep / f"{n}/environment.json").read_text()) for n in (0, 1)]
    alone = len(os.sched_getaffinity(0)) // 2 if launcher == "joblib" else 1
    assert [each["threads"] for each in facts] == [max(1, alone)] * 2
    assert facts[1]["command"][:2] == ["train.py", "seed=1"]
    assert [row["state"] for row in read_table(sweep / "comparison.csv")] == ["finished"] * 2
    before = state(sweep / "0"), state(sweep / "1")
    run(command, tmp_path)
    assert before == (state(sweep / "0"), state(sweep / "1"))
