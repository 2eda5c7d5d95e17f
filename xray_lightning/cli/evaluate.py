"""``xray evaluate``: a checkpoint scored on its own test set, or on other data."""

from pathlib import Path

from rich.table import Table

from xray_lightning.cli.build import trainer_from
from xray_lightning.cli.opening import Opened, open_checkpoint
from xray_lightning.cli.request import Request, take_own
from xray_lightning.cli.settings import EVALUATE
from xray_lightning.data.nih_expert import FINDINGS, NihExperts
from xray_lightning.data.partition import fingerprint
from xray_lightning.errors import ConfigError
from xray_lightning.evaluation.compare import ExpertTruth, score_truths
from xray_lightning.evaluation.predictions import read_predictions
from xray_lightning.evaluation.priors import require_prior
from xray_lightning.processes import first_process
from xray_lightning.report.evaluation_table import evaluation_lines
from xray_lightning.report.finish import evaluate_checkpoint
from xray_lightning.report.page import say
from xray_lightning.report.terminal import truth_lines
from xray_lightning.writing import write_json


def evaluate(request: Request) -> None:
    """Score a checkpoint, or a run's best, on its own test images or on other data."""
    (place,), (own, values) = request.files, take_own(request.settings, EVALUATE)
    opened = open_checkpoint(Path(place), values, request.out)
    config, folder = opened.config, name_folder(opened, own["certainty"])
    summaries, evaluations = evaluate_checkpoint(
        opened.checkpoint,
        opened.data,
        opened.splits,
        folder,
        trainer_from(config, folder),
        tta=config.tta,
        draws=config.draws,
        prior=require_prior(config.prior),
        overlap_known=opened.overlap_known,
        **own,
    )
    if not first_process():
        return
    summaries["test"] |= {"overlap": opened.overlap} if opened.overlap else {}
    write_json(summaries, folder / "metrics.json")
    truths = compare_with_readers(opened, folder)
    results = {subset: evaluation.to_json() for subset, evaluation in evaluations.items()}
    results |= {"truths": truths.to_json()} if truths else {}
    lines: list[Table | str] = []
    for subset, evaluation in evaluations.items():
        split = opened.splits[subset]
        title = f"{evaluation.origin.checkpoint} on {evaluation.origin.data}, split {split.name}"
        lines += evaluation_lines(evaluation, f"{title} [{split.fingerprint}], {subset}")
    lines += truth_lines(truths, f"{place} on {opened.data.source.name}") if truths else []
    lines += say("unknown", evaluations["test"].operating_points, opened.overlap_known)
    lines += [*say("subsets", summaries), f"written to {folder}"]
    request.present(results.pop("test") | results, *lines)


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


def name_folder(opened: Opened, certainty: str) -> Path:
    """Where the scores go: other images, labels, certainty or test-time augmentation stay apart."""
    if opened.out and (opened.out / "config.yaml").is_file():
        run = f"{opened.out} is the folder of a training run, whose metrics.json this would "
        raise ConfigError(f"{run}replace; name another with hydra.run.dir=")
    ending = f"_{opened.config.tta}_{certainty}".replace("_none", "").replace("_margin", "")
    if opened.labels:  # of its own: what other labels gave stays
        ending += f"_labels_{fingerprint({'labels': opened.data.labels})[:6]}"
    return opened.folder(f"evaluate_{opened.fingerprint}{ending}")
