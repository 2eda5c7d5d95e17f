"""New films beside a run's validation, patients known and not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from toy import save_net, toy_net

from xray_lightning.cli.app import run_verb
from xray_lightning.data.phantom import Phantom
from xray_lightning.deploy.drift import Drift, find_patients, measure_drift
from xray_lightning.errors import ConfigError, InvalidImageError
from xray_lightning.evaluation.predictions import read_predictions, write_predictions
from xray_lightning.report.audit import drift_lines, drift_page
from xray_lightning.report.page import say

OWN = {"patients": "^[^_]+", "draws": 400}


@pytest.fixture(scope="module")
def run(made_run: Path, folder: Path) -> Path:
    """A run with a checkpoint, and its test films as they are and darker."""
    run, phantom = shutil.copytree(made_run, folder / "a_run"), Phantom(patients=150)
    (run / "checkpoints").mkdir()
    save_net(toy_net(phantom.labels), run / "checkpoints/best.ckpt")
    test = (run / "predictions_test.csv").read_text()
    for place, scale in (("as_is", 1), ("darker", 2)):
        (run / place).mkdir()
        for record in (r for r in phantom.records if f"\n{r.image_id}," in test):
            name = f"{place}/{record.patient_id}_{record.image_id}.png"
            cv2.imwrite(str(run / name), phantom.read(record) // scale)
    return run


def test_films_as_they_are_and_darker(run: Path, at_80_columns) -> None:
    source = Phantom(patients=150)
    same = measure_drift(run, [run / "as_is"], source, **OWN)
    assert (same.tested, same.patients, same.unknown) == (True, (47, 45), 0)
    undecided, power, *_ = say("drift", same)
    assert undecided.startswith("undecided: none of 18 quantities of ")
    assert "by 45 patients beside 47 of validation: a shift of all films by " in power
    other = measure_drift(run, [run / "darker"], source, **OWN)
    assert {"mean grey", "features"} <= {t.name for t in other.tests if t.corrected <= 0.05}
    assert "are not like validation's: " in say("drift", other)[0]
    assert "mean grey" in at_80_columns(drift_lines(other))
    assert Drift.from_json(json.loads(json.dumps(other.to_json()))).to_json() == other.to_json()


def test_no_verdict_where_patients_are_unknown_or_few(run: Path, tmp_path) -> None:
    (broken := run / "darker/broken.png").write_bytes(b"\x89PNG")
    unknown = measure_drift(run, [run / "darker"], draws=400)
    told = [(t.p_value, t.corrected, t.detectable, *t.shift.interval) for t in unknown.tests]
    assert np.isnan(told).all()
    why = f"no verdict on {unknown.images[1]} new films, figures alone: the patients of"
    for text in (why, "scores alone were compared, no pixels", f"not read: {broken}"):
        assert text in " ".join(say("drift", unknown))
    with pytest.raises(InvalidImageError, match=r"broken\.png"):
        measure_drift(run, [broken])
    few = measure_drift(run, sorted((run / "as_is").iterdir())[:4], patients="file")
    assert "4 patients beside 47 of validation; with fewer than 10" in say("drift", few)[0]
    before = read_predictions(run / "predictions_val.csv")
    write_predictions(
        replace(before, patient_ids=before.image_ids), tmp_path / "predictions_val.csv"
    )
    shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
    blind = say("drift", measure_drift(tmp_path, [run / "as_is"], **OWN))
    assert "validation's patients are not known" in blind[0]
    assert measure_drift(tmp_path, [run / "as_is"], patients="file").tested


def test_what_tells_patients(run: Path, dicom, tmp_path) -> None:
    names, table = ["/x/p1_1.png", "/x/p1_2.png", "/y/p2.png"], tmp_path / "patients.csv"
    table.write_text("file,patient\np1_1.png,a\np2.png,b\n")
    for told, ids in (("file", names), (table, ["a", "", "b"]), ("p([0-9])_", ["1", "1", ""])):
        assert [*find_patients(names, str(told)).values()] == ids
    with pytest.raises(ConfigError, match=r"patients='\(': no such table, and no pattern"):
        find_patients(names, "(")
    films = np.random.default_rng(0).integers(0, 4096, (12, 32, 32))
    for number, film in enumerate(films):
        (tmp_path / f"{number}.dcm").write_bytes(dicom(film, PatientID=f"ZQX{number}"))
    known = measure_drift(run, [tmp_path], draws=400)
    assert (known.unknown, known.patients[1]) == (0, 12)
    assert "ZQX" not in drift_page(known) + json.dumps(known.to_json()) + repr(known)
    for name, patient in (("a", ""), ("b", "b")):  # none, and RSNA's, which names the file
        (tmp_path / f"{name}.dcm").write_bytes(dicom(films[0], PatientID=patient))
    assert measure_drift(run, [tmp_path], draws=400).unknown == 2


def test_the_command_line(run: Path, capsys) -> None:
    (config := run / "config.yaml").write_text(config.read_text().replace(": 150", ": 151"))
    run_verb("drift", [run, run / "as_is", "patients=file"], as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["missing"].startswith("the data set changed: its split was [")
    assert facts == json.loads((run / "drift_as_is/drift.json").read_text())
    assert (run / "drift_as_is/drift.html").is_file()
