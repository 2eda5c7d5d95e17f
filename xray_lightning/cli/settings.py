"""Settings: where they lie, which there are, and which cannot work, refused before torch."""

import inspect
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader

from xray_lightning import hub
from xray_lightning.cli.request import DEFAULTS, Own, Request, describe_unknown, take_own
from xray_lightning.data.files import match_paths
from xray_lightning.errors import ConfigError, DataNotFoundError, require_integer
from xray_lightning.wording import fault
from xray_lightning.writing import entries_of

Settings = DictConfig  # what the verbs call it: Hydra and OmegaConf stay in few files

OWN_NAMES = ("callbacks", "logger")  # places where a name of the user's own is a new object
OF_HYDRA = {"_target_", "_partial_", "_args_", "_recursive_", "_convert_"}
OVERLAYS = ("experiment", "sweep")  # groups that set what other groups define
CACHES = ("cache_dir", "cache_local", "resident")
LEAST: dict[str, int] = DEFAULTS["keys"]["least"]
CHANGEABLE = (*DEFAULTS["keys"]["changeable"], *CACHES)
OPENING: Own = DEFAULTS["opening"]


def find_conf() -> Path:
    """``conf/`` inside an installed package, else at the root of the repository."""
    package = Path(__file__).resolve().parents[1]
    for place in (package / "conf", package.parent / "conf"):
        if (place / "train.yaml").is_file():
            return place
    raise DataNotFoundError(f"no conf/train.yaml in {package} or beside it: install it again")


# --- values that cannot work ----------------------------------------------------------------


def require_settings(config: Settings) -> None:
    """Refuse what cannot work before hours of training."""
    seed = config.seed
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed must be an integer from 0 to 2**32 - 1, got {seed!r}")
    for name, low in LEAST.items():
        value = OmegaConf.select(config, name, default=low)  # an older checkpoint may lack it
        if not (value is None and name in ("workers", "threads")):
            require_integer(name.replace("trainer.max_", ""), value, low)
    devices = config.trainer.devices
    if devices in (0, "0", "") or (isinstance(devices, int) and devices < -1):
        raise ConfigError(f"trainer.devices must be at least 1, or -1 for all, got {devices!r}")
    usual = read_known_keys()
    point, method = config.operating_point, config.calibration
    if (point, method) == (usual["operating_point"], usual[""]["calibration"]):
        return
    from xray_lightning.metrics.calibration import require_method  # SciPy and scikit-learn: 0.5 s
    from xray_lightning.metrics.operating_points import require_rule

    require_rule(point.rule, point.value)
    require_method(method)


def require_openable(request: Request) -> Request:
    """The request with its checkpoints found; refuses what no checkpoint can be opened with."""
    _, rest = take_own(request.rest, OPENING | {"tta": ("none", "flip")})
    changes = dict(text.split("=", 1) for text in rest)
    require_changes(list(changes), own=request.own)
    for key, value in changes.items():
        if key in LEAST and value != "null" and not value.isdecimal():
            require_integer(key, value, LEAST[key])
    return replace(request, files=tuple(str(find_checkpoint(name)) for name in request.files))


def point_settings(config: Settings) -> Own:
    """How operating points are fitted, see :func:`~.evaluation.evaluate.fit_operating_points`."""
    return {**config.operating_point, "calibration": config.calibration, "draws": config.draws}


def find_checkpoint(place: str | Path) -> Path:
    """The file of a checkpoint, see :func:`~xray_lightning.hub.find_checkpoint`; says the hub's."""
    path = hub.find_checkpoint(place)
    if str(place).startswith("hf:/"):
        print(f"note: {hub.name_place(path)}", file=sys.stderr)
    return path


def find_checkpoints(names: Sequence[str]) -> list[Path]:
    """The checkpoints of files, run folders and patterns of these, each once."""
    places = [place for name in names for place in match_paths(name) or [Path(name)]]
    return list(dict.fromkeys(map(find_checkpoint, places)))


def require_changes(
    overrides: Sequence[str],
    allowed: Sequence[str] = CHANGEABLE,
    what: str = "an evaluation can change only",
    own: Collection[str] = (),
) -> None:
    """Refuse, by a ConfigError, what would change nothing; ``own``: settings of the verb."""
    for text in overrides:
        key = text.partition("=")[0]
        if key.split(".")[0] not in allowed:
            near = get_close_matches(key, {*allowed, *OPENING, *own}, 1, cutoff=0.7)
            raise ConfigError(fault("no_change", text, what, allowed, near))


# --- keys that no setting has ---------------------------------------------------------------


def require_known_keys(config: Settings, *, below: bool = True) -> None:
    """Refuse a key that nothing reads, a deleted one, and a wrong type; ``below``: at any depth."""
    # free: an object's constructor arguments, names of callbacks and loggers, keys of mappings
    plain = {k: v for k, v in to_container(config, resolve=False).items() if k != "hydra"}
    checked = plain if below else dict.fromkeys(plain)
    if plain.get("resume"):  # the run has its own, and says itself which may change
        checked = {k: v for k, v in checked.items() if k not in ("data", "split", "augment")}
    if strange := list(_find_unknown_keys(checked)):
        place = strange[0].rpartition(".")[0]
        target = OmegaConf.select(config, f"{place}._target_") if place else None
        more = _list_parameters(target, set()) if target else ()
        here = (f"{place}.{name}" for name in more)
        error = describe_unknown(strange[0], {*list_keys(plain), *here})
        reason = "; an experiment that sets it, such as smoke, has a data set of its own"
        raise ConfigError(f"{error}{reason}") if place == "data" else error
    # other keys refer to two, the third is not saved, a run of an earlier version lacks the last
    optional = {"epochs", "weights", "trust", "monitor"}
    usual = read_known_keys()[""]
    if missing := sorted(set(usual) - optional - set(plain)):
        group = (find_conf() / missing[0]).is_dir()
        raise ConfigError(fault("missing_setting", missing[0], group, usual[missing[0]]))


def _find_unknown_keys(node: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """Dotted keys below ``place`` that neither ``conf/`` nor a constructor knows."""
    target = node.get("_target_")
    known = read_known_keys().get(target or place)
    if target is None and known is None:
        return
    strange = set(node) - set(known or ()) - OF_HYDRA
    if target is not None and strange:
        strange -= _list_parameters(str(target), strange)
    elif place in OWN_NAMES:
        _require_objects(node, place)
        strange = {name for name in strange if node[name] is None}
    for name, value in node.items():
        key = f"{place}.{name}".lstrip(".")
        if name in strange:
            yield key
        elif isinstance(value, Mapping):
            yield from _find_unknown_keys(value, key)
        elif place != "trainer":  # devices=auto; Lightning looks at its own
            _require_type(key, value, (known or {}).get(name))


def _require_objects(node: Mapping[str, Any], place: str) -> None:
    """Refuse a callback or logger that is neither null nor says its class."""
    for name, value in node.items():
        if value is not None and not (isinstance(value, Mapping) and "_target_" in value):
            raise ConfigError(f"{place}.{name} must be null or have a _target_, got {value!r}")


def _require_type(key: str, value: Any, usual: Any) -> None:
    """Refuse a word where a number is usual, an infinite number, and what is not true or false."""
    if isinstance(usual, bool):
        wrong, kind = not isinstance(value, bool), "true or false"
    else:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        wrong = not isfinite(value) if number else isinstance(usual, int | float)
        kind = "a finite number" if usual is None else f"a number, such as {usual}"
    reference = isinstance(value, str) and "${" in value
    if wrong and value is not None and not reference:
        raise ConfigError(f"{key} must be {kind}, got {value!r}")


def _list_parameters(target: str, wanted: set[str]) -> set[str]:
    """Names that a class or function takes; all that are wanted where that cannot be told."""
    try:
        taken = inspect.signature(get_object(target)).parameters
    except (ImportError, TypeError, ValueError):  # instantiation will say what is wrong with it
        return wanted
    return wanted if any(p.kind == p.VAR_KEYWORD for p in taken.values()) else set(taken)


@cache
def read_known_keys() -> dict[str, Own]:
    """Keys and values of each node of ``conf/``, by its target or its place; "" is the top."""
    known: dict[str, Own] = {}
    words = get_yaml_loader().yaml_implicit_resolvers  # OmegaConf's, to which 3e-4 is a number
    loader = type("Loader", (yaml.CSafeLoader,), {"yaml_implicit_resolvers": words})  # in C, quick
    for path in find_conf().rglob("*.yaml"):
        values = yaml.load(path.read_bytes(), loader) or {}
        values.pop("defaults", None)
        group = path.relative_to(find_conf()).parts[0].removesuffix(".yaml")
        top = values if group in ("train", "data") else {group: values}
        for place, node in entries_of(top) if group not in OVERLAYS else ():
            if isinstance(node, Mapping):
                here = known.setdefault(str(node.get("_target_", place)), {})
                unset = {name: value for name, value in node.items() if here.get(name) is None}
                here.update(unset)  # a usual value says more than null
    del known[""]["hydra"]
    return known


def to_container(config: Settings, *, resolve: bool = True) -> Own:
    """Settings as plain values."""
    plain: Any = OmegaConf.to_container(config, resolve=resolve)
    return {str(key): value for key, value in plain.items()}


def list_keys(node: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """Every key of nested mappings, those of mappings too.

    >>> list(list_keys({"optim": {"head_lr": 1}}))
    ['optim', 'optim.head_lr']
    """
    for name, value in node.items():
        yield f"{place}{name}"
        if isinstance(value, Mapping):
            yield from list_keys(value, f"{place}{name}.")
