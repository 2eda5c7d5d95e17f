"""``xray explain``, ``shortcuts``: where does a checkpoint look, and can its maps be believed?"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from xray_lightning.audit.shortcuts import Shortcuts, find_shortcuts, write_gist
from xray_lightning.cli.build import trainer_from
from xray_lightning.cli.opening import Opened, home, open_checkpoint
from xray_lightning.cli.request import Own, Request, read_names, take_own
from xray_lightning.cli.settings import EXPLAIN
from xray_lightning.deploy.classifier import find_device
from xray_lightning.errors import ConfigError
from xray_lightning.explain.maps import GATES, METHODS
from xray_lightning.explain.run import explain_checkpoint, require_explainable
from xray_lightning.folders import prepare_folder
from xray_lightning.models.network import XrayNet
from xray_lightning.report.explanation import draw_explanation, explanation_lines, shortcut_lines
from xray_lightning.report.terminal import show
from xray_lightning.writing import write_json

BEST = "best.ckpt", "test"


def explain(request: Request) -> None:
    """Where does it look, and can that be believed? Writes RUN/explain/."""
    (checkpoint,), (settings, changes) = request.files, own_settings(request.settings)
    images = open_checkpoint(Path(checkpoint), changes, request.out)
    images.data.split = images.splits["test"]
    methods = (*settings["methods"], *settings["saliency"])
    others = {key: settings[key] for key in ("subset", "label", "seeds", "permuted", "doubts")}
    require_explainable(images.checkpoint, images.data, methods=methods, **others)
    # RUN/explain for best.ckpt on its own test images, which the report of the run is of
    own = images.own_images and (images.checkpoint.path.name, settings["subset"]) == BEST
    ending = "" if own else f"_{images.data.split.subset_fingerprints[settings['subset']]}"
    folder = images.folder("explain", ending)
    places = {n: prepare_folder(folder if n == "test" else folder / n) for n in images.splits}
    parts = [explain_split(images, name, settings, place) for name, place in places.items()]
    (first, _), *rest = parts
    values = {"parts": [values for values, _ in parts]} if rest else first
    request.present(values, *(line for _, lines in parts for line in lines))


def explain_split(
    images: Opened, name: str, settings: Own, folder: Path
) -> tuple[Own, list[Table | str]]:
    """One set of images, files into the folder: what explain.json holds, and what is shown."""
    images.data.split = images.splits[name]
    trainer = trainer_from(images.config, folder)
    explanation = explain_checkpoint(
        images.checkpoint, images.data, trainer=trainer, progress=True,
        **{key: value for key, value in settings.items() if key != "shortcuts"},
    )  # fmt: skip
    draw_explanation(explanation, folder)
    values, lines = explanation.to_json() | {"shortcuts": {}}, explanation_lines(explanation)
    if settings["shortcuts"]:
        show("shortcut tests: covering corners, border and letters; probes")
        net = images.checkpoint.build_net().to(trainer.strategy.root_device)
        chosen = {key: settings[key] for key in ("subset", "draws", "seed")}
        tests = find_own(images, net, **chosen)
        values["shortcuts"] = tests.to_json()
        lines += shortcut_lines(tests, str(images.checkpoint.path))
    write_json(values, folder / "explain.json")
    return values, [*lines, f"written to {folder}"]


def own_settings(overrides: Sequence[str]) -> tuple[Own, list[str]]:
    """The settings of the library, whether shortcuts are tested, and what is left."""
    own, rest = take_own(overrides, EXPLAIN)
    if idle := [text for text in rest if text.startswith(("tta=", "prior="))]:
        raise ConfigError(f"{idle[0]}: nothing here depends on it; xray evaluate takes it")
    permuted = read_names(own["permuted"])
    if len(permuted) > 1:
        raise ConfigError(f"permuted takes one checkpoint, got {', '.join(permuted)}")
    own |= {name: methods_of(name, own[name]) for name in ("methods", "saliency")}
    own |= {"seeds": read_names(own["seeds"]), "permuted": permuted[0] if permuted else None}
    return own | {"seed": own.pop("bootstrap_seed")}, rest


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


def shortcuts(request: Request) -> None:
    """Is a label read off the film instead of the chest? Covers corners, border and letters."""
    results: dict[str, Shortcuts] = {}
    for path in request.files:
        images = open_checkpoint(Path(path), request.settings, request.out)
        images.data.split = images.splits["test"]
        net = images.checkpoint.build_net().to(find_device("auto"))
        folder = prepare_folder(images.out or home(images.checkpoint.path))
        result = results[path] = find_own(images, net, "test", draws=images.config.draws)
        write_json(result.to_json(), folder / "shortcuts.json")
        if not request.as_json:
            show(*shortcut_lines(result, path))
    gists = [f"{path}: {write_gist(result)}" for path, result in results.items()]
    values = {path: result.to_json() for path, result in results.items()}
    request.present(values, *(gists if len(gists) > 1 else ()))


def find_own(images: Opened, net: XrayNet, subset: str, *, draws: int, seed: int = 0) -> Shortcuts:
    """Shortcuts of a checkpoint's network, on a device."""
    tests = find_shortcuts(net, images.data, subset, draws=draws, seed=seed)
    return replace(tests, weights_sha256=images.checkpoint.weights_sha256)
