"""An exported file gives the checkpoint's scores, probabilities and calls, without this package.

8 bits are kept where patients show that they cost little, and only there.
"""

import json
import os
import subprocess
import sys
import venv
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from running import xray
from safetensors.torch import save_file
from toy import MODELS, save_net, toy_data, toy_net

import xray_lightning as xl
from xray_lightning.cli.config import compose_settings
from xray_lightning.deploy import export
from xray_lightning.metrics.calibration import METHODS, fit_calibration
from xray_lightning.metrics.compare import compare_aurocs
from xray_lightning.models.heads import HEADS

LABELS = ("Mass", "Nodule", "Effusion")
README = Path(export.__file__).with_name("README.md")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):  # bright and dim ones: some are called
        pixels = rng.integers(0, 256, (32, 32), dtype=np.uint8) // (1 + number % 2)
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture(scope="module")
def exported(checkpoint_with_points: Path, films: list[Path], tmp_path_factory):
    own, place = checkpoint_with_points, tmp_path_factory.mktemp("exported")
    files = {f: place / f"model.{f}" for f in ("onnx", "pt2")}
    done = {f: xl.export_checkpoint(own, path, f, films=films) for f, path in files.items()}
    return {**done, "checkpoint": own}


def run(path: Path, pixels: np.ndarray) -> list[np.ndarray]:
    """Scores, probabilities and calls of an exported file, by other code than its check's."""
    if path.suffix == ".pt2":
        outputs = torch.export.load(path).module()(torch.from_numpy(pixels))
        return [output.detach().numpy() for output in outputs]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: pixels})


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_scores_probabilities_and_calls(format, checkpoint_with_points, exported, films) -> None:
    wanted, done = xl.load_classifier(checkpoint_with_points, device="cpu")(films), exported[format]
    assert (done.films, done.labels, done.bytes) == (5, LABELS, Path(done.path).stat().st_size)
    assert done.largest_difference < 1e-6
    assert 0 < np.nansum(wanted.calls) < np.isfinite(wanted.calls).sum()
    for count in (1, 2, 5):
        scores, probabilities, calls = run(Path(done.path), wanted.squares[:count])
        np.testing.assert_allclose(scores, wanted.scores[:count], atol=1e-6)
        np.testing.assert_allclose(probabilities, wanted.probabilities[:count], atol=1e-6)
        np.testing.assert_array_equal(calls, wanted.calls[:count])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prior", [0.5, 0.2])
def test_calibrations(method, prior) -> None:
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.random(200), [0, 1, 1e-9, 1 - 1e-7]]).astype(np.float32)
    fitted = fit_calibration(scores, rng.random(204) < scores, method).at_prior(0.5, prior)
    found = export._calibrate(fitted, torch.from_numpy(scores))
    np.testing.assert_allclose(found, fitted(scores), atol=1e-6)


def test_the_metadata_say_what_the_file_is(exported) -> None:
    entries = onnx.load(exported["onnx"].path).metadata_props
    text = {entry.key: entry.value for entry in entries}["xray_lightning"]
    extra, facts = {"xray_lightning.json": ""}, json.loads(text)
    torch.export.load(exported["pt2"].path, extra_files=extra)
    assert facts == json.loads(extra["xray_lightning.json"])
    assert (facts["labels"], facts["image_size"], facts["clahe"]) == (list(LABELS), 32, False)
    assert 0.4 < facts["operating_points"]["labels"]["Mass"]["threshold"] < 0.6
    assert "INTER_AREA" in facts["square"]
    assert "fingerprint" not in text, "of the data"


def test_safetensors_is_a_checkpoint_without_data(checkpoint_with_points, films, tmp_path) -> None:
    whole, bare = tmp_path / "run.ckpt", tmp_path / "m.safetensors"
    raw = torch.load(checkpoint_with_points)
    raw["xray_lightning"]["config"] = {"data": {"root": "/secret"}, "split": {}, "trainer": {}}
    raw["xray_lightning"]["config"] |= {"tta": "flip"}
    torch.save(raw, whole)
    xl.export_checkpoint(whole, bare, "safetensors")
    assert xl.load_checkpoint(whole).weights_sha256 == xl.load_checkpoint(bare).weights_sha256
    assert b"secret" not in bare.read_bytes()
    description = asdict(xl.load_checkpoint(bare).description)
    assert (description["config"], description["split"]) == ({"tta": "flip"}, {})
    first, second = (xl.load_classifier(path, device="cpu")(films) for path in (whole, bare))
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.probabilities, second.probabilities)


def test_a_foreign_safetensors_is_no_checkpoint(tmp_path) -> None:
    foreign, cut = tmp_path / "timm.safetensors", tmp_path / "cut.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    cut.write_bytes(foreign.read_bytes()[:20])
    for path, message in ((foreign, "was not written by xray_lightning"), (cut, "is damaged")):
        with pytest.raises(xl.CheckpointError, match=message):
            xl.load_checkpoint(path)


def test_bad_requests(checkpoint, films, tmp_path, monkeypatch) -> None:
    text = films[0].with_name("text.png")
    text.write_text("none")
    with pytest.raises(xl.ConfigError, match="one of onnx, pt2, safetensors, got 'tflite'"):
        xl.export_checkpoint(checkpoint, tmp_path / "m.tflite", "tflite")
    asked = ["export", checkpoint, "int8=true", "format=pt2", "--out", tmp_path / "m.pt2"]
    assert "int8=true is ONNX" in xray(*asked, code=2)
    with pytest.raises(xl.ConfigError, match=r"m.bin: a file of format=onnx ends in .onnx"):
        xl.export_checkpoint(checkpoint, tmp_path / "m.bin")
    with pytest.raises(xl.InvalidImageError, match=r"text.png"):
        xl.export_checkpoint(checkpoint, tmp_path / "m.pt2", "pt2", films=[text])
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnx", None)
        with pytest.raises(xl.ConfigError, match=r"needs onnx: pip install 'xray_lightning\[expo"):
            xl.export_checkpoint(checkpoint, tmp_path / "m.onnx")
    monkeypatch.setattr(export, "_calibrate", lambda _, scores: scores[: int(scores.sum())])
    with pytest.raises(xl.CheckpointError, match="cannot be exported as pt2"):
        xl.export_checkpoint(checkpoint, tmp_path / "m.pt2", "pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spoil", [lambda x: x + 0.01, lambda x: x * np.nan, lambda x: x[:1]])
def test_a_file_of_other_scores_does_not_stay(spoil, checkpoint, tmp_path, monkeypatch) -> None:
    def write(*arguments):
        again = export.write_weights(*arguments)
        return lambda pixels: [spoil(output) for output in again(pixels)]

    old = tmp_path / "m.safetensors"
    old.write_text("of yesterday")
    monkeypatch.setitem(export.WRITERS, "safetensors", write)
    with pytest.raises(xl.CheckpointError, match=r"was not kept: .* differ by (0.01|inf)"):
        xl.export_checkpoint(checkpoint, old, "safetensors")
    assert old.read_text() == "of yesterday"


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> Path:
    """A fresh environment with onnxruntime, NumPy and Pillow; skips where no index is reached."""
    place = tmp_path_factory.mktemp("bare")
    venv.create(place, with_pip=True, symlinks=True)
    python, needed = place / "bin/python", ("onnxruntime", "numpy", "pillow")
    command = [python, "-m", "pip", "install", "--quiet", "--retries", "0", *needed]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install {', '.join(needed)}: {done.stderr.splitlines()[-1]}")
    return python


@pytest.mark.slow
def test_the_lines_of_the_readme_need_no_torch(bare_python, exported) -> None:
    model, code = Path(exported["onnx"].path), README.read_text().split("# without torch\n")[1]
    film = np.random.default_rng(3).integers(0, 256, (32, 32), dtype=np.uint8)
    Image.fromarray(film).save(model.with_name("film.png"))
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    run = partial(subprocess.run, cwd=model.parent, env=clean, capture_output=True, text=True)
    assert "No module named" in run([bare_python, "-c", "import torch"]).stderr
    shown = run([bare_python, "-c", code.split("```")[0]], check=True).stdout
    printed = json.loads(shown.replace("'", '"').replace("nan", "NaN"))
    ours = xl.load_classifier(exported["checkpoint"], device="cpu")(model.with_name("film.png"))
    assert list(printed) == list(LABELS)
    np.testing.assert_allclose(list(printed.values()), ours.probabilities[0], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("model", [*MODELS, *HEADS])
def test_every_network_and_head_exports(model, tmp_path) -> None:
    if model in HEADS:
        net = xl.XrayNet(LABELS, "resnet18", head=model, image_size=64)
    else:
        config = compose_settings([f"model={model}", "image_size=64", "weights=none"])
        own = {k: v for k, v in config.model.items() if not k.startswith("_") and k != "weights"}
        net = xl.XrayNet(**{**own, "labels": LABELS, "image_size": 64})
    checkpoint = save_net(net.eval(), tmp_path / "best.ckpt")
    assert xl.export_checkpoint(checkpoint, tmp_path / "m.onnx").largest_difference < 1e-5


def test_products_are_merged(tmp_path) -> None:
    sizes = []
    for how in ("full", "lora"):
        net = xl.XrayNet(LABELS, "test_vit", image_size=64, finetune=how).eval()
        for name, tensor in net.named_parameters():
            torch.nn.init.normal_(tensor, std=0.1) if name.endswith(".up") else None
        checkpoint = save_net(net, tmp_path / "best.ckpt")
        sizes.append(xl.export_checkpoint(checkpoint, tmp_path / "m.onnx").bytes)
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> xl.XrayDataModule:
    data = toy_data(tmp_path_factory.mktemp("cache"), 60, 64, split=xl.patient_split)
    data.keep_labels(("Cardiomegaly", "Effusion"))
    return data


@pytest.fixture
def make(val, checkpoint_with_points, tmp_path):
    """A network with another order of labels than the data's, and one more."""

    def write(backbone: str):
        net = toy_net(("Effusion", "Mass", "Cardiomegaly"), backbone).eval()
        torch.nn.init.normal_(net.head.classifier.weight, std=3.0)  # scores that differ
        own = xl.load_classifier(checkpoint_with_points).interpretation.operating_points
        return save_net(net, tmp_path / "best.ckpt", points=own.to_json())

    return write


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "static"), [("test_resnet", True), ("test_vit", False)])
def test_what_is_kept(backbone, static, data, make, tmp_path) -> None:
    checkpoint, out = make(backbone), tmp_path / "m.onnx"
    done = xl.quantise_checkpoint(checkpoint, out, data, margin=0.9, draws=200)
    test = data.subset_records("test")
    films = min(128, len(data.subset_records("train"))) if static else 0
    assert (done.kept, done.calibration_films, done.films) == (True, films, len(test))
    assert done.patients == len({record.patient_id for record in test})
    assert done.bytes == out.stat().st_size < done.float_bytes
    kinds = {node.op_type for node in onnx.load(out).graph.node}
    assert ("QuantizeLinear" in kinds, "DynamicQuantizeLinear" in kinds) == (static, not static)
    wanted = xl.load_classifier(checkpoint, device="cpu")(list(map(data.source.read, test)))
    session = onnxruntime.InferenceSession(out)
    batches = wanted.squares[:16], wanted.squares[16:]  # dynamic ranges are those of a batch
    parts = [session.run(None, {"pixels": batch}) for batch in batches]
    scores, _, calls = map(np.concatenate, zip(*parts, strict=True))
    largest = np.abs(scores - wanted.scores).max()
    assert 0 < largest == pytest.approx(done.largest_difference, abs=1e-5)
    assert done.turned == np.mean((calls != wanted.calls)[:, 1])  # Mass alone has a point
    sides = [[side[:, [2, 0]]] for side in (wanted.scores, scores)]
    patients = [record.patient_id for record in test]
    exact = compare_aurocs(data.labels, data.subset_targets("test"), patients, *sides, draws=200)
    assert done.auroc.difference == pytest.approx(exact.mean.difference, abs=1e-6)
    assert f"{len(test)} images of {done.patients} patients; 0.9 is allowed: kept" in done.sentence
    facts = json.loads(session.get_modelmeta().custom_metadata_map["xray_lightning"])
    assert facts["labels"] == ["Effusion", "Mass", "Cardiomegaly"]
    assert xl.Quantised.from_json(done.to_json()).to_json() == done.to_json()


@pytest.mark.slow
@pytest.mark.parametrize("turn", [-1, 1])
def test_what_is_not_kept(turn, data, make, tmp_path, monkeypatch) -> None:
    """Scores that lost their order, or none of which changed, but of few patients."""
    checkpoint, out, score = make("test_resnet"), tmp_path / "m.onnx", export._score

    def spoil(path, *rest):
        own = score(path.with_name("float.onnx"), *rest)
        return [each[:: turn if path.name == "int8.onnx" else 1] for each in own]

    monkeypatch.setattr(export, "_score", spoil)
    out.write_text("of yesterday")
    done = xl.quantise_checkpoint(checkpoint, out, data, draws=200)
    assert "0.01 is allowed: not kept" in done.sentence
    assert out.read_text() == "of yesterday"
    assert {path.name for path in tmp_path.iterdir()} == {"best.ckpt", "m.onnx"}
    monkeypatch.setattr(data, "subset_records", lambda subset: [])
    with pytest.raises(xl.ConfigError, match="leave out images=all"):
        xl.quantise_checkpoint(checkpoint, out, data)
