"""What else a network's features hold: view, sex, and the words burned into portable films."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn

from xray_lightning.audit.shortcuts.occlusion import pool_features
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.intervals import Estimate, Floats, Interval, percentile_interval
from xray_lightning.metrics.ranks import Codes
from xray_lightning.models.network import XrayNet
from xray_lightning.records import patient_ids
from xray_lightning.results import Result

FOLDS = 5
LEAST = 10  # patients with and without, below which there is no probe
PENALTY = 0.1  # scikit-learn's C, on standardised features; not tuned


@dataclass(frozen=True)
class Probe(Result):
    """AUROC of a linear probe; NaN where undefined.

    A probe says what can be read from the features, not that the scores use it: it flags nothing.
    Intervals are 95 % percentile intervals, patients resampled.
    """

    trained: float  # on the features of the network
    interval: Interval
    random: float  # on those of the same architecture with random weights
    random_interval: Interval
    known: int  # images where the attribute is known
    positive: int  # of them, those that have it


def build_untrained(net: XrayNet, seed: int) -> XrayNet:
    """The same architecture with random weights, in evaluation mode, on the same device."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return net.new().eval().to(next(net.parameters()).device)


def score_held_out(features: Floats, attribute: Floats, codes: Codes, seed: int) -> Floats:
    """Scores (n,) of a logistic regression of features (n, C), fitted on other patients."""
    scores = np.zeros(len(attribute))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    with threadpool_limits(1):
        for learned, held in folds.split(features, attribute, codes):
            model = make_pipeline(
                StandardScaler(), LogisticRegression(C=PENALTY, max_iter=1000, random_state=seed)
            )
            model.fit(features[learned], attribute[learned])
            scores[held] = model.decision_function(features[held])
    return scores


def probe_hospitals(
    net: nn.Module,  # in evaluation mode; of another class than XrayNet it has no features
    data: XrayDataModule,
    subset: str,
    *,
    limit: int = 1000,  # images, drawn by the seed
    draws: int = 500,
    seed: int = 0,
) -> dict[str, Estimate]:
    """AUROC at which a network's features tell each hospital from the others, patients held out.

    Empty where all images are of one hospital; NaN for one of too few patients.
    """
    records = data.subset_records(subset)
    if len({record.hospital for record in records}) < 2 or not isinstance(net, XrayNet):
        return {}
    dataset = data.dataset(subset)
    rows = np.sort(np.random.default_rng(seed).permutation(len(dataset))[:limit]).tolist()
    features = pool_features(net.eval(), torch.stack([dataset[row]["image"] for row in rows]))
    bootstrap = PatientBootstrap(patient_ids([records[row] for row in rows]), draws, seed)
    hospitals = np.array([records[row].hospital for row in rows])
    names = np.unique(hospitals).tolist()
    told = {}
    for name in names[:1] if len(names) == 2 else names:
        attribute = (hospitals == name).astype(np.float64)
        told[name] = Estimate(np.nan)
        if min(len(np.unique(bootstrap.codes[attribute == side])) for side in (0, 1)) >= LEAST:
            scores = score_held_out(features, attribute, bootstrap.codes, seed)
            told[name] = Estimate.of_draws(bootstrap.auroc(scores, attribute))
    return told


def probe(
    trained: Floats, random: Floats, attribute: Floats, bootstrap: PatientBootstrap, seed: int
) -> Probe:
    """Probe two sets of features (N, C) for an attribute (N,), 0, 1 or NaN."""
    known = ~np.isnan(attribute)
    codes = bootstrap.codes
    patients = [len(np.unique(codes[attribute == value])) for value in (0, 1)]
    ends = [(np.nan, (np.nan, np.nan))] * 2
    if min(patients) >= LEAST:
        for side, features in enumerate((trained, random)):
            scores = np.full(len(attribute), np.nan)
            scores[known] = score_held_out(features[known], attribute[known], codes[known], seed)
            draws = bootstrap.auroc(scores, attribute)
            ends[side] = float(draws[0]), percentile_interval(draws[1:])
    return Probe(*ends[0], *ends[1], known=int(known.sum()), positive=int((attribute == 1).sum()))
