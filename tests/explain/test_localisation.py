import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from xray_lightning import ConfigError, enlarge
from xray_lightning.explain.localisation import (
    CONTROLS,
    AnnotatedMaps,
    Localisation,
    Reference,
    Threshold,
    evaluate_localisation,
    tune_reference,
)
from xray_lightning.metrics.localisation import WANG, pointing_game, region_of, tune_threshold

SIZE = 48
Make = Callable[..., AnnotatedMaps]


def value(facts: Localisation, method: str, name: str, *over: str, label: str = "Mass") -> float:
    found = getattr(facts.labels[label].methods[method], name)
    return (found[over[0]] if over else found).value


def test_plain_values_in_the_stated_form(annotated: Make) -> None:
    facts = evaluate_localisation({"Mass": annotated(24)}, size=SIZE, draws=50)
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
    assert label.methods["ceiling"].pointing_game.to_json() == {"value": 1, "interval": None}, (
        "equal"
    )
    assert facts.thresholds["Mass"]["random"] == Threshold(list(WANG), "stated")
    assert facts.settings.mean_box == {"Mass": "scored images of other patients"}


def test_figures_are_means_over_images(annotated: Make) -> None:
    chosen = annotated(24)
    facts = evaluate_localisation({"Mass": chosen}, size=SIZE, draws=20)
    hits = [
        pointing_game(enlarge(heat, SIZE), region_of(boxes, SIZE))
        for heat, boxes in zip(chosen.maps["sees"], chosen.boxes, strict=True)
    ]
    assert value(facts, "sees", "pointing_game") == pytest.approx(np.mean(hits))


def test_boxes_count_one_by_one(annotated: Make) -> None:
    chosen = annotated(12, images=1)
    corner = [(0.0, 0.0, 1.0, 1.0)] * 3  # never found
    more = replace(
        chosen, boxes=[[*boxes, *corner[: row % 2 * 3]] for row, boxes in enumerate(chosen.boxes)]
    )
    few, many = (
        evaluate_localisation({"Mass": each}, size=SIZE, threshold=[0.6], draws=9)
        for each in (chosen, more)
    )
    assert many.labels["Mass"].boxes == 12 + 18
    ratio = value(many, "sees", "t_iou", "0.1") / value(few, "sees", "t_iou", "0.1")
    assert ratio == pytest.approx(12 / 30)


def test_a_map_that_sees_beats_the_controls_and_the_ceiling_beats_it(annotated: Make) -> None:
    facts = evaluate_localisation({"Mass": annotated(60)}, size=SIZE, draws=20)
    for name in ("pointing_game", "energy", "average_precision"):
        figures = {method: value(facts, method, name) for method in ("sees", "blind", *CONTROLS)}
        assert figures["ceiling"] == max(figures.values())
        assert figures["sees"] > max(figures[each] for each in ("blind", *CONTROLS[:3]))


def test_a_random_map_points_by_chance(annotated: Make) -> None:
    chosen = annotated(600)
    facts = evaluate_localisation({"Mass": chosen}, size=SIZE, draws=200)
    area = facts.labels["Mass"].area
    for name, method in (
        ("pointing_game", "random"),
        ("pointing_game", "blind"),
        ("energy", "random"),
    ):
        estimate = getattr(facts.labels["Mass"].methods[method], name)
        assert estimate.low < area < estimate.high
        assert estimate.high - estimate.low < 0.07


def test_intervals_are_of_patients(annotated: Make) -> None:
    """Twenty copies of each image say no more than one."""
    once = annotated(30, images=1)
    row = np.repeat(np.arange(30), 20)
    copies = AnnotatedMaps(
        {name: maps[row] for name, maps in once.maps.items()},
        [once.boxes[each] for each in row],
        [once.patients[each] for each in row],
    )
    pairs = [evaluate_localisation({"Mass": each}, size=SIZE, draws=200) for each in (once, copies)]
    first, second = (each.labels["Mass"].methods["sees"].iou for each in pairs)
    assert first.value == pytest.approx(second.value)
    assert first.interval == pytest.approx(second.interval)


def test_too_few(annotated: Make) -> None:
    scored = {"Mass": annotated(24), "Nodule": annotated(18, seed=1)}  # 12 and 9 patients
    facts = evaluate_localisation(scored, size=SIZE, draws=40)
    few = facts.labels["Nodule"]
    assert few.note == "too few: fewer than 10 images or patients, no interval"
    assert few.methods["sees"].iou.value > 0
    assert np.isnan(few.methods["sees"].iou.low)
    assert np.isfinite(facts.labels["Mass"].methods["sees"].iou.low)
    assert facts.mean.note == "no interval: too few images or patients of Nodule"
    assert np.isnan(facts.mean.methods["sees"].iou.low)


def test_mean_over_labels(annotated: Make) -> None:
    scored = {
        "Mass": annotated(24),
        "Nodule": annotated(40, seed=1),
        "Hernia": annotated(2, seed=2),
    }
    facts = evaluate_localisation(scored, size=SIZE, draws=20)
    assert facts.mean.labels == 3
    other_way = evaluate_localisation(dict(reversed(scored.items())), size=SIZE, draws=20)
    assert list(other_way.mean.methods) == list(facts.mean.methods), (
        "Hernia, first, has no mean box"
    )
    for method, labels in (("sees", [*scored]), ("mean box", ["Mass", "Nodule"])):
        found = facts.mean.methods[method]
        assert found.labels == len(labels)
        values = [value(facts, method, "t_iobb", "0.3", label=label) for label in labels]
        assert found.t_iobb["0.3"].value == pytest.approx(np.mean(values))
    del scored["Hernia"]
    iou = evaluate_localisation(scored, size=SIZE, draws=50).mean.methods["sees"].iou
    assert iou.low < iou.value < iou.high


def test_labels_do_not_move_each_other(annotated: Make) -> None:
    alone = evaluate_localisation({"Mass": annotated(24)}, size=SIZE, draws=9)
    both = evaluate_localisation(
        {"Nodule": annotated(10, seed=3), "Mass": annotated(24)}, size=SIZE, draws=9
    )
    assert value(alone, "random", "iou") == value(both, "random", "iou")


def test_maps_without_energy_are_counted(annotated: Make) -> None:
    chosen = annotated(24)
    dark = chosen.maps["sees"].copy()
    dark[:5] -= 10
    facts = evaluate_localisation({"Mass": replace(chosen, maps={"cam": dark})}, size=SIZE, draws=9)
    assert facts.labels["Mass"].methods["cam"].without_energy == 5
    rest = replace(
        chosen, maps={"cam": dark[5:]}, boxes=chosen.boxes[5:], patients=chosen.patients[5:]
    )
    lit = evaluate_localisation({"Mass": rest}, size=SIZE, draws=9)
    assert value(facts, "cam", "energy") == pytest.approx(value(lit, "cam", "energy"))
    nothing = evaluate_localisation(
        {"Mass": replace(chosen, maps={"cam": -np.abs(dark) - 1})}, size=SIZE, draws=9
    )
    assert np.isnan(value(nothing, "cam", "energy"))


def test_masks_and_tolerance(annotated: Make) -> None:
    chosen = annotated(24)
    masks = np.zeros((24, SIZE, SIZE), bool)
    masks[:, 40:, 40:] = True  # far from every box
    masked = evaluate_localisation({"Mass": replace(chosen, masks=masks)}, size=SIZE, draws=9)
    plain = evaluate_localisation({"Mass": chosen}, size=SIZE, draws=9)
    assert value(masked, "sees", "energy") < value(plain, "sees", "energy") / 2
    assert value(masked, "sees", "iou") == value(plain, "sees", "iou")
    assert value(masked, "ceiling", "pointing_game") == 1
    wide = evaluate_localisation(
        {"Mass": replace(chosen, masks=masks)}, size=SIZE, draws=9, tolerance=80
    )
    assert value(wide, "sees", "pointing_game") == 1


def test_thresholds_are_tuned_on_other_patients(annotated: Make) -> None:
    validation, scored = annotated(24, seed=5, first=100), annotated(24)
    reference = tune_reference({"Mass": validation, "Hernia": annotated(4, first=200)}, size=SIZE)
    for method in ("sees", "blind"):
        best = tune_threshold(enlarge(validation.maps[method], SIZE), validation.boxes)
        assert reference.shares["Mass", method] == best
    assert {label for label, _ in reference.shares} == {"Mass"}, "too few boxes of Hernia"
    facts = evaluate_localisation(
        {"Mass": scored, "Hernia": scored}, size=SIZE, reference=reference, draws=9
    )
    assert facts.thresholds["Mass"]["sees"] == Threshold(
        [reference.shares["Mass", "sees"]], "tuned on 24 reference images"
    )
    assert facts.thresholds["Hernia"]["sees"].source == "stated"
    assert facts.settings.mean_box["Mass"] == "reference images"
    assert facts.settings.mean_box["Hernia"] == "scored images of other patients"
    stated = evaluate_localisation({"Mass": scored}, size=SIZE, draws=9)
    assert value(facts, "sees", "iou") > value(stated, "sees", "iou")
    assert value(facts, "mean box", "energy") != value(stated, "mean box", "energy")


def test_tuning_on_scored_patients_is_refused(annotated: Make) -> None:
    reference = tune_reference({"Mass": annotated(24, first=11)}, size=SIZE)  # p11 is in both
    with pytest.raises(ConfigError, match=r"thresholds were tuned on 1 of the patients .* is p11"):
        evaluate_localisation({"Mass": annotated(24)}, size=SIZE, reference=reference)


def test_an_empty_reference_is_no_reference(annotated: Make) -> None:
    facts = evaluate_localisation(
        {"Mass": annotated(24)}, size=SIZE, draws=9, reference=Reference({}, {}, frozenset())
    )
    assert facts == evaluate_localisation({"Mass": annotated(24)}, size=SIZE, draws=9)
