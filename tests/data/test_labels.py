"""labels.yaml, data sets read by it, several as one, and ``xray labels``; codes of a labeler as
targets, and that a share trains a loss and tells no metric anything.
"""

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from running import xray

import xray_lightning as xl
from xray_lightning.audit import label_table
from xray_lightning.data import vocabulary
from xray_lightning.data.chexpert import LABELS as CHEXPERT
from xray_lightning.data.samplers import disease_balanced_sampler
from xray_lightning.data.source import Source, patient_keys, readable_records, say
from xray_lightning.data.summary import LabelTable
from xray_lightning.data.uncertain import Coding, parse_code
from xray_lightning.metrics.auroc import PerLabelAUROC, auroc_per_label
from xray_lightning.metrics.compare import compare_aurocs
from xray_lightning.metrics.estimates import estimate_metrics
from xray_lightning.metrics.operating_points import choose_threshold, fit_operating_point
from xray_lightning.records import CHEST_XRAY14, Box, Record, prevalence, target_matrix
from xray_lightning.report.figures import findings_text

NAN = math.nan
SETS = {"nih", "rsna", "chexpert", "mimic", "padchest", "vindr", "siim", "openi", "nih_expert"}
SETS |= {"chestxdet", "phantom"}


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
    narrower = {*vocabulary.list_narrower("Lung Opacity")}
    assert {"Pneumonia", "Consolidation", "Edema", "Atelectasis"} <= narrower
    assert vocabulary.list_narrower("Nodule/Mass") == ("Mass", "Nodule")
    for wider, narrower in (("Lung Opacity", "Pneumonia"), ("Pleural Other", "Pleural_Thickening")):
        assert vocabulary.find_wording("mimic", [wider], narrower) is None
        assert vocabulary.find_wording("mimic", [narrower], wider) is None
    (record,) = xl.relabel(Made("vindr", ("Nodule/Mass",), (0.0,)), ["Nodule"]).records
    assert math.isnan(record.targets[0])  # a negative wider label tells nothing either


def test_words_of_the_sets() -> None:
    chexpert = Made("chexpert", ("Pleural Effusion", "Lung Opacity", "Other"), (1, 0, NAN))
    rsna = Made("rsna", ("Lung Opacity",), (1,))
    labels = ["Lung Opacity", "Effusion", "Pneumonia"]
    (record,) = xl.relabel(chexpert, labels).records
    np.testing.assert_equal(record.targets, (0, 1, NAN))
    assert [box.label for box in record.boxes] == ["Effusion", "Lung Opacity"]
    np.testing.assert_equal(xl.relabel(rsna, labels).records[0].targets, (NAN, NAN, 1))
    again = xl.relabel(xl.relabel(rsna, labels), labels)  # its earlier name is not forgotten
    np.testing.assert_equal(again.records[0].targets, (NAN, NAN, 1))
    assert xl.shared_labels([chexpert, rsna]) == []
    assert xl.union_labels([chexpert, rsna]) == ["Effusion", "Pneumonia", "Lung Opacity", "Other"]
    own = Made("mine", ("Mass", "Pleural effusion"), (1, 0))  # equal names alone
    assert vocabulary.list_findings("mine", own.labels) == ["Mass", "Pleural effusion"]
    notes = xl.relabel(chexpert, ["Effusion", "Mass"]).notes
    assert "labels by another name: Effusion is Pleural Effusion" in notes


def test_an_exact_union_is_derived() -> None:
    rows = [(1, 0), (0, 0), (0, NAN), (NAN, 1), (0.3, 0)]
    nih = Made("nih", ("Nodule", "Mass"), *rows)
    vindr = Made("vindr", ("Nodule/Mass",), (0.3,))
    derived = xl.relabel(nih, ["Nodule/Mass"])
    np.testing.assert_equal([record.targets[0] for record in derived.records], [1, 0, NAN, 1, NAN])
    assert "labels by another name: Nodule/Mass is Nodule or Mass (derived)" in derived.notes
    assert derived.mask(derived.records[0], "Nodule/Mass").tolist() == [[True, True]]
    assert derived.mask(derived.records[0], "Edema") is None
    assert xl.relabel(vindr, ["Nodule/Mass"]).records[0].targets == (0.3,)  # a share stays one
    assert xl.shared_labels([nih, vindr]) == ["Nodule/Mass"]
    assert xl.union_labels([nih]) == ["Mass", "Nodule"]  # not what would be derived alone


def test_the_rest_is_the_data_set_s_own() -> None:
    phantom = xl.Phantom(patients=3, size=32)
    changed = xl.relabel(phantom, ["Hernia", "Nodule/Mass"])
    assert changed.identity() == phantom.identity()
    assert (changed.name, changed.title, changed.missing) == ("phantom", "phantom", ())
    pixels = [source.read(source.records[0]) for source in (changed, phantom)]
    np.testing.assert_array_equal(*pixels)


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
    with pytest.raises(xl.ConfigError, match=named.replace("?", r"\?")):
        xl.relabel(Made("nih", ("Mass",), (1,)), labels)


def rows(*settings: str) -> dict[str, dict[str, dict]]:
    table = LabelTable.from_json(json.loads(xray("labels", *settings, "--json")))
    assert LabelTable.from_json(table.to_json()) == table
    return {row.label: row.to_json()["sets"] for row in table.rows}


def test_images_are_counted_where_a_folder_is_named(nih_folder) -> None:
    named = f"data.nih.root={nih_folder.root}", "data.phantom.patients=4"
    found = rows("data.sets=[nih,rsna,phantom]", *named)
    assert (list(found)[:2], len(found)) == (["Atelectasis", "Cardiomegaly"], 14)
    hernia, rsna = found["Hernia"], found["Pneumonia"]["rsna"]
    assert {"positives": 1, "negatives": 4, "unknown": 0}.items() <= hernia["nih"].items()
    assert (rsna["words"], rsna["positives"]) == (["Lung Opacity"], None)  # no folder was named
    assert hernia["rsna"]["words"] == []
    assert hernia["phantom"]["negatives"] > 0  # it needs no folder
    found = rows()  # every set, without one named
    assert found["Nodule/Mass"]["nih"]["derived"]
    assert found["Nodule"]["vindr"]["wider"] == ["Nodule/Mass", "Lung Opacity"]  # nearest first
    assert found["Nodule"]["chexpert"]["wider"] == ["Lung Lesion", "Lung Opacity"]


def test_the_table_fits(nih_folder, csv_folder) -> None:
    table = csv_folder("image,Nodule,Own,Nodule/Mass", "a.png,1,0,", "sub/b.png,,1,1")
    named = f"data.nih.root={nih_folder.root}", f"data.csv.table={table}"
    text = xray("labels") + xray("labels", "data=[csv,nih]", *named)
    drawn = [line for line in text.splitlines() if not line.startswith(("note", "-:", "="))]
    assert max(map(len, map(str.rstrip, drawn))) <= 80
    assert "1/0" in text
    assert "? 1" in text
    assert "Nodule or Mass" in text.replace("Nodule or  ", "Nodule or Mass")  # broken at 13
    assert "- (Lung" in text


LABELS = ("Edema", "Fracture")
CODES = np.array([[1.0, NAN], [-1.0, 0.0], [NAN, -1.0], [-1.0, -1.0]])
IDS = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
MIXED, NEGATIVE = {"default": "ignore", "Edema": "ones"}, {"default": "negative"}


@pytest.mark.parametrize(
    ("uncertain", "blank", "expected"),
    [
        ("zeros", "negative", [[1, 0], [0, 0], [0, 0], [0, 0]]),
        ("ones", "negative", [[1, 0], [1, 0], [0, 1], [1, 1]]),
        ("ignore", "unknown", [[1, NAN], [NAN, 0], [NAN, NAN], [NAN, NAN]]),
        (MIXED, {**NEGATIVE, "Fracture": "unknown"}, [[1, NAN], [1, 0], [0, NAN], [1, NAN]]),
        ({"Edema": "zeros", "Fracture": "ones"}, "negative", [[1, 0], [0, 0], [0, 1], [0, 1]]),
    ],
)
def test_codes_become_targets(uncertain, blank, expected) -> None:
    np.testing.assert_array_equal(Coding(LABELS, uncertain, blank).read(CODES, IDS), expected)


def test_smooth_draws_from_its_range_for_each_image_alone() -> None:
    names, codes = [f"{i}.jpg" for i in range(4_000)], np.full((4_000, 2), -1.0)
    smooth = Coding(LABELS, "smooth")
    shares = smooth.read(codes, names)
    assert ((shares > 0.55) & (shares < 0.85)).all()
    np.testing.assert_allclose(shares.mean(axis=0), 0.70, atol=0.005)
    np.testing.assert_allclose(shares.std(axis=0), 0.30 / math.sqrt(12), atol=0.005)
    assert abs(np.corrcoef(shares.T)[0, 1]) < 0.05
    again = smooth.read(codes[:9], names[:9][::-1])
    np.testing.assert_array_equal(again, shares[:9][::-1])  # whatever else is in the table
    assert (replace(smooth, seed=1).read(codes, names) != shares).any()
    whole = replace(smooth, smooth=(0, 1)).read(codes, names).astype(np.float32)
    assert ((whole > 0) & (whole < 1)).all()  # never certain, in single precision either


def test_choices_name_what_targets_depend_on() -> None:
    described = Coding(LABELS, "zeros", "negative", seed=3).describe()
    assert described == {"uncertain": "zeros", "blank": "negative"}
    choice = {"default": "ones", "Edema": "smooth"}
    assert Coding((*LABELS, "Pneumonia"), choice, "unknown", smooth=(0, 0.3)).describe() == {
        "uncertain": "ones but Edema smooth", "blank": "unknown", "smooth": "0 to 0.3", "seed": "0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"uncertain": "maybe"}, "maybe"),
        ({"blank": "zeros"}, "zeros"),
        ({"uncertain": {"Oedema": "ones", "default": "zeros"}}, "Oedema"),
        ({"uncertain": {"Edema": "ones"}}, "Edema"),  # nothing for Fracture
        ({"smooth": (0.9, 0.1)}, "0.9, 0.1"),
        ({"smooth": (0, 2)}, "0, 2"),
        ({"smooth": None}, "None"),
    ],
)
def test_wrong_choices(settings: dict[str, object], value: str) -> None:
    with pytest.raises(xl.ConfigError, match=value):
        Coding(LABELS, **settings).read(CODES, IDS)


@pytest.mark.parametrize("cell", ["2", "present", "nan", "0.5"])
def test_no_code(cell: str) -> None:
    assert [parse_code(code) for code in ("1.0", "0", "-1.0")] == [1, 0, -1]
    with pytest.raises((KeyError, ValueError)):  # the table says where
        parse_code(cell)


def with_targets(share: float) -> Source:
    """A phantom, every third target of which is ``share``."""
    source = xl.Phantom(patients=40, size=32)
    holes = np.random.default_rng(0).random((len(source.records), 14)) < 1 / 3
    source.records = [
        replace(record, targets=tuple(np.where(hole, share, record.targets).tolist()))
        for record, hole in zip(source.records, holes, strict=True)
    ]
    return source


SHARES, UNKNOWN = with_targets(0.7), with_targets(NAN)


def test_tables_splits_and_samplers_take_a_share_as_unknown(tmp_path) -> None:
    sampler = partial(disease_balanced_sampler, normal_share=0)
    ours, theirs = (
        xl.XrayDataModule(source, sampler=sampler, image_size=32, cache_dir=tmp_path)
        for source in (SHARES, UNKNOWN)
    )
    assert ours.split.fingerprint == theirs.split.fingerprint
    summaries = [xl.summarise_data(s, xl.patient_split(s.records, None)) for s in (SHARES, UNKNOWN)]
    assert summaries[0] == summaries[1]
    for subset in ("train", "val", "test"):
        np.testing.assert_array_equal(ours.subset_targets(subset), theirs.subset_targets(subset))
    np.testing.assert_array_equal(ours.class_counts(), theirs.class_counts())
    np.testing.assert_array_equal(ours.positive_weight(), theirs.positive_weight())
    np.testing.assert_array_equal(ours.draw_targets(2), theirs.draw_targets(2))
    tables = [label_table.LabelTable.of(s.records, s.labels) for s in (SHARES, UNKNOWN)]
    np.testing.assert_array_equal(tables[0].targets, tables[1].targets)
    said = say("targets", dict(zip(LABELS, (0.7, 1.0), strict=True)))
    assert said == ["Fracture", "unknown: Edema"]
    assert findings_text(np.array([0.7, 0.0]), LABELS) == "unknown"
    raw = target_matrix(SHARES.records, shares=True)
    np.testing.assert_array_equal(prevalence(raw), prevalence(target_matrix(UNKNOWN.records)))


def test_training_images_carry_shares_and_evaluated_ones_do_not(tmp_path) -> None:
    data = xl.XrayDataModule(SHARES, image_size=32, cache_dir=tmp_path)
    for subset in ("train", "val", "test"):
        targets = data.dataset(subset).targets
        assert bool((targets == np.float32(0.7)).any()) == (subset == "train")
        assert bool(torch.isnan(targets).any()) == (subset != "train")
    data.permute_labels = True  # the control moves shares with the rest of their image's targets
    hard, soft = (data.subset_targets("train", shares=shares) for shares in (False, True))
    np.testing.assert_array_equal(np.isnan(hard), soft == np.float32(0.7))


def test_metrics_take_a_share_as_unknown() -> None:
    soft = target_matrix(SHARES.records, shares=True)
    scores = np.random.default_rng(1).random(soft.shape)
    patients = [record.patient_id for record in SHARES.records]
    bootstrap, half = xl.PatientBootstrap(patients, draws=30), dict.fromkeys(SHARES.labels, 0.5)

    def figures(targets) -> list[object]:
        tensors, metric = (torch.tensor(scores), torch.tensor(targets)), PerLabelAUROC(14)
        metric.update(*tensors)
        columns, single = (scores[:, 1], targets[:, 1]), scores.astype(np.float32)
        return [
            auroc_per_label(*tensors),
            metric.compute(),
            estimate_metrics(SHARES.labels, scores, targets, patients, thresholds=half, draws=30),
            compare_aurocs(SHARES.labels, targets, patients, [scores], [scores**2 % 0.3], draws=30),
            choose_threshold(*columns, minimum_positives=1),
            fit_operating_point(*columns, bootstrap, minimum_positives=1),
            xl.Predictions.of(SHARES.records, SHARES.labels, single, targets).targets.tolist(),
        ]

    assert repr(figures(soft)) == repr(figures(target_matrix(UNKNOWN.records)))


@pytest.fixture
def nih_and_rsna(nih_folder, rsna_folder) -> xl.Several:
    """NIH's patients 1 to 3 and RSNA's 1 to 9, told by the map."""
    rsna = xl.Rsna(rsna_folder.root, nih_map=rsna_folder.nih_map())
    return xl.Several({"nih": xl.ChestXray14(nih_folder.root), "rsna": rsna})


def test_patients_of_one_population_stay_together(nih_and_rsna: xl.Several) -> None:
    records = nih_and_rsna.records
    assert [record.image_id for record in records[:1]] == ["nih/00000001_000.png"]
    assert {record.hospital for record in records} == {"nih", "rsna"}
    nih, rsna = ({r.patient_id for r in records if r.hospital == name} for name in ("nih", "rsna"))
    assert nih & rsna == {"nih/1", "nih/2", "nih/3"}
    assert "3 patients are in both nih and rsna: no split sets them apart" in nih_and_rsna.notes
    assert xl.patient_split(records, None, fractions=(0.4, 0.3, 0.3)).leaked_patients == 0
    assert nih_and_rsna.population == "nih"
    keys = dict(zip(patient_keys("nih", records), records, strict=True))
    plain = [replace(records[0], patient_id="1", hospital="")]
    assert patient_keys("nih", plain)[0] in keys
    assert patient_keys("other", plain)[0] not in keys


def test_labels_unknown_elsewhere(nih_and_rsna: xl.Several) -> None:
    labels = nih_and_rsna.labels
    assert len(labels) == 14
    positive = next(r for r in nih_and_rsna.records if r.image_id == "rsna/id-00")
    told = {label for label, t in zip(labels, positive.targets, strict=True) if not math.isnan(t)}
    assert told == {box.label for box in positive.boxes} == {"Pneumonia"}
    assert nih_and_rsna.title == "nih + rsna (negatives: all)"
    untold = "rsna: labels it does not tell: Atelectasis"
    assert any(note.startswith(untold) for note in nih_and_rsna.notes)
    assert nih_and_rsna.official is None  # RSNA has none here


@pytest.mark.filterwarnings("ignore::xray_lightning.UnknownPatientsWarning")
def test_without_the_map_patients_are_apart(nih_folder, rsna_folder) -> None:
    sources = {"nih": xl.ChestXray14(nih_folder.root), "rsna": xl.Rsna(rsna_folder.root)}
    both = xl.Several(sources, labels="shared")
    assert (both.labels, both.population) == (("Pneumonia",), "")
    assert all(r.patient_id == r.image_id for r in both.records if r.hospital == "rsna")


def test_pixels_masks_and_official_lists_of_each() -> None:
    here, there = xl.Phantom(patients=20, size=32), xl.Phantom(patients=20, size=48, seed=1)
    both = xl.Several({"here": here, "there": there}, labels=["Mass", "Nodule/Mass"])
    first, last = both.records[0], both.records[-1]
    np.testing.assert_array_equal(both.read(first), here.read(here.records[0]))
    np.testing.assert_array_equal(both.read(last), there.read(there.records[-1]))
    boxed = next(r for r in both.records if r.hospital == "there" and r.targets[0] == 1)
    own = next(r for r in there.records if f"there/{r.image_id}" == boxed.image_id)
    np.testing.assert_array_equal(both.mask(boxed, "Mass"), there.mask(own, "Mass"))
    assert both.population == "phantom-0,phantom-1"
    assert set(both.official) == set(here.official)
    split = xl.official_split(both.records, both.official)
    tested = {both.records[i].image_id for i in split.subsets["test"]}
    wanted = [f"here/{i}" for i in here.official["test"]]
    assert tested == {*wanted, *(f"there/{i}" for i in there.official["test"])}
    assert both.identity()["there.size"] == 48
    assert both.choices == {}


def test_lists_of_two_kinds_and_missing_images(csv_folder) -> None:
    rows = "a.png,0,train,0,1", "sub/b.png,1,val,1,1", "c.png,2,test,0,1"
    table = csv_folder("image,patient,split,Mass,Own", *rows)
    mine, phantom = xl.CsvTable(table), xl.Phantom(patients=20, size=32)
    both = xl.Several({"mine": mine, "phantom": phantom}, labels=["Own", "Mass"])
    assert set(both.official) == {"train_val", "test"}
    assert {"mine/a.png", "mine/sub/b.png"} < both.official["train_val"]
    assert both.missing == ("mine/c.png",)
    with pytest.raises(xl.MissingImagesError, match=r"mine/c\.png"):
        readable_records(both)
    with pytest.raises(xl.DataError, match=r"\.png is an image of two data sets"):
        xl.Several({"mine": mine, "other": xl.CsvTable(table)})
    both = xl.Several({"mine": mine, "phantom": phantom}, allow_missing=True)
    assert (len(readable_records(both)), both.labels[-1]) == (len(phantom) + 2, "Own")


def test_several_of_what() -> None:
    phantom = xl.Phantom(patients=3)
    other = xl.Phantom(patients=3)
    other.labels = tuple(f"other {label}" for label in other.labels)
    nothing = Made("nothing", ("Mass", "Own"))
    assert len(xl.Several({"here": phantom, "empty": nothing}).records) == len(phantom)
    assert not xl.relabel(nothing, ["Own"]).records
    with pytest.raises(xl.ConfigError, match=r"data\.sets="):
        xl.Several({})
    with pytest.raises(xl.ConfigError, match="no label is shared"):
        xl.Several({"here": phantom, "there": other}, labels="shared")
    with pytest.raises(xl.ConfigError, match="tells Support Devices"):
        xl.Several({"here": phantom}, labels=["Mass", "Support Devices"])
