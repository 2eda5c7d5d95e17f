"""8 bits are kept where patients show that they cost little, and only there."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from xray_lightning import Phantom, Quantised, load_classifier, patient_split, quantise_checkpoint
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.deploy import export
from xray_lightning.errors import ConfigError
from xray_lightning.metrics.compare import compare_aurocs
from xray_lightning.models.network import XrayNet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> XrayDataModule:
    source, cache = Phantom(patients=60, size=64), tmp_path_factory.mktemp("cache")
    data = XrayDataModule(source, split=patient_split, image_size=32, cache_dir=cache)
    data.keep_labels(("Cardiomegaly", "Effusion"))
    return data


@pytest.fixture
def make(save, val, checkpoint_with_points, tmp_path):
    """A network with another order of labels than the data's, and one more."""

    def write(backbone: str):
        torch.manual_seed(0)
        net = XrayNet(("Effusion", "Mass", "Cardiomegaly"), backbone, image_size=32).eval()
        torch.nn.init.normal_(net.head.classifier.weight, std=3.0)  # scores that differ
        own = load_classifier(checkpoint_with_points).interpretation.operating_points
        return save(net, tmp_path / "best.ckpt", points=own.to_json())

    return write


@pytest.mark.parametrize(("backbone", "static"), [("test_resnet", True), ("test_vit", False)])
def test_what_is_kept(backbone, static, data, make, tmp_path) -> None:
    checkpoint, out = make(backbone), tmp_path / "m.onnx"
    done = quantise_checkpoint(checkpoint, out, data, margin=0.9, draws=200)
    test = data.subset_records("test")
    films = min(128, len(data.subset_records("train"))) if static else 0
    assert (done.kept, done.calibration_films, done.films) == (True, films, len(test))
    assert done.patients == len({record.patient_id for record in test})
    assert done.bytes == out.stat().st_size < done.float_bytes
    kinds = {node.op_type for node in onnx.load(out).graph.node}
    assert ("QuantizeLinear" in kinds, "DynamicQuantizeLinear" in kinds) == (static, not static)
    wanted = load_classifier(checkpoint, device="cpu")(list(map(data.source.read, test)))
    session = onnxruntime.InferenceSession(out)
    batches = wanted.squares[:16], wanted.squares[16:]  # dynamic ranges are those of a batch
    parts = [session.run(None, {"pixels": batch}) for batch in batches]
    scores, _, calls = map(np.concatenate, zip(*parts, strict=True))
    assert (
        0 < np.abs(scores - wanted.scores).max() == pytest.approx(done.largest_difference, abs=1e-5)
    )
    assert done.turned == np.mean((calls != wanted.calls)[:, 1])  # Mass alone has a point
    sides = [[side[:, [2, 0]]] for side in (wanted.scores, scores)]
    patients = [record.patient_id for record in test]
    exact = compare_aurocs(data.labels, data.subset_targets("test"), patients, *sides, draws=200)
    assert done.auroc.difference == pytest.approx(exact.mean.difference, abs=1e-6)
    assert f"{len(test)} images of {done.patients} patients; 0.9 is allowed: kept" in done.sentence
    facts = json.loads(session.get_modelmeta().custom_metadata_map["xray_lightning"])
    assert facts["labels"] == ["Effusion", "Mass", "Cardiomegaly"]
    assert Quantised.from_json(done.to_json()).to_json() == done.to_json()


def test_what_is_not_kept(data, make, tmp_path, monkeypatch) -> None:
    """Scores that lost their order: the interval reaches beyond the margin."""
    checkpoint, out, score = make("test_resnet"), tmp_path / "m.onnx", export._score
    turn = {"int8.onnx": -1}

    def spoil(path, *rest):
        return [each[:: turn.get(path.name, 1)] for each in score(path, *rest)]

    monkeypatch.setattr(export, "_score", spoil)
    out.write_text("of yesterday")
    done = quantise_checkpoint(checkpoint, out, data, draws=200)
    assert not done.kept
    assert "0.01 is allowed: not kept" in done.sentence
    assert out.read_text() == "of yesterday"
    assert {path.name for path in tmp_path.iterdir()} == {"best.ckpt", "m.onnx"}
    monkeypatch.setattr(data, "subset_records", lambda subset: [])
    with pytest.raises(ConfigError, match="leave out images=all"):
        quantise_checkpoint(checkpoint, out, data)
