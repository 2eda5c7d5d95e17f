"""``xray compare``: is one model better than another on the same test images?"""

from pathlib import Path

from xray_lightning.cli.request import present, read_names
from xray_lightning.evaluation.compare import compare
from xray_lightning.folders import prepare_folder
from xray_lightning.report.terminal import comparison_lines


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
    place = out and prepare_folder(out) / "compare.json"
    chosen = labels if labels == "shared" else read_names(labels)
    comparison = compare(first, second, labels=chosen, draws=draws, seed=seed)
    present(comparison.to_json(), as_json, *comparison_lines(comparison, first, second), path=place)
