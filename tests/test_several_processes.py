"""Two gloo processes on a CPU give the figures of one, score every image once and write once."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from running import TRAIN, comparable, kill, read_table, start
from running import run_alone as run
from sklearn.metrics import roc_auc_score
from toy import quiet_trainer

import xray_lightning as xl
from xray_lightning.cli.build import data_from
from xray_lightning.cli.opening import read_settings

pytestmark = [pytest.mark.slow, pytest.mark.alone]

# Batch norm, whose running statistics differ between the processes; 15 validation images are two
# batches in one process and one in the other.
TOY = ["data.patients=61", "data.size=64", "image_size=32", "batch_size=7", "augment=light"]
TOY += ["model=resnet50", "model.backbone=resnet10t", "model.dropout=0.2", "epochs=3"]
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
WAIT = 300


def metrics(run_folder: Path) -> Any:
    return json.loads((run_folder / "metrics.json").read_text())


def processes_of(text: str) -> list[int]:
    """Ids of the processes with a text in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if int(entry.name) != os.getpid() and text.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def wait_for_none(text: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while left := processes_of(text):
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def trained(folder: Path) -> subprocess.CompletedProcess[str]:
    return run([*TRAIN, *TOY, *TWO, "hydra.run.dir=two"], folder)


@pytest.fixture
def started(folder: Path) -> Iterator[Any]:
    """Start a run and wait until its first epoch is in the last checkpoint."""
    processes = []

    def start_run(name: str, *settings: str) -> subprocess.Popen[str]:
        command = [*TRAIN, *TOY, *TWO, f"hydra.run.dir={folder / name}", *settings]
        last = folder / name / "checkpoints/last.ckpt"
        streams = {"cwd": folder, "stderr": subprocess.PIPE}
        processes.append(start(command, lambda _: last.exists(), **streams))
        return processes[-1]

    yield start_run
    for process in processes:
        kill(process)


def test_only_the_first_process_writes(trained, folder) -> None:
    log = (folder / "two/train.log").read_text()
    assert "2 processes x 7 images a step" in log
    for text in (trained.stdout, log):
        for once in ("INFO epoch 1/3", "INFO epoch 3/3", "best checkpoint", "split patient ["):
            assert text.count(once) == 1 + (text is trained.stdout and once == "split patient [")
    for once in ("mean test AUROC", "run directory:", "images per second"):
        assert trained.stdout.count(once) == 1
    assert "Traceback" not in trained.stderr
    assert [path.name for path in (folder / "two").glob("*.log")] == ["train.log"]
    assert [path.name for path in (folder / "outputs").iterdir()] == ["cache"]
    events = (folder / "two/tensorboard").glob("events.*")  # ....TIME.HOST.PROCESS.NUMBER
    assert len({path.name.split(".")[-2] for path in events}) == 1
    assert json.loads((folder / "two/environment.json").read_text())["processes"] == 2
    images = json.loads((folder / "two/environment.json").read_text())["split"]["images"]["train"]
    rows = read_table(folder / "two/metrics.csv")
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert images - 3 <= float(rows[0]["images_seen"]) <= images


def validate_alone(
    run: Path, cache: Path, name: str
) -> tuple[pl.Trainer, xl.XrayTask, xl.XrayDataModule]:
    """One process validates a checkpoint as metrics.csv says that several did."""
    checkpoint = xl.load_checkpoint(run / "checkpoints" / name)
    logged = read_table(run / "metrics.csv")[checkpoint.epoch]
    data = data_from(read_settings(checkpoint, [f"cache_dir={cache}"]))
    task, trainer = xl.XrayTask(checkpoint.build_net()), quiet_trainer(run / "alone")
    alone = trainer.validate(task, data, verbose=False)[0]
    assert len(data.subset_records("val")) % 2 == 1
    for key in ("val/auroc", "val/loss", *(f"val/auroc/{label}" for label in data.labels)):
        text = logged[key] or "nan"
        assert alone[key] == pytest.approx(float(text), abs=1e-6, nan_ok=True)
    return trainer, task, data


@pytest.mark.usefixtures("trained")
def test_one_process_validates_alike(folder: Path) -> None:
    trainer, task, data = validate_alone(folder / "two", folder / "outputs/cache", "best.ckpt")
    ours = xl.summarise(xl.predict_subset(trainer, task, data, "val"), "")["auroc"]["mean"]
    assert ours == pytest.approx(metrics(folder / "two")["val"]["auroc"]["mean"], abs=1e-6)
    for subset in ("val", "test"):
        table = xl.read_predictions(folder / f"two/predictions_{subset}.csv")
        assert table.image_ids == tuple(record.image_id for record in data.subset_records(subset))
        np.testing.assert_array_equal(table.targets, data.subset_targets(subset))


JUDGE = """
import json, sys
import numpy as np, pytorch_lightning as pl, torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from xray_lightning import *
from xray_lightning.training.optim import Plateau
from toy import Findings

targets = np.random.default_rng(0).integers(0, 2, (87, 3)).astype(float)
targets[np.random.default_rng(1).random(targets.shape) < 0.4] = np.nan
targets[:, 2] = 0
noise = Findings(("a", "b", "never"), targets)

class Told(Plateau):
    told = []
    def update(self, value):
        self.told.append(value)

def plain(metrics):
    return {k: float(v) for k, v in metrics.items()}

def main(world):
    torch.manual_seed(0)
    data = XrayDataModule(noise, image_size=32, batch_size=4, cache_dir="noise")
    task = XrayTask(XrayNet(data.labels, "test_resnet", image_size=32), schedule=Told())
    best = ModelCheckpoint("best%d" % world, monitor="val/auroc", mode="max")
    stop = EarlyStopping("val/auroc", mode="max", patience=9)
    trainer = pl.Trainer(accelerator="cpu", devices=world, max_epochs=2, logger=False,
        strategy="ddp" if world > 1 else "auto", num_sanity_val_steps=0, callbacks=[best, stop],
        enable_progress_bar=False, enable_model_summary=False)
    first = plain(trainer.validate(task, data, verbose=False)[0])
    shards = {p: list(getattr(data, p + "_dataloader")().sampler) for p in ("val", "test")}
    images = [i for b in data.test_dataloader() for i in b["image_id"]]
    test = plain(trainer.test(task, data, verbose=False)[0])
    scores = predict_subset(trainer, task, data, "test").scores.tolist()
    trainer.fit(task, data)
    facts = {"first": first, "test": test, "scores": scores, "shards": shards, "images": images,
        "told": Told.told, "fitted": plain(trainer.callback_metrics), "best": best.best_model_path,
        "best_score": float(best.best_model_score), "stop": float(stop.best_score)}
    with open(f"facts_{world}_{trainer.global_rank}.json", "w") as file:
        json.dump(facts, file)

main(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def judged(folder: Path) -> dict[int, list[Any]]:
    """What each process of one, two and three found, by their number."""
    (folder / "judge.py").write_text(JUDGE)
    for world in (1, 2, 3):
        done = run([sys.executable, "judge.py", str(world)], folder)
        assert "sync_dist" not in done.stderr
    return {
        world: [json.loads((folder / f"facts_{world}_{k}.json").read_text()) for k in range(world)]
        for world in (1, 2, 3)
    }


@pytest.mark.parametrize("world", [2, 3])
def test_figures_and_images_of_one_process(world: int, judged: dict[int, list[Any]]) -> None:
    """With an odd number of images, batches of uneven number and unknown targets."""
    (alone,) = judged[1]
    assert len(alone["images"]) % 2 == 1
    for found in judged[world]:
        for kind in ("first", "test"):
            assert found[kind] == pytest.approx(alone[kind], abs=1e-6, nan_ok=True)
        np.testing.assert_allclose(found["scores"], alone["scores"], atol=1e-6)
    shards = [found["images"] for found in judged[world]]
    assert sorted(name for shard in shards for name in shard) == sorted(alone["images"])
    for rank, found in enumerate(judged[world]):
        assert found["images"] == alone["images"][rank::world]
        for subset in ("val", "test"):
            assert found["shards"][subset] == alone["shards"][subset][rank::world]


@pytest.mark.parametrize("world", [2, 3])
def test_all_processes_decide_alike(world: int, judged: dict[int, list[Any]]) -> None:
    first, *others = judged[world]
    assert len(first["told"]) == 3  # before the fit and in its two epochs
    assert np.float32(first["told"][-1]) == pytest.approx(first["fitted"]["val/auroc"], abs=1e-7)
    for found in others:
        for name in ("told", "best", "best_score", "stop"):
            assert found[name] == first[name]
        assert found["fitted"] == pytest.approx(first["fitted"], abs=0, nan_ok=True)


def test_the_independent_auroc(judged: dict[int, list[Any]], folder: Path) -> None:
    sys.argv = ["judge.py"]
    namespace: dict[str, Any] = {}
    exec(JUDGE.rsplit("main(int", 1)[0], namespace)
    records = {record.image_id: record for record in namespace["noise"].records}
    (alone,) = judged[1]
    targets = np.array([records[name].targets for name in alone["images"]])
    for column, label in enumerate("ab"):
        known = ~np.isnan(targets[:, column])
        scores = np.array(alone["scores"])[known, column]
        expected = roc_auc_score(targets[known, column], scores)
        for found in judged[2]:
            assert found["test"][f"test/auroc/{label}"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.usefixtures("trained")
def test_killed_and_resumed_equals_uninterrupted(folder: Path, started: Any) -> None:
    process = started("killed")
    assert len(processes_of(str(folder / "killed"))) == 2
    kill(process)
    wait_for_none(str(folder / "killed"))
    assert not (folder / "killed/metrics.json").exists()
    done = run([*TRAIN, f"resume={folder / 'killed'}"], folder)
    assert done.stdout.count("run directory:") == 1
    for name in ("metrics.csv", "metrics.json"):
        assert comparable(folder / "killed" / name) == comparable(folder / "two" / name)
    states = [
        torch.load(folder / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("killed", "two")
    ]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_ctrl_c_ends_all(folder: Path, started: Any) -> None:
    process = started("stopped", "epochs=500")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert output.count("continue with: python train.py resume=") == 1
    wait_for_none(str(folder / "stopped"))


def test_an_error_ends_all(folder: Path) -> None:
    wild = ["optim.optimizer.lr=1e30", "optim.head_lr=1e30", "schedule.warmup_epochs=0"]
    name = folder / "wild"
    command = [*TRAIN, *TOY, *TWO, *wild, f"hydra.run.dir={name}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode in (2, -signal.SIGKILL)  # killed where another process fails first
    assert "error: the loss became" in done.stderr
    wait_for_none(str(name))


SHARES = """
import sys, torch
from torch.distributed import device_mesh, init_process_group
from toy import toy_net
from xray_lightning.training.sharding import fill_whole, shard

init_process_group("gloo")
net = toy_net(["a"], backbone=sys.argv[1])
before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
size = sum(one.numel() for one in net.parameters())
whole = shard(net, device_mesh.init_device_mesh("cpu", (2,)))
held = sum(one.to_local().numel() for one in net.parameters())
with torch.no_grad():
    for one in net.parameters():
        one.add_(1)
    for one in whole.parameters():
        one.zero_()
fill_whole(whole, net, torch.device("cpu"))
learned = {key for key, _ in whole.named_parameters()}
for key, tensor in whole.state_dict().items():
    assert torch.equal(tensor, before[key] + (key in learned)), key
assert 0.4 * size < held < 0.6 * size, (held, size)
"""


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_weights_shared_out(name: str, folder: Path) -> None:
    """Each process holds half of them; a step is that of DistributedDataParallel."""
    (folder / "shares.py").write_text(SHARES)
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "shares.py", name]
    run([sys.executable, *words], folder)
    net = ["model=vit_small", f"model.backbone={name}", "freeze_epochs=1", "optim.layer_decay=0.75"]
    for kind in ("ddp", "fsdp"):
        run([*TRAIN, *TOY, *TWO, f"trainer={kind}", *net, f"hydra.run.dir={name}_{kind}"], folder)
    ddp, fsdp = folder / f"{name}_ddp", folder / f"{name}_fsdp"
    for ours, theirs in zip(*(read_table(p / "metrics.csv") for p in (fsdp, ddp)), strict=True):
        ours, theirs = ({k: float(v or "nan") for k, v in row.items()} for row in (ours, theirs))
        del ours["images_per_second"], theirs["images_per_second"]
        assert ours == pytest.approx(theirs, rel=1e-5, nan_ok=True)
    path = "checkpoints/last.ckpt"
    states = [torch.load(p / path, weights_only=True)["state_dict"] for p in (fsdp, ddp)]
    for key, tensor in states[1].items():
        torch.testing.assert_close(states[0][key], tensor, rtol=1e-4, atol=1e-5)
    assert {p.name for p in (fsdp / "maps").iterdir()} >= {"val_epoch1.png", "test.png"}
    validate_alone(fsdp, folder / "outputs/cache", "last.ckpt")
    run([*TRAIN, f"resume={fsdp}", "trainer.devices=1", "trainer.max_epochs=4"], folder)
    validate_alone(fsdp, folder / "outputs/cache", "last.ckpt")


def test_more_processes_than_images(folder: Path) -> None:
    few = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=99"]
    few += ["trainer.precision=32-true", "hydra.run.dir=many"]
    done = run([*TRAIN, *TOY, *few], folder, 2)
    assert "99 processes cannot share the" in done.stderr
    assert "Traceback" not in done.stderr


def test_tasks_of_slurm_share_a_folder(trained, folder) -> None:
    """Slurm starts the processes, here by hand with the variables that srun sets."""
    job = {"SLURM_JOB_ID": "4321", "SLURM_STEP_ID": "7", "SLURM_JOB_NAME": "train"}
    job |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODELIST": "127.0.0.1"}
    job |= {"SLURM_NODEID": "0", "SLURM_CPUS_PER_TASK": "1", "MASTER_ADDR": "127.0.0.1"}
    tasks = []
    for rank in ("0", "1"):
        place = job | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}
        apart = {"env": os.environ | place, "stderr": subprocess.PIPE}
        tasks.append(start([*TRAIN, *TOY, *TWO], lambda _: True, cwd=folder, **apart))
        time.sleep(1.5)  # another second: a folder named by the time would be another
    texts = [task.communicate(timeout=WAIT) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], texts
    made = folder / "outputs/slurm-4321.7_resnet50_patient"
    assert {path.name for path in (folder / "outputs").iterdir()} == {"cache", made.name}
    assert "run directory:" in texts[0][0]
    assert texts[1][0] == ""
    assert metrics(made) == metrics(folder / "two")


def test_two_nodes_of_which_one_dies(folder: Path) -> None:
    """Four processes under two agents of torchrun; two go on, with the figures of one."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = free.getsockname()
    words = ["--nnodes=2", "--nproc-per-node=2", "--rdzv-backend=c10d", "--local-addr=127.0.0.1"]
    words += [f"--rdzv-endpoint={place[0]}:{place[1]}", TRAIN[1], *TOY, *TWO, "epochs=500"]
    command = [sys.executable, "-m", "torch.distributed.run", *words, "trainer.num_nodes=2"]
    folders = partial(folder.glob, "outputs/torchrun-none.*_resnet50_patient/checkpoints/last.ckpt")
    apart = {"cwd": folder, "stderr": subprocess.PIPE}
    with socket.socket() as asks:
        first = start(command, lambda _: asks.connect_ex(place) == 0, **apart)
    other = start(command, lambda _: [*folders()], **apart)
    status = {p: Path(f"/proc/{p}/status").read_text() for p in processes_of("trainer.num_nodes=2")}
    theirs = [p for p, text in status.items() if f"PPid:\t{other.pid}\n" in text]
    for process in (other.pid, *theirs):
        os.kill(process, signal.SIGKILL)
    other.communicate()
    said = first.communicate(timeout=WAIT)[1]
    assert (len(theirs), first.returncode) == (2, 1)
    assert "error: another of the 4 processes of this run is gone" in said
    assert "[rank0]: Traceback" not in said
    nodes = next(folders()).parents[1]
    validate_alone(nodes, folder / "outputs/cache", "last.ckpt")
    run([*TRAIN, f"resume={nodes}", "trainer.num_nodes=1", "trainer.max_epochs=9"], folder)
    validate_alone(nodes, folder / "outputs/cache", "last.ckpt")
