"""A run folder tells of one model: taken further and killed, it is not shown or compared."""

import shutil
import sys
from pathlib import Path

import pytest
from running import MAIN, run

from xray_lightning.checkpoint import load_checkpoint
from xray_lightning.writing import read_json

pytestmark = pytest.mark.slow

KILLED = (  # once the new predictions are written
    "import os; from xray_lightning.report import finish; "
    f"finish.evaluate_run = lambda *all, **more: os._exit(137); {MAIN}"
)
TOY = ["data.patients=60", "image_size=32", "batch_size=8", "callbacks=none", "logger=none"]
TOY += ["model=resnet50", "model.backbone=resnet10t", "trainer=cpu", "threads=1", "draws=40"]


def xray(folder: Path, *arguments: str, code: int = 0, program: str = MAIN) -> str:
    return " ".join(run([sys.executable, "-c", program, *arguments], folder, code).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one_model")
    xray(folder, "train", *TOY, "epochs=1", "ema_decay=0.9", "hydra.run.dir=done")
    return folder


def test_every_file_names_the_weights(folder: Path) -> None:
    weights = load_checkpoint(folder / "done/checkpoints/best.ckpt").weights_sha256
    metrics = read_json(folder / "done/metrics.json")
    assert [metrics[subset]["weights_sha256"] for subset in ("val", "test")] == [weights] * 2
    for name in ("evaluation.json", "operating_points.json"):
        assert read_json(folder / "done" / name)["weights_sha256"] == weights
    assert read_json(folder / "done/report.json")["test"]["weights_sha256"] == weights
    assert f"SHA-256 {weights}" in (folder / "done/report.html").read_text()
    best = "done/checkpoints/best.ckpt"
    xray(folder, "evaluate", best, "hydra.run.dir=again")
    for name in ("metrics.json", "evaluation.json"):
        facts = read_json(folder / "again" / name)
        assert facts.get("test", facts)["weights_sha256"] == weights
    again = read_json(folder / "again/metrics.json")["test"]["predictions_sha256"]
    assert again == metrics["test"]["predictions_sha256"], "the same weights, the same table"
    assert "identical" in xray(folder, "compare", "done", "again", "--draws", "40")


def test_taken_further_and_killed(folder: Path) -> None:
    run = folder / "further"
    shutil.copytree(folder / "done", run)
    table = (run / "predictions_test.csv").read_bytes()
    further = ("train", "resume=further", "trainer.max_epochs=4")
    xray(folder, *further, code=137, program=KILLED)
    assert (run / "predictions_test.csv").read_bytes() != table
    assert not (run / "metrics.json").exists()
    said = xray(folder, "compare", "done", "further", code=2)
    assert "further is not finished: it has no metrics.json" in said
    assert "python train.py resume=further goes on" in said
    assert "better" not in said
    assert "further is not finished" in xray(folder, "report", "further", code=2)
    said = xray(folder, "audit", *TOY[:1], "predictions=further", code=2)
    assert "further is not finished" in said
    xray(folder, *further)  # and now it ends
    assert "verdict:" in xray(folder, "compare", "done", "further", "--draws", "40")
    xray(folder, "report", "further")
    other = read_json(run / "metrics.json")["test"]["weights_sha256"]
    assert other != read_json(folder / "done/metrics.json")["test"]["weights_sha256"]
    shutil.copy(folder / "done/predictions_test.csv", run)  # of the same images
    for verb in (["compare", "done", "further"], ["report", "further"]):
        assert "is not the table that metrics.json beside it is of" in xray(folder, *verb, code=2)
