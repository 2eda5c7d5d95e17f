import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from xray_lightning import Box, ConfigError, Record, Source, enlarge
from xray_lightning.data.geometry import fit_square
from xray_lightning.explain import localisation
from xray_lightning.explain.localisation import CONTROLS, Localisation, control_maps, tune_reference
from xray_lightning.explain.maps import shrink
from xray_lightning.explain.overlays import exact_masks, find_boxed, square_mask
from xray_lightning.metrics.localisation import WANG, pointing_game, region_of, tune_threshold

SIZE = 48
localise = partial(localisation.evaluate_localisation, size=SIZE, draws=9)


def value(facts: Localisation, method: str, name: str, *over: str, label: str = "Mass") -> float:
    found = getattr(facts.labels[label].methods[method], name)
    return (found[over[0]] if over else found).value


def test_plain_values_in_the_stated_form(annotated) -> None:
    facts = localise({"Mass": annotated(24)}, draws=50)
    plain = json.loads(json.dumps(facts.to_json(), allow_nan=False))
    assert Localisation.from_json(plain).to_json() == plain == facts.to_json()
    label = facts.labels["Mass"]
    assert (label.images, label.patients, label.boxes) == (24, 12, 24)
    assert (label.area, label.note) == (pytest.approx(annotated(24).regions(SIZE).mean()), "")
    assert list(label.methods) == ["sees", "blind", *CONTROLS]
    overlaps = [f"0.{tenth}" for tenth in range(1, 10)]
    for found in label.methods.values():
        assert all(list(getattr(found, name)) == overlaps for name in ("t_iou", "t_iobb", "afp"))
        for name in ("pointing_game", "energy", "average_precision", "centre", "iou", "iobb"):
            estimate = getattr(found, name)
            assert np.isnan(estimate.low) or estimate.low < estimate.value < estimate.high
    assert label.methods["ceiling"].pointing_game.to_json() == {"value": 1, "interval": None}
    assert facts.thresholds["Mass"]["random"] == localisation.Threshold(list(WANG), "stated")
    assert facts.settings.mean_box == {"Mass": "scored images of other patients"}


def test_figures_are_means_over_images(annotated) -> None:
    chosen = annotated(24)
    pairs = zip(chosen.maps["sees"], chosen.boxes, strict=True)
    hits = [pointing_game(enlarge(heat, SIZE), region_of(own, SIZE)) for heat, own in pairs]
    pointed = value(localise({"Mass": chosen}), "sees", "pointing_game")
    assert pointed == pytest.approx(np.mean(hits))


def test_boxes_count_one_by_one(annotated) -> None:
    chosen = annotated(12, images=1)
    corner = [(0.0, 0.0, 1.0, 1.0)] * 3  # never found
    boxes = [[*own, *corner[: row % 2 * 3]] for row, own in enumerate(chosen.boxes)]
    both = chosen, replace(chosen, boxes=boxes)
    few, many = (localise({"Mass": each}, threshold=[0.6], draws=9) for each in both)
    assert many.labels["Mass"].boxes == 12 + 18
    ratio = value(many, "sees", "t_iou", "0.1") / value(few, "sees", "t_iou", "0.1")
    assert ratio == pytest.approx(12 / 30)


def test_a_map_that_sees_beats_the_controls_and_the_ceiling_beats_it(annotated) -> None:
    facts = localise({"Mass": annotated(60)}, draws=20)
    for name in ("pointing_game", "energy", "average_precision"):
        figures = {method: value(facts, method, name) for method in ("sees", "blind", *CONTROLS)}
        assert figures["ceiling"] == max(figures.values())
        assert figures["sees"] > max(figures[each] for each in ("blind", *CONTROLS[:3]))


def test_a_random_map_points_by_chance(annotated) -> None:
    facts = localise({"Mass": annotated(600)}, draws=200)
    area = facts.labels["Mass"].area
    figures = ("pointing_game", "random"), ("pointing_game", "blind"), ("energy", "random")
    for name, method in figures:
        estimate = getattr(facts.labels["Mass"].methods[method], name)
        assert estimate.low < area < estimate.high
        assert estimate.high - estimate.low < 0.07


def test_intervals_are_of_patients(annotated) -> None:
    """Twenty copies of each image say no more than one."""
    once = annotated(30, images=1)
    row = np.repeat(np.arange(30), 20)
    copies = localisation.AnnotatedMaps(
        {name: maps[row] for name, maps in once.maps.items()},
        [once.boxes[each] for each in row],
        [once.patients[each] for each in row],
    )
    pairs = [localise({"Mass": each}, draws=200) for each in (once, copies)]
    first, second = (each.labels["Mass"].methods["sees"].iou for each in pairs)
    assert first.value == pytest.approx(second.value)
    assert first.interval == pytest.approx(second.interval)


def test_too_few(annotated) -> None:
    scored = {"Mass": annotated(24), "Nodule": annotated(18, seed=1)}  # 12 and 9 patients
    facts = localise(scored, draws=40)
    few = facts.labels["Nodule"]
    assert few.note == "too few: fewer than 10 images or patients, no interval"
    assert few.methods["sees"].iou.value > 0
    assert np.isnan(few.methods["sees"].iou.low)
    assert np.isfinite(facts.labels["Mass"].methods["sees"].iou.low)
    assert facts.mean.note == "no interval: too few images or patients of Nodule"
    assert np.isnan(facts.mean.methods["sees"].iou.low)


def test_mean_over_labels(annotated) -> None:
    scored = {"Mass": annotated(24), "Nodule": annotated(40, seed=1)}
    scored["Hernia"] = annotated(2, seed=2)
    facts = localise(scored, draws=20)
    assert facts.mean.labels == 3
    other_way = localise(dict(reversed(scored.items())), draws=20)
    assert list(other_way.mean.methods) == list(facts.mean.methods), "Hernia has no mean box"
    for method, labels in (("sees", [*scored]), ("mean box", ["Mass", "Nodule"])):
        found = facts.mean.methods[method]
        assert found.labels == len(labels)
        values = [value(facts, method, "t_iobb", "0.3", label=label) for label in labels]
        assert found.t_iobb["0.3"].value == pytest.approx(np.mean(values))
    del scored["Hernia"]
    iou = localise(scored, draws=50).mean.methods["sees"].iou
    assert iou.low < iou.value < iou.high


def test_labels_do_not_move_each_other(annotated) -> None:
    alone = localise({"Mass": annotated(24)})
    both = localise({"Nodule": annotated(10, seed=3), "Mass": annotated(24)})
    assert value(alone, "random", "iou") == value(both, "random", "iou")


def test_maps_without_energy_are_counted(annotated) -> None:
    chosen = annotated(24)
    dark = chosen.maps["sees"].copy()
    dark[:5] -= 10
    facts = localise({"Mass": replace(chosen, maps={"cam": dark})})
    assert facts.labels["Mass"].methods["cam"].without_energy == 5
    rest = replace(chosen, boxes=chosen.boxes[5:], patients=chosen.patients[5:])
    lit = localise({"Mass": replace(rest, maps={"cam": dark[5:]})})
    assert value(facts, "cam", "energy") == pytest.approx(value(lit, "cam", "energy"))
    nothing = localise({"Mass": replace(chosen, maps={"cam": -np.abs(dark) - 1})})
    assert np.isnan(value(nothing, "cam", "energy"))


def test_masks_and_tolerance(annotated) -> None:
    chosen = annotated(24)
    masks = np.zeros((24, SIZE, SIZE), bool)
    masks[:, 40:, 40:] = True  # far from every box
    masked = localise({"Mass": replace(chosen, masks=masks)})
    plain = localise({"Mass": chosen})
    assert value(masked, "sees", "energy") < value(plain, "sees", "energy") / 2
    assert value(masked, "sees", "iou") == value(plain, "sees", "iou")
    assert value(masked, "ceiling", "pointing_game") == 1
    wide = localise({"Mass": replace(chosen, masks=masks)}, tolerance=80)
    assert value(wide, "sees", "pointing_game") == 1


def test_thresholds_are_tuned_on_other_patients(annotated) -> None:
    validation, scored = annotated(24, seed=5, first=100), annotated(24)
    reference = tune_reference({"Mass": validation, "Hernia": annotated(4, first=200)}, size=SIZE)
    for method in ("sees", "blind"):
        best = tune_threshold(enlarge(validation.maps[method], SIZE), validation.boxes)
        assert reference.shares["Mass", method] == best
    assert {label for label, _ in reference.shares} == {"Mass"}, "too few boxes of Hernia"
    facts = localise({"Mass": scored, "Hernia": scored}, reference=reference)
    assert facts.thresholds["Mass"]["sees"] == localisation.Threshold(
        [reference.shares["Mass", "sees"]], "tuned on 24 reference images"
    )
    assert facts.thresholds["Hernia"]["sees"].source == "stated"
    assert facts.settings.mean_box["Mass"] == "reference images"
    assert facts.settings.mean_box["Hernia"] == "scored images of other patients"
    stated = localise({"Mass": scored})
    assert value(facts, "sees", "iou") > value(stated, "sees", "iou")
    assert value(facts, "mean box", "energy") != value(stated, "mean box", "energy")


def test_a_reference_of_scored_patients_and_one_of_nobody(annotated) -> None:
    reference = tune_reference({"Mass": annotated(24, first=11)}, size=SIZE)  # p11 is in both
    with pytest.raises(ConfigError, match=r"thresholds were tuned on 1 of the patients .* is p11"):
        localise({"Mass": annotated(24)}, reference=reference)
    facts = localise({"Mass": annotated(24)}, reference=localisation.Reference({}, {}, frozenset()))
    assert facts == localise({"Mass": annotated(24)})


MAPS = np.zeros((2, 3, 3), np.float32)
PLAIN = localisation.AnnotatedMaps({"cam": MAPS}, [[(0, 0, 4, 4)], [(1, 1, 4, 4)]], ["a", "b"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": np.arange(2)[:, None, None] * np.ones((2, 8, 8)) > 0}, "a mask is empty"),
        ({"maps": {"cam": MAPS + np.float32(np.nan)}}, "maps of 'cam' must be finite, 18 values"),
    ],
)
def test_what_cannot_be_scored(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(PLAIN, **change)


def test_the_place_is_the_mask_where_there_is_one() -> None:
    assert (PLAIN.regions(8)[1] == region_of(PLAIN.boxes[1], 8)).all()
    masks = np.random.default_rng(0).random((2, 8, 8)) > 0.5
    assert replace(PLAIN, masks=masks).regions(8) is masks


def test_controls_and_the_ceiling_of_each_resolution(annotated) -> None:
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
    fine = np.zeros((6, 24, 16), np.float32)
    both = replace(chosen, maps={**chosen.maps, "gradient": fine})
    controls = control_maps(both, SIZE, [0], 0.25, None)
    assert (controls["ceiling"].shape, controls["ceiling 24x16"].shape) == ((6, 16, 16), fine.shape)
    assert controls["random"].shape == (6, 16, 16)


def test_mean_box_of_other_patients_and_of_given_boxes(annotated) -> None:
    maps = np.random.default_rng(0).random((5, 3, 2), dtype=np.float32)
    patients = ["b", "a", "b", "c", "a"]
    found = localisation.mean_of_others(maps, patients)
    for row, patient in enumerate(patients):
        others = maps[[each != patient for each in patients]]
        assert found[row] == pytest.approx(others.mean(axis=0))
    alone = annotated(2)  # of one patient
    assert "mean box" not in control_maps(alone, SIZE, [0], 0.25, None)
    others = [[(0.0, 0.0, 48.0, 24.0)], [(0.0, 0.0, 24.0, 48.0)]]
    found = control_maps(alone, SIZE, [0], 0.25, others)["mean box"]
    assert np.allclose(found, np.repeat(np.repeat([[1, 0.5], [0.5, 0]], 8, axis=0), 8, axis=1))


def test_centre_gaussian() -> None:
    heat = localisation.centre_gaussian((4, 10), 40, 0.25)
    assert heat.shape == (4, 10)
    assert heat[1, 4] == pytest.approx(np.exp(-(0.125**2 + 0.05**2) / (2 * 0.25**2)))
    assert np.allclose(heat, heat[::-1, ::-1])
    with pytest.raises(ConfigError, match="sigma, a share of the image's side, must be a number"):
        localisation.centre_gaussian((4, 4), 40, 0)


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
    assert np.argwhere(square_mask(point, SIZE)).tolist() == [[24, 0]]
    assert not square_mask(np.zeros((9, 5), np.bool_), SIZE).any(), "told to be absent"


def test_places_of_sets_with_masks_some_masks_and_boxes_of_readers() -> None:
    class Halves(Source):
        def mask(self, record: Record, label: str):
            return np.eye(SIZE) > 0 if record.image_id in self.name else None

    boxes = (Box("Mass", 0, 0, 4, 4, "R1"), Box("Mass", 0, 0, 5, 4, "R2"), Box("Edema", 1, 1, 2, 2))
    records = [Record(name, name, (1.0, 0.0), boxes=boxes) for name in "ab"]
    places = [[(0.0, 0.0, 4.0, 4.0)], [(1.0, 1.0, 4.0, 4.0)]]
    source = Halves()
    source.name = "ab"
    masks, place = exact_masks(source, records, "Mass", places, SIZE)
    assert (masks == np.eye(SIZE)).all()
    assert place == "its exact mask"
    source.name = "b"
    masks, place = exact_masks(source, records, "Mass", places, SIZE)
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
    data = SimpleNamespace(labels=("Edema", "Mass"), subset_records=lambda _: records)
    assert find_boxed(data, "test") == [(0, "Mass"), (2, "Mass"), (3, "Mass"), (4, "Mass")]
