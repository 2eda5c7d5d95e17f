"""Several data sets on one command line: ``data=[nih,rsna] data.nih.root=DIR``."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from xray_lightning.cli.settings import find_conf
from xray_lightning.errors import ConfigError

SEVERAL = "several"
OWN = ("labels", "allow_missing", "sources")  # settings of all sets together, and of none
SEARCH = "hydra.searchpath="


def split_sets(overrides: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Settings of each set of ``data=[nih,rsna]``, written as for that one alone; and the rest."""
    # also ``data=several data.sets=[nih,rsna]`` and ``data=nih``; without ``data=`` there are none
    pairs = {key: value for key, _, value in (text.partition("=") for text in overrides)}
    named = pairs.get("data.sets") or pairs.get("data") or ""
    if not named or named == SEVERAL:
        return {}, list(overrides)
    several = "data.sets" in pairs or named.startswith("[")
    names = [name.strip() for name in named.strip("[]").split(",")]
    settings = {name: [f"data={name}"] for name in names}
    _require_sets(names, overrides)
    rest = []
    for text in overrides:
        key, _, value = text.partition("=")
        words = key.split(".")
        if key in ("data", "data.sets"):
            continue
        if words[0] != "data" or (several and words[1] in OWN):
            rest.append(text)
        elif not several:
            settings[names[0]].append(text)
        elif len(words) > 2 and words[1] in settings:
            settings[words[1]].append(f"data.{'.'.join(words[2:])}={value}")
        else:
            leaf = words[-1]
            raise ConfigError(
                f"{text}: of which data set? {' or '.join(f'data.{n}.{leaf}=' for n in names)}"
            )
    return settings, rest


def _require_sets(names: Sequence[str], overrides: Sequence[str]) -> None:
    """Refuse names that are no file of ``conf/data/``, here or in a folder of the user's own."""
    search = "".join(text.partition("=")[2] for text in search_path(overrides))
    own = [Path(place.strip().removeprefix("file://")) for place in search.strip("[]").split(",")]
    folders = [find_conf() / "data", *(place / "data" for place in own if place.name)]
    known = {path.stem for folder in folders for path in folder.glob("*.yaml")} - {SEVERAL}
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1) or sorted(known)
            raise ConfigError(f"there is no data set {name!r}: {', '.join(near)}?")
    if len(set(names)) < len(names):
        raise ConfigError(f"data.sets=[{','.join(names)}] names a data set twice")


def search_path(overrides: Sequence[str]) -> list[str]:
    """Where configurations of the user's own lie, as an override; [] if nowhere."""
    own = [text for text in overrides if text.startswith(SEARCH)]
    flags = [text.partition("=")[2] for text in overrides if text.startswith("--config-dir=")]
    return own or [f"{SEARCH}[file://{Path(folder).absolute()}]" for folder in flags]


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
