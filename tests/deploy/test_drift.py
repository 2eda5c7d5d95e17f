"""New films beside a run's validation: a folder of films, and a table of scores without torch."""

import json
import re
from functools import partial
from pathlib import Path

import cv2
import pytest

from xray_lightning.cli.app import run_verb
from xray_lightning.data.phantom import Phantom
from xray_lightning.data.source import select_labels
from xray_lightning.deploy.classifier import load_classifier
from xray_lightning.deploy.drift import Drift, measure_drift
from xray_lightning.errors import ConfigError, DataNotFoundError, TableError
from xray_lightning.evaluation.predictions import Predictions, write_predictions
from xray_lightning.evaluation.scores import read_new_scores
from xray_lightning.report.page import say

drift = partial(run_verb, "drift")
PHANTOM = select_labels(Phantom(patients=80, size=64), ("Mass", "Nodule", "Effusion"))
FIGURES = {"mean grey", "contrast", "sharpness", "features"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, checkpoint) -> Path:
    """Validation on half of the phantom's patients, films of the others, no operating points."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/best.ckpt").write_bytes(checkpoint.read_bytes())
    patients = sorted({record.patient_id for record in PHANTOM.records})
    records = [r for r in PHANTOM.records if r.patient_id in patients[::2]]
    scores = load_classifier(checkpoint)([PHANTOM.read(record) for record in records]).scores
    predictions = Predictions.of(records, PHANTOM.labels, scores)
    write_predictions(predictions, folder / "predictions_val.csv")
    for place, scale in (("as_is", 1), ("darker", 2)):
        (folder / place).mkdir()
        for record in (r for r in PHANTOM.records if r.patient_id in patients[1::2]):
            name = f"{place}/{record.patient_id}_{record.image_id}.png"
            cv2.imwrite(str(folder / name), PHANTOM.read(record) // scale)
    return folder


def test_films_as_they_are_and_darker(run: Path, tmp_path) -> None:
    own = {"patient": "^[^_]+", "draws": 400}
    same = measure_drift(run, run / "as_is", tmp_path / "as_is", PHANTOM, **own)
    assert (same.sizes["patients"], same.moved) == ((40, 40), [])
    assert same.sizes["films"] == same.sizes["images"]
    (sentence,) = say("drift", same)
    assert "no drift can be told: these 40 patients beside validation's 40 would show" in sentence
    other = measure_drift(run, run / "darker", tmp_path / "darker", PHANTOM, **own)
    assert {"mean grey", "features"} <= {test.name for test in other.moved}
    assert "are not like validation's" in say("drift", other)[0]
    assert Drift.from_json(json.loads(json.dumps(other.to_json()))).moved == other.moved
    blind = measure_drift(run, run / "as_is", tmp_path / "as_is", missing="gone", **own)
    assert {test.name for test in same.tests} - {test.name for test in blind.tests} == FIGURES
    told = {row.note for row in blind.prevalences.values()}
    assert told == {f"no operating point: none in {run}/operating_points.json"}
    assert "note: gone" in say("drift_notes", blind)


def test_what_tells_the_patients_of_a_table(tmp_path) -> None:
    rows = ["file,study,Mass,other", "a/p1_1.png,s,0.5,x", "a/p1_2.png,s,0.25,x", "b/p2.png,t,1,x"]
    (path := tmp_path / "new.csv").write_text("\n".join(rows) + "\n")
    told = {"": ("s", "s", "t"), "other": ("x", "x", "x"), "p([0-9])": ("1", "1", "2")}
    for patient, ids in told.items():
        scores, by = read_new_scores(path, ("Mass", "Hernia"), patient)
        assert (scores.labels, scores.patient_ids, by) == (("Mass",), ids, patient or "study")
    for patient, why in (
        ("(", "is no column and no pattern"),
        ("p2", "not in the name 'a/p1_1.pn"),
    ):
        with pytest.raises(ConfigError, match=re.escape(why)):
            read_new_scores(path, ("Mass",), patient)
    with pytest.raises(TableError, match="has no score for Edema"):
        read_new_scores(path, ("Edema",))
    path.write_text(path.read_text().replace("study", "shape"))
    scores, by = read_new_scores(path, ("Mass",))
    assert (scores.patients, by) == (None, "")


def test_a_table_from_the_command_line(run: Path, tmp_path, capsys) -> None:
    drift([run, run / "predictions_val.csv", "draws=200"], out=tmp_path / "out")
    text = " ".join(capsys.readouterr().out.split())
    assert "no drift can be told: these 40 patients" in text
    assert "scores alone were compared, no pixels" in text
    drift([run, run / "predictions_val.csv", "draws=200"], out=tmp_path / "out", as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts == json.loads((tmp_path / "out/drift.json").read_text())
    assert [test["p_value"] for test in facts["tests"]] == [1, 1, 1]


def test_what_cannot_be_compared(run: Path, tmp_path) -> None:
    few = "draws=100: 7 tests together need at least 139"
    for new, told, kind, why in (
        (tmp_path, {}, DataNotFoundError, "no image in"),
        (run / "as_is", {"patient": "(_)"}, ConfigError, "as_is: 1 patients; with fewer than 10"),
        (run / "as_is", {"draws": 100}, ConfigError, few),
    ):
        with pytest.raises(kind, match=why):
            measure_drift(run, new, tmp_path / "out", **told)
    with pytest.raises(DataNotFoundError, match=r"has no predictions_val\.csv, which new films"):
        measure_drift(tmp_path, run / "as_is", tmp_path / "out")
