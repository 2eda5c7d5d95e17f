"""The report of a run stands alone and says what its files say; spoilt runs are refused."""

import json
import math
import shutil
from base64 import b64decode
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from markupsafe import Markup

from xray_lightning import Phantom, audit_split, compare, patient_split
from xray_lightning.errors import ConfigError
from xray_lightning.evaluation.evaluate import USE
from xray_lightning.evaluation.predictions import Origin, SplitName
from xray_lightning.evaluation.published import IMAGES, TEST_IMAGES, comparable, incomparable
from xray_lightning.metrics.subgroups import ANY
from xray_lightning.records import CHEST_XRAY14
from xray_lightning.report import drawings
from xray_lightning.report import run_page as pages
from xray_lightning.report.drawings import embed_picture
from xray_lightning.report.page import say
from xray_lightning.report.run import NEEDED, Run, read_run
from xray_lightning.report.run_page import report_values, run_page, write_report
from xray_lightning.writing import read_json, to_plain, write_json

PHANTOM = Phantom(patients=150)


@pytest.fixture(scope="module")
def run(made_run) -> Run:
    return read_run(made_run)


@pytest.fixture(scope="module")
def facts(run: Run) -> dict:
    split = patient_split(PHANTOM.records, None, fractions=(0.4, 0.3, 0.3))
    predictions = run.predictions["val"], run.predictions["test"]
    return report_values(run, audit_split(PHANTOM, split, predictions=predictions, draws=5))


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Pages whose drawings are not looked at: those take nearly all of a page's time."""
    monkeypatch.setattr(drawings, "svg", lambda name, *_, **__: Markup(f'<svg id="{name}"/>'))


@pytest.fixture(scope="module")
def text(run: Run, facts: dict) -> str:
    return run_page(run, facts)


def test_every_section_in_order(text: str, parsed) -> None:
    page = parsed(text)
    files = Path(pages.__file__).with_name("sections").iterdir()
    names = {path.name.partition(".")[0] for path in files}
    shown = [each for each in page.ids if each in names]
    assert sorted(shown) == sorted(names - {"explain"}), "no explain, no section"
    assert (shown[0], shown[-1]) == ("summary", "limitations")
    drawn = ["aurocs", "curves-0", "reliability-0", "training", "ratios", "baselines"]
    assert {f"figure-{name}" for name in (*drawn, "decomposition")} <= set(page.ids)
    assert f"figure-curves-{PHANTOM.labels.index('Hernia')}" not in page.ids  # undefined
    assert 'name="viewport" content="width=device-width' in text, "it fits a phone"
    assert len(text.encode()) < 5_000_000
    assert "differ from all other images (5 tests), which does not show that none does." in text


def test_the_table_says_what_the_files_say(run, facts, text, parsed) -> None:
    page, evaluation = parsed(text), run.evaluation.to_json()
    assert facts["test"]["labels"] == evaluation["labels"]
    for label, each in evaluation["labels"].items():
        auroc = each["auroc"]
        cells = page.row(label)
        assert cells[0] == f"{each['positives']:,}"
        ends = auroc["patient_interval"]
        shown = "{:.3f} to {:.3f}".format(*ends) if ends else "-"
        value = "-" if auroc["value"] is None else f"{auroc['value']:.3f}"
        assert (cells[1:3], cells[8]) == ([value, shown], f"{each['brier']['value']:.3f}")
        names = ("average_precision_over_chance", "sensitivity_at_specificity")
        ranked, others = page.row(label, 1), [each[name]["value"] for name in names]
        for cell, figure in zip((ranked[0], ranked[3]), others, strict=True):
            assert cell.startswith("-" if figure is None else f"{figure:.3f}")
    assert page.row("Hernia")[1:7] == ["-"] * 6
    mean = evaluation["mean"]["auroc"]["value"]
    assert page.row("mean")[:2] == ["13/14 defined", f"{mean:.3f}"]
    assert "Hernia: AUROC is undefined, no positive image." in text
    assert "Test images whose target is unknown and left out: Mass (1)." in text
    for label, point in facts["operating_points"]["labels"].items():
        found = evaluation["labels"][label]["sensitivity"]["value"]
        row = page.row(label, 2)
        assert row[0] == f"{point['threshold']:.3f}"
        assert row[1].startswith(f"{found:.3f} (")
        calls = evaluation["calls"]["labels"][label]
        assert row[6:8] == ["{} of {}".format(*calls[kind]) for kind in ("missed", "false_alarms")]
    assert "{} are called abnormal".format(evaluation["calls"]["false_alarms"][0]) in text
    assert facts["operating_points"]["labels"]
    assert "Hernia" in facts["operating_points"]["without"]


def test_verdict_and_what_is_not_known(run: Run, facts: dict, text: str) -> None:
    evaluation = run.evaluation.to_json()
    first, second, third, whom, missed, alarms, replace = facts["summary"]
    questions = [sentence.partition("?")[0] for sentence in (first, whom, replace)]
    assert questions == ["How good", "For whom", "May it replace another model"]
    for kind, said in (("missed", missed), ("false_alarms", alarms)):
        gaps = next(g for g in evaluation["gaps"] if (g["kind"], g["label"]) == (kind, ANY))
        wanted = "to know"
        if gaps["clearest"]:
            wanted = f"a gap is shown in {gaps['shown']} of {gaps['pairs']} pairs"
        elif gaps["pairs"]:
            wanted = f"would be seen from {gaps['finest']['detectable']:.3f} on"
        assert wanted in said
    for subset in (facts["split"]["fingerprint"], evaluation["fingerprint"], "13 of 14 labels"):
        assert subset in first
    aurocs = {k: v["auroc"]["value"] for k, v in evaluation["labels"].items()}
    known = {label: value for label, value in aurocs.items() if value is not None}
    weakest = min(known, key=known.get)
    assert second.startswith(f"Weakest is {weakest}, {known[weakest]:.3f}")
    assert "they are on NIH's images, this is on phantom" in third
    said = "The images are synthetic: these figures say nothing about patients."
    assert facts["warnings"] == [said]
    assert all(sentence in text.replace("&#39;", "'") for sentence in facts["summary"])
    assert "The checkpoint, epoch 2 of 3, was chosen on validation." in text
    assert "c0ffee" in text
    assert "python train.py data.patients=150" in text


@pytest.mark.parametrize(("margin", "said"), [(0.2, "A is equivalent to B"), (None, "No margin")])
def test_may_it_replace_another_model(run: Run, tmp_path: Path, margin, said: str) -> None:
    """compare.json in the run's folder answers, if it is of these scores."""
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    table = run.predictions["test"]
    noise = np.random.default_rng(0).normal(0, 0.001, table.scores.shape)
    other = replace(table, scores=np.clip(table.scores + noise, 0, 1).astype(np.float32))
    write_json(compare(table, other, margin=margin, draws=50).to_json(), folder / "compare.json")
    answer = say("summary", report_values(read_run(folder), None))[-1]
    assert answer.startswith("May it replace")
    assert said in answer
    write_json(compare(other, table, draws=50).to_json(), folder / "compare.json")
    with pytest.raises(ConfigError, match=r"does not compare this run's scores .* --out"):
        read_run(folder)


def test_figures_of_use_say_what_the_evaluation_says(run, facts, text, parsed) -> None:
    page, evaluation = parsed(text), run.evaluation.to_json()
    for key in USE:
        assert facts[key] == evaluation[key]
        drawn = [each for each in page.ids if each.startswith(f"figure-{key}-")]
        assert len(drawn) == len(set(evaluation[key]) - {"Hernia"})
    label, curve = next(iter(evaluation["at_prevalence"].items()))
    place = curve["prevalences"].index(0.05)
    cells = next(row for row in page.rows if row[:2] == [label, "5.0 %"])
    assert cells[2].startswith(f"{curve['ppv']['value'][place]:.3f} (")
    assert cells[4].startswith(f"{curve['alarms']['value'][place]:.1f} (")
    handed = evaluation["selective"][label]["handed"]["0.95"]["value"]
    assert any(row[0] == label and row[3].startswith(f"{handed:.3f} (") for row in page.rows)
    (cells,) = (row for row in page.rows if row[0] == "all labels")
    missed = [each["value"] for each in evaluation["conformal"]["all labels"].values()]
    assert [cell.split()[0] for cell in cells[2:]] == [f"{value:.3f}" for value in missed]
    row = evaluation["reliability"][label]["calibrated"]
    cells = next(row for row in page.rows if row[1:2] == ["calibrated"] and label in row[0])
    assert cells[2].startswith(f"{row['slope']['value']:.2f} (")
    assert cells[6].endswith(f" [{row['error_floor']:.3f}]")


def test_an_evaluation_of_an_earlier_version(run: Run) -> None:
    bare = {key: {} for key in USE}
    older = replace(run, evaluation=replace(run.evaluation, **bare, conformal={}))
    text = run_page(older, report_values(older, None))
    assert "this evaluation is of an earlier version" in text
    assert 'id="net_benefit"' not in text


def test_labels_are_escaped(run_folder, parsed) -> None:
    name = '<b>M&s" $x$'
    for path in run_folder.iterdir():
        inside = name.replace('"', '""') if path.suffix == ".csv" else json.dumps(name)[1:-1]
        words = path.read_text()
        for column in ("target_Mass", "score_Mass"):
            words = words.replace(column, f'"{column[:-4]}{inside}"')
        path.write_text(words.replace('"Mass"', f'"{inside}"'))
    run = read_run(run_folder)
    text = run_page(run, report_values(run, None, "no <data>"))
    page = parsed(text)
    assert "<b>" not in text
    assert page.row(name)[0] == str(run.evaluation.metrics.labels[name].positives)
    assert "The split was not audited: no &lt;data&gt;." in text


def test_files_are_written_and_agree(undrawn, run_folder, parsed) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 2000, 3), dtype=np.uint8)
    cv2.imwrite(str(run_folder / "montage.png"), pixels)
    (run_folder / "metrics.csv").unlink()
    facts = write_report(read_run(run_folder), None, "gone")
    assert read_json(run_folder / "report.json") == facts
    text = (run_folder / "report.html").read_text()
    assert any(each.startswith("data:image/webp;base64,") for each in parsed(text).addresses)
    assert "No training curves" in text
    assert "found no patient that the data name in more than one subset" in text
    run = read_run(run_folder)
    run.environment["split"]["leaked_patients"] = None
    write_report(run, None, "gone")
    text = (run_folder / "report.html").read_text()
    assert "Whether patients are in more than one subset is not known" in text
    assert "found no patient" not in text
    assert not list(run_folder.glob("*.partial"))


def test_pictures_are_made_smaller(tmp_path, rng) -> None:
    pixels = cv2.resize(rng.integers(0, 255, (4, 20, 3), dtype=np.uint8), (2000, 400))
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), pixels)
    kind, _, code = embed_picture(path).partition(",")
    assert kind == "data:image/webp;base64"
    found = cv2.imdecode(np.frombuffer(b64decode(code), dtype=np.uint8), cv2.IMREAD_COLOR)
    assert found.shape == (320, 1600, 3)
    expected = cv2.resize(pixels, (1600, 320), interpolation=cv2.INTER_AREA)
    assert abs(found.astype(int) - expected).mean() < 6
    for damaged in (b"no picture", b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"picture.png is not a readable picture"):
            embed_picture(path)


def lose(name: str, key: str, folder: Path) -> None:
    facts = read_json(folder / f"{name}.json")
    del facts[key]
    write_json(facts, folder / f"{name}.json")


def cut(name: str, folder: Path) -> None:
    """Without its last row."""
    rows = (folder / name).read_text().splitlines()
    (folder / name).write_text("\n".join([*rows[:-1], ""]))


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda run: (run / "config.yaml").unlink(), "holds no run: it has no config.yaml"),
        (lambda run: (run / "metrics.json").unlink(), "not finished.*train.py resume="),
        (lambda run: (run / "evaluation.json").unlink(), "evaluation.json is damaged or not there"),
        (lambda run: (run / "evaluation.json").write_text("{"), "damaged.*Expecting property"),
        (lambda run: (run / "evaluation.json").write_text("[1]"), "it lacks labels, mean"),
        (lambda run: (run / "evaluation.json").write_bytes(b"\xff\xfe"), "damaged.*utf-8"),
        (partial(lose, "environment", "versions"), "environment.json.*it lacks versions"),
        (partial(lose, "metrics", "val"), "metrics.json.*it lacks val. python train.py resume="),
        (lambda run: (run / "predictions_val.csv").unlink(), "there is no table"),
        (lambda run: (run / "predictions_val.csv").write_text(""), "predictions_val.csv.*is empty"),
        (lambda run: (run / "predictions_test.csv").write_text("a\n1"), "lacks 3 columns"),
        (lambda run: (run / "metrics.csv").write_bytes(b"\xff\xfe"), "metrics.csv is damaged"),
        (lambda run: (run / "metrics.csv").write_text("a\n1"), "it has no column epoch"),
        (partial(cut, "predictions_val.csv"), "different runs: predictions_val.csv is of the"),
        (partial(cut, "predictions_test.csv"), "different runs: predictions_test.csv is of the"),
    ],
)
def test_no_finished_run(run_folder: Path, spoil, match: str) -> None:
    assert read_run(run_folder).history is not None
    spoil(run_folder)
    with pytest.raises(ConfigError, match=f"(?s){match}"):
        read_run(run_folder)


def tell(path: Path, weights: str, *subsets: str) -> None:
    """Write whose results a file holds."""
    facts = read_json(path)
    for each in [facts[subset] for subset in subsets] or [facts]:
        each["weights_sha256"] = weights
    write_json(facts, path)


@pytest.mark.parametrize("old", ["val", "test", "evaluation"])
def test_results_of_two_checkpoints(run_folder: Path, old: str) -> None:
    tell(run_folder / "metrics.json", "new", "val", "test")
    tell(run_folder / "evaluation.json", "new")
    assert read_run(run_folder).evaluation.origin.weights_sha256 == "new"
    subsets = () if old == "evaluation" else (old,)
    tell(run_folder / ("metrics.json" if subsets else "evaluation.json"), "old", *subsets)
    with pytest.raises(ConfigError, match=r"results of different checkpoints.*resume="):
        read_run(run_folder)


@pytest.mark.parametrize(("run", "maps", "shown"), [
    ("", "", True), ("", "new", True), ("new", "new", True), ("new", "", False),
    ("new", "old", False),
])  # fmt: skip
def test_maps_of_another_checkpoint(run_folder: Path, run: str, maps: str, shown: bool) -> None:
    keys: dict[str, object] = {key: [] for key in NEEDED["explain.json"]}
    keys["fingerprint"] = read_json(run_folder / "evaluation.json")["fingerprint"]
    (run_folder / "explain").mkdir()
    write_json(keys, run_folder / "explain/explain.json")
    if maps:
        tell(run_folder / "explain/explain.json", maps)
    if run:
        tell(run_folder / "metrics.json", run, "val", "test")
        tell(run_folder / "evaluation.json", run)
    read = read_run(run_folder)
    assert (read.explain is not None) == (not read.explain_missing) == shown
    if not shown:
        (said,) = [text for text in report_values(read, None)["warnings"] if "looks" in text]
        assert "explain.json is of another checkpoint; xray explain" in said


def test_a_run_about_to_finish(run_folder: Path) -> None:
    metrics = read_json(run_folder / "metrics.json")
    (run_folder / "metrics.json").unlink()
    assert read_run(run_folder, metrics).metrics == metrics


NIH = Origin("nih", IMAGES, SplitName("official", "f00d"), "test")


@pytest.fixture
def changed(run: Run) -> dict:
    return deepcopy(report_values(run, None, "its data set is gone"))


def on_nih(evaluation, split: str):
    """The evaluation as if it were one on all of NIH."""
    origin = replace(NIH, split=SplitName(split, "f00d"))
    rows = comparable(origin, CHEST_XRAY14, TEST_IMAGES)
    return replace(evaluation, origin=origin, images=TEST_IMAGES, published=rows)


@pytest.mark.parametrize(("split", "ranked"), [("official", True), ("patient", False)])
def test_published_rows_of_the_own_split_only(undrawn, run, split: str, ranked: bool) -> None:
    found = pages.compare_published(on_nih(run.evaluation, split))
    kinds = {row["split"] for row in found["rows"]}, {row["split"] for row in found["elsewhere"]}
    assert kinds == (({"official"}, {"own"}) if ranked else ({"own"}, {"official"}))
    means = [row["mean"] for row in found["rows"]]
    assert means == sorted(means, reverse=True)
    assert found["ranked"] is ranked
    page = run_page(run, {**report_values(run, None, "gone"), "published": found})
    own = page[page.index('id="published"') : page.index('id="curves"')]
    assert ("this run" in own[: own.index("For orientation")]) is ranked
    assert "this run" not in own[own.index("<h3>") :].replace("other images than this run", "")
    assert ("a rank among them would mean nothing" in own) is not ranked
    assert "EVA-X-B" in own
    assert "AG-CNN" in own


def test_none_beside_a_part_of_the_images(run: Run) -> None:
    evaluation = on_nih(run.evaluation, "patient")
    origin = replace(evaluation.origin, data_images=937)
    found = pages.compare_published(replace(evaluation, origin=origin, images=125, published=[]))
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


def test_guessing_and_no_figure_at_all(changed: dict) -> None:
    assert "guessing" not in say("summary", changed)[0]
    changed["test"]["mean"]["auroc"]["patient_interval"] = [0.4, 0.6]
    assert say("summary", changed)[0].endswith("it cannot be told from guessing (0.5).")
    changed["test"]["mean"]["auroc"] |= {"value": None, "patient_interval": None}
    assert say("summary", changed)[0].endswith("no label has an AUROC.")


@pytest.mark.parametrize("corrected", [math.nan, 0.2, 0.01])
def test_a_gap_without_a_p_value_is_not_none(changed: dict, corrected: float) -> None:
    """As where every draw of patients shows the same one."""
    sexes = {"F": (-1.0, corrected), "M": (1.0, math.nan), "O": (math.nan, math.nan)}
    keys = ("dimension", "group", "difference", "corrected")
    rows = [dict(zip(keys, ("sex", sex, *own), strict=True)) for sex, own in sexes.items()]
    short = " ".join(say("subgroups", rows))
    changed["subgroups"] = to_plain({"rows": rows})
    (whom,) = (line for line in say("summary", changed) if line.startswith("For whom?"))
    names = ["M +1.000"] if corrected >= 0 else ["F -1.000", "M +1.000"]
    for text, mark in ((short, ": "), (whom, " ")):
        listed = ", ".join(f"sex{mark}{name}" for name in names)
        assert f"ot tested, draws of patients give no p value: {listed}" in text
        assert ("none" in text) == ("which does not show that" in text) == (corrected == 0.2)
    assert ("2 of 3 have enough positives" in short, "Of 1 groups" in whom) == (corrected >= 0,) * 2


def test_a_single_label_is_not_the_best_of_several(changed: dict) -> None:
    labels = changed["test"]["labels"]
    changed["test"]["labels"] = {label: labels[label] for label in ("Mass", "Hernia")}
    labels["Mass"]["auroc"]["patient_interval"] = None
    assert "(no interval; positive images: " in say("summary", changed)[1]
    assert "Best" not in say("summary", changed)[1]
    patients = labels["Mass"]["positive_patients"]
    rough = f"No interval, since the positives are of too few patients: Mass ({patients})."
    assert rough in say("limitations", changed, 20)
    labels["Mass"]["positive_patients"], labels["Hernia"]["positive_patients"] = 19, 20
    rough = "Fewer than 20 positive patients, so intervals are rough: Mass (19)."
    assert rough in say("limitations", changed, 20)
    labels["Mass"]["auroc"] |= {"patient_interval": [0.4, 1.0], "value": 1.0, "exact": True}
    said = say("summary", changed)[1]
    assert "1.000 (95 % 0.400 to 1.000, exact by the number of patients" in said


def test_leaks_are_warned_of(changed: dict) -> None:
    changed["split"]["leaked_patients"] = 1234
    changed["test"]["patients"] = None
    changed["reproduce"]["data"] = {"name": "rsna", "title": "rsna (negatives: all)"}
    leak, unknown = say("warnings", changed)
    assert leak.startswith("The split leaks: 1,234 patients have images")
    assert unknown.startswith("Patients are not known, so each image counts as its own")
    said = say("summary", changed)[0]
    assert said.count("an unknown number of patients of") == said.count("; images resampled") == 1


def test_a_phantom_is_synthetic_whatever_its_title(changed: dict) -> None:
    shortcut = Phantom(4, size=64, shortcut="marker")
    changed["data"] = shortcut.title
    changed["reproduce"]["data"] = {"title": shortcut.title, **shortcut.identity()}
    assert shortcut.title != "phantom"
    assert any("synthetic" in sentence for sentence in say("warnings", changed))
    assert not any("how many are wrong" in sentence for sentence in say("limitations", changed, 20))


def test_unknown_metadata_and_reasons(changed: dict) -> None:
    rows = changed["subgroups"]["rows"]
    changed["subgroups"]["rows"] = [row for row in rows if row["dimension"] != "view"]
    images = changed["test"]["images"]
    changed["operating_points"]["without"] = {"Mass": "too few", "Edema": "none reaches it"}
    changed["operating_points"]["doubts"] = {"Hernia": "too steep"}
    found = say("limitations", changed, 20)
    assert f"Test images (of {images:,}) whose group is unknown: view ({images})." in found
    assert "No operating point: Mass (too few), Edema (none reaches it)." in found
    assert "Calibration: Hernia (too steep)." in found
    assert "The split was not audited: its data set is gone." in found
    without = {"without": {"Mass": "few", "Edema": "few"}}
    changed["operating_points"] |= without | {"calibration": None, "doubts": {}}
    changed["reproduce"]["data"] = {"name": "nih"}
    changed["audit"] = {"notes": ["16 impossible ages became NaN"]}
    found = say("limitations", changed, 20)
    assert "No operating point (few): Mass, Edema." in found
    assert "16 impossible ages became NaN" in found
    assert any("how many are wrong is not known" in sentence for sentence in found)
    assert not any("Calibrated" in sentence for sentence in found)
