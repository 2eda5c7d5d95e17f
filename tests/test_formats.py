"""Settings of format 1 name today's classes after they were read."""

import pytest

import xray_lightning
from xray_lightning.formats import TARGETS, upgrade_settings


@pytest.mark.parametrize("name", sorted(set(TARGETS.values())))
def test_today_has_every_class(name: str) -> None:
    assert name.removeprefix("xray_lightning.") in xray_lightning.__all__


def test_targets_at_any_depth_and_nothing_else() -> None:
    old = {"a": [{"_target_": "xray_lightning.losses.BCE", "x": 1}], "b": "xray_lightning.task"}
    new = {"a": [{"_target_": "xray_lightning.BCE", "x": 1}], "b": "xray_lightning.task"}
    assert upgrade_settings(old) == new
    assert upgrade_settings(new) == new
