from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from xray_lightning import Box, ConfigError, Record, Source
from xray_lightning.data.geometry import fit_square
from xray_lightning.explain import localisation
from xray_lightning.explain.localisation import AnnotatedMaps, centre_gaussian, control_maps
from xray_lightning.explain.maps import shrink
from xray_lightning.explain.overlays import exact_masks, find_boxed, square_mask
from xray_lightning.metrics.localisation import region_of

SIZE = 48
MAPS = np.zeros((2, 3, 3), np.float32)
BOXES = [[(0, 0, 4, 4)], [(1, 1, 4, 4)]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": np.arange(2)[:, None, None] * np.ones((2, 8, 8)) > 0}, "a mask is empty"),
        ({"maps": {"cam": MAPS + np.float32(np.nan)}}, "maps of 'cam' must be finite, 18 values"),
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


def test_controls(annotated) -> None:
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


def test_each_resolution_has_its_ceiling(annotated) -> None:
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
    found = localisation.mean_of_others(maps, patients)
    for row, patient in enumerate(patients):
        others = maps[[each != patient for each in patients]]
        assert found[row] == pytest.approx(others.mean(axis=0))


def test_mean_box_of_given_boxes_and_of_one_patient(annotated) -> None:
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


@pytest.mark.parametrize("shape", [(48, 48), (96, 96), (90, 61), (41, 96)])
def test_a_mask_lies_on_the_square_where_its_image_does(shape: tuple[int, int]) -> None:
    mask = np.zeros(shape, np.bool_)
    mask[10:30, 5:36] = True
    wanted = fit_square(mask.astype(np.uint8) * 255, SIZE)
    square = square_mask(mask, SIZE)
    assert np.abs(wanted[square != (wanted > 127)].astype(int) - 128).max(initial=0) < 2  # halves


def test_masks_that_are_small_or_empty() -> None:
    point = np.zeros((960, 960), np.bool_)
    point[481, 13] = True
    small = square_mask(point, SIZE)
    assert np.argwhere(small).tolist() == [[24, 0]]
    told_absent = square_mask(np.zeros((9, 5), np.bool_), SIZE)
    assert not told_absent.any()


def test_places_of_sets_with_masks_some_masks_and_boxes_of_readers() -> None:
    class Halves(Source):
        def mask(self, record: Record, label: str) -> Any:
            return np.eye(SIZE) > 0 if record.image_id in self.name else None

    boxes = (Box("Mass", 0, 0, 4, 4, "R1"), Box("Mass", 0, 0, 5, 4, "R2"), Box("Edema", 1, 1, 2, 2))
    records = [Record(name, name, (1.0, 0.0), boxes=boxes) for name in "ab"]
    places = [[(0.0, 0.0, 4.0, 4.0)], [(1.0, 1.0, 4.0, 4.0)]]
    source = Halves()
    source.name = "ab"
    masks, place = exact_masks(source, records, "Mass", places, SIZE)
    assert masks is not None
    assert (masks == np.eye(SIZE)).all()
    assert place == "its exact mask"
    source.name = "b"
    masks, place = exact_masks(source, records, "Mass", places, SIZE)
    assert masks is not None
    assert (masks == [region_of(places[0], SIZE), np.eye(SIZE)]).all()
    assert place == "its exact mask in 1 of 2 images, else the union of its boxes"
    masks, place = exact_masks(Source(), records, "Mass", places, SIZE)
    assert masks is None
    assert place.startswith("the union of its boxes by up to 2 readers an image, each box")
    assert exact_masks(Source(), records, "Edema", places, SIZE) == (None, "the union of its boxes")


def test_a_readers_box_counts_where_the_target_is_not_0() -> None:
    drawn, own = Box("Mass", 0, 0, 4, 4, "R1"), Box("Mass", 0, 0, 4, 4)
    cases = [(1.0, drawn), (0.0, drawn), (1 / 3, drawn), (np.nan, drawn), (0.0, own)]
    records = [Record(str(i), str(i), (0.0, t), boxes=(b,)) for i, (t, b) in enumerate(cases)]
    data: Any = SimpleNamespace(labels=("Edema", "Mass"), subset_records=lambda _: records)
    assert find_boxed(data, "test") == [(0, "Mass"), (2, "Mass"), (3, "Mass"), (4, "Mass")]
