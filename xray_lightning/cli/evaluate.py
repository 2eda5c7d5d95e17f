"""``xray evaluate``: a checkpoint scored on its own test set, or on other data."""

from pathlib import Path

from rich.table import Table

from xray_lightning.cli.build import trainer_from
from xray_lightning.cli.opening import open_checkpoint
from xray_lightning.cli.request import Request
from xray_lightning.data.partition import fingerprint
from xray_lightning.errors import ConfigError
from xray_lightning.evaluation.model import Inspection
from xray_lightning.evaluation.priors import require_prior
from xray_lightning.processes import first_process
from xray_lightning.report.evaluation_table import evaluation_lines
from xray_lightning.report.finish import evaluate_checkpoint
from xray_lightning.report.page import say
from xray_lightning.report.terminal import truth_lines


def evaluate(request: Request) -> None:
    """Score a checkpoint, or a run's best, on its own test images or on other data."""
    (place,), own = request.files, request.own
    config, opened = open_checkpoint(Path(place), request.rest)
    folder = name_folder(request, opened, config.tta)
    own |= {"tta": config.tta, "draws": config.draws, "prior": require_prior(config.prior)}
    trainer = trainer_from(config, folder)
    summaries, evaluations, truths = evaluate_checkpoint(opened, folder, trainer, **own)
    if not first_process():
        return
    results = {subset: evaluation.to_json() for subset, evaluation in evaluations.items()}
    results |= {"truths": truths.to_json()} if truths else {}
    lines: list[Table | str] = []
    for subset, evaluation in evaluations.items():
        origin, split = evaluation.origin, opened.splits[subset]
        title = f"{origin.checkpoint} on {origin.data}, split {split.name} [{split.fingerprint}]"
        lines += evaluation_lines(evaluation, f"{title}, {subset}")
    lines += truth_lines(truths, f"{place} on {opened.data.source.name}") if truths else []
    lines += say("unknown", evaluations["test"].operating_points, opened.overlap_known)
    lines += [*say("subsets", summaries), f"written to {folder}"]
    request.present(results.pop("test") | results, *lines)


def name_folder(request: Request, opened: Inspection, tta: str) -> Path:
    """Where the scores go: other images, labels, certainty or test-time augmentation stay apart."""
    if request.out and (request.out / "config.yaml").is_file():
        run = f"{request.out} is the folder of a training run, whose metrics.json this would "
        raise ConfigError(f"{run}replace; name another with hydra.run.dir=")
    ending = f"_{tta}_{request.own['certainty']}".replace("_none", "").replace("_margin", "")
    if opened.labels:  # of its own: what other labels gave stays
        ending += f"_labels_{fingerprint({'labels': opened.data.labels})[:6]}"
    return request.out or opened.folder(f"evaluate_{opened.fingerprint}{ending}")
