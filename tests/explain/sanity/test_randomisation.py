"""A map that ignores the network fails, one that shows its weights passes; the cascade by hand."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from xray_lightning.errors import ConfigError
from xray_lightning.explain.maps import class_map
from xray_lightning.explain.sanity.layers import stages
from xray_lightning.explain.sanity.similarity import prepared, randomisation_facts, randomised_maps
from xray_lightning.explain.sanity.study import Explain, Study
from xray_lightning.models.network import XrayNet

StudyOf = Callable[[Explain], Study]


def judged(net: nn.Module, study: Study, networks: int = 8) -> dict[str, Any]:
    return randomisation_facts(net, study, prepared(study.maps(net)), networks)


def test_a_map_of_weights_passes(plane: nn.Module, study_of: StudyOf, evidence: Explain) -> None:
    found = judged(plane, study_of(evidence))
    assert found["verdict"] == "passes"
    assert found["measures"]["spearman"]["value"] == pytest.approx(0, abs=0.2)
    assert [stage["name"] for stage in found["stages"]] == ["head"]


def edges(net: nn.Module, images: Tensor) -> Tensor:
    rows, columns = torch.gradient(images[:, 0], dim=(1, 2))
    return torch.hypot(rows, columns)


def turned(net: Any, images: Tensor) -> Tensor:
    """The image, or its negative: the network only chooses the sign."""
    return (images[:, 0] - 0.75) * torch.sign(net.head.weight[0, 0])


def test_the_image_fails(plane: nn.Module, study_of: StudyOf, pixels: Explain) -> None:
    found = judged(plane, study_of(pixels), 4)
    for measure in found["measures"].values():
        assert measure["verdict"] == "fails"
        assert measure["value"] == measure["control"]["value"] == pytest.approx(1)


def test_an_edge_detector_fails(plane: nn.Module, study_of: StudyOf) -> None:
    assert judged(plane, study_of(edges), 4)["verdict"] == "fails"


def test_a_map_that_only_changes_its_sign_fails(plane: nn.Module, study_of: StudyOf) -> None:
    measures = judged(plane, study_of(turned))["measures"]
    assert measures["spearman"]["verdict"] != "fails"
    assert measures["absolute"]["verdict"] == "fails"


def test_flat_maps_cannot_be_compared(plane: nn.Module, study_of: StudyOf) -> None:
    def flat(net: nn.Module, images: Tensor) -> Tensor:
        return torch.zeros_like(images[:, 0])

    found = judged(plane, study_of(flat), 4)
    assert found["verdict"] == "not run"
    assert found["reason"] == "the maps are flat, too small or not finite for every image"
    assert {each["verdict"] for each in found["measures"].values()} == {"not run"}


def network() -> XrayNet:
    torch.manual_seed(0)
    return XrayNet(("a", "b"), "test_resnet", image_size=48, dropout=0.5).train()


def test_cascade_keeps_what_lies_below(images: Tensor, study_of: StudyOf) -> None:
    """After each step the maps are those of a network whose lower stages are the trained ones."""
    net, seen = network(), []

    def watched(given: Any, batch: Tensor) -> Tensor:
        seen.append({name: value.clone() for name, value in given.state_dict().items()})
        assert not any(module.training for module in given.modules())
        return class_map(given, batch, 1)

    study = study_of(watched)
    study.batch, study.images = 24, torch.nn.functional.interpolate(images, (48, 48))
    parts, trained = stages(net), net.state_dict()
    maps = randomised_maps(net, study, [(part,) for part in parts], np.random.default_rng(0))
    assert len(maps) == len(seen) == len(parts) > 3
    steps = {layer: step for step, part in enumerate(parts) for layer in part.layers}
    for name, value in trained.items():
        if name.endswith("num_batches_tracked"):
            continue
        first = steps[name.rpartition(".")[0]]
        for step, state in enumerate(seen):
            same = torch.equal(state[name], value)
            fresh = name.endswith("weight") and value.ndim == 1  # of a norm: 1 before and after
            zero = name.endswith("bias") and not value.any()
            assert same == (step < first) or fresh or zero, (name, step)
    assert net.training
    assert all(torch.equal(value, trained[name]) for name, value in net.state_dict().items())


def test_numbers_against_scipy(images: Tensor, study_of: StudyOf) -> None:
    net = network().eval()
    study = study_of(partial(class_map, label=1))
    study.images = torch.nn.functional.interpolate(images, (48, 48))
    original = study.maps(net)
    found = randomisation_facts(net, study, prepared(original), 4)
    parts, generator = stages(net), np.random.default_rng(0)
    kept: list[np.ndarray] = []
    explain = study.explain

    def keeping(given: Any, batch: Tensor) -> Tensor:
        made = explain(given, batch)
        kept.append(made.numpy())
        return made

    study.explain = keeping
    randomised_maps(net, study, [(part,) for part in parts], generator)
    for _ in range(3):
        randomised_maps(net, study, [parts], generator)
    maps = np.concatenate(kept).reshape(-1, *original.shape)  # (S + 3, N, h, w)

    def correlation(first: np.ndarray, second: np.ndarray) -> float:
        pairs = zip(first, second, strict=True)
        return float(np.mean([spearmanr(one.ravel(), two.ravel()).statistic for one, two in pairs]))

    for stage, made in zip(found["stages"], maps, strict=False):
        assert stage["spearman"]["value"] == pytest.approx(correlation(original, made))
    random, spearman = maps[-4:], found["measures"]["spearman"]
    wanted = np.mean([correlation(original, each) for each in random])
    assert spearman["value"] == pytest.approx(wanted)
    partners = study.sample.partners
    wanted = np.mean([correlation(original, each[partners]) for each in random])
    assert spearman["chance"]["value"] == pytest.approx(wanted)
    pairs = [correlation(random[one], random[two]) for one in range(4) for two in range(one)]
    assert spearman["control"]["value"] == pytest.approx(np.mean(pairs))


def test_too_few_networks(plane: nn.Module, study_of: StudyOf, evidence: Explain) -> None:
    with pytest.raises(ConfigError, match="networks must be at least 4, got 3"):
        judged(plane, study_of(evidence), 3)
