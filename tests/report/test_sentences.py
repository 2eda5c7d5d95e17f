"""Sentences for runs that the phantom's is not."""

from copy import deepcopy
from dataclasses import replace

import pytest

from xray_lightning import Phantom
from xray_lightning.evaluation.predictions import Origin, SplitName
from xray_lightning.evaluation.published import IMAGES, TEST_IMAGES, comparable, incomparable
from xray_lightning.records import CHEST_XRAY14
from xray_lightning.report.page import say
from xray_lightning.report.run import read_run
from xray_lightning.report.run_page import compare_published, report_values, run_page

NIH = Origin("nih", IMAGES, SplitName("official", "f00d"), "test")


@pytest.fixture
def facts(made_run) -> dict:
    return deepcopy(report_values(read_run(made_run), None, "its data set is gone"))


def on_nih(evaluation, split: str):
    """The evaluation as if it were one on all of NIH."""
    origin = replace(NIH, split=SplitName(split, "f00d"))
    rows = comparable(origin, CHEST_XRAY14, TEST_IMAGES)
    return replace(evaluation, origin=origin, images=TEST_IMAGES, published=rows)


@pytest.mark.parametrize(("split", "ranked"), [("official", True), ("patient", False)])
def test_published_rows_of_the_own_split_only(made_run, split: str, ranked: bool) -> None:
    run = read_run(made_run)
    found = compare_published(on_nih(run.evaluation, split))
    kinds = {row["split"] for row in found["rows"]}, {row["split"] for row in found["elsewhere"]}
    assert kinds == (({"official"}, {"own"}) if ranked else ({"own"}, {"official"}))
    assert found["ranked"] is ranked
    page = run_page(run, {**report_values(run, None, "gone"), "published": found})
    own = page[page.index('id="published"') : page.index('id="curves"')]
    assert ("this run" in own[: own.index("For orientation")]) is ranked
    assert "this run" not in own[own.index("<h3>") :].replace("other images than this run", "")
    assert ("a rank among them would mean nothing" in own) is not ranked
    assert "EVA-X-B" in own
    assert "AG-CNN" in own


def test_none_beside_a_part_of_the_images(made_run) -> None:
    evaluation = on_nih(read_run(made_run).evaluation, "patient")
    origin = replace(evaluation.origin, data_images=937)
    found = compare_published(replace(evaluation, origin=origin, images=125, published=[]))
    assert found["sentence"].endswith("the label table has 937 images, NIH's has 112,120.")
    assert not found["ranked"]
    assert {row["split"] for row in found["elsewhere"]} == {"official", "own"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": "rsna"}, "on rsna"),
        ({"labels": ["Mass"]}, "14 findings"),
        ({"subset": "val"}, "a test set"),
        ({"split": SplitName("image", "f00d")}, "shares patients"),
        ({"data_images": 640, "scored": 125}, "label table has 640"),
        ({"labels": CHEST_XRAY14[:3]}, "14 findings"),
        ({"split": SplitName("patient", "f00d"), "data_images": 640}, "label table has 640"),
        ({"scored": 25595}, "25,595 images were scored"),
    ],
)
def test_why_not_comparable(changes: dict, reason: str) -> None:
    assert incomparable(NIH, CHEST_XRAY14, TEST_IMAGES) == ""
    labels, scored = changes.pop("labels", CHEST_XRAY14), changes.pop("scored", TEST_IMAGES)
    origin = replace(NIH, **changes)
    assert reason in incomparable(origin, labels, scored)
    assert comparable(origin, labels, scored) == []


def test_guessing_and_no_figure_at_all(facts: dict) -> None:
    assert "guessing" not in say("summary", facts)[0]
    facts["test"]["mean"]["auroc"]["patient_interval"] = [0.4, 0.6]
    assert say("summary", facts)[0].endswith("it cannot be told from guessing (0.5).")
    facts["test"]["mean"]["auroc"] |= {"value": None, "patient_interval": None}
    assert say("summary", facts)[0].endswith("no label has an AUROC.")


def test_a_single_label_is_not_the_best_of_several(facts: dict) -> None:
    labels = facts["test"]["labels"]
    facts["test"]["labels"] = {"Mass": labels["Mass"], "Hernia": labels["Hernia"]}
    labels["Mass"]["auroc"]["patient_interval"] = None
    assert "(no interval; positive images: " in say("summary", facts)[1]
    assert "Best" not in say("summary", facts)[1]
    patients = labels["Mass"]["positive_patients"]
    rough = f"No interval, since the positives are of too few patients: Mass ({patients})."
    assert rough in say("limitations", facts, 20)
    labels["Mass"]["positive_patients"], labels["Hernia"]["positive_patients"] = 19, 20
    assert "Fewer than 20 positive patients, so intervals are rough: Mass (19)." in say(
        "limitations", facts, 20
    )
    labels["Mass"]["auroc"] |= {"patient_interval": [0.4, 1.0], "value": 1.0, "exact": True}
    assert "1.000 (95 % 0.400 to 1.000, exact by the number of patients" in say("summary", facts)[1]


def test_leaks_are_warned_of(facts: dict) -> None:
    facts["split"]["leaked_patients"] = 1234
    facts["test"]["patients"] = None
    facts["reproduce"]["data"] = {"name": "rsna", "title": "rsna (negatives: all)"}
    found = say("warnings", facts)
    assert found[0].startswith("The split leaks: 1,234 patients")
    assert found[1].startswith("Patients are not known, so each image counts as its own")
    assert "test images of an unknown number of patients of" in say("summary", facts)[0]
    assert len(found) == 2


def test_a_phantom_is_synthetic_whatever_its_title(facts: dict) -> None:
    shortcut = Phantom(4, size=64, shortcut="marker")
    facts["data"] = shortcut.title
    facts["reproduce"]["data"] = {"title": shortcut.title, **shortcut.identity()}
    assert shortcut.title != "phantom"
    assert any("synthetic" in sentence for sentence in say("warnings", facts))
    assert not any("how many are wrong" in sentence for sentence in say("limitations", facts, 20))


def test_unknown_metadata_and_reasons(facts: dict) -> None:
    rows = facts["subgroups"]["rows"]
    facts["subgroups"]["rows"] = [row for row in rows if row["dimension"] != "view"]
    images = facts["test"]["images"]
    facts["operating_points"]["without"] = {"Mass": "too few", "Edema": "none reaches it"}
    facts["operating_points"]["doubts"] = {"Hernia": "too steep"}
    found = say("limitations", facts, 20)
    assert f"Test images (of {images:,}) whose group is unknown: view ({images})." in found
    assert "No operating point: Mass (too few), Edema (none reaches it)." in found
    assert "Calibration: Hernia (too steep)." in found
    assert "The split was not audited: its data set is gone." in found
    facts["operating_points"] |= {
        "without": {"Mass": "few", "Edema": "few"},
        "calibration": None,
        "doubts": {},
    }
    facts["reproduce"]["data"] = {"name": "nih"}
    found = say("limitations", {**facts, "audit": {"notes": ["16 impossible ages became NaN"]}}, 20)
    assert "No operating point (few): Mass, Edema." in found
    assert "16 impossible ages became NaN" in found
    assert any("how many are wrong is not known" in sentence for sentence in found)
    assert not any("Calibrated" in sentence for sentence in found)
