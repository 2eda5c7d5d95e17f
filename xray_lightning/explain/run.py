"""Where a checkpoint looks, and whether its maps can be believed: all of it, for one subset."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytorch_lightning as pl

from xray_lightning.checkpoint import Checkpoint, load_checkpoint, require_labels
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.errors import ConfigError, require_choice, require_integer
from xray_lightning.evaluation.evaluate import Doubt, find_doubts
from xray_lightning.evaluation.predict import predict_subset, summarise
from xray_lightning.evaluation.predictions import Predictions, SplitName
from xray_lightning.evaluation.priors import calibrate
from xray_lightning.evaluation.published import PublishedBoxes, published_boxes
from xray_lightning.explain import overlays as drawing
from xray_lightning.explain.localisation import Localisation, evaluate_localisation, tune_reference
from xray_lightning.explain.maps import GATES, require_method
from xray_lightning.explain.saliency import SaliencyTests, choose_finding, run_subset_tests
from xray_lightning.explain.sanity import FEWEST
from xray_lightning.hub import name_place
from xray_lightning.metrics.operating_points import OperatingPoints
from xray_lightning.models.network import XrayNet, pool_features
from xray_lightning.progress import show_progress
from xray_lightning.results import Json, Result
from xray_lightning.training.task import XrayTask
from xray_lightning.wording import fault

NO_BOX, NO_METHOD = "no image has a box", "no method was asked for"
NO_FINDING = f"no finding with an AUROC on validation is on {FEWEST} patients; label= names one"
SCORED = ("cam", "gradcam", "gradcam++", "layercam", "gradient")
TESTED = ("cam", "gradient")
DOUBTED, FILMS = "labels to read again", 100  # the name of their gallery, and its images
Overlays = dict[str, list[drawing.Overlay]]  # by label


@dataclass(frozen=True)
class Explanation(Result):
    """What ``explain.json`` holds; ``localisation_missing`` and ``saliency_missing`` say why not.

    ``auroc`` is that of the subset, as in metrics.json; ``gallery`` names each finding's figure;
    ``overlays``, hits and misses of each finding with boxes, are not in JSON.
    """

    checkpoint: str
    weights_sha256: str
    data: str
    split: SplitName
    subset: str
    fingerprint: str
    images: int
    patients: int | None
    auroc: Json
    methods: list[str]
    localisation: Localisation | None = None
    localisation_missing: str = ""
    published: list[PublishedBoxes] = field(default_factory=list)
    gallery: dict[str, str] = field(default_factory=dict)
    saliency: dict[str, SaliencyTests] = field(default_factory=dict)
    saliency_missing: str = ""
    doubts: list[Doubt] = field(default_factory=list)  # where they were asked for
    overlays: Overlays = field(default_factory=dict, compare=False, repr=False)


def explain_checkpoint(
    checkpoint: Checkpoint | str | Path,  # of a run, or its path
    data: XrayDataModule,  # with the labels of the checkpoint, and its preprocessing
    *,
    subset: str = "test",  # or "val"
    methods: Sequence[str] = SCORED,  # scored against boxes, of ``class_maps``
    saliency: Sequence[str] = TESTED,  # methods that are put to the saliency tests
    label: str = "",  # the finding of these; "": the one the network knows best on validation
    positives: int = 48,  # images of these, at most
    seeds: Sequence[str | Path] = (),  # checkpoints trained alike from other seeds
    permuted: str | Path | None = None,  # one trained alike with ``permute_labels=true``
    doubts: int = 0,  # labels to read again, at most
    draws: int = 1000,  # of the bootstrap over patients
    seed: int = 0,  # of everything random
    trainer: pl.Trainer | None = None,  # scores the images; None: on this machine's accelerator
    progress: bool = False,  # whether bars are shown
) -> Explanation:
    """Maps against boxes beside controls, hits and misses to draw, and saliency tests.

    Raises:
        CheckpointError, ConfigError: see :func:`require_explainable`.
    """
    checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)
    for name, number, low in (("positives", positives, 2), ("draws", draws, 1), ("seed", seed, 0)):
        require_integer(name, number, low)
    named = (*methods, *saliency)
    others = require_explainable(checkpoint, data, subset, named, label, seeds, permuted, doubts)
    predictions = predict_subsets(net := checkpoint.build_net(), data, trainer)
    points, shown = checkpoint.description.operating_points, predictions[subset]
    places, overlays = _localise(net, data, shown.scores, subset, methods, draws, seed, progress)
    again, films = _reread(net, data, subset, shown, doubts, points) if doubts else ([], {})
    tests = run_subset_tests(
        net, data, subset, label or choose_finding(data, subset, predictions.get("val")), saliency,
        *others, images=positives, draws=draws, seed=seed, progress=progress,
    )  # fmt: skip
    return Explanation(
        name_place(checkpoint.path), checkpoint.weights_sha256, data.source.title,
        SplitName(data.split.name, data.split.fingerprint), subset,
        data.split.subset_fingerprints[subset], len(shown.image_ids), shown.patients,
        summarise(shown, "")["auroc"], list(methods), places, overlays=overlays | films,
        localisation_missing="" if places else NO_BOX if methods else NO_METHOD,
        published=published_boxes(data.source.name) if places else [], doubts=again,
        gallery={name: f"gallery_{re.sub('[ /]', '_', name)}.png" for name in (*overlays, *films)},
        saliency=tests, saliency_missing=NO_FINDING if saliency and not tests else "",
    )  # fmt: skip


def _reread(
    net: XrayNet, data: XrayDataModule, subset: str, shown: Predictions, most: int, points: Json
) -> tuple[list[Doubt], Overlays]:
    """Labels to read again, neighbours by features of the network, and the first films to draw."""
    images = (batch["image"] for batch in data.evaluation_loader(subset))
    features = np.concatenate([pool_features(net.eval(), batch) for batch in images])
    maps = calibrate(OperatingPoints.from_json(points) if points else None, {})
    doubts = find_doubts(shown, most, maps, features)
    places = [(shown.image_ids.index(one.image), one.label) for one in doubts[:FILMS]]
    films = drawing.make_overlays(net, data, subset, places, shown.scores)
    pairs = zip(films, doubts, strict=False)
    marked = [replace(film, mark=f"\nneighbours {one.neighbours:.2g}") for film, one in pairs]
    return doubts, {DOUBTED: marked}


def require_explainable(
    checkpoint: Checkpoint,
    data: XrayDataModule,
    subset: str,
    methods: Sequence[str],
    label: str = "",
    seeds: Sequence[str | Path] = (),
    permuted: str | Path | None = None,
    doubts: int = 0,
) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """The checkpoints of other seeds, and of permuted labels; refuses what cannot be explained."""
    require_choice("subset", subset, ("val", "test"))
    for method in methods:
        require_method(method)
    if GATES in methods:
        checkpoint.build_net().require_gates()
    if label and label not in data.labels:
        raise ConfigError(f"label must be one of {', '.join(data.labels)}, got {label!r}")
    trained = checkpoint.description.split.get("subsets", {}).get("val")
    if subset == "val" and data.split.subset_fingerprints["val"] != trained:
        raise ConfigError(fault("other_validation"))
    if doubts and len({record.patient_id for record in data.subset_records(subset)}) < 2:
        raise ConfigError(f"doubts: neighbours are of other patients, and {subset} has one")
    shuffled = [] if permuted is None else [permuted]
    return (
        _load_comparable(seeds, checkpoint, data.labels, permuted=False),
        _load_comparable(shuffled, checkpoint, data.labels, permuted=True),
    )


def _load_comparable(
    paths: Sequence[str | Path], checkpoint: Checkpoint, labels: tuple[str, ...], *, permuted: bool
) -> list[Checkpoint]:
    """Checkpoints of the same architecture, to compare maps with."""
    own = checkpoint.description
    seeds = set() if permuted else {own.config.get("seed")}
    others = []
    for path in paths:
        other = load_checkpoint(path)
        theirs = other.description
        require_labels(theirs, labels, str(path))
        if (theirs.net, theirs.preprocessing) != (own.net, own.preprocessing):
            raise ConfigError(fault("other_network", path, checkpoint.path))
        if theirs.config.get("permute_labels", False) != permuted:
            raise ConfigError(fault("permutation", path, permuted))
        if (seed := theirs.config.get("seed", path)) in seeds:
            raise ConfigError(f"{path} has seed={seed}, as another one: maps of it agree anyway")
        seeds.add(seed)
        others.append(other)
    return others


def predict_subsets(
    net: XrayNet, data: XrayDataModule, trainer: pl.Trainer | None
) -> dict[str, Predictions]:
    """Scores of validation and test; the network stays on the trainer's device."""
    if trainer is None:
        names = ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"]
        quiet: Json = dict.fromkeys(names, False)
        trainer = pl.Trainer(devices=1, **quiet)
    task = XrayTask(net)
    predictions = {name: predict_subset(trainer, task, data, name) for name in ("val", "test")
                   if len(data.split.subsets[name])}  # fmt: skip
    net.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU
    return predictions


def _localise(
    net: XrayNet,
    data: XrayDataModule,
    scores: drawing.Floats,
    subset: str,
    methods: Sequence[str],
    draws: int,
    seed: int,
    progress: bool,
) -> tuple[Localisation | None, Overlays]:
    """Figures of maps against boxes; hits and misses of the first method, for each finding."""
    # thresholds are of validation if that shares no patient (split=image, images=all do)
    annotated = {}
    for name in dict.fromkeys(("val", subset)) if methods else ():
        if drawing.find_boxed(data, name):
            with show_progress(f"maps of {name} images with boxes", shown=progress) as report:
                annotated[name] = drawing.map_annotated(net, data, name, methods, report)
    if subset not in annotated:
        return None, {}
    val, own = ({record.patient_id for record in data.subset_records(name)}
                for name in ("val", subset))  # fmt: skip
    settings: Json = {"size": data.image_size, "seed": seed}
    tuned = "val" in annotated and not val & own
    reference = tune_reference(annotated["val"], **settings) if tuned else None
    scored, overlays = annotated[subset], {}
    figures = evaluate_localisation(scored, reference=reference, draws=draws, **settings)
    for label, maps in scored.items():
        places = [place for place in drawing.find_boxed(data, subset) if place[1] == label]
        marks = drawing.choose_hits(maps, methods[0], data.image_size)
        chosen, heats = [places[row] for row in marks], maps.maps[methods[0]][[*marks]]
        drawn = drawing.make_overlays(net, data, subset, chosen, scores, heats=heats)
        pairs = zip(drawn, marks.values(), strict=True)
        overlays[label] = [replace(one, mark=mark) for one, mark in pairs]
    return figures, overlays
