"""Verdicts of networks whose answers are known; test_part.py trains some."""

from typing import Any

import numpy as np
import pytest
import torch

from xray_lightning.audit.shortcuts.facts import CAUGHT, NOT_CAUGHT, shortcut_facts
from xray_lightning.errors import ConfigError


def facts_of(reader: Any, films: Any, **settings: Any) -> dict[str, Any]:
    _, images, targets, patients = films
    return shortcut_facts(reader, images, targets, patients, draws=200, **settings)


@pytest.fixture(scope="module")
def dishonest(reader: Any, films: Any) -> dict[str, Any]:
    phantom, images, _, _ = films
    marker = np.stack([phantom.marker(record) for record in phantom.records])
    known = {"view: AP": np.array([float(r.view == "AP") for r in phantom.records])}
    floor = np.column_stack([images.mean(dim=(1, 2, 3)), np.full(len(images), np.nan)])
    return facts_of(reader(honest=False), films, marker=marker, known=known, floor=floor)


def test_a_reader_of_corners_is_caught(dishonest: dict[str, Any]) -> None:
    nodule, emphysema = dishonest["labels"]["Nodule"], dishonest["labels"]["Emphysema"]
    assert nodule["verdict"] == CAUGHT
    assert nodule["covered"]["corners"]["verdict"] == "flagged"
    assert nodule["covered"]["planted marker"]["verdict"] == "flagged"
    assert nodule["auroc"]["value"] > 0.8
    assert "closer by" in nodule["reason"]
    assert "of its AUROC of 0." in nodule["reason"]
    assert emphysema["verdict"] == NOT_CAUGHT
    assert emphysema["covered"]["corners"]["auroc"]["region"]["value"] == pytest.approx(0, abs=1e-9)
    assert "takes at most" in emphysema["reason"]


def test_an_honest_reader_is_not(reader: Any, films: Any) -> None:
    nodule = facts_of(reader(honest=True), films)["labels"]["Nodule"]
    assert nodule["verdict"] == NOT_CAUGHT
    assert list(nodule["covered"]) == ["corners", "border", "letters"]
    assert "floor" not in nodule


def test_what_stands_beside_the_verdict(dishonest: dict[str, Any], films: Any) -> None:
    _, images, targets, patients = films
    assert (dishonest["images"], dishonest["patients"]) == (len(images), len(set(patients)))
    assert list(dishonest["probes"]) == ["view: AP", "Emphysema", "Nodule"]
    assert 0.5 < dishonest["probes"]["view: AP"]["trained"] <= 1
    assert dishonest["labels"]["Nodule"]["positives"] == (targets[:, 1] == 1).sum()
    assert 0 < dishonest["labels"]["Emphysema"]["floor"]["value"] < 1
    assert dishonest["labels"]["Nodule"]["floor"] == {"value": None, "interval": [None, None]}
    maps = dishonest["labels"]["Nodule"]["maps"]
    assert set(maps) == {"outside", "border", "corners"}
    assert maps["corners"]["grid"] == [16, 16]


def test_maps_may_be_given(reader: Any, films: Any) -> None:
    """They get the positives of each label; a flagged one is named, and decides nothing."""
    targets = films[2]
    asked: dict[str, int] = {}

    def corner(net: Any, batch: torch.Tensor, label: str) -> np.ndarray:
        asked[label] = asked.get(label, 0) + len(batch)
        maps = np.zeros((len(batch), 16, 16))
        maps[:, 0, 0] = 1
        return maps

    found = facts_of(reader(honest=True), films, maps=corner)["labels"]["Nodule"]
    assert asked["Nodule"] == (targets[:, 1] == 1).sum()
    assert found["verdict"] == NOT_CAUGHT
    assert found["maps"]["corners"]["verdict"] == "flagged"
    assert "its maps are denser than in the body in: outside, border, corners" in found["reason"]


def test_labels_without_positives_are_undecided_and_unknown_ones_left_out(
    reader: Any, films: Any
) -> None:
    phantom, images, targets, patients = films
    absent = np.where([True, False], 0, targets)
    found = facts_of(reader(honest=True), (phantom, images, absent, patients))["labels"]
    assert found["Emphysema"]["verdict"] == "undecided"
    assert "too few positives or negatives" in found["Emphysema"]["reason"]
    assert found["Emphysema"]["maps"] == {}
    assert found["Nodule"]["verdict"] == NOT_CAUGHT
    unknown = np.where([True, False], np.nan, targets)
    facts = facts_of(reader(honest=True), (phantom, images, unknown, patients))
    assert set(facts["labels"]) == {"Nodule"}
    assert "Emphysema" not in facts["probes"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(4, 48, 48)}, r"shape \(N, 1, H, W\), got \(4, 48, 48\)"),
        ({"targets": np.zeros((4, 3))}, r"targets of shape \(4, 2\), got \(4, 3\)"),
        ({"marker": np.zeros((4, 9, 9), bool)}, r"masks of shape \(4, 48, 48\), got \(4, 9, 9\)"),
        ({"draws": 0}, "a bootstrap needs patients and draws"),
    ],
)
def test_refuses_what_does_not_belong_together(
    reader: Any, change: dict[str, Any], message: str
) -> None:
    given = {"images": torch.zeros(4, 1, 48, 48), "targets": np.zeros((4, 2)), **change}
    with pytest.raises(ConfigError, match=message):
        shortcut_facts(reader(honest=True), patients=["a", "b", "c", "d"], **given)
