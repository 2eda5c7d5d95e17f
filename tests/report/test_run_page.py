"""The report of a run stands alone, says what the files say, and every section is there."""

import json
from base64 import b64decode

import cv2
import numpy as np
import pytest

from xray_lightning import Phantom, audit_split, patient_split
from xray_lightning.report.drawings import embed_picture
from xray_lightning.report.run import Run, read_run
from xray_lightning.report.run_page import OPTIONAL, SECTIONS, report_values, run_page, write_report
from xray_lightning.writing import read_json

PHANTOM = Phantom(patients=150)


@pytest.fixture(scope="module")
def run(made_run) -> Run:
    return read_run(made_run)


@pytest.fixture(scope="module")
def facts(run: Run) -> dict:
    split = patient_split(PHANTOM.records, None, fractions=(0.4, 0.3, 0.3))
    predictions = run.predictions["val"], run.predictions["test"]
    audit = audit_split(PHANTOM, split, predictions=predictions, draws=5)
    return report_values(run, audit)


@pytest.fixture(scope="module")
def text(run: Run, facts: dict) -> str:
    return run_page(run, facts)


def test_every_section_in_order(text: str, parsed) -> None:
    page = parsed(text)
    names = [name for name in SECTIONS if name not in OPTIONAL]
    assert [each for each in page.ids if each in SECTIONS] == names, "no xray explain, no section"
    drawn = ["aurocs", "curves-0", "reliability-0", "training", "ratios", "baselines"]
    assert {f"figure-{name}" for name in (*drawn, "decomposition")} <= set(page.ids)
    assert f"figure-curves-{PHANTOM.labels.index('Hernia')}" not in page.ids  # undefined


def test_it_fits_a_phone(text: str) -> None:
    assert 'name="viewport" content="width=device-width' in text
    assert len(text.encode()) < 5_000_000


def test_the_table_says_what_the_files_say(run, facts, text, parsed) -> None:
    page, evaluation = parsed(text), run.evaluation.to_json()
    assert facts["test"]["labels"] == evaluation["labels"]
    for label, each in evaluation["labels"].items():
        auroc = each["auroc"]
        cells = page.row(label)
        assert cells[0] == f"{each['positives']:,}"
        ends = auroc["patient_interval"]
        shown = "{:.3f} to {:.3f}".format(*ends) if ends else "-"
        value = "-" if auroc["value"] is None else f"{auroc['value']:.3f}"
        assert cells[1:3] == [value, shown]
        assert cells[8] == f"{each['brier']['value']:.3f}"
    assert page.row("Hernia")[1:7] == ["-"] * 6
    mean = evaluation["mean"]["auroc"]["value"]
    assert page.row("mean")[:2] == ["13/14 defined", f"{mean:.3f}"]
    assert "Hernia: AUROC is undefined, no positive image." in text
    assert "Test images whose target is unknown and left out: Mass (1)." in text
    for label, point in facts["operating_points"]["labels"].items():
        found = evaluation["labels"][label]["sensitivity"]["value"]
        row = page.row(label, 1)
        assert row[0] == f"{point['threshold']:.3f}"
        assert row[1].startswith(f"{found:.3f} (")
        calls = evaluation["calls"]["labels"][label]
        assert row[6:8] == ["{} of {}".format(*calls[kind]) for kind in ("missed", "false_alarms")]
    assert "{} are called abnormal".format(evaluation["calls"]["false_alarms"][0]) in text
    assert facts["operating_points"]["labels"]
    assert "Hernia" in facts["operating_points"]["without"]


def test_verdict_and_what_is_not_known(run: Run, facts: dict, text: str) -> None:
    evaluation = run.evaluation.to_json()
    first, second, third = facts["summary"]
    for subset in (facts["split"]["fingerprint"], evaluation["fingerprint"], "13 of 14 labels"):
        assert subset in first
    aurocs = {k: v["auroc"]["value"] for k, v in evaluation["labels"].items()}
    known = {label: value for label, value in aurocs.items() if value is not None}
    weakest = min(known, key=known.get)
    assert second.startswith(f"Weakest is {weakest}, {known[weakest]:.3f}")
    assert "they are on NIH's images, this is on phantom" in third
    assert facts["warnings"] == [
        "The images are synthetic: these figures say nothing about patients."
    ]
    assert all(sentence in text.replace("&#39;", "'") for sentence in facts["summary"])
    assert "The checkpoint, epoch 2 of 3, was chosen on validation." in text
    assert "c0ffee" in text
    assert "python train.py data.patients=150" in text


def test_reliability_bins_are_those_of_the_error(run: Run, facts: dict) -> None:
    evaluation = run.evaluation.to_json()
    for label, kinds in facts["reliability"].items():
        each = evaluation["labels"][label]
        for kind, name in (("raw", "calibration_error"), ("calibrated", "calibrated_error")):
            if kinds[kind] is None:
                assert each[name]["value"] is None
                continue
            bins = {key: np.array(values) for key, values in kinds[kind].items()}
            gap = (bins["images"] * abs(bins["score"] - bins["share"])).sum()
            assert gap / each["known"] == pytest.approx(each[name]["value"], abs=1e-6)
    assert any(kinds["calibrated"] for kinds in facts["reliability"].values())


def test_labels_are_escaped(run_folder, parsed) -> None:
    name = '<b>M&s" $x$'
    for path in run_folder.iterdir():
        inside = name.replace('"', '""') if path.suffix == ".csv" else json.dumps(name)[1:-1]
        words = path.read_text()
        for column in ("target_Mass", "score_Mass"):
            words = words.replace(column, f'"{column[:-4]}{inside}"')
        path.write_text(words.replace('"Mass"', f'"{inside}"'))
    run = read_run(run_folder)
    text = run_page(run, report_values(run, None, "no <data>"))
    page = parsed(text)
    assert "<b>" not in text
    assert page.row(name)[0] == str(run.evaluation.metrics.labels[name].positives)
    assert "The split was not audited: no &lt;data&gt;." in text


def test_files_are_written_and_agree(run_folder, parsed) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 2000, 3), dtype=np.uint8)
    cv2.imwrite(str(run_folder / "montage.png"), pixels)
    (run_folder / "metrics.csv").unlink()
    facts = write_report(read_run(run_folder), None, "gone")
    assert read_json(run_folder / "report.json") == facts
    text = (run_folder / "report.html").read_text()
    assert any(each.startswith("data:image/webp;base64,") for each in parsed(text).addresses)
    assert "No training curves" in text
    assert "found no patient in more than one subset" in text
    run = read_run(run_folder)
    run.environment["split"]["leaked_patients"] = None
    write_report(run, None, "gone")
    text = (run_folder / "report.html").read_text()
    assert "Whether patients are in more than one subset is not known" in text
    assert "found no patient" not in text
    assert not list(run_folder.glob("*.partial"))


def test_pictures_are_made_smaller(tmp_path) -> None:
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 255, (4, 20, 3), dtype=np.uint8), (2000, 400))
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), pixels)
    kind, _, code = embed_picture(path).partition(",")
    assert kind == "data:image/webp;base64"
    data = np.frombuffer(b64decode(code), dtype=np.uint8)
    found = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert found.shape == (320, 1600, 3)
    expected = cv2.resize(pixels, (1600, 320), interpolation=cv2.INTER_AREA)
    assert abs(found.astype(int) - expected).mean() < 6
    for damaged in (b"no picture", b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"picture.png is not a readable picture"):
            embed_picture(path)
