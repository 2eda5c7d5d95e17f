"""How time and memory grow with the number of images: NIH's label table, repeated under new ids.

    python tests/benchmarks/scale.py NIH_METADATA 10000 100000 1000000 [figure=scale.png]

One process a size: reading the table, a patient split, the order of an epoch, a cache of small
squares, opened again, and ``evaluate`` with 2,000 draws of patients. Prints seconds of
the processor (all threads: other load does not count) and the most memory of each step as a table
of data/README.md, and how the seconds grow from the first size to the last.
"""

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd

import xray_lightning as xl
from xray_lightning.data import samplers
from xray_lightning.data.cache import open_cache
from xray_lightning.records import patient_ids, target_matrix

SIDE, DRAWS = 8, 2000
STEPS = ("table", "split", "epoch", "cache", "opened", "evaluate")


class Repeated(xl.ChestXray14):
    """Its table alone; every image is the same grey."""

    def read(self, record: xl.Record) -> np.ndarray:
        return np.full((SIDE, SIDE), 128, np.uint8)


def write_table(metadata: Path, folder: Path, count: int) -> None:
    """The first ``count`` rows of copies of NIH's table, each with patients of its own."""
    table = pd.read_csv(metadata / "Data_Entry_2017_v2020.csv.gz")
    rows = np.arange(count)
    copies = table.iloc[rows % len(table)].reset_index(drop=True)
    copies["Patient ID"] += rows // len(table) * (table["Patient ID"].max() + 1)
    ids = copies["Patient ID"].astype(str).str.zfill(8)
    copies["Image Index"] = ids + "_" + copies["Image Index"].str.split("_").str[1]
    copies.to_csv(folder / "Data_Entry_2017_v2020.csv", index=False)


def measure(metadata: Path, count: int) -> dict[str, tuple[float, float]]:
    """Seconds and GB of each step."""
    steps, started = dict[str, tuple[float, float]](), process_time()

    def note(step: str) -> None:
        nonlocal started
        status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
        steps[step] = process_time() - started, int(status.split()[0]) * 1.024e-6
        Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
        started = process_time()

    with tempfile.TemporaryDirectory() as place:
        write_table(metadata, Path(place), count)
        started = process_time()
        source = Repeated(place)
        note("table")
        split = xl.patient_split(source.records, None)
        note("split")
        targets, patients = target_matrix(source.records), patient_ids(source.records)
        train = split.subsets["train"]
        plan = partial(samplers.disease_balanced_sampler, targets[train], patients[train])
        order = list(samplers.EpochSampler(plan, len(train), batch_size=32, seed=0))
        assert len(order) in (len(train), len(train) - 1)
        note("epoch")
        keep = partial(open_cache, source, source.records, size=SIDE, root=place, progress=False)
        keep()
        note("cache")
        opened = keep()
        assert all(opened.square(row).mean() == 128 for row, _ in order[:1000])
        note("opened")
    scores = (0.7 * np.random.default_rng(0).random(targets.shape) + 0.3 * targets).astype("f4")
    table = xl.Predictions.of(source.records, source.labels, scores, targets)
    xl.evaluate(table, source.records, draws=DRAWS)
    note("evaluate")
    return steps


def main(metadata: str, *words: str) -> None:
    counts, figure = [int(word) for word in words if word.isdecimal()], words[-1].partition("=")[2]
    rows = {}
    print("| images | " + " | ".join(f"{step}, s / GB" for step in STEPS) + " |\n|" + " --- |" * 7)
    for count in counts:
        command = [sys.executable, __file__, metadata, "measure", str(count)]
        rows[count] = json.loads(subprocess.check_output(command, text=True))
        cells = " | ".join(f"{s:,.1f} / {gb:.2f}" for s, gb in rows[count].values())
        print(f"| {count:,} | {cells} |", flush=True)
    first, last = counts[0], counts[-1]
    growth = {step: np.log(rows[last][step][0] / rows[first][step][0]) for step in STEPS}
    told = ", ".join(f"{k} {v / np.log(last / first):.2f}" for k, v in growth.items())
    print(f"seconds grow as images to the power of: {told}")
    if figure:
        draw(rows, Path(figure))


def draw(rows: dict[int, dict[str, tuple[float, float]]], path: Path) -> None:
    from matplotlib.figure import Figure

    page, counts = Figure(figsize=(8, 3.4), layout="constrained"), np.array([*rows])
    seconds, memory = page.subplots(1, 2)
    for step in STEPS:
        both, line = np.array([row[step] for row in rows.values()]).T, counts * np.log(counts)
        seconds.loglog(counts, both[0], "o-")
        memory.semilogx(counts, both[1], "o-", label=step)
        seconds.loglog(counts, line / line[0] * both[0, 0], "k:", zorder=0, linewidth=0.8)
    seconds.set(xlabel="images", ylabel="seconds of the processor")
    memory.set(xlabel="images", ylabel="GB at most", ylim=(0, None))
    seconds.set_title("dotted: n log n from the first size on", fontsize=9)
    memory.legend(fontsize=8)
    page.savefig(path, dpi=120)


if __name__ == "__main__":
    if sys.argv[2] == "measure":
        print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[3]))))
    else:
        main(*sys.argv[1:])
