"""Every layer is reached, from the head down; all tests together leave networks as they were."""

import copy
import json
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from xray_lightning import ConfigError, class_map
from xray_lightning.explain import saliency as randomisation
from xray_lightning.explain.saliency import TESTS, SaliencyTests, run_saliency_tests
from xray_lightning.explain.sanity import Explain, Study, prepare

BACKBONES = ["test_resnet", "test_vit", "test_convnext", "resnet18"]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("head", ["average", "query"])
def test_stages_hold_every_parameter_once(backbone, head, network) -> None:
    net = network(backbone, head=head)
    stages = randomisation.find_stages(net)
    layers = [layer for stage in stages for layer in stage.layers]
    owned = [p for layer in layers for p in net.get_submodule(layer).parameters(recurse=False)]
    assert sorted(map(id, owned)) == sorted(map(id, net.parameters()))
    assert all(layer.startswith("head") for layer in stages[0].layers)
    assert any(k in f"{stages[-1].name} {stages[-1].layers}" for k in ("stem", "conv1", "patch"))


def test_stages_of_a_resnet_where_a_cbam_block_belongs_to_the_module_before_it(network) -> None:
    for after in ([], ["layer2.0", "layer4"]):
        net = network("resnet18", cbam_after=after)
        found = {stage.name: stage.layers for stage in randomisation.find_stages(net)}
        blocks = [f"backbone.layer{number}" for number in (4, 3, 2, 1)]
        assert [*found] == ["head", *blocks, "backbone.conv1 to backbone.bn1"]
    assert any("attention.layer2-0." in each for each in found["backbone.layer2"])
    assert any("attention.layer4." in each for each in found["backbone.layer4"])


def test_parameters_of_the_network_itself_come_last() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.arange(64.0))
            self.head = nn.Linear(3, 2)

    net = Scaled()
    assert [stage.name for stage in randomisation.find_stages(net)] == ["head", "network"]
    randomisation.reset(net, [""], np.random.default_rng(0))
    assert not torch.equal(net.scale, torch.arange(64.0))
    assert torch.equal(net.scale.sort().values, torch.arange(64.0))  # shuffled


@pytest.mark.parametrize("backbone", BACKBONES)
def test_reset_leaves_nothing_learned(backbone: str, network) -> None:
    """Weights that say where they come from are all gone; so are the statistics of norms."""
    net = network(backbone, head="query")
    with torch.no_grad():
        for number, tensor in enumerate([*net.parameters(), *net.buffers()]):
            if tensor.is_floating_point():
                tensor.copy_(10 + number + torch.linspace(0, 1, tensor.numel()).view_as(tensor))
    before = {name: tensor.clone() for name, tensor in net.named_parameters()}
    layers = [layer for stage in randomisation.find_stages(net) for layer in stage.layers]
    randomisation.reset(net, layers, np.random.default_rng(0))
    for name, tensor in net.named_parameters():
        same = (tensor == before[name]).float().mean()
        assert same < 0.2, name  # a shuffle leaves some values of a short one in place
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            fresh = type(module)(module.num_features).state_dict()
            torch.testing.assert_close(module.state_dict(), fresh, rtol=0, atol=0)


def test_reset_follows_its_generator_alone(network) -> None:
    def weights(seed: int, around: int) -> torch.Tensor:
        net = network()
        torch.manual_seed(around)
        before = torch.get_rng_state()
        randomisation.reset(net, ["head.classifier"], np.random.default_rng(seed))
        assert torch.equal(torch.get_rng_state(), before)
        return net.head.classifier.weight.detach()

    assert torch.equal(weights(1, 5), weights(1, 6))
    assert not torch.equal(weights(1, 5), weights(2, 5))


def test_calibrated_norms_have_the_statistics_of_the_images(network) -> None:
    """Against means and variances written out."""
    net = network("resnet18")
    images = torch.rand(6, 1, 64, 64)
    modes = [module.training for module in net.modules()]
    momentum = net.backbone.bn1.momentum
    randomisation.calibrate(net, ["backbone.bn1"], images.split(3))
    parts = net.backbone.conv1((images - net.mean) / net.std).split(3)
    mean = torch.stack([part.mean(dim=(0, 2, 3)) for part in parts]).mean(dim=0)
    variance = torch.stack([part.var(dim=(0, 2, 3)) for part in parts]).mean(dim=0)
    torch.testing.assert_close(net.backbone.bn1.running_mean, mean)
    torch.testing.assert_close(net.backbone.bn1.running_var, variance)
    assert net.backbone.bn1.momentum == momentum
    assert [module.training for module in net.modules()] == modes
    other = net.backbone.layer1[0].bn1
    assert torch.equal(other.running_mean, torch.zeros_like(other.running_mean))


def run(net: nn.Module, study: Study, networks: int = 8) -> randomisation.Randomisation:
    return randomisation.randomise(net, study, prepare(study.maps(net)), networks)


def test_a_map_of_weights_passes(plane: nn.Module, study_of, evidence: Explain) -> None:
    found = run(plane, study_of(evidence))
    assert found.verdict == "passes"
    assert found.measures["spearman"].value == pytest.approx(0, abs=0.2)
    assert [stage.name for stage in found.stages] == ["head"]


def test_the_image_fails(plane: nn.Module, study_of, pixels: Explain) -> None:
    for measure in run(plane, study_of(pixels), 4).measures.values():
        assert measure.verdict == "fails"
        assert measure.value == measure.control.value == pytest.approx(1)


def test_a_map_that_only_changes_its_sign_fails(plane: nn.Module, study_of) -> None:
    """The image, or its negative: the network only chooses the sign."""
    turned = study_of(lambda net, images: (images[:, 0] - 0.75) * net.head.weight[0, 0].sign())
    measures = run(plane, turned).measures
    assert measures["spearman"].verdict != "fails"
    assert measures["absolute"].verdict == "fails"


def test_flat_maps_cannot_be_compared(plane: nn.Module, study_of) -> None:
    found = run(plane, study_of(lambda net, images: torch.zeros_like(images[:, 0])), 4)
    assert found.verdict == "not run"
    assert found.reason == "the maps are flat, too small or not finite for every image"
    assert {each.verdict for each in found.measures.values()} == {"not run"}


def test_cascade_keeps_what_lies_below(images: Tensor, study_of, network) -> None:
    """After each step the maps are those of a network whose lower stages are the trained ones."""
    net, seen = network().train(), []

    def watched(given, batch: Tensor) -> Tensor:
        seen.append({name: value.clone() for name, value in given.state_dict().items()})
        assert not any(module.training for module in given.modules())
        return class_map(given, batch, 1)

    study = study_of(watched)
    study.batch, study.images = 24, torch.nn.functional.interpolate(images, (64, 64))
    parts, trained = randomisation.find_stages(net), net.state_dict()
    alone = [(part,) for part in parts]
    maps = randomisation.map_randomised(net, study, alone, np.random.default_rng(0))
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


def test_numbers_against_scipy(images: Tensor, study_of, network) -> None:
    net = network()
    study = study_of(partial(class_map, label=1))
    study.images = torch.nn.functional.interpolate(images, (64, 64))
    original = study.maps(net)
    found = randomisation.randomise(net, study, prepare(original), 4)
    parts, generator = randomisation.find_stages(net), np.random.default_rng(0)
    made = randomisation.map_randomised(net, study, [(part,) for part in parts], generator)
    for _ in range(3):
        made += randomisation.map_randomised(net, study, [parts], generator)
    maps = [prepared["ssim"] for prepared in made]  # scaled, which changes no rank; (N, h, w)

    def correlation(first: np.ndarray, second: np.ndarray) -> float:
        pairs = zip(first, second, strict=True)
        return float(np.mean([spearmanr(one.ravel(), two.ravel()).statistic for one, two in pairs]))

    for stage, made in zip(found.stages, maps, strict=False):
        assert stage.spearman.value == pytest.approx(correlation(original, made))
    random, spearman = maps[-4:], found.measures["spearman"]
    wanted = np.mean([correlation(original, each) for each in random])
    assert spearman.value == pytest.approx(wanted)
    partners = study.sample.partners
    wanted = np.mean([correlation(original, each[partners]) for each in random])
    assert spearman.chance.value == pytest.approx(wanted)
    pairs = [correlation(random[one], random[two]) for one in range(4) for two in range(one)]
    assert spearman.control.value == pytest.approx(np.mean(pairs))


def test_too_few_networks(plane: nn.Module, study_of, evidence: Explain) -> None:
    with pytest.raises(ConfigError, match=r"networks .* 4, got 3"):
        run(plane, study_of(evidence), 3)


PATIENTS = [number // 2 for number in range(24)]
quick = partial(run_saliency_tests, label=1, draws=50, networks=4, steps=4)


@pytest.fixture
def large(images: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(images, (48, 48))


CAM: Explain = partial(class_map, label=1)


def test_without_other_networks(plane: nn.Module, images: Tensor, evidence: Explain) -> None:
    found = quick(plane, evidence, images, PATIENTS, networks=8)
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert SaliencyTests.from_json(plain).to_json() == plain == found.to_json()
    verdicts = {name: found.verdict_of(name) for name in TESTS}
    assert verdicts["randomisation"] == "passes"
    assert verdicts["permutation"] == verdicts["seeds"] == "not run"
    assert found.permutation.reason == "no network of permuted labels was given"
    assert found.seeds.reason == "no network of another seed was given"
    assert (found.images, found.patients, found.map) == (24, 12, (16, 16))


def test_too_few_patients_are_said_to_be(plane, images, evidence) -> None:
    for patients, note in ((9, "9 patients are too few for an interval, which needs 10"), (10, "")):
        found = quick(plane, evidence, images, [number % patients for number in range(24)])
        assert found.note == note
        assert np.isnan(found.insertion.area.low) == bool(note)
        verdicts = {found.verdict_of(name) for name in TESTS}
        assert (verdicts == {"undecided", "not run"}) == bool(note)


def test_with_other_networks(plane, other_plane, images, evidence) -> None:
    found = quick(plane, evidence, images, PATIENTS, others=[other_plane], permuted=other_plane)
    assert (found.seeds.verdict, found.seeds.networks) == ("fails", 2)
    assert found.permutation.verdict == "passes"
    same = quick(plane, evidence, images, PATIENTS, others=[plane] * 2)
    assert (same.seeds.verdict, same.seeds.networks) == ("passes", 3)


@pytest.mark.parametrize("mode", [True, False])
def test_nothing_is_left_behind(large: Tensor, mode: bool, network) -> None:
    """Weights, statistics, modes, hooks, gradients and random states are as before."""

    def careless(net, batch: Tensor) -> Tensor:
        for module in net.modules():
            module.register_forward_hook(lambda *_: None)
        net.train()
        net(batch)[:, 1].sum().backward()
        net.eval()
        with torch.no_grad():
            net.head.classifier.weight.add_(1)
        made: Tensor = net.maps(batch)[:, 1]
        return made

    nets = [network(dropout=0.0).train(mode) for _ in range(3)]
    nets[0].backbone.eval()  # frozen layers have a mode of their own
    modes = [[module.training for module in net.modules()] for net in nets]
    states = [copy.deepcopy(net.state_dict()) for net in nets]
    pixels = large.clone()
    np.random.seed(3)
    random = torch.get_rng_state(), np.random.get_state()[1].tolist()
    quick(nets[0], careless, large, PATIENTS, others=[nets[1]], permuted=nets[2])
    assert torch.equal(torch.get_rng_state(), random[0])
    assert np.random.get_state()[1].tolist() == random[1]
    assert torch.equal(large, pixels)
    for net, state, mode_of in zip(nets, states, modes, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
        assert [module.training for module in net.modules()] == mode_of
        assert all(parameter.grad is None for parameter in net.parameters())
        assert not any(module._forward_hooks for module in net.modules())


def test_one_seed_gives_one_result(large: Tensor, network) -> None:
    found = [quick(network(), CAM, large, PATIENTS, seed=seed) for seed in (0, 0, 1)]
    torch.manual_seed(5)
    found.append(quick(network(), CAM, large, PATIENTS))
    plain = [tests.to_json() for tests in found]
    assert plain[0] == plain[1] == plain[3]
    assert found[0].randomisation.stages != found[2].randomisation.stages


def test_batches_do_not_matter_without_batch_norms(large: Tensor, network) -> None:
    net = network("test_vit", image_size=48)
    found = [quick(net, CAM, large, PATIENTS, batch=b) for b in (5, 24)]
    values = [each.randomisation.measures["spearman"].value for each in found]
    assert values[0] == pytest.approx(values[1], abs=0.02)
    areas = [each.insertion.area.value for each in found]
    assert areas[0] == pytest.approx(areas[1], abs=1e-5)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_passes_are_as_many_as_announced(large: Tensor, backbone: str, network) -> None:
    seen, said = [0], []

    def counted(net, batch: Tensor) -> Tensor:
        seen[0] += len(batch)
        return class_map(net, batch, 1)

    net = network(backbone, image_size=48)
    told = {"progress": lambda *numbers: said.append(numbers)}
    found = quick(net, counted, large, PATIENTS, others=[net], permuted=net, **told)
    stages = len(found.randomisation.stages)
    assert found.maps == seen[0] == 24 * (1 + stages + 3 + 1 + 1 + 4)
    assert found.scores == 24 * (6 * 3 + 2)
    done, total = zip(*said, strict=True)
    assert done[-1] == total[0] == total[-1]
    assert list(done) == sorted(done)
    norms = backbone == "test_resnet"
    assert total[0] - found.maps - found.scores == norms * 24 * (stages - 1 + 3)
