from xray_lightning.data.summary import DataSummary, SubsetCounts
from xray_lightning.progress import show_progress
from xray_lightning.report.page import say
from xray_lightning.report.terminal import auroc_table, counts_table, show

SUMMARY = {
    "auroc": {"mean": 0.75, "defined": 1, "labels": {"Mass": 0.75, "Hernia": None}},
    "positives": {"Mass": 1200, "Hernia": 0},
    "images": 4000,
    "patients": 900,
    "fingerprint": "[abc]",
}


def test_auroc_table(capsys) -> None:
    show(auroc_table({"test": SUMMARY}, "nih [f00d]"), *say("subsets", {"test": SUMMARY}))
    text = capsys.readouterr().out
    assert "nih [f00d]" in text, "square brackets are no markup"
    assert "1,200" in text
    assert "1/2 defined" in text
    assert "test: 4,000 images of 900 patients [[abc]]\n" in text
    (line,) = say("subsets", {"test": SUMMARY | {"tta": "flip"}})
    assert line.endswith("mirror image (tta=flip)")


def test_text_from_data_is_no_markup(capsys) -> None:
    names = ("[/red]", "[red]x[bold]", ":skull:", "\\[b]", "[link=http://x]")
    auroc = SUMMARY["auroc"] | {"labels": dict.fromkeys(names, 0.5)}  # type: ignore[operator]
    show(
        auroc_table({"test": SUMMARY | {"auroc": auroc, "positives": dict.fromkeys(names, 1)}}, "")
    )
    show(*names)
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
    show(counts_table(summary(counts)))
    assert "5 (10.0 %)" in capsys.readouterr().out


def test_unknown_patients(capsys) -> None:
    (line,) = say("subsets", {"test": SUMMARY | {"patients": None}})
    assert line == "test: 4,000 images of an unknown number of patients [[abc]]"
    show(counts_table(summary(SubsetCounts(5000, None, {"Mass": 5}, {"Mass": 50}))))
    text = capsys.readouterr().out
    assert "5,000" in text
    (row,) = [line for line in text.splitlines() if "patients" in line]
    assert "-" in row
