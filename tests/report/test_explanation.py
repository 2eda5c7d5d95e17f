"""What is shown of an explanation and an audit is what they hold; tables fit 80 columns."""

import re
from dataclasses import replace
from functools import partial
from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib import image as mpl_image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from xray_lightning import Audit, Estimate, Phantom, Several, Shortcuts, audit_split, patient_split
from xray_lightning.audit.decomposition import Decomposition, MatchedChange
from xray_lightning.audit.leakage import CheckpointOverlap, Duplicates, ListMatch, Pair, PairCount
from xray_lightning.audit.occlusion import Check, Drop, ScoreDrop
from xray_lightning.audit.shortcuts import LabelShortcut, Probe
from xray_lightning.data.summary import DataSummary, SubsetCounts
from xray_lightning.evaluation.published import published_boxes
from xray_lightning.explain.localisation import AnnotatedMaps, Localisation, evaluate_localisation
from xray_lightning.explain.run import Explanation, SplitName
from xray_lightning.explain.saliency import TESTS, SaliencyTests, run_saliency_tests
from xray_lightning.progress import show_progress
from xray_lightning.report import explanation as module
from xray_lightning.report.audit import audit_page, audit_tables
from xray_lightning.report.figures import COLOURS
from xray_lightning.report.page import say
from xray_lightning.report.terminal import show, tabulate


def annotate(count: int) -> AnnotatedMaps:
    maps = np.random.default_rng(count).random((count, 4, 4), dtype=np.float32)
    boxes = [[(0.0, 0.0, 9.0, 9.0), (20.0, 20.0, 9.0, 9.0)]] * count
    return AnnotatedMaps({"cam": maps}, boxes, [f"p{row}" for row in range(count)])


def explain(places: Localisation) -> Explanation:
    split, auroc = SplitName("official", "123"), {"mean": None}
    of = "best.ckpt", "abc", "nih", split, "test", "f00d", 20, 20, auroc, ["cam"]
    return Explanation(*of, localisation=places)


def rows_of(table: Table) -> dict[str, list[str]]:
    cells = zip(*(column.cells for column in table.columns), strict=True)
    return {str(name): list(map(str, rest)) for name, *rest in cells}


@pytest.fixture(scope="module")
def places() -> Localisation:
    scored = {"Pleural_Thickening": annotate(12), "Hernia": annotate(1)}
    return evaluate_localisation(scored, size=32, draws=40)


def test_tables_of_localisation(places: Localisation) -> None:
    names = "random", "centre", "mean box", "ceiling"
    rows = rows_of(tabulate("pointing", places, "cam", "test [f00d]", names))
    mass = places.labels["Pleural_Thickening"].methods
    game = mass["cam"].pointing_game
    controls = [f"{mass[n].pointing_game.value:.3f}" for n in names[:3]]
    interval = f"{game.low:.3f}-{game.high:.3f}"
    assert rows["Pleural_Thickening"] == ["24", f"{game.value:.3f}", interval, *controls, "1.000"]
    assert rows["Hernia"][2] == "too few"
    assert rows["Hernia"][5] == "-", "no other patient, no mean box"
    assert (rows["mean"][0], rows["mean"][2]) == ("26", "too few")
    assert rows["mean"][5] == "-", "of one label: nothing beside it is"
    rows = rows_of(tabulate("overlaps", places, "cam", published_boxes("nih")))
    pairs = [f"{mass[n].t_iobb['0.1'].value:.3f} ({mass[n].afp['0.1'].value:.1f})"
             for n in ("cam", "random")]  # fmt: skip
    assert rows["Pleural_Thickening"][:2] == pairs
    assert rows["Hernia"][-1] == rows["mean"][-1] == "-"
    scored = evaluate_localisation({"Mass": annotate(12)}, size=32, draws=40)
    cell = rows_of(tabulate("overlaps", scored, "cam", published_boxes("nih")))["Mass"][-1]
    assert cell == "0.435 (0.6)"
    assert len(tabulate("overlaps", scored, "cam", published_boxes("phantom")).columns) == 3


def test_means_over_fewer_labels_and_maps_are_said_to_be() -> None:
    dark = annotate(12)
    dark.maps["cam"][:5] -= 2
    places = evaluate_localisation({"Hernia": annotate(1), "Mass": dark}, size=32, draws=40)
    rows = rows_of(tabulate("methods", places, "place"))
    game = places.labels["Mass"].methods["mean box"].pointing_game
    assert rows["mean box, 1 labels"][0].startswith(f"{game.value:.3f}")
    assert {"cam", "random", "ceiling"} < set(rows)
    assert say("energy", places, ["cam"])[0].endswith("no energy, of 13: cam 5")
    assert say("energy", places, ["random"]) == []
    lines = say("localisation", explain(places), [])
    assert "place of Hernia, Mass: the union of its boxes" in lines


@pytest.fixture(scope="module")
def saliency() -> dict[str, SaliencyTests]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 10 * 10, 2))

    def features(net: nn.Module, images: Tensor) -> Tensor:
        made: Tensor = net[0](images)[:, 0]  # type: ignore[index]
        return made.detach()

    def flat(net: nn.Module, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 2, 2)

    images, patients = torch.rand(20, 1, 12, 12), range(20)
    test = partial(run_saliency_tests, net, label=1, draws=20, networks=4, steps=4)
    return {method.__name__: test(method, images, patients) for method in (features, flat)}


def test_lines_fit_and_explanations_come_back(places, saliency) -> None:
    explanation = replace(
        explain(places),
        published=published_boxes("nih"),
        saliency=dict.fromkeys(("gradcam++", "integrated", *"abcd"), saliency["flat"]),
    )
    again = Explanation.from_json(explanation.to_json())
    assert again.to_json() == explanation.to_json()
    assert again.published == explanation.published
    console = Console(width=80, record=True, file=BytesIO())  # type: ignore[arg-type]
    for line in module.explanation_lines(explanation):
        if isinstance(line, Table):
            needed = console.measure(line, options=console.options.update(width=300)).maximum
            assert needed <= 80, [column.header for column in line.columns]
    lines = [line for line in module.explanation_lines(explanation) if isinstance(line, str)]
    assert any("published pointing game of random map: 0.228" in line for line in lines)
    assert sum("permutation was not run" in line for line in lines) == 1
    [table, *_] = [t for t in module.explanation_lines(explanation)[-20:] if isinstance(t, Table)
                   and t.columns[0].header == "test"]  # fmt: skip
    assert rows_of(table)["shifts"] == ["not run"] * 5


def test_a_row_for_each_method(saliency) -> None:
    panels = np.reshape(module.saliency_figure(saliency).axes, (2, 3))
    assert [row[0].get_ylabel() for row in panels] == ["features", "flat"]
    tests = saliency["features"]
    for axes, name in zip(panels[0], ("randomisation", "deletion", "insertion"), strict=True):
        assert axes.get_title("left").startswith(f"{name}: {tests.verdict_of(name)}")
    stages = tests.randomisation.stages
    drawn = panels[0, 0].get_lines()[0]
    assert drawn.get_label() == "rank correlation"
    np.testing.assert_allclose(drawn.get_ydata(), [1.0, *(one.spearman.value for one in stages)])
    ticks = [text.get_text() for text in panels[1, 0].get_xticklabels()]
    assert ticks == ["nothing", *(stage.name for stage in stages)]
    for axes, name in zip(panels[0, 1:], ("deletion", "insertion"), strict=True):
        lines, curves = axes.get_lines(), getattr(tests, name).curves
        drawn = {line.get_label(): line.get_ydata() for line in lines}
        np.testing.assert_allclose(drawn["the map's order"], curves["map"])
        np.testing.assert_allclose(drawn["random order"], curves["random"])
    assert set(TESTS) > {"deletion"}


def test_it_is_drawn(saliency) -> None:
    """Also where nothing is defined; the colours are there."""
    buffer = BytesIO()
    module.saliency_figure(saliency).savefig(buffer)
    buffer.seek(0)
    pixels = mpl_image.imread(buffer)
    assert pixels.shape[:2] == (720, 1320)
    blue = np.abs(pixels[..., :3] - np.array([0, 0.447, 0.698])).max(axis=2) < 0.02
    assert blue[:360].sum() > 200


PHANTOM = Phantom(patients=60)
NAN = float("nan")


@pytest.fixture(scope="module")
def audit() -> Audit:
    result = audit_split(PHANTOM, patient_split(PHANTOM.records, None), draws=5)
    return replace(result, command="xray audit data=<script>")


def test_sections_and_addresses(audit: Audit, parsed) -> None:
    text = audit_page(audit)
    page = parsed(text)
    sections = {"subsets", "leakage", "shift", "baselines", "limits", "reproduce"}
    assert sections | {"figure-ratios", "figure-baselines"} <= set(page.ids)
    assert "decomposition" not in page.ids
    assert "&lt;script&gt;" in text
    assert len(text) < 1_000_000
    assert COLOURS[0].lower() in text
    assert all(f"{row.ratio:.2f}" in text for row in audit.shift.prevalence)
    assert all(f"{row.result.mean:.3f}" in text for row in audit.baselines)
    assert audit.split["fingerprint"] in text


def test_checkpoint_lists_and_decomposition(audit: Audit, parsed) -> None:
    seen = {"train": 7, "val": 0, "test": 4321}
    leakage = replace(
        audit.leakage,
        checkpoint=CheckpointOverlap("best.ckpt", True, None, False, False, seen),
        lists=[ListMatch("mine", 9, 3, 6, "x.png", {"train": 1, "val": 1, "test": 1})],
    )
    none = (0.0, (NAN, NAN))
    change = Decomposition(
        *(2, 0.8, 0.7, NAN, none, none, none, 10.0, 5.0, 20, 0.1, {"Mass": (0.8, 0.7, NAN)}),
        matched=[MatchedChange("view AP", 2, 0.5, NAN, NAN, (NAN, NAN), 1, 2)],
        severity=[],
    )
    text = audit_page(replace(audit, leakage=leakage, decomposition=change))
    assert "test 4,321" in text
    assert "not those of this split" in text
    assert "1 matched comparisons are not corrected for their number" in " ".join(text.split())
    assert "decomposition" in parsed(text).ids
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)


def test_duplicates(audit: Audit, parsed) -> None:
    """Pairs by kind, the listed ones, and what was not compared."""
    pair = Pair(("<a>.png", "b.png"), ("train", ""), False, False, 0.98765)
    counts = PairCount(3, 2, 1, 1), PairCount(4321, 2, 1, 1)
    duplicates = Duplicates(1234, 96, 5, *counts, 1, [pair], not_on_disk=6)
    text = audit_page(audit)
    assert "no image was read" in text
    assert "not looked for: that needs the pixels" in text
    text = audit_page(replace(audit, leakage=replace(audit.leakage, duplicates=duplicates)))
    said = " ".join(re.sub(r"<[^>]+>", " ", text).split())
    assert "1,234 were compared at 96 px; 6 are not on disk; 5 are blank" in said
    assert "nearly equal 4,321 2 1 1" in said
    assert "&lt;a&gt;.png train b.png - two 0.9877" in said
    assert parsed(text)
    assert "no image was read" not in text


def test_hospitals(parsed, at_80_columns) -> None:
    other = Phantom(patients=60)
    other.records = [replace(record, sex="", view="PA") for record in other.records]
    source = Several({"a": PHANTOM, "b": other})
    audit = audit_split(source, patient_split(source.records, None), draws=5)
    assert Audit.from_json(audit.to_json()).to_json() == audit.to_json()
    page = parsed(audit_page(audit))
    assert page.row("a and b") == ["60", "not compared"]
    share = audit.hospitals.shifts["b"].prevalence[0].value["b"]
    assert page.row(source.labels[0], 1)[:2] == [f"{100 * share:.1f} %"] * 2
    assert "not known in both: sex F, sex M" in at_80_columns(audit_tables(audit))
    assert audit.gist[-3].startswith("a and b: 60 patients are in both, pixels were not compared")


def test_tables_fit_80_columns(audit: Audit, at_80_columns) -> None:
    text = at_80_columns(audit_tables(audit))
    assert all(row.name in text for row in audit.shift.prevalence)


def test_shortcut_lines_fit_and_say_why(at_80_columns) -> None:
    check = Check(0.1, (0.05, 0.2), 0.05, "flagged")
    drop = Drop(check, check, check, "flagged")
    regions = "corners", "border", "letters", "planted marker"
    covered = dict.fromkeys(regions, ScoreDrop(9, 0.1, drop, drop, "flagged"))
    labels = {
        name: LabelShortcut(verdict, f"{name}!", Estimate(0.5), 3, covered, {})
        for name, verdict in (("Mass", "undecided"), ("Edema", "not caught"), ("Nodule", "caught"))
    }
    probes = {"sex: M": Probe(0.5, (0.4, 0.6), NAN, (NAN, NAN), 31, 19)}
    lines = module.shortcut_lines(Shortcuts(labels, probes, 31, 30, 50, 0), "a.ckpt")
    assert lines[-3:] == [
        "Nodule caught: Nodule!",
        "Mass undecided: Mass!",
        "caught: Nodule; not caught: 1; undecided: 1",
    ]
    text = at_80_columns(lines)
    assert "0.10 / 0.10" in text
    assert "0.500 (0.40-0.60)" in text


SUMMARY = {"positives": {"Mass": 1200, "Hernia": 0}, "fingerprint": "[abc]"}
SUMMARY |= {"auroc": {"mean": 0.75, "defined": 1, "labels": {"Mass": 0.75, "Hernia": None}}}
SUMMARY |= {"images": 4000, "patients": 900}


def test_auroc_table(capsys) -> None:
    show(tabulate("aurocs", {"test": SUMMARY}, "nih [f00d]"), *say("subsets", {"test": SUMMARY}))
    text = capsys.readouterr().out
    assert "nih [f00d]" in text, "square brackets are no markup"
    assert "1,200" in text
    assert "1/2 defined" in text
    assert "test: 4,000 images of 900 patients [[abc]]\n" in text
    line, mean = say("subsets", {"test": SUMMARY | {"tta": "flip"}})
    assert mean == "mean test AUROC 0.75 over 1 label"
    assert line.endswith("mirror image (tta=flip)")


def test_text_from_data_is_no_markup(capsys) -> None:
    names = ("[/red]", "[red]x[bold]", ":skull:", "\\[b]", "[link=http://x]", "** a | b", "===")
    auroc = SUMMARY["auroc"] | {"labels": dict.fromkeys(names, 0.5)}  # type: ignore[operator]
    odd = SUMMARY | {"auroc": auroc, "positives": dict.fromkeys(names, 1)}
    show(tabulate("aurocs", {"test": odd}, ""), *names)
    text = capsys.readouterr().out
    for name in names:
        assert text.count(name) == 2


def test_a_progress_bar_shows_a_label_as_it_is(capsys) -> None:
    for name in ("[/red]", "{task} {0}", "[red]"):
        with show_progress(name) as report:
            report(1, 1)
        assert name in capsys.readouterr().err


def summary(counts: SubsetCounts) -> DataSummary:
    totals = (counts.images, counts.patients, 0, counts.positives)
    return DataSummary("t", *totals, "abc", {"train": counts}, "patient", 0, 0, None, [])


def test_counts_table(capsys) -> None:
    counts = SubsetCounts(50, 9, {"Mass": 5, "Hernia": 0}, {"Mass": 50, "Hernia": 0})
    show(tabulate("counts", summary(counts)))
    assert "5 (10.0 %)" in capsys.readouterr().out


def test_unknown_patients(capsys) -> None:
    line, _ = say("subsets", {"test": SUMMARY | {"patients": None}})
    assert line == "test: 4,000 images of an unknown number of patients [[abc]]"
    show(tabulate("counts", summary(SubsetCounts(5000, None, {"Mass": 5}, {"Mass": 50}))))
    text = capsys.readouterr().out
    assert "5,000" in text
    (row,) = [line for line in text.splitlines() if "patients" in line]
    assert "-" in row
