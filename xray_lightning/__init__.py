"""Train, judge and explain chest radiograph classifiers.

Names are imported when they are first used, so that ``import xray_lightning`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xray_lightning.checkpoint import Bundle, Checkpoint, load_checkpoint
    from xray_lightning.data.csv import CsvTable
    from xray_lightning.data.datamodule import XrayDataModule
    from xray_lightning.data.nih import ChestXray14
    from xray_lightning.data.phantom import Phantom
    from xray_lightning.data.rsna import Rsna
    from xray_lightning.evaluation import predict_part, summarise
    from xray_lightning.losses import BCE, WeightedBCE
    from xray_lightning.models.network import XrayNet
    from xray_lightning.predictions import Predictions, read_predictions, write_predictions
    from xray_lightning.records import Box, Record
    from xray_lightning.task import XrayTask

_HOMES = {
    "BCE": "losses",
    "Box": "records",
    "Bundle": "checkpoint",
    "Checkpoint": "checkpoint",
    "ChestXray14": "data.nih",
    "CsvTable": "data.csv",
    "Phantom": "data.phantom",
    "Predictions": "predictions",
    "Record": "records",
    "Rsna": "data.rsna",
    "WeightedBCE": "losses",
    "XrayDataModule": "data.datamodule",
    "XrayNet": "models.network",
    "XrayTask": "task",
    "load_checkpoint": "checkpoint",
    "predict_part": "evaluation",
    "read_predictions": "predictions",
    "summarise": "evaluation",
    "write_predictions": "predictions",
}

__all__ = [
    "BCE",
    "Box",
    "Bundle",
    "Checkpoint",
    "ChestXray14",
    "CsvTable",
    "Phantom",
    "Predictions",
    "Record",
    "Rsna",
    "WeightedBCE",
    "XrayDataModule",
    "XrayNet",
    "XrayTask",
    "load_checkpoint",
    "predict_part",
    "read_predictions",
    "summarise",
    "write_predictions",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
