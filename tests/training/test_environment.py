"""A run says what its sampler changes."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl

from xray_lightning.cli.build import data_from, task_from
from xray_lightning.cli.config import compose_settings
from xray_lightning.training.environment import (
    compare_prevalence,
    describe_sampling,
    write_environment,
)
from xray_lightning.training.run import log_run

SMALL = ["data.patients=60", "image_size=32", "model=resnet50", "model.backbone=resnet10t"]


def test_uniform_changes_nothing() -> None:
    data = data_from(compose_settings(SMALL)[0])
    assert describe_sampling(data) is None
    assert all(subset == drawn for subset, drawn in compare_prevalence(data).values())


def test_what_a_sampler_changes(tmp_path: Path) -> None:
    config, _ = compose_settings([*SMALL, "sampler=disease_balanced", "sampler.normal_share=0.25"])
    data = data_from(config)
    shares = compare_prevalence(data)
    targets = data.subset_targets("train")
    assert shares["Hernia"][0] == pytest.approx(targets[:, -1].mean())
    assert shares["Hernia"][1] == pytest.approx(data.draw_targets(10)[:, -1].mean())
    assert shares["normal images"][1] == pytest.approx(0.25, abs=0.5 / len(targets))
    line = describe_sampling(data)
    assert line is not None
    name = max(shares, key=lambda name: shares[name][1] / shares[name][0])
    subset, drawn = shares[name]
    assert f"{name} {100 * subset:.1f}% -> {100 * drawn:.1f}%" in line
    write_environment(tmp_path, data, pl.Trainer(accelerator="cpu", logger=False), seed=0)
    facts = json.loads((tmp_path / "environment.json").read_text())
    assert facts["prevalence"] == {name: list(pair) for name, pair in shares.items()}
    assert facts["processes"] == 1


@pytest.mark.parametrize(
    ("overrides", "lines", "warned"),
    [
        (["loss=weighted_bce"], 0, False),
        (["sampler=patient_balanced"], 1, False),
        (["sampler=disease_balanced", "loss=weighted_bce"], 1, True),
    ],
)
def test_the_log(overrides, lines, warned, caplog) -> None:
    config, _ = compose_settings([*SMALL, *overrides])
    data = data_from(config)
    two: Any = SimpleNamespace(world_size=2)
    with caplog.at_level(logging.INFO):
        log_run(data, task_from(config, data), two)
    assert caplog.text.count("the sampler changes the prevalence in training: ") == lines
    assert ("loss: counted on the training set, not on what" in caplog.text) == warned
    assert f"2 processes x {config.batch_size} images a step" in caplog.text
