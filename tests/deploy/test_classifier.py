"""The scores of one image are the same from the run's loader, from its file and from an array."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from xray_lightning.data.csv import CsvTable
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.dicom import read_dicom
from xray_lightning.deploy.classifier import Classifier, find_device, load_classifier
from xray_lightning.errors import CheckpointError, ConfigError, InvalidImageError
from xray_lightning.evaluation.predict import predict_subset
from xray_lightning.evaluation.predictions import read_predictions, write_predictions
from xray_lightning.models.network import XrayNet
from xray_lightning.training.task import XrayTask

LABELS = ("Mass", "Nodule", "Effusion")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 PNG files of several shapes and depths with a table."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    lines = ["image,patient,Mass,Nodule,Effusion"]
    for number in range(24):
        shape = (40, 40) if number % 3 else (50 + number, 37)
        deep = rng.integers(0, 2**16, shape, dtype=np.uint16)
        cv2.imwrite(
            str(root / f"{number:02d}.png"), deep if number % 2 else (deep // 256).astype("u1")
        )
        lines.append(f"{number:02d}.png,{number},{number % 2},{number // 2 % 2},{number // 4 % 2}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("clahe", [False, True])
def test_loader_file_and_array_agree(
    folder: Path, clahe: bool, net: XrayNet, save: Callable[..., Path], tmp_path: Path
) -> None:
    """To the last bit in batches of one size, and to 1e-6 in any."""
    source = CsvTable(folder / "table.csv")
    data = XrayDataModule(source, image_size=32, batch_size=3, clahe=clahe, cache_dir=tmp_path)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    write_predictions(predict_subset(trainer, XrayTask(net), data, "test"), tmp_path / "test.csv")
    wanted = read_predictions(tmp_path / "test.csv")
    assert wanted.scores.std() > 0.1
    classifier = load_classifier(save(net, tmp_path / "best.ckpt", clahe=clahe), device="cpu")
    paths = [folder / name for name in wanted.image_ids]
    arrays = [source.read(record) for record in data.subset_records("test")]
    assert len({array.shape for array in arrays}) > 1
    for images in (paths, [str(path) for path in paths], arrays):
        np.testing.assert_array_equal(classifier(images, batch_size=3), wanted.scores)
    streamed = [scored.scores for scored in classifier.stream(paths, batch_size=3, workers=2)]
    np.testing.assert_array_equal(streamed, wanted.scores)
    for size in (1, 2, 32):
        np.testing.assert_allclose(classifier(paths, batch_size=size), wanted.scores, atol=1e-6)


@pytest.fixture(scope="module")
def classifier(checkpoint: Path) -> Classifier:
    return load_classifier(checkpoint, device="cpu")


def test_it_knows_what_it_was_trained_on(classifier: Classifier, checkpoint: Path) -> None:
    assert classifier.labels == LABELS
    assert classifier.preprocessing == {"image_size": 32, "clahe": False}
    assert classifier.split == "0123456789abcdef"
    assert (classifier.tta, classifier.checkpoint) == ("none", checkpoint)
    assert not classifier.net.training


def test_one_image_many_ways(classifier: Classifier, net: XrayNet) -> None:
    image = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32).astype(np.uint8)
    (wanted,) = classifier(image)
    assert wanted.dtype == np.float32
    np.testing.assert_array_equal(classifier([image])[0], wanted)
    np.testing.assert_array_equal(classifier((image / 255).astype(np.float32))[0], wanted)
    np.testing.assert_array_equal(classifier(image / 255)[0], wanted)
    stack = classifier(np.stack([image, image.T]))
    np.testing.assert_array_equal(stack, classifier([image, image.T]))
    np.testing.assert_allclose(stack[0], wanted, atol=1e-6)
    images = torch.from_numpy(np.stack([image, image.T]))[:, None] / 255
    with torch.no_grad():
        expected = torch.sigmoid(net(images))
    np.testing.assert_allclose(stack, expected, atol=1e-6)
    assert classifier([]).shape == (0, 3)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom(
    photometric: str, classifier: Classifier, write_dicom: Callable[..., Path], tmp_path: Path
) -> None:
    """A DICOM file, what the reader gives of it (floats), and its 8-bit picture as a PNG agree."""
    pixels = np.random.default_rng(2).integers(0, 256, (40, 50), dtype=np.uint8)
    path = write_dicom(tmp_path / "x.dcm", pixels, PhotometricInterpretation=photometric)
    wanted = classifier(path)
    np.testing.assert_array_equal(classifier(read_dicom(path).pixels), wanted)
    shown = 255 - pixels if photometric == "MONOCHROME1" else pixels
    cv2.imwrite(str(tmp_path / "x.png"), shown)
    np.testing.assert_array_equal(classifier([tmp_path / "x.png"]), wanted)
    (scored,) = classifier.stream([path])
    assert scored.scores is not None
    np.testing.assert_array_equal(scored.scores, wanted[0])


def test_flip(
    classifier: Classifier, net: XrayNet, save: Callable[..., Path], tmp_path: Path
) -> None:
    """The mean of the scores of the image and its mirror image."""
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32), dtype=np.uint8)
    wanted = (classifier(images) + classifier(images[:, :, ::-1].copy())) / 2
    flipping = load_classifier(save(net, tmp_path / "best.ckpt", tta="flip"), device="cpu")
    np.testing.assert_allclose(flipping(images), wanted, atol=1e-6)
    assert not np.allclose(flipping(images), classifier(images), atol=1e-3)
    np.testing.assert_allclose(flipping(images[:, :, ::-1].copy()), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "named"),
    [
        (3, "got int"),
        ({"a.png"}, "got set"),
        ([torch.zeros(8, 8)], "got Tensor"),
        (np.zeros((32, 32, 3), np.uint8), r"\(32, 32, 3\)"),
        (np.zeros(9, np.uint8), r"\(9,\)"),
        (np.zeros((0, 4), np.uint8), r"\(0, 4\)"),
        (np.zeros((1, 1, 32, 32), np.uint8), "Give a path, an array"),
        (np.zeros((8, 8), np.uint16), "got uint16"),
        (np.zeros((8, 8), bool), "got bool"),
        (np.full((8, 8), 255.0), "got 255.0 to 255.0"),
        (np.full((8, 8), -0.1), "got -0.1"),
        (np.full((8, 8), np.nan), "got nan"),
        ("nowhere.png", "nowhere.png: cannot be opened"),
    ],
)
def test_not_a_radiograph(images: Any, named: str, classifier: Classifier) -> None:
    with pytest.raises(InvalidImageError, match=named):
        classifier(images)


def test_unreadable_files_do_not_stop_the_others(
    classifier: Classifier, folder: Path, tmp_path: Path
) -> None:
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
    np.testing.assert_allclose(scores, classifier(good), atol=1e-6)
    assert {scored.failure for scored in found if scored.scores is not None} == {""}
    assert list(classifier.stream([])) == []


def test_a_stream_reads_ahead_but_not_far(classifier: Classifier, folder: Path) -> None:
    """A stream of a million files holds the squares of a few."""
    taken: list[int] = []

    def paths() -> Any:
        for number in range(1000):
            taken.append(number)
            yield folder / "00.png"

    stream = classifier.stream(paths(), batch_size=4)
    next(stream)
    assert 4 < len(taken) <= 4 * 3 + 1
    stream.close()
    assert len(taken) <= 4 * 3 + 1


def test_bad_sizes(classifier: Classifier, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"batch_size must .*got 0"):
        classifier(folder / "00.png", batch_size=0)
    for settings in ({"batch_size": 0}, {"workers": 0}):
        with pytest.raises(ConfigError, match=r"must be .*got 0"):
            next(classifier.stream([folder / "00.png"], **settings))


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [find_device(name).type for name in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="device=cuda, but torch sees no GPU"):
        find_device("cuda")
    with pytest.raises(ConfigError, match="device must be auto, cpu or cuda, got 'tpu'"):
        find_device("tpu")


def test_a_preprocessing_of_another_version(
    net: XrayNet, save: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"needs \{'image_size': 32\} and tta='none'"):
        Classifier(net, {"image_size": 32})
    path = save(net, tmp_path / "best.ckpt", tta="rotate")
    with pytest.raises(CheckpointError, match="and tta='rotate': use the version that made it"):
        load_classifier(path)


def test_a_network_of_nan(folder: Path, net: XrayNet) -> None:
    torch.nn.init.constant_(net.head.classifier.weight, torch.nan)
    broken = Classifier(net, {"image_size": 32, "clahe": False}, device="cpu")
    with pytest.raises(CheckpointError, match=r"for 1 of 1 images, the first is number 1"):
        broken(folder / "00.png")
    with pytest.raises(CheckpointError, match=r"the first is .*00\.png"):
        list(broken.stream([folder / "table.csv", folder / "00.png"]))
