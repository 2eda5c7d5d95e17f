"""Which images are looked at, with which maps and boxes; pictures of them during training."""

import cv2
import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy import data_fixture, quiet_trainer, toy_net

from xray_lightning import ConfigError, DataError, XrayDataModule, XrayTask, class_map
from xray_lightning.explain.overlays import BATCH, Choice, make_overlays, map_annotated, order_rows
from xray_lightning.report.gallery import make_heat_maps

SCORES = np.array([0.9, 0.1, 0.5, 0.4, 0.7, 0.2, np.nan], np.float32)
TARGETS = np.array([1, 1, 0, 0, np.nan, 1, 1], np.float32)
BOXED = np.array([0, 1, 0, 0, 0, 1, 0], bool)
data = data_fixture(60, size=64, batch_size=16)  # each finding is in validation


@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        ("fixed", [0, 1, 5, 6]),
        ("boxes", [1, 5]),
        ("confident", [0, 4, 2, 3, 5, 1]),
        ("errors", [1, 2, 5, 3, 0]),  # missed, falsely called, and so on in turn
    ],
)
def test_rows_of_a_rule(rule: str, rows: list[int]) -> None:
    assert order_rows(rule, SCORES, TARGETS, BOXED).tolist() == rows


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "best"}, "rule must be one of fixed, confident, errors, boxes, got 'best'"),
        ({"images": 0}, "images must be an integer of at least 1, got 0"),
        ({"images": "2"}, "images must be an integer of at least 1, got '2'"),
    ],
)
def test_a_choice_that_cannot_work(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Choice(**settings)  # type: ignore[arg-type]


def test_places_go_label_by_label(data: XrayDataModule) -> None:
    scores = np.full((len(data.split.subsets["test"]), 14), np.nan, np.float32)
    places = Choice(images=3, labels=("Mass", "Effusion")).places(data, "test", scores)
    assert [label for _, label in places] == ["Mass"] * 3 + ["Effusion"] * 3
    targets = data.subset_targets("test")
    assert all(targets[row, data.labels.index(label)] == 1 for row, label in places)
    with pytest.raises(ConfigError, match=r"labels must be of Atelectasis, .*, got Cough"):
        Choice(labels=("Cough", "Mass")).places(data, "test", scores)


def test_boxes_drawn_on_a_larger_image(data: XrayDataModule, monkeypatch) -> None:
    monkeypatch.setattr("xray_lightning.explain.overlays.box_to_square", lambda *_: (0, 60, 6, 6))
    with pytest.raises(DataError, match="a box reaches beyond the image"):
        map_annotated(toy_net(data.labels), data, "test", ["cam"])


@pytest.mark.parametrize("method", ["cam", "gradcam"])
def test_each_image_has_its_own_map(data: XrayDataModule, method: str) -> None:
    """Also over the border of a batch."""
    rng, net = np.random.default_rng(0), toy_net(data.labels).eval()
    scores = rng.random((len(data.split.subsets["test"]), 14), dtype=np.float32)
    places = Choice("boxes", images=2).places(data, "test", scores)
    assert len(places) > BATCH
    for (row, label), each in zip(
        places, make_overlays(net, data, "test", places, scores, method=method), strict=True
    ):
        record = data.subset_records("test")[row]
        column = data.labels.index(label)
        assert (each.image_id, each.label) == (record.image_id, label)
        assert (each.score, each.target) == (scores[row, column], record.targets[column])
        image = data.dataset("test")[row]["image"]
        np.testing.assert_array_equal(each.image, image[0])
        heat = class_map(net, image[None], label, method=method)[0]
        np.testing.assert_allclose(each.heat, heat, atol=1e-5)
        halves = [(b.x / 2, b.y / 2, b.width / 2, b.height / 2) for b in record.boxes
                  if b.label == label]  # fmt: skip
        assert each.boxes == tuple(halves)
        assert halves


@pytest.fixture
def task(data: XrayDataModule) -> XrayTask:
    return XrayTask(toy_net(data.labels))


def trainer(folder, *callbacks, **settings):
    usual = {"callbacks": list(callbacks), "max_epochs": 2, "enable_checkpointing": False}
    return quiet_trainer(folder, **usual | settings)


def test_pictures_and_raw_maps_of_each_epoch(data, task, tmp_path) -> None:
    maps = make_heat_maps(tmp_path / "maps", images=1, labels=["Infiltration", "Effusion"])
    logger = TensorBoardLogger(tmp_path, name="", version="log")
    trainer(tmp_path, maps, logger=logger, log_every_n_steps=1).fit(task, data)
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert names == ["val_epoch1.npz", "val_epoch1.png", "val_epoch2.npz", "val_epoch2.png"]
    with np.load(tmp_path / "maps" / "val_epoch2.npz") as kept:
        assert kept["label"].tolist() == ["Infiltration", "Effusion"]
        rows = {record.image_id: n for n, record in enumerate(data.subset_records("val"))}
        for name, label, raw, score in zip(
            kept["image_id"], kept["label"], kept["maps"], kept["score"], strict=True
        ):
            image = data.dataset("val")[rows[str(name)]]["image"][None]
            np.testing.assert_allclose(raw, class_map(task.net, image, str(label))[0], atol=1e-5)
            with torch.no_grad():
                task.net.eval()
                expected = task.net(image).sigmoid()[0, data.labels.index(str(label))]
            assert score == pytest.approx(float(expected), abs=1e-6)
        assert kept["boxes"].shape == (len(kept["box_of"]), 4)
    shown = EventAccumulator(str(tmp_path / "log")).Reload().Images("maps/val")
    assert len(shown) == 2
    pixels = cv2.imdecode(np.frombuffer(shown[-1].encoded_image_string, np.uint8), 1)
    assert np.array_equal(pixels, cv2.imread(str(tmp_path / "maps" / "val_epoch2.png")))


def test_looking_changes_nothing(data: XrayDataModule, tmp_path) -> None:
    nets = []
    for maps in ([], [make_heat_maps(tmp_path / "maps", method="gradcam", images=1)]):
        task = XrayTask(toy_net(data.labels))
        trainer(tmp_path, *maps).fit(task, data)
        nets.append(task.net.state_dict())
    torch.testing.assert_close(*nets, rtol=0, atol=0)


def test_every_second_epoch_and_the_test_part(data, task, tmp_path) -> None:
    """Choosing by score; under inference_mode gradients are wanted all the same."""
    maps = make_heat_maps(tmp_path / "maps", rule="errors", images=1, every=2, method="gradcam")
    run = trainer(tmp_path, maps)
    run.fit(task, data)
    run.test(task, data, verbose=False)
    names = {path.name for path in (tmp_path / "maps").glob("*.png")}
    assert names == {"val_epoch2.png", "test.png"}
    with np.load(tmp_path / "maps" / "test.npz") as kept:
        assert set(kept["target"].tolist()) <= {0, 1}
        for label, score, target in zip(kept["label"], kept["score"], kept["target"], strict=True):
            assert target == 1 or not (data.subset_targets("test")[:, data.labels.index(label)]
                                       == 1).any()  # fmt: skip
            assert 0 < score < 1


def test_what_cannot_be_drawn_is_refused_before_training(data, task, tmp_path) -> None:
    refused = ("every", 0, "an integer of at least 1, got 0"), ("method", "x", "one of cam, .*'x'")
    for setting, value, match in refused:
        with pytest.raises(ConfigError, match=f"{setting} must be {match}"):
            make_heat_maps(tmp_path, **{setting: value})
    with pytest.raises(ConfigError, match=r"labels must be of .*, got Cough"):
        trainer(tmp_path, make_heat_maps(tmp_path / "maps", labels=["Cough"])).fit(task, data)
    loaders = data.train_dataloader(), data.val_dataloader()
    with pytest.raises(ConfigError, match=r"given an XrayTask and an XrayDataModule, got .*NoneT"):
        trainer(tmp_path, make_heat_maps(tmp_path / "maps")).fit(task, *loaders)
    assert not (tmp_path / "maps").exists()


def test_a_choice_without_images_is_drawn_as_such(data, task, tmp_path) -> None:
    maps = make_heat_maps(tmp_path, rule="confident", labels="Hernia")
    assert maps.choice == Choice("confident", 2, ("Hernia",))
    scores = np.full((len(data.split.subsets["val"]), 14), np.nan, np.float32)
    figure = maps.draw_subset(task.net.eval(), data, "val", scores, "none")
    assert "no image of this choice" in [text.get_text() for text in figure.axes[0].texts]
    with np.load(tmp_path / "none.npz") as kept:
        assert kept["maps"].shape == (0, 0, 0)
