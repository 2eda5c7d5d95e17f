"""The end of a run: its best checkpoint scored and evaluated; tables, figures, maps, the page."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from imagecodecs import imread
from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from rich.table import Table

from xray_lightning import checkpoint as checkpoints
from xray_lightning.audit.shortcuts import probe_hospitals
from xray_lightning.checkpoint import Checkpoint
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.nih_expert import FINDINGS, NihExperts
from xray_lightning.data.partition import SUBSETS
from xray_lightning.data.source import Source
from xray_lightning.errors import ConfigError, require_choice
from xray_lightning.evaluation.compare import ExpertTruth, score_truths
from xray_lightning.evaluation.evaluate import (
    MARGIN,
    Evaluation,
    evaluate,
    fit_operating_points,
    select_by,
)
from xray_lightning.evaluation.model import Inspection
from xray_lightning.evaluation.predict import measure_distances, predict_subset, summarise
from xray_lightning.evaluation.predictions import Origin, Predictions, write_predictions
from xray_lightning.evaluation.priors import VALIDATION, Prior, resolve_prior
from xray_lightning.explain.overlays import HeatMaps
from xray_lightning.hub import name_place
from xray_lightning.metrics.operating_points import OperatingPoints
from xray_lightning.models.gate import Gate
from xray_lightning.models.network import XrayNet
from xray_lightning.report import figures
from xray_lightning.report.evaluation_table import evaluation_lines
from xray_lightning.report.gallery import Panel, results_panel
from xray_lightning.report.page import say
from xray_lightning.report.terminal import tabulate
from xray_lightning.training.run import TrainingRun
from xray_lightning.training.task import XrayTask
from xray_lightning.writing import Json, write_json

LOG = logging.getLogger(__name__)
SHARED = (  # with trackers, maybe on others' machines: no film, no id of an image or patient
    *("config.yaml", "metrics.csv", "metrics.json", "evaluation.json", "operating_points.json"),
    *("curves.png", "class_distribution.png", "roc_val.png", "roc_test.png"),
)


@dataclass(frozen=True)
class FinishedRun:
    """What became of a run: AUROC by subset, and the evaluation of test (in the first process)."""

    run: TrainingRun
    summaries: dict[str, Json]
    evaluation: Evaluation | None


def finish_run(
    run: TrainingRun,
    task: XrayTask,
    data: XrayDataModule,
    trainer: pl.Trainer,
    *,
    heat_maps: Sequence[HeatMaps] = (),
    panel: Panel | None = None,
    write_page: Callable[[Mapping[str, Json]], object] | None = None,
    loggers: Sequence[Any] = (),  # Lightning's
    **points: Any,
) -> FinishedRun:
    """Score the best checkpoint on validation and test, evaluate it, draw its figures.

    The folder gets predictions_val.csv and predictions_test.csv, operating_points.json,
    evaluation.json, figures, and metrics.json last: it says that the run is finished.

    ``heat_maps`` draw maps of test images too, ``panel`` the results figure; both need an XrayNet.
    ``write_page`` writes the report from what metrics.json will say; ``loggers`` get figures and
    tables; ``points`` says how operating points are fitted (rule, value, calibration, draws).
    """
    best = checkpoints.load_checkpoint(run.best, trust=True)  # just written here
    folder, net = Path(run.folder), task.restore_net(best)
    scorer = XrayTask(net, task.loss, labels=task.labels, tta=task.tta)
    summaries, predictions = score_subsets(trainer, scorer, data, folder, ("val", "test"))
    if run.choice.startswith("last epoch:"):  # without a score
        LOG.warning("best checkpoint unknown: epoch %d, the %s", run.best_epoch, run.choice)
    else:
        LOG.info("best checkpoint: epoch %d, the %s", run.best_epoch, run.choice)
    summaries["val"]["checkpoint"] = {"epoch": run.best_epoch, "choice": run.choice}
    if not trainer.is_global_zero:
        return FinishedRun(run, summaries, None)
    if (folder / "metrics.csv").is_file():
        figures.curves_figure(folder / "metrics.csv", folder / "curves.png")
    evaluation = evaluate_run(best, scorer, data, predictions, folder, **points)
    if isinstance(net, XrayNet):
        draw_maps(task.restore_net(best), data, predictions, folder, heat_maps, panel)
    if write_page is not None:
        write_page(summaries)
    write_json(summaries, folder / "metrics.json")
    share_files(loggers, folder)
    return FinishedRun(run, summaries, evaluation)


class TrackioLogger(Logger):
    """trackio, for which Lightning has no logger: a run, resumed or not, has its folder's name.

    Args:
        run_dir: the run's folder; trackio's is ``trackio`` beside it, or TRACKIO_DIR.
        project: trackio's name for runs that are shown together.

    Raises:
        ConfigError: trackio is not installed.
    """

    name, version = "", ""  # of project and run

    def __init__(self, run_dir: str, project: str = "xray_lightning") -> None:
        super().__init__()
        if find_spec("trackio") is None:
            raise ConfigError('no trackio: pip install "xray_lightning[trackers]"')
        self.folder = Path(run_dir).absolute()
        self.name, self.version = project, self.folder.name

    @cached_property
    @rank_zero_experiment  # Lightning asks for it in every process
    def experiment(self) -> Any:
        """The run as trackio has it, started when it is first asked for."""
        os.environ.setdefault("TRACKIO_DIR", str(self.folder.parent / "trackio"))  # for its import
        return import_module("trackio").init(self.name, self.version, resume="allow", embed=False)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Add settings, before the first figures: trackio sends them with those."""
        self.experiment.config.update(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log figures of one step."""
        self.experiment.log(dict(metrics), step)


def share_files(loggers: Sequence[Any], folder: Path) -> None:
    """Give trackers what a finished run may tell others: settings, tables, figures."""
    paths = [path for name in SHARED if (path := folder / name).is_file()]
    for logger in loggers:
        try:
            _share(logger, paths)
        except Exception as error:  # noqa: BLE001 - of code and machines not ours; the run is whole
            LOG.warning("%s got no tables and figures: %s", type(logger).__name__, error)


def _share(logger: Any, paths: Sequence[Path]) -> None:
    tracker = logger.experiment
    pictures = {path.stem: str(path) for path in paths if path.suffix == ".png"}
    if isinstance(logger, TensorBoardLogger):
        for name, picture in pictures.items():
            tracker.add_image(name, imread(picture), dataformats="HWC")
    elif isinstance(logger, MLFlowLogger):
        for path in paths:
            tracker.log_artifact(logger.run_id, str(path))
    elif isinstance(logger, WandbLogger | TrackioLogger):
        api = import_module("wandb" if isinstance(logger, WandbLogger) else "trackio")
        artifact = api.Artifact(f"run-{tracker.id}", "run")
        for path in paths:
            artifact.add_file(str(path))
        tracker.log_artifact(artifact)
        tracker.log({name: api.Image(picture) for name, picture in pictures.items()})
        tracker.finish()  # else the next run of a sweep would go on in it


def finished_lines(finished: FinishedRun) -> list[Table | str]:
    """The result as tables and lines for the terminal; [] in any process but the first."""
    evaluation, run, summaries = finished.evaluation, finished.run, finished.summaries
    if evaluation is None:
        return []
    data, split = evaluation.origin.data, evaluation.origin.split
    title = f"{data}, split {split.name} [{split.fingerprint}]" if split else data
    return [
        tabulate("aurocs", summaries, title),
        *evaluation_lines(evaluation, f"test of {data}", subgroups=False),
        *say("subsets", summaries),
        *say("trained", run),
    ]


def evaluate_checkpoint(
    opened: Inspection,  # with the images to score
    folder: str | Path,  # for "test"; the others get one in it
    trainer: pl.Trainer,
    *,
    tta: str = "none",
    draws: int = 2000,
    prior: Prior = VALIDATION,
    certainty: str = MARGIN,  # what handing images to a person goes by; or "gate", the checkpoint's
) -> tuple[dict[str, Json], dict[str, Evaluation], ExpertTruth | None]:
    """Score a checkpoint on test images and evaluate it, in the first process.

    Each folder gets metrics.json, evaluation.json, predictions_test.csv and its ROC curves; of
    readers' labels (:class:`NihExperts`) also truths.json.
    """
    checkpoint, data, folder = opened.checkpoint, opened.data, Path(folder)
    description = checkpoint.description
    points = OperatingPoints.from_json(plain) if (plain := description.operating_points) else None
    resolve_prior(prior, data.labels, points)  # refuses it before long work
    require_choice("certainty", certainty, (MARGIN, "gate"))
    gate = None if certainty == MARGIN else checkpoint.gate
    if certainty != MARGIN and gate is None:
        raise ConfigError(f"certainty={certainty}: {checkpoint.path} has no gate; certainty=margin")
    task = XrayTask(checkpoint.build_net(), labels=description.labels, tta=tta)
    trained = description.split.get("subsets", {}).get("train")
    about: Json = {"tta": tta, "weights_sha256": checkpoint.weights_sha256}
    about |= {"overlap_known": opened.overlap_known, "checkpoint": name_place(checkpoint.path)}
    how: Json = {"operating_points": points, "prior": prior, "gate": gate, "draws": draws}
    summaries, evaluations, truths = dict[str, Json](), dict[str, Evaluation](), None
    for name, place in opened.visit(folder):
        summary, predictions = score_subsets(trainer, task, data, place, ("test",))
        summaries[name], scored = summary["test"], predictions["test"]
        if trainer.is_global_zero:
            write_json(summary, place / "metrics.json")
            same = trained == data.split.subset_fingerprints["train"]
            how["learned"] = data.subset_targets("train") if same else None
            evaluations[name] = evaluate_test(task.net, data, scored, place, about, **how)
            truths = truths or compare_with_readers(scored, data.source, place, draws)
    summaries["test"] |= {"overlap": opened.overlap} if opened.overlap else {}
    if trainer.is_global_zero:
        write_json(summaries, folder / "metrics.json")
    return summaries, evaluations, truths


def compare_with_readers(
    scored: Predictions, source: Source, folder: Path, draws: int
) -> ExpertTruth | None:
    """Test scores against radiologists and text miner, if the data set and the labels are such."""
    told = any(set(scored.labels).issuperset(words) for words in FINDINGS.values())
    if not isinstance(source, NihExperts) or not told:
        return None
    truths = score_truths(scored, source, draws=draws)
    write_json(truths.to_json(), folder / "truths.json")
    return truths


def evaluate_run(
    best: Checkpoint,
    task: XrayTask,  # with its network
    data: XrayDataModule,
    predictions: Mapping[str, Predictions],
    folder: Path,  # gets operating_points.json and evaluation.json
    *,
    draws: int = 2000,
    **how: Any,  # of ``fit_operating_points``
) -> Evaluation:
    """Fit operating points on validation, keep them in the best checkpoint, apply them to test."""
    records, weights = data.subset_records("val"), {"weights_sha256": best.weights_sha256}
    points = fit_operating_points(predictions["val"], records, draws=draws, **how)
    checkpoints.store_operating_points(best.path, points.to_json())
    write_json(points.to_json() | weights, folder / "operating_points.json")
    about = {"tta": task.tta, "overlap_known": True, **weights}
    how = {"operating_points": points, "learned": data.subset_targets("train"), "draws": draws}
    return evaluate_test(task.net, data, predictions["test"], folder, about, **how)


def evaluate_test(
    net: Any,
    data: XrayDataModule,
    scored: Predictions,
    folder: Path,
    about: Json,
    *,
    gate: Gate | None = None,  # by whose distance images go to a person
    **how: Any,
) -> Evaluation:
    """Evaluate the scores of the test images, which say what they are ``about``, into a folder."""
    origin = Origin.of(data.source, data.split, "test", **about)
    how["hospital_probe"] = probe_hospitals(net, data, "test")
    evaluation = evaluate(scored, data.subset_records("test"), origin, **how)
    if gate:
        far = measure_distances(gate, net, data, "test")
        evaluation = select_by(evaluation, scored, "gate", -far)
    write_json(evaluation.to_json(), folder / "evaluation.json")
    return evaluation


def score_subsets(
    trainer: pl.Trainer, task: XrayTask, data: XrayDataModule, folder: Path, subsets: Sequence[str]
) -> tuple[dict[str, Json], dict[str, Predictions]]:
    """Predict each subset; write predictions and ROC curves: the one path to a score."""
    summaries, scored = {}, {}
    for subset in subsets:
        predictions = predict_subset(trainer, task, data, subset)
        summary = summarise(predictions, data.split.subset_fingerprints[subset], tta=task.tta)
        summary["data"] = data.source.title
        summary["weights_sha256"] = checkpoints.weights_sha256(task.net.state_dict())
        summaries[subset], scored[subset] = summary, predictions
        if trainer.is_global_zero:
            digest = write_predictions(predictions, folder / f"predictions_{subset}.csv")
            summary["predictions_sha256"] = digest
            title = f"{subset}: {data.source.title}, split {data.split.name} "
            title += f"[{summary['fingerprint']}]"
            path = folder / f"roc_{subset}.png"
            figures.roc_figure(predictions, summary["auroc"]["labels"], title, path)
    return summaries, scored


def draw_data(data: XrayDataModule, folder: Path) -> None:
    """Class distribution of each subset, and one training batch as the network sees it."""
    targets = {subset: data.subset_targets(subset) for subset in SUBSETS}
    figures.distribution_figure(targets, data.labels, folder / "class_distribution.png")
    data.prepare_data()
    batch: Any = next(iter(data.train_dataloader()))
    pixels, truth = batch["image"].squeeze(1).numpy(), batch["targets"].numpy()
    figures.montage_figure(pixels, truth, batch["image_id"], data.labels, folder / "montage.png")


def draw_maps(
    net: XrayNet,
    data: XrayDataModule,
    predictions: Mapping[str, Predictions],
    folder: Path,
    heat_maps: Sequence[HeatMaps],
    panel: Panel | None,
) -> None:
    """Maps of a network on the test set: the chosen images, and the results figure."""
    for callback in heat_maps:
        callback.draw_subset(net, data, "test", predictions["test"].scores, "test")
    if panel and not results_panel(net, data, predictions, panel, folder / "panel_test.png"):
        LOG.warning(*say("no_panel", panel.finding(data.labels)))
