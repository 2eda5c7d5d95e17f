"""Heads against their papers' formulas, written with loops, and against timm's ML-Decoder."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import expit, logsumexp, softmax
from scipy.stats import pmean
from timm.layers.ml_decoder import MLDecoder
from torch import Tensor, nn

from xray_lightning.errors import ConfigError
from xray_lightning.models.heads import HEADS, make_head

CHANNELS, LABELS, HEIGHT, WIDTH = 6, 3, 2, 5
OPTIONS: dict[str, dict[str, object]] = {
    "average": {},
    "max": {},
    "gem": {"power": 2.5},
    "lse": {"sharpness": 4.0},
    "attention": {"hidden": 7, "gated": True},
    "pcam": {},
    "csra": {"temperatures": [1.0, 3.0, 99], "residual": 0.4},
    "query": {"width": 8, "attention_heads": 2, "feedforward": 10},
}
Array = np.ndarray


def new_head(name: str, **options):
    """A head in evaluation mode, with biases that are not 0."""
    torch.manual_seed(1)
    head = make_head(name, CHANNELS, LABELS, options=OPTIONS[name] | options)
    for key, parameter in head.named_parameters():
        if key.endswith("bias"):
            nn.init.normal_(parameter)
    return head.double().eval()


def new_features(*, positive: bool = False, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    shape = (batch, CHANNELS, HEIGHT, WIDTH)
    features = torch.randn(shape, generator=generator, dtype=torch.float64)
    return features.abs() + 0.01 if positive else features


def array(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach())


def classified(head, pooled) -> Array:
    return array(head.classifier.weight) @ np.array(pooled) + array(head.classifier.bias)


def naive_attention(head, places: Array) -> Array:
    content, gate, score = (array(m.weight) for m in (head.content, head.gate, head.score))
    logits = []
    for label in range(LABELS):
        raw = [score[label] @ (np.tanh(content @ x) * expit(gate @ x)) for x in places]
        pooled = sum(a * x for a, x in zip(softmax(np.array(raw)), places, strict=True))
        logits.append(array(head.classifier.weight)[label] @ pooled)
    return np.array(logits) + array(head.classifier.bias)


def naive_pcam(head, places: Array) -> Array:
    logits = []
    for w, b in zip(array(head.classifier.weight), array(head.classifier.bias), strict=True):
        probability = expit(places @ w + b)
        pooled = (probability[:, None] * places).sum(0) / probability.sum()
        logits.append(w @ pooled + b)
    return np.array(logits)


def naive_csra(head, places: Array) -> Array:
    logits = np.zeros(LABELS)
    for layer, t in zip(head.classifiers, head.temperatures, strict=True):
        for label, w in enumerate(array(layer.weight)):
            s = places @ w / math.sqrt(sum(w**2))
            attended = s.max() if t == 99 else (softmax(t * s) * s).sum()
            logits[label] += s.mean() + head.residual * attended
    return logits


def naive_lse(head, places: Array) -> Array:
    r, s = head.sharpness, len(places)
    return classified(head, logsumexp(r * places, axis=0, b=1 / s) / r)


NAIVE: dict[str, Callable[[object, Array], Array]] = {  # of one image, places (H * W, C)
    "average": lambda head, places: classified(head, places.mean(0)),
    "max": lambda head, places: np.max([classified(head, place) for place in places], axis=0),
    "gem": lambda head, places: classified(head, pmean(places, head.power.item(), axis=0)),
    **{"lse": naive_lse, "attention": naive_attention, "pcam": naive_pcam, "csra": naive_csra},
}


@pytest.mark.parametrize("name", NAIVE)
def test_formula(name: str) -> None:
    head, features = new_head(name), new_features(positive=name == "gem")
    places = array(features.flatten(2).transpose(1, 2))
    expected = np.stack([NAIVE[name](head, image) for image in places])
    np.testing.assert_allclose(array(head(features)), expected, rtol=1e-9)


def test_attention_without_gate() -> None:
    """Equation 8 is equation 9 with every gate at the same value, up to a factor of the scores."""
    plain, gated = new_head("attention", gated=False), new_head("attention")
    assert plain.gate is None
    gated.load_state_dict(plain.state_dict() | {"gate.weight": torch.zeros(7, CHANNELS)})
    gated.score.weight.data *= 2  # expit(0) = 1/2
    torch.testing.assert_close(plain(new_features()), gated(new_features()))


def test_query_is_the_ml_decoder_of_timm() -> None:
    head = new_head("query", width=16)
    reference = MLDecoder(LABELS, decoder_embedding=16, initial_num_features=CHANNELS)
    layer = reference.decoder.layers[0]
    layer.multihead_attn = nn.MultiheadAttention(16, 2)  # timm always has 8 heads
    layer.linear1, layer.linear2 = nn.Linear(16, 10), nn.Linear(10, 16)
    pairs = [
        (reference.embed_standart, head.embedding),
        (layer.multihead_attn, head.attention),
        (layer.linear1, head.expand),
        (layer.linear2, head.contract),
        *zip((layer.norm1, layer.norm2, layer.norm3), head.norms, strict=True),
    ]
    reference.double().eval()
    for theirs, ours in pairs:
        theirs.load_state_dict(ours.state_dict())
    features = new_features()
    memory = torch.relu(reference.embed_standart(features.flatten(2).permute(2, 0, 1)))
    asked = layer(head.queries[:, None].expand(-1, len(features), -1), memory)  # (L, B, D)
    reference.duplicate_pooling.data[:] = head.classifier.weight.data[:, :, None]
    expected = torch.einsum("lbd,ldg->bl", asked, reference.duplicate_pooling)
    torch.testing.assert_close(head(features), expected + head.classifier.bias)


def test_maps_of_query_are_softmax_of_scaled_products() -> None:
    head, features = new_head("query", attention_heads=1), new_features(batch=1)
    assert "queries" in head.state_dict().keys() - dict(head.named_parameters()).keys(), "fixed"
    places = torch.relu(head.embedding(features[0].flatten(1).T))
    asked = head.norms[0](2 * head.queries)
    weight, bias = head.attention.in_proj_weight.chunk(3), head.attention.in_proj_bias.chunk(3)
    keys, queries = places @ weight[1].T + bias[1], asked @ weight[0].T + bias[0]
    expected = (queries @ keys.T / math.sqrt(8)).softmax(dim=1).reshape(1, LABELS, HEIGHT, WIDTH)
    torch.testing.assert_close(head.maps(features), expected)


@pytest.mark.parametrize("name", ["average", "max", "lse", "pcam"])
def test_class_activation_maps(name: str) -> None:
    head, features = new_head(name), new_features()
    for row, column in np.ndindex(HEIGHT, WIDTH):
        there = head.classifier(features[:, :, row, column])
        torch.testing.assert_close(head.maps(features)[:, :, row, column], there)


def weighted(maps: Tensor) -> Tensor:
    return (maps * maps.sigmoid()).sum(dim=(2, 3)) / maps.sigmoid().sum(dim=(2, 3))


@pytest.mark.parametrize(
    ("name", "options", "reduce"),
    [
        *((name, {}, partial(torch.mean, dim=(2, 3))) for name in ("average", "gem")),
        ("csra", {"residual": 0}, partial(torch.mean, dim=(2, 3))),
        ("max", {}, partial(torch.amax, dim=(2, 3))),
        ("pcam", {}, weighted),
    ],
)
def test_the_logit_is_what_its_map_comes_to(name, options, reduce) -> None:
    head, features = new_head(name, **options), new_features()  # gem: negative features too
    torch.testing.assert_close(head(features), reduce(head.maps(features)))


@pytest.mark.parametrize("name", ["attention", "query"])
def test_attention_sums_to_one(name: str) -> None:
    maps = new_head(name).maps(new_features())
    assert (maps >= 0).all()
    torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones(2, LABELS, dtype=torch.float64))
    assert maps.std(dim=(2, 3)).min() > 1e-3  # it does look somewhere
    assert (maps[:, 0] - maps[:, 1]).abs().max() > 1e-3  # and each label elsewhere


@pytest.mark.parametrize("name", HEADS)
def test_a_map_for_each_label_moves_with_the_features(name: str) -> None:
    head, features = new_head(name), new_features(batch=4)
    assert head.maps(features).shape == (4, LABELS, HEIGHT, WIDTH)
    torch.testing.assert_close(head(features), head(features.flip(2, 3)))
    torch.testing.assert_close(head.maps(features.flip(3)), head.maps(features).flip(3))


def test_generalised_mean_does_not_overflow() -> None:
    features = new_features(positive=True)
    most, peak = new_head("gem", power=3000).pool(features), features.amax(dim=(2, 3))
    torch.testing.assert_close(most, peak, rtol=1e-2, atol=0)
    features = (1000 * features).float().requires_grad_()
    pooled = new_head("gem", power=50).float().pool(features)
    pooled.sum().backward()
    assert torch.isfinite(pooled).all()
    assert torch.isfinite(features.grad).all()


def test_gradient_of_the_generalised_mean() -> None:
    """The largest value is a constant for autograd, which must change nothing."""
    head = new_head("gem")

    def pool(features: Tensor, power: Tensor):
        return torch.func.functional_call(head, {"power": power}, (features,))

    inputs = new_features(positive=True).requires_grad_(), head.power
    assert torch.autograd.gradcheck(pool, inputs)


def test_log_sum_exp_between_mean_and_maximum() -> None:
    features = new_features()
    mean, peak = features.mean(dim=(2, 3)), features.amax(dim=(2, 3))
    low, high = (new_head("lse", sharpness=r).pool(features) for r in (1e-4, 1e4))
    torch.testing.assert_close(low, mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(high, peak, rtol=0, atol=1e-3)
    pooled = new_head("lse", sharpness=10.0).pool(torch.tensor([[[[0.0, 900.0]]]]))
    assert pooled.item() == pytest.approx(900 - math.log(2) / 10, rel=1e-6)  # no overflow


def test_pcam_where_every_probability_underflows() -> None:
    head, features = new_head("pcam").float(), new_features().float()
    head.classifier.bias.data -= 200  # sigmoid is 0 in float32; the weights then follow exp(w x)
    maps = head.maps(features)
    expected = (maps * maps.flatten(2).softmax(dim=2).reshape(maps.shape)).sum(dim=(2, 3))
    torch.testing.assert_close(head(features), expected)


def test_a_hot_csra_attends_to_the_maximum() -> None:
    hot, peak = (new_head("csra", temperatures=[t]) for t in (1e6, 99))
    torch.testing.assert_close(hot(new_features()), peak(new_features()))


@pytest.mark.parametrize("name", HEADS)
def test_gradient_reaches_every_parameter(name: str) -> None:
    head = new_head(name).train()
    features = new_features(positive=True).requires_grad_()
    head(features).square().sum().backward()
    for key, parameter in head.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().max() > 1e-9, key
    assert features.grad.abs().max() > 0


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("name", HEADS)
def test_dropout_acts_in_training_only(name: str, dropout: float) -> None:
    torch.manual_seed(0)
    head = make_head(name, CHANNELS, LABELS, dropout=dropout, options=OPTIONS[name])
    features = new_features(positive=True).float()
    same = all(torch.equal(head(features), head(features)) for _ in range(4))
    assert same == (dropout == 0)
    head.eval()
    assert torch.equal(head(features), head(features))


@pytest.mark.parametrize("name", ["average", "max", "csra"])
def test_dropout_keeps_the_expected_logit(name: str) -> None:
    """Whole channels are dropped; a map of one place leaves the logit linear in them."""
    head = make_head(name, CHANNELS, LABELS, dropout=0.3, options=OPTIONS[name])
    features = new_features(batch=1)[:, :, :1, :1].float()
    torch.manual_seed(0)
    with torch.no_grad():
        trained = head(features.expand(20_000, -1, -1, -1)).mean(dim=0)
        torch.testing.assert_close(trained, head.eval()(features)[0], rtol=0, atol=0.05)


def test_every_head_has_a_default() -> None:
    assert set(OPTIONS) == set(HEADS)
    for name in HEADS:
        assert make_head(name, CHANNELS, LABELS)(torch.rand(1, CHANNELS, 1, 1)).shape == (1, LABELS)
        assert make_head(name, CHANNELS, LABELS, options={}).__doc__ != nn.Module.__doc__


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("avg", {}, r"model\.head must be one of \['attention', 'average', .*got 'avg'"),
        ("average", {"r": 1}, r"head 'average' has no \['r'\]; it takes no options"),
        ("gem", {"p": 1}, r"model\.head_options: the head 'gem' has no \['p'\]; it takes \['power"),
        ("csra", {"dropout": 0.1}, r"'csra' has no \['dropout'\]; .*\['temperatures', 'residual'"),
        ("gem", "power", r"head_options must be a mapping of options, got 'power'"),
        ("gem", {"power": 0}, r"head_options\.power must be a number above 0, got 0"),
        ("lse", {"sharpness": math.inf}, r"sharpness must be a number above 0, got inf"),
        ("attention", {"hidden": 0}, r"hidden must be an integer of at least 1, got 0"),
        ("attention", {"gated": "yes"}, r"gated must be true or false, got 'yes'"),
        ("csra", {"temperatures": []}, r"must be a list of one number or more, got \[\]"),
        ("csra", {"temperatures": "99"}, r"must be a list of one number or more, got '99'"),
        ("csra", {"temperatures": [1, 0]}, r"temperatures must be a number above 0, got 0"),
        ("csra", {"residual": -0.1}, r"residual must be a number of at least 0, got -0\.1"),
        ("query", {"width": 10}, r"width=10 is no multiple of attention_heads=8"),
        ("query", {"attention_heads": 0}, r"attention_heads must be an integer of at least 1"),
        ("query", {"feedforward": -1}, r"feedforward must be an integer of at least 1, got -1"),
    ],
)
def test_what_cannot_work(name: str, options, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make_head(name, CHANNELS, LABELS, options=options)
