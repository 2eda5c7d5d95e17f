"""Scores of a trained network on a subset of a data set, and their summary."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import Tensor

from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.samplers import Shard
from xray_lightning.errors import require_choice
from xray_lightning.evaluation.predictions import Predictions, require_scores
from xray_lightning.metrics.auroc import auroc_per_label, defined_mean
from xray_lightning.models.batches import evaluation_mode
from xray_lightning.models.gate import Gate, run_to
from xray_lightning.models.network import XrayNet
from xray_lightning.training.task import XrayTask
from xray_lightning.wording import fault
from xray_lightning.writing import Json, to_plain

Scores = npt.NDArray[np.float32]


def predict_subset(
    trainer: pl.Trainer, task: XrayTask, data: XrayDataModule, subset: str
) -> Predictions:
    """Scores of every image of "val" or "test", each exactly once, in table order.

    Several processes share the images; each gets the whole table.

    Raises:
        ConfigError: another part (training images are augmented and not scored here), or one
            with fewer images than processes.
        CheckpointError: a score is NaN.
        ValueError: the network does not know one of the data's labels.
    """
    require_choice("subset", subset, ("val", "test"))
    loader = data.evaluation_loader(subset, trainer.global_rank, trainer.world_size)
    positions = list(cast(Shard, loader.sampler))
    batches = cast(list[Tensor], trainer.predict(task, dataloaders=loader))
    shards: list[Any] = [(positions, torch.cat(batches).float().numpy())] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(shards, shards[0])
    records = data.subset_records(subset)
    scores = assemble_scores(shards, len(records))
    require_scores(scores, [record.image_id for record in records])
    columns = [task.labels.index(label) for label in data.labels]  # of a larger label set
    return Predictions.of(records, data.labels, scores[:, columns])


def measure_distances(
    gate: Gate, net: XrayNet, data: XrayDataModule, subset: str
) -> npt.NDArray[np.float64]:
    """How far each image of a subset lies from those of training, (N,), as a gate measures it."""
    device, loader = next(net.parameters()).device, data.evaluation_loader(subset)
    with torch.no_grad(), evaluation_mode(net):
        features = (run_to(net, gate.layer, batch["image"].to(device)) for batch in loader)
        return np.concatenate([gate.check(batch)[0] for batch in features])


def assemble_scores(shards: Sequence[tuple[list[int], Scores]], count: int) -> Scores:
    """Scores in table order, (count, L), from the positions and scores of each process."""
    positions = np.concatenate([np.asarray(each, dtype=np.int64) for each, _ in shards])
    scores = np.concatenate([each for _, each in shards])
    if not np.array_equal(np.sort(positions), np.arange(count)) or len(scores) != count:
        raise ValueError(fault("scored_once", count, scores, positions, np.unique(positions)))
    return scores[np.argsort(positions)]


def summarise(predictions: Predictions, fingerprint: str, *, tta: str = "none") -> Json:
    """AUROC per label and its mean over the defined ones, with images, patients and positives.

    Returns:
        ``{"auroc": {"mean", "defined", "labels"}, "positives", "images", "patients",
        "fingerprint", "tta"}``; None where AUROC is undefined.
    """
    scores, targets = torch.from_numpy(predictions.scores), torch.from_numpy(predictions.targets)
    values = auroc_per_label(scores, targets)
    mean, defined = defined_mean(values)
    positives = np.nansum(predictions.targets == 1, axis=0).tolist()
    by_label = dict(zip(predictions.labels, values.tolist(), strict=True))
    return {
        "auroc": to_plain({"mean": mean, "defined": defined, "labels": by_label}),
        "positives": dict(zip(predictions.labels, positives, strict=True)),
        "images": len(predictions.image_ids),
        "patients": predictions.patients,
        "fingerprint": fingerprint,
        "tta": tta,
    }
