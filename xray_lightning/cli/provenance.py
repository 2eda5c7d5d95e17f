"""What a run writes down about itself: its settings and its surroundings."""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from xray_lightning.cli.build import split_facts
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.evaluation import write_json

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
HYDRA = {
    "run": {"dir": "outputs/${now:%Y-%m-%d_%H-%M-%S}_again"},
    "output_subdir": None,
    "job": {"name": "train"},
}


def write_config(config: Mapping[str, Any], run: Path) -> None:
    """config.yaml: everything resolved but the folder, so that it starts a new run elsewhere."""
    if (run / "config.yaml").exists():  # a resumed run keeps its own
        return
    reusable = OmegaConf.create({**config, "hydra": HYDRA})
    reusable.run_dir = "${hydra:runtime.output_dir}"
    for logger in reusable.logger.values():
        if "save_dir" in logger:
            logger.save_dir = "${run_dir}"
    OmegaConf.save(reusable, run / "config.yaml")


def write_environment(
    config: DictConfig, data: XrayDataModule, device: torch.device, run: Path
) -> None:
    """environment.json; a resumed run adds an entry to the one it has."""
    path = run / "environment.json"
    facts = environment(config, data, device)
    if path.is_file():
        first = json.loads(path.read_text(encoding="utf-8"))
        first.setdefault("resumed", []).append(facts)
        facts = first
    write_json(facts, path)


def environment(config: DictConfig, data: XrayDataModule, device: torch.device) -> dict[str, Any]:
    """What is needed to understand and repeat the run."""
    on_hydra = HydraConfig.initialized()
    on_gpu = device.type == "cuda"
    return {
        "command": sys.argv,
        "overrides": list(HydraConfig.get().overrides.task) if on_hydra else [],
        "choices": choices(HydraConfig.get().runtime.choices) if on_hydra else {},
        "seed": config.seed,
        "split": split_facts(data.split),
        "data": {"name": data.source.name, "title": data.source.title, **data.source.identity()},
        "device": torch.cuda.get_device_name(device) if on_gpu else str(device),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in PACKAGES},
        "git_commit": git_commit(),
    }


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
