"""Data and a trainer for trainings of seconds."""

from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer

from xray_lightning import Phantom, XrayDataModule


def toy_data(cache: Path, patients: int, size: int = 32, **settings: Any) -> XrayDataModule:
    """Images of the phantom at 32 px, eight a batch."""
    usual = {"image_size": 32, "batch_size": 8, "cache_dir": cache}
    return XrayDataModule(Phantom(patients, size=size), **usual | settings)


def quiet_trainer(folder: Path, **settings: Any) -> Trainer:
    """On the CPU, without a logger, bars and a summary."""
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(accelerator="cpu", default_root_dir=folder, **quiet | settings)
