"""The whole of ``xray audit`` on the full label table of ChestX-ray14."""

import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

pytestmark = pytest.mark.benchmark


def test_audit_of_the_nih_table(metadata: Path, tmp_path: Path, remark: Any, ratio: Any) -> None:
    command = "from xray_lightning.cli.app import main; main()"
    settings = ["data=nih", f"data.root={metadata}", "split=official", f"hydra.run.dir={tmp_path}"]
    start = perf_counter()
    subprocess.run(
        [sys.executable, "-c", command, "audit", *settings], check=True, capture_output=True
    )
    seconds = perf_counter() - start
    remark(f"{(tmp_path / 'audit.html').stat().st_size / 1e3:.0f} kB of page")
    ratio("audit_seconds", seconds, "<=60")
