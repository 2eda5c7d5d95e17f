"""Checkpoints of a real run: they rebuild their network, and nothing foreign is accepted."""

import resource
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.optim import AdamW

from xray_lightning.checkpoint import (
    FORMAT,
    KEY,
    AtomicCheckpointIO,
    Bundle,
    load_checkpoint,
    require_labels,
    store_validation,
)
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.phantom import Phantom
from xray_lightning.errors import CheckpointError, OutputError, WeightsError
from xray_lightning.models.network import XrayNet
from xray_lightning.optim import Cosine
from xray_lightning.task import XrayTask

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),  # inside Lightning
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # on purpose, for 30 images
]


def new_task(data: XrayDataModule, *, bundled: bool = True) -> XrayTask:
    net = XrayNet(data.labels, "test_resnet", image_size=32, dropout=0.1)
    task = XrayTask(net, optimizer=partial(AdamW, lr=1e-2), head_lr=1e-2, schedule=Cosine())
    if bundled:
        split = {"name": data.split.name, "parts": dict(data.split.part_fingerprints)}
        task.bundle = Bundle(net.config, dict(data.preprocessing), split, {"seed": 1, "x": [1.5]})
    return task


def fit(task: XrayTask, data: XrayDataModule, folder: Path, epochs: int, **resume: Any) -> Path:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=folder,
        logger=False,
        callbacks=[ModelCheckpoint(folder, "last", enable_version_counter=False)],
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, data, **resume)
    return folder / "last.ckpt"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> XrayDataModule:
    cache = tmp_path_factory.mktemp("cache")
    return XrayDataModule(Phantom(14, size=32), image_size=32, batch_size=8, cache_dir=cache)


@pytest.fixture(scope="module")
def run(data: XrayDataModule, tmp_path_factory: pytest.TempPathFactory) -> tuple[XrayTask, Path]:
    """A task that was trained for two epochs, and its last checkpoint."""
    task = new_task(data)
    return task, fit(task, data, tmp_path_factory.mktemp("run"), 2)


@pytest.fixture
def altered(run: tuple[XrayTask, Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes the checkpoint again with changes."""

    def write(change: Callable[[dict[str, Any]], Any]) -> Path:
        raw = torch.load(run[1], weights_only=True)
        change(raw)
        torch.save(raw, tmp_path / "altered.ckpt")
        return tmp_path / "altered.ckpt"

    return write


@torch.no_grad()
def test_round_trip(run: tuple[XrayTask, Path], data: XrayDataModule) -> None:
    task, path = run
    checkpoint = load_checkpoint(str(path))
    assert checkpoint.path == path
    assert checkpoint.bundle == task.bundle
    assert checkpoint.bundle.labels == data.labels
    assert checkpoint.epoch == 1
    net = checkpoint.build_net()
    assert not net.training
    assert set(checkpoint.state) == set(task.net.state_dict())
    images = torch.rand(3, 1, 32, 32)
    assert torch.equal(net(images), task.net.eval()(images))


def test_validation_is_stored_and_nothing_else_changes(
    run: tuple[XrayTask, Path], altered: Callable[..., Path]
) -> None:
    path = altered(lambda raw: None)
    before = torch.load(path, weights_only=True)
    validation = {"rule": "youden", "labels": {"Mass": {"threshold": 0.25, "note": ""}}}
    store_validation(path, validation)
    stored = load_checkpoint(path)
    assert stored.bundle.validation == validation
    assert run[0].bundle == replace(stored.bundle, validation={})
    after = torch.load(path, weights_only=True)
    assert after.keys() == before.keys()
    for name, tensor in before["state_dict"].items():
        assert torch.equal(after["state_dict"][name], tensor), name
    assert [file.name for file in path.parent.iterdir()] == ["altered.ckpt"]


def test_nothing_is_stored_in_foreign_files(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(CheckpointError, match="was not written by xray_lightning"):
        store_validation(tmp_path / "foreign.ckpt", {})


def test_a_checkpoint_from_before_operating_points(altered: Callable[..., Path]) -> None:
    path = altered(lambda raw: raw[KEY].pop("validation"))
    assert load_checkpoint(path).bundle.validation == {}


def test_everything_in_it_is_plain(run: tuple[XrayTask, Path]) -> None:
    raw = torch.load(run[1], weights_only=True)
    assert raw[KEY]["format"] == FORMAT
    assert "hyper_parameters" not in raw
    assert not [path.name for path in run[1].parent.iterdir() if "partial" in path.name]


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
        AtomicCheckpointIO().save_checkpoint({"a": Refusing()}, tmp_path / "a.ckpt")
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # that is resuming
def test_resume(data: XrayDataModule, tmp_path: Path) -> None:
    """Lightning loads our checkpoint with weights_only and goes on from its epoch."""
    path = fit(new_task(data), data, tmp_path, 1)
    assert load_checkpoint(path).epoch == 0
    fit(new_task(data), data, tmp_path, 2, ckpt_path=path, weights_only=True)
    assert load_checkpoint(path).epoch == 1


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # that is resuming
def test_a_task_without_a_bundle_resumes_only(data: XrayDataModule, tmp_path: Path) -> None:
    path = fit(new_task(data, bundled=False), data, tmp_path, 1)
    with pytest.raises(CheckpointError, match="was not written by xray_lightning: it has no entry"):
        load_checkpoint(path)
    fit(new_task(data, bundled=False), data, tmp_path, 2, ckpt_path=path, weights_only=True)


def test_foreign_files(tmp_path: Path) -> None:
    for number, content in enumerate([{"state_dict": {}}, [1, 2], torch.zeros(3)]):
        torch.save(content, tmp_path / f"{number}.ckpt")
        with pytest.raises(CheckpointError, match=rf"{number}\.ckpt was not written by xray"):
            load_checkpoint(tmp_path / f"{number}.ckpt")


def test_code_is_never_unpickled(tmp_path: Path) -> None:
    torch.save({KEY: tmp_path}, tmp_path / "code.ckpt")
    with pytest.raises(CheckpointError, match=r"no checkpoint of plain values \(UnpicklingError\)"):
        load_checkpoint(tmp_path / "code.ckpt")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_damage(share: float, run: tuple[XrayTask, Path], tmp_path: Path) -> None:
    content = run[1].read_bytes()
    (tmp_path / "half.ckpt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"half\.ckpt is damaged or no checkpoint of plain"):
        load_checkpoint(tmp_path / "half.ckpt")


def test_folder_and_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"is a folder; name the file, .*checkpoints/best\.ck"
    ):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*absent\.ckpt"):
        load_checkpoint(tmp_path / "absent.ckpt")


@pytest.mark.parametrize("version", [FORMAT + 1, None])
def test_another_format(version: int | None, altered: Callable[..., Path]) -> None:
    path = altered(lambda raw: raw[KEY].update(format=version))
    match = f"has format {version}, this version reads {FORMAT}"
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"backbone": "unheard_of"}, "describes no network of this version: .*'unheard_of'"),
        ({"novelty": 3}, "describes no network of this version: .*'novelty'"),
    ],
)
def test_a_network_that_cannot_be_built(
    change: dict[str, Any], match: str, altered: Callable[..., Path]
) -> None:
    checkpoint = load_checkpoint(altered(lambda raw: raw[KEY]["net"].update(change)))
    with pytest.raises(CheckpointError, match=match):
        checkpoint.build_net()


def test_tensors_of_another_network(altered: Callable[..., Path]) -> None:
    path = altered(lambda raw: raw["state_dict"].pop("net.head.classifier.bias"))
    with pytest.raises(WeightsError, match=r"only in part.*\(1\): head\.classifier\.bias"):
        load_checkpoint(path).build_net()


def test_labels_must_be_known() -> None:
    bundle = Bundle({"labels": ["Mass", "Nodule"]}, {}, {})
    for labels in (("Mass", "Nodule"), ("Nodule", "Mass"), ("Nodule",)):
        require_labels(bundle, labels, "best.ckpt")
    for labels in (("Lung Opacity",), ("Mass", "Nodule", "Hernia"), ()):
        with pytest.raises(
            CheckpointError, match=r"^best\.ckpt was trained on the 2 labels Mass, N.*data\.label="
        ):
            require_labels(bundle, labels, "best.ckpt")


def test_a_kill_while_writing_keeps_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, path = AtomicCheckpointIO(), tmp_path / "folder" / "last.ckpt"
    storage.save_checkpoint({"epoch": 1}, path)
    storage.save_checkpoint({"epoch": 2}, str(path))
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]

    def killed(checkpoint: dict[str, Any], target: IO[bytes]) -> None:
        target.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        storage.save_checkpoint({"epoch": 3}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 2}


@pytest.mark.parametrize(
    "change", [lambda raw: raw.pop("state_dict"), lambda raw: raw[KEY].update(extra=1)]
)
def test_incomplete(change: Callable[[Any], object], altered: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match="is incomplete"):
        load_checkpoint(altered(change))
