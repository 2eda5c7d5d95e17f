"""Configurations: composed, changed, trusted; and what the errors of Hydra mean to a user."""

import errno
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from operator import methodcaller
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Quote, QuotedString
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xray_lightning.cli import settings
from xray_lightning.cli.request import Own, describe_unknown
from xray_lightning.cli.settings import find_conf, list_keys, to_container
from xray_lightning.errors import ConfigError, XrayError
from xray_lightning.folders import name_run
from xray_lightning.formats import ADDED, upgrade_settings
from xray_lightning.wording import fault
from xray_lightning.writing import entries_of

# What only the owner of the disk can change: no right, no room, a file where a folder should be.
OF_THE_DISK = {"EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "ENOTDIR", "EEXIST"}
TARGET = re.compile(r"^\s*_target_:\s*([\w.]+)", re.MULTILINE)
OF_TORCH = re.compile(r"torch\.optim\.(lr_scheduler\.)?[A-Z][A-Za-z]*")
OWN = "xray_lightning."
SEVERAL = "several"
OF_ALL = ("labels", "allow_missing", "sources")  # settings of all sets together, and of none
SEARCH = "hydra.searchpath="
KEPT = "${run_dir}"  # the one interpolation that config.yaml keeps
BEST_OF = f"{OWN}metrics.estimates.best_of"  # SciPy loads where it is asked

# known from here on, in a launcher's own process too: ${run_folder:...}
RESOLVERS: dict[str, Callable[..., Any]] = {
    **{"run_folder": name_run, "best_of": lambda name: get_object(BEST_OF)(name)},
    "warm_up": lambda weights, epochs: epochs / 3 if weights == "none" and epochs else 1.0,
}
for name, function in RESOLVERS.items():
    OmegaConf.register_new_resolver(name, function, replace=True)


def in_sweep() -> bool:
    """Whether this is one run of several (-m)."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def make(node: Any, **extra: Any) -> Any:
    """The object a node of the configuration describes, from plain Python containers.

    XrayError: what its constructor raises, not as Hydra wraps it: the library catches these.
    """
    # ``extra`` never becomes configuration: OmegaConf would evaluate a label like ${oc.env:HOME}
    try:
        made = instantiate(node, _convert_="all", **({"_partial_": True} if extra else {}))
        return made(**extra) if extra else made
    except (XrayError, InstantiationException, OmegaConfBaseException) as error:
        if isinstance(error.__cause__, XrayError):
            raise error.__cause__ from None
        raise
    except Exception as error:  # whatever the constructor raises, as Hydra itself does
        raise InstantiationException(f"Error in call to {node['_target_']}") from error


def compose_settings(overrides: Sequence[str], own: Iterable[str] = ()) -> DictConfig:
    """``conf/train.yaml`` with overrides; ``own``: settings of the verb that are no part of it."""
    values = join_sets(overrides)
    GlobalHydra.instance().clear()
    folder = initialize_config_dir(str(find_conf()), version_base="1.3")
    with name_unknown_keys(values, own), folder:
        config = compose("train", overrides=["run_dir=outputs", *values])
    settings.require_known_keys(config)
    return config


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
        plain: Any = OmegaConf.to_container(compose_settings(groups))  # ??? is no obstacle
        raise describe_unknown(found[1], {*own, *list_keys(plain)}) from None
    except ValueError as error:  # Hydra's own, for a group that is set to null
        if not str(error).startswith("Config group override"):
            raise
        raise ConfigError(f"{error}: name a file of conf/GROUP, such as logger=none") from error


def read_value(name: str, text: str) -> Any:
    """The value of a setting, written as for Hydra."""
    try:
        (change,) = OverridesParser.create().parse_overrides([f"{name}={text}"])
    except HydraException as error:
        raise ConfigError(f"{name} cannot be read: {text!r}") from error
    return change.value()


def read_space(overrides: Sequence[str]) -> tuple[list[str], Own, list[str]]:
    """Settings of ``xray tune``: those that stay, an Optuna range of each other, all the ends."""
    fixed, space, ends = list[str](), Own(), list[str]()
    for change in OverridesParser.create().parse_overrides(list(overrides)):
        name, value, text = change.key_or_group, change.value(), str(change.input_line)
        odd = {*getattr(value, "tags", ())} - {"log"}
        if not change.is_sweep_override():
            fixed.append(text)
        elif odd or name.startswith(("monitor", "seed", "split", "data", "hydra")):  # no yardstick
            raise ConfigError(f"{text}: no tag but log; not tuned: data, split, seed and monitor")
        elif isinstance(value, IntervalSweep):
            log, low, high = "log" in value.tags, value.start or 0, value.end or 0
            if low >= high or (log and low <= 0):
                raise ConfigError(f"{text}: an interval rises; tag(log, ...) begins above 0")
            kind = "int" if isinstance(low, int) and isinstance(high, int) else "float"
            space[name] = methodcaller(f"suggest_{kind}", name, low, high, log=log)
            ends += [f"{name}={low}", f"{name}={high}"]
        else:
            if not (words := list(change.sweep_string_iterator())):
                raise ConfigError(f"{text}: this range is empty")
            space[name] = methodcaller("suggest_categorical", name, words)
            ends += [f"{name}={word}" for word in words]
    return fixed, space, ends


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
        choice = compose_settings([str(change.input_line)])
        OmegaConf.set_struct(choice, False)
        own_split = change.value() == "csv" and "split" not in named  # its split column comes first
        for group in (change.key_or_group, *(["split"] if own_split else [])):
            OmegaConf.update(config, group, choice[group], merge=False)
    for change in parsed:
        if change not in groups:
            try:
                OmegaConf.update(config, change.key_or_group, change.value())
            except OmegaConfBaseException as error:
                raise describe_unknown(change.key_or_group, set(list_keys(config))) from error
    return config


# --- several data sets on one command line: data=[nih,rsna] data.nih.root=DIR ---------------------


def join_sets(overrides: Sequence[str]) -> list[str]:
    """Overrides with several data sets written out as the one configuration of ``Several``."""
    of_sets, rest = split_sets(overrides)
    if not any(text.startswith(("data=[", "data.sets=")) for text in overrides):
        return list(overrides)
    flags = [text.partition("=")[2] for text in overrides if text.startswith("--config-dir=")]
    places = [text for text in overrides if text.startswith(SEARCH)]  # the user's own, or none
    places = places or [f"{SEARCH}[file://{Path(folder).absolute()}]" for folder in flags]
    nodes = {}
    for name, own in of_sets.items():
        try:
            config = compose_settings([*places, *own])
        except ConfigError as error:
            raise ConfigError(f"of {name}, where data.KEY is data.{name}.KEY: {error}") from error
        nodes[name] = to_container(config.data, resolve=False)
    return [f"data={SEVERAL}", *rest, write_sources(nodes)]


def split_sets(
    overrides: Sequence[str], of_all: Sequence[str] = OF_ALL
) -> tuple[dict[str, list[str]], list[str]]:
    """Settings of each set of ``data=[nih,rsna]``, written as for that one alone; and the rest."""
    # also ``data=several data.sets=[nih,rsna]`` and ``data=nih``; without ``data=`` there are none
    pairs = {key: value for key, _, value in (text.partition("=") for text in overrides)}
    named = pairs.get("data.sets") or pairs.get("data") or ""
    if not named or named == SEVERAL:
        return {}, list(overrides)
    several = "data.sets" in pairs or named.startswith("[")
    names = [name.strip() for name in named.strip("[]").split(",")]
    settings = {name: [f"data={name}"] for name in names}
    if len(settings) < len(names):
        raise ConfigError(f"data.sets=[{','.join(names)}] names a data set twice")
    rest = []
    for text in overrides:
        key, _, value = text.partition("=")
        words = key.split(".")
        if key in ("data", "data.sets"):
            continue
        if words[0] != "data" or (several and words[1] in of_all):
            rest.append(text)
        elif not several:
            settings[names[0]].append(text)
        elif len(words) > 2 and words[1] in settings:
            settings[words[1]].append(f"data.{'.'.join(words[2:])}={value}")
        else:
            raise ConfigError(fault("of_which", text, names, words[-1]))
    return settings, rest


def write_sources(nodes: Mapping[str, Mapping[str, Any]]) -> str:
    """The configurations of the data sets as one override."""
    for name, node in nodes.items():
        if missing := [key for key, value in node.items() if value == "???"]:
            raise ConfigError(f"{name} needs more: data.{name}.{missing[0]}=")
    return f"data.sources={_write(nodes)}"


def _write(value: Any) -> str:
    """A plain value as an override says it.

    >>> _write({"root": "a b", "table": None, "views": ["PA"]})
    '{root:"a b",table:null,views:["PA"]}'
    """
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_write(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_write, value)) + "]"
    if isinstance(value, str):
        return str(QuotedString(value, Quote.double).with_quotes())
    return "null" if value is None else str(value).lower()  # True, a number


# --- saved configurations of somebody else ----------------------------------------------------


@cache
def list_targets() -> frozenset[str]:
    """What conf/ names, without the command line's own callback."""
    texts = [path.read_text(encoding="utf-8") for path in find_conf().rglob("*.yaml")]
    named = {name for text in texts for name in TARGET.findall(text)}
    return frozenset(named - {f"{OWN}SweepTable"})


def read_config(run: Path, *, trust: bool = True) -> Own:
    """The settings of a run by its config.yaml, nothing evaluated, without Hydra's own."""
    path = run / "config.yaml"
    try:
        saved = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is damaged or no plain settings: {error}") from error
    if not isinstance(saved, dict):
        raise ConfigError(f"{path} is not a mapping")
    own = {str(key): value for key, value in saved.items() if key != "hydra"}
    plain = {**ADDED, **upgrade_settings(own), "run_dir": str(run)}
    if not trust:
        require_trusted(plain, path)
    return plain


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
            raise ConfigError(fault("unsafe", place, key, value, reason))


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
        texts = (str(one).split("\nConfig search path")[0] for one in (error, deeper) if one)
        inner = ("full_key:", "object_type=", "reference_type=")  # below each message
        lines = "\n".join(texts).rpartition("while resolving interpolation: ")[2].splitlines()
        return "\n".join(line for line in lines if not line.lstrip().startswith(inner)).rstrip()
    return None
