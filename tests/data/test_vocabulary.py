"""labels.yaml, data sets read by it, and ``xray labels``, which counts their images."""

import json
import math

import numpy as np
import pytest

from xray_lightning import ConfigError, Phantom, relabel, shared_labels, union_labels
from xray_lightning.cli.labels import labels
from xray_lightning.data import vocabulary
from xray_lightning.data.labels import LabelTable
from xray_lightning.data.source import Source
from xray_lightning.records import CHEST_XRAY14, Box, Record

NAN = math.nan
SETS = {"nih", "rsna", "chexpert", "mimic", "padchest", "vindr", "siim", "openi", "nih_expert"}
SETS |= {"chestxdet", "phantom"}
CHEXPERT = {  # the columns of its train.csv
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion"),
    *("Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion"),
    *("Pleural Other", "Fracture", "Support Devices"),
}


class Made(Source):
    """A data set of the given targets, one row an image."""

    def __init__(self, name: str, labels: tuple[str, ...], *rows: tuple[float, ...]) -> None:
        self.name, self.labels = name, labels
        boxes = tuple(Box(label, 0, 0, 1, 1) for label in labels)
        self.records = [Record(f"{k}", f"p{k}", row, boxes=boxes) for k, row in enumerate(rows)]

    def mask(self, record: Record, label: str) -> np.ndarray:
        return np.array([[name == label for name in self.labels]])


def test_the_map_is_sound() -> None:
    findings = vocabulary.read_vocabulary()
    assert {data_set for finding in findings.values() for data_set in finding.words} == SETS
    for finding in findings.values():
        assert {*finding.wider, *finding.union} <= findings.keys() - {finding.name}
        assert finding.words, f"{finding.name}: no data set tells it"
    codes = [finding.snomed for finding in findings.values() if finding.snomed]
    assert len(set(codes)) == len(codes)
    assert list(findings)[:14] == list(CHEST_XRAY14)
    assert vocabulary.list_findings("nih", CHEST_XRAY14) == list(CHEST_XRAY14)
    for data_set in ("chexpert", "mimic"):  # each of their labels is claimed once
        words = [word for f in findings.values() for word in f.words.get(data_set, ())]
        assert sorted(words) == sorted(CHEXPERT)


def test_wider_and_narrower() -> None:
    assert {"Pneumonia", "Consolidation", "Edema", "Atelectasis"} <= {
        *vocabulary.list_narrower("Lung Opacity")
    }
    assert vocabulary.list_narrower("Nodule/Mass") == ("Mass", "Nodule")
    for wider, narrower in (("Lung Opacity", "Pneumonia"), ("Pleural Other", "Pleural_Thickening")):
        assert vocabulary.find_wording("mimic", [wider], narrower) is None
        assert vocabulary.find_wording("mimic", [narrower], wider) is None
    (record,) = relabel(Made("vindr", ("Nodule/Mass",), (0.0,)), ["Nodule"]).records
    assert math.isnan(record.targets[0])  # a negative wider label tells nothing either


def test_words_of_the_sets() -> None:
    chexpert = Made("chexpert", ("Pleural Effusion", "Lung Opacity", "Other"), (1, 0, NAN))
    rsna = Made("rsna", ("Lung Opacity",), (1,))
    labels = ["Lung Opacity", "Effusion", "Pneumonia"]
    (record,) = relabel(chexpert, labels).records
    np.testing.assert_equal(record.targets, (0, 1, NAN))
    assert [box.label for box in record.boxes] == ["Effusion", "Lung Opacity"]
    np.testing.assert_equal(relabel(rsna, labels).records[0].targets, (NAN, NAN, 1))
    again = relabel(relabel(rsna, labels), labels)  # what it was called before is not forgotten
    np.testing.assert_equal(again.records[0].targets, (NAN, NAN, 1))
    assert shared_labels([chexpert, rsna]) == []
    assert union_labels([chexpert, rsna]) == ["Effusion", "Pneumonia", "Lung Opacity", "Other"]
    own = Made("mine", ("Mass", "Pleural effusion"), (1, 0))  # equal names alone
    assert vocabulary.list_findings("mine", own.labels) == ["Mass", "Pleural effusion"]
    assert (
        "labels by another name: Effusion is Pleural Effusion"
        in relabel(chexpert, ["Effusion", "Mass"]).notes
    )


def test_an_exact_union_is_derived() -> None:
    rows = [(1, 0), (0, 0), (0, NAN), (NAN, 1), (0.3, 0)]
    nih = Made("nih", ("Nodule", "Mass"), *rows)
    vindr = Made("vindr", ("Nodule/Mass",), (0.3,))
    derived = relabel(nih, ["Nodule/Mass"])
    targets = [record.targets[0] for record in derived.records]
    np.testing.assert_equal(targets, [1, 0, NAN, 1, NAN])
    assert "labels by another name: Nodule/Mass is Nodule or Mass (derived)" in derived.notes
    assert derived.mask(derived.records[0], "Nodule/Mass").tolist() == [[True, True]]
    assert derived.mask(derived.records[0], "Edema") is None
    assert relabel(vindr, ["Nodule/Mass"]).records[0].targets == (0.3,)  # a share stays one
    assert shared_labels([nih, vindr]) == ["Nodule/Mass"]
    assert union_labels([nih]) == ["Mass", "Nodule"]  # not what would be derived alone


def test_the_rest_is_the_data_set_s_own() -> None:
    phantom = Phantom(patients=3, size=32)
    changed = relabel(phantom, ["Hernia", "Nodule/Mass"])
    assert changed.identity() == phantom.identity()
    assert (changed.name, changed.title, changed.missing) == ("phantom", "phantom", ())
    np.testing.assert_array_equal(
        changed.read(changed.records[0]), phantom.read(phantom.records[0])
    )


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (["Pneumonja"], "'Pneumonja': Pneumonia?"),
        (["Pleural effusion"], "'Pleural effusion': Effusion?"),
        (["Mass", "Mass"], "different findings"),
        ([], "different findings"),
        ("Mass", "different findings"),
    ],
)
def test_labels_nobody_knows(labels: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named.replace("?", r"\?")):
        relabel(Made("nih", ("Mass",), (1,)), labels)


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
