"""What is no finished run is refused with a sentence that says what to do."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from xray_lightning.errors import ConfigError
from xray_lightning.report.run import NEEDED, read_run
from xray_lightning.report.run_page import report_values

Spoil = Callable[[Path], object]


def lose(name: str, key: str) -> Spoil:
    def spoil(folder: Path) -> None:
        facts = json.loads((folder / name).read_text())
        del facts[key]
        (folder / name).write_text(json.dumps(facts))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda run: (run / "config.yaml").unlink(), "holds no run: it has no config.yaml"),
        (lambda run: (run / "metrics.json").unlink(), "not finished.*train.py resume="),
        (lambda run: (run / "evaluation.json").unlink(), "evaluation.json is damaged or not there"),
        (lambda run: (run / "evaluation.json").write_text("{"), "damaged.*Expecting property"),
        (lambda run: (run / "evaluation.json").write_text("[1]"), "it lacks labels, mean"),
        (lambda run: (run / "evaluation.json").write_bytes(b"\xff\xfe"), "damaged.*utf-8"),
        (lose("environment.json", "versions"), "environment.json.*it lacks versions"),
        (lose("metrics.json", "val"), "metrics.json.*it lacks val. python train.py resume="),
        (lambda run: (run / "predictions_val.csv").unlink(), "there is no table"),
        (lambda run: (run / "predictions_val.csv").write_text(""), "predictions_val.csv.*is empty"),
        (lambda run: (run / "predictions_test.csv").write_text("a\n1"), "lacks 3 columns"),
        (lambda run: (run / "metrics.csv").write_bytes(b"\xff\xfe"), "metrics.csv is damaged"),
        (lambda run: (run / "metrics.csv").write_text("a\n1"), "it has no column epoch"),
    ],
)
def test_no_finished_run(run_folder: Path, spoil: Spoil, match: str) -> None:
    assert read_run(run_folder).history is not None
    spoil(run_folder)
    with pytest.raises(ConfigError, match=f"(?s){match}"):
        read_run(run_folder)


@pytest.mark.parametrize("subset", ["val", "test"])
def test_files_of_two_runs(run_folder: Path, subset: str) -> None:
    path = run_folder / f"predictions_{subset}.csv"
    path.write_text("\n".join([*path.read_text().splitlines()[:-1], ""]))
    with pytest.raises(ConfigError, match=rf"different runs: predictions_{subset}.csv is of the"):
        read_run(run_folder)


def tell(path: Path, weights: str, *subsets: str) -> None:
    """Write whose results a file holds."""
    facts = json.loads(path.read_text())
    for each in [facts[subset] for subset in subsets] or [facts]:
        each["weights_sha256"] = weights
    path.write_text(json.dumps(facts))


@pytest.mark.parametrize("old", ["val", "test", "evaluation"])
def test_results_of_two_checkpoints(run_folder: Path, old: str) -> None:
    tell(run_folder / "metrics.json", "new", "val", "test")
    tell(run_folder / "evaluation.json", "new")
    assert read_run(run_folder).evaluation.origin.weights_sha256 == "new"
    subsets = () if old == "evaluation" else (old,)
    tell(run_folder / ("metrics.json" if subsets else "evaluation.json"), "old", *subsets)
    with pytest.raises(ConfigError, match=r"results of different checkpoints.*resume="):
        read_run(run_folder)


@pytest.mark.parametrize(("run", "maps", "shown"), [
    ("", "", True), ("", "new", True), ("new", "new", True), ("new", "", False),
    ("new", "old", False),
])  # fmt: skip
def test_maps_of_another_checkpoint(run_folder: Path, run: str, maps: str, shown: bool) -> None:
    keys: dict[str, object] = {key: [] for key in NEEDED["explain.json"]}
    keys["fingerprint"] = json.loads((run_folder / "evaluation.json").read_text())["fingerprint"]
    (run_folder / "explain").mkdir()
    (run_folder / "explain/explain.json").write_text(json.dumps(keys))
    if maps:
        tell(run_folder / "explain/explain.json", maps)
    if run:
        tell(run_folder / "metrics.json", run, "val", "test")
        tell(run_folder / "evaluation.json", run)
    read = read_run(run_folder)
    assert (read.explain is not None) == (not read.explain_missing) == shown
    if not shown:
        (said,) = [text for text in report_values(read, None)["warnings"] if "looks" in text]
        assert "explain.json is of another checkpoint; xray explain" in said


def test_a_run_about_to_finish(run_folder: Path) -> None:
    metrics = json.loads((run_folder / "metrics.json").read_text())
    (run_folder / "metrics.json").unlink()
    assert read_run(run_folder, metrics).metrics == metrics
