"""Configurations: composed, changed, trusted; and what the errors of Hydra mean to a user."""

import errno
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xray_lightning.cli import settings
from xray_lightning.cli.request import Own, describe_unknown, take_own
from xray_lightning.cli.sets import SEVERAL, search_path, split_sets, write_sources
from xray_lightning.cli.settings import Settings, find_conf, list_keys
from xray_lightning.errors import ConfigError, XrayError
from xray_lightning.formats import upgrade_settings
from xray_lightning.writing import entries_of

# What only the owner of the disk can change: no right, no room, a file where a folder should be.
OF_THE_DISK = {"EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "ENOTDIR", "EEXIST"}
TARGET = re.compile(r"^\s*_target_:\s*([\w.]+)", re.MULTILINE)
OF_TORCH = re.compile(r"torch\.optim\.(lr_scheduler\.)?[A-Z][A-Za-z]*")
OWN = "xray_lightning."
KEPT = "${run_dir}"  # the one interpolation that config.yaml keeps
RUN_DIR = "hydra.run.dir"


def register_resolvers() -> None:
    """Make ``${run_folder:...}`` known to OmegaConf."""
    OmegaConf.register_new_resolver("run_folder", settings.name_run, replace=True)


def in_sweep() -> bool:
    """Whether this is one run of several (-m)."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def make(node: Any, **extra: Any) -> Any:
    """The object a node of the configuration describes, from plain Python containers."""
    # ``extra`` never becomes configuration: OmegaConf would evaluate a label like ${oc.env:HOME}
    if not extra:
        return instantiate(node, _convert_="all")
    try:
        return instantiate(node, _convert_="all", _partial_=True)(**extra)
    except Exception as error:  # whatever the constructor raises, as Hydra itself does
        raise InstantiationException(f"Error in call to {node['_target_']}") from error


def to_container(config: Settings, *, resolve: bool = True) -> Own:
    """Settings as plain values."""
    plain = OmegaConf.to_container(config, resolve=resolve)
    if not isinstance(plain, dict):
        raise ConfigError("the configuration must be a mapping")
    return {str(key): value for key, value in plain.items()}


def compose_settings(
    overrides: Sequence[str], own: Iterable[str] = ()
) -> tuple[DictConfig, Path | None]:
    """``conf/train.yaml`` with overrides, and the folder of ``hydra.run.dir=`` if one was given."""
    values, run_dir = split_run_dir(join_sets(overrides))
    register_resolvers()
    GlobalHydra.instance().clear()
    folder = initialize_config_dir(str(find_conf()), version_base="1.3")
    with name_unknown_keys(values, own), folder:
        config = compose("train", overrides=[*values, f"run_dir={run_dir or 'outputs'}"])
    settings.require_known_keys(config)
    return config, run_dir


def join_sets(overrides: Sequence[str]) -> list[str]:
    """Overrides with several data sets written out as the one configuration of ``Several``."""
    of_sets, rest = split_sets(overrides)
    if not any(text.startswith(("data=[", "data.sets=")) for text in overrides):
        return list(overrides)
    nodes = {}
    for name, own in of_sets.items():
        try:
            config, _ = compose_settings([*search_path(overrides), *own])
        except ConfigError as error:
            raise ConfigError(f"of {name}, where data.KEY is data.{name}.KEY: {error}") from error
        nodes[name] = to_container(config.data, resolve=False)
    return [f"data={SEVERAL}", *rest, write_sources(nodes)]


@contextmanager
def name_unknown_keys(overrides: Sequence[str], own: Iterable[str] = ()) -> Iterator[None]:
    """Name the nearest settings where Hydra would advise to add an unknown key with a plus."""
    try:
        yield
    except ConfigCompositionException as error:
        found = re.match(r"Could not override '(.+?)'", str(error))
        if found is None:
            raise
        pairs = [text.partition("=") for text in overrides]
        groups = [f"{k}={v}" for k, _, v in pairs if (find_conf() / k / f"{v}.yaml").is_file()]
        plain: Any = OmegaConf.to_container(compose_settings(groups)[0])  # ??? is no obstacle
        raise describe_unknown(found[1], {*own, *list_keys(plain)}) from None
    except ValueError as error:  # Hydra's own, for a group that is set to null
        if not str(error).startswith("Config group override"):
            raise
        raise ConfigError(f"{error}: name a file of conf/GROUP, such as logger=none") from error


def split_run_dir(overrides: Iterable[str]) -> tuple[list[str], Path | None]:
    """Take ``hydra.run.dir=`` out of the overrides; it names the folder for the results."""
    own, values = take_own(overrides, {RUN_DIR: ""})
    return values, Path(own[RUN_DIR]) if own[RUN_DIR] else None


def read_value(name: str, text: str) -> Any:
    """The value of a setting, written as for Hydra."""
    try:
        (change,) = OverridesParser.create().parse_overrides([f"{name}={text}"])
    except HydraException as error:
        raise ConfigError(f"{name} cannot be read: {text!r}") from error
    return change.value()


def change_settings(saved: Own, overrides: Sequence[str]) -> DictConfig:
    """A saved configuration with overrides; ``split=official`` swaps a group, ``seed=1`` a key."""
    config = OmegaConf.create(saved)
    OmegaConf.set_struct(config, True)
    parsed = OverridesParser.create().parse_overrides(join_sets(overrides))
    for change in parsed:
        if change.is_add() or change.is_delete() or change.is_sweep_override():
            raise ConfigError(f"{change.input_line!r}: only KEY=VALUE can be laid over a saved run")
    groups = [change for change in parsed if (find_conf() / change.key_or_group).is_dir()]
    named = {change.key_or_group.partition(".")[0] for change in parsed}
    for change in groups:
        choice, _ = compose_settings([str(change.input_line)])
        OmegaConf.set_struct(choice, False)
        own_split = change.value() == "csv" and "split" not in named  # its split column comes first
        for group in (change.key_or_group, *(["split"] if own_split else [])):
            OmegaConf.update(config, group, choice[group], merge=False)
    for change in parsed:
        if change not in groups:
            try:
                OmegaConf.update(config, change.key_or_group, change.value())
            except OmegaConfBaseException as error:
                known = set(list_keys(config))
                raise describe_unknown(change.key_or_group, known) from error
    return config


# --- saved configurations of somebody else ----------------------------------------------------


@cache
def list_targets() -> frozenset[str]:
    """What conf/ names, without the command line's own callback."""
    texts = [path.read_text(encoding="utf-8") for path in find_conf().rglob("*.yaml")]
    named = {name for text in texts for name in TARGET.findall(text)}
    return frozenset(named - {f"{OWN}SweepTable"})


def read_config(path: Path) -> Own:
    """The settings in a run's config.yaml, nothing evaluated, without Hydra's own."""
    try:
        saved = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is damaged or no plain settings: {error}") from error
    if not isinstance(saved, dict):
        raise ConfigError(f"{path} is not a mapping")
    own = {str(key): value for key, value in saved.items() if key != "hydra"}
    return dict(upgrade_settings(own))


def require_trusted(saved: Mapping[str, Any], place: Path) -> None:
    """Refuse settings, plain values of the file at ``place``, that could run code when built."""
    for key, value in entries_of(saved):
        if key.rpartition(".")[2] == "_target_":
            text = value if isinstance(value, str) else ""
            known = text in list_targets() or OF_TORCH.fullmatch(text)
            reason = "" if known else "is not a class of this package or of torch.optim"
        elif isinstance(value, str):
            reason = "would be evaluated" if "${" in value.replace(KEPT, "") else ""
        else:
            plain = value is None or isinstance(value, int | float | Mapping | list | tuple)
            reason = "" if plain else "is not a plain value"
        if reason:
            raise ConfigError(
                f"{place}: {key}={value!r:.200} {reason}, so it could do anything on this machine. "
                "If you know who wrote this file: trust=true"
            )


# --- errors -----------------------------------------------------------------------------------


def explain_error(error: BaseException) -> str | None:
    """The message for an error the user can act on; None for a fault of this package."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, XrayError):
            return str(cause)
        if isinstance(cause, OSError) and errno.errorcode.get(cause.errno or 0) in OF_THE_DISK:
            place = cause.filename or "a file or folder"
            return f"{place}: {cause.strerror}; change that, or name another folder"
        cause = cause.__cause__
    if isinstance(error, InstantiationException):
        reason = error.__cause__
        detail = f"{type(reason).__name__}: {reason}" if reason else str(error)
        return f"{str(error).splitlines()[-1]}: {detail}"
    if isinstance(error, HydraException | OmegaConfBaseException):
        deeper = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
        return "\n".join(_trim(str(each)) for each in (error, deeper) if each is not None)
    return None


def _trim(text: str) -> str:
    """Without the internals that Hydra and OmegaConf add below the message."""
    lines = text.split("\nConfig search path")[0].splitlines()
    inner = ("full_key:", "object_type=", "reference_type=")
    return "\n".join(line for line in lines if not line.lstrip().startswith(inner)).rstrip()
