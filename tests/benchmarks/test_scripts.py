"""The long scripts: their rehearsals, so that they cannot rot, and the pass over a GPU."""

import sys
from pathlib import Path

import pytest
import torch
from running import run_alone


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, Path(__file__).with_name(script), *map(str, arguments)]
    return run_alone(command).stdout


@pytest.mark.slow
def test_rehearsal_without_a_gpu() -> None:
    printed = run("gpu.py", "--device", "cpu", "--small")
    assert "CPU (rehearsal)" in printed
    assert "MISSED" not in printed


@pytest.mark.gpu
def test_everything_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    print(run("gpu.py", "--device", "cuda"))


@pytest.mark.slow
def test_rehearsal_of_the_recipe(shared_data: Path) -> None:
    """The default recipe against a bare loop."""
    printed = run("recipe.py", shared_data / "nih-sample", "seeds=1", "image_size=32", "epochs=1")
    assert "seed 0: train.py 0." in printed
    assert "mean of 1 seeds" in printed
    assert "ratio recipe_over_bare_loop" in printed


@pytest.mark.slow
def test_rehearsal_of_the_growth(shared_data: Path, tmp_path: Path) -> None:
    printed = run("scale.py", shared_data / "nih-metadata", 500, 1000, f"figure={tmp_path}/x.png")
    assert "\n| 1,000 | " in printed
    assert (tmp_path / "x.png").stat().st_size > 10_000
