"""Composing a configuration without @hydra.main, and laying overrides over a saved one."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from xray_lightning.cli.keys import dotted, require_known_keys, unknown
from xray_lightning.cli.locate import conf_dir, run_folder
from xray_lightning.errors import ConfigError

RUN_DIR = "hydra.run.dir"
Settings = DictConfig  # what the verbs call it: Hydra and OmegaConf stay in few files


def register_resolvers() -> None:
    """Make ``${run_folder:...}`` known to OmegaConf."""
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)


def in_sweep() -> bool:
    """Whether this is one run of several (-m)."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def make(node: Any, **extra: Any) -> Any:
    """The object a node of the configuration describes, from plain Python containers.

    ``extra`` never becomes configuration, where OmegaConf would evaluate a label such as
    ``${oc.env:HOME}``.
    """
    if not extra:
        return instantiate(node, _convert_="all")
    try:
        return instantiate(node, _convert_="all", _partial_=True)(**extra)
    except Exception as error:  # whatever the constructor raises, as Hydra itself does
        raise InstantiationException(f"Error in call to {node['_target_']}") from error


def to_container(config: Settings) -> dict[str, Any]:
    """Resolved settings as plain values."""
    plain = OmegaConf.to_container(config, resolve=True)
    if not isinstance(plain, dict):
        raise ConfigError("the configuration must be a mapping")
    return {str(key): value for key, value in plain.items()}


def composed(overrides: Sequence[str], own: Iterable[str] = ()) -> tuple[DictConfig, Path | None]:
    """``conf/train.yaml`` with overrides, and the folder of ``hydra.run.dir=`` if one was given.

    Args:
        overrides: of the configuration.
        own: the verb's own settings, which a mistyped key may have meant.

    Raises:
        ConfigError: a key that no setting has.
    """
    values, run_dir = split_run_dir(overrides)
    register_resolvers()
    GlobalHydra.instance().clear()
    with unknown_named(values, own), initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", overrides=[*values, f"run_dir={run_dir or 'outputs'}"])
    require_known_keys(config)
    return config, run_dir


@contextmanager
def unknown_named(overrides: Sequence[str], own: Iterable[str] = ()) -> Iterator[None]:
    """Name the nearest settings where Hydra would advise to add an unknown key with a plus.

    Raises:
        ConfigError: in place of Hydra's error.
    """
    try:
        yield
    except ConfigCompositionException as error:
        found = re.match(r"Could not override '(.+?)'", str(error))
        if found is None:
            raise
        pairs = [text.partition("=") for text in overrides]
        groups = [f"{k}={v}" for k, _, v in pairs if (conf_dir() / k / f"{v}.yaml").is_file()]
        plain: Any = OmegaConf.to_container(composed(groups)[0])  # a value of ??? is no obstacle
        raise unknown(found[1], {*own, *dotted(plain)}) from None
    except ValueError as error:  # Hydra's own, for a group that is set to null
        if not str(error).startswith("Config group override"):
            raise
        raise ConfigError(f"{error}: name a file of conf/GROUP, such as logger=none") from error


def split_run_dir(overrides: Iterable[str]) -> tuple[list[str], Path | None]:
    """Take ``hydra.run.dir=`` out of the overrides; it names the folder for the results.

    >>> split_run_dir(["seed=1", "hydra.run.dir=out"])
    (['seed=1'], PosixPath('out'))
    """
    values = [text for text in overrides if not text.startswith(f"{RUN_DIR}=")]
    folders = [text.partition("=")[2] for text in overrides if text.startswith(f"{RUN_DIR}=")]
    return values, Path(folders[-1]) if folders else None


def taken_out(overrides: Iterable[str], own: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """A verb's own settings with their defaults, and what is left for the configuration.

    >>> taken_out(["draws=50", "data=nih"], {"draws": "2000"})
    ({'draws': '50'}, ['data=nih'])
    """
    pairs = [(text.partition("=")[0], text) for text in overrides]
    given = {key: text.partition("=")[2] for key, text in pairs if key in own}
    return {**own, **given}, [text for key, text in pairs if key not in own]


def listed(text: str) -> tuple[str, ...]:
    """The items of a list, ``a,b`` or ``[a,b]``, each once.

    >>> listed("[cam, gradcam]")
    ('cam', 'gradcam')
    """
    items = (item.strip() for item in text.strip("[]").split(","))
    return tuple(dict.fromkeys(item for item in items if item))


def labels_asked(text: str, *sides: Sequence[str]) -> tuple[str, ...]:
    """The labels that ``labels=`` names: a list, or ``shared`` for those that all sides have.

    Raises:
        ConfigError: one that a side lacks, or none at all.
    """
    shared = [label for label in sides[0] if all(label in side for side in sides)]
    labels = shared if text == "shared" else listed(text)
    if not labels or not set(labels) <= set(shared):
        raise ConfigError(f"labels={text}: these are shared: {', '.join(shared) or 'none'}")
    return tuple(labels)


def integer(name: str, text: str, low: int) -> int:
    """A setting that must be a whole number.

    Raises:
        ConfigError: it is none, or too small.
    """
    if not text.isdecimal() or int(text) < low:
        raise ConfigError(f"{name} must be an integer of at least {low}, got {text!r}")
    return int(text)


def boolean(name: str, text: str) -> bool:
    """A setting that must be true or false.

    Raises:
        ConfigError: it is neither.
    """
    if text not in ("true", "false"):
        raise ConfigError(f"{name} must be true or false, got {text!r}")
    return text == "true"


def read_value(name: str, text: str) -> Any:
    """The value of a setting, written as for Hydra.

    Raises:
        ConfigError: it cannot be read.

    >>> read_value("prior", "{Mass: 0.05}")
    {'Mass': 0.05}
    """
    try:
        (change,) = OverridesParser.create().parse_overrides([f"{name}={text}"])
    except HydraException as error:
        raise ConfigError(f"{name} cannot be read: {text!r}") from error
    return change.value()


def overridden(saved: dict[str, Any], overrides: Sequence[str]) -> DictConfig:
    """A saved configuration with overrides; ``split=official`` swaps a group, ``seed=1`` a value.

    Raises:
        ConfigError: a key that the configuration lacks, or an override that adds or deletes one.
    """
    config = OmegaConf.create(saved)
    OmegaConf.set_struct(config, True)
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    for change in parsed:
        if change.is_add() or change.is_delete() or change.is_sweep_override():
            raise ConfigError(f"{change.input_line!r}: only KEY=VALUE can be laid over a saved run")
    groups = [change for change in parsed if (conf_dir() / change.key_or_group).is_dir()]
    named = {change.key_or_group.partition(".")[0] for change in parsed}
    for change in groups:
        choice, _ = composed([str(change.input_line)])
        OmegaConf.set_struct(choice, False)
        own_split = change.value() == "csv" and "split" not in named  # its split column comes first
        for group in (change.key_or_group, *(["split"] if own_split else [])):
            OmegaConf.update(config, group, choice[group], merge=False)
    for change in parsed:
        if change not in groups:
            _set(config, change.key_or_group, change.value())
    return config


def _set(config: DictConfig, key: str, value: Any) -> None:
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if not isinstance(node, DictConfig) or leaf not in list(node.keys()):
        raise unknown(key, set(dotted(config)))
    OmegaConf.update(config, key, value)
