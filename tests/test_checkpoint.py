"""Checkpoints of a real run: they rebuild their network, and nothing foreign is accepted."""

import hashlib
import re
import resource
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.optim import AdamW
from toy import data_fixture, quiet_trainer

from xray_lightning import checkpoint as module
from xray_lightning.checkpoint import FORMAT, KEY, Description, load_checkpoint, weights_sha256
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.deploy.classifier import load_classifier
from xray_lightning.errors import CheckpointError, ConfigError, OutputError
from xray_lightning.models.network import XrayNet
from xray_lightning.training.optim import Cosine
from xray_lightning.training.run import AtomicCheckpointIO
from xray_lightning.training.task import XrayTask

data = data_fixture(14)


def new_task(data: XrayDataModule, *, described: bool = True) -> XrayTask:
    net = XrayNet(data.labels, "test_resnet", image_size=32, dropout=0.1)
    task = XrayTask(net, optimizer=partial(AdamW, lr=1e-2), head_lr=1e-2, schedule=Cosine())
    if described:
        split = {"name": data.split.name, "subsets": dict(data.split.subset_fingerprints)}
        split["fingerprint"] = data.split.fingerprint
        task.description = Description(
            net.config, dict(data.preprocessing), split, {"seed": 1, "x": [1.5]}
        )
    return task


def fit(task: XrayTask, data: XrayDataModule, folder: Path, epochs: int, **resume) -> Path:
    keep = [ModelCheckpoint(folder, "last", enable_version_counter=False)]
    plugins = [AtomicCheckpointIO()]
    trainer = quiet_trainer(folder, max_epochs=epochs, callbacks=keep, plugins=plugins)
    trainer.fit(task, data, **resume)
    return folder / "last.ckpt"


@pytest.fixture(scope="module")
def run(data: XrayDataModule, tmp_path_factory: pytest.TempPathFactory) -> tuple[XrayTask, Path]:
    """A task that was trained for two epochs, and its last checkpoint."""
    task = new_task(data)
    return task, fit(task, data, tmp_path_factory.mktemp("run"), 2)


@pytest.fixture
def altered(run: tuple[XrayTask, Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes the checkpoint again with changes."""

    def write(change: Callable[[dict[str, object]], object]) -> Path:
        raw = torch.load(run[1], weights_only=True)
        change(raw)
        torch.save(raw, tmp_path / "altered.ckpt")
        return tmp_path / "altered.ckpt"

    return write


@torch.no_grad()
def test_round_trip(run: tuple[XrayTask, Path], data: XrayDataModule) -> None:
    task, path = run
    checkpoint = load_checkpoint(str(path))
    assert (checkpoint.path, checkpoint.description) == (path, task.description)
    assert (checkpoint.description.labels, checkpoint.epoch) == (data.labels, 1)
    net = checkpoint.build_net()
    assert not net.training
    assert set(checkpoint.state) == set(task.net.state_dict())
    images = torch.rand(3, 1, 32, 32)
    assert torch.equal(net(images), task.net.eval()(images))
    raw = torch.load(path, weights_only=True)
    assert raw[KEY]["format"] == FORMAT
    assert "hyper_parameters" not in raw
    assert not [file.name for file in path.parent.iterdir() if "partial" in file.name]


def test_operating_points_are_stored_and_nothing_else_changes(run, altered) -> None:
    path = altered(lambda raw: None)
    before = torch.load(path, weights_only=True)
    points = {"rule": "youden", "labels": {"Mass": {"threshold": 0.25, "note": ""}}}
    module.store_operating_points(path, points)
    stored = load_checkpoint(path)
    assert stored.description.operating_points == points
    assert stored.weights_sha256 == weights_sha256(stored.build_net().state_dict())
    assert stored.weights_sha256 == load_checkpoint(run[1]).weights_sha256
    assert run[0].description == replace(stored.description, operating_points={})
    after = torch.load(path, weights_only=True)
    assert after.keys() == before.keys()
    torch.testing.assert_close(after["state_dict"], before["state_dict"], rtol=0, atol=0)
    assert [file.name for file in path.parent.iterdir()] == ["altered.ckpt"]


def test_the_hash_sees_every_name_type_shape_and_value() -> None:
    plain = torch.tensor([[1.0, 2.0]])
    text = b"a torch.float32 (1, 2)\n" + np.array([1, 2], "<f4").tobytes()
    assert weights_sha256({"a": plain}) == hashlib.sha256(text).hexdigest()
    count = torch.tensor(3)  # of no dimension, as batch normalisation counts
    both = {"a": plain, "n": count}
    assert weights_sha256(dict(reversed(both.items()))) == weights_sha256(both)
    strided = torch.tensor([[1.0, 0.0], [2.0, 0.0]]).T[:1]
    assert weights_sha256({"a": strided, "n": count}) == weights_sha256(both)
    others = [plain.T, plain.half(), plain.view(torch.int32), plain.nextafter(plain + 1)]
    every = [both, {"b": plain, "n": count}, *({**both, "a": other} for other in others)]
    assert len({weights_sha256(state) for state in every}) == len(every)


@pytest.mark.parametrize("limit", [1, 10_000, 900_000, 1_990_000])
def test_no_room_for_a_checkpoint(tmp_path: Path, limit: int) -> None:
    """The file, its size and what is free are named, and the older one stays."""
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"old")
    raw = {"state_dict": {"a": torch.zeros(250_000)}, "optimizers": [{"b": torch.zeros(250_000)}]}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OutputError, match=r"last\.ckpt cannot .*about 2\.0 MB, [\d,.]+ MB are"):
            AtomicCheckpointIO().save_checkpoint(raw, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_torch_refuses_to_save_is_no_full_disk(tmp_path: Path) -> None:
    class Refusing:
        def __reduce__(self) -> str:
            raise RuntimeError("never")

    with pytest.raises(RuntimeError, match="never"):
        AtomicCheckpointIO().save_checkpoint({"a": Refusing()}, str(tmp_path / "new/a.ckpt"))
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]


@pytest.mark.filterwarnings("ignore:.*no `val_dataloader`")
def test_a_task_on_other_loaders_resumes_only(data: XrayDataModule, tmp_path: Path) -> None:
    """Nobody then knows how an image is prepared for the network."""
    loader = data.train_dataloader()
    path = fit(new_task(data, described=False), loader, tmp_path, 1)
    with pytest.raises(CheckpointError, match="was not written by xray_lightning: it has no entry"):
        load_checkpoint(path)
    fit(new_task(data, described=False), loader, tmp_path, 2, ckpt_path=path, weights_only=True)


def test_the_checkpoint_of_any_trainer_is_a_classifier(data, tmp_path) -> None:
    """As the README has it: a plain Trainer, nothing of ours but the task and the data."""
    task = XrayTask(XrayNet(data.labels, "test_resnet", image_size=32))
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, enable_progress_bar=False
    )
    trainer.fit(task, data)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
    with torch.no_grad():
        wanted = torch.sigmoid(task.eval()(torch.from_numpy(images[:, None]) / 255))
    (kept,) = tmp_path.glob("**/epoch=0*.ckpt")
    for path in (tmp_path / "own.ckpt", kept):
        classifier = load_classifier(path, device="cpu")
        assert classifier.labels == data.labels
        np.testing.assert_allclose(classifier(images).scores, wanted, atol=1e-6)
    description = load_checkpoint(kept).description
    assert description.split["subsets"] == data.split.subset_fingerprints
    assert description.split["fingerprint"] == data.split.fingerprint
    assert description.preprocessing == {"image_size": 32, "clahe": False}


def test_a_network_for_other_images_is_not_trained(data: XrayDataModule, tmp_path: Path) -> None:
    task = XrayTask(XrayNet(data.labels, "test_resnet", image_size=64))
    with pytest.raises(ConfigError, match="built for 64 px, the data have image_size=32"):
        fit(task, data, tmp_path, 1)


def test_no_flipped_bit_changes_what_is_read(run: tuple[XrayTask, Path], tmp_path: Path) -> None:
    """Every region of the file: records, local headers, the directory and its end."""
    content, path = run[1].read_bytes(), tmp_path / "flipped.ckpt"
    sound = load_checkpoint(run[1])
    rng, noticed = np.random.default_rng(0), 0
    for place in [*rng.integers(0, len(content), 120), *(-rng.integers(1, 4000, 60)), 5, 20]:
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(spoilt)
        try:
            read = load_checkpoint(path)
        except CheckpointError:
            noticed += 1
            continue
        assert read.description == sound.description  # padding between the records
        assert read.epoch == sound.epoch
        assert all(torch.equal(read.state[name], sound.state[name]) for name in sound.state)
    assert noticed > 100


Change = Callable[[dict[str, object]], object]


def put(*path: str, to) -> Change:
    def change(raw: dict[str, object]) -> None:
        for key in path[:-1]:
            raw = raw[key]
        raw[path[-1]] = to

    return change


def weight(change: Callable[[torch.Tensor], object]) -> Change:
    def changed(raw: dict[str, object]) -> None:
        name = "net.head.classifier.weight"
        raw["state_dict"][name] = change(raw["state_dict"][name])

    return changed


NAN, WEIGHT = float("nan"), "state_dict.net.head.classifier.weight"
BIAS = "net.head.classifier.bias"
ITSELF: list[object] = []
ITSELF.append(ITSELF)
WRONG: dict[str, tuple[object, ...]] = {  # values of an entry
    "net": (None, [], 3, "x", {}),
    "net.std": ("x", None, NAN, float("inf"), True),
    "net.mean": (NAN, "x", [0.5]),
    "net.labels": (None, "Mass", 3, [3], ["a", None]),
    "net.image_size": ("32", 32.5, 64, True),
    "net.dropout": (True, "x", NAN),
    "net.backbone": (None, 3, ["x"]),
    "net.head_options": ([], {"x": torch.ones(1)}),
    "net.cbam_after": ("block3", [1]),
    "net.cbam_reduction": ("8", 8.0),
    "net.normalise": (1,),
    "preprocessing": (None, [], 3, {}),
    "preprocessing.image_size": ("32", 0),
    "preprocessing.clahe": ("no", 1),
    "split": (None, [], "x", {}),
    "split.subsets": ({"train": "0"}, None, "x"),
    "split.fingerprint": (None, 3),
    "split.patients": ({"train": [1], "val": []}, {"val": "a"}, []),
    "operating_points": (None, [], 3, {"x": NAN}, {"labels": [1]}),
    "config": (None, [], 3, {"x": ITSELF}, {"x": b"x"}, {"x": torch.ones(1)}, {"x": {1, 2}}),
}
ODD = [(name, put(KEY, *name.split("."), to=to)) for name, tos in WRONG.items() for to in tos]
ODD += [
    *((f"std={to} not above 0", put(KEY, "net", "std", to=to)) for to in (-1, 0, -0.0)),
    *(("model.dropout must be", put(KEY, "net", "dropout", to=to)) for to in (1, -0.1)),
    *(("one label, each once", put(KEY, "net", "labels", to=to)) for to in ([], ["a", "a"])),
    ("unheard_of", put(KEY, "net", "normalise", to="unheard_of")),
    ("describes no network of ...'unheard_of'", put(KEY, "net", "backbone", to="unheard_of")),
    ("describes no network of this version: ...'novelty'", put(KEY, "net", "novelty", to=3)),
    ("hf-hub:timm/resnet18", put(KEY, "net", "backbone", to="hf-hub:timm/resnet18")),
    ("split.patients.train is missing", put(KEY, "split", "population", to="nih")),
    ("net.labels is missing", lambda raw: raw[KEY]["net"].pop("labels")),
    ("split.fingerprint is missing", lambda raw: raw[KEY]["split"].pop("fingerprint")),
    ("preprocessing.image_size 64", put(KEY, "preprocessing", "image_size", to=64)),
    (f"{WEIGHT} has values", weight(lambda x: x * NAN)),
    (f"{WEIGHT} has values", weight(lambda x: x / 0)),
    (f"{WEIGHT} has values that are missing", weight(lambda x: x.to("meta"))),
    (f"{WEIGHT} is not a plain tensor", weight(lambda x: x.tolist())),
    (f"{WEIGHT} is not a plain tensor", weight(lambda x: x.to_sparse())),
    (f"{WEIGHT} is torch.float16, the network has torch.float32", weight(lambda x: x.half())),
    (f"{WEIGHT} is torch.bfloat16", weight(lambda x: x.bfloat16())),
    (f"{WEIGHT} is torch.float64", weight(lambda x: x.double())),
    (f"{WEIGHT} is torch.int64", weight(lambda x: x.long())),
    (f"{WEIGHT} is torch.complex64", weight(lambda x: x.to(torch.complex64))),
    ("head.classifier.weight", weight(lambda x: x[:3])),
    ("only in part...(1): head.classifier.bias", lambda raw: raw["state_dict"].pop(BIAS)),
    *(("state_dict has no tensors", put("state_dict", to=to)) for to in (torch.ones(3), [], {})),
    ("epoch must be int, got 'last'", put("epoch", to="last")),
    ("has format list", put(KEY, to=[])),
    *(
        (f"has format {version}, this version reads 1 to {FORMAT}", put(KEY, "format", to=version))
        for version in (FORMAT + 1, None)
    ),
    ("is incomplete", lambda raw: raw.pop("state_dict")),
    ("is incomplete", put(KEY, "extra", to=1)),
]


@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
@pytest.mark.parametrize(("words", "change"), ODD, ids=[f"{i}-{w}" for i, (w, _) in enumerate(ODD)])
def test_an_odd_entry_is_named(words: str, change: Change, altered: Callable[..., Path]) -> None:
    path, match = altered(change), re.escape(words).replace(r"\.\.\.", ".*")
    with pytest.raises(CheckpointError, match=rf"altered\.ckpt.*{match}"):
        load_checkpoint(path).build_net()


@pytest.mark.parametrize("weights", ["imagenet", "/etc/passwd", "hf-hub:timm/resnet18"])
def test_no_weights_are_read_or_fetched_to_build_it(weights, altered, monkeypatch) -> None:
    for name in ("load_backbone", "pretrained_backbone"):
        monkeypatch.setattr(f"xray_lightning.models.backbones.{name}", pytest.fail)
    checkpoint = load_checkpoint(altered(put(KEY, "net", "weights", to=weights)))
    assert set(checkpoint.build_net().state_dict()) == set(checkpoint.state)


def test_foreign_files(tmp_path: Path) -> None:
    for number, content in enumerate([{"state_dict": {}}, [1, 2], torch.zeros(3)]):
        torch.save(content, tmp_path / f"{number}.ckpt")
        for ask in (load_checkpoint, partial(module.store_operating_points, points={})):
            with pytest.raises(CheckpointError, match=rf"{number}\.ckpt was not written by xray"):
                ask(tmp_path / f"{number}.ckpt")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("code.ckpt", Path(), r"no checkpoint of plain values \(UnpicklingError\)"),
        *(("half.ckpt", x, r"half\.ckpt is damaged or no checkp") for x in (0, 0.01, 0.5, 0.99)),
        ("", None, r"no checkpoint at .*checkpoints/best"),
        ("absent.ckpt", None, r"no checkpoint at .*absent\.ckpt"),
    ],
)
def test_what_is_no_checkpoint(name: str, content, match: str, run, tmp_path: Path) -> None:
    """Code, which is never unpickled; a share of a file; a folder; nothing."""
    if isinstance(content, Path):
        torch.save({KEY: content}, tmp_path / name)
    elif content is not None:
        whole = run[1].read_bytes()
        (tmp_path / name).write_bytes(whole[: int(content * len(whole))])
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(tmp_path / name)


def test_labels_must_be_known() -> None:
    description = Description({"labels": ["Mass", "Nodule"]}, {}, {})
    for labels in (("Mass", "Nodule"), ("Nodule", "Mass"), ("Nodule",)):
        module.require_labels(description, labels, "best.ckpt")
    match = r"^best\.ckpt was trained on the 2 labels Mass, N.*data\.label="
    for labels in (("Lung Opacity",), ("Mass", "Nodule", "Hernia"), ()):
        with pytest.raises(CheckpointError, match=match):
            module.require_labels(description, labels, "best.ckpt")
