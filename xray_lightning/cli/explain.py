"""``xray explain``: where a checkpoint looks, and whether its maps and scores can be believed."""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xray_lightning.audit.shortcuts.run import find_shortcuts
from xray_lightning.cli.build import progress, trainer_from
from xray_lightning.cli.explain_settings import (
    Settings,
    own_settings,
    require_subset,
    trained_like,
)
from xray_lightning.cli.explain_tables import explain_lines
from xray_lightning.cli.opening import Opened, open_checkpoint
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.evaluation.predict import predict_subset, summarise
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.evaluation.published import published_boxes
from xray_lightning.explain.heatmaps import write_maps
from xray_lightning.explain.localisation import Reference, localisation, reference_of
from xray_lightning.explain.located import Located, boxed_places, located_subset
from xray_lightning.explain.overlays import overlays
from xray_lightning.explain.sanity.facts import finding_to_test, subset_saliency
from xray_lightning.explain.sanity.verdicts import FEWEST
from xray_lightning.folders import prepare_folder
from xray_lightning.models.network import XrayNet
from xray_lightning.progress import show_progress
from xray_lightning.report.gallery import gallery_figure, hits_and_misses
from xray_lightning.report.saliency import saliency_figure
from xray_lightning.report.terminal import show
from xray_lightning.training.task import XrayTask
from xray_lightning.writing import save_figure, write_json

Facts = dict[str, Any]

NO_FINDING = f"no finding with an AUROC on validation is on {FEWEST} patients; label= names one"


def explain(checkpoint: Path, overrides: Sequence[str], as_json: bool) -> None:
    """Localisation, saliency tests, shortcut tests and a gallery; see ``xray explain --help``.

    Raises:
        XrayError: a setting that cannot work, or see :func:`~.opening.open_checkpoint`.
    """
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        every = explained(checkpoint, overrides)
    if as_json:
        first, *rest = every.values()
        print(
            json.dumps(first if not rest else {"parts": [first, *rest]}, indent=2, allow_nan=False)
        )
        return
    for folder, facts in every.items():
        show(*explain_lines(facts), f"written to {folder}")


def explained(checkpoint: Path, overrides: Sequence[str]) -> dict[Path, Facts]:
    """All of it, in the order of what can be refused soonest, by the folder it was written to.

    Images of patients that the checkpoint learned from are looked at apart (overlap=report).
    """
    settings, values = own_settings(overrides)
    found = open_checkpoint(checkpoint, values)
    found.data.split = found.splits["test"]
    require_subset(found, settings)
    others = trained_like(settings.seeds, found, permuted=False)
    shuffled = trained_like(settings.permuted, found, permuted=True)
    folder = folder_of(found, settings)
    places = {
        name: prepare_folder(folder if name == "test" else folder / name) for name in found.splits
    }
    every = {}
    for name, place in places.items():
        found.data.split = found.splits[name]
        every[place] = looked_into(found, settings, others, shuffled, place)
        write_json(every[place], place / "explain.json")
    return every


def looked_into(
    found: Opened,
    settings: Settings,
    others: Sequence[XrayNet],
    shuffled: Sequence[XrayNet],
    folder: Path,
) -> Facts:
    """Everything about one set of images, pictures into the folder; what explain.json holds."""
    data, net = found.data, found.checkpoint.build_net()
    found.config.run_dir = str(folder)
    predictions = scored(found, net)
    facts = header(found, settings, predictions)
    located = boxed(net, data, settings)
    facts |= place_facts(located, data, settings)
    facts["gallery"] = gallery(net, data, settings, located, predictions, folder)
    facts["saliency"] = tested(net, data, settings, predictions.get("val"), others, shuffled)
    facts["saliency_missing"] = NO_FINDING if settings.saliency and not facts["saliency"] else ""
    draw_saliency(facts["saliency"], folder / "saliency.png")
    facts["shortcuts"] = {}
    if settings.shortcuts:
        show("shortcut tests: covering corners, border and letters; probes")
        result = find_shortcuts(
            net, data, settings.subset, draws=settings.draws, seed=settings.seed
        )
        result = replace(result, weights_sha256=facts["weights_sha256"])
        facts["shortcuts"] = result.to_json()
    return facts


def draw_saliency(facts: Mapping[str, Facts], path: Path) -> None:
    """The figure of the methods that were tested; none is left where there is no such method."""
    path.unlink(missing_ok=True)
    if run := {name: each for name, each in facts.items() if "deletion" in each}:
        save_figure(saliency_figure(run), path)


def folder_of(found: Opened, settings: Settings) -> Path:
    """RUN/explain for best.ckpt on its own test images, a folder with a fingerprint for others."""
    own = found.own_images and settings.subset == "test"
    own = own and found.checkpoint.path.name == "best.ckpt"  # the report of the run is of that one
    subset = found.data.split.subset_fingerprints[settings.subset]
    return found.folder("explain", "" if own else f"_{subset}")


def scored(found: Opened, net: XrayNet) -> dict[str, Predictions]:
    """Scores of validation and test; the network stays on the trainer's device."""
    task, trainer = XrayTask(net), trainer_from(found.config, progress(), fit=False)
    predictions = {name: predict_subset(trainer, task, found.data, name) for name in ("val", "test")
                   if len(found.data.split.subsets[name])}  # fmt: skip
    net.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU
    return predictions


def header(found: Opened, settings: Settings, predictions: Mapping[str, Predictions]) -> Facts:
    """What was looked at."""
    data, shown = found.data, predictions[settings.subset]
    return {
        "checkpoint": str(found.checkpoint.path),
        "weights_sha256": found.checkpoint.weights_sha256,
        "data": data.source.title,
        "split": {"name": data.split.name, "fingerprint": data.split.fingerprint},
        "subset": settings.subset,
        "fingerprint": data.split.subset_fingerprints[settings.subset],
        "images": len(shown.image_ids),
        "patients": shown.patients,
        "auroc": summarise(shown, "")["auroc"],
        "methods": list(settings.methods),
    }


def boxed(net: XrayNet, data: XrayDataModule, settings: Settings) -> dict[str, dict[str, Located]]:
    """Maps of the images with boxes, of the part in question and of validation."""
    subsets = dict.fromkeys(("val", settings.subset)) if settings.methods else {}
    found = {}
    for subset in subsets:
        if boxed_places(data, subset):
            with show_progress(f"maps of {subset} images with boxes") as report:
                found[subset] = located_subset(net, data, subset, settings.methods, report)
    return found


def place_facts(
    located: Mapping[str, Mapping[str, Located]], data: XrayDataModule, settings: Settings
) -> Facts:
    """Localisation against boxes, and what was published for the same boxes."""
    shown = located.get(settings.subset)
    if not shown:
        why = "no method was asked for" if not settings.methods else "no image has a box"
        return {"localisation": None, "localisation_missing": why, "published": []}
    facts = localisation(
        shown,
        size=data.image_size,
        reference=reference(located, data, settings),
        draws=settings.draws,
        seed=settings.seed,
    )
    rows = [asdict(row) for row in published_boxes(data.source.name)]
    return {"localisation": facts, "localisation_missing": "", "published": rows}


def reference(
    located: Mapping[str, Mapping[str, Located]], data: XrayDataModule, settings: Settings
) -> Reference | None:
    """Thresholds tuned on validation, if it has boxes and shares no patient with the part.

    The parts of split=image and of images=all do.
    """
    patients = [{record.patient_id for record in data.subset_records(subset)}
                for subset in ("val", settings.subset)]  # fmt: skip
    if not located.get("val") or patients[0] & patients[1]:
        return None
    return reference_of(located["val"], size=data.image_size, seed=settings.seed)


def gallery(
    net: XrayNet,
    data: XrayDataModule,
    settings: Settings,
    located: Mapping[str, Mapping[str, Located]],
    predictions: Mapping[str, Predictions],
    folder: Path,
) -> dict[str, str]:
    """A figure of hits and misses of each finding with boxes, raw maps beside it; file names."""
    files = {}
    scores, subset = predictions[settings.subset].scores, settings.subset
    boxed_rows = boxed_places(data, subset)
    for label, found in located.get(subset, {}).items():
        method, rows = settings.methods[0], [row for row, name in boxed_rows if name == label]
        places, marks = hits_and_misses(rows, label, found, method, data.image_size)
        shown = overlays(net, data, subset, places, scores, method=method)
        name = f"gallery_{label.replace(' ', '_').replace('/', '_')}"
        title = f"{label}, {subset} set of {data.source.title}: {method}"
        figure = gallery_figure(shown, title, columns=4, marks=marks)
        save_figure(figure, folder / f"{name}.png")
        write_maps(shown, folder / f"{name}.npz")
        files[label] = f"{name}.png"
    return files


def tested(
    net: XrayNet,
    data: XrayDataModule,
    settings: Settings,
    validation: Predictions | None,
    others: Sequence[XrayNet],
    shuffled: Sequence[XrayNet],
) -> Facts:
    """The saliency tests of each method."""
    label = settings.label or finding_to_test(data, settings.subset, auroc_of(validation, data))
    if label is None or not settings.saliency:
        return {}
    facts = {}
    for method in settings.saliency:
        with show_progress(f"saliency tests of {method}, {label}") as report:
            facts[method] = subset_saliency(
                net,
                data,
                settings.subset,
                label,
                method,
                images=settings.positives,
                others=others,
                permuted=shuffled[0] if shuffled else None,
                draws=settings.draws,
                seed=settings.seed,
                progress=report,
            ) | {"finding": label}
    return facts


def auroc_of(predictions: Predictions | None, data: XrayDataModule) -> npt.NDArray[np.float64]:
    """AUROC on validation, (L,), NaN where undefined."""
    if predictions is None:
        return np.full(len(data.labels), np.nan)
    labels = summarise(predictions, "")["auroc"]["labels"]
    return np.array([np.nan if labels[name] is None else labels[name] for name in data.labels])
