"""Distance and probes against scipy and scikit-learn, and what a checkpoint keeps of them."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from scipy.special import softmax
from sklearn.covariance import LedoitWolf
from toy import toy_net

from xray_lightning.errors import CheckpointError, ConfigError
from xray_lightning.models import gate as gates
from xray_lightning.models.gate import Gate, choose_limits, fit_gate
from xray_lightning.models.network import XrayNet


@pytest.fixture(scope="module")
def net() -> XrayNet:
    return toy_net(("Mass",)).eval()


@pytest.fixture(scope="module")
def gate(net: XrayNet) -> Gate:
    films = torch.rand(44, 1, 32, 32, generator=torch.Generator().manual_seed(0)).split((24, 20))
    return fit_gate(net, *films, youngest=18.0, views=("AP", "PA"))


def test_distance_is_scipys(rng) -> None:
    """Where all axes are kept they are a rotation, which changes no Ledoit-Wolf distance."""
    plain = rng.normal(size=(60, 12)) @ rng.normal(size=(12, 12)) * np.linspace(0.1, 9, 12) + 3
    centre, axes = gates.fit_distance(plain, np.concatenate([plain, plain[:, ::-1]]))
    scaled = plain / plain.std(axis=0)
    precision = np.linalg.inv(LedoitWolf().fit(scaled).covariance_)
    wanted = [mahalanobis(row, scaled.mean(axis=0), precision) for row in scaled]
    np.testing.assert_allclose(np.linalg.norm((plain - centre) @ axes, axis=1), wanted, rtol=1e-6)


def test_log_odds_are_those_of_a_softmax(gate: Gate, net: XrayNet) -> None:
    with torch.no_grad():
        films = torch.rand(5, 1, 32, 32)
        _, features = gates.run_watched(net, gate.layer, films)
        torch.testing.assert_close(gates.run_to(net, gate.layer, films), features, rtol=0, atol=0)
    _, odds, kinds = gate.check(features)
    logits = ((features - gate.centre) @ gate.axes @ gate.weights + gate.bias).numpy()
    shares = softmax(logits.astype(float), axis=1)
    np.testing.assert_allclose(1 / (1 + np.exp(-odds)), 1 - shares[:, 0], rtol=1e-4, atol=1e-9)
    assert kinds == [gate.kinds[1 + row.argmax()] for row in shares[:, 1:]]


def test_limits() -> None:
    """At 5 % five of 99 films may reach a limit, two of 39: of 40 each left out, two are above."""
    rising = np.arange(99.0)[:, None]
    assert choose_limits(np.hstack([rising, rising]), 0.05) == [94, 94]
    apart = np.hstack([rising, -rising])[:40]  # two checks that never agree
    limits = [choose_limits(np.delete(apart, one, axis=0), 0.05) for one in range(40)]
    assert (apart > limits).any(axis=1).sum() == 2
    assert choose_limits(rising[:9], 0.05) == [8]  # too few: none of them is above


def test_changes(rng) -> None:
    film = torch.arange(64.0).reshape(1, 8, 8) / 63
    changed = {name: change(film, rng) for name, change in gates.CHANGES.items()}
    assert all(picture.shape == film.shape for picture in changed.values())
    assert all(0 <= picture.min() <= picture.max() <= 1 for picture in changed.values())
    pixels = film[0].numpy()
    for name, wanted in {
        "mirrored": pixels[:, ::-1],
        "turned a quarter to the left": np.rot90(pixels),
        "turned upside down": pixels[::-1, ::-1],
        "turned a quarter to the right": np.rot90(pixels, -1),
        "inverted": 1 - pixels,
    }.items():
        np.testing.assert_array_equal(changed[name][0], wanted)


def test_it_is_told_and_read_again(gate: Gate) -> None:
    again = Gate.from_plain(gate.to_plain())
    assert again.to_json() == gate.to_json()
    assert torch.equal(again.axes, gate.axes)
    assert (gate.films, gate.validation, gate.layer) == (24, 20, "backbone.layer2")
    assert (again.kinds, again.views, again.youngest) == (gate.kinds, ("AP", "PA"), 18.0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"new": 1}, "of another version"),
        ({"centre": torch.full((3,), torch.nan)}, "NaN or infinite"),
        ({"axes": [1.0]}, "NaN or infinite"),
        ({"bias": torch.zeros(3)}, "do not fit"),
        ({"centre": torch.zeros(3)}, "do not fit"),
        ({"limit": "9"}, "limit"),
    ],
)
def test_damaged(change, named: str, gate: Gate) -> None:
    with pytest.raises(CheckpointError, match=named):
        Gate.from_plain(gate.to_plain() | change)


def test_what_cannot_be_fitted(net: XrayNet, monkeypatch: pytest.MonkeyPatch) -> None:
    films = torch.rand(16, 1, 32, 32)
    for rate in (0.0, 1.0):
        with pytest.raises(ConfigError, match=f"above 0 and below 1, got {rate}"):
            fit_gate(net, films, films, false_alarms=rate)
    for train, held in ((15, 16), (16, 0)):
        with pytest.raises(ConfigError, match=f"got {train} training and {held} validation films"):
            fit_gate(net, films[:train], films[:held])
    monkeypatch.setattr(net.backbone, "feature_info", [])
    with pytest.raises(ConfigError, match="test_resnet: timm lists no stages"):
        fit_gate(net, films, films)
