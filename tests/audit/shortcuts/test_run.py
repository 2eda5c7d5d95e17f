"""Verdicts of networks whose answers are known; test_sample.py draws what they look at."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from xray_lightning import Shortcuts
from xray_lightning.audit.shortcuts import CAUGHT, NOT_CAUGHT, Sample, examine, write_gist


@pytest.fixture(scope="module")
def sample(films: Any, reader: Any) -> Sample:
    _, images, targets, patients = films
    return Sample(reader(honest=True).labels, images, targets, patients)


@pytest.fixture(scope="module")
def dishonest(reader: Any, films: Any, sample: Sample) -> Shortcuts:
    phantom, images, *_ = films
    known = replace(
        sample,
        marker=np.stack([phantom.marker(record) for record in phantom.records]),
        attributes={"view: AP": np.array([float(r.view == "AP") for r in phantom.records])},
        floor=np.column_stack([images.mean(dim=(1, 2, 3)), np.full(len(images), np.nan)]),
    )
    return examine(reader(honest=False), known, draws=200)


def test_a_reader_of_corners_is_caught(dishonest: Shortcuts, sample: Sample) -> None:
    nodule, emphysema = dishonest.labels["Nodule"], dishonest.labels["Emphysema"]
    assert nodule.verdict == CAUGHT
    assert nodule.covered["corners"].verdict == "flagged"
    assert nodule.covered["planted marker"].verdict == "flagged"
    assert nodule.auroc.value > 0.8
    assert "of its AUROC of 0." in nodule.reason
    assert "closer by" in nodule.reason
    assert emphysema.verdict == NOT_CAUGHT
    assert emphysema.covered["corners"].auroc.region.value == pytest.approx(0, abs=1e-9)
    assert "takes at most" in emphysema.reason
    assert write_gist(dishonest) == "caught: Nodule; not caught: 1; undecided: 0"
    assert (dishonest.images, dishonest.patients) == (len(sample.images), len(set(sample.patients)))
    assert list(dishonest.probes) == ["view: AP", "Emphysema", "Nodule"]
    assert 0.5 < dishonest.probes["view: AP"].trained <= 1
    assert nodule.positives == (sample.targets[:, 1] == 1).sum()
    assert 0 < emphysema.floor.value < 1
    assert nodule.floor.to_json() == {"value": None, "interval": None}
    assert set(nodule.maps) == {"outside", "border", "corners"}
    assert nodule.maps["corners"].grid == (16, 16)


def test_there_and_back(dishonest: Shortcuts) -> None:
    values = replace(dishonest, weights_sha256="abc").to_json()
    assert Shortcuts.from_json(values).to_json() == values


def test_maps_may_be_given(reader: Any, sample: Sample) -> None:
    """They get the positives of each label; a flagged one is named, and decides nothing."""
    asked: dict[str, int] = {}

    def corner(net: Any, batch: torch.Tensor, label: str) -> np.ndarray:
        asked[label] = asked.get(label, 0) + len(batch)
        maps = np.zeros((len(batch), 16, 16))
        maps[:, 0, 0] = 1
        return maps

    nodule = examine(reader(honest=True), sample, draws=200, maps=corner).labels["Nodule"]
    assert asked["Nodule"] == (sample.targets[:, 1] == 1).sum()
    assert nodule.verdict == NOT_CAUGHT
    assert list(nodule.covered) == ["corners", "border", "letters"]
    assert nodule.floor is None
    assert nodule.maps["corners"].verdict == "flagged"
    assert "its maps are denser than in the body in: outside, border, corners" in nodule.reason


def test_labels_without_positives_are_undecided_and_unknown_ones_left_out(reader, sample) -> None:
    absent = replace(sample, targets=np.where([True, False], 0, sample.targets))
    emphysema, nodule = examine(reader(honest=True), absent, draws=200).labels.values()
    assert emphysema.verdict == "undecided"
    assert "too few positives or negatives" in emphysema.reason
    assert emphysema.maps == {}
    assert nodule.verdict == NOT_CAUGHT
    unknown = replace(sample, targets=np.where([True, False], np.nan, sample.targets))
    shortcuts = examine(reader(honest=True), unknown, draws=200)
    assert set(shortcuts.labels) == set(shortcuts.probes) == {"Nodule"}
