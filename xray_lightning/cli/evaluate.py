"""``xray evaluate``: a checkpoint scored on its own test set, or on other data."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from rich.table import Table

from xray_lightning.audit.shortcuts import probe_hospitals
from xray_lightning.cli.build import progress, trainer_from
from xray_lightning.cli.fit import mean_line
from xray_lightning.cli.opening import Opened, open_checkpoint
from xray_lightning.cli.request import present
from xray_lightning.data.nih_expert import NihExperts
from xray_lightning.data.partition import fingerprint
from xray_lightning.errors import ConfigError
from xray_lightning.evaluation.compare import FINDINGS, ExpertTruth, score_truths
from xray_lightning.evaluation.evaluate import Evaluation, evaluate
from xray_lightning.evaluation.predict import Summary, origin_of
from xray_lightning.evaluation.predictions import Predictions, read_predictions
from xray_lightning.evaluation.priors import require_prior, resolve_prior
from xray_lightning.folders import prepare_folder
from xray_lightning.metrics.intervals import Estimate
from xray_lightning.metrics.operating_points import OperatingPoints
from xray_lightning.processes import first_process
from xray_lightning.report.evaluation_table import evaluation_lines
from xray_lightning.report.finish import score_subsets
from xray_lightning.report.page import say
from xray_lightning.report.terminal import truth_lines
from xray_lightning.training.task import XrayTask
from xray_lightning.writing import write_json

UNKNOWN_OVERLAP = (
    "note: whether the checkpoint has learned from these patients is not known; overlap=exclude "
    "compares their images with those of its own data"
)
NO_POINTS = (
    "note: no operating points in this checkpoint: only best.ckpt of a finished run has them"
)


def evaluate_checkpoint(place: Path, overrides: Sequence[str], *, as_json: bool = False) -> None:
    """Score a checkpoint, or a run's best, on its own test set or other data by overrides."""
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        opened = open_checkpoint(place, overrides)
        folder, summaries, evaluations = evaluate_subsets(opened)
    if not first_process():
        return
    truths = compare_with_readers(opened, folder)
    results = {subset: evaluation.to_json() for subset, evaluation in evaluations.items()}
    results |= {"truths": truths.to_json()} if truths else {}
    lines: list[Table | str] = []
    for subset, evaluation in evaluations.items():
        split = opened.splits[subset]
        title = f"{evaluation.origin.checkpoint} on {evaluation.origin.data}, split {split.name}"
        lines += evaluation_lines(evaluation, f"{title} [{split.fingerprint}], {subset}")
    lines += truth_lines(truths, f"{place} on {opened.data.source.name}") if truths else []
    lines += [NO_POINTS] * (evaluations["test"].operating_points is None)
    lines += [UNKNOWN_OVERLAP] * (not opened.overlap_known)
    lines += [*say("subsets", summaries), mean_line(summaries), f"written to {folder}"]
    present(results.pop("test") | results, as_json, *lines)


def compare_with_readers(opened: Opened, folder: Path) -> ExpertTruth | None:
    """The scores against radiologists and text miner (data=nih_expert data.truth=text), if any."""
    source, labels = opened.data.source, set(opened.data.labels)
    scored = any(labels.issuperset(words) for words in FINDINGS.values())
    if not isinstance(source, NihExperts) or not scored:
        return None
    predictions = read_predictions(folder / "predictions_test.csv")
    truths = score_truths(predictions, source, draws=opened.config.draws)
    write_json(truths.to_json(), folder / "truths.json")
    return truths


def evaluate_subsets(opened: Opened) -> tuple[Path, dict[str, Summary], dict[str, Evaluation]]:
    """Scores and evaluations of "test", and of "test_seen" where overlap=report asks for it."""
    config, data = opened.config, opened.data
    if opened.run_dir and (opened.run_dir / "config.yaml").is_file():
        run = f"{opened.run_dir} is the folder of a training run, whose metrics.json this would "
        raise ConfigError(f"{run}replace; name another with hydra.run.dir=")
    resolve_prior(require_prior(config.prior), data.labels, read_points(opened))
    labels = opened.checkpoint.description.labels
    task = XrayTask(opened.checkpoint.build_net(), labels=labels, tta=config.tta)
    ending = "" if task.tta == "none" else f"_{task.tta}"
    if opened.labels:  # of its own: what other labels gave stays
        ending += f"_labels_{fingerprint({'labels': data.labels})[:6]}"
    folder = opened.folder("evaluate", f"_{opened.fingerprint}{ending}")
    summaries: dict[str, Summary] = {}
    evaluations: dict[str, Evaluation] = {}
    for subset, split in opened.splits.items():
        data.split = split
        place = prepare_folder(folder if subset == "test" else folder / subset)
        predictor = trainer_from(config, progress(), fit=False, folder=place)
        summary, predictions = score_subsets(predictor, task, data, place, ("test",))
        summaries[subset] = summary["test"]
        if first_process():
            write_json(summary, place / "metrics.json")
            probe = probe_hospitals(task.net, data, "test")
            evaluations[subset] = evaluate_predictions(opened, predictions["test"], probe)
            write_json(evaluations[subset].to_json(), place / "evaluation.json")
    if first_process():
        if opened.overlap:
            summaries["test"]["overlap"] = opened.overlap
        write_json(summaries, folder / "metrics.json")
    return folder, summaries, evaluations


def evaluate_predictions(
    opened: Opened, predictions: Predictions, hospital_probe: Mapping[str, Estimate]
) -> Evaluation:
    """What the scores of the test set are worth."""
    config, data, checkpoint = opened.config, opened.data, opened.checkpoint
    trained = checkpoint.description.split.get("subsets", {}).get("train")
    own = trained == data.split.subset_fingerprints["train"]
    told = checkpoint.weights_sha256, checkpoint.path
    return evaluate(
        predictions,
        data.subset_records("test"),
        origin_of(data, "test", config.tta, *told, overlap_known=opened.overlap_known),
        operating_points=read_points(opened),
        draws=config.draws,
        learned=data.subset_targets("train") if own else None,
        prior=require_prior(config.prior),
        hospital_probe=hospital_probe,
    )


def read_points(opened: Opened) -> OperatingPoints | None:
    """Those of the checkpoint, None without any."""
    points: Any = opened.checkpoint.description.operating_points
    return OperatingPoints.from_json(points) if points else None
