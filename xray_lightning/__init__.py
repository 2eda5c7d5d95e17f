"""Train, evaluate and explain chest radiograph classifiers.

Names are imported when they are first used, so that ``import xray_lightning`` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_NAMES = {  # module: what it offers
    "audit.duplicates": ["compare_images"],
    "audit.hospitals": ["Hospitals", "compare_hospitals"],
    "audit.run": ["Audit", "audit_split"],
    "audit.shortcuts.run": ["Shortcuts", "find_shortcuts"],
    "checkpoint": ["Checkpoint", "Description", "load_checkpoint"],
    "cli.multirun": ["SweepTable"],
    "data.cache": ["ImageCache", "open_cache"],
    "data.chestxdet": ["ChestXDet"],
    "data.chexpert": ["CheXpert"],
    "data.convert": ["Conversion", "PngOptions", "convert_folder"],
    "data.csv": ["CsvTable"],
    "data.datamodule": ["XrayDataModule"],
    "data.dicom": ["Acquisition", "DicomImage", "read_dicom"],
    "data.mimic": ["Mimic"],
    "data.nih": ["ChestXray14"],
    "data.nih_expert": ["NihExperts"],
    "data.openi": ["OpenI"],
    "data.padchest": ["PadChest"],
    "data.partition": ["LeakySubsetsWarning", "Split", "make_split"],
    "data.phantom": ["Phantom"],
    "data.rsna": ["Rsna"],
    "data.samplers": [
        *("disease_balanced_sampler", "hospital_balanced_sampler", "patient_balanced_sampler"),
        "uniform_sampler",
    ],
    "data.several": ["Several"],
    "data.siim": ["Siim"],
    "data.source": ["Source", "UnknownPatientsWarning"],
    "data.splits": [
        *("auto_split", "csv_split", "image_split", "kfold_split", "lists_split"),
        *("official_split", "patient_split"),
    ],
    "data.summary": ["DataSummary", "summarise_data"],
    "data.transforms": [
        *("Augmentation", "augment_light", "augment_none", "augment_rsna", "augment_xray14")
    ],
    "data.vindr": ["Vindr"],
    "data.vocabulary": ["relabel", "shared_labels", "union_labels"],
    "deploy.classifier": ["Classifier", "load_classifier"],
    "deploy.predict": ["PredictedFiles", "predict_files"],
    "errors": [
        *("CacheError", "CheckpointError", "ConfigError", "DataError", "DataNotFoundError"),
        *("InvalidImageError", "MissingImagesError", "NonFiniteLossError", "OutputError"),
        *("SplitError", "TableError", "WeightsError", "XrayError"),
    ],
    "evaluation.compare": ["Comparison", "compare"],
    "evaluation.evaluate": ["Evaluation", "Origin", "evaluate", "fit_operating_points"],
    "evaluation.external": ["ExternalValidation", "validate_externally"],
    "evaluation.folds": ["CrossValidation", "pool_folds"],
    "evaluation.model": ["Scoring"],
    "evaluation.predict": ["predict_subset", "summarise"],
    "evaluation.predictions": ["Predictions", "read_predictions", "write_predictions"],
    "evaluation.scores": ["read_scores"],
    "evaluation.sweep": ["SweepComparison", "compare_runs"],
    "evaluation.truths": ["ExpertTruth", "score_truths"],
    "explain.grid": ["enlarge"],
    "explain.heatmaps": ["HeatMaps"],
    "explain.maps": ["cell_grids", "class_map", "class_maps"],
    "explain.run": ["Explanation", "explain_checkpoint"],
    "metrics.bootstrap": ["PatientBootstrap"],
    "metrics.intervals": ["Estimate"],
    "metrics.operating_points": ["OperatingPoint", "OperatingPoints"],
    "models.cbam": ["CBAM"],
    "models.network": ["XrayNet"],
    "records": ["Box", "Record"],
    "report.finish": ["FinishedRun", "finish_run"],
    "report.gallery": ["make_heat_maps"],
    "training.callbacks.epochs": ["WatchMetric"],
    "training.callbacks.weights": ["EMA", "FreezeBackbone"],
    "training.losses": [
        *("BCE", "Asymmetric", "ClassBalanced", "Focal", "PairwiseAUC", "WeightedBCE")
    ],
    "training.optim": ["Constant", "Cosine", "Plateau", "Step"],
    "training.run": ["TrainingRun", "make_trainer", "train"],
    "training.task": ["XrayTask"],
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
