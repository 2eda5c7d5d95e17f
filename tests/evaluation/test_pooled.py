"""Scores of several hospitals together: what is won by telling them apart."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import xray_lightning as xray
from xray_lightning.audit.shortcuts import probe_hospitals
from xray_lightning.errors import DataError
from xray_lightning.metrics.intervals import Estimate
from xray_lightning.report.evaluation_table import evaluation_lines
from xray_lightning.report.page import say

NAN = np.nan


def scored(hospitals: list[str]) -> tuple[xray.Predictions, list[xray.Record]]:
    """100 images of as many patients; the second label is told by the first hospital alone."""
    generator = np.random.default_rng(0)
    place = np.array(hospitals)
    chance = np.where(place == "here", 0.2, 0.8)[:, None]
    targets = (generator.random((len(place), 2)) < chance).astype(np.float32)
    targets[place != place[0], 1] = NAN
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
    expected = roc_auc_score(predictions.targets[:, 0], hospital)
    assert pooled.hospital_alone["A"].value == pytest.approx(expected)
    rows = {
        (row.group, row.label): row for row in evaluation.subgroups if row.dimension == "hospital"
    }
    inside = roc_auc_score(predictions.targets[hospital, 0], predictions.scores[hospital, 0])
    assert rows["there", "A"].auroc == pytest.approx(inside)
    assert rows["there", "B"].note
    again = xray.Evaluation.from_json(evaluation.to_json())
    assert again.pooled.hospital_alone["A"].value == pytest.approx(expected)
    table, *lines = [each for each in evaluation_lines(evaluation, "t") if each][1:4]
    headers = [column.header for column in table.columns]
    assert headers == ["label", "pooled", "alone", "here", "there"]
    assert "0.900 (0.800-0.950)" in lines[1]
    sentences = say("pooling", evaluation.to_json()["pooled"])
    assert f"A ({expected:.3f})" in sentences[0]
    assert "here (0.900)" in sentences[1]


def test_one_hospital_is_not_pooled() -> None:
    predictions, records = scored(["here"] * 40)
    evaluation = xray.evaluate(predictions, records, draws=20)
    assert evaluation.pooled is None


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> xray.XrayDataModule:
    """Two hospitals; every film of the second shows the marker's plate beside Mass."""
    plain, marked = xray.Phantom(patients=40, size=32), xray.Phantom(patients=20, size=32, seed=1)
    both = xray.Several({"plain": plain, "marked": marked}, labels=["Mass", "Edema"])
    settings = {"sampler": xray.hospital_balanced_sampler, "image_size": 32, "batch_size": 8}
    return xray.XrayDataModule(
        both, cache_dir=tmp_path_factory.mktemp("cache"), workers=0, **settings
    )


def test_the_sampler_balances_hospitals(pair: xray.XrayDataModule) -> None:
    records = pair.subset_records("train")
    order = pair._plan()(np.random.default_rng(0))
    drawn = np.array([record.hospital for record in records])[order]
    assert len(order) == len(records)
    assert abs((drawn == "plain").sum() - (drawn == "marked").sum()) <= 1
    small = [row for row in range(len(records)) if records[row].hospital == "marked"]
    times = np.bincount(order, minlength=len(records))[small]
    assert times.max() - times.min() <= 1
    with pytest.raises(DataError, match="here is one"):
        xray.hospital_balanced_sampler(
            np.zeros((2, 1)), "ab", np.random.default_rng(0), hospitals="xx"
        )


def test_the_probe_tells_hospitals(
    pair: xray.XrayDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net = xray.XrayNet(pair.labels, backbone="mobilenetv2_050", weights="none", image_size=32)
    (name, told), = probe_hospitals(net, pair, "train", draws=50).items()  # fmt: skip
    assert name == "marked"
    assert told.low < told.value < told.high

    def bright(_: xray.XrayNet, images: torch.Tensor) -> np.ndarray:
        names = [record.hospital for record in pair.subset_records("train")]
        return np.array([[float(name == "plain")] for name in names])[: len(images)]

    monkeypatch.setattr("xray_lightning.audit.shortcuts.pool_features", bright)
    assert probe_hospitals(net, pair, "train", draws=20)["marked"].value == 1
    assert probe_hospitals(torch.nn.Flatten(), pair, "train") == {}
