"""The gate of a run: fitted at its end, on each checkpoint's own weights, and changing nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from xray_lightning import ConfigError, FitGate, XrayDataModule, load_checkpoint
from xray_lightning.training.callbacks.gate import draw_films

Fit = Callable[..., Any]


def test_it_is_stored(fit: Fit, data: XrayDataModule) -> None:
    """With it the weights and torch's random state are those of a run without."""
    records = data.subset_records("train")
    runs = [fit(*callbacks, name=str(len(callbacks)))[1] for callbacks in ([], [FitGate(0.1)])]
    states = [load_checkpoint(run / "last.ckpt") for run in runs]
    assert states[0].weights_sha256 == states[1].weights_sha256
    assert states[0].gate is None
    for name in ("weights.ckpt", "last.ckpt"):
        gate = load_checkpoint(runs[1] / name).gate
        assert gate is not None
        assert gate.youngest == min(record.age for record in records)
        assert (gate.films, gate.false_alarms) == (len(records), 0.1)
    fit(FitGate(0.1), name="1", resume=runs[1] / "last.ckpt")  # a gate does not stop a resume


def test_the_random_state_stays(data: XrayDataModule, fit: Fit) -> None:
    task, folder = fit()
    before = torch.get_rng_state()
    FitGate().store([folder / "last.ckpt"], task, data)
    assert torch.equal(torch.get_rng_state(), before)


def test_films_are_capped(data: XrayDataModule) -> None:
    drawn = [draw_films(data, "train", 5, np.random.default_rng(1)) for _ in range(2)]
    assert drawn[0].shape == (5, 1, 32, 32)
    assert torch.equal(drawn[0], drawn[1])


def test_other_networks_have_none(fit: Fit, data: XrayDataModule) -> None:
    task, _ = fit()
    task.net = torch.nn.Linear(1, 1)
    with pytest.raises(ConfigError, match="Linear is no XrayNet"):
        FitGate().store([], task, data)


@pytest.mark.parametrize(
    ("settings", "named"), [({"films": 15}, "films"), ({"false_alarms": 1}, "1")]
)
def test_settings(settings, named) -> None:
    with pytest.raises(ConfigError, match=named):
        FitGate(**settings)
