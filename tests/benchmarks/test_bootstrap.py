"""Patient-level bootstrap of AUROC on NIH's official test list against scikit-learn in a loop.

The patients and labels are NIH's, the scores are made up. scikit-learn is timed on a few of the
draws and counted up to all of them, since all would take minutes.
"""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score

from xray_lightning import ChestXray14, PatientBootstrap
from xray_lightning.data.decoding import available_cores
from xray_lightning.metrics.decisions import draw_net_benefit
from xray_lightning.metrics.estimates import estimate_metrics
from xray_lightning.metrics.ranks import Ranking, curves_over
from xray_lightning.records import patient_ids, target_matrix

pytestmark = pytest.mark.benchmark
DRAWS, TIMED = 1000, 3


@pytest.fixture
def test_list(metadata) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and targets (25,596, 14), and patients."""
    source = ChestXray14(metadata)
    records = [record for record in source.records if record.image_id in source.official["test"]]
    targets = target_matrix(records)
    rng = np.random.default_rng(0)
    scores = (0.7 * rng.random(targets.shape) + 0.3 * targets).astype(np.float32)
    return scores, targets, patient_ids(records)


def test_auroc_draws_vs_scikit_learn(test_list, bench) -> None:
    scores, targets, patients = test_list
    bootstrap = PatientBootstrap(patients, DRAWS)
    codes, counts = bootstrap.codes, bootstrap.counts[1:]
    start = perf_counter()
    tracemalloc.start()

    def of_label(label: int) -> np.ndarray:
        return curves_over(Ranking.of(scores[:, label], targets[:, label], codes), counts)[0]

    with ThreadPoolExecutor(available_cores()) as pool:  # as estimate_metrics does
        ours = np.stack(list(pool.map(of_label, range(targets.shape[1]))))  # (L, D)
    memory = tracemalloc.get_traced_memory()[1] / 1e9
    tracemalloc.stop()
    seconds = perf_counter() - start
    start = perf_counter()
    for draw in range(TIMED):
        rows = np.repeat(np.arange(len(codes)), counts[draw][codes].astype(int))
        theirs = [roc_auc_score(targets[rows, k], scores[rows, k]) for k in range(len(ours))]
        np.testing.assert_allclose(ours[:, draw], theirs, rtol=0, atol=1e-9)
    loop = (perf_counter() - start) * DRAWS / TIMED
    bench.remark(
        f"{DRAWS} draws of {len(np.unique(codes)):,} patients, {targets.shape[0]:,} x "
        f"{targets.shape[1]}: ours {seconds:.1f} s (average precision included), {memory:.2f} GB; "
        f"scikit-learn {loop:.0f} s (counted up from {TIMED} draws)"
    )
    bench.ratio("bootstrap_auroc_vs_scikit_learn", loop / seconds, ">=60")


def test_whole_verdict(test_list, bench) -> None:
    scores, targets, patients = test_list
    labels = tuple(map(str, range(targets.shape[1])))
    start = perf_counter()
    estimate_metrics(labels, scores, targets, patients, thresholds=dict.fromkeys(labels, 0.5))
    seconds = perf_counter() - start
    bench.remark(
        f"all figures and intervals of {targets.shape[0]:,} x 14, 2,000 draws: {seconds:.1f} s"
    )
    bench.ratio("verdict_seconds", seconds, "<=60")


def test_net_benefit_vs_scikit_learn(test_list, bench) -> None:
    """2,000 draws at 100 thresholds; of scikit-learn's loop one draw of one label is timed."""
    scores, targets, patients = test_list
    lines = np.linspace(0.005, 0.995, 100)
    tracemalloc.start()
    start = perf_counter()
    bootstrap = PatientBootstrap(patients, 2000)
    columns = zip(scores.T, targets.T == 1, strict=True)
    ours = np.stack([draw_net_benefit(bootstrap, *column, lines) for column in columns])
    seconds, memory = perf_counter() - start, tracemalloc.get_traced_memory()[1] / 1e9
    tracemalloc.stop()
    start = perf_counter()
    rows = np.repeat(np.arange(len(patients)), bootstrap.counts[1][bootstrap.codes].astype(int))
    for line, found in zip(lines, ours[0, 1], strict=True):
        table = confusion_matrix(targets[rows, 0], scores[rows, 0] >= line)
        benefit = (table[1, 1] - table[0, 1] * line / (1 - line)) / len(rows)
        assert found == pytest.approx(benefit, abs=1e-9)
    loop = (perf_counter() - start) * ours.shape[0] * 2000
    bench.remark(f"14 x 100 thresholds x 2,000 draws: ours {seconds:.1f} s, {memory:.2f} GB; "
                 f"scikit-learn {loop:.0f} s (counted up)")  # fmt: skip
    assert memory < 1.5
    bench.ratio("net_benefit_vs_scikit_learn", loop / seconds, ">=30")
