"""Files of earlier versions in today's names: what format 1 called things."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

FACTS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_bytes())
TARGETS, ADDED = FACTS["targets"], FACTS["added"]


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
