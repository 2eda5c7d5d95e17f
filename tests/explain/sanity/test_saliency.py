"""The whole: plain values, counted passes, one seed, and networks that stay as they were."""

import copy
import json
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xray_lightning import XrayNet, class_map
from xray_lightning.explain.saliency import TESTS, SaliencyTests, run_saliency_tests
from xray_lightning.explain.sanity import Explain

PATIENTS = [number // 2 for number in range(24)]
QUICK = {"label": 1, "draws": 50, "networks": 4, "steps": 4}


def network(seed: int = 0, backbone: str = "test_resnet") -> XrayNet:
    torch.manual_seed(seed)
    return XrayNet(("a", "b"), backbone, image_size=48)


@pytest.fixture
def large(images: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(images, (48, 48))


CAM: Explain = partial(class_map, label=1)


def test_without_other_networks(plane: nn.Module, images: Tensor, evidence: Explain) -> None:
    found = run_saliency_tests(plane, evidence, images, PATIENTS, **{**QUICK, "networks": 8})
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert SaliencyTests.from_json(plain).to_json() == plain == found.to_json()
    verdicts = {name: found.verdict_of(name) for name in TESTS}
    assert verdicts["randomisation"] == "passes"
    assert verdicts["permutation"] == verdicts["seeds"] == "not run"
    assert found.permutation.reason == "no network trained on permuted labels was given"
    assert found.seeds.reason == "no network of another seed was given"
    assert (found.images, found.patients, found.map) == (24, 12, (16, 16))


def test_too_few_patients_are_said_to_be(plane, images, evidence) -> None:
    for patients, note in ((9, "9 patients are too few for an interval, which needs 10"), (10, "")):
        ids = [number % patients for number in range(24)]
        found = run_saliency_tests(plane, evidence, images, ids, **QUICK)
        assert found.note == note
        assert np.isnan(found.insertion.area.low) == bool(note)
        verdicts = {found.verdict_of(name) for name in TESTS}
        assert (verdicts == {"undecided", "not run"}) == bool(note)


def test_with_other_networks(plane, other_plane, images, evidence) -> None:
    found = run_saliency_tests(
        plane, evidence, images, PATIENTS, others=[other_plane], permuted=other_plane, **QUICK
    )
    assert (found.seeds.verdict, found.seeds.networks) == ("fails", 2)
    assert found.permutation.verdict == "passes"
    same = run_saliency_tests(plane, evidence, images, PATIENTS, others=[plane] * 2, **QUICK)
    assert (same.seeds.verdict, same.seeds.networks) == ("passes", 3)


@pytest.mark.parametrize("mode", [True, False])
def test_nothing_is_left_behind(large: Tensor, mode: bool) -> None:
    """Weights, statistics, modes, hooks, gradients and random states are as before."""

    def careless(net: Any, batch: Tensor) -> Tensor:
        for module in net.modules():
            module.register_forward_hook(lambda *_: None)
        net.train()
        net(batch)[:, 1].sum().backward()
        net.eval()
        with torch.no_grad():
            net.head.classifier.weight.add_(1)
        made: Tensor = net.maps(batch)[:, 1]
        return made

    nets = [network(seed).train(mode) for seed in range(3)]
    nets[0].backbone.eval()  # frozen layers have a mode of their own
    modes = [[module.training for module in net.modules()] for net in nets]
    states = [copy.deepcopy(net.state_dict()) for net in nets]
    pixels = large.clone()
    np.random.seed(3)
    random = torch.get_rng_state(), np.random.get_state()[1].tolist()
    run_saliency_tests(
        nets[0], careless, large, PATIENTS, others=[nets[1]], permuted=nets[2], **QUICK
    )
    assert torch.equal(torch.get_rng_state(), random[0])
    assert np.random.get_state()[1].tolist() == random[1]
    assert torch.equal(large, pixels)
    for net, state, mode_of in zip(nets, states, modes, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
        assert [module.training for module in net.modules()] == mode_of
        assert all(parameter.grad is None for parameter in net.parameters())
        assert not any(module._forward_hooks for module in net.modules())


def test_one_seed_gives_one_result(large: Tensor) -> None:
    found = [
        run_saliency_tests(network(), CAM, large, PATIENTS, seed=seed, **QUICK)
        for seed in (0, 0, 1)
    ]
    torch.manual_seed(5)
    found.append(run_saliency_tests(network(), CAM, large, PATIENTS, **QUICK))
    plain = [tests.to_json() for tests in found]
    assert plain[0] == plain[1] == plain[3]
    assert found[0].randomisation.stages != found[2].randomisation.stages


def test_batches_do_not_matter_without_batch_norms(large: Tensor) -> None:
    found = [
        run_saliency_tests(network(0, "test_vit"), CAM, large, PATIENTS, batch=batch, **QUICK)
        for batch in (5, 24)
    ]
    values = [each.randomisation.measures["spearman"].value for each in found]
    assert values[0] == pytest.approx(values[1], abs=0.02)
    areas = [each.insertion.area.value for each in found]
    assert areas[0] == pytest.approx(areas[1], abs=1e-5)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_passes_are_as_many_as_announced(large: Tensor, backbone: str) -> None:
    seen, said = [0], []

    def counted(net: Any, batch: Tensor) -> Tensor:
        seen[0] += len(batch)
        return class_map(net, batch, 1)

    net = network(0, backbone)
    found = run_saliency_tests(
        net,
        counted,
        large,
        PATIENTS,
        others=[net],
        permuted=net,
        progress=lambda *numbers: said.append(numbers),
        **QUICK,
    )
    stages = len(found.randomisation.stages)
    assert found.maps == seen[0] == 24 * (1 + stages + 3 + 1 + 1 + 4)
    assert found.scores == 24 * (6 * 3 + 2)
    done, total = zip(*said, strict=True)
    assert done[-1] == total[0] == total[-1]
    assert list(done) == sorted(done)
    norms = backbone == "test_resnet"
    assert total[0] - found.maps - found.scores == norms * 24 * (stages - 1 + 3)
