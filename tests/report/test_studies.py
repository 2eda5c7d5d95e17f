"""A page a study: what it shows, what it does not tell, when it is drawn again."""

import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from xray_lightning.checkpoint import KEY, Description
from xray_lightning.deploy.classifier import load_classifier
from xray_lightning.deploy.predict import predict_files
from xray_lightning.errors import ConfigError, OutputError
from xray_lightning.evaluation.evaluate import fit_operating_points
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.models.network import XrayNet
from xray_lightning.report.studies import StudyPages, write_study_pages

LABELS = ("Mass", "Pleural/Effusion", "Edema")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every score is near 0.5; Mass is always called, the second never, the third unknown."""
    torch.manual_seed(0)
    net, ids = XrayNet(LABELS, "test_resnet", image_size=32), tuple(map(str, range(40)))
    targets = np.repeat(np.array([[0, 0], [1, 1]], np.float32), 20, axis=0)
    scores = targets * 0.05 + np.linspace(0, 0.06, 40, dtype=np.float32)[:, None]
    scores += np.array([0.0, 0.85], np.float32)
    points = fit_operating_points(Predictions(LABELS[:2], ids, ids, targets, scores), draws=50)
    split = {"fingerprint": "0", "subsets": dict.fromkeys(("train", "val", "test"), "0")}
    steps = {"image_size": 32, "clahe": False}
    description = Description(net.config, steps, split, {}, points.to_json())
    state = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    torch.save({KEY: description.to_plain(), "state_dict": state, "epoch": 0}, path)
    return path


@pytest.fixture
def scans(write_dicom, tmp_path: Path) -> Path:
    """Two films of a study, and a PNG."""
    rng = np.random.default_rng(0)
    for name in ("JANE_a", "JANE_b"):
        pixels = rng.integers(0, 256, (60, 50), dtype=np.uint8)
        told = {"StudyInstanceUID": "1.2.987654", "PatientName": "Zqx^Jane"}
        write_dicom(tmp_path / "scans" / f"{name}.dcm", pixels, **told)
    cv2.imwrite(str(tmp_path / "scans/<c>.png"), rng.integers(0, 256, (60, 50), dtype=np.uint8))
    return tmp_path / "scans"


def test_pages(checkpoint: Path, scans: Path, tmp_path: Path) -> None:
    classifier, out = load_classifier(checkpoint, device="cpu"), tmp_path / "out"
    predict_files(classifier, [scans], out)
    told: list[tuple[int, int]] = []
    done = write_study_pages(classifier, out, progress=lambda *both: told.append(both))
    assert (done.written, done.failures, told[-1]) == (2, {}, (2, 2))
    assert StudyPages.from_json(done.to_json()) == done
    index = Path(done.index).read_text()
    links = re.findall(r'href="([0-9a-f]{12}\.html)"', index)
    assert "JANE_a.dcm, JANE_b.dcm" in index
    assert "&lt;c&gt;.png" in index
    sizes = []
    for link in links:
        page = (out / "studies" / link).read_text()
        pictures = re.findall(r'src="(\S+)', page)
        assert all(address.startswith("data:image/jpeg;base64,") for address in pictures)
        words = re.sub(r'src="\S+', "", page)
        assert "<script" not in words
        for secret in ("JANE", "987654", "Zqx", "&lt;c", str(scans)):
            assert secret not in words
        assert "<strong>Mass</strong>: probability" in page
        assert ", called</figcaption>" in page
        sizes.append(len(pictures))
    assert sorted(sizes) == [3, 6]  # the film, what is called, one more
    overlays = sorted(path.name[12:] for path in (out / "overlays").iterdir())
    assert set(overlays) == {
        f"_{number}_{name}.jpg" for number in (1, 2) for name in ("Mass", "Pleural_Effusion")
    }
    assert cv2.imread(str(next((out / "overlays").iterdir()))).shape == (512, 512, 3)


def test_only_what_changed_is_drawn_again(checkpoint: Path, scans: Path, tmp_path: Path) -> None:
    classifier, out = load_classifier(checkpoint, device="cpu"), tmp_path / "out"
    predict_files(classifier, [scans], out)
    assert write_study_pages(classifier, out).written == 2
    assert write_study_pages(classifier, out).written == 0
    cv2.imwrite(str(scans / "<c>.png"), np.eye(60, dtype=np.uint8) * 255)
    os.utime(scans / "<c>.png", (1e9, 1e9))
    predict_files(classifier, [scans], out)
    assert write_study_pages(classifier, out).written == 1
    other = load_classifier(checkpoint, device="cpu", prior={"Mass": 0.01})
    predict_files(other, [scans], out)
    (scans / "<c>.png").unlink()
    done = write_study_pages(other, out)
    (reason,) = done.failures.values()
    assert done.written == 1
    assert "cannot be opened" in reason


def test_without_operating_points(checkpoint: Path, scans: Path, tmp_path: Path) -> None:
    classifier = load_classifier(checkpoint, device="cpu", points="none")
    predict_files(classifier, [scans / "<c>.png"], tmp_path / "out")
    index = Path(write_study_pages(classifier, tmp_path / "out", method="gradient").index)
    (page,) = (path.read_text() for path in index.parent.iterdir() if path != index)
    assert "nothing is called" in page
    assert "32 x 32 cells" in page


def test_what_cannot_be_drawn(checkpoint: Path, scans: Path, tmp_path: Path) -> None:
    classifier = load_classifier(checkpoint, device="cpu")
    with pytest.raises(ConfigError, match="got 'seen'"):
        write_study_pages(classifier, tmp_path, method="seen")
    with pytest.raises(ConfigError, match="no spatial gates"):
        write_study_pages(classifier, tmp_path, method="cbam")
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(OutputError, match=r"model\.json is damaged"):
        write_study_pages(classifier, tmp_path)
