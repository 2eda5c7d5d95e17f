"""Keys that no setting has: an error that names the nearest real ones, and never a silent extra."""

import inspect
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from math import isfinite
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from xray_lightning.cli.locate import conf_dir
from xray_lightning.errors import ConfigError

OWN_NAMES = ("callbacks", "logger")  # places where a name of the user's own is a new object
OF_HYDRA = {"_target_", "_partial_", "_args_", "_recursive_", "_convert_"}
OVERLAYS = ("experiment", "sweep")  # groups that set what other groups define


def require_known_keys(config: DictConfig, *, below: bool = True) -> None:
    """Refuse a key that nothing reads, wherever it comes from, a deleted one, and a wrong type.

    An object may get any argument of its constructor; callbacks and loggers of any name may be
    added; a setting whose value is itself a mapping (``model.head_options``) may hold anything.

    Args:
        config: all settings.
        below: whether keys below the top are looked at too.

    Raises:
        ConfigError: names the key, and the nearest ones or the usual value.
    """
    plain = {str(k): v for k, v in OmegaConf.to_container(config).items() if k != "hydra"}  # type: ignore[union-attr]
    if strange := list(unknown_keys(plain if below else dict.fromkeys(plain))):
        place = strange[0].rpartition(".")[0]
        target = OmegaConf.select(config, f"{place}._target_") if place else None
        more = parameters(target, set()) if target else ()
        raise unknown(strange[0], {*dotted(plain), *(f"{place}.{name}" for name in more)})
    optional = {"epochs", "weights", "trust"}  # other keys refer to two, the third is not saved
    if missing := sorted(set(known_keys()[""]) - optional - set(plain)):
        raise ConfigError(
            f"the setting {missing[0]} is missing: it was deleted, or the configuration is of an "
            f"older version; give {missing[0]}=, as conf/train.yaml does"
        )


def unknown_keys(node: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """Dotted keys below ``place`` that neither ``conf/`` nor a constructor knows.

    Raises:
        ConfigError: a known setting is a number, or true or false, in ``conf/`` and is not here;
            a callback or logger is not an object.
    """
    target = node.get("_target_")
    known = known_keys().get(target or place)
    if target is None and known is None:
        return
    strange = set(node) - set(known or ()) - OF_HYDRA
    if target is not None and strange:
        strange -= parameters(str(target), strange)
    elif place in OWN_NAMES:
        require_objects(node, place)
        strange = {name for name in strange if node[name] is None}
    for name, value in node.items():
        key = f"{place}.{name}".lstrip(".")
        if name in strange:
            yield key
        elif isinstance(value, Mapping):
            yield from unknown_keys(value, key)
        elif place != "trainer":  # devices=auto; Lightning looks at its own
            require_type(key, value, (known or {}).get(name))


def require_objects(node: Mapping[str, Any], place: str) -> None:
    """Refuse a callback or logger that is neither null nor says its class.

    Raises:
        ConfigError: names it and its value.
    """
    for name, value in node.items():
        if value is not None and not (isinstance(value, Mapping) and "_target_" in value):
            raise ConfigError(f"{place}.{name} must be null or have a _target_, got {value!r}")


def require_type(key: str, value: Any, usual: Any) -> None:
    """Refuse a word where a number is usual, an infinite number, and what is not true or false.

    Raises:
        ConfigError: names the setting and its usual value.
    """
    if isinstance(usual, bool):
        wrong, kind = not isinstance(value, bool), "true or false"
    else:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        wrong = not isfinite(value) if number else isinstance(usual, int | float)
        kind = "a finite number" if usual is None else f"a number, such as {usual}"
    reference = isinstance(value, str) and "${" in value
    if wrong and value is not None and not reference:
        raise ConfigError(f"{key} must be {kind}, got {value!r}")


def parameters(target: str, wanted: set[str]) -> set[str]:
    """Names that a class or function takes; all that are wanted where that cannot be told."""
    try:
        taken = inspect.signature(get_object(target)).parameters
    except (ImportError, TypeError, ValueError):  # instantiation will say what is wrong with it
        return wanted
    return wanted if any(each.kind == each.VAR_KEYWORD for each in taken.values()) else set(taken)


@cache
def known_keys() -> dict[str, dict[str, Any]]:
    """Keys and values of each node of ``conf/``, by its target or its place; "" is the top."""
    known: dict[str, dict[str, Any]] = {}

    def collect(node: Mapping[str, Any], place: str) -> None:
        here = known.setdefault(str(node.get("_target_", place)), {})
        for name, value in node.items():
            if here.get(name) is None:  # a usual value says more than null
                here[name] = value
            if isinstance(value, Mapping):
                collect(value, f"{place}.{name}".lstrip("."))

    for path in conf_dir().rglob("*.yaml"):
        values: Any = OmegaConf.to_container(OmegaConf.load(path))
        group = path.relative_to(conf_dir()).parts[0].removesuffix(".yaml")
        if group not in OVERLAYS:
            collect(values if group in ("train", "data") else {group: values}, "")
    for name in ("defaults", "hydra"):
        known[""].pop(name)
    return known


def dotted(node: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """Every key of nested mappings, those of mappings too.

    >>> list(dotted({"optim": {"head_lr": 1}}))
    ['optim', 'optim.head_lr']
    """
    for name, value in node.items():
        yield f"{place}{name}"
        if isinstance(value, Mapping):
            yield from dotted(value, f"{place}{name}.")


def unknown(key: str, known: Collection[str]) -> ConfigError:
    """The error for a key that is none; beside it is looked first.

    >>> str(unknown("lr", ["seed", "optim.optimizer.lr"]))
    'unknown setting lr: optim.optimizer.lr?'
    """
    place, _, leaf = key.rpartition(".")
    names: dict[str, list[str]] = {}  # last part -> whole keys
    for each in sorted({*known} - {key}, key=lambda each: (each.rpartition(".")[0] != place, each)):
        names.setdefault(each.rpartition(".")[2], []).append(each)
    alike = [leaf] if leaf in names else get_close_matches(leaf, names, 2, cutoff=0.7)
    near = [each for name in alike for each in names[name]][:3]
    if place and not near:
        near = sorted(k for k in known if k.startswith(f"{place}.") and "._" not in k)[:8]
    advice = f"{' or '.join(near)}?" if near else "python train.py --help lists the settings"
    return ConfigError(f"unknown setting {key}: {advice}")
