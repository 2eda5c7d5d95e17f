"""``xray explain``, ``shortcuts``: where does a checkpoint look, and can its maps be believed?"""

from pathlib import Path

from xray_lightning.audit.shortcuts import Shortcuts, find_shortcuts, write_gist
from xray_lightning.cli.build import trainer_from
from xray_lightning.cli.opening import open_checkpoint
from xray_lightning.cli.request import Own, Request, read_names
from xray_lightning.deploy.classifier import find_device
from xray_lightning.errors import ConfigError
from xray_lightning.explain.maps import choose_methods
from xray_lightning.explain.run import require_explainable
from xray_lightning.folders import prepare_folder
from xray_lightning.report.explanation import explain_into, shortcut_lines
from xray_lightning.report.terminal import show
from xray_lightning.writing import write_json


def explain(request: Request) -> None:
    """Where does it look, and can that be believed? Writes RUN/explain/."""
    (checkpoint,), settings = request.files, own_settings(request)
    config, images = open_checkpoint(Path(checkpoint), request.rest)
    methods = (*settings["methods"], *settings["saliency"])
    others = {key: settings[key] for key in ("subset", "label", "seeds", "permuted", "doubts")}
    require_explainable(images.checkpoint, images.data, methods=methods, **others)
    # RUN/explain for best.ckpt on its own test images, which the report of the run is of
    best = images.checkpoint.path.name == "best.ckpt" and settings["subset"] == "test"
    own = images.own_images and best
    ending = "" if own else f"_{images.data.split.subset_fingerprints[settings['subset']]}"
    folder = request.out or images.folder(f"explain{ending}")
    trainer = trainer_from(config, folder)
    parts = [
        explain_into(place, images.checkpoint, images.data, trainer, **settings)
        for _, place in images.visit(folder)
    ]
    (first, _), *rest = parts
    values = {"parts": [values for values, _ in parts]} if rest else first
    request.present(values, *(line for _, lines in parts for line in lines))


def own_settings(request: Request) -> Own:
    """The settings of the library, and whether shortcuts are tested."""
    own = dict(request.own)
    if idle := [text for text in request.rest if text.startswith(("tta=", "prior="))]:
        raise ConfigError(f"{idle[0]}: nothing here depends on it; xray evaluate takes it")
    permuted = read_names(own["permuted"])
    if len(permuted) > 1:
        raise ConfigError(f"permuted takes one checkpoint, got {', '.join(permuted)}")
    own |= {name: choose_methods(name, read_names(own[name])) for name in ("methods", "saliency")}
    own |= {"seeds": read_names(own["seeds"]), "permuted": permuted[0] if permuted else None}
    return own | {"seed": own.pop("bootstrap_seed")}


def shortcuts(request: Request) -> None:
    """Is a label read off the film instead of the chest? Covers corners, border and letters."""
    results: dict[str, Shortcuts] = {}
    for path in request.files:
        config, images = open_checkpoint(Path(path), request.rest)
        net = images.checkpoint.build_net().to(find_device("auto"))
        folder = prepare_folder(request.out or images.folder())
        result = results[path] = find_shortcuts(net, images.data, draws=config.draws)
        write_json(result.to_json(), folder / "shortcuts.json")
        if not request.as_json:
            show(*shortcut_lines(result, path))
    gists = [f"{path}: {write_gist(result)}" for path, result in results.items()]
    values = {path: result.to_json() for path, result in results.items()}
    request.present(values, *(gists if len(gists) > 1 else ()))
