"""What a command line asks for: files, settings, a folder, and how to print."""

import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TextIO

import yaml  # type: ignore[import-untyped]

from xray_lightning.errors import ConfigError, require_integer
from xray_lightning.folders import prepare_folder
from xray_lightning.wording import fault
from xray_lightning.writing import json_text, write_json

SETTING = re.compile(r"[+~]*[\w.@]+(/\w+)?=")  # hydra/launcher= too; a path with = stands first
SWITCHES = ("rename", "test", "trust")  # flags of earlier versions that took no value
LEAST = {"frame": 0, "port": 0, "seed": 0, "bootstrap_seed": 0, "positives": 2}  # else 1
RUN_DIR = "hydra.run.dir"  # --out, as training calls it
Own = dict[str, Any]  # settings as plain values
Facts = Mapping[str, Any]  # of a JSON file
# verb -> its own settings, beside those of conf/
DEFAULTS: dict[str, Own] = yaml.safe_load(Path(__file__).with_name("defaults.yaml").read_bytes())


@dataclass(frozen=True)
class Request:
    """The arguments of a verb: files, settings ``key=value``, ``--out`` and ``--json``."""

    files: tuple[str, ...]
    settings: tuple[str, ...] = ()  # as they were typed
    out: Path | None = None  # also hydra.run.dir=, as in training
    as_json: bool = False
    own: Own = field(default_factory=dict, repr=False)  # the verb's own settings, by ``read``
    rest: tuple[str, ...] = field(default=(), repr=False)  # and those of conf/
    stream: TextIO = field(default_factory=lambda: sys.stdout, compare=False, repr=False)

    @property
    def words(self) -> list[str]:
        """Files, settings and folder, as they could be typed."""
        return [*self.files, *self.settings, *(["--out", str(self.out)] if self.out else [])]

    def require_out(self) -> Path:
        """The folder, or file, for results."""
        if self.out is None:
            raise ConfigError("name where the results go: --out PATH")
        return self.out

    def read(self, own: Facts, *, composes: bool = False) -> "Request":
        """With the verb's own settings by :func:`take_own`; one that composes none of conf/."""
        chosen, rest = take_own(self.settings, own)
        if rest and not composes:
            key = rest[0].partition("=")[0]
            raise describe_unknown(key, own) if own else ConfigError(f"no setting {key} here")
        return replace(self, own=chosen, rest=tuple(rest))

    def keep(self, name: str) -> Path | None:
        """Where a result is kept, in a folder that is made now: before long work."""
        return self.out and prepare_folder(self.out) / name

    def present(self, values: Facts, *lines: object, path: Path | None = None) -> None:
        """A result, into a file if it is named: as JSON, or as tables and lines."""
        from xray_lightning.report.terminal import show

        if path is not None:
            write_json(values, path)
        if self.as_json:
            print(json_text(values), file=self.stream)
        else:
            show(*lines)


def describe_unknown(key: str, known: Collection[str]) -> ConfigError:
    """The error for a key that is none; beside it is looked first.

    >>> str(describe_unknown("lr", ["seed", "optim.optimizer.lr"]))
    'unknown setting lr: optim.optimizer.lr?'
    """
    place, _, leaf = key.rpartition(".")
    names: dict[str, list[str]] = {}  # last word -> whole keys
    for whole in sorted({*known} - {key}, key=lambda k: (k.rpartition(".")[0] != place, k)):
        names.setdefault(whole.rpartition(".")[2], []).append(whole)
    alike = [leaf] if leaf in names else get_close_matches(leaf, names, 2, cutoff=0.7)
    near = [whole for name in alike for whole in names[name]][:3]
    if place and not near:
        near = sorted(k for k in known if k.startswith(f"{place}.") and "._" not in k)[:8]
    advice = f"{' or '.join(near)}?" if near else "python train.py --help lists the settings"
    return ConfigError(f"unknown setting {key}: {advice}")


def take_own(overrides: Iterable[str], own: Mapping[str, Any]) -> tuple[Own, list[str]]:
    """A verb's own settings, each of the kind of its default, and what is left for Hydra.

    Defaults are a text, an int, a bool, None for a whole number that may be left out, or the words
    that are allowed, as a tuple or list, the first of them unless given.

    >>> take_own(["draws=50", "data=nih"], {"draws": 2000, "subset": ("test", "val")})
    ({'draws': 50, 'subset': 'test'}, ['data=nih'])
    """
    chosen = {key: low[0] if isinstance(low, tuple | list) else low for key, low in own.items()}
    rest = []
    for text in overrides:
        key, _, given = text.partition("=")
        if key in own:
            chosen[key] = read_setting(key, given, own[key])
        else:
            rest.append(text)
    return chosen, rest


def read_setting(name: str, text: str, default: Any) -> Any:
    """A setting as its default is."""
    words = ("true", "false") if isinstance(default, bool) else default
    if isinstance(words, tuple | list):
        if text not in words:
            allowed = " or ".join(filter(None, words))
            raise ConfigError(f"{name} must be {allowed}, got {text!r}")
        return text == "true" if isinstance(default, bool) else text
    if isinstance(default, str) or (default is None and text == "null"):
        return default if default is None else text
    least = LEAST.get(name, 1)
    if not text.isdecimal() or int(text) < least:
        require_integer(name, text, least)
    return int(text)


def read_names(text: str) -> tuple[str, ...]:
    """The items of a list, ``a,b`` or ``[a,b]``, each once.

    >>> read_names("[cam, gradcam]")
    ('cam', 'gradcam')
    """
    return tuple(dict.fromkeys(filter(None, map(str.strip, text.strip("[]").split(",")))))


def read_labels(text: str) -> str | tuple[str, ...]:
    """What ``labels=`` asks for: the word "shared", or a list."""
    return text if text == "shared" else read_names(text)


def read_request(
    usage: str, arguments: Sequence[str], out: Path | None = None, as_json: bool = False
) -> Request:
    """Files and settings told apart: as many files as the usage names come first.

    A last word "PATH..." of the usage means one or more; flags ``--json`` and ``--out`` are apart.

    >>> read_request("FIRST SECOND", ["a/loss=bce", "b", "--draws", "50"])
    Request(files=('a/loss=bce', 'b'), settings=('draws=50',), out=None, as_json=False)
    """
    words = usage.split()
    rest = as_settings(arguments)
    files, settings = list(rest[: len(words)]), []
    for text in rest[len(words) :]:
        if SETTING.match(text):
            settings.append(text)
        elif usage.endswith("..."):
            files.append(text)
        else:
            raise ConfigError(f"{text!r} is not a setting: write KEY=VALUE ({usage or 'no files'})")
    missing = words[len(files) :]
    swapped = [text for text in files if SETTING.match(text) and not Path(text).exists()]
    if missing or (swapped and "/" not in swapped[0]):
        raise ConfigError(fault("files_first", missing, swapped, usage))
    own, others = take_own(settings, {RUN_DIR: ""})
    out = out or (Path(own[RUN_DIR]) if own[RUN_DIR] else None)
    return Request(tuple(files), tuple(others), out, as_json)


def as_settings(arguments: Sequence[str]) -> list[str]:
    """Arguments with flags of earlier versions as settings.

    >>> as_settings(["x", "--batch-size", "4", "--rename"])
    ['x', 'batch_size=4', 'rename=true']
    """
    settings, rest = [], iter(arguments)
    for text in rest:
        name, given, value = text.removeprefix("--").partition("=")
        if text.startswith("--"):
            name = name.replace("-", "_")
            if not given:
                value = "true" if name in SWITCHES else next(rest, "--")
            if value.startswith("--"):
                raise ConfigError(fault("no_flag", text, name))
            text = f"{name}={value}"
        settings.append(text)
    return settings
