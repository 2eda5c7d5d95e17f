"""Files of earlier versions in today's names: what format 1 called things."""

from collections.abc import Mapping
from typing import Any

# A class in the settings of format 1 -> its public name of today.
_KEPT = """
    losses.BCE losses.WeightedBCE losses.Focal losses.Asymmetric losses.ClassBalanced
    optim.Constant optim.Cosine optim.Step optim.Plateau ranking.PairwiseAUC models.network.XrayNet
    data.splits.auto_split data.splits.csv_split data.splits.image_split data.splits.kfold_split
    data.splits.lists_split data.splits.official_split data.splits.patient_split
    data.csv.CsvTable data.nih.ChestXray14 data.phantom.Phantom data.rsna.Rsna
"""
_SAMPLERS = ("uniform", "disease_balanced", "patient_balanced")
_AUGMENTS = ("none", "light", "rsna", "xray14")
_TARGETS = {
    **{name: name.rpartition(".")[2] for name in _KEPT.split()},
    **{f"data.samplers.{name}": f"{name}_sampler" for name in _SAMPLERS},
    **{f"data.transforms.{name}": f"augment_{name}" for name in _AUGMENTS},
    "report.gallery.heat_maps": "make_heat_maps",
    "cli.multirun.Comparison": "SweepTable",
}
# Settings that files of earlier versions do not name, as these versions worked.
ADDED = {
    **{"cache_local": None, "resident": "auto", "tta": "none", "draws": 2000},
    **{"permute_labels": False, "monitor": "val/auroc", "tolerance": 0.0},  # 1.0 today
    **{"calibration": "platt", "operating_point": {"rule": "youden", "value": 0.9}},
    "sampler": {"_target_": "xray_lightning.uniform_sampler", "_partial_": True},
}
TARGETS = {f"xray_lightning.{old}": f"xray_lightning.{new}" for old, new in _TARGETS.items()}


def upgrade_settings(settings: Any) -> Any:
    """Plain settings with every ``_target_`` of format 1 under its public name of today."""
    if isinstance(settings, Mapping):
        plain = {key: upgrade_settings(entry) for key, entry in settings.items()}
        if isinstance(target := plain.get("_target_"), str):
            plain["_target_"] = TARGETS.get(target, target)
        return plain
    if isinstance(settings, list | tuple):
        return type(settings)(upgrade_settings(entry) for entry in settings)
    return settings


def upgrade_description(entries: Any) -> dict[str, Any]:
    """What a checkpoint of format 1 says about itself, as format 2; other entries as they are."""
    # it called the operating points "validation" (at first it had none), a split's subsets "parts";
    # the settings are upgraded apart, once they are known to be plain
    if not isinstance(entries, dict) or entries.get("format") != 1:
        return dict(entries) if isinstance(entries, dict) else {}
    plain = {**entries, "format": 2, "operating_points": entries.get("validation", {})}
    plain.pop("validation", None)
    if isinstance(split := plain.get("split"), dict) and "parts" in split:
        subsets = {"subsets": split["parts"]}
        plain["split"] = {k: v for k, v in split.items() if k != "parts"} | subsets
    return plain
