"""``xray explain``: where a checkpoint looks, and whether its maps and scores can be believed."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from xray_lightning.audit.shortcuts.run import Shortcuts, find_shortcuts
from xray_lightning.cli.build import progress, trainer_from
from xray_lightning.cli.config import read_integer, read_names, take_own
from xray_lightning.cli.opening import Opened, open_checkpoint
from xray_lightning.cli.settings import EXPLAIN
from xray_lightning.errors import ConfigError
from xray_lightning.explain.maps import GATES, METHODS
from xray_lightning.explain.run import Explanation, explain_checkpoint, require_explainable
from xray_lightning.folders import prepare_folder
from xray_lightning.report.explanation import draw_explanation, explanation_lines
from xray_lightning.report.shortcut_tables import shortcut_lines
from xray_lightning.report.terminal import show
from xray_lightning.writing import json_text, write_json


def explain(checkpoint: Path, overrides: Sequence[str], as_json: bool) -> None:
    """Localisation, saliency tests, shortcut tests and a gallery; see ``xray explain --help``.

    Images of patients that the checkpoint learned from are explained apart (overlap=report).
    """
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        settings, shortcuts, values = own_settings(overrides)
        images = open_checkpoint(checkpoint, values)
        images.data.split = images.splits["test"]
        methods = (*settings["methods"], *settings["saliency"])
        others = {key: settings[key] for key in ("subset", "label", "seeds", "permuted")}
        require_explainable(images.checkpoint, images.data, methods=methods, **others)
        folder = folder_of(images, settings["subset"])
        places = {n: prepare_folder(folder if n == "test" else folder / n) for n in images.splits}
        every = {place: explain_split(images, name, settings, shortcuts, place)
                 for name, place in places.items()}  # fmt: skip
    if as_json:
        first, *rest = (facts for _, facts in every.values())
        print(json_text({"parts": [first, *rest]} if rest else first))
        return
    for place, (explanation, facts) in every.items():
        found = facts["shortcuts"]
        lines = shortcut_lines(Shortcuts.from_json(found), str(checkpoint)) if found else []
        show(*explanation_lines(explanation), *lines, f"written to {place}")


def explain_split(
    images: Opened, name: str, settings: Mapping[str, Any], shortcuts: bool, folder: Path
) -> tuple[Explanation, dict[str, Any]]:
    """One set of images, files into the folder; what explain.json holds beside the explanation."""
    images.data.split = images.splits[name]
    trainer = trainer_from(images.config, progress(), fit=False, folder=folder)
    explanation = explain_checkpoint(
        images.checkpoint, images.data, trainer=trainer, progress=True, **settings
    )
    draw_explanation(explanation, folder)
    values = explanation.to_json() | {"shortcuts": {}}
    if shortcuts:
        show("shortcut tests: covering corners, border and letters; probes")
        net = images.checkpoint.build_net().to(trainer.strategy.root_device)
        chosen = {key: settings[key] for key in ("draws", "seed")}
        tests = find_shortcuts(net, images.data, settings["subset"], **chosen)
        tests = replace(tests, weights_sha256=images.checkpoint.weights_sha256)
        values["shortcuts"] = tests.to_json()
    write_json(values, folder / "explain.json")
    return explanation, values


def folder_of(images: Opened, subset: str) -> Path:
    """RUN/explain for best.ckpt on its own test images, a folder with a fingerprint for others."""
    own = images.own_images and subset == "test"
    own = own and images.checkpoint.path.name == "best.ckpt"  # the report of the run is of that one
    return images.folder(
        "explain", "" if own else f"_{images.data.split.subset_fingerprints[subset]}"
    )


def own_settings(overrides: Sequence[str]) -> tuple[dict[str, Any], bool, list[str]]:
    """The settings of the library, whether shortcuts are tested, and what is left."""
    values, rest = take_own(overrides, EXPLAIN)
    if idle := [text for text in rest if text.startswith(("tta=", "prior="))]:
        raise ConfigError(f"{idle[0]}: nothing here depends on it; xray evaluate takes it")
    for name, allowed in (("subset", ("val", "test")), ("shortcuts", ("true", "false"))):
        if values[name] not in allowed:
            raise ConfigError(f"{name} must be {' or '.join(allowed)}, got {values[name]!r}")
    permuted = read_names(values["permuted"])
    if len(permuted) > 1:
        raise ConfigError(f"permuted takes one checkpoint, got {', '.join(permuted)}")
    settings = {
        "subset": values["subset"],
        "methods": methods_of("methods", values["methods"]),
        "saliency": methods_of("saliency", values["saliency"]),
        "label": values["label"],
        "positives": read_integer("positives", values["positives"], 2),
        "seeds": read_names(values["seeds"]),
        "permuted": permuted[0] if permuted else None,
        "draws": read_integer("draws", values["draws"], 1),
        "seed": read_integer("bootstrap_seed", values["bootstrap_seed"], 0),
    }
    return settings, values["shortcuts"] == "true", rest


def methods_of(name: str, text: str) -> tuple[str, ...]:
    """Names of map methods; "none" and "all", those of every network, are lists too."""
    if text in ("none", "all"):
        return METHODS if text == "all" else ()
    methods, known = read_names(text), (*METHODS, GATES)
    unknown = ", ".join(method for method in methods if method not in known)
    if unknown or not methods:
        every = ", ".join(known)
        raise ConfigError(f"{name} must be none, all, or of {every}, got {unknown or 'nothing'}")
    return methods
