"""Runs of a sweep read from their files, and rankings against NumPy; splits are never mixed."""

import json

import numpy as np
import pytest
from running import write_run

from xray_lightning import DataNotFoundError, SweepComparison, compare_runs
from xray_lightning.evaluation.sweep import Leaderboard, SweepRun, average_seeds, read_runs


def finished(settings: str, seed: int, val: float | None, mark: str = "f") -> SweepRun:
    test = None if val is None else 1 - val
    split = {"split": "patient", "fingerprint": mark, "val_labels": 14}
    return SweepRun(f"{settings}{seed}", settings, seed, "finished", **split, val=val, test=test)


def leaderboards(runs: list[SweepRun]) -> list[Leaderboard]:
    return SweepComparison(tuple(runs)).leaderboards


def test_runs_in_the_order_of_their_numbers_named_by_what_varies(tmp_path) -> None:
    for number in (10, 2, 0):
        loss = "bce" if number else "focal"
        write_run(tmp_path / str(number), ["epochs=1", f"loss={loss}", "sweep=x", "seed=7"])
    (tmp_path / ".submitit").mkdir()
    (tmp_path / ".submitit/train.log").touch()  # a launcher's own folder is no run
    (tmp_path / "notes").mkdir()
    runs = read_runs(tmp_path)
    named = {run.folder: run.settings for run in runs}
    assert [*named.items()] == [("0", "loss=focal"), ("2", "loss=bce"), ("10", "loss=bce")]
    assert {run.seed for run in runs} == {7}
    assert runs[0].fingerprint == "f-patient"
    assert (runs[0].val_fingerprint, runs[0].test_fingerprint) == ("v-patient", "t-patient")
    assert (runs[0].val, runs[0].val_labels) == (0.5, 13)


def test_failed_and_unfinished_runs(tmp_path) -> None:
    write_run(tmp_path / "0", ["loss=bce", "seed=0"])
    write_run(tmp_path / "1", ["loss=bce", "seed=1"])
    (tmp_path / "1/metrics.json").unlink()
    (tmp_path / "2").mkdir()
    failure = {"overrides": ["loss=auc", "seed=2"], "seed": 2, "message": "no pairs"}
    (tmp_path / "2/failure.json").write_text(json.dumps(failure))
    (tmp_path / "3").mkdir()
    (tmp_path / "3/train.log").touch()  # killed before it wrote what it is
    runs = read_runs(tmp_path)
    assert [run.state for run in runs] == ["finished", "unfinished", "failed", "unfinished"]
    assert (runs[2].message, runs[2].settings) == ("no pairs", "loss=auc")
    assert (runs[3].settings, runs[3].seed) == ("", None)
    assert [len(each.groups[0].runs) for each in leaderboards(runs)] == [1]


@pytest.mark.parametrize("values", [[0.5, 0.75, 0.6], [0.1] * 4, [0.25, 0.5]])
def test_average_equals_numpy(values: list[float]) -> None:
    found = average_seeds([*values, None])
    assert found.mean == pytest.approx(np.mean(values))
    assert found.deviation == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    assert (found.count, average_seeds([None])) == (len(values), average_seeds([]))
    assert average_seeds([]).mean is None


def test_seeds_are_grouped_and_groups_ranked_by_validation() -> None:
    scores = {"a": (0.5, 0.6), "b": (0.7, 0.9), "c": (None, None), "d": (0.0, 0.0)}
    runs = [finished(name, seed, scores[name][seed]) for seed in (0, 1) for name in scores]
    (board,) = leaderboards(runs)
    assert [group.settings for group in board.groups] == ["b", "a", "d", "c"]
    assert board.chosen is board.groups[0]
    assert board.groups[0].val == average_seeds([0.7, 0.9])


def test_splits_are_never_mixed() -> None:
    scores = {("a", "one"): 0.9, ("a", "two"): 0.1, ("b", "two"): 0.2, ("b", "one"): 0.8}
    runs = [finished(name, 0, val, split) for (name, split), val in scores.items()]
    first, second = leaderboards(runs)
    assert (first.fingerprint, [g.settings for g in first.groups]) == ("one", ["a", "b"])
    assert (second.fingerprint, [g.settings for g in second.groups]) == ("two", ["b", "a"])


def test_test_figures_of_the_chosen_only() -> None:
    runs = [finished("a", 0, 0.6), finished("a", 1, 0.8), finished("b", 0, 0.5)]
    (board,) = leaderboards(runs)  # "b" would win on test
    first, second = board.rows()
    assert first["chosen"]
    assert first["test_mean"] == pytest.approx(0.3)
    assert first["test_sd"] == pytest.approx(np.std([0.4, 0.2], ddof=1))
    assert (first["seeds"], first["n"], first["rank"]) == ([0, 1], 2, 1)
    assert (second["test_mean"], second["test_n"], second["chosen"]) == (None, 0, False)
    assert board.rows(all_tests=True)[1]["test_mean"] == 0.5
    comparison = SweepComparison(tuple(runs))
    values = json.loads(json.dumps(comparison.to_json()))
    assert [run["test"] is None for run in values["runs"]] == [False, False, True]
    assert SweepComparison.from_json(values).to_json() == values
    assert SweepComparison.from_json(comparison.to_json(all_tests=True)) == comparison


def test_nothing_is_chosen_where_nothing_is_defined() -> None:
    (board,) = leaderboards([finished("a", 0, None), finished("b", 0, None)])
    assert board.chosen is None
    assert [row["chosen"] for row in board.rows()] == [False, False]
    assert leaderboards([]) == []


def test_the_negatives_stand_in_every_ranking(tmp_path) -> None:
    data = {"name": "rsna", "title": "rsna (negatives: normal)"}
    write_run(tmp_path / "0", ["loss=bce", "seed=0"], data=data)
    (board,) = leaderboards(read_runs(tmp_path))
    assert board.data == board.rows()[0]["data"] == "rsna (negatives: normal)"


@pytest.mark.parametrize("name", ["", "missing"])
def test_no_sweep(tmp_path, name: str) -> None:
    with pytest.raises(DataNotFoundError, match="holds no runs"):
        compare_runs(tmp_path / name)
