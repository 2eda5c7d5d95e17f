"""The page stands alone: every section, no other host, nothing unescaped. The tables fit."""

import re
from dataclasses import replace

import pytest

from xray_lightning import Audit, Estimate, Phantom, Several, Shortcuts, audit_split, patient_split
from xray_lightning.audit.decomposition import Decomposition, MatchedChange
from xray_lightning.audit.leakage import CheckpointOverlap, Duplicates, ListMatch, Pair, PairCount
from xray_lightning.audit.occlusion import Check, Drop, ScoreDrop
from xray_lightning.audit.shortcuts import LabelShortcut, Probe
from xray_lightning.report.audit import audit_page, audit_tables
from xray_lightning.report.explanation import shortcut_lines
from xray_lightning.report.figures import COLOURS

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
    text = at_80_columns(audit_tables(audit))
    assert "not known in both: sex F, sex M" in text
    assert audit.gist[-3].startswith("a and b: 60 patients are in both, pixels were not compared")


def test_tables_fit_80_columns(audit: Audit, at_80_columns) -> None:
    text = at_80_columns(audit_tables(audit))
    assert all(row.name in text for row in audit.shift.prevalence)


def test_shortcut_lines_fit_and_say_why(at_80_columns) -> None:
    check = Check(0.1, (0.05, 0.2), 0.05, "flagged")
    drop = Drop(check, check, check, "flagged")
    covered = dict.fromkeys(
        ("corners", "border", "letters", "planted marker"), ScoreDrop(9, 0.1, drop, drop, "flagged")
    )
    labels = {
        name: LabelShortcut(verdict, f"{name}!", Estimate(0.5), 3, covered, {})
        for name, verdict in (("Mass", "undecided"), ("Edema", "not caught"), ("Nodule", "caught"))
    }
    probes = {"sex: M": Probe(0.5, (0.4, 0.6), NAN, (NAN, NAN), 31, 19)}
    lines = shortcut_lines(Shortcuts(labels, probes, 31, 30, 50, 0), "a.ckpt")
    assert lines[-3:] == [
        "Nodule caught: Nodule!",
        "Mass undecided: Mass!",
        "caught: Nodule; not caught: 1; undecided: 1",
    ]
    text = at_80_columns(lines)
    assert "0.10 / 0.10" in text
    assert "0.500 (0.40-0.60)" in text
