"""The whole audit: what it says of NIH's and RSNA's real tables, and of predictions."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import xray_lightning as xl
from xray_lightning.audit import decomposition
from xray_lightning.audit import shift as shifts
from xray_lightning.audit.decomposition import ScoredSubset, measure_auroc, reweight
from xray_lightning.audit.label_table import LabelTable, MeanAuroc
from xray_lightning.audit.leakage import CheckpointOverlap, count_overlap, match_list
from xray_lightning.audit.run import decompose_change, say, write_gist
from xray_lightning.audit.shift import BOTH, score_baselines, score_by_mean, score_by_metadata
from xray_lightning.metrics.intervals import effective_patients
from xray_lightning.records import prevalence, target_matrix

PHANTOM = xl.Phantom(patients=60)
SPLIT = xl.patient_split(PHANTOM.records, None)
Subsets = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def nih(shared_data) -> xl.ChestXray14:
    return xl.ChestXray14(shared_data / "nih-metadata")


def test_nih_official(nih: xl.ChestXray14, tabled) -> None:
    split = xl.official_split(nih.records, nih.official)
    table, drawn = tabled(nih.records, nih.labels, draws=3)
    groups = shifts.add_train_val(split.subsets)
    overlap = count_overlap([record.patient_id for record in nih.records], split.subsets)
    assert (overlap.shared, overlap.in_train_or_val) == (0, 0)
    ratios = {r.name: round(r.ratio, 2) for r in shifts.compare_prevalence(table, groups, drawn)}
    assert (ratios["Pneumothorax"], ratios["Hernia"]) == (3.42, 2.06)
    shift = {row.name: row for row in shifts.compare_metadata(table, groups, drawn)}
    view, images = shift["view AP"].value, shift["images per patient"].value
    assert [round(100 * view[subset], 1) for subset in (BOTH, "test")] == [35.0, 56.6]
    assert [round(images[subset], 2) for subset in (BOTH, "test")] == [3.09, 9.15]
    test, prior = split.subsets["test"], prevalence(table.targets[split.subsets["train"]])
    for scores, mean in (
        (shifts.score_by_previous(table, test, prior), 0.642),
        (score_by_mean(table, test, test, prior), 0.795),
    ):
        result = MeanAuroc.of(nih.labels, scores, table.targets[test], drawn.subset(test))
        assert result.mean == pytest.approx(mean, abs=0.001)


def test_rsna_image_split(shared_data) -> None:
    source = xl.Rsna(
        shared_data / "rsna-metadata",
        nih_map=shared_data / "rsna-metadata/rsna_to_nih.csv.gz",
        nih_test_list=shared_data / "nih-metadata/test_list.txt",
    )
    with pytest.warns(xl.LeakySubsetsWarning):
        split = xl.image_split(source.records, None)  # 70/10/20: 80 % learn
    shares = count_overlap([r.patient_id for r in source.records], split.subsets).shares
    assert shares[1] == pytest.approx(0.698, abs=0.01)
    ids = [(record.image_id,) for record in source.records]
    assert match_list("NIH", source.official["test"], ids, split.subsets).present == 7193


def predict(subset: str) -> xl.Predictions:
    records = [PHANTOM.records[row] for row in SPLIT.subsets[subset]]
    scores = np.random.default_rng(0).random(target_matrix(records).shape, dtype=np.float32)
    return xl.Predictions.of(records, PHANTOM.labels, scores)


def test_there_and_back() -> None:
    images = {PHANTOM.records[row].image_id for row in SPLIT.subsets["train"][:3]}
    twins = {record.image_id: f"twin{i // 2}" for i, record in enumerate(PHANTOM.records)}
    found = {"lists": {"a list": images}, "predictions": (predict("val"), predict("test"))}
    audit = xl.audit_split(PHANTOM, SPLIT, exposures=twins, draws=5, **found)
    values = audit.to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert (xl.Audit.from_json(values).to_json(), values["parts"]) == (values, values["subsets"])
    assert audit.leakage.lists[-1].subsets == {"train": 3, "val": 0, "test": 0}
    assert audit.leakage.exposures.shared > 0
    assert audit.decomposition.test_images == len(SPLIT.subsets["test"])
    assert any("very radiograph" in sentence for sentence in audit.gist)
    change = audit.decomposition.change[0]
    assert f"these predictions changes by {change:+.3f}: " in audit.gist[-1]


def test_the_gist_names_a_checkpoints_patients() -> None:
    audit = xl.audit_split(PHANTOM, SPLIT, draws=2)
    assert not any("checkpoint" in sentence for sentence in audit.gist)
    for seen, said in (
        ({"train": 9, "val": 1, "test": 7}, "trained or chosen on the patients of 7 of the "),
        (None, "Whether the checkpoint has seen these patients is not known"),
    ):
        checkpoint = CheckpointOverlap("best.ckpt", seen is not None, None, False, False, seen)
        gist = write_gist(replace(audit, leakage=replace(audit.leakage, checkpoint=checkpoint)))
        assert any(said in sentence for sentence in gist)


def test_the_publishers_lists_are_matched() -> None:
    halves = [frozenset(r.image_id for r in PHANTOM.records[i::2]) for i in range(2)]
    source = xl.Phantom(patients=60)
    source.official = dict(zip(("train_val", "test"), halves, strict=True))
    change = decompose_change(source, SPLIT, predict("val"), predict("test"), draws=2, seed=0)
    rows = {row.name: row for row in change.matched}
    wanted = sum(image in halves[1] for image in predict("test").image_ids)
    assert rows["publisher's test list"].test_images == wanted


def one_image(*labels: str) -> xl.Predictions:
    zeros = np.zeros((1, len(labels)), np.float32)
    return xl.Predictions(labels, ("x.png",), ("p",), zeros, zeros)


def test_predictions_that_are_not_of_the_split() -> None:
    for val, test, named in (
        ("test", predict("test"), "predictions of val"),  # the page would mix two splits
        ("val", one_image(*PHANTOM.labels), r"x\.png"),
        ("val", one_image("Mass"), "other labels"),
    ):
        with pytest.raises(xl.TableError, match=named):
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

    apart, metadata = said(0.001, 0.7, 0.6, 0.8)
    assert apart == "Prevalence differs most for Mass: 2.50 times as high in b as in a."
    assert metadata == "Metadata alone tell b from a: AUROC 0.700 (0.600 to 0.800), mostly by view."
    apart, metadata = said(0.2, 0.32, 0.1, 0.7)
    assert "differs beyond chance; the largest difference is Hernia: 3.40" in apart
    assert metadata.startswith("Whether metadata alone tell b from a is open")
    assert "cannot tell b from a" in said(0.2, 0.51, 0.5, 0.52)[1]
    leak = count_overlap("aa", {"train": [0], "val": [], "test": [1]})
    for low, told in ((0.51, ": +0.030 against chance, which"), (0.49, "is not told from chance")):
        assert told in say("baselines", None, MeanAuroc(0.53, (low, 0.6), 1, {}), leak)[0]


@pytest.mark.parametrize("place", ["train", "test"])
def test_mean_of_the_other_images(records, subsets, place, tabled) -> None:
    table, _ = tabled(records)
    prior = prevalence(table.targets[subsets["train"]])
    scores = shifts.score_by_mean(table, subsets[place], subsets["test"], prior)
    owners = np.array([record.patient_id for record in records])
    for score, row in zip(scores, subsets["test"], strict=True):
        own = subsets[place][owners[subsets[place]] == owners[row]]
        others = target_matrix(records)[own[own != row]]
        known = (~np.isnan(others)).sum(axis=0)
        assert score == pytest.approx((np.nansum(others, axis=0) + prior) / (known + 1))


def test_previous_label(records: list[xl.Record], subsets: Subsets, tabled) -> None:
    table, _ = tabled(records)
    prior = prevalence(table.targets[subsets["train"]])
    scores = shifts.score_by_previous(table, subsets["test"], prior)
    by_key = {(r.patient_id, r.follow_up): r.targets for r in records}
    keys = ((records[row].patient_id, records[row].follow_up - 1) for row in subsets["test"])
    wanted = [by_key.get(key, (np.nan,) * 3) for key in keys]
    np.testing.assert_array_equal(scores, np.where(np.isnan(wanted), prior, wanted))


def test_auroc_against_scikit_learn(records: list[xl.Record], subsets: Subsets, tabled) -> None:
    table, bootstrap = tabled(records)
    test = subsets["test"]
    rows = {row.name: row for row in score_baselines(table, subsets, bootstrap, seed=0)}
    assert list(rows) == [shifts.METADATA, shifts.PREVIOUS, shifts.OTHERS, shifts.TRAINED]
    scores = shifts.score_by_mean(table, test, test, prevalence(table.targets[subsets["train"]]))
    result = rows[shifts.OTHERS].result
    draws = []
    for label, name in enumerate(table.labels):
        known = ~np.isnan(table.targets[test, label])
        truth, score = table.targets[test, label][known], scores[known, label]
        assert result.labels[name] == pytest.approx(roc_auc_score(truth, score))
        codes = table.patients[test][known]
        weights = [drawn[codes] for drawn in bootstrap.counts[1:]]
        draws.append([roc_auc_score(truth, score, sample_weight=w) for w in weights])
    assert result.mean == pytest.approx(np.mean(list(result.labels.values())))
    assert result.interval == pytest.approx(np.quantile(np.mean(draws, axis=0), [0.025, 0.975]))


def test_no_shared_patient_gains_nothing(records, subsets, tabled) -> None:
    table, bootstrap = tabled([replace(r, patient_id=f"{i}") for i, r in enumerate(records)])
    assert set(score_baselines(table, subsets, bootstrap, 0)[-1].result.labels.values()) == {0.5}


def test_metadata_learns_from_train_only(records, subsets, tabled) -> None:
    told = [replace(r, targets=(float(r.view == "AP"), *r.targets[1:])) for r in records]
    table, _ = tabled(told)
    scores = score_by_metadata(table, subsets["train"], subsets["test"], seed=0)
    assert roc_auc_score(table.targets[subsets["test"], 0], scores[:, 0]) == 1.0
    turned = table.targets.copy()
    turned[subsets["test"]] = 1 - turned[subsets["test"]]
    again = score_by_metadata(replace(table, targets=turned), subsets["train"], subsets["test"], 0)
    np.testing.assert_array_equal(scores, again)


def test_a_label_without_positives_in_train(records, subsets, tabled) -> None:
    table, bootstrap = tabled(records, draws=3)
    table.targets[subsets["train"], 2] = 0
    scores = score_by_metadata(table, subsets["train"], subsets["test"], 0)
    assert np.isnan(scores[:, 2]).all()
    test = subsets["test"]
    result = MeanAuroc.of(table.labels, scores, table.targets[test], bootstrap.subset(test))
    assert (result.defined, np.isnan(result.labels["Hernia"])) == (2, True)


def test_labels_of_a_hospital_without_metadata(records, subsets, tabled) -> None:
    """Mass is known where nothing else is (SIIM beside NIH): no trees, no score; one film each."""
    half = [
        replace(r, patient_id=f"{i}", targets=(r.targets[0], np.nan, r.targets[2]))
        if i % 2
        else xl.Record(r.image_id, f"{i}", (np.nan, r.targets[1], r.targets[2]))
        for i, r in enumerate(records)
    ]
    table, bootstrap = tabled(half)
    scores = score_by_metadata(table, subsets["train"], subsets["test"], 0)
    assert np.isnan(scores).all(axis=0).tolist() == [False, True, False]
    rows = {row.name: row for row in score_baselines(table, subsets, bootstrap, 0)}
    assert rows[shifts.OTHERS].result is None
    assert "no patient has two images in test" in rows[shifts.OTHERS].undefined


def test_what_the_table_lacks_has_a_reason(subsets: Subsets, tabled) -> None:
    bare = [xl.Record(f"{n}.png", f"p{n % 50}", (float(n % 3 == 0),)) for n in range(240)]
    table, bootstrap = tabled(bare, ("Mass",))
    rows = {row.name: row for row in score_baselines(table, subsets, bootstrap, 0)}
    assert rows[shifts.METADATA].result is None
    assert "no metadata" in rows[shifts.METADATA].undefined
    assert "no follow-up numbers" in rows[shifts.PREVIOUS].undefined


def test_weighted_auroc_against_scikit_learn(rng) -> None:
    scores, positive = rng.random(200).round(1), rng.random(200) < 0.3  # with ties
    weights = rng.random((40, 200)) * (rng.random((40, 200)) < 0.7)
    aurocs = measure_auroc(scores, positive, weights)
    wanted = [roc_auc_score(positive, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(aurocs, wanted, atol=1e-12)
    assert np.isnan(measure_auroc(scores, positive, np.where(positive, 0.0, weights))).all()


def test_weights_give_the_other_mix() -> None:
    val, test = np.array([0, 0, 0, 1, 2]), np.array([0, 1, 1, 1, 3])
    weights = reweight(val, test, np.ones((1, 5)), np.ones((1, 5)))[0]
    np.testing.assert_allclose(weights, [3, 1 / 3, 1 / 3, 1 / 3, 0])
    assert effective_patients(weights) == pytest.approx(4**2 / (9 + 3 / 9))
    twice = reweight(val, test, np.ones((1, 5)), np.array([[2.0, 1, 1, 1, 1]]))[0]
    np.testing.assert_allclose(twice[0], 2 * (3 / 5) / (2 / 6))


def subset(share: float, seed: int, size: int = 6000, shift: float = 0.0) -> ScoredSubset:
    """A model that is worse on AP; ``share`` of the images are AP; ``shift``: worse everywhere."""
    rng = np.random.default_rng(seed)
    view = np.where(rng.random(size) < share, "AP", "PA")
    targets = (rng.random((size, 2)) < 0.3).astype(float)
    strength = np.where(view == "AP", 0.5, 2.0)[:, None] - shift
    scores = 1 / (1 + np.exp(-(strength * targets + rng.normal(size=(size, 2)))))
    unknown, words, two = np.full(size, np.nan), np.full(size, ""), np.full(size, 2.0)
    told = targets, np.arange(size) // 2, unknown, words, view, unknown, two
    return ScoredSubset(LabelTable(("Mass", "Nodule"), *told), scores)


def change(val: ScoredSubset, test: ScoredSubset):
    mask = np.arange(6000) < 3000
    return decomposition.decompose(val, test, {"first half": (mask, mask)}, draws=40, seed=0)


def test_only_the_mix_differs_and_matched_and_severity_against_loops() -> None:
    val, test = subset(0.2, 0), subset(0.7, 1)
    result = change(val, test)
    assert result.change[0] == pytest.approx(result.case_mix[0] + result.rest[0])
    assert result.change[0] < -0.1
    assert abs(result.rest[0]) < 0.02
    assert result.rest[1][0] < 0 < result.rest[1][1]
    assert result.case_mix[1][1] < 0
    truth, scores = test.table.targets, test.scores
    wanted = np.mean([roc_auc_score(truth[:, i], scores[:, i]) for i in range(2)])
    assert (result.test, result.uncovered) == (pytest.approx(wanted), 0)
    ap = test.table.view == "AP"
    kish = 6000 / (0.2**2 / ap.mean() + 0.8**2 / (1 - ap.mean()))
    assert result.effective_images == pytest.approx(kish, rel=0.05)
    rows = {row.name: row for row in [*result.matched, *result.severity]}
    assert set(rows) >= {"view AP", "view PA", "first half", "0 other findings"}
    for name, mask in (("view AP", ap), ("first half", np.arange(6000) < 3000)):
        wanted = [roc_auc_score(truth[mask, i], scores[mask, i]) for i in (0, 1)]
        assert rows[name].test == pytest.approx(np.mean(wanted))
        assert rows[name].test_images == mask.sum()
    alone = [truth[:, 1 - i] == 0 for i in range(2)]
    wanted = [roc_auc_score(truth[mask, i], scores[mask, i]) for i, mask in enumerate(alone)]
    assert rows["0 other findings"].test == pytest.approx(np.mean(wanted))
    empty = rows["2 other findings"]  # there are two labels
    assert (empty.labels, empty.test_images) == (0, 0)
    assert np.isnan(empty.change)
    for scored in (val, test):
        scored.table.follow_up[:] = np.arange(6000) % 2
    assert "first images" in [row.name for row in change(val, test).matched]


def test_only_the_rest_differs() -> None:
    result = change(subset(0.4, 0), subset(0.4, 1, shift=0.4))
    assert abs(result.case_mix[0]) < 0.01
    assert result.rest[1][1] < 0
