"""Frozen features by hand: the same two probes of scikit-learn's own parts."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from running import xray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from toy import aurocs_of_labels, toy_data, toy_net

import xray_lightning as xl
from xray_lightning.evaluation import probe
from xray_lightning.report.page import say


@pytest.fixture(scope="module")
def data(folder) -> xl.XrayDataModule:
    data = toy_data(folder, 120)
    data.keep_labels(["Effusion", "Mass", "Nodule", "Hernia"])
    data.targets[:, 3] = 0
    return data


@pytest.fixture(scope="module")
def net(data: xl.XrayDataModule) -> xl.XrayNet:
    return toy_net(data.labels, "resnet10t")


def measure(sets, targets, model) -> dict[str, list[float]]:
    """AUROC of each label but the last, whose answer is one, on validation and test."""
    scores = {"val": [], "test": []}
    for answers in targets["train"].T[:-1]:
        fitted = make_pipeline(StandardScaler(), model).fit(sets["train"], answers)
        for subset, columns in scores.items():
            columns.append(fitted.predict_proba(sets[subset])[:, 1])
    return {k: aurocs_of_labels(np.transpose(v), targets[k][:, :-1]) for k, v in scores.items()}


def test_both_probes_by_hand(data: xl.XrayDataModule, net: xl.XrayNet) -> None:
    done = list[tuple[int, int]]()
    found = xl.probe_backbone(net, data, draws=50, progress=lambda *counts: done.append(counts))
    sets = {}
    for subset in ("train", "val", "test"):
        films = torch.stack([sample["image"] for sample in data.dataset(subset)])
        with torch.no_grad():
            sets[subset] = net.forward_features(films).mean((2, 3)).double().numpy()
    targets = {subset: data.subset_targets(subset) for subset in sets}
    assert (found.left_out, done[-1]) == (["Hernia"], (len(data.records),) * 2)
    assert found.images == {subset: len(films) for subset, films in sets.items()}
    assert (found.features, found.weights, found.compared) == (512, "random weights", 3)
    assert "not chosen: no label has both" in " ".join(say("probe", replace(found, compared=0), 20))
    linear = {c: LogisticRegression(C=c) for c in probe.PENALTIES}
    beside = {k: KNeighborsClassifier(k, metric="cosine") for k in probe.NEIGHBOURS[:2]}
    both = (found.linear, found.penalty, linear), (found.nearest, found.neighbours, beside)
    for metrics, own, models in both:
        tried = {setting: measure(sets, targets, model) for setting, model in models.items()}
        means = {setting: np.nanmean(aurocs["val"]) for setting, aurocs in tried.items()}
        assert means[own] == pytest.approx(max(means.values()), abs=0.001)
        theirs = [label["auroc"].value for label in metrics.labels.values()]
        assert theirs == pytest.approx(tried[own]["test"], abs=0.003, nan_ok=True)
        assert (mean := metrics.mean["auroc"]).value == pytest.approx(np.nanmean(theirs))
        assert mean.low < mean.value < mean.high
    assert xl.BackboneProbe.from_json(found.to_json()).to_json() == found.to_json()


def test_features_that_hold_the_answer(data, net, monkeypatch) -> None:
    """Both probes find it; where no neighbour's target is known, the prevalence stands."""
    answers = iter(np.concatenate([data.subset_targets(s) for s in ("train", "val", "test")]))

    def know(net: xl.XrayNet, images: torch.Tensor) -> np.ndarray:
        return np.stack([[*next(answers), 1.0] for _ in images])

    monkeypatch.setattr(probe, "pool_features", know)
    found = xl.probe_backbone(net, data, draws=20)
    assert found.linear.mean["auroc"].value > 0.99
    assert found.nearest.mean["auroc"].value > 0.75
    shares = xl.share_among_neighbours(np.eye(4), np.full((4, 1), np.nan), [*"abcd"], 2, learned=2)
    assert np.isnan(shares).tolist() == [[True], [True]]


def test_what_cannot_be_probed(data: xl.XrayDataModule, net: xl.XrayNet, monkeypatch) -> None:
    with pytest.raises(xl.ConfigError, match="Linear is not an XrayNet"):
        xl.probe_backbone(torch.nn.Linear(1, 1), data)
    monkeypatch.setattr(data, "targets", data.targets * 0)
    with pytest.raises(xl.DataError, match=r"no label of .*Hernia has both answers"):
        xl.probe_backbone(net, data)


def test_the_command(tmp_path) -> None:
    words = ["data.patients=40", "data.size=32", "image_size=32", "draws=20", "workers=0"]
    words += ["model.backbone=resnet10t", f"cache_dir={tmp_path}", "--out", tmp_path / "out"]
    told = json.loads(xray("probe", *words, "--json"))
    assert told == json.loads((tmp_path / "out" / "probe.json").read_text())
    printed = xray("probe", *words)
    assert f"C={told['penalty']} and the number of neighbours" in printed
    assert f"test images of {told['patients']} patients [{told['fingerprint']}]" in printed
    assert "intervals are rough" in printed
    words += ["model.backbone=vit_tiny_patch16_224", "image_size=50"]
    assert "use 48 or 64" in xray("probe", *words, code=2)
