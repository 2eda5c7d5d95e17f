from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from xray_lightning.errors import ConfigError
from xray_lightning.explain.annotated import (
    AnnotatedMaps,
    centre_gaussian,
    control_maps,
    mean_of_others,
)
from xray_lightning.explain.grid import shrink
from xray_lightning.metrics.localisation import region_of

SIZE = 48
MAPS = np.zeros((2, 3, 3), np.float32)
BOXES = [[(0, 0, 4, 4)], [(1, 1, 4, 4)]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patients": ["a"]}, r"2 images with boxes need 2 of everything, got {'patients': 1}"),
        ({"maps": {"cam": MAPS[:1]}}, "got {'cam': 1}"),
        ({"masks": np.ones((3, 8, 8), bool)}, "got {'masks': 3}"),
        ({"boxes": [[(0, 0, 4, 4)], []]}, r"images without a box cannot be scored: .* \[1\]"),
        ({"masks": np.arange(2)[:, None, None] * np.ones((2, 8, 8)) > 0}, "a mask is empty"),
        ({"maps": {"random": MAPS}}, "'random' is the name of a control"),
        ({"maps": {"ceiling 7x7": MAPS}}, "'ceiling 7x7' is the name of a control"),
        (
            {"maps": {"cam": MAPS + np.float32(np.nan)}},
            "maps of 'cam' must be finite float32 .* with 18 values",
        ),
        ({"maps": {"cam": MAPS[..., 0]}}, r"of shape \(N, h, w\), got float32 \(2, 3\)"),
        ({"maps": {"cam": MAPS.astype(float)}}, "must be finite float32 .* got float64"),
    ],
)
def test_what_cannot_be_scored(change: dict[str, object], message: str) -> None:
    good = AnnotatedMaps({"cam": MAPS}, BOXES, ["a", "b"])
    with pytest.raises(ConfigError, match=message):
        replace(good, **change)


def test_the_place_is_the_mask_where_there_is_one() -> None:
    plain = AnnotatedMaps({"cam": MAPS}, BOXES, ["a", "b"])
    assert (plain.regions(8)[1] == region_of(BOXES[1], 8)).all()
    masks = np.random.default_rng(0).random((2, 8, 8)) > 0.5
    assert replace(plain, masks=masks).regions(8) is masks
    with pytest.raises(ConfigError, match=r"masks must be 16 px square, got \(8, 8\)"):
        replace(plain, masks=masks).regions(16)


def test_controls(annotated: Callable[..., AnnotatedMaps]) -> None:
    chosen = annotated(6)
    controls = control_maps(chosen, SIZE, [1, 2], 0.2, None)
    again = control_maps(chosen, SIZE, [1, 2], 0.2, None)
    other = control_maps(chosen, SIZE, [1, 3], 0.2, None)
    assert set(controls) == {"random", "centre", "mean box", "ceiling"}
    assert {maps.shape for maps in controls.values()} == {(6, 16, 16)}
    assert (controls["random"] == again["random"]).all()
    assert (controls["random"] != other["random"]).any()
    for row, boxes in enumerate(chosen.boxes):
        assert (controls["ceiling"][row] == shrink(region_of(boxes, SIZE), (16, 16))).all()


def test_each_resolution_has_its_ceiling(annotated: Callable[..., AnnotatedMaps]) -> None:
    chosen = annotated(4)
    fine = np.zeros((4, 24, 16), np.float32)
    both = replace(chosen, maps={**chosen.maps, "gradient": fine})
    controls = control_maps(both, SIZE, [0], 0.25, None)
    assert controls["ceiling"].shape == (4, 16, 16)
    assert controls["ceiling 24x16"].shape == fine.shape
    assert controls["random"].shape == (4, 16, 16)


def test_mean_box_leaves_the_own_patient_out() -> None:
    maps = np.random.default_rng(0).random((5, 3, 2), dtype=np.float32)
    patients = ["b", "a", "b", "c", "a"]
    found = mean_of_others(maps, patients)
    for row, patient in enumerate(patients):
        others = maps[[each != patient for each in patients]]
        assert found[row] == pytest.approx(others.mean(axis=0))


def test_mean_box_of_given_boxes_and_of_one_patient(
    annotated: Callable[..., AnnotatedMaps],
) -> None:
    alone = annotated(2)
    assert "mean box" not in control_maps(alone, SIZE, [0], 0.25, None)
    others = [[(0.0, 0.0, 48.0, 24.0)], [(0.0, 0.0, 24.0, 48.0)]]
    found = control_maps(alone, SIZE, [0], 0.25, others)["mean box"]
    quarters = np.repeat(np.repeat([[1, 0.5], [0.5, 0]], 8, axis=0), 8, axis=1)
    assert np.allclose(found, quarters)


def test_centre_gaussian() -> None:
    heat = centre_gaussian((4, 10), 40, 0.25)
    assert heat.shape == (4, 10)
    assert heat[1, 4] == pytest.approx(np.exp(-(0.125**2 + 0.05**2) / (2 * 0.25**2)))
    assert np.allclose(heat, heat[::-1, ::-1])
    with pytest.raises(ConfigError, match="sigma must be a positive share of the image's side"):
        centre_gaussian((4, 4), 40, 0)
