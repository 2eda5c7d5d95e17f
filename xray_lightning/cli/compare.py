"""``xray compare``: is one model better than another on the same test images?"""

from pathlib import Path

from xray_lightning.cli.config import read_names
from xray_lightning.evaluation.compare import compare
from xray_lightning.folders import prepare_folder
from xray_lightning.report.terminal import comparison_lines, show
from xray_lightning.writing import json_text, write_json


def compare_models(
    first: str,
    second: str,
    labels: str = "",
    *,
    draws: int,
    seed: int,
    as_json: bool = False,
    out: Path | None = None,
) -> None:
    """Compare two models on the test images of their runs; ``labels`` may be a list or "shared"."""
    if out is not None:
        prepare_folder(out)
    chosen = labels if labels == "shared" else read_names(labels)
    comparison = compare(first, second, labels=chosen, draws=draws, seed=seed)
    if out is not None:
        write_json(comparison.to_json(), out / "compare.json")
    if as_json:
        print(json_text(comparison.to_json()))
    else:
        show(*comparison_lines(comparison, first, second))
