"""Two models on one test set: which tables, what is refused, the verdict; published results."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from running import write_run, xray

from xray_lightning import ConfigError, Predictions, fit_operating_points
from xray_lightning.cli.app import run_verb
from xray_lightning.errors import DataNotFoundError, TableError
from xray_lightning.evaluation import published
from xray_lightning.evaluation.compare import TABLE, Comparison, compare, find_tables
from xray_lightning.evaluation.predictions import Origin, SplitName, write_predictions
from xray_lightning.evaluation.published import published_boxes, read_published
from xray_lightning.metrics.compare import compare_aurocs
from xray_lightning.records import CHEST_XRAY14
from xray_lightning.report.page import say
from xray_lightning.writing import read_json, write_json


def predictions(gain: float, seed: int = 0, images: int = 300) -> Predictions:
    targets = (np.random.default_rng(9).random((images, 2)) < 0.3).astype(np.float32)
    noise = np.random.default_rng(seed).random((images, 2))
    scores = ((noise + gain * targets) / (1 + gain)).astype(np.float32)
    ids = tuple(f"{i}.png" for i in range(images)), tuple(f"p{i // 3}" for i in range(images))
    return Predictions(("Mass", "Nodule"), *ids, targets, scores)


STRONG, WEAK = predictions(1.5, 1), predictions(0.1, 2)


def write(folder: Path, name: str, table: Predictions) -> str:
    (folder / name).mkdir()
    write_predictions(table, folder / name / TABLE)
    return str(folder / name)


def test_equals_the_metric_and_comes_back_from_json() -> None:
    found = compare(STRONG, WEAK, draws=200)
    labels, targets, patients = STRONG.labels, STRONG.targets, STRONG.patient_ids
    pair = [STRONG.scores], [WEAK.scores]
    expected = compare_aurocs(labels, targets, patients, *pair, draws=200)
    assert (found.labels, found.mean.to_json()) == (expected.labels, expected.mean.to_json())
    assert found.verdict.startswith("A is better than B (mean AUROC")
    assert found.verdict.endswith("Labels that differ after correction: Mass, Nodule")
    assert (found.images, found.patients, found.first) == (300, 100, ("first[0]",))
    assert compare(WEAK, STRONG, draws=200).verdict.startswith("B is better than A")
    values = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert Comparison.from_json(values).to_json() == found.to_json()
    assert Comparison.from_json(values).labels["Mass"] == found.labels["Mass"]


def test_equal_models_in_another_order() -> None:
    order = np.random.default_rng(0).permutation(300)
    ids = [tuple(names[i] for i in order) for names in (STRONG.image_ids, STRONG.patient_ids)]
    shuffled = Predictions(STRONG.labels, *ids, STRONG.targets[order], STRONG.scores[order])
    found = compare(STRONG, shuffled, draws=50)
    assert found.verdict.startswith("identical: A and B give every image the same scores")
    assert "0.0000" not in found.verdict, "not: would show a true difference of 0.0000"
    noise = compare(predictions(0.5, 0), predictions(0.5, 1), draws=200)
    assert noise.verdict.startswith("indistinguishable (mean AUROC")
    assert noise.verdict.endswith("after correction: none")
    few = replace(noise, mean=replace(noise.mean, detectable=1.2))
    assert "would show no true difference in 80 %" in few.verdict


def test_what_could_not_be_tested_is_said() -> None:
    one, two = predictions(0.5, 1), predictions(0.5, 2)
    two = replace(two, scores=np.column_stack([two.scores[:, 0], one.scores[:, 1]]))
    found = compare(one, two, draws=200)
    assert found.tested == ["Mass"]
    assert found.verdict.endswith("after correction: none (untested: Nodule)")
    alone = replace(one, patient_ids=("p",) * 300)
    verdict = compare(alone, replace(alone, scores=two.scores), draws=200).verdict
    assert verdict.startswith("untested (mean AUROC")
    assert verdict.endswith("Labels that differ after correction: no label could be tested")
    healthy = replace(one, targets=np.zeros_like(one.targets))
    found = compare(healthy, healthy, draws=20)
    assert found.verdict.startswith("undefined")
    assert found.to_json()["mean"]["interval"] is None


def test_seeds_by_a_pattern(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path, f"a{seed}", predictions(1.0, seed))
    other = write(tmp_path, "b", predictions(1.0, 7))
    found = compare(f"{tmp_path}/a*", f"{other}/{TABLE}", draws=50)
    assert (len(found.first), len(found.second)) == (3, 1)
    assert found.to_json()["labels"]["Mass"]["delong"] is None
    tables = [predictions(1.0, seed) for seed in range(3)]
    assert compare(tables, predictions(1.0, 7), draws=50).labels.keys() == found.labels.keys()


def test_seeds_by_the_row_of_a_leaderboard(tmp_path: Path) -> None:
    """A sweep of two experiments and three seeds, whose last run did not finish."""
    for number in range(6):
        name = ("phantom/bce", "phantom/focal")[number // 3]
        folder = Path(write(tmp_path, str(number), predictions(1.0, number)))
        write_run(folder, [f"experiment={name}", f"seed={number % 3}"])
    (folder / "metrics.json").unlink()
    rows = [f"{tmp_path}/experiment=phantom/{name}" for name in ("bce", "focal")]
    folders = [[path.parent.name for path in find_tables(row)] for row in rows]
    assert folders == [["0", "1", "2"], ["3", "4"]]
    with pytest.raises(DataNotFoundError, match="experiment=phantom/auc names no run"):
        find_tables(f"{tmp_path}/experiment=phantom/auc")


def test_a_folder_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    for name in ("fold[1]", "fold1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / TABLE).touch()
    assert find_tables(str(tmp_path / "fold[1]")) == [tmp_path / "fold[1]" / TABLE]
    assert find_tables(str(tmp_path / "fold[12]")) == [tmp_path / "fold1" / TABLE]
    both = [tmp_path / name / TABLE for name in ("fold1", "fold[1]")]
    assert find_tables(str(tmp_path / "fold*")) == both
    for path in both:
        write_predictions(STRONG, path)
    assert "identical" in xray("compare", tmp_path / "fold[1]", tmp_path / "fold1", "draws=20")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (predictions(1.0, images=299), "score different test images"),
        (replace(WEAK, labels=("Mass", "Hernia")), "different labels"),
        (replace(WEAK, targets=1 - WEAK.targets), "other patients or targets"),
        (replace(WEAK, patient_ids=WEAK.image_ids), "different label tables"),
    ],
)
def test_what_is_refused(other: Predictions, message: str) -> None:
    with pytest.raises(TableError, match=rf"first\[0\].* and second\[0\].*{message}"):
        compare(STRONG, other)


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (STRONG, WEAK, "A is superior to B, margin 0.02 stated before (mean AUROC"),
        (WEAK, STRONG, "A is inferior to B, margin 0.02"),
        (predictions(0.5, 0), WEAK, "(Holm): superior: Mass, Nodule"),
        (predictions(0.5, 0), predictions(0.5, 3), "patients like these would decide in 80 %"),
        ([predictions(0.5, 0)] * 2, predictions(0.5, 3), "is not extrapolated: seeds differ"),
        (STRONG, STRONG, "untested, margin 0.02 stated before: identical scores need no test"),
    ],
)
def test_a_margin_is_stored_with_its_verdict(first, second, told: str) -> None:
    found = compare(first, second, draws=100, margin=0.02)
    assert told in found.margin_verdict
    values = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (values["margin"]["margin"], values["margin_verdict"]) == (0.02, found.margin_verdict)
    assert Comparison.from_json(values).margin.to_json() == found.margin.to_json()
    old = {key: value for key, value in values.items() if not key.startswith("margin")}
    assert Comparison.from_json(old).margin_verdict is None


def test_the_shared_labels() -> None:
    other = replace(STRONG.keep(["Nodule"]), scores=WEAK.scores[:, 1:])
    with pytest.raises(TableError, match="labels=shared"):
        compare(STRONG, other)
    for labels in ("shared", ["Nodule"], "Nodule"):
        assert list(compare(STRONG, other, labels=labels, draws=20).labels) == ["Nodule"]
    with pytest.raises(ConfigError, match="labels=Mass: these are shared: Nodule"):
        compare(STRONG, other, labels=["Mass"])


def test_the_command(tmp_path: Path) -> None:
    strong, weak = write(tmp_path, "strong", STRONG), write(tmp_path, "weak", WEAK)
    (tmp_path / "strong/metrics.json").write_text('{"test": {"data": "rsna (negatives: all)"}}')
    text = xray("compare", strong, weak, "draws=200", "--out", tmp_path / "out")
    assert "rsna (negatives: all)" in text, "which negatives stands beside the figures"
    assert "verdict: A is better than B (mean AUROC" in text
    assert "corrected for 2 labels (Holm)" in text
    assert max(map(len, text.split("300 test images")[0].split("label")[1].splitlines())) <= 80
    text = xray("compare", strong, weak, "draws=20", "margin=0.1")
    text = text.split("against a margin of 0.1, stated before")[1]
    assert max(map(len, text.split("300 test images")[0].splitlines())) <= 80
    assert "margin: A is superior to B, margin 0.1 stated before" in text
    facts = json.loads(xray("compare", strong, weak, "labels=[Mass]", "draws=20", "--json"))
    assert (facts["schema"], list(facts["labels"])) == (2, ["Mass"])
    facts = read_json(tmp_path / "out/compare.json")
    assert (facts["mean"]["difference"] > 0.1, facts["first"]) == (True, [f"{strong}/{TABLE}"])
    with pytest.raises(DataNotFoundError, match=r"names no run with predictions_test\.csv"):
        run_verb("compare", [strong, tmp_path / "none*", "draws=20"])
    with pytest.raises(ConfigError, match=r"margin must lie in .*got 2"):  # before they are read
        run_verb("compare", ["none", "none", "margin=2"])


def test_net_benefit_of_what_validation_calibrated(tmp_path, monkeypatch) -> None:
    tables = {write(tmp_path, "strong", STRONG): STRONG, write(tmp_path, "weak", WEAK): WEAK}
    pairs = {"Mass": [], "Nodule": [table.scores[:, 1] for table in tables.values()]}
    for place, table in tables.items():
        points = fit_operating_points(table.keep(["Mass"]), draws=20)
        write_json(points.to_json(), Path(place, "operating_points.json"))
        pairs["Mass"].append(points.labels["Mass"].calibration(table.scores[:, 0]))
    text = xray("compare", *tables, "draws=50", "thresholds=0.1,0.3", "--out", tmp_path)
    found = Comparison.from_json(read_json(tmp_path / "compare.json"))
    assert (found.calibrated, found.thresholds) == (["Mass"], [0.1, 0.3])
    assert " Nodule* " in text, "raw scores"
    assert "each interval holds alone: of 4 about 0.2 leave out the truth" in text
    for (label, pair), targets in zip(pairs.items(), STRONG.targets.T, strict=True):
        for line, value in zip(found.thresholds, found.net_benefit[label].value, strict=True):
            gain = np.where(targets == 1, 1, -line / (1 - line))  # of an image that is called
            expected = np.mean(gain * (pair[0] >= line) - gain * (pair[1] >= line))
            assert value == pytest.approx(expected)
    monkeypatch.chdir(place)  # whose points are not those of predictions in memory
    assert not compare(STRONG, WEAK, draws=20).calibrated
    text = xray("compare", place, place, "draws=50")  # the last of them with itself
    assert "odds of the threshold; no two draws differ" in text
    with pytest.raises(ConfigError, match="thresholds must lie between 0 and 1 and rise, got 2"):
        run_verb("compare", ["none", "none", "thresholds=2"])  # before they are read


def test_unknown_patients_and_several_seeds(tmp_path) -> None:
    for name, table in (("a1", STRONG), ("a2", WEAK), ("b", WEAK)):
        write(tmp_path, name, replace(table, patient_ids=table.image_ids))
    text = xray("compare", f"{tmp_path}/a*", f"{tmp_path}/b", "draws=20")
    assert "300 test images of an unknown number of patients" in text
    assert "paired draws of images" in text
    assert "seeds: 2 of A, 1 of B" in text
    assert "net benefit" not in text


def test_rows_are_those_of_the_shared_table(shared_data) -> None:
    with (shared_data.parent / "published.csv").open(encoding="utf-8") as file:
        theirs = {row["work"]: row for row in csv.DictReader(file)}
    ours = read_published()
    assert len(ours) == len(theirs) == 32
    for row in ours:
        told = theirs[row.work]
        expected = float(told["mean_auroc"]), told["source"] == "primary", told["note"]
        assert (row.mean, row.primary, row.note) == expected


def test_a_published_mean_is_that_of_its_findings() -> None:
    complete = [row for row in read_published() if len(row.labels) == 14]
    assert len(complete) > 5
    for row in complete:
        assert sum(row.labels.values()) / 14 == pytest.approx(row.mean, abs=0.004), row.work


def beside(split: str, scored: int):
    origin = Origin("nih", 112_120, SplitName(split, "f00d"), "test")
    return published.comparable(origin, CHEST_XRAY14, scored)


def test_place() -> None:
    official = beside("official", 25596)
    assert say("place", 0.99, official)[0].startswith(f"0 of {len(official)} published results")
    assert say("place", 0.5, official)[0].startswith(f"{len(official)} of {len(official)} ")
    assert "would mean nothing" in say("place", 0.9, beside("kfold", 22000))[0]
    assert say("place", 0.9, []) == ["no published result was measured on such images"]


def test_rows_on_boxes() -> None:
    rows = {(row.measure, row.method): row for row in published_boxes("nih")}
    found = rows["t_iobb", "CAM"].labels
    eight = (0.728, 0.993, 0.712, 0.789, 0.435, 0.165, 0.75, 0.459)
    names = "Atelectasis Cardiomegaly Effusion Infiltration Mass Nodule Pneumonia Pneumothorax"
    assert found == pytest.approx(dict(zip(names.split(), eight, strict=True)), abs=6e-4)
    assert rows["t_iobb", "CAM"].primary
    assert rows["pointing_game", "Grad-CAM++"].mean == 0.544
    assert rows["afp", "CAM"].labels.keys() == found.keys()
    random = rows["pointing_game", "random map"]
    assert (random.mean, random.primary, random.year) == (0.228, False, None)
    assert published_boxes("rsna") == published_boxes("phantom") == []
