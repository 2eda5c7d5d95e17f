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
    from xray_lightning.deploy.classifier import Classifier, load_classifier
    from xray_lightning.evaluation.predict import predict_part, summarise
    from xray_lightning.evaluation.predictions import (
        Predictions,
        read_predictions,
        write_predictions,
    )
    from xray_lightning.explain import class_map
    from xray_lightning.models.attention import CBAM
    from xray_lightning.models.network import XrayNet
    from xray_lightning.records import Box, Record
    from xray_lightning.training.callbacks.averaging import EMA
    from xray_lightning.training.callbacks.freezing import FreezeBackbone
    from xray_lightning.training.losses import BCE, Asymmetric, ClassBalanced, Focal, WeightedBCE
    from xray_lightning.training.ranking import PairwiseAUC
    from xray_lightning.training.task import XrayTask

_HOMES = {
    "Asymmetric": "losses",
    "BCE": "losses",
    "Box": "records",
    "Bundle": "checkpoint",
    "CBAM": "models.attention",
    "Checkpoint": "checkpoint",
    "ChestXray14": "data.nih",
    "Classifier": "inference",
    "ClassBalanced": "losses",
    "CsvTable": "data.csv",
    "Focal": "losses",
    "PairwiseAUC": "ranking",
    "EMA": "callbacks.averaging",
    "FreezeBackbone": "callbacks.freezing",
    "Phantom": "data.phantom",
    "Predictions": "predictions",
    "Record": "records",
    "Rsna": "data.rsna",
    "WeightedBCE": "losses",
    "XrayDataModule": "data.datamodule",
    "XrayNet": "models.network",
    "XrayTask": "task",
    "class_map": "explain",
    "load_checkpoint": "checkpoint",
    "load_classifier": "inference",
    "predict_part": "evaluation",
    "read_predictions": "predictions",
    "summarise": "evaluation",
    "write_predictions": "predictions",
}

__all__ = [
    "BCE",
    "CBAM",
    "EMA",
    "Asymmetric",
    "Box",
    "Bundle",
    "Checkpoint",
    "ChestXray14",
    "ClassBalanced",
    "Classifier",
    "CsvTable",
    "Focal",
    "FreezeBackbone",
    "PairwiseAUC",
    "Phantom",
    "Predictions",
    "Record",
    "Rsna",
    "WeightedBCE",
    "XrayDataModule",
    "XrayNet",
    "XrayTask",
    "class_map",
    "load_checkpoint",
    "load_classifier",
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
