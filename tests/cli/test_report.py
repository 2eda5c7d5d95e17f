"""``xray report``, and the report at the end of training."""

import json
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from omegaconf import OmegaConf
from running import xray

from xray_lightning import ConfigError, Phantom, patient_split
from xray_lightning.cli import report as module
from xray_lightning.cli.app import run_verb
from xray_lightning.cli.report import open_again
from xray_lightning.data.source import used_records
from xray_lightning.report.run import read_run
from xray_lightning.report.run_page import DRAWS, closing_report


def settings(run, **changes: object) -> None:
    config = OmegaConf.load(run / "config.yaml")
    for key, value in changes.items():
        OmegaConf.update(config, key, value, merge=False)
    OmegaConf.save(config, run / "config.yaml")


def test_json_with_the_audit_of_the_split(run_folder) -> None:
    facts = json.loads(xray("report", run_folder, "--json"))
    assert facts == json.loads((run_folder / "report.json").read_text())
    assert facts["audit"]["split"]["fingerprint"] == facts["split"]["fingerprint"]
    assert facts["audit"]["draws"] == DRAWS
    assert facts["audit"]["decomposition"]["test_images"] == facts["test"]["images"]
    page = (run_folder / "report.html").read_text()
    assert "0 patients have images in more than one subset" in page
    assert "prevalence in test / in train+val" in page


def test_terminal_without_the_data(run_folder) -> None:
    nowhere = {"_target_": "xray_lightning.data.nih.ChestXray14", "root": "nowhere"}
    settings(run_folder, data=nowhere)
    text = xray("report", run_folder)
    assert "the mean AUROC over 13 of 14 labels is" in text
    assert "warning: The images are synthetic" in text
    assert "the split was not audited: its data set is not at hand (" in text
    assert f"written: {run_folder / 'report.html'}" in text
    page = (run_folder / "report.html").read_text()
    assert "nowhere" in page[page.index('id="audit"') :]


def test_changed_data_are_not_audited(run_folder) -> None:
    settings(run_folder, data={"_target_": "xray_lightning.Phantom", "patients": 151})
    data, missing = open_again(read_run(run_folder), trust=False)
    assert data is None
    assert missing.startswith("the data set changed: its split was [")


@pytest.mark.parametrize("text", ["{", "- a\n- b\n", "seed: 1\n", ""])
def test_damaged_settings(run_folder, text: str) -> None:
    (run_folder / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config.yaml is (damaged|not a mapping)"):
        run_verb("report", [run_folder], as_json=True)


def test_a_fault_of_ours_is_not_blamed_on_the_data(run_folder, monkeypatch) -> None:
    monkeypatch.setattr(module, "make", Mock(side_effect=ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        run_verb("report", [run_folder], as_json=True)


def test_end_of_training(run_folder, caplog: pytest.LogCaptureFixture) -> None:
    metrics = json.loads((run_folder / "metrics.json").read_text())
    (run_folder / "metrics.json").unlink()  # written last
    source = Phantom(patients=150)
    split = patient_split(source.records, None, fractions=(0.4, 0.3, 0.3))
    objects = source, split, metrics, run_folder
    closing_report(*objects)
    assert (run_folder / "report.html").is_file()
    assert not caplog.records
    (run_folder / "report.html").unlink()
    (run_folder / "environment.json").unlink()
    closing_report(*objects)
    assert "no report.html; once this is repaired: xray report" in caplog.text
    assert not (run_folder / "report.html").exists()


def test_images_that_were_left_out_are_no_part_of_the_split() -> None:
    records = [SimpleNamespace(image_id=name, targets=()) for name in "abc"]
    source = SimpleNamespace(records=records, labels=(), missing=["b"], allow_missing=True)
    assert [each.image_id for each in used_records(source).records] == ["a", "c"]
    assert source.records == records
    source.allow_missing = False
    assert used_records(source) is source
