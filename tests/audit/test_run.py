"""The whole audit: what it says of NIH's and RSNA's real tables, and of predictions."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from xray_lightning.audit.baselines import mean_scores, prevalence_of, previous_scores
from xray_lightning.audit.columns import Columns, discrimination
from xray_lightning.audit.leakage import leak, listed
from xray_lightning.audit.run import audit_facts, decomposed, gist
from xray_lightning.audit.shift import BOTH, metadata, prevalence
from xray_lightning.data.nih import ChestXray14
from xray_lightning.data.partition import LeakySubsetsWarning
from xray_lightning.data.phantom import Phantom
from xray_lightning.data.rsna import Rsna
from xray_lightning.data.splits import image_split, official_split, patient_split
from xray_lightning.errors import TableError
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.metrics.bootstrap import bootstrap_counts
from xray_lightning.records import patient_ids, target_matrix

PHANTOM = Phantom(patients=60)
SPLIT = patient_split(PHANTOM.records, None)


@pytest.fixture(scope="module")
def nih(shared_data: Path) -> ChestXray14:
    return ChestXray14(shared_data / "nih-metadata")


def means(nih: ChestXray14, columns: Columns, scores: np.ndarray, test: np.ndarray) -> float:
    counts = bootstrap_counts(columns.patient_count, 1, 0)
    return discrimination(
        nih.labels, scores, columns.targets[test], columns.patients[test], counts
    ).mean


def test_nih_official(nih: ChestXray14) -> None:
    split = official_split(nih.records, nih.official)
    columns = Columns.of(nih.records, nih.labels)
    counts = bootstrap_counts(columns.patient_count, 3, 0)
    found = leak(nih.records, split.subsets)
    assert (found.shared, found.in_train_or_val) == (0, 0)
    ratios = {row.name: round(row.ratio, 2) for row in prevalence(columns, split.subsets, counts)}
    assert (ratios["Pneumothorax"], ratios["Hernia"]) == (3.42, 2.06)
    shift = {row.name: row for row in metadata(columns, split.subsets, counts)}
    view, images = shift["view AP"].value, shift["images per patient"].value
    assert [round(100 * view[subset], 1) for subset in (BOTH, "test")] == [35.0, 56.6]
    assert [round(images[subset], 2) for subset in (BOTH, "test")] == [3.09, 9.15]
    test, prior = split.subsets["test"], prevalence_of(columns, split.subsets["train"])
    previous = previous_scores(columns, test, prior)
    assert previous is not None
    assert means(nih, columns, previous, test) == pytest.approx(0.642, abs=0.001)
    others = mean_scores(columns, test, test, prior)
    assert means(nih, columns, others, test) == pytest.approx(0.795, abs=0.001)


def test_nih_image_split(nih: ChestXray14) -> None:
    with pytest.warns(LeakySubsetsWarning):
        split = image_split(nih.records, nih.official)
    columns = Columns.of(nih.records, nih.labels)
    found = leak(nih.records, split.subsets)
    trained = set(patient_ids([nih.records[row] for row in split.subsets["train"]]).tolist())
    test = split.subsets["test"]
    assert found.in_train == sum(nih.records[row].patient_id in trained for row in test)
    assert found.shares is not None
    assert found.shares[1] > 0.8
    prior = prevalence_of(columns, split.subsets["train"])
    gained = means(nih, columns, mean_scores(columns, split.subsets["train"], test, prior), test)
    assert gained > 0.7


def test_rsna_image_split(shared_data: Path) -> None:
    source = Rsna(
        shared_data / "rsna-metadata",
        nih_map=shared_data / "rsna-metadata/rsna_to_nih.csv.gz",
        nih_test_list=shared_data / "nih-metadata/test_list.txt",
    )
    with pytest.warns(LeakySubsetsWarning):
        split = image_split(source.records, None)  # 70/10/20: 80 % learn
    shares = leak(source.records, split.subsets).shares
    assert shares is not None
    assert shares[1] == pytest.approx(0.698, abs=0.01)
    assert source.official is not None
    ids = [(record.image_id,) for record in source.records]
    assert listed("NIH", source.official["test"], ids, split.subsets).found == 7193


def scored(subset: str) -> Predictions:
    records = [PHANTOM.records[row] for row in SPLIT.subsets[subset]]
    targets = target_matrix(records)
    scores = np.random.default_rng(0).random(targets.shape, dtype=np.float32)
    ids = tuple(record.image_id for record in records)
    return Predictions(PHANTOM.labels, ids, tuple(patient_ids(records)), targets, scores)


def test_everything_is_plain() -> None:
    images = {PHANTOM.records[row].image_id for row in SPLIT.subsets["train"][:3]}
    twins = {record.image_id: f"twin{i // 2}" for i, record in enumerate(PHANTOM.records)}
    facts = audit_facts(
        PHANTOM,
        SPLIT,
        lists={"a list": images},
        exposures=twins,
        predictions=(scored("val"), scored("test")),
        draws=5,
    )
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["leakage"]["lists"][-1]["parts"] == {"train": 3, "val": 0, "test": 0}
    assert facts["leakage"]["exposures"]["shared"] > 0
    assert facts["decomposition"]["test_images"] == len(SPLIT.subsets["test"])
    assert any("very radiograph" in sentence for sentence in gist(facts))
    change = facts["decomposition"]["change"][0]
    assert f"these predictions changes by {change:+.3f}: " in gist(facts)[-1]


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({"train": 9, "val": 1, "test": 7}, "trained or chosen on the patients of 7 of the "),
        (None, "Whether the checkpoint has seen these patients is not known"),
    ],
)
def test_the_gist_names_a_checkpoints_patients(seen: dict | None, said: str) -> None:
    facts = audit_facts(PHANTOM, SPLIT, draws=2)
    assert not any("checkpoint" in sentence for sentence in gist(facts))
    facts["leakage"]["checkpoint"] = {"seen": seen}
    assert any(said in sentence for sentence in gist(facts))


def test_predictions_of_another_split_are_refused() -> None:
    """The page would show one split's leaks beside another's change."""
    match = r"predictions of val are of other images .* than the val set of split patient"
    with pytest.raises(TableError, match=match):
        decomposed(PHANTOM, SPLIT, scored("test"), scored("test"), draws=2, seed=0)


def test_the_publishers_lists_are_matched() -> None:
    halves = [frozenset(r.image_id for r in PHANTOM.records[i::2]) for i in range(2)]
    source = SimpleNamespace(
        records=PHANTOM.records,
        official={"train_val": halves[0], "test": halves[1]},
        population="p",
    )
    result = decomposed(source, SPLIT, scored("val"), scored("test"), draws=2, seed=0)
    rows = {row["name"]: row for row in result["matched"]}
    wanted = sum(image in halves[1] for image in scored("test").image_ids)
    assert rows["publisher's test list"]["test_images"] == wanted


def test_predictions_on_other_data() -> None:
    foreign = Predictions(
        PHANTOM.labels, ("x.png",), ("p",), np.zeros((1, 14), "f4"), np.zeros((1, 14), "f4")
    )
    with pytest.raises(TableError, match=r"1 scored images are not in the label table.*x\.png"):
        decomposed(PHANTOM, SPLIT, scored("val"), foreign, draws=2, seed=0)


def test_tables_of_other_labels() -> None:
    one = Predictions(("Mass",), ("x",), ("p",), np.zeros((1, 1), "f4"), np.zeros((1, 1), "f4"))
    with pytest.raises(TableError, match="other labels"):
        decomposed(PHANTOM, SPLIT, scored("val"), one, draws=2, seed=0)
