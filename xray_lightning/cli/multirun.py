"""After ``-m``: one table and one figure that compare the runs."""

import csv
import json
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.table import Table

from xray_lightning.cli.tables import number, show
from xray_lightning.report.figures import comparison_figure

COLUMNS = ("run", "split", "fingerprint", "val", "test", "defined", "folder")


class Comparison(Callback):
    """Writes comparison.csv and comparison.png into the sweep's folder, prints them at its end."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Keep the files up to date after each run: a later one may fail."""
        folder = Path(config.hydra.sweep.dir)
        if config.hydra.mode == RunMode.MULTIRUN and (rows := collect(folder)):
            write(rows, folder)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Compare."""
        folder = Path(config.hydra.sweep.dir)
        if rows := collect(folder):
            write(rows, folder)
            display(rows, folder)


def collect(folder: Path) -> list[dict[str, Any]]:
    """A row for each finished run, in the order of their numbers, named by what varies."""
    runs = sorted(folder.glob("*/metrics.json"), key=lambda path: (len(path.parent.name), path))
    facts = [_read(path.with_name("environment.json")) for path in runs]
    shared = set.intersection(*(set(each["overrides"]) for each in facts)) if runs[1:] else set()
    return [_row(path.parent, each, shared) for path, each in zip(runs, facts, strict=True)]


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def _row(run: Path, facts: dict[str, Any], shared: set[str]) -> dict[str, Any]:
    metrics = _read(run / "metrics.json")
    varied = [override for override in facts["overrides"] if override not in shared]
    return {
        "run": " ".join(varied) or run.name,
        "split": facts["split"]["name"],
        "fingerprint": facts["split"]["parts"]["test"],
        "val": metrics["val"]["auroc"]["mean"],
        "test": metrics["test"]["auroc"]["mean"],
        "defined": metrics["test"]["auroc"]["defined"],
        "folder": str(run),
    }


def write(rows: list[dict[str, Any]], folder: Path) -> None:
    """comparison.csv and comparison.png."""
    with (folder / "comparison.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    comparison_figure(rows, folder / "comparison.png")


def display(rows: list[dict[str, Any]], folder: Path) -> None:
    """Print the table."""
    table = Table(title="runs of this sweep", title_justify="left", header_style="bold")
    for name in ("run", "split", "test fingerprint", "val AUROC", "test AUROC", "labels"):
        table.add_column(name, justify="right" if "AUROC" in name or name == "labels" else "left")
    for row in rows:
        scores = (number(row["val"], 4), number(row["test"], 4))
        table.add_row(row["run"], row["split"], row["fingerprint"], *scores, str(row["defined"]))
    note = "Rows with different test fingerprints were scored on different images."
    show(table, *([note] if len({row["fingerprint"] for row in rows}) > 1 else []))
    show(f"sweep directory: {folder}")
