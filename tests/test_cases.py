"""Small tables of public bug reports (``../shared/cases``, never committed), by the commands."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that nothing is written beside the original."""
    place = Path(os.environ["XRAY_DATA"]).with_name("cases")
    if not place.is_dir():
        pytest.skip(f"the cases are not at {place}")
    copy = tmp_path_factory.mktemp("cases") / "cases"
    shutil.copytree(place, copy, symlinks=True)
    subprocess.run(["chmod", "-R", "u+w", str(copy)], check=True)  # shared/ may be read-only
    return copy


def run(*arguments: str | Path, expected: int = 0, **environment: str) -> str:
    """What a command prints, both streams; "train" stands for train.py."""
    first, *rest = map(str, arguments)
    start = running.TRAIN if first == "train" else [*running.XRAY, first]
    printed = running.run([*start, *rest], running.ROOT, expected, COLUMNS="200", **environment)
    assert "Traceback" not in printed, printed
    return printed


def train(place: Path, *settings: str, **environment: str) -> str:
    """A small run in PLACE/run, its cache beside it, of one epoch if not told."""
    places = f"hydra.run.dir={place / 'run'}", f"cache_dir={place / 'cache'}"
    small = [*running.TOY, "model.backbone=test_resnet", "weights=none", "draws=20", "epochs=1"]
    return run("train", *small, *settings, *places, **environment)


def table(cases: Path, name: str) -> list[str]:
    return ["data=csv", f"data.table={cases / name}", f"data.root={cases / 'csv/img'}"]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("interpolation", "${oc.env:DEMO_SECRET}"),
        ("question_marks", "???"),
        ("odd_names", "$x_1$ & 50%"),
    ],
)
def test_text_from_data_is_never_evaluated(cases, tmp_path, name, label) -> None:
    place, secret = tmp_path / "run", {"DEMO_SECRET": "a-password"}
    train(tmp_path, *table(cases, f"labels/{name}.csv"), **secret)
    written = b"".join(path.read_bytes() for path in place.rglob("*") if path.is_file())
    assert b"a-password" not in written
    best = place / "checkpoints/best.ckpt"
    best = best if best.is_file() else place / "checkpoints/last.ckpt"
    printed = run("evaluate", best, f"hydra.run.dir={tmp_path / 'evaluate'}", "draws=20", **secret)
    assert "a-password" not in printed
    assert label in json.loads((place / "metrics.json").read_text())["test"]["auroc"]["labels"]


def test_no_positive_in_validation(cases: Path, tmp_path: Path) -> None:
    place, data = tmp_path / "run", table(cases, "degenerate/val_none.csv")
    printed = train(tmp_path, *data, "report=true", "split=csv", "epochs=3")
    said = "best checkpoint unknown: epoch 3, the last epoch: val/auroc was undefined in every one"
    assert said in printed
    val = json.loads((place / "metrics.json").read_text())["val"]
    assert val["auroc"]["mean"] is None
    assert val["checkpoint"]["epoch"] == 3
    assert "undefined in every one" in val["checkpoint"]["choice"]
    page = (place / "report.html").read_text()
    assert "Validation AUROC was undefined in every epoch: the checkpoint is of the last" in page
