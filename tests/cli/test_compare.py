import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xray_lightning.cli.compare import TABLE, compare_runs, tables
from xray_lightning.errors import ConfigError, DataNotFoundError, TableError
from xray_lightning.evaluation.predictions import Predictions, write_predictions


def predictions(gain: float, seed: int = 0, images: int = 300) -> Predictions:
    targets = (np.random.default_rng(9).random((images, 2)) < 0.3).astype(np.float32)
    noise = np.random.default_rng(seed).random((images, 2))
    return Predictions(
        labels=("Mass", "Nodule"),
        image_ids=tuple(f"{i}.png" for i in range(images)),
        patient_ids=tuple(f"p{i // 3}" for i in range(images)),
        targets=targets,
        scores=((noise + gain * targets) / (1 + gain)).astype(np.float32),
    )


def write(folder: Path, name: str, values: Predictions) -> str:
    (folder / name).mkdir()
    write_predictions(values, folder / name / "predictions_test.csv")
    return str(folder / name)


def run(first: str, second: str, out: Path | None = None, as_json: bool = False) -> None:
    compare_runs(first, second, draws=200, seed=0, as_json=as_json, out=out)


def test_a_better_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strong, weak = (
        write(tmp_path, name, predictions(gain, seed))
        for name, gain, seed in (("strong", 1.5, 1), ("weak", 0.1, 2))
    )
    run(strong, weak, tmp_path / "out")
    text = capsys.readouterr().out
    assert "verdict: A is better than B (mean AUROC" in text
    assert "Labels that differ after correction: Mass, Nodule" in text
    facts = json.loads((tmp_path / "out/compare.json").read_text())
    assert facts["mean"]["difference"] > 0.1
    assert (facts["images"], facts["patients"]) == (300, 100)
    run(weak, strong)
    assert "verdict: B is better than A" in capsys.readouterr().out


def test_equal_models_in_another_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = predictions(0.5, 1)
    order = np.random.default_rng(0).permutation(300)
    shuffled = Predictions(
        one.labels,
        tuple(one.image_ids[i] for i in order),
        tuple(one.patient_ids[i] for i in order),
        one.targets[order],
        one.scores[order],
    )
    run(write(tmp_path, "a", one), write(tmp_path, "b", shuffled))
    text = capsys.readouterr().out
    assert "verdict: identical: A and B give every image the same scores" in text
    assert "0.0000" not in text.split("verdict")[1], "not: would show a true difference of 0.0000"


def test_equal_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(*(write(tmp_path, name, predictions(0.5, seed)) for seed, name in enumerate("ab")))
    text = capsys.readouterr().out
    assert "verdict: indistinguishable (mean AUROC" in text
    assert text.endswith("after correction: none\n")


def test_what_could_not_be_tested_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = predictions(0.5, 1), predictions(0.5, 2)
    two = replace(two, scores=np.column_stack([two.scores[:, 0], one.scores[:, 1]]))
    first = write(tmp_path, "a", one)
    run(first, write(tmp_path, "b", two))
    text = capsys.readouterr().out
    assert "corrected for 1 labels (Holm)" in text
    assert text.endswith("after correction: none (untested: Nodule)\n")
    alone = replace(one, patient_ids=("p",) * 300)
    run(write(tmp_path, "c", alone), write(tmp_path, "d", replace(alone, scores=two.scores)))
    text = capsys.readouterr().out
    assert "verdict: untested (mean AUROC" in text
    assert text.endswith("Labels that differ after correction: no label could be tested\n")


def test_seeds_by_a_pattern(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        write(tmp_path, f"a{seed}", predictions(1.0, seed))
    other = write(tmp_path, "b", predictions(1.0, 7))
    run(f"{tmp_path}/a*", other)
    assert "seeds: 3 of A, 1 of B" in capsys.readouterr().out
    run(f"{tmp_path}/a*", f"{other}/predictions_test.csv", as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["first"]) == 3
    assert facts["labels"]["Mass"]["delong"] is None


def test_seeds_by_the_row_of_a_ranking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep of two experiments and three seeds, whose last run did not finish."""
    subset = {"auroc": {"mean": 0.5, "defined": 2}}
    split = {"name": "patient", "fingerprint": "f", "parts": {"val": "v", "test": "t"}}
    for number in range(6):
        seed, name = number % 3, ("phantom/bce", "phantom/focal")[number // 3]
        folder = Path(write(tmp_path, str(number), predictions(1.0, number)))
        facts = {"overrides": [f"experiment={name}", f"seed={seed}"], "seed": seed, "split": split}
        (folder / "environment.json").write_text(json.dumps({**facts, "data": {"name": "x"}}))
        if number < 5:
            (folder / "metrics.json").write_text(json.dumps({"val": subset, "test": subset}))
    rows = [f"{tmp_path}/experiment=phantom/{name}" for name in ("bce", "focal")]
    run(*rows, as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert [[Path(each).parent.name for each in facts[side]] for side in ("first", "second")] == [
        ["0", "1", "2"],
        ["3", "4"],
    ]
    with pytest.raises(DataNotFoundError, match="or by the row of a sweep's ranking"):
        run(rows[0], f"{tmp_path}/experiment=phantom/auc")


def test_undefined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    healthy = predictions(1.0)
    healthy = replace(healthy, targets=np.zeros_like(healthy.targets))
    name = write(tmp_path, "a", healthy)
    run(name, name)
    assert "verdict: undefined" in capsys.readouterr().out
    run(name, name, as_json=True)
    assert json.loads(capsys.readouterr().out)["mean"]["interval"] is None


def test_what_is_refused(tmp_path: Path) -> None:
    good = predictions(1.0)
    one = write(tmp_path, "a", good)
    others = {
        "score different test images": predictions(1.0, images=299),
        "have different labels": replace(good, labels=("Mass", "Hernia")),
        "other patients or targets": replace(good, targets=1 - good.targets),
        "made from different label tables": replace(good, patient_ids=good.image_ids),
    }
    for number, (match, other) in enumerate(others.items()):
        with pytest.raises(TableError, match=match):
            run(one, write(tmp_path, f"b{number}", other))
    with pytest.raises(DataNotFoundError, match=r"names no run with predictions_test\.csv"):
        run(one, str(tmp_path / "none*"))


def test_the_negatives_stand_beside_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = write(tmp_path, "a", predictions(1.0))
    (tmp_path / "a/metrics.json").write_text('{"test": {"data": "rsna (negatives: all)"}}')
    run(name, name)
    assert "rsna (negatives: all)" in capsys.readouterr().out
    run(name, name, as_json=True)
    assert json.loads(capsys.readouterr().out)["data"] == "rsna (negatives: all)"


def test_a_folder_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    for name in ("fold[1]", "fold1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / TABLE).touch()
    assert tables(str(tmp_path / "fold[1]")) == [tmp_path / "fold[1]" / TABLE]
    assert tables(str(tmp_path / "fold[12]")) == [tmp_path / "fold1" / TABLE]
    both = [tmp_path / name / TABLE for name in ("fold1", "fold[1]")]
    assert tables(str(tmp_path / "fold*")) == both


def test_unknown_patients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for name, gain in (("a", 2.0), ("b", 1.0)):
        table = predictions(gain)
        files.append(write(tmp_path, name, replace(table, patient_ids=table.image_ids)))
    run(files[0], files[1])
    text = capsys.readouterr().out
    assert "300 test images of an unknown number of patients" in text
    assert "paired draws of images" in text


def test_the_shared_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = predictions(0.5, 1)
    other = replace(whole.keep(["Nodule"]), scores=predictions(0.1, 2).scores[:, 1:])
    first, second = write(tmp_path, "whole", whole), write(tmp_path, "part", other)
    with pytest.raises(TableError, match="different labels: --labels shared"):
        run(first, second)
    for labels in ("shared", "[Nodule]"):
        compare_runs(first, second, labels, draws=20, seed=0, as_json=True, out=None)
        assert list(json.loads(capsys.readouterr().out)["labels"]) == ["Nodule"]
    with pytest.raises(ConfigError, match="labels=Mass: these are shared: Nodule"):
        compare_runs(first, second, "Mass", draws=20, seed=0, as_json=True, out=None)
