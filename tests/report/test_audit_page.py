"""The page stands alone: every section, no other host, nothing unescaped."""

import re
from collections.abc import Callable

import pytest

from xray_lightning.audit.run import audit_facts, gist
from xray_lightning.data.phantom import Phantom
from xray_lightning.data.splits import patient_split
from xray_lightning.report.audit_page import audit_page
from xray_lightning.report.figures import COLOURS
from xray_lightning.report.page import p_text

PHANTOM = Phantom(patients=60)


@pytest.fixture(scope="module")
def facts() -> dict:
    values = audit_facts(PHANTOM, patient_split(PHANTOM.records, None), draws=5)
    return {**values, "gist": gist(values), "command": "xray audit data=<script>"}


def test_sections_and_addresses(facts: dict, parsed: Callable) -> None:
    text = audit_page(facts)
    page = parsed(text)
    assert not page.open
    sections = {"parts", "leakage", "shift", "baselines", "limits", "reproduce"}
    assert sections | {"figure-ratios", "figure-baselines"} <= set(page.ids)
    assert "decomposition" not in page.ids
    assert all(address.startswith("#") for address in page.addresses)
    hosts = set(re.findall(r"https?://[^\"'\s)]+", text))
    assert hosts <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert len(page.ids) == len(set(page.ids))
    assert len(text) < 1_000_000
    assert COLOURS[0].lower() in text


def test_every_figure_of_the_facts_is_on_the_page(facts: dict) -> None:
    text = audit_page(facts)
    for row in facts["shift"]["prevalence"]:
        assert f"{row['ratio']:.2f}" in text
    for row in facts["baselines"]:
        assert f"{row['result']['mean']:.3f}" in text
    assert facts["split"]["fingerprint"] in text


def test_checkpoint_lists_and_decomposition(facts: dict, parsed: Callable) -> None:
    leakage = {
        **facts["leakage"],
        "checkpoint": {
            "path": "best.ckpt",
            "seen": {"train": 7, "val": 0, "test": 4321},
            "same_training_images": False,
        },
        "lists": [
            {"name": "mine", "listed": 9, "found": 3, "absent": 6, "first_absent": "x.png"}
            | {"parts": {"train": 1, "val": 1, "test": 1}}
        ],
    }
    row = {"name": "view AP", "labels": 2, "val": 0.5, "test": None, "change": None}
    row |= {"interval": [None, None], "val_images": 1, "test_images": 2}
    pair = [0.0, [None, None]]
    decomposition = {"labels": 2, "val": 0.8, "test": 0.7, "reweighted": None, "change": pair}
    decomposition |= {"case_mix": pair, "rest": pair, "effective_images": 10.0}
    decomposition |= {"effective_patients": 5.0, "test_images": 20, "uncovered": 0.1}
    decomposition |= {"by_label": {"Mass": [0.8, 0.7, None]}, "matched": [row], "severity": []}
    text = audit_page({**facts, "leakage": leakage, "decomposition": decomposition})
    assert "test 4,321" in text
    assert "not those of this split" in text
    assert "1 matched comparisons are not corrected for their number" in " ".join(text.split())
    assert "decomposition" in parsed(text).ids


def test_duplicates(facts: dict, parsed: Callable) -> None:
    """Pairs by kind, the listed ones, and what was not compared."""
    count = {"pairs": 3, "other_patients": 2, "learned_and_tested": 1, "leaked_unseen": 1}
    pair = {"images": ["<a>.png", "b.png"], "parts": ["train", ""], "same_patient": False}
    pair |= {"exact": False, "correlation": 0.98765}
    found = {"images": 1234, "size": 96, "blank": 5, "not_on_disk": 6, "test_images": 1}
    found |= {"exact": count, "near": {**count, "pairs": 4321}, "named": [pair]}
    found |= {"distance": 8, "correlation": 0.98}
    assert "no image was read" in audit_page(facts)
    assert "not looked for: that needs the pixels" in audit_page(facts)
    text = audit_page({**facts, "leakage": {**facts["leakage"], "duplicates": found}})
    said = " ".join(re.sub(r"<[^>]+>", " ", text).split())
    assert "1,234 were compared at 96 px; 6 are not on disk; 5 are blank" in said
    assert "nearly equal 4,321 2 1 1" in said
    assert "&lt;a&gt;.png train b.png - two 0.9877" in said
    assert not parsed(text).open
    assert "no image was read" not in text


def test_p_values() -> None:
    assert (p_text(0.0), p_text(0.0123), p_text(None)) == ("< 0.001", "0.012", "-")
