"""What a command line asks for: files, settings, a folder, and how to print."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xray_lightning.errors import ConfigError

SETTING = re.compile(r"[+~]*[\w.@]+(/\w+)?=")  # hydra/launcher= too; a path with = stands first
SWITCHES = ("rename", "test", "trust")  # flags of earlier versions that took no value
LEAST = {"frame": 0, "seed": 0}  # of whole numbers; 1 of the others


@dataclass(frozen=True)
class Request:
    """The arguments of a verb."""

    files: tuple[str, ...]  # those its usage names, as given
    settings: tuple[str, ...] = ()  # ``key=value``, in their order
    out: Path | None = None  # the folder of ``--out``
    as_json: bool = False  # whether to print JSON only

    @property
    def overrides(self) -> list[str]:
        """The settings, ``--out`` as Hydra calls it."""
        return [*self.settings, *([f"hydra.run.dir={self.out}"] if self.out else [])]

    @property
    def json_option(self) -> dict[str, bool]:
        """For verbs that print JSON on demand."""
        return {"as_json": True} if self.as_json else {}

    def require_out(self) -> Path:
        """The folder for results."""
        if self.out is None:
            raise ConfigError("name the folder for the results: --out DIR")
        return self.out

    def read(self, **defaults: Any) -> dict[str, Any]:
        """The settings of a verb that has no configuration, each of the type of its default.

        Args:
            defaults: an int, a bool, a text, or None for a whole number that may be left out.

        Raises:
            ConfigError: a key that it does not have, or a value of another type.
        """
        chosen = dict(defaults)
        for text in self.settings:
            key, _, given = text.partition("=")
            if key not in defaults:
                from xray_lightning.cli.settings import describe_unknown

                raise (
                    describe_unknown(key, defaults)
                    if defaults
                    else ConfigError(f"no setting {key} here")
                )
            chosen[key] = read_value(key, given, defaults[key])
        return chosen


def read_value(name: str, text: str, default: Any) -> Any:
    """A setting as its default is: true or false, a whole number, or text."""
    from xray_lightning.cli.config import read_boolean, read_integer

    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        return read_boolean(name, text)
    if default is None and text == "null":
        return None
    return read_integer(name, text, LEAST.get(name, 1))


def read_request(
    usage: str, arguments: Sequence[str], out: Path | None = None, as_json: bool = False
) -> Request:
    """Files and settings told apart: as many files as the usage names come first.

    Args:
        usage: "FIRST SECOND"; a last word "PATH..." means one or more.
        arguments: as typed, without ``--json`` and ``--out``.
        out: the folder of ``--out``.
        as_json: whether to print JSON only.

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
        named = ", ".join(missing) or swapped[0]
        raise ConfigError(f"name the files first: {usage} (got {named})" if swapped else
                          f"name {named}: the files come first, {usage}")  # fmt: skip
    return Request(tuple(files), tuple(settings), out, as_json)


def as_settings(arguments: Sequence[str]) -> list[str]:
    """Arguments with flags of earlier versions as settings.

    >>> as_settings(["x", "--batch-size", "4", "--rename"])
    ['x', 'batch_size=4', 'rename=true']
    """
    settings, rest = [], iter(arguments)
    for text in rest:
        if not text.startswith("--"):
            settings.append(text)
            continue
        name, given, value = text[2:].partition("=")
        name = name.replace("-", "_")
        if name in SWITCHES and not given:
            value = "true"
        elif not given and (value := next(rest, "")) == "":
            raise ConfigError(f"{text} needs a value: {name}=VALUE")
        settings.append(f"{name}={value}")
    return settings
