"""Scores of a subset in table order, their summary, and what prior= does to calibrated ones."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, roc_auc_score
from toy import data_fixture, quiet_trainer, save_net, toy_net

import xray_lightning as xl
from xray_lightning.checkpoint import store_gate
from xray_lightning.cli.config import read_value
from xray_lightning.evaluation.model import Inspection
from xray_lightning.evaluation.predict import assemble_scores, measure_distances
from xray_lightning.evaluation.priors import correct_priors, require_prior
from xray_lightning.models.gate import fit_gate, run_to
from xray_lightning.report.finish import evaluate_checkpoint
from xray_lightning.report.page import say

data = data_fixture(20, batch_size=4, augment=xl.augment_light())


@pytest.fixture(scope="module")
def task(data: xl.XrayDataModule) -> xl.XrayTask:
    return xl.XrayTask(toy_net(data.labels, "test_vit", dropout=0.5))


@pytest.fixture
def trainer(tmp_path):
    return quiet_trainer(tmp_path)


def test_a_network_of_more_labels_is_scored_on_those_of_the_data(data, trainer) -> None:
    task = xl.XrayTask(toy_net(("Fracture", *reversed(data.labels), "Device"), "test_vit"))
    predictions = xl.predict_subset(trainer, task, data, "test")
    assert predictions.labels == data.labels
    (batch, *_) = data.test_dataloader()
    with torch.no_grad():
        scores = torch.sigmoid(task.net.eval()(batch["image"])).numpy()  # (B, 2 + L)
    expected = scores[:, 1:-1][:, ::-1]
    np.testing.assert_allclose(predictions.scores[: len(scores)], expected, rtol=1e-6)
    stranger = xl.XrayTask(toy_net(("Fracture",), "test_vit"))
    with pytest.raises(ValueError, match="not in"):
        xl.predict_subset(trainer, stranger, data, "test")


@torch.no_grad()
def test_distances_of_a_gate(data, task, trainer, tmp_path) -> None:
    """A subset's, batch by batch, as of all its images; they can say who goes to a person."""
    parts = [torch.stack([one["image"] for one in data.dataset(k)]) for k in ("train", "test")]
    gate = fit_gate(task.net.eval(), parts[0], parts[0])
    far = gate.check(run_to(task.net, gate.layer, parts[1]))[0]
    np.testing.assert_allclose(measure_distances(gate, task.net, data, "test"), far, rtol=1e-4)
    best = xl.load_checkpoint(save_net(task.net, tmp_path / "best.ckpt"))
    how, out = (data, {"test": data.split}), (tmp_path / "out", trainer)
    for name, said in (("gate", "best.ckpt has no gate"), ("gat", "certainty must be one of")):
        with pytest.raises(xl.ConfigError, match=said):
            evaluate_checkpoint(Inspection(best, *how), *out, certainty=name)
    store_gate(best.path, gate)
    gated = xl.load_checkpoint(best.path)
    opened = Inspection(gated, *how)
    (evaluation,) = evaluate_checkpoint(opened, *out, certainty="gate", draws=9)[1].values()
    assert evaluation.certainty == "gate"


@torch.no_grad()
@pytest.mark.parametrize("subset", ["val", "test"])
def test_every_image_once_in_table_order(subset: str, data, task, trainer) -> None:
    predictions = xl.predict_subset(trainer, task, data, subset)
    records = [data.records[row] for row in data.split.subsets[subset]]
    assert predictions.labels == data.labels
    assert predictions.image_ids == tuple(record.image_id for record in records)
    assert predictions.patient_ids == tuple(record.patient_id for record in records)
    np.testing.assert_array_equal(predictions.targets, [record.targets for record in records])
    images = torch.stack([data.dataset(subset)[row]["image"] for row in range(len(records))])
    expected = torch.sigmoid(task.net.eval()(images)).numpy()
    np.testing.assert_allclose(predictions.scores, expected, atol=1e-6)
    again = xl.predict_subset(trainer, task, data, subset)
    np.testing.assert_array_equal(again.scores, predictions.scores)


@torch.no_grad()
def test_mean_over_image_and_mirror_image(data, task, trainer) -> None:
    both = xl.XrayTask(task.net, tta="flip")
    predictions = xl.predict_subset(trainer, both, data, "val")
    images = np.stack([data.dataset("val")[row]["image"] for row in range(len(predictions.scores))])
    task.net.eval()
    plain, mirrored = (
        torch.sigmoid(task.net(torch.from_numpy(each.copy()))).numpy()
        for each in (images, images[..., ::-1])
    )
    np.testing.assert_allclose(predictions.scores, (plain + mirrored) / 2, atol=1e-6)
    assert np.abs(plain - mirrored).max() > 1e-4
    summary = xl.summarise(predictions, "", tta=both.tta)
    assert (summary["tta"], xl.summarise(predictions, "")["tta"]) == ("flip", "none")


@pytest.mark.parametrize("subset", ["train", "all"])
def test_other_parts(subset: str, data, task, trainer) -> None:
    with pytest.raises(xl.ConfigError, match=f"subset must be one of val, test, got '{subset}'"):
        xl.predict_subset(trainer, task, data, subset)


def test_shards_become_one_table() -> None:
    scores = np.arange(14, dtype=np.float32).reshape(7, 2)
    shards = [(list(range(rank, 7, 3)), scores[rank::3]) for rank in range(3)]
    np.testing.assert_array_equal(assemble_scores(shards, 7), scores)
    np.testing.assert_array_equal(assemble_scores(shards[::-1], 7), scores)


@pytest.mark.parametrize(
    ("positions", "rows"), [([0, 2], 2), ([0, 1, 1], 3), ([1, 2, 3], 3), ([0, 1, 2], 2)]
)
def test_an_image_that_is_not_scored_once(positions: list[int], rows: int) -> None:
    shards = [(positions, np.zeros((rows, 1), np.float32))]
    match = rf"each of 3 images must be scored once, got {rows} scores for {len(positions)} pos"
    with pytest.raises(ValueError, match=match):
        assemble_scores(shards, 3)


def test_summary(rng) -> None:
    targets = rng.integers(0, 2, (50, 4)).astype(np.float32)
    targets[::3, 0] = np.nan
    targets[:, 2] = 0
    targets[:, 3] = np.nan
    scores = rng.random((50, 4), dtype=np.float32)
    records = [xl.Record(str(n), str(n // 4), tuple(row)) for n, row in enumerate(targets.tolist())]
    predictions = xl.Predictions.of(records, "abcd", scores)
    summary = xl.summarise(predictions, "0123456789abcdef")
    known = ~np.isnan(targets[:, 0])
    pairs = (targets[known, 0], scores[known, 0]), (targets[:, 1], scores[:, 1])
    values = [roc_auc_score(*pair) for pair in pairs]
    aurocs = summary["auroc"]["labels"]
    assert [aurocs["a"], aurocs["b"]] == pytest.approx(values, abs=1e-6)
    assert aurocs["c"] is aurocs["d"] is None
    assert summary["auroc"]["mean"] == pytest.approx(np.mean(values), abs=1e-6)
    assert summary["auroc"]["defined"] == 2
    metrics = xl.evaluate(predictions, records, draws=2).metrics  # float64, of the ranking
    assert summary["auroc"]["mean"] == pytest.approx(metrics.mean["auroc"].value, abs=1e-6)
    positives = [int(np.nansum(column)) for column in targets.T]
    assert summary["positives"] == dict(zip("abcd", positives, strict=True))
    assert (summary["images"], summary["patients"]) == (50, 13)
    assert summary["fingerprint"] == "0123456789abcdef"
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


@pytest.mark.parametrize(("patients", "known"), [(("x", "y"), None), (("p", "p"), 1)])
def test_summary_of_nothing_defined(patients: tuple[str, str], known: int | None) -> None:
    """No AUROC of one class, no number of patients where each image counts as its own."""
    zeros = np.zeros((2, 1), np.float32)
    summary = xl.summarise(xl.Predictions(("a",), ("x", "y"), patients, zeros, zeros), "")
    assert summary["auroc"] == {"mean": None, "defined": 0, "labels": {"a": None}}
    assert summary["patients"] == known


def test_a_network_of_nan(data: xl.XrayDataModule, trainer) -> None:
    task = xl.XrayTask(toy_net(data.labels, "test_vit"))
    torch.nn.init.constant_(next(task.net.head.parameters()), torch.nan)
    first = data.subset_records("test")[0].image_id
    with pytest.raises(xl.CheckpointError, match=rf"no score \(NaN\) for .* the first is {first}"):
        xl.predict_subset(trainer, task, data, "test")


def test_some_labels_on_the_same_split(tmp_path) -> None:
    data = xl.XrayDataModule(xl.Phantom(patients=20, size=32), cache_dir=tmp_path)
    split, targets, boxes = data.split, data.targets, sum(len(r.boxes) for r in data.records)
    data.keep_labels(["Mass", "Edema"])
    columns = [xl.Phantom.labels.index(label) for label in ("Mass", "Edema")]
    assert data.labels == data.source.labels == ("Mass", "Edema")
    np.testing.assert_array_equal(data.targets, targets[:, columns])
    assert data.split is split
    assert {box.label for record in data.records for box in record.boxes} <= {"Mass", "Edema"}
    assert sum(len(record.boxes) for record in data.records) < boxes
    assert "Hernia" in data.source.notes[-1]


LABELS = ("Mass", "Nodule", "Hernia")


def predictions(shares: tuple[float, ...], seed: int, images: int = 4000) -> xl.Predictions:
    """Scores that are calibrated at a prevalence of 0.3, whatever the shares are."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((images, 3)) < shares).astype(np.float32)
    odds = 2 * rng.standard_normal((images, 3)) + 4 * (targets - 0.5)  # ratio: 2 x odds / 2
    scores = 1 / (1 + np.exp(-(odds + np.log(0.3 / 0.7))))
    ids = tuple(map(str, range(images)))
    return xl.Predictions(LABELS, ids, ids, targets, scores.astype(np.float32))


@pytest.fixture(scope="module")
def points() -> xl.OperatingPoints:
    """Mass and Nodule calibrated at 0.3; Hernia has too few positives."""
    return xl.fit_operating_points(predictions((0.3, 0.3, 0.001), 0), draws=2)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, word) for word in ("validation", "estimate", "force_estimate")),
        ("0.02", 0.02),
        ("{Mass: 0.05,Lung Opacity:0.2}", {"Mass": 0.05, "Lung Opacity": 0.2}),
    ],
)
def test_what_can_be_asked_for(text: str, value) -> None:
    assert require_prior(read_value("prior", text)) == require_prior(value) == value


@pytest.mark.parametrize(
    "text",
    ["often", "0", "1", "1.0", "-0.1", "true", "{}", "{Mass: often}", "[0.1]", "{Mass", "nan"],
)
def test_what_cannot(text: str) -> None:
    with pytest.raises(xl.ConfigError, match="prior"):
        require_prior(read_value("prior", text))


def test_pairs(points: xl.OperatingPoints) -> None:
    assert say("priors", {"Mass": (0.3, 0.05)})[0].endswith("prevalence: Mass 0.300 to 0.050")
    here = predictions((0.05, 0.6, 0.001), 1)
    before = {label: points.labels[label].prevalence for label in LABELS}
    assert correct_priors("validation", here, points)[0] == {}
    wanted = {label: (before[label], 0.1) for label in ("Mass", "Nodule")}
    assert correct_priors(0.1, here, points)[0] == wanted
    assert correct_priors({"Nodule": 0.2}, here, points)[0] == {"Nodule": (before["Nodule"], 0.2)}
    told = correct_priors("estimate", here, points)[0]
    for label, share in (("Mass", 0.05), ("Nodule", 0.6)):
        assert told[label][0] == before[label]
        assert told[label][1] == pytest.approx(share, abs=0.03)


def test_corrected_scores_mean_the_true_prevalence(points: xl.OperatingPoints) -> None:
    here = predictions((0.05, 0.6, 0.001), 2)
    for label, pair in correct_priors({"Mass": 0.05, "Nodule": 0.6}, here, points)[0].items():
        chosen = points.labels[label].calibration
        column = LABELS.index(label)
        mean = chosen.at_prior(*pair)(here.scores[:, column]).mean()
        assert mean == pytest.approx(here.targets[:, column].mean(), abs=0.02)
        assert abs(chosen(here.scores[:, column]).mean() - mean) > 0.05


def test_what_has_no_calibration(points: xl.OperatingPoints) -> None:
    here = predictions((0.3, 0.3, 0.001), 1, 20)
    labels = {k: replace(v, calibration=None) for k, v in points.labels.items()}
    for prior, own, match in (
        ({"Hernia": 0.01}, points, r"is there for Hernia \(fewer than 10 positives"),
        ("estimate", None, "prior=estimate corrects calibrated scores, and no calibration"),
        (0.1, replace(points, labels=labels), "is there for all: xray score fits one with points="),
        ({"Edema": 0.1}, points, "'Edema' is not a label here"),
    ):
        with pytest.raises(xl.ConfigError, match=match):
            correct_priors(prior, here, own)


def test_an_estimate_that_known_targets_refute_is_not_applied(points: xl.OperatingPoints) -> None:
    """Mass: the images changed, not the prevalence. Nodule: the prevalence alone did."""
    other = predictions((0.1, 0.05, 0.5), 1)
    scores = other.scores.copy()
    scores[:, 0] = 1 / (1 + np.exp(-(np.log(scores[:, 0] / (1 - scores[:, 0])) + 3)))
    moved = replace(other, scores=scores.astype(np.float32))
    pairs, tests = correct_priors("estimate", moved, points)
    assert list(pairs) == ["Nodule"]
    assert [test.applied for test in tests.values()] == [False, True]
    for column, label in enumerate(("Mass", "Nodule")):
        calibration, truth = points.labels[label].calibration, moved.targets[:, column]
        plain = calibration(scores[:, column].astype(np.float32))
        before, now = correct_priors("force_estimate", moved, points)[0][label]
        odds = plain / (1 - plain) * now / (1 - now) / before * (1 - before)  # eq. 4 as odds
        test = tests[label]
        assert test.brier == pytest.approx(brier_score_loss(truth, plain))
        assert test.corrected == pytest.approx(brier_score_loss(truth, odds / (1 + odds)))
        assert test.prevalence == pytest.approx(truth.mean())
    head, line = say("refuted_priors", tests)
    assert "NOT applied for 1 of 2 labels" in head
    assert head.startswith("warning: on the known targets the correction makes"), "no cause is told"
    assert f"Mass: prevalence {tests['Mass'].estimate:.3f} (known: 0.1" in line
    assert f"Brier {tests['Mass'].brier:.3f} to {tests['Mass'].corrected:.3f}" in line
    forced, tests = correct_priors("force_estimate", moved, points)
    assert forced == correct_priors("force_estimate", moved, points)[0]
    assert "applied all the same for 1 of 2" in say("refuted_priors", tests)[0]


def test_unknown_targets_refute_nothing(points: xl.OperatingPoints) -> None:
    blind = predictions((0.1, 0.05, 0.5), 1)
    blind = replace(blind, targets=np.full_like(blind.targets, np.nan))
    pairs, tests = correct_priors("estimate", blind, points)
    assert (pairs, tests) == (correct_priors("force_estimate", blind, points)[0], {})
    assert say("refuted_priors", tests) == []
