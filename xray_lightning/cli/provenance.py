"""What a run writes down about itself: its settings and its surroundings."""

import math
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from xray_lightning.cli.overrides import in_sweep
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.partition import split_facts
from xray_lightning.data.samplers import prevalence
from xray_lightning.writing import open_replacing, read_json, write_json

PACKAGES = (
    "torch",
    "pytorch-lightning",
    "timm",
    "torchmetrics",
    "albumentations",
    "opencv-python-headless",
    "numpy",
    "hydra-core",
)
EPOCHS = 10  # one epoch of a small data set says little about a sampler
HYDRA = {
    "run": {"dir": "${run_folder:${resume},again}"},
    "output_subdir": None,
    "job": {"name": "train"},
}


def write_config(config: Mapping[str, Any], run: Path) -> None:
    """config.yaml: everything resolved but the folder, so that it starts a new run elsewhere."""
    if (run / "config.yaml").exists():  # a resumed run keeps its own
        return
    with open_replacing(run / "config.yaml") as file:
        OmegaConf.save(reusable(config), file)


def reusable(config: Mapping[str, Any]) -> DictConfig:
    """A run's settings without its folder."""
    settings = OmegaConf.create({**config, "hydra": HYDRA})
    before = str(settings.run_dir)
    settings.run_dir = "${hydra:runtime.output_dir}"
    for logger in settings.logger.values():
        if "save_dir" in logger:
            logger.save_dir = "${run_dir}"
    for callback in settings.callbacks.values():
        if callback and str(callback.get("folder", "")).startswith(before):
            callback.folder = "${run_dir}" + callback.folder[len(before) :]
    return settings


def write_environment(
    config: DictConfig, data: XrayDataModule, trainer: pl.Trainer, run: Path
) -> None:
    """environment.json; a resumed run adds an entry to the one it has."""
    path = run / "environment.json"
    facts = environment(config, data, trainer)
    if path.is_file():
        first = read_json(path)
        first.setdefault("resumed", []).append(facts)
        facts = first
    write_json(facts, path)


def environment(config: DictConfig, data: XrayDataModule, trainer: pl.Trainer) -> dict[str, Any]:
    """What is needed to understand and repeat the run."""
    device = trainer.strategy.root_device
    on_hydra = HydraConfig.initialized()
    on_gpu = device.type == "cuda"
    overrides = list(HydraConfig.get().overrides.task) if on_hydra else []
    alone = [text for text in overrides if not text.startswith("sweep=")]
    return {
        "command": ["train.py", *alone] if in_sweep() else sys.argv,  # a launcher's is not ours
        "overrides": overrides,
        "choices": choices(HydraConfig.get().runtime.choices) if on_hydra else {},
        "seed": config.seed,
        "split": split_facts(data.split),
        "prevalence": {
            label: [None if math.isnan(share) else share for share in pair]
            for label, pair in prevalences(data).items()
        },
        "data": {"name": data.source.name, "title": data.source.title, **data.source.identity()},
        "device": torch.cuda.get_device_name(device) if on_gpu else str(device),
        "processor": platform.processor() or platform.machine(),
        "processes": trainer.world_size,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in PACKAGES},
        "git_commit": git_commit(),
    }


def prevalences(data: XrayDataModule) -> dict[str, tuple[float, float]]:
    """Share of positives of each label: in the training set, and as drawn in the first epochs.

    "normal images" is the share of images with all targets known to be 0; NaN: no target is known.
    """
    shares = []
    for targets in (data.subset_targets("train"), data.draw_targets(EPOCHS)):
        normal = (targets == 0).all(axis=1).mean()
        shares.append([*prevalence(targets).tolist(), float(normal)])
    return dict(zip((*data.labels, "normal images"), zip(*shares, strict=True), strict=True))


def sampling_line(data: XrayDataModule) -> str | None:
    """What a sampler changes, the three labels it changes most; None if it changes nothing."""
    shares = {name: pair for name, pair in prevalences(data).items() if all(pair)}
    change = {name: abs(math.log(drawn / subset)) for name, (subset, drawn) in shares.items()}
    changed = sorted((name for name in change if change[name] > 0), key=lambda name: -change[name])
    if not changed:
        return None
    shown = ", ".join("{} {:.1%} -> {:.1%}".format(name, *shares[name]) for name in changed[:3])
    return f"the sampler changes the prevalence in training: {shown} (all: environment.json)"


def choices(chosen: Mapping[str, str | None]) -> dict[str, str | None]:
    """The options of our own groups, without Hydra's."""
    return {str(group): option for group, option in chosen.items() if "/" not in str(group)}


def git_commit() -> str | None:
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
