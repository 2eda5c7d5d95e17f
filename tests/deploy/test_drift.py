"""New films beside a run's validation, patients known and not."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from toy import save_net, toy_net

from xray_lightning import ConfigError, Drift, InvalidImageError, Phantom, measure_drift
from xray_lightning.cli.app import run_verb
from xray_lightning.cli.failures import PartialError
from xray_lightning.deploy.drift import find_patients
from xray_lightning.errors import DataNotFoundError, TableError
from xray_lightning.evaluation.predictions import read_predictions
from xray_lightning.report.audit import drift_lines
from xray_lightning.report.page import say

OWN, SOURCE = {"patients": "^[^_]+", "draws": 400}, Phantom(patients=150)


@pytest.fixture(scope="module")
def run(made_run: Path, folder: Path) -> Path:
    """A run with a checkpoint, and its test films darkened, or as they are."""
    (run := shutil.copytree(made_run, folder / "a_run")).joinpath("checkpoints").mkdir()
    save_net(toy_net(SOURCE.labels), run / "checkpoints/best.ckpt")
    test = (run / "predictions_test.csv").read_text()
    for place, scale in (("as_is", 1), ("darker", 2)):
        (run / place).mkdir()
        for record in (r for r in SOURCE.records if f"\n{r.image_id}," in test):
            path = run / place / f"{record.patient_id}_{record.image_id}.png"
            cv2.imwrite(str(path), SOURCE.read(record) // scale)
    return run


def test_films_as_they_are_and_darker(run: Path, at_80_columns) -> None:
    undecided, power, *_ = say("drift", measure_drift(run, [run / "as_is"], SOURCE, **OWN))
    assert undecided.startswith("undecided: none of 18 quantities of ")
    assert "by 45 patients beside 47 of validation: a shift of all films by " in power
    other = measure_drift(run, [run / "darker"], SOURCE, **OWN)
    assert {"mean grey", "features"} <= {t.name for t in other.tests if t.corrected <= 0.05}
    assert "are not like validation's: " in at_80_columns(drift_lines(other)).replace("\n", " ")
    assert Drift.from_json(json.loads(json.dumps(other.to_json()))).to_json() == other.to_json()


def test_no_verdict_where_patients_are_unknown_or_few(run: Path, dicom, tmp_path, capsys) -> None:
    names, table = ["/x/p1_1.png", "/x/p1_2.png", "/y/p2.png"], tmp_path / "patients.csv"
    table.write_text("file,patient\np1_1.png,a\np2.png,b\n")
    for told, ids in (("file", names), (table, ["a", "", "b"]), ("p([0-9])_", ["1", "1", ""])):
        assert [*find_patients(names, str(told)).values()] == ids
    with pytest.raises(ConfigError, match=r"patients='\(': no such table, and no pattern"):
        find_patients(names, "(")
    with pytest.raises(DataNotFoundError, match=r"none\.csv"):
        find_patients(names, "none.csv")
    table.write_text("file,patient\np2.png,a\np2.png,b\n")
    with pytest.raises(TableError, match=r"p2\.png is of 'a' and of 'b'"):
        find_patients(names, str(table))
    (broken := tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(InvalidImageError, match=r"broken\.png"):
        measure_drift(run, [broken])
    for number, film in enumerate(np.random.default_rng(0).integers(0, 4096, (12, 32, 32))):
        (tmp_path / f"{number}.dcm").write_bytes(dicom(film, PatientID=f"ZQX{number}"))
    known = measure_drift(run, [tmp_path], draws=400)
    assert known.tested
    assert "ZQX" not in json.dumps(known.to_json()) + repr(known)
    for name, patient in (("a", ""), ("b", "b.dcm")):  # none, and RSNA's, which names the file
        (tmp_path / f"{name}.dcm").write_bytes(dicom(film, PatientID=patient))
    unknown = measure_drift(run, [tmp_path], draws=400)
    told = [(t.p_value, t.corrected, t.detectable, *t.shift.interval) for t in unknown.tests]
    assert np.isnan(told).all()
    why = "no verdict on 14 new films, figures alone: the patients of 2 are not known"
    for text in (why, "scores alone were compared, no pixels", f"not read: {broken}"):
        assert text in " ".join(say("drift", unknown))
    name = read_predictions(run / "predictions_val.csv").image_ids[0]
    shutil.copy(tmp_path / "1.dcm", tmp_path / Path(name).with_suffix(".dcm"))
    assert measure_drift(run, [tmp_path], draws=400).shared == 1
    with pytest.raises(ConfigError, match="the headers of 13 name 12: leave it out"):
        measure_drift(run, [tmp_path], patients="file", draws=400)
    run_verb("drift", [run, broken.with_name("[0-3].dcm")], out=tmp_path / "out", as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts == json.loads((tmp_path / "out/drift.json").read_text())
    assert "with fewer than 10" in (tmp_path / "out/drift.html").read_text()
    with pytest.raises(PartialError, match=r"1 file could not be read, all others .*broken\.png"):
        run_verb("drift", [run, tmp_path], out=tmp_path / "out", as_json=True)
