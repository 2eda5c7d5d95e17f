"""Data that leave a figure undefined, trained from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(os.environ["XRAY_DATA"]).with_name("cases")
TRAIN = [sys.executable, str(Path(__file__).parents[1] / "train.py")]
TOY = ["trainer=cpu", "threads=1", "image_size=32", "batch_size=8", "epochs=3", "weights=none"]
TOY += ["model=resnet50", "model.backbone=test_resnet", "callbacks=none", "draws=50"]


@pytest.mark.slow
def test_no_positive_in_validation(tmp_path: Path) -> None:
    if not CASES.is_dir():
        pytest.skip(f"the cases are not at {CASES}")
    table = CASES / "degenerate" / "val_none.csv"
    data = ["data=csv", f"data.table={table}", f"data.root={CASES / 'csv' / 'img'}", "split=csv"]
    done = subprocess.run(
        [*TRAIN, *data, *TOY, f"hydra.run.dir={tmp_path / 'run'}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = "best checkpoint unknown: epoch 3, the last epoch: val/auroc was undefined in every one"
    assert said in done.stdout + done.stderr
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["val"]["auroc"]["mean"] is None
    assert metrics["val"]["checkpoint"]["epoch"] == 3
    assert "undefined in every one" in metrics["val"]["checkpoint"]["choice"]
    page = (tmp_path / "run/report.html").read_text()
    assert "Validation AUROC was undefined in every epoch: the checkpoint is of the last" in page
