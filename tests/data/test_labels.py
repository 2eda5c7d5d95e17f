"""``xray labels``: the map of labels, with images counted where a folder is named."""

import json

import pytest

from xray_lightning.cli.labels import labels
from xray_lightning.data.labels import LabelTable


def rows(capsys: pytest.CaptureFixture[str], *settings: str) -> dict[str, dict[str, dict]]:
    labels(settings, as_json=True)
    table = LabelTable.from_json(json.loads(capsys.readouterr().out))
    assert LabelTable.from_json(table.to_json()) == table
    return {row.label: row.to_json()["sets"] for row in table.rows}


def test_images_are_counted_where_a_folder_is_named(nih_folder, capsys) -> None:
    found = rows(capsys, "data.sets=[nih,rsna,phantom]", f"data.nih.root={nih_folder.root}",
                 "data.phantom.patients=4")  # fmt: skip
    assert list(found)[:2] == ["Atelectasis", "Cardiomegaly"]
    assert len(found) == 14
    counts = {name: found["Hernia"]["nih"][name] for name in ("positives", "negatives", "unknown")}
    assert counts == {"positives": 1, "negatives": 4, "unknown": 0}
    assert found["Pneumonia"]["rsna"]["words"] == ["Lung Opacity"]
    assert found["Pneumonia"]["rsna"]["positives"] is None  # no folder was named
    assert found["Hernia"]["rsna"]["words"] == []
    assert found["Hernia"]["phantom"]["negatives"] > 0  # it needs no folder


def test_every_set_without_one_named(capsys) -> None:
    found = rows(capsys)
    assert found["Nodule/Mass"]["nih"]["derived"]
    assert found["Nodule"]["vindr"]["wider"] == ["Nodule/Mass", "Lung Opacity"]  # nearest first
    assert found["Nodule"]["chexpert"]["wider"] == ["Lung Lesion", "Lung Opacity"]


def test_the_table_fits(nih_folder, csv_folder, capsys) -> None:
    table = csv_folder("image,Nodule,Own,Nodule/Mass", "a.png,1,0,", "sub/b.png,,1,1")
    labels([])
    labels(["data=[csv,nih]", f"data.nih.root={nih_folder.root}", f"data.csv.table={table}"])
    text = capsys.readouterr().out
    drawn = [line for line in text.splitlines() if not line.startswith(("note", "-:", "="))]
    assert max(map(len, map(str.rstrip, drawn))) <= 80
    assert "1/0" in text
    assert "? 1" in text
    assert "Nodule or Mass" in text.replace("Nodule or  ", "Nodule or Mass")  # broken at 13
    assert "- (Lung" in text
