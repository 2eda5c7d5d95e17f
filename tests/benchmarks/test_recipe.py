"""The default recipe against a bare loop: its rehearsal, so that the script cannot rot."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("recipe.py")


@pytest.mark.slow
def test_rehearsal_of_the_recipe(shared_data: Path) -> None:
    small = "seeds=1", "image_size=32", "epochs=1"
    command = [sys.executable, SCRIPT, shared_data / "nih-sample", *small]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "seed 0: train.py 0." in done.stdout
    assert "mean of 1 seeds" in done.stdout
    assert "ratio recipe_over_bare_loop" in done.stdout
