"""``xray external``: its tables, figure and page; test_settings has what it refuses."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from toy import save_net

import xray_lightning as xl
from xray_lightning.checkpoint import describe_model
from xray_lightning.cli.app import run_verb
from xray_lightning.cli.build import data_from, task_from
from xray_lightning.cli.config import compose_settings
from xray_lightning.cli.settings import find_checkpoints, find_conf, to_container
from xray_lightning.evaluation.external import UNKNOWN, InternalTest, LabelTransfer, Transfer
from xray_lightning.metrics.calibration import CalibrationLine
from xray_lightning.report.external import external_lines, write_external
from xray_lightning.report.terminal import show
from xray_lightning.writing import read_json

ODD = "Ma$ss </b>[/red]"
ZIP = b"PK\x05\x06" + bytes(18)  # an archive of nothing


@pytest.fixture
def result() -> xl.ExternalValidation:
    some, apart = xl.Estimate(0.7, 0.6, 0.8), xl.Estimate(-0.1, -0.2, -0.01)
    line = CalibrationLine(xl.Estimate(0.8, 0.5, 1.1), apart, some, 0.1, 0.2, "")
    row = LabelTransfer(90, 30, 20, 0.33, some, some, apart, 0.2, some, some, some, some, line)
    few = LabelTransfer(90, 3, 2, 0.03, *[UNKNOWN] * 3, note="too few patients: 2")
    mean = LabelTransfer(90, 31, 20, float("nan"), some, some, apart, note="1 label")
    cell = Transfer("run", "far", "far (x: y)", "f" * 16, 90, 60, "pixels", 9, 4, 5,
                    {ODD: row, "Hernia": few}, mean, "scores.csv", ("a note",))  # fmt: skip
    model = InternalTest(
        "run", "run.ckpt", "ab", "near", "near", {ODD: some}, some, 50, 40, ("gone",)
    )
    return xl.ExternalValidation([model], {"far": "far (x: y)", "near": "near"}, [cell], 100, 0)


def test_tables_fit(result: xl.ExternalValidation, capsys: pytest.CaptureFixture[str]) -> None:
    show(*[line for line in external_lines(result) if not isinstance(line, str)])
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if "run on far" not in line]
    assert max(map(len, (row.rstrip() for row in rows))) <= 80
    for text in ("= internal", ODD, "-0.200 to -0.010", "33.0 (20.0)"):
        assert text in printed
    said = " ".join(line for line in external_lines(result) if isinstance(line, str))
    assert "9 images of 4 patients it learned from" in said
    for text in ("lower here", "5 patients are", "run: gone", "Hernia: too few patients: 2"):
        assert text in said


def test_page_and_figure(result: xl.ExternalValidation, tmp_path: Path) -> None:
    write_external(result, tmp_path)
    assert (tmp_path / "external.png").stat().st_size > 5000
    html = (tmp_path / "external.html").read_text()
    assert "data:image/webp" in html
    assert "Ma$ss &lt;/b&gt;" in html
    assert "<script" not in html
    assert xl.ExternalValidation.from_json(result.to_json()).to_json() == result.to_json()
    few = result.cells[0].labels["Hernia"]
    cells = [replace(result.cells[0], labels={"Hernia": few}, mean=few, recognised="")]
    models = [replace(result.models[0], aurocs={}, mean=UNKNOWN)]
    write_external(nothing := replace(result, cells=cells, models=models), tmp_path)
    html = (tmp_path / "external.html").read_text()
    assert [html.count(text) for text in ("<img", "left out, since")] == [0, 0]
    assert not (tmp_path / "external.png").exists()
    assert all(getattr(line, "row_count", 1) for line in external_lines(nothing))


@pytest.mark.slow
def test_two_models_on_two_hospitals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole command: two untrained networks, each on the other one's phantom."""
    monkeypatch.chdir(tmp_path)
    Path("own/data").mkdir(parents=True)
    shutil.copy(find_conf() / "data/phantom.yaml", "own/data/far.yaml")
    sizes = ["image_size=32", "cache_dir=cache", "threads=1", "trainer=debug"]
    for name, seed in (("near", 0), ("far", 9)):
        halves = ["data.patients=140", f"data.seed={seed}", "split.fractions=[0.3,0.1,0.6]"]
        settings = compose_settings([*sizes, *halves, "model=mobilenetv2", "data.size=64"])
        data = data_from(settings)
        task = task_from(settings, data)
        told = describe_model(task.net, data, to_container(settings)).to_plain()
        save_net(task.net, tmp_path / f"{name}.ckpt", told)
    small = ("patients=140", "size=64")
    sets = [f"data.{name}.{key}" for name in ("phantom", "far") for key in small]
    out = ["draws=20", "hydra.run.dir=out", "hydra.searchpath=[file://own]", "data.far.seed=9"]
    run_verb("external", ["*.ckpt", "data=[phantom,far]", *sets, *sizes[1:], *out])
    result = xl.ExternalValidation.from_json(read_json(tmp_path / "out/external.json"))
    pairs = [f"{c.model} on {c.title}: {c.recognised}" for c in result.cells]
    assert pairs == ["far on phantom: pixels", "near on far: pixels"]
    for cell, seed in zip(result.cells, (0, 9), strict=True):
        assert cell.images + cell.left_out == len(xl.Phantom(140, seed=seed).records)
        assert cell.mean.difference.low < cell.mean.difference.value < cell.mean.difference.high
        assert f"{cell.model} on {cell.data}" in (tmp_path / "out/external.html").read_text()


def test_checkpoints_by_name(tmp_path: Path) -> None:
    for name in ("b", "a", "[a]"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints" / "best.ckpt").write_bytes(ZIP)
    paths = find_checkpoints([str(tmp_path / name) for name in ("[a]", "?", "a")])
    assert [path.parents[1].name for path in paths] == ["[a]", "a", "b"]
