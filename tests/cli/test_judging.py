"""Points and calibrations of validation, applied to test; subgroups and published rows below."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, recall_score

from xray_lightning import Phantom
from xray_lightning.cli.judging import Judged, fitted, published_lines, verdict_of
from xray_lightning.cli.overrides import composed
from xray_lightning.cli.settings import require_settings
from xray_lightning.errors import ConfigError
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.evaluation.published import published
from xray_lightning.metrics.calibration import shift_prior
from xray_lightning.metrics.operating_points import Fitted
from xray_lightning.records import Record, patient_ids, target_matrix
from xray_lightning.report.terminal import show

PHANTOM = Phantom(patients=150)
HALF = len(PHANTOM.records) // 2
VAL, TEST = PHANTOM.records[:HALF], PHANTOM.records[HALF:]
FACTS = {
    "fingerprint": "f00d",
    "data": "phantom",
    "data_images": 2 * HALF,
    "split": {"name": "patient", "fingerprint": "beef"},
    "subset": "test",
}


def predictions(records: list, seed: int = 0) -> Predictions:
    """Scores that know a good deal about the truth."""
    targets = target_matrix(records)
    rng = np.random.default_rng(seed)
    scores = (0.5 * rng.random(targets.shape) + 0.4 * targets).astype(np.float32)
    images = tuple(record.image_id for record in records)
    return Predictions(PHANTOM.labels, images, patient_ids(records), targets, scores)


@pytest.fixture(scope="module")
def found() -> Judged:
    config, _ = composed(["draws=60", "operating_point.rule=sensitivity"])
    return verdict_of(
        predictions(TEST, 1),
        TEST,
        FACTS,
        validation=fitted(predictions(VAL), "cafe", config),
        draws=60,
    )


def test_facts_are_plain_and_say_what_was_judged(found: Judged) -> None:
    assert json.loads(json.dumps(found.facts, allow_nan=False)) == found.facts
    assert found.facts.items() >= FACTS.items()
    assert found.facts["images"] == len(TEST)
    assert found.facts["patients"] == len({record.patient_id for record in TEST})
    assert found.facts["validation"]["fingerprint"] == "cafe"
    assert found.facts["published"] == []


def test_points_of_validation_are_applied_to_test(found: Judged) -> None:
    points = found.facts["validation"]["labels"]
    table = predictions(TEST, 1)
    assert 0 < len(found.thresholds) < len(PHANTOM.labels)
    for index, label in enumerate(PHANTOM.labels):
        facts = found.facts["labels"][label]
        threshold = points[label]["threshold"]
        if threshold is None:
            assert facts["sensitivity"]["value"] is facts["calibrated_brier"]["value"] is None
            assert "fewer than 10 positives" in points[label]["note"]
            continue
        truth, scores = table.targets[:, index], table.scores[:, index]
        sensitivity = recall_score(truth, scores >= threshold)
        assert facts["sensitivity"]["value"] == pytest.approx(sensitivity)
        assert points[label]["sensitivity"] >= 0.9
        mapped = Fitted.from_plain(points[label]).calibration
        assert mapped is not None
        brier = brier_score_loss(truth, mapped(scores))
        assert facts["calibrated_brier"]["value"] == pytest.approx(brier)
        assert facts["calibrated_brier"]["value"] < facts["brier"]["value"]


def test_subgroups_and_missed_disease(found: Judged) -> None:
    rows = found.facts["subgroups"]
    assert {row["dimension"] for row in rows} >= {"sex", "age", "view", "sex and view"}
    women = [record for record in TEST if record.sex == "F"]
    (row,) = [row for row in rows if (row["group"], row["label"]) == ("F", "mean")]
    assert row["images"] == len(women)
    (missed,) = [each for each in found.facts["underdiagnosis"] if each["group"] == "F"]
    assert 0 <= missed["interval"][0] <= missed["rate"] <= missed["interval"][1] <= 1
    sides = missed["images"], missed["false_alarms"]["images"]
    assert sum(sides) == len(women)
    assert 0 <= missed["false_alarms"]["rate"] <= 1


def test_what_the_terminal_shows(found: Judged, capsys: pytest.CaptureFixture[str]) -> None:
    show(*found.shown("phantom [beef]"))
    text = capsys.readouterr().out
    for subset in (
        "phantom [beef]",
        "of at least 0.9 on validation",
        "sex: F",
        "60 bootstrap draws",
    ):
        assert subset in text
    assert "Brier cal." in text
    few = f"of {len(found.thresholds)}"
    calls = found.facts["calls"]
    (alarms, normal), (missed, sick) = calls["false_alarms"], calls["missed"]
    assert f"{alarms} of {normal} images without any finding are called abnormal" in text
    assert f"{missed} of {sick} with one reach no label's point" in text
    assert normal + sick == len(TEST)
    assert " {}/{} \n".format(*calls["labels"]["Effusion"]["missed"]) in text
    assert re.search(r"note: .*Hernia.*: no operating point, fewer than 10 positives", text)
    brier, error = (
        found.facts["mean"][f"calibrated_{name}"]["value"] for name in ("brier", "error")
    )
    assert re.search(rf"mean .*{brier:.3f} {few} +{error:.3f} {few} *\n", text)
    show(*found.shown("phantom", groups=False))
    short = capsys.readouterr().out
    assert "have enough positives; mean AUROC differs" in short
    assert "sex and view: F AP" not in short.replace("differs from that of all other", "")


def test_where_no_label_can_be_calibrated(capsys: pytest.CaptureFixture[str]) -> None:
    config, _ = composed(["draws=20"])
    few = fitted(predictions(VAL[:12]), "cafe", config)
    show(
        *verdict_of(predictions(TEST), TEST, FACTS, validation=few, draws=20, groups=False).shown(
            ""
        )
    )
    text = capsys.readouterr().out
    assert " of 0" not in text, "a mean over no label is no figure"
    assert f"note: {', '.join(PHANTOM.labels)}: no operating point, fewer than 10" in text


def test_calibration_at_the_estimated_prior(found: Judged) -> None:
    """Half of the healthy images taken away: the prevalence rises, and the scores show it."""
    sick = [record for row, record in enumerate(TEST) if any(record.targets) or row % 2]
    table = predictions(sick, 1)
    validation = found.facts["validation"]
    moved, fixed = (
        verdict_of(table, sick, FACTS, validation=validation, draws=20, groups=False, prior=prior)
        for prior in ("estimate", "validation")
    )
    assert fixed.facts["priors"] == {}
    tests = moved.facts["prior_tests"]
    assert tests.keys() == found.thresholds.keys()
    assert moved.facts["priors"].keys() == {k for k, test in tests.items() if test["applied"]}
    for label, test in tests.items():  # what is applied never makes the known Brier worse
        reached = moved.facts["labels"][label]["calibrated_brier"]["value"]
        assert reached == pytest.approx(min(test["brier"], test["corrected"]))
    index = PHANTOM.labels.index("Infiltration")
    before, now = moved.facts["priors"]["Infiltration"]
    true = table.targets[:, index].mean()
    assert abs(now - true) < abs(before - true)
    mapped = Fitted.from_plain(validation["labels"]["Infiltration"]).calibration
    assert mapped is not None
    scores = shift_prior(mapped(table.scores[:, index]), before, now)
    expected = brier_score_loss(table.targets[:, index], scores)
    value = moved.facts["labels"]["Infiltration"]["calibrated_brier"]["value"]
    assert value == pytest.approx(expected)
    assert value < fixed.facts["labels"]["Infiltration"]["calibrated_brier"]["value"]


def test_without_validation_there_are_no_points() -> None:
    bare = verdict_of(predictions(TEST), TEST, FACTS, draws=20, groups=False)
    assert bare.thresholds == {}
    assert bare.facts["validation"] == {}
    assert bare.facts["subgroups"] == bare.facts["underdiagnosis"] == []
    assert bare.facts["labels"]["Mass"]["sensitivity"]["value"] is None
    assert "calibrated_brier" not in bare.facts["labels"]["Mass"]
    notes = [line for line in bare.shown("") if str(line).startswith("note: ")]
    undefined = [label for label, count in bare.verdict.positives.items() if not count]
    assert [note.split(":")[1].strip() for note in notes[: len(undefined)]] == undefined


def test_few_patients_and_exact_intervals_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 30 patients 4 have a Mass and 25 a Nodule; both are read without a mistake."""
    targets = np.zeros((60, 2), dtype=np.float32)
    targets[:8, 0] = targets[10:, 1] = 1
    images, patients = tuple(map(str, range(60))), tuple(str(i // 2) for i in range(60))
    table = Predictions(("Mass", "Nodule"), images, patients, targets, 0.2 + 0.6 * targets)
    records = [Record(i, p, (0.0, 0.0)) for i, p in zip(images, patients, strict=True)]
    judged = verdict_of(table, records, FACTS, draws=40)
    assert judged.facts["few_positive_patients"] == {"Mass": 4}
    assert judged.facts["labels"]["Mass"]["auroc"]["exact"]
    show(*judged.shown("", groups=False))
    text = capsys.readouterr().out
    assert "note: intervals are rough below 20 positive patients: Mass (4)\n" in text
    assert "0.398-1.000*" in text, "0.025 ** (1 / 4)"
    assert "note: * no patient differs: exact bound over the number of patients" in text
    assert "subgroups: none of" in text, "not: differs in none"


def test_published_rows_stand_below(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row for row in published() if row.split == "official"]
    show(*published_lines(rows, 0.8))
    text = capsys.readouterr().out
    assert "published, official split" in text
    assert "published results on the official test set are higher" in text
    assert f"{rows[0].work} *" in text or rows[0].primary
    show(*published_lines([replace(rows[0], primary=False)], 0.8))
    assert f"{rows[0].work} *" in capsys.readouterr().out
    assert published_lines([], 0.8) == []


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("operating_point.rule=best", "rule must be one of youden"),
        ("operating_point.value=1.5", r"value must lie in \(0, 1\], got 1.5"),
        ("calibration=sigmoid", "calibration must be one of temperature"),
        ("draws=0", "draws must be an integer of at least 1, got 0"),
    ],
)
def test_settings_are_refused_before_training(setting: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        require_settings(composed([setting])[0])
    require_settings(composed(["calibration=null"])[0])
