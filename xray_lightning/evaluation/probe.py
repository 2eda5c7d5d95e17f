"""How good is a backbone before any training? What its features, as they are, tell of findings."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from sklearn.linear_model import LogisticRegression

from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.partition import SUBSETS
from xray_lightning.errors import ConfigError, DataError
from xray_lightning.evaluation.predictions import SplitName
from xray_lightning.metrics.decisions import share_among_neighbours
from xray_lightning.metrics.estimates import Metrics, estimate_metrics, mean_metric
from xray_lightning.metrics.intervals import Array, Floats
from xray_lightning.models.network import XrayNet, pool_features
from xray_lightning.records import patient_ids, prevalence
from xray_lightning.results import Result

PENALTIES = (0.0001, 0.001, 0.01, 0.1)  # scikit-learn's C, on standardised features
NEIGHBOURS = (10, 40, 160)  # those that are at most a quarter of the training images, else 1


@dataclass(frozen=True)
class BackboneProbe(Result):
    """Metrics on test images of a linear probe of frozen features, and of their neighbours."""

    backbone: str
    weights: str  # what was loaded, "random weights" where nothing was
    image_size: int
    features: int
    data: str
    split: SplitName
    fingerprint: str  # of the test images
    images: dict[str, int]  # by subset
    patients: int  # in test
    left_out: list[str]  # labels whose known targets in training are all the same
    penalty: float  # of ``PENALTIES`` the best on validation
    neighbours: int  # likewise of ``NEIGHBOURS``
    compared: int  # labels whose AUROC on validation chose both; 0: nothing did, each is the first
    linear: Metrics
    nearest: Metrics
    draws: int
    seed: int


def probe_backbone(
    net: XrayNet,
    data: XrayDataModule,
    *,
    draws: int = 2000,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,  # called with images done and to do
) -> BackboneProbe:
    """Fit a linear probe and nearest neighbours to a backbone's frozen features; nothing is tuned.

    Features are means over the feature map, standardised by training. The linear probe is logistic
    regression for each label (Alain and Bengio 2016, arXiv:1610.01644); a neighbours' score is the
    share of positives among the most alike training images of other patients, by cosine (as Caron
    2021, arXiv:2104.14294, but for his weights), the prevalence where none of them is known. What
    both may choose is chosen by the mean AUROC on validation; intervals resample test patients.

    Raises:
        ConfigError: the network is not an :class:`XrayNet`.
        DataError: the known targets of every label are all the same in training.
    """
    images = {subset: len(data.split.subsets[subset]) for subset in SUBSETS}
    train, val, _ = images.values()
    targets = np.concatenate([data.subset_targets(subset) for subset in SUBSETS])
    patients = np.concatenate([patient_ids(data.subset_records(subset)) for subset in SUBSETS])
    told = np.array([{0, 1} <= {*known.tolist()} for known in targets[:train].T])
    labels, left_out = (np.array(data.labels)[those].tolist() for those in (told, ~told))
    if not labels:
        raise DataError(f"in training no label of {', '.join(data.labels)} has both answers")
    targets, features = targets[:, told], _pool(net, data, progress)

    def look_beside(count: float) -> Floats:
        shares = share_among_neighbours(features, targets, patients, int(count), learned=train)
        return np.where(np.isnan(shares), prevalence(targets[:train]), shares)

    rest, metrics, chosen = targets[train:], [], []
    counts = [count for count in NEIGHBOURS if 4 * count <= train] or [1]
    fit = partial(_fit, features, targets, train)
    for score, settings in ((fit, PENALTIES), (look_beside, counts)):
        tried = [score(setting) for setting in settings]
        means = [mean_metric("auroc", scores[:val], rest[:val]) for scores in tried]
        best = int(np.nan_to_num(means).argmax())
        own = tried[best][val:], rest[val:], patients[train + val :]
        metrics.append(estimate_metrics(labels, *own, draws=draws, seed=seed))
        chosen.append(settings[best])
    return BackboneProbe(
        str(net.config["backbone"]), net.load_report or "random weights", data.image_size,
        features.shape[1], data.source.title, SplitName(data.split.name, data.split.fingerprint),
        data.split.subset_fingerprints["test"], images, len(set(patients[train + val :].tolist())),
        left_out, chosen[0], int(chosen[1]), sum({0, 1} <= {*known} for known in rest[:val].T),
        metrics[0], metrics[1], draws, seed,
    )  # fmt: skip


def _pool(
    net: XrayNet, data: XrayDataModule, progress: Callable[[int, int], object] | None
) -> Floats:
    """Features of every image, training first, (N, C), standardised by training."""
    if not isinstance(net, XrayNet):
        raise ConfigError(f"{type(net).__name__} is not an XrayNet: it has no features to probe")
    pooled, count = list[Floats](), sum(map(len, data.split.subsets.values()))
    for batch in (batch for subset in SUBSETS for batch in data.evaluation_loader(subset)):
        pooled.append(pool_features(net.eval(), batch["image"]))
        if progress:
            progress(sum(map(len, pooled)), count)
    features, train = np.concatenate(pooled), len(data.split.subsets["train"])
    scale = features[:train].std(axis=0)
    return np.asarray((features - features[:train].mean(axis=0)) / np.where(scale > 0, scale, 1))


def _fit(features: Floats, targets: Array, train: int, penalty: float) -> Floats:
    """Probabilities (n, L) of all but the first ``train`` images, on which each label is fitted."""
    model, columns = LogisticRegression(C=penalty, max_iter=2000), []
    for answers in targets.T:
        known = np.flatnonzero(~np.isnan(answers[:train]))
        columns.append(model.fit(features[known], answers[known]).predict_proba(features[train:]))
    return np.stack(columns)[..., 1].T
