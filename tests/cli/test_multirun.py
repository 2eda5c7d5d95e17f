import csv
import json
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn
from hydra.types import RunMode
from omegaconf import OmegaConf

from xray_lightning.cli.multirun import Comparison, collect


def write_run(folder: Path, overrides: list[str], split: str, val: float | None) -> None:
    folder.mkdir(parents=True)
    facts = {"overrides": overrides, "split": {"name": split, "parts": {"test": f"f-{split}"}}}
    part = {"auroc": {"mean": val, "defined": 13}}
    (folder / "environment.json").write_text(json.dumps(facts))
    (folder / "metrics.json").write_text(json.dumps({"val": part, "test": part}))


def test_runs_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 0):
        write_run(tmp_path / str(number), ["epochs=1", f"seed={number}"], "patient", 0.5)
    (tmp_path / "3").mkdir()  # unfinished
    assert [row["run"] for row in collect(tmp_path)] == ["seed=0", "seed=2", "seed=10"]


def test_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "0", ["split=patient"], "patient", 0.75)
    write_run(tmp_path / "1", ["split=official"], "official", None)
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    Comparison().on_multirun_end(config)
    with (tmp_path / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["test"] for row in rows] == ["0.75", ""]
    assert (tmp_path / "comparison.png").stat().st_size > 5000
    assert "were scored on different images" in capsys.readouterr().out


def test_files_are_kept_up_to_date_after_each_run(tmp_path: Path) -> None:
    write_run(tmp_path / "0", ["seed=0"], "patient", 0.5)
    values = {"sweep": {"dir": str(tmp_path)}, "mode": RunMode.RUN}
    Comparison().on_job_end(OmegaConf.create({"hydra": values}), JobReturn())
    assert not (tmp_path / "comparison.csv").exists(), "a single run compares nothing"
    values["mode"] = RunMode.MULTIRUN
    Comparison().on_job_end(OmegaConf.create({"hydra": values}), JobReturn())
    assert (tmp_path / "comparison.csv").exists()


def test_nothing_finished(tmp_path: Path) -> None:
    Comparison().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert not list(tmp_path.iterdir())
