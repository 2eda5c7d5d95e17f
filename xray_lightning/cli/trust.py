"""What a saved configuration may name: a checkpoint or a run of somebody else's runs no code."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import xray_lightning
from xray_lightning.cli.locate import conf_dir
from xray_lightning.errors import ConfigError
from xray_lightning.formats import upgrade_settings
from xray_lightning.writing import entries_of

TARGET = re.compile(r"^\s*_target_:\s*([\w.]+)", re.MULTILINE)
OF_TORCH = re.compile(r"torch\.optim\.(lr_scheduler\.)?[A-Z][A-Za-z]*")
OWN = "xray_lightning."
RUN_DIR = "${run_dir}"  # the one interpolation that config.yaml keeps


@cache
def own_targets() -> frozenset[str]:
    """What conf/ names, without the command line's own callback."""
    texts = [path.read_text(encoding="utf-8") for path in conf_dir().rglob("*.yaml")]
    named = {name for text in texts for name in TARGET.findall(text)}
    return frozenset(named - {f"{OWN}{name}" for name in xray_lightning._NAMES["cli.multirun"]})


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a run's config.yaml, nothing evaluated, without Hydra's own.

    Raises:
        ConfigError: it is not there, damaged, or holds Python objects.
    """
    try:
        saved = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is damaged or no plain settings: {error}") from error
    if not isinstance(saved, dict):
        raise ConfigError(f"{path} is not a mapping")
    settings = {str(key): value for key, value in saved.items() if key != "hydra"}
    return dict(upgrade_settings(settings))


def require_trusted(saved: Mapping[str, Any], place: Path) -> None:
    """Refuse settings that could run code when they are built, or read the environment.

    Args:
        saved: plain values, before anything is resolved.
        place: the file they are from.

    Raises:
        ConfigError: names the setting and what stands there.
    """
    for key, value in entries_of(saved):
        if key.rpartition(".")[2] == "_target_":
            known = isinstance(value, str) and (value in own_targets() or OF_TORCH.fullmatch(value))
            reason = "" if known else "is not a class of this package or of torch.optim"
        elif isinstance(value, str):
            reason = "would be evaluated" if "${" in value.replace(RUN_DIR, "") else ""
        else:
            plain = value is None or isinstance(value, int | float | Mapping | list | tuple)
            reason = "" if plain else "is not a plain value"
        if reason:
            raise ConfigError(
                f"{place}: {key}={value!r:.200} {reason}, so it could do anything on this machine. "
                "If you know who wrote this file: trust=true"
            )
