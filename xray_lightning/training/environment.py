"""What a run may use of its surroundings, what it records of them, which extras are installed."""

import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

import cv2
import pytorch_lightning as pl
import torch

from xray_lightning.data.datamodule import XrayDataModule, default_workers
from xray_lightning.data.partition import describe_split
from xray_lightning.errors import ConfigError, require_choice
from xray_lightning.records import prevalence
from xray_lightning.writing import Json, read_json, to_plain, write_json

PACKAGES = (
    *("torch", "torchvision", "pytorch-lightning", "timm", "torchmetrics", "albumentations"),
    *("opencv-python-headless", "pydicom", "imagecodecs", "numpy", "pandas", "polars"),
    *("scipy", "scikit-learn", "hydra-core"),
)
PRECISIONS = ("auto", "32-true", "32", "bf16-mixed", "16-mixed")  # heads compute in float32
EPOCHS = 10  # one epoch of a small data set says little about a sampler


def wants_gpu(accelerator: str) -> bool:
    """Whether a trainer with this ``accelerator`` will use a GPU."""
    return torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")


def choose_precision(accelerator: str, precision: str) -> str:
    """That of a trainer: for "auto" bfloat16 on a GPU, else float32; refuses what cannot be."""
    on_gpu = wants_gpu(accelerator)
    if accelerator == "gpu" and not on_gpu:
        remedy = "use trainer=auto or trainer=cpu"
        raise ConfigError(f"trainer.accelerator=gpu, but torch sees no GPU; {remedy}")
    require_choice("trainer.precision", precision, PRECISIONS)
    chosen = precision if precision != "auto" else "bf16-mixed" if on_gpu else "32-true"
    torch.backends.cudnn.allow_tf32 = chosen != "32-true"  # float32 is float32
    return chosen


def count_processes(devices: int | str | Sequence[int], on_gpu: bool) -> int:
    """Number of processes that ``trainer.devices`` asks for on this machine."""
    if devices in (-1, "-1", "auto"):
        return torch.cuda.device_count() if on_gpu else 1
    return devices if isinstance(devices, int) else len(str(devices).split(","))  # numbers of GPUs


def prepare_training(
    cores: int, seed: int, workers: int | None = None, threads: int | None = None, *, on_gpu: bool
) -> dict[str, int]:
    """Seed this process; share its cores among ``workers`` of the loader and ``threads``."""
    workers = default_workers(cores, on_gpu) if workers is None else workers
    threads = max(1, cores - workers) if threads is None else threads
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # or Lightning sets another for processes
    cv2.setNumThreads(1)
    pl.seed_everything(seed, verbose=False)
    return {"workers": workers, "threads": threads}


def write_environment(
    folder: Path,  # of the run
    data: XrayDataModule,  # its data
    trainer: pl.Trainer,  # tells device and processes
    seed: int,  # of the run
    *,
    command: Sequence[str] | None = None,  # that started it; None: this process's
    overrides: Sequence[str] = (),  # settings of the command line
    choices: dict[str, str | None] | None = None,  # the options of each group of settings
) -> None:
    """environment.json: what explains and repeats the run; a resumed run adds an entry."""
    device = trainer.strategy.root_device
    values: Json = {
        "command": list(sys.argv if command is None else command),
        "overrides": list(overrides),
        "choices": choices or {},
        "seed": seed,
        "split": describe_split(data.split),
        "prevalence": to_plain(compare_prevalence(data)),
        "data": {"name": data.source.name, "title": data.source.title, **data.source.identity()},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "processor": platform.processor() or platform.machine(),
        "processes": trainer.world_size,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in PACKAGES},
        "git_commit": get_commit(),
    }
    path = folder / "environment.json"
    if path.is_file():
        first = read_json(path)
        first.setdefault("resumed", []).append(values)
        values = first
    write_json(values, path)


def compare_prevalence(data: XrayDataModule) -> dict[str, tuple[float, float]]:
    """Share of positives of each label, NaN unknown: in the training set and as first drawn."""
    # "normal images" is the share of images with all targets known to be 0.
    shares = []
    for targets in (data.subset_targets("train"), data.draw_targets(EPOCHS)):
        normal = (targets == 0).all(axis=1).mean()
        shares.append([*prevalence(targets).tolist(), float(normal)])
    return dict(zip((*data.labels, "normal images"), zip(*shares, strict=True), strict=True))


def describe_sampling(data: XrayDataModule) -> str | None:
    """What a sampler changes, the three labels it changes most; None if it changes nothing."""
    shares = {name: pair for name, pair in compare_prevalence(data).items() if all(pair)}
    change = {name: abs(math.log(drawn / subset)) for name, (subset, drawn) in shares.items()}
    changed = sorted((name for name in change if change[name] > 0), key=lambda name: -change[name])
    if not changed:
        return None
    shown = ", ".join("{} {:.1%} -> {:.1%}".format(name, *shares[name]) for name in changed[:3])
    return f"the sampler changes the prevalence in training: {shown} (all: environment.json)"


def get_commit() -> str | None:
    """The commit of the source tree, "+changes" if it was edited; None outside a repository."""
    here = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    if not (here / ".git").exists():
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def describe_machine() -> Json:
    """Versions, processors and GPUs."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "version": version("xray_lightning"),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "processors": os.cpu_count(),
        "gpu": ", ".join(gpus) or "torch sees none",
    }


def describe_extras() -> dict[str, str]:
    """For each extra of the package: installed, or how to install it."""
    extras: dict[str, list[str]] = {}
    for text in requires("xray_lightning") or []:
        name, _, condition = text.partition("; extra == ")
        if condition and not name.startswith("xray_lightning"):
            extras.setdefault(condition.strip("'\""), []).append(name)
    return {
        extra: "installed" if all(map(is_installed, names)) else f'pip install ".[{extra}]"'
        for extra, names in extras.items()
    }


def is_installed(requirement: str) -> bool:
    """Whether the distribution that a requirement begins with is there, in any version."""
    name = requirement.split(">")[0].split("=")[0].split("<")[0].split("[")[0].strip()
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return find_spec(name.replace("-", "_")) is not None
