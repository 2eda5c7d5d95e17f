"""The scores of one image are the same from the run's loader, from its file and from an array."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image as Pil
from toy import quiet_trainer, save_net

import xray_lightning as xl
from xray_lightning.deploy.classifier import Classifier, find_device, load_classifier
from xray_lightning.writing import write_json


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 PNG files of several shapes and depths with a table."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    lines = ["image,patient,Mass,Nodule,Effusion"]
    for number in range(24):
        shape = (40, 40) if number % 3 else (50 + number, 37)
        deep = rng.integers(0, 2**16, shape, dtype=np.uint16)
        pixels = deep if number % 2 else (deep // 256).astype("u1")
        cv2.imwrite(str(root / f"{number:02d}.png"), pixels)
        lines.append(f"{number:02d}.png,{number},{number % 2},{number // 2 % 2},{number // 4 % 2}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("clahe", [False, True])
def test_loader_file_and_array_agree(folder, clahe, net, tmp_path) -> None:
    """To the last bit in batches of one size, and to 1e-6 in any."""
    source = xl.CsvTable(folder / "table.csv")
    data = xl.XrayDataModule(source, image_size=32, batch_size=3, clahe=clahe, cache_dir=tmp_path)
    found = xl.predict_subset(quiet_trainer(tmp_path), xl.XrayTask(net), data, "test")
    xl.write_predictions(found, tmp_path / "test.csv")
    wanted = xl.read_predictions(tmp_path / "test.csv")
    assert wanted.scores.std() > 0.1
    classifier = load_classifier(save_net(net, tmp_path / "best.ckpt", clahe=clahe), device="cpu")
    paths = [folder / name for name in wanted.image_ids]
    arrays = [source.read(record) for record in data.subset_records("test")]
    assert len({array.shape for array in arrays}) > 1
    for images in (paths, [str(path) for path in paths], arrays):
        np.testing.assert_array_equal(classifier(images, batch_size=3).scores, wanted.scores)
    streamed = [scored.scores for scored in classifier.stream(paths, batch_size=3, workers=2)]
    np.testing.assert_array_equal(streamed, wanted.scores)
    for size in (1, 2, 32):
        scores = classifier(paths, batch_size=size).scores
        np.testing.assert_allclose(scores, wanted.scores, atol=1e-6)


def test_one_image_many_ways(classifier: Classifier, net: xl.XrayNet) -> None:
    image = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32).astype(np.uint8)
    (wanted,) = classifier(image).scores
    assert wanted.dtype == np.float32
    np.testing.assert_array_equal(classifier([image]).scores[0], wanted)
    np.testing.assert_array_equal(classifier((image / 255).astype(np.float32)).scores[0], wanted)
    np.testing.assert_array_equal(classifier(image / 255).scores[0], wanted)
    stack = classifier(np.stack([image, image.T])).scores
    np.testing.assert_array_equal(stack, classifier([image, image.T]).scores)
    np.testing.assert_allclose(stack[0], wanted, atol=1e-6)
    images = torch.from_numpy(np.stack([image, image.T]))[:, None] / 255
    with torch.no_grad():
        expected = torch.sigmoid(net(images))
    np.testing.assert_allclose(stack, expected, atol=1e-6)
    assert classifier([]).scores.shape == (0, 3)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom(photometric, classifier, write_dicom, tmp_path) -> None:
    """A DICOM file, what the reader gives of it (floats), and its 8-bit picture as a PNG agree."""
    pixels = np.random.default_rng(2).integers(0, 256, (40, 50), dtype=np.uint8)
    path = write_dicom(tmp_path / "x.dcm", pixels, PhotometricInterpretation=photometric)
    wanted = classifier(path).scores
    np.testing.assert_array_equal(classifier(xl.read_dicom(path).pixels).scores, wanted)
    shown = 255 - pixels if photometric == "MONOCHROME1" else pixels
    cv2.imwrite(str(tmp_path / "x.png"), shown)
    np.testing.assert_array_equal(classifier([tmp_path / "x.png"]).scores, wanted)
    (scored,) = classifier.stream([path])
    assert scored.scores is not None
    np.testing.assert_array_equal(scored.scores, wanted[0])


def test_flip(classifier, net, tmp_path) -> None:
    """The mean of the scores of the image and its mirror image."""
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32), dtype=np.uint8)
    both = classifier(images).scores, classifier(images[:, :, ::-1].copy()).scores
    wanted = (both[0] + both[1]) / 2
    flipping = load_classifier(save_net(net, tmp_path / "best.ckpt", tta="flip"), device="cpu")
    np.testing.assert_allclose(flipping(images).scores, wanted, atol=1e-6)
    assert not np.allclose(wanted, both[0], atol=1e-3)
    np.testing.assert_allclose(flipping(images[:, :, ::-1].copy()).scores, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "named"),
    [
        (3, "got int"),
        ({"a.png"}, "got set"),
        ([None], "got NoneType"),
        (np.zeros((32, 32, 3), np.uint8), r"\(32, 32, 3\)"),
        (np.zeros(9, np.uint8), r"\(9,\)"),
        (np.zeros((0, 4), np.uint8), r"\(0, 4\)"),
        (np.zeros((1, 2, 32, 32), np.uint8), "Give paths, arrays or"),
        (np.zeros((8, 8), np.uint16), "uint16 does not say which value is white"),
        (np.zeros((8, 8), bool), "got bool"),
        (np.full((8, 8), 255.0), "got 255.0 to 255.0"),
        (np.full((8, 8), -0.1), "got -0.1"),
        (np.full((8, 8), np.nan), "got nan"),
        ("nowhere.png", "nowhere.png: cannot be opened"),
        (np.full((8, 8), 1 + 1j), "got complex128"),
        (Pil.new("I", (8, 8)), "PIL image of mode I does not say which value is white"),
        (Pil.new("CMYK", (8, 8)), "PIL image of mode CMYK"),
    ],
)
def test_not_a_radiograph(images, named: str, classifier: Classifier) -> None:
    with pytest.raises(xl.InvalidImageError, match=named):
        classifier(images)


WHOLE = np.linspace(0, 255, 1200).round().astype(np.uint8).reshape(30, 40)


@pytest.mark.parametrize(
    ("image", "value_range"),
    [
        (WHOLE.astype(np.int16) - 128, (-128, 127)),
        (WHOLE.astype(np.uint16) * 257, (0, 65535)),
        (WHOLE.astype(np.int64) * 10**6, (0, 255 * 10**6)),
        (WHOLE.astype(np.float64) * 40 - 1000, (-1000, 9200)),
        ((WHOLE / 255).astype(np.float16), None),
        (torch.from_numpy(WHOLE / 255), None),
        (torch.from_numpy(WHOLE)[None, None], None),
        (torch.from_numpy(WHOLE)[None], None),
        (torch.from_numpy(WHOLE / 255).to(torch.float32).requires_grad_(), None),
        (torch.from_numpy(WHOLE).to(torch.bfloat16), (0, 255)),  # 255 levels: whole numbers to 256
        (Pil.fromarray(WHOLE), None),
        (Pil.fromarray(WHOLE.astype(np.uint16) * 257), None),
        (Pil.fromarray(np.stack([WHOLE] * 3, axis=2)), None),
        (Pil.fromarray(WHOLE).convert("RGBA"), None),
        (Pil.fromarray(WHOLE).convert("P"), None),
    ],
)
def test_any_type_with_its_range(image, value_range, classifier) -> None:
    """The same picture, to the last bit, whatever holds it."""
    (found,) = classifier([image, image], value_range=value_range).squares[:1]
    np.testing.assert_array_equal(found, classifier(WHOLE).squares[0])
    one = classifier(image, value_range=value_range)
    np.testing.assert_array_equal(one.scores, classifier(WHOLE).scores)


@pytest.mark.parametrize("name", ["colour.png", "deep.png", "turned.jpg"])
def test_pil_as_the_reader_of_files(name: str, classifier: Classifier, tmp_path: Path) -> None:
    rng, path = np.random.default_rng(3), tmp_path / name
    if name == "deep.png":
        cv2.imwrite(str(path), rng.integers(0, 2**16, (40, 50), dtype=np.uint16))
    else:
        exif = Pil.Exif()
        exif[0x0112] = 6  # a quarter turn
        blocks = np.kron(rng.integers(0, 256, (5, 6, 3)), np.ones((8, 8, 1)))
        Pil.fromarray(blocks.astype("u1")).save(path, exif=exif if name == "turned.jpg" else None)
    found = classifier([Pil.open(path), path]).squares.astype(int)
    assert np.abs(found[0] - found[1]).max() <= (2 if name == "turned.jpg" else 0)  # two decoders


def test_pydicom_datasets(classifier, write_dicom, tmp_path) -> None:
    path = write_dicom(tmp_path / "x.dcm", WHOLE, PatientName="Zqx^Jane")
    dataset = pydicom.dcmread(path)
    both = classifier([dataset, path]).squares
    np.testing.assert_array_equal(both[:1], classifier(dataset).squares)
    del dataset.file_meta, dataset.Rows
    with pytest.raises(xl.InvalidImageError, match=r"pydicom dataset.*file_meta") as caught:
        classifier(dataset)
    assert "Zqx" not in str(caught.value)


def test_a_range_that_is_none_or_is_left(classifier: Classifier) -> None:
    for value_range in ((1, 0), (0, 0), (0, np.inf), (np.nan, 1)):
        with pytest.raises(xl.ConfigError, match=r"value_range must be \(black, white\)"):
            classifier(WHOLE, value_range=value_range)
    with pytest.raises(xl.InvalidImageError, match="from 0 to 4095, got 4096 to 4096"):
        classifier(np.full((8, 8), 4096, np.uint16), value_range=(0, 4095))


def test_findings(checkpoint_with_points: Path) -> None:
    """Of each label what is known, by hand; and maps that are ``class_maps``'."""
    classifier = load_classifier(checkpoint_with_points, device="cpu")
    images = np.random.default_rng(1).integers(0, 256, (21, 32, 32), dtype=np.uint8)
    findings = classifier(images, batch_size=8)
    point = classifier.interpretation.operating_points.labels["Mass"]
    np.testing.assert_array_equal(findings.calls[:, 0], findings.scores[:, 0] >= point.threshold)
    scores = findings.scores[:, 0].astype(float)
    odds = np.log(scores) - np.log1p(-scores)
    wanted = 1 / (1 + np.exp(-point.calibration.slope * odds - point.calibration.intercept))
    np.testing.assert_allclose(findings.probabilities[:, 0], wanted, rtol=1e-9)
    assert np.isnan(findings.probabilities[:, 1:]).all()
    assert np.isnan(findings.calls[:, 1:]).all()
    inputs = torch.from_numpy(images)[:, None] / 255
    maps = xl.class_maps(classifier.net, inputs, labels=["Effusion", "Mass"], method="gradcam")
    found = findings.maps(labels=["Effusion", "Mass"], method="gradcam")
    np.testing.assert_allclose(found, maps, atol=1e-6)
    assert findings.maps().shape == (21, 3, *maps.shape[2:])
    assert classifier([]).maps().shape == (0, 3, 0, 0)


def test_threads_share_a_classifier(classifier: Classifier) -> None:
    """Scores and maps of eight threads at once are those of one after the other."""
    stacks = np.random.default_rng(1).integers(0, 256, (8, 5, 40, 33), dtype=np.uint8)

    def work(stack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        findings = classifier(stack, batch_size=2)
        return findings.scores, findings.maps(["Mass"], "gradcam")

    wanted = [work(stack) for stack in stacks]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for found, alone in zip(pool.map(work, stacks), wanted, strict=True):
                np.testing.assert_array_equal(found[0], alone[0])
                np.testing.assert_array_equal(found[1], alone[1])


@pytest.mark.parametrize(
    ("settings", "error", "named"),
    [
        ({"points": "nowhere.json"}, xl.DataNotFoundError, "points=nowhere.json: no such file"),
        ({"points": "none", "prior": 0.1}, xl.ConfigError, "no calibration is there for all"),
        ({"prior": {"Edema": 0.1}}, xl.ConfigError, "'Edema' is not a label here"),
        ({"prior": {"Nodule": 0.1}}, xl.ConfigError, "fewer than 10 positives"),
        ({"rule": "f1"}, xl.ConfigError, "rule: nothing is fitted with points=checkpoint"),
    ],
)
def test_readings_that_cannot_be(settings, error, named, checkpoint_with_points) -> None:
    with pytest.raises(error, match=named):
        load_classifier(checkpoint_with_points, device="cpu", **settings)


def test_points_of_a_file(checkpoint_with_points, val: xl.Predictions, tmp_path: Path) -> None:
    """JSON of another rule, JSON of an evaluation, a table to fit on; not those of others."""

    def load(path: Path, **fit) -> dict[str, float]:
        chosen = load_classifier(checkpoint_with_points, device="cpu", points=path, **fit)
        assert chosen.interpretation.source == str(path)
        return chosen.interpretation.operating_points.thresholds

    table, plain, nested = (tmp_path / name for name in ("t.csv", "p.json", "n.json"))
    rule = {"rule": "sensitivity", "value": 0.8, "calibration": "isotonic"}
    points = xl.fit_operating_points(val, **rule, draws=50)
    xl.write_predictions(val, table)
    write_json(points.to_json(), plain)
    write_json({"operating_points": points.to_json(), "weights_sha256": "0" * 64}, nested)
    assert load(plain) == load(table, **rule) == points.thresholds != load(table)
    with pytest.raises(xl.ConfigError, match=r"are of other weights \[0000000000000000\]"):
        load(nested)
    write_json(replace(points, labels={"Edema": points.labels["Mass"]}).to_json(), plain)
    with pytest.raises(xl.ConfigError, match="are of Edema, the checkpoint knows Mass, Nodule"):
        load(plain)
    plain.write_text("{}")
    with pytest.raises(xl.CheckpointError, match="these are not operating points"):
        load(plain)


def test_unreadable_files_do_not_stop_the_others(classifier, folder, tmp_path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes((folder / "01.png").read_bytes()[:200])
    good = [folder / "00.png", folder / "01.png", folder / "02.png"]
    paths = [broken, good[0], tmp_path / "absent.png", good[1], broken, broken, broken, good[2]]
    found = list(classifier.stream(paths, batch_size=2))
    assert [scored.path for scored in found] == paths
    reasons = [scored.failure for scored in found if scored.scores is None]
    assert [reason.split(":")[0] for reason in reasons] == [
        "the PNG is truncated",
        "cannot be opened (No such file or directory). Check the path",
        *["the PNG is truncated"] * 3,
    ]
    scores = [scored.scores for scored in found if scored.scores is not None]
    np.testing.assert_allclose(scores, classifier(good).scores, atol=1e-6)
    assert {scored.failure for scored in found if scored.scores is not None} == {""}
    assert list(classifier.stream([])) == []


def test_a_stream_reads_ahead_but_not_far(classifier: Classifier, folder: Path) -> None:
    """A stream of a million files holds the squares of a few."""
    taken: list[int] = []

    def paths():
        for number in range(1000):
            taken.append(number)
            yield folder / "00.png"

    stream = classifier.stream(paths(), batch_size=4)
    next(stream)
    assert 4 < len(taken) <= 4 * 3 + 1
    stream.close()
    assert len(taken) <= 4 * 3 + 1


def test_bad_sizes(classifier: Classifier, folder: Path) -> None:
    with pytest.raises(xl.ConfigError, match=r"batch_size must .*got 0"):
        classifier(folder / "00.png", batch_size=0)
    for settings in ({"batch_size": 0}, {"workers": 0}):
        with pytest.raises(xl.ConfigError, match=r"must be .*got 0"):
            next(classifier.stream([folder / "00.png"], **settings))


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [find_device(name).type for name in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto").type == "cpu"
    with pytest.raises(xl.ConfigError, match="device=cuda, but torch sees no GPU"):
        find_device("cuda")
    with pytest.raises(xl.ConfigError, match="device must be auto, cpu or cuda, got 'tpu'"):
        find_device("tpu")


def test_a_preprocessing_of_another_version(net, tmp_path) -> None:
    with pytest.raises(xl.CheckpointError, match=r"needs \{'image_size': 32\} and tta='none'"):
        Classifier(net, {"image_size": 32})
    path = save_net(net, tmp_path / "best.ckpt", tta="rotate")
    with pytest.raises(xl.CheckpointError, match="and tta='rotate': use the version that made it"):
        load_classifier(path)


def test_a_network_of_nan(folder: Path, net: xl.XrayNet) -> None:
    torch.nn.init.constant_(net.head.classifier.weight, torch.nan)
    broken = Classifier(net, {"image_size": 32, "clahe": False}, device="cpu")
    with pytest.raises(xl.CheckpointError, match=r"for 1 of 1 images, the first is number 1"):
        broken(folder / "00.png")
    with pytest.raises(xl.CheckpointError, match=r"the first is .*00\.png"):
        list(broken.stream([folder / "table.csv", folder / "00.png"]))
