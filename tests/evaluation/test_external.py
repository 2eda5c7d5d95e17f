"""Two phantoms as two hospitals: models of the one on the other, and what both share."""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from toy import save_net, toy_data

import xray_lightning as xl
from xray_lightning.checkpoint import describe_model
from xray_lightning.evaluation.model import Model, score_images
from xray_lightning.metrics.estimates import estimate_metrics


@pytest.fixture(scope="module")
def scoring(folder: Path) -> xl.Scoring:
    trainer = xl.make_trainer(partial(pl.Trainer, accelerator="cpu"), folder, fit=False)
    (folder / "out").mkdir()
    return xl.Scoring(folder / "out", trainer, workers=0, cache_dir=folder / "cache")


class Hospital(xl.Source):
    """Smooth random pictures of 60 patients, one to three each; two labels, and a rare one."""

    labels, missing = ("Mass", "Edema", "Hernia"), ()

    def __init__(self, seed: int, patients: int = 60, name: str = "hospital") -> None:
        rng = np.random.default_rng(seed)
        self.name, self.population, self.seed, self.size = name, f"people-{seed}", seed, patients
        rows = [(p, k) for p in range(patients) for k in range(rng.integers(1, 4))]
        sick = rng.random((len(rows), 3)) < (0.45, 0.35 + 0.02 * seed, 0.02)
        self.records = tuple(
            xl.Record(f"{seed}-{p}-{k}.png", f"p{p:02}", tuple(map(float, row)))
            for (p, k), row in zip(rows, sick, strict=True)
        )

    def read(self, record: xl.Record):
        rng = np.random.default_rng(list(map(int, record.image_id[:-4].strip("x").split("-"))))
        rough = rng.random((6, 6)).astype(np.float32) * 200 + 20 + 20 * record.targets[0]
        return cv2.resize(rough, (64, 64), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype("u1")

    def identity(self):
        return {"hospital": self.seed, "patients": self.size}


hospital = cache(Hospital)


def open_hospital(folder: Path) -> xl.XrayDataModule:
    halves = partial(xl.patient_split, fractions=(0.4, 0.2, 0.4))
    return toy_data(folder / "cache", hospital(0), split=halves, batch_size=64, workers=0)


@pytest.fixture(scope="module")
def checkpoint(folder: Path, scoring: xl.Scoring):
    """Of a network that never learned, with operating points; its own data is hospital 0."""
    return make_checkpoint(folder, scoring, "model", 0)


def make_checkpoint(folder: Path, scoring: xl.Scoring, name: str, seed: int):
    data = open_hospital(folder)
    torch.manual_seed(seed)
    net = xl.XrayNet(data.labels, "resnet18", image_size=32, weights="none").eval()
    val = xl.predict_subset(scoring.trainer, xl.XrayTask(net), data, "val")
    points = xl.fit_operating_points(val, draws=20)
    description = replace(describe_model(net, data), operating_points=points.to_json())
    return xl.load_checkpoint(save_net(net, folder / f"{name}.ckpt", description.to_plain()))


def validate(checkpoints, sources, scoring, **options):
    return xl.validate_externally(checkpoints, sources, scoring, draws=60, **options)


@pytest.fixture(scope="module")
def result(folder: Path, checkpoint, scoring: xl.Scoring) -> xl.ExternalValidation:
    pair = [checkpoint, make_checkpoint(folder, scoring, "other", 1)]
    sources: dict[str, xl.Source] = {"near": hospital(0), "far": hospital(7)}
    return validate(pair, sources, scoring, open_data=lambda _: open_hospital(folder))


def test_rows_and_columns(result: xl.ExternalValidation) -> None:
    assert [f"{c.model} on {c.data}" for c in result.cells] == ["model on far", "other on far"]
    assert result.cell("model", "near") is None  # its own: the internal test stands there
    assert {row.trained_on for row in result.models} == {"hospital"}
    assert all(0 < row.mean.low < row.mean.value < row.mean.high < 1 for row in result.models)
    assert xl.ExternalValidation.from_json(result.to_json()).to_json() == result.to_json()


def test_another_hospital_of_the_same_names_is_not_its_own(checkpoint, scoring, folder) -> None:
    """Image and patient ids repeat (CSV tables that number theirs), the targets do not."""
    twin = Hospital(0)
    twin.records = tuple(replace(r, targets=r.targets[::-1]) for r in twin.records)
    twin.population, twin.size = "", -60  # other pixels, so another cache
    sources: dict[str, xl.Source] = {"twin": twin}
    both = validate([checkpoint], sources, scoring, open_data=lambda _: open_hospital(folder))
    (cell,) = both.cells
    assert (cell.title, cell.recognised) == ("twin", "pixels")


def test_figures_are_those_of_evaluation(result: xl.ExternalValidation) -> None:
    cell = result.cells[0]
    scored = xl.read_predictions(Path(cell.scores))
    names = [name for name, row in cell.labels.items() if not row.note]
    kept = scored.keep(names)
    metrics = estimate_metrics(names, kept.scores, kept.targets, kept.patient_ids, draws=60)
    assert cell.images == len(scored.image_ids) == len(hospital(7).records)
    for name in names:
        row, own = cell.labels[name], metrics.labels[name]
        assert (row.positives, row.prevalence) == (own.positives, own.prevalence)
        assert row.auroc.value == own["auroc"].value
        assert row.difference.value == pytest.approx(row.auroc.value - row.internal.value)
        assert row.calibration is not None
        assert row.difference.low < row.difference.value < row.difference.high
    assert cell.mean.auroc.value == metrics.mean["auroc"].value
    assert cell.mean.note == f"{len(names)} labels"
    hernia = cell.labels["Hernia"]
    assert "too few patients with it: " in hernia.note
    assert np.isnan(hernia.auroc.value)


def test_nothing_is_scored_twice(checkpoint, scoring, result, folder) -> None:
    path = Path(result.cells[0].scores)
    before = path.stat().st_mtime_ns
    silent = replace(scoring, trainer=None)  # which cannot score
    far = {"far": hospital(7)}
    again = validate([checkpoint], far, silent, open_data=lambda _: open_hospital(folder))
    assert again.cells[0].to_json() == result.cells[0].to_json()
    assert path.stat().st_mtime_ns == before
    for spoil in (lambda: hospital(8), lambda: hospital(7, patients=50)):
        with pytest.raises(AttributeError):  # other pixels, other images: it would have to score
            validate([checkpoint], {"far": spoil()}, silent)
    path.write_text(path.read_text().replace("0.", "0.1", 1))
    with pytest.raises(AttributeError):
        validate([checkpoint], {"far": hospital(7)}, silent)


class Mixed(Hospital):
    """Some patients of hospital 0 among those of hospital 7, all images under other names."""

    def __init__(self, population: str, count: int = 20) -> None:
        own, other = hospital(0).records, hospital(7).records
        taken = [record for record in own if record.patient_id < f"p{count:02}"]
        taken += [replace(record, patient_id=f"o{record.patient_id}") for record in other]
        self.records = tuple(replace(r, image_id=f"x{r.image_id}") for r in taken)
        self.name, self.population, self.seed, self.size = "mixed", population, population, count


@pytest.mark.parametrize(("population", "how"), [("people-0", "patients"), ("", "pixels")])
def test_whom_it_learned_from_is_left_out(population, how, checkpoint, scoring, folder) -> None:
    source = Mixed(population)
    own = open_hospital(folder)
    learned = {r.patient_id for subset in ("train", "val") for r in own.subset_records(subset)}
    tested = {r.patient_id for r in own.subset_records("test")}
    gone = [r.patient_id for r in source.records if r.patient_id in learned]
    (cell,) = validate([checkpoint], {"mixed": source}, scoring, open_data=lambda _: own).cells
    assert (cell.recognised, cell.left_out) == (how, len(gone))
    assert cell.patients_left_out == len(set(gone))
    nameless = replace(cell, patients_left_out=None)
    assert f"{len(gone)} images it learned from are left out" in nameless.overlap
    assert cell.tested_inside == len(tested & {r.patient_id for r in source.records})
    assert f"{len(gone)} images of {len(set(gone))} patients it learned from" in cell.overlap
    assert not set(xl.read_predictions(Path(cell.scores)).patient_ids) & learned
    assert cell.images + cell.left_out == len(source.records)


def test_without_its_own_data(checkpoint, scoring: xl.Scoring) -> None:
    refuse = Mock(side_effect=xl.DataNotFoundError("/gone does not exist"))
    result = validate([checkpoint], {"far": hospital(7)}, scoring, open_data=refuse)
    cell, row = result.cells[0], result.models[0]
    assert cell.recognised == ""
    assert "could not be known" in cell.overlap
    assert cell.mean.auroc.low < cell.mean.auroc.value
    assert np.isnan(cell.mean.difference.value)
    why = "; whether it differs from the internal test is not known: "
    assert cell.verdict.endswith(why + "no internal test set")
    alone = replace(cell.mean, difference=xl.Estimate(-0.487))  # one side is separated perfectly
    assert replace(cell, mean=alone).verdict.endswith(why + "-0.487, no interval")
    assert replace(cell, labels={}).verdict.endswith("or without a label there")
    assert [n[:16] for n in row.notes] == ["its own data is ", "no internal test"]
    known = [row for row in cell.labels.values() if not np.isnan(row.auroc.value)]
    assert {row.note for row in known} == {"internal: no internal test set"}


def test_errors(checkpoint, scoring: xl.Scoring, folder: Path) -> None:
    strange, everybody = Hospital(7), Mixed("people-0", count=60)
    strange.labels = ("x", "y", "z")
    learned = {r.patient_id for r in open_hospital(folder).subset_records("train")}
    everybody.records = tuple(r for r in everybody.records if r.patient_id in learned)
    for models, sources, match in (
        (1, {}, "one test set"),
        (2, {"far": hospital(7)}, "same weights: model, model"),
        (1, {"far": strange}, "tells none of the labels of model"),
        (1, {"all": everybody}, "learned from the patients of all"),
    ):
        with pytest.raises(xl.ConfigError, match=match):
            validate([checkpoint] * models, sources, scoring)


def test_scores_are_the_networks(checkpoint, scoring: xl.Scoring) -> None:
    source, model = hospital(9, patients=12), Model(checkpoint)
    how = {"workers": scoring.workers, "cache_dir": scoring.cache_dir}
    data = xl.XrayDataModule(source, **checkpoint.description.preprocessing, **how)
    _, found = score_images(model, "nine", data, scoring, np.arange(5))
    with torch.no_grad():
        task = xl.XrayTask(checkpoint.build_net())
        scores = task(next(iter(data.evaluation_loader("test")))["image"]).sigmoid().numpy()
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
