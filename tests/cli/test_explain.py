"""``xray explain`` on a toy run: files, what is shown of them, and refusals."""

import json
import re
import shutil
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from running import TOY, xray
from toy import run_lengths

from xray_lightning import ConfigError, Phantom
from xray_lightning.cli.app import run_verb
from xray_lightning.cli.config import compose_settings
from xray_lightning.cli.explain import own_settings
from xray_lightning.cli.fit import fit
from xray_lightning.cli.request import DEFAULTS, Request
from xray_lightning.explain.maps import METHODS

QUICK = ["draws=50", "positives=12", "threads=1"]
NOTHING = ["methods=none", "saliency=none", "shortcuts=false"]
explain = partial(xray, "explain")


@pytest.fixture(scope="module")
def checkpoint(folder):
    own = ["model.backbone=test_resnet", "batch_size=16", "epochs=1", "threads=1", "draws=50"]
    places = ["data.patients=60", f"cache_dir={folder / 'cache'}", f"run_dir={folder / 'run'}"]
    fit(compose_settings([*TOY, *own, *places]))
    return folder / "run" / "checkpoints" / "best.ckpt"


def copied(checkpoint, name: str, **config):
    """A checkpoint of other weights and settings, without a training."""
    raw = torch.load(checkpoint, weights_only=True)
    raw["state_dict"] = {k: (t * 1.01).to(t.dtype) for k, t in raw["state_dict"].items()}
    raw["xray_lightning"]["config"] |= config
    torch.save(raw, path := checkpoint.with_name(name))
    return path


@pytest.fixture(scope="module")
def done(checkpoint):
    """Everything, with another seed and a network of permuted labels."""
    seeds = copied(checkpoint, "seed1.ckpt", seed=1)
    permuted = copied(checkpoint, "permuted.ckpt", permute_labels=True)
    asked = ["methods=gradcam,gradient", "saliency=gradient", "label=Infiltration", "doubts=5"]
    return explain(checkpoint, *QUICK, *asked, f"seeds={seeds}", f"permuted={permuted}")


def test_everything_is_written_and_shown(done, checkpoint) -> None:
    place = checkpoint.parents[1] / "explain"
    values = json.loads((place / "explain.json").read_text())
    assert values["schema"] == 2
    assert values["fingerprint"] in done
    assert {one["place"] for one in values["localisation"]["labels"].values()} == {"its exact mask"}
    again = [(one["image"], one["label"], one["neighbours"]) for one in values["doubts"]]
    films = place / values["gallery"].pop("labels to read again")
    with np.load(films.with_suffix(".npz")) as kept:
        assert [*zip(kept["image_id"], kept["label"], strict=True)] == [row[:2] for row in again]
    assert all(f"{image} {label}: " in done and near >= 0 for image, label, near in again)
    for label, name in values["gallery"].items():
        assert label in done
        assert cv2.imread(str(place / name)) is not None
        with np.load((place / name).with_suffix(".npz")) as kept:
            assert set(kept["label"]) == {label}
            assert kept["maps"].shape[1:] == (1, 1)  # 32 px through a ResNet
    tests = values["saliency"]["gradient"]
    for test in ("seeds", "permutation", "deletion", "insertion", "randomisation"):
        assert tests[test]["verdict"] in done
        assert "given" not in tests[test].get("reason", "")
    assert list(values["shortcuts"]["labels"]) == list(values["auroc"]["labels"])
    assert "AUROC of a linear probe of the features" in done
    assert (place / "saliency.png").is_file()
    assert values["published"] == []  # of NIH's boxes alone


def test_the_report_of_the_run_shows_it(done, checkpoint) -> None:
    run = checkpoint.parents[1]
    xray("report", run)
    values = json.loads((run / "explain" / "explain.json").read_text())
    assert json.loads((run / "report.json").read_text())["explain"] == values
    text = (run / "report.html").read_text()
    section = text[text.index('<section id="explain">') : text.index('<section id="training">')]
    assert section.count("data:image/webp") == len(values["gallery"]) + 1  # and the tests' curves
    for label, of_label in values["localisation"]["labels"].items():
        game = of_label["methods"]["gradcam"]["pointing_game"]["value"]
        assert f"<td>{of_label['boxes']}</td><td>{game:.3f}</td>" in section
        assert f"<td>{values['shortcuts']['labels'][label]['verdict']}</td></tr>" in section
    assert f"<td>{values['saliency']['gradient']['deletion']['verdict']}</td>" in section
    assert not re.search(r"(src|href)=.http", text)
    texts = re.split("[<>]", section)  # a pattern's findall would take a minute
    assert [text for text in texts if "to read again" in text] == ["Labels to read again"]
    for wrong, word in (
        (values | {"fingerprint": "0"}, "is of other images [0] than the run's"),
        ({}, "lacks checkpoint, fingerprint"),
    ):
        (run / "explain" / "explain.json").write_text(json.dumps(wrong))
        assert word in xray("report", run, code=2)


def test_json_of_a_folder_of_ones_own(checkpoint, tmp_path, capsys) -> None:
    (tmp_path / "saliency.png").touch()  # of another run
    run_verb("explain", [checkpoint, *QUICK, *NOTHING], out=tmp_path, as_json=True)
    printed = capsys.readouterr()
    values = json.loads(printed.out)
    assert "synthetic" in printed.err, "notes go to stderr"
    assert values["localisation"] is None
    assert values["localisation_missing"] == "no method was asked for"
    assert values["shortcuts"] == values["saliency"] == values["gallery"] == {}
    assert json.loads((tmp_path / "explain.json").read_text()) == values
    assert not (tmp_path / "saliency.png").exists()


@pytest.mark.parametrize(
    "text",
    [
        *("subset=train", "methods=cam,guess", "saliency=", "shortcuts=maybe", "positives=1"),
        *("permuted=a.ckpt,b.ckpt", "draws=0", "tta=flip"),
    ],
)
def test_settings_that_cannot_work(text: str) -> None:
    with pytest.raises(ConfigError, match=text.split("=")[0]):
        own_settings(Request((), (text,)).read(DEFAULTS["explain"], composes=True))


def test_settings() -> None:
    words = "methods=[cam, gradient]", "saliency=all", "data=nih"
    settings = own_settings(request := Request((), words).read(DEFAULTS["explain"], composes=True))
    assert (settings["methods"], settings["saliency"]) == (("cam", "gradient"), METHODS)
    assert settings["shortcuts"] is True
    assert request.rest == ("data=nih",)


def test_what_is_refused_leaves_no_folder(checkpoint) -> None:
    for more, message in (
        (["methods=cbam"], "this network has no spatial gates that act"),
        ([f"seeds={checkpoint}"], "has seed=0, as another one"),
        ([f"permuted={checkpoint}"], "permute_labels=false: permuted= needs the opposite"),
        (["label=Cough"], "label must be one of Atelectasis"),
        (["subset=val", "split.seed=1", "data.seed=7"], "is not that of the training run, and"),
    ):
        assert message in explain(checkpoint, *QUICK, *more, code=2)
    assert not list(checkpoint.parents[1].glob("explain_*"))
    assert "no checkpoint at" in explain(checkpoint.parent / "none.ckpt", code=2)


def test_the_report_of_a_run_is_about_its_best_checkpoint(checkpoint) -> None:
    explain(checkpoint.with_name("last.ckpt"), *QUICK, *NOTHING)
    metrics = json.loads((checkpoint.parents[1] / "metrics.json").read_text())["test"]
    place = checkpoint.parents[1] / f"explain_{metrics['fingerprint']}"
    assert (place / "explain.json").is_file()
    shutil.rmtree(place)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::xray_lightning.UnknownPatientsWarning")
def test_siim_films_are_scored_by_their_masks(checkpoint, tmp_path, write_dicom) -> None:
    """Films of a phantom the network has not seen, in SIIM's layout, their masks at 1024 px."""
    phantom, rows, masks = Phantom(90, seed=5, size=64), ["ImageId, EncodedPixels"], []
    for number, record in enumerate(phantom.records):
        ill = any(box.label == "Pneumothorax" for box in record.boxes)
        if not (ill or number % 5 == 0):
            continue
        name = f"1.2.{number}"
        write_dicom(tmp_path / f"dicom-images-train/1/{number}/{name}.dcm", phantom.read(record))
        if ill:
            masks.append(phantom.mask(record, "Pneumothorax"))
        pixels = run_lengths(np.kron(masks[-1], np.ones((16, 16))) > 0) if ill else -1
        rows.append(f"{name},{pixels}")
    (tmp_path / "train-rle.csv").write_text("\n".join(rows) + "\n")
    siim = ["data=siim", f"data.root={tmp_path}", "images=all", f"hydra.run.dir={tmp_path / 'out'}"]
    alone = ["methods=cam,gradient", "saliency=none", "shortcuts=false"]
    assert "place of Pneumothorax: its exact mask" in explain(checkpoint, *QUICK, *siim, *alone)
    values = json.loads((tmp_path / "out/explain.json").read_text())
    (label,) = values["localisation"]["labels"].values()
    assert label["images"] == len(masks) > 10
    assert label["place"] == "its exact mask"
    halves = [mask.reshape(32, 2, 32, 2).mean(axis=(1, 3)) for mask in masks]
    area = np.mean([(share >= min(0.5, share.max())).mean() for share in halves])
    assert label["area"] == pytest.approx(area)
    boxes = np.mean([np.ptp(np.nonzero(mask)[0]) * np.ptp(np.nonzero(mask)[1]) for mask in masks])
    assert label["area"] < 0.8 * boxes / 64**2, "a box would be larger"
