"""Operating points of validation, applied to test: the evaluation, its JSON and its tables."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score, brier_score_loss, recall_score, roc_auc_score
from toy import data_fixture, toy_net

import xray_lightning as xray
from xray_lightning import Phantom, fit_operating_points
from xray_lightning.audit.shortcuts import probe_hospitals
from xray_lightning.data.partition import fingerprint
from xray_lightning.errors import ConfigError, DataError
from xray_lightning.evaluation.evaluate import Evaluation, evaluate, find_doubts, select_by
from xray_lightning.evaluation.predictions import Origin, Predictions, SplitName
from xray_lightning.evaluation.published import read_published
from xray_lightning.metrics.bootstrap import PatientBootstrap, number_patients
from xray_lightning.metrics.calibration import shift_prior
from xray_lightning.metrics.decisions import ALL_LABELS, SENSITIVITIES, fit_set, measure_selection
from xray_lightning.metrics.intervals import Estimate
from xray_lightning.records import Record, target_matrix
from xray_lightning.report.evaluation_table import evaluation_lines
from xray_lightning.report.page import say
from xray_lightning.report.terminal import show, tabulate

PHANTOM = Phantom(patients=150)
HALF = len(PHANTOM.records) // 2
VAL, TEST = PHANTOM.records[:HALF], PHANTOM.records[HALF:]
ORIGIN = Origin("phantom", 2 * HALF, SplitName("patient", "beef"), "test", tta="none")


def predictions(records: list[Record], seed: int = 0) -> Predictions:
    """Scores that know a good deal about the truth."""
    targets = target_matrix(records)
    scores = 0.5 * np.random.default_rng(seed).random(targets.shape) + 0.4 * targets
    return Predictions.of(records, PHANTOM.labels, scores.astype(np.float32))


POINTS = fit_operating_points(predictions(VAL), rule="sensitivity", draws=60)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate(predictions(TEST, 1), TEST, ORIGIN, operating_points=POINTS, draws=60)


def quick(records: list[Record] = TEST, seed: int = 0, **settings) -> Evaluation:
    return evaluate(predictions(records, seed), records, ORIGIN, draws=20, **settings)


def test_another_certainty(evaluation: Evaluation) -> None:
    """Images go to a person in its order; nothing else changes."""
    sure = np.random.default_rng(2).random(len(TEST))
    scored = predictions(TEST, 1)
    told = select_by(evaluation, scored, "gate", sure)
    bootstrap = PatientBootstrap(scored.patient_ids, 60)
    wanted = sorted({*SENSITIVITIES, POINTS.value})
    for label, curve in told.selective.items():
        column = scored.labels.index(label)
        called = scored.scores[:, column] >= POINTS.thresholds[label]
        own = measure_selection(bootstrap, sure, called, scored.targets[:, column], wanted)
        assert curve.to_json() == own.to_json()
    assert (told.certainty, evaluation.certainty) == ("gate", "margin")
    first, second = evaluation.to_json(), told.to_json()
    assert {k for k in first if first[k] != second[k]} == {"selective", "certainty"}


def test_there_and_back(evaluation: Evaluation) -> None:
    values = evaluation.to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert repr(Evaluation.from_json(values)) == repr(evaluation)  # NaN is not equal to itself
    older = {k: v for k, v in values.items() if k != "operating_points"}
    assert Evaluation.from_json(older).to_json() == values
    bare = quick(subgroups=False)
    assert repr(Evaluation.from_json(bare.to_json())) == repr(bare)


def test_the_json_says_what_was_evaluated(evaluation: Evaluation) -> None:
    values = evaluation.to_json()
    assert values.items() >= ORIGIN.to_json().items()
    assert values["split"] == {"name": "patient", "fingerprint": "beef"}
    assert values["images"] == len(TEST)
    assert values["patients"] == len({record.patient_id for record in TEST})
    assert values["fingerprint"] == fingerprint({"test": [r.image_id for r in TEST]})
    assert values["validation"] == values["operating_points"] == POINTS.to_json()
    assert values["validation"]["fingerprint"] == fingerprint({"val": [r.image_id for r in VAL]})
    assert values["validation"]["part"] == values["validation"]["subset"] == "val"
    mass = values["labels"]["Mass"]
    assert mass["auroc"]["interval"] == mass["auroc"]["patient_interval"]
    assert mass["prevalence"] == mass["positives"] / mass["known"]


def test_points_of_validation_are_applied_to_test(evaluation: Evaluation) -> None:
    table = predictions(TEST, 1)
    assert 0 < len(POINTS.thresholds) < len(PHANTOM.labels)
    for index, (label, point) in enumerate(POINTS.labels.items()):
        metrics = evaluation.metrics.labels[label]
        if np.isnan(point.threshold):
            assert np.isnan([metrics["sensitivity"].value, metrics["calibrated_brier"].value]).all()
            assert "fewer than 10 positives" in point.note
            continue
        truth, scores = table.targets[:, index], table.scores[:, index]
        sensitivity = recall_score(truth, scores >= point.threshold)
        assert metrics["sensitivity"].value == pytest.approx(sensitivity)
        assert point.sensitivity >= 0.9
        brier = brier_score_loss(truth, point.calibration(scores))
        assert metrics["calibrated_brier"].value == pytest.approx(brier)
        assert brier < metrics["brier"].value


def test_conformal_sets_of_validation_are_applied_to_test(evaluation: Evaluation) -> None:
    val, table, limits = predictions(VAL), predictions(TEST, 1), POINTS.conformal
    patients = number_patients(val.patient_ids)
    assert limits[ALL_LABELS] == fit_set(val.scores, val.targets, patients, 1 - POINTS.value) > 0
    assert evaluation.conformal.keys() == {name for name, limit in limits.items() if limit > 0}
    out = pd.DataFrame(table.scores < limits[ALL_LABELS]).astype(float).where(table.targets == 1)
    women = np.array([record.sex == "F" for record in TEST])
    lost = out[women].mean(axis=1).groupby(np.array(table.patient_ids)[women]).mean().mean()
    assert evaluation.conformal[ALL_LABELS]["sex F"].value == pytest.approx(lost)
    fewer = table.keep(table.labels[:6])
    some = evaluate(fewer, TEST, ORIGIN, operating_points=POINTS, draws=20, subgroups=False)
    assert some.conformal.keys() == evaluation.conformal.keys() & {*fewer.labels}


def test_rare_labels_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """Macro average precision by frequency in training, against scikit-learn."""
    learned, table = np.full((200, 14), np.nan), predictions(TEST)
    for label, positives in {0: 0, 2: 2, 3: 3, 4: 20, 6: 21, 7: 90}.items():
        learned[:, label] = np.arange(200) < positives
    result = quick(learned=learned)
    bands = {"tail (below 1 %)": [0, 2], "medium (1 to 10 %)": [3, 4], "head (above 10 %)": [6, 7]}
    assert result.metrics.groups.keys() == bands.keys()
    for columns, group in ((bands[name], group) for name, group in result.metrics.groups.items()):
        assert group.labels == [table.labels[i] for i in columns]
        pairs = [(table.targets[:, i], table.scores[:, i]) for i in columns]
        wanted = np.mean([average_precision_score(*pair) for pair in pairs])
        assert group.average_precision.value == pytest.approx(wanted)
    show(*evaluation_lines(result, "phantom"))
    assert "tail (below 1 %)" in capsys.readouterr().out


def test_subgroups_and_missed_disease(evaluation: Evaluation) -> None:
    rows = evaluation.subgroups
    assert {row.dimension for row in rows} >= {"sex", "age", "view", "sex and view"}
    women = sum(record.sex == "F" for record in TEST)
    (row,) = [row for row in rows if (row.group, row.label) == ("F", "mean")]
    (missed,) = [row for row in evaluation.underdiagnosis if row.group == "F"]
    assert missed.images + missed.false_alarms.images == row.images == women


def test_the_terminal(evaluation: Evaluation, capsys: pytest.CaptureFixture[str]) -> None:
    show(*evaluation_lines(evaluation, "phantom [beef]"))
    text = capsys.readouterr().out
    for words in ("phantom [beef]", "of at least 0.9 on validation", "60 bootstrap draws"):
        assert words in text
    calls = evaluation.calls
    (alarms, normal), (missed, sick) = calls.false_alarms, calls.missed
    assert f"{alarms} of {normal} images without any finding are called abnormal" in text
    assert f"{missed} of {sick} with one reach no label's point" in text
    assert normal + sick == len(TEST)
    assert "{}/{}".format(*calls.labels["Effusion"].missed) in text
    assert re.search(r"note: .*Hernia.*: no operating point, fewer than 10 positives", text)
    mean, few = evaluation.metrics.mean, f"of {len(POINTS.thresholds)}"
    errors = [mean[f"calibrated_{name}"].value for name in ("brier", "error")]
    assert re.search(rf"mean .*{errors[0]:.3f} {few} .*{errors[1]:.3f} {few}", text)
    show(*evaluation_lines(evaluation, "phantom", subgroups=False))
    short = capsys.readouterr().out
    assert "have enough positives; mean AUROC is shown to differ" in short
    assert "images of the patient" in text
    assert "images of the patient" not in short.replace("images of the patient:", "")


def test_tables_fit_80_columns(evaluation: Evaluation, at_80_columns) -> None:
    text = at_80_columns([*evaluation_lines(evaluation, "")])
    for words in ("Pleural_Thickening", "Infiltration", "prevalence", "specificity", "missed"):
        assert words in text, "no word is broken"


def test_where_no_label_can_be_calibrated(capsys: pytest.CaptureFixture[str]) -> None:
    few = fit_operating_points(predictions(VAL[:12]), draws=20)
    show(*evaluation_lines(quick(operating_points=few, subgroups=False), ""))
    text = capsys.readouterr().out
    assert " of 0" not in text, "a mean over no label is not a number"
    assert f"note: {', '.join(PHANTOM.labels)}: no operating point, fewer than 10" in text


def test_calibration_at_the_estimated_prior() -> None:
    """Half of the healthy images taken away: the prevalence rises, and the scores show it."""
    sick = [record for row, record in enumerate(TEST) if any(record.targets) or row % 2]
    table = predictions(sick, 1)
    how, priors = {"operating_points": POINTS, "subgroups": False}, ("estimate", "validation")
    moved, fixed = (quick(sick, 1, **how, prior=prior) for prior in priors)
    assert (fixed.priors, moved.prior_tests.keys()) == ({}, POINTS.thresholds.keys())
    assert moved.priors.keys() == {k for k, test in moved.prior_tests.items() if test.applied}
    for label, test in moved.prior_tests.items():  # what is applied never makes Brier's score worse
        reached = moved.metrics.labels[label]["calibrated_brier"].value
        assert reached == pytest.approx(min(test.brier, test.corrected))
    index = PHANTOM.labels.index("Infiltration")
    before, now = moved.priors["Infiltration"]
    true = table.targets[:, index].mean()
    assert abs(now - true) < abs(before - true)
    calibration = POINTS.labels["Infiltration"].calibration
    scores = shift_prior(calibration(table.scores[:, index]), before, now)
    value = moved.metrics.labels["Infiltration"]["calibrated_brier"].value
    assert value == pytest.approx(brier_score_loss(table.targets[:, index], scores))
    assert value < fixed.metrics.labels["Infiltration"]["calibrated_brier"].value


def test_without_operating_points() -> None:
    bare = quick(subgroups=False)
    values = bare.to_json()
    assert values["validation"] == values["operating_points"] == {}
    assert bare.subgroups == bare.underdiagnosis == []
    assert bare.calls is None
    assert np.isnan(bare.metrics.labels["Mass"]["sensitivity"].value)
    assert "calibrated_brier" not in values["labels"]["Mass"]
    notes = [line for line in evaluation_lines(bare, "") if str(line).startswith("note: ")]
    undefined = [k for k, label in bare.metrics.labels.items() if not label.positives]
    assert [str(note).split(":")[1].strip() for note in notes[: len(undefined)]] == undefined


def test_few_patients_and_exact_intervals_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 30 patients 4 have a Mass and 25 a Nodule; both are read without a mistake."""
    targets = np.zeros((60, 2), dtype=np.float32)
    targets[:8, 0] = targets[10:, 1] = 1
    records = [Record(str(i), str(i // 2), tuple(row)) for i, row in enumerate(targets.tolist())]
    table = Predictions.of(records, ("Mass", "Nodule"), 0.2 + 0.6 * targets)
    evaluation = evaluate(table, records, draws=40)
    assert evaluation.to_json()["few_positive_patients"] == {"Mass": 4}
    show(*evaluation_lines(evaluation, "", subgroups=False))
    text = capsys.readouterr().out
    assert "note: intervals are rough below 20 positive patients: Mass (4)\n" in text
    assert "0.398-1.000*" in text, "exact: 0.025 ** (1 / 4)"
    assert "note: * no patient differs: exact bound over the number of patients" in text
    assert "subgroups: none of" in text, "not: differs in none"


def test_published_rows_stand_below(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row for row in read_published() if row.split == "official"]
    first, second = replace(rows[0], primary=True), replace(rows[1], primary=False)
    show(tabulate("published", [first, second]), *say("place", 0.8, [first, second]))
    text = capsys.readouterr().out
    assert "published results on the official test set are higher" in text
    assert f"{second.work} *" in text
    assert f"{first.work} *" not in text


def test_nobody_doubts_what_nobody_knows_or_reads_records_of_other_images() -> None:
    made = predictions(TEST)
    with pytest.raises(ConfigError, match="none can be doubted"):
        find_doubts(replace(made, targets=made.targets * np.nan), 9, {})
    with pytest.raises(DataError, match=r"must be those of the .* images of .*, in their order"):
        evaluate(made, TEST[::-1], draws=2)


def scored(hospitals: list[str]) -> tuple[xray.Predictions, list[xray.Record]]:
    """100 images of as many patients; the second label is told by the first hospital alone."""
    generator = np.random.default_rng(0)
    place = np.array(hospitals)
    chance = np.where(place == "here", 0.2, 0.8)[:, None]
    targets = (generator.random((len(place), 2)) < chance).astype(np.float32)
    targets[place != place[0], 1] = np.nan
    scores = generator.random((len(place), 2)).astype(np.float32)
    records = [
        xray.Record(f"{name}/{k}", f"{name}/p{k}", tuple(row), hospital=name)
        for k, (name, row) in enumerate(zip(hospitals, targets.tolist(), strict=True))
    ]
    return xray.Predictions.of(records, ("A", "B"), scores), records


def test_the_hospital_alone_and_each_hospital(capsys: pytest.CaptureFixture[str]) -> None:
    predictions, records = scored(["here"] * 50 + ["there"] * 50)
    told = {"here": Estimate(0.9, 0.8, 0.95)}
    evaluation = xray.evaluate(predictions, records, draws=50, hospital_probe=told)
    pooled = evaluation.pooled
    assert pooled.hospital_alone.keys() == {"A"}  # B is told by one
    hospital = np.array([record.hospital == "there" for record in records])
    order = np.unique(predictions.patient_ids, return_inverse=True)[1]
    half = np.random.default_rng(0).permutation(100)[order] % 2 == 0  # learns from the other
    sides = [(predictions.targets[own, 0], hospital[own]) for own in (half, ~half)]
    expected = np.mean([roc_auc_score(*side) for side in sides])
    assert pooled.hospital_alone["A"].value == pytest.approx(expected)
    rows = {(r.group, r.label): r for r in evaluation.subgroups if r.dimension == "hospital"}
    inside = roc_auc_score(predictions.targets[hospital, 0], predictions.scores[hospital, 0])
    assert rows["there", "A"].auroc == pytest.approx(inside)
    assert rows["there", "B"].note
    again = xray.Evaluation.from_json(evaluation.to_json())
    assert again.pooled.hospital_alone["A"].value == pytest.approx(expected)
    table, *lines = [each for each in evaluation_lines(evaluation, "t") if each][1:4]
    assert [c.header for c in table.columns] == ["label", "pooled", "alone", "here", "there"]
    assert "0.900 (0.800-0.950)" in lines[1]
    sentences = say("pooling", evaluation.to_json()["pooled"])
    assert f"A ({expected:.3f})" in sentences[0]
    assert "here (0.900)" in sentences[1]
    assert xray.evaluate(*scored(["here"] * 40), draws=20).pooled is None, "one hospital"


# Every film of the second hospital shows the marker's plate beside Mass.
HOSPITALS = {"plain": Phantom(40, size=32), "marked": Phantom(20, size=32, seed=1)}
BOTH = xray.Several(HOSPITALS, labels=["Mass", "Edema"])
pair = data_fixture(BOTH, sampler=xray.hospital_balanced_sampler)


def test_the_sampler_balances_hospitals(pair: xray.XrayDataModule) -> None:
    records = pair.subset_records("train")
    order = pair._plan()(np.random.default_rng(0))
    drawn = np.array([record.hospital for record in records])[order]
    assert len(order) == len(records)
    assert abs((drawn == "plain").sum() - (drawn == "marked").sum()) <= 1
    small = [row for row in range(len(records)) if records[row].hospital == "marked"]
    times = np.bincount(order, minlength=len(records))[small]
    assert times.max() - times.min() <= 1
    alone = np.zeros((2, 1)), "ab", np.random.default_rng(0)
    with pytest.raises(DataError, match="here is one"):
        xray.hospital_balanced_sampler(*alone, hospitals="xx")


def test_the_probe_tells_hospitals(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    net = toy_net(pair.labels, "mobilenetv2_050")
    (name, told), = probe_hospitals(net, pair, "train", draws=50).items()  # fmt: skip
    assert name == "marked"
    assert told.low < told.value < told.high

    def bright(_: xray.XrayNet, images: torch.Tensor) -> np.ndarray:
        names = [record.hospital for record in pair.subset_records("train")]
        return np.array([[float(name == "plain")] for name in names])[: len(images)]

    monkeypatch.setattr("xray_lightning.audit.shortcuts.pool_features", bright)
    assert probe_hospitals(net, pair, "train", draws=20)["marked"].value == 1
    assert probe_hospitals(torch.nn.Flatten(), pair, "train") == {}
