"""What else a network's features hold: view, sex, and the words burned into portable films."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from xray_lightning.audit.shortcuts.sample import draw_images
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.intervals import Estimate, Floats, Interval
from xray_lightning.models.batches import run_batches
from xray_lightning.models.network import XrayNet
from xray_lightning.records import patient_ids
from xray_lightning.results import Result

FOLDS = 5
LEAST = 10  # patients with and without, below which there is no probe
PENALTY = 0.1  # scikit-learn's C, on standardised features; not tuned


@dataclass(frozen=True)
class Probe(Result):
    """AUROC of a linear probe, NaN where undefined: what can be read, not what the scores use."""

    trained: float  # on the features of the network
    interval: Interval
    random: float  # on those of the same architecture with random weights
    random_interval: Interval
    known: int  # images where the attribute is known
    positive: int  # of them, those that have it

    @classmethod
    def of(
        cls, features: Sequence[Floats], attribute: Floats, bootstrap: PatientBootstrap, seed: int
    ) -> "Probe":
        """Of both networks' features (N, C) for an attribute (N,), 0, 1 or NaN."""
        trained, random = (probe(own, attribute, bootstrap, seed) for own in features)
        counts = int((~np.isnan(attribute)).sum()), int((attribute == 1).sum())
        return cls(trained.value, trained.interval, random.value, random.interval, *counts)


def build_untrained(net: XrayNet, seed: int) -> XrayNet:
    """The same architecture with random weights, in evaluation mode, on the same device."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return net.new().eval().to(next(net.parameters()).device)


def pool_features(net: XrayNet, images: Tensor) -> Floats:
    """Mean over the feature map, (N, C); the network is in evaluation mode."""

    def pool(batch: Tensor) -> Tensor:
        return net.forward_features(batch).mean(dim=(2, 3))

    return np.asarray(run_batches(net, images, pool).double().numpy())


def probe(features: Floats, attribute: Floats, bootstrap: PatientBootstrap, seed: int) -> Estimate:
    """AUROC at which logistic regression of features (N, C), fitted on other patients, tells it."""
    # NaN with too few patients on either side of the attribute, (N,) 0, 1 or NaN.
    codes, known = bootstrap.codes, ~np.isnan(attribute)
    if min(len(np.unique(codes[attribute == side])) for side in (0, 1)) < LEAST:
        return Estimate(np.nan)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=1000))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    scores = np.full(len(attribute), np.nan)
    with threadpool_limits(1):
        scores[known] = cross_val_predict(
            model, features[known], attribute[known], groups=codes[known], cv=folds,
            method="decision_function",
        )  # fmt: skip
    return Estimate.of_draws(bootstrap.auroc(scores, attribute))


def probe_hospitals(
    net: nn.Module,  # in evaluation mode; of another class than XrayNet it has no features
    data: XrayDataModule,
    subset: str,
    *,
    limit: int = 1000,  # images, drawn by the seed
    draws: int = 500,
    seed: int = 0,
) -> dict[str, Estimate]:
    """AUROC at which a network's features tell each hospital from the others, patients held out."""
    # Empty where all images are of one hospital; NaN for one of too few patients.
    records = data.subset_records(subset)
    if len({record.hospital for record in records}) < 2 or not isinstance(net, XrayNet):
        return {}
    rows, images = draw_images(data, subset, limit, seed)
    features = pool_features(net.eval(), images)
    bootstrap = PatientBootstrap(patient_ids([records[row] for row in rows]), draws, seed)
    hospitals = np.array([records[row].hospital for row in rows])
    names = np.unique(hospitals).tolist()
    return {
        name: probe(features, (hospitals == name).astype(np.float64), bootstrap, seed)
        for name in (names[:1] if len(names) == 2 else names)
    }
