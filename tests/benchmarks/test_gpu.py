"""The one pass over everything on a GPU; without one its rehearsal, so that it cannot rot."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("gpu.py")


def run(*arguments: str) -> str:
    command = [sys.executable, SCRIPT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
def test_rehearsal_without_a_gpu() -> None:
    printed = run("--device", "cpu", "--small")
    assert "CPU (rehearsal)" in printed
    assert "MISSED" not in printed


@pytest.mark.gpu
def test_everything_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    print(run("--device", "cuda"))
