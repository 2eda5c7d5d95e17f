"""After ``-m``: tables and a figure that compare the runs, ranked by validation AUROC."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.table import Table

from xray_lightning.cli.failures import USER_ERROR
from xray_lightning.cli.keys import require_known_keys
from xray_lightning.cli.settings import require_settings
from xray_lightning.errors import ConfigError, DataNotFoundError
from xray_lightning.evaluation.sweep import Ranking, Run, ranking_rows, rankings, read_runs
from xray_lightning.report.terminal import empty_table, number, show
from xray_lightning.writing import for_spreadsheet, open_replacing, write_json


class SweepTable(Callback):
    """Compares the runs of a sweep, in files after each run and on the terminal at the end.

    What no run could work with is refused before a folder is made; a SystemExit, since Hydra would
    turn any other exception into a warning.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a key that no setting has, and a value that cannot work."""
        try:
            require_known_keys(config)
            require_settings(config)
        except ConfigError as error:
            raise SystemExit(USER_ERROR) from error

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a key that no run has; what depends on a choice is for the run to say."""
        try:
            require_known_keys(config, below=False)
        except ConfigError as error:
            raise SystemExit(USER_ERROR) from error

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Keep the files up to date after each run: the sweep may be killed."""
        if config.hydra.mode == RunMode.MULTIRUN:
            folder = Path(config.hydra.sweep.dir)
            write(read_runs(folder), folder)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Compare.

        Raises:
            SystemExit: a run failed.
        """
        folder = Path(config.hydra.sweep.dir)
        from xray_lightning.cli.folds import fold_lines, pool  # SciPy: not before the end

        runs = read_runs(folder)
        write(runs, folder)
        display(runs, folder, fold_lines(pool(runs, folder)))
        if any(run.state == "failed" for run in runs):
            raise SystemExit(1)


def sweep(folder: Path, all_tests: bool, as_json: bool) -> None:
    """Compare the runs of a finished, killed or running sweep; its files are written anew.

    Raises:
        DataNotFoundError: no run lies in the folder.
    """
    runs = read_runs(folder) if folder.is_dir() else []
    if not runs:
        raise DataNotFoundError(f"{folder} holds no runs; name the folder that train.py -m made")
    write(runs, folder)
    from xray_lightning.cli.folds import fold_lines, pool

    pooled = pool(runs, folder)
    if as_json:
        facts = as_plain(runs, all_tests) | {"cross_validations": pooled}
        print(json.dumps(facts, indent=2))
    else:
        display(runs, folder, fold_lines(pooled), all_tests=all_tests)


def as_plain(runs: Sequence[Run], all_tests: bool = False) -> dict[str, Any]:
    """The rankings, and the runs that have no place in them."""
    ranked = [ranking_rows(each, all_tests=all_tests) for each in rankings(runs)]
    others = [asdict(run) for run in runs if run.state != "finished"]
    kept = ("folder", "settings", "seed", "state", "message")
    return {
        "ranked_by": "val_mean",
        "rankings": ranked,
        "not_finished": [{name: run[name] for name in kept} for run in others],
    }


def write(runs: Sequence[Run], folder: Path) -> None:
    """comparison.csv, ranking.csv, ranking.json and comparison.png, each replaced in one step."""
    ranked = rankings(runs)
    if not runs:
        return
    _write_csv([asdict(run) for run in runs], folder / "comparison.csv")
    write_json(as_plain(runs), folder / "ranking.json")
    if ranked:
        rows = [row for each in ranked for row in ranking_rows(each)]
        _write_csv(rows, folder / "ranking.csv")
        from xray_lightning.report.figures import comparison_figure  # needs torch

        comparison_figure(ranked, folder / "comparison.png")


def _write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    with open_replacing(path, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            lists = {k: " ".join(map(str, v)) for k, v in row.items() if isinstance(v, list)}
            words = {k: for_spreadsheet(v) for k, v in row.items() if isinstance(v, str)}
            writer.writerow({**row, **words, **lists})


def display(
    runs: Sequence[Run], folder: Path, more: Sequence[Any] = (), *, all_tests: bool = False
) -> None:
    """Print a table for each split, what to keep in mind, more, and the runs without a result."""
    ranked = rankings(runs)
    show(*(ranking_table(each, all_tests) for each in ranked), *remarks(ranked, all_tests))
    show(*more)
    for run in runs:
        if run.state != "finished":
            what = f"{run.settings} seed={run.seed}".strip() if run.seed is not None else ""
            show(f"{run.state}: {' '.join(filter(None, (f'#{run.folder}', what, run.message)))}")
    show(f"sweep directory: {folder}")


def ranking_table(ranking: Ranking, all_tests: bool) -> Table:
    """Mean, standard deviation and n of each group; the chosen one in bold."""
    title = f"{ranking.data}, split {ranking.split} [{ranking.fingerprint}]"
    title += ", ranked by validation AUROC"
    columns = ("n", "val AUROC", "sd", "labels", "test AUROC", "sd")
    table = empty_table(title, "settings", *columns)
    for row in ranking_rows(ranking, all_tests=all_tests):
        table.add_row(
            row["settings"] or "all runs",
            str(row["n"]),
            *(number(row[name], 4) for name in ("val_mean", "val_sd")),
            "/".join(map(str, row["val_labels"])),
            *(number(row[name], 4) for name in ("test_mean", "test_sd")),
            style="bold" if row["chosen"] else None,
        )
    return table


def remarks(ranked: Sequence[Ranking], all_tests: bool) -> list[str]:
    """What must not be read into the tables."""
    groups = [group for each in ranked for group in each.groups]
    uneven = any(len({r.val_labels for g in each.groups for r in g.runs}) > 1 for each in ranked)
    unasked = not all_tests and any(len(each.groups) > 1 for each in ranked)
    lines = {
        "n = 1: no standard deviation, a difference may be noise; add seeds: seed=0,1,2": any(
            group.val.count == 1 for group in groups
        ),
        "n counts defined AUROCs; some runs have none.": any(
            group.val.count < len(group.runs) for group in groups
        ),
        "Means over different numbers of labels are not comparable.": uneven,
        "Means over different folds are not comparable.": any(
            len({frozenset(run.fold for run in group.runs) for group in each.groups}) > 1
            for each in ranked
        ),
        "Tables of different splits are not comparable: other images were scored.": ranked[1:],
        "Test is shown for the first by validation only; all: xray sweep DIR --test": unasked,
    }
    return [line for line, applies in lines.items() if applies]
