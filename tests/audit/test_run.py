"""The whole audit: what it says of NIH's and RSNA's real tables, and of predictions."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from xray_lightning.audit import shift as shifts
from xray_lightning.audit.label_table import MeanAuroc
from xray_lightning.audit.leakage import CheckpointOverlap, count_overlap, match_list
from xray_lightning.audit.run import Audit, audit_split, decompose_change, say, write_gist
from xray_lightning.audit.shift import BOTH, measure_prevalence, score_by_mean, score_by_previous
from xray_lightning.data.nih import ChestXray14
from xray_lightning.data.partition import LeakySubsetsWarning
from xray_lightning.data.phantom import Phantom
from xray_lightning.data.rsna import Rsna
from xray_lightning.data.splits import image_split, official_split, patient_split
from xray_lightning.errors import TableError
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.records import patient_ids, target_matrix

PHANTOM = Phantom(patients=60)
SPLIT = patient_split(PHANTOM.records, None)


@pytest.fixture(scope="module")
def nih(shared_data) -> ChestXray14:
    return ChestXray14(shared_data / "nih-metadata")


def test_nih_official(nih: ChestXray14, tabled) -> None:
    split = official_split(nih.records, nih.official)
    table, bootstrap = tabled(nih.records, nih.labels, draws=3)
    groups = shifts.add_train_val(split.subsets)
    overlap = count_overlap([record.patient_id for record in nih.records], split.subsets)
    assert (overlap.shared, overlap.in_train_or_val) == (0, 0)
    ratios = {
        r.name: round(r.ratio, 2) for r in shifts.compare_prevalence(table, groups, bootstrap)
    }
    assert (ratios["Pneumothorax"], ratios["Hernia"]) == (3.42, 2.06)
    shift = {row.name: row for row in shifts.compare_metadata(table, groups, bootstrap)}
    view, images = shift["view AP"].value, shift["images per patient"].value
    assert [round(100 * view[subset], 1) for subset in (BOTH, "test")] == [35.0, 56.6]
    assert [round(images[subset], 2) for subset in (BOTH, "test")] == [3.09, 9.15]
    test, prior = split.subsets["test"], measure_prevalence(table, split.subsets["train"])
    for scores, mean in (
        (score_by_previous(table, test, prior), 0.642),
        (score_by_mean(table, test, test, prior), 0.795),
    ):
        result = MeanAuroc.of(nih.labels, scores, table.targets[test], bootstrap.subset(test))
        assert result.mean == pytest.approx(mean, abs=0.001)


def test_nih_image_split(nih: ChestXray14, tabled) -> None:
    with pytest.warns(LeakySubsetsWarning):
        split = image_split(nih.records, nih.official)
    table, bootstrap = tabled(nih.records, nih.labels, draws=1)
    train, test = split.subsets["train"], split.subsets["test"]
    overlap = count_overlap([record.patient_id for record in nih.records], split.subsets)
    trained = set(patient_ids([nih.records[row] for row in train]).tolist())
    assert overlap.in_train == sum(nih.records[row].patient_id in trained for row in test)
    assert overlap.shares[1] > 0.8
    scores = score_by_mean(table, train, test, measure_prevalence(table, train))
    result = MeanAuroc.of(nih.labels, scores, table.targets[test], bootstrap.subset(test))
    assert result.mean > 0.7


def test_rsna_image_split(shared_data) -> None:
    source = Rsna(
        shared_data / "rsna-metadata",
        nih_map=shared_data / "rsna-metadata/rsna_to_nih.csv.gz",
        nih_test_list=shared_data / "nih-metadata/test_list.txt",
    )
    with pytest.warns(LeakySubsetsWarning):
        split = image_split(source.records, None)  # 70/10/20: 80 % learn
    shares = count_overlap([r.patient_id for r in source.records], split.subsets).shares
    assert shares[1] == pytest.approx(0.698, abs=0.01)
    ids = [(record.image_id,) for record in source.records]
    assert match_list("NIH", source.official["test"], ids, split.subsets).present == 7193


def predict(subset: str) -> Predictions:
    records = [PHANTOM.records[row] for row in SPLIT.subsets[subset]]
    targets = target_matrix(records)
    scores = np.random.default_rng(0).random(targets.shape, dtype=np.float32)
    return Predictions.of(records, PHANTOM.labels, scores)


def test_there_and_back() -> None:
    images = {PHANTOM.records[row].image_id for row in SPLIT.subsets["train"][:3]}
    twins = {record.image_id: f"twin{i // 2}" for i, record in enumerate(PHANTOM.records)}
    audit = audit_split(
        PHANTOM,
        SPLIT,
        lists={"a list": images},
        exposures=twins,
        predictions=(predict("val"), predict("test")),
        draws=5,
    )
    values = audit.to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert (Audit.from_json(values).to_json(), values["parts"]) == (values, values["subsets"])
    assert audit.leakage.lists[-1].subsets == {"train": 3, "val": 0, "test": 0}
    assert audit.leakage.exposures.shared > 0
    assert audit.decomposition.test_images == len(SPLIT.subsets["test"])
    assert any("very radiograph" in sentence for sentence in audit.gist)
    change = audit.decomposition.change[0]
    assert f"these predictions changes by {change:+.3f}: " in audit.gist[-1]


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({"train": 9, "val": 1, "test": 7}, "trained or chosen on the patients of 7 of the "),
        (None, "Whether the checkpoint has seen these patients is not known"),
    ],
)
def test_the_gist_names_a_checkpoints_patients(seen: dict | None, said: str) -> None:
    audit = audit_split(PHANTOM, SPLIT, draws=2)
    assert not any("checkpoint" in sentence for sentence in audit.gist)
    checkpoint = CheckpointOverlap("best.ckpt", seen is not None, None, False, False, seen)
    leakage = replace(audit.leakage, checkpoint=checkpoint)
    gist = write_gist(leakage, audit.shift, audit.baselines, audit.decomposition)
    assert any(said in sentence for sentence in gist)


def test_the_publishers_lists_are_matched() -> None:
    halves = [frozenset(r.image_id for r in PHANTOM.records[i::2]) for i in range(2)]
    official = {"train_val": halves[0], "test": halves[1]}
    source = SimpleNamespace(records=PHANTOM.records, official=official, population="p")
    change = decompose_change(source, SPLIT, predict("val"), predict("test"), draws=2, seed=0)
    rows = {row.name: row for row in change.matched}
    wanted = sum(image in halves[1] for image in predict("test").image_ids)
    assert rows["publisher's test list"].test_images == wanted


def one_image(*labels: str) -> Predictions:
    zeros = np.zeros((1, len(labels)), np.float32)
    return Predictions(labels, ("x.png",), ("p",), zeros, zeros)


@pytest.mark.parametrize(
    ("val", "test", "named"),
    [
        ("test", predict("test"), "predictions of val"),  # the page would mix two splits
        ("val", one_image(*PHANTOM.labels), r"x\.png"),
        ("val", one_image("Mass"), "other labels"),
    ],
)
def test_predictions_that_are_not_of_the_split(val: str, test: Predictions, named: str) -> None:
    with pytest.raises(TableError, match=named):
        decompose_change(PHANTOM, SPLIT, predict(val), test, draws=2, seed=0)


def test_differences_are_told_beyond_chance_only() -> None:
    """Hernia's ratio is the larger one, but within chance; whether metadata tell may be open."""
    none, nan = (float("nan"),) * 2, float("nan")

    def said(p_value: float, mean: float, *interval: float) -> list[str]:
        cells = ("Mass", 2.5, p_value), ("Hernia", 3.4, 0.9), ("Nodule", nan, nan)
        rows = [shifts.Quantity(n, {}, {}, {}, {}, r, none, nan, p, p) for n, r, p in cells]
        apart = shifts.Separation(MeanAuroc(mean, interval, 1, {}), {"view": 0.1, "age": 0.0}, "")
        shift = shifts.Shift(rows, [], apart)
        return [*say("prevalence", shift, "in b", "in a"), *say("separation", shift, "b", "a")]

    prevalence, metadata = said(0.001, 0.7, 0.6, 0.8)
    assert prevalence == "Prevalence differs most for Mass: 2.50 times as high in b as in a."
    assert metadata == "Metadata alone tell b from a: AUROC 0.700 (0.600 to 0.800), mostly by view."
    prevalence, metadata = said(0.2, 0.32, 0.1, 0.7)
    assert "differs beyond chance; the largest difference is Hernia: 3.40" in prevalence
    assert metadata.startswith("Whether metadata alone tell b from a is open")
    assert "cannot tell b from a" in said(0.2, 0.51, 0.5, 0.52)[1]
