"""``predict_files`` beside its decoding and its network alone, and how soon a first row is there;
other whole commands from the shell's view, imports and all; exported networks in one run.

Decoding runs in a thread for each core, the network on all cores, one after the other: what a
program without overlap needs, with nothing written. DenseNet-121 at 224 px, real films.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import rmtree
from statistics import median
from time import perf_counter

import numpy as np
import pytest
from running import XRAY, kill, start
from toy import save_net, toy_net

from xray_lightning import load_classifier, predict_files
from xray_lightning.data.decoding import available_cores, single_threaded_opencv
from xray_lightning.data.images import read_image
from xray_lightning.deploy.export import export_checkpoint, open_onnx, write_int8
from xray_lightning.records import CHEST_XRAY14

pytestmark = pytest.mark.benchmark

TURNS, COUNT, BATCH = 3, 64, 16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory):
    net = toy_net(CHEST_XRAY14, "densenet121", 224)
    return save_net(net, tmp_path_factory.mktemp("run") / "best.ckpt")


@pytest.fixture(params=["nih-sample/images", "rsna-sample/stage_2_train_images"])
def films(request: pytest.FixtureRequest, shared_data):
    return sorted((shared_data / request.param).iterdir())[:COUNT]


def test_overlap(films, checkpoint, tmp_path, bench) -> None:
    classifier, seconds = load_classifier(checkpoint, device="cpu"), {"decode": [], "net": []}
    fit = classifier.fit

    def apart() -> int:
        start = perf_counter()
        with single_threaded_opencv(), ThreadPoolExecutor(available_cores()) as pool:
            squares = list(pool.map(lambda path: fit(read_image(path)), films))
        seconds["decode"].append(perf_counter() - start)
        for first in range(0, len(squares), BATCH):
            classifier.score(np.stack(squares[first : first + BATCH]))
        seconds["net"].append(perf_counter() - start - seconds["decode"][-1])
        return len(films)

    def together() -> int:
        return predict_files(classifier, films, tmp_path / "out", batch_size=BATCH).scored

    found = bench.rates(TURNS, after=lambda: rmtree(tmp_path / "out", ignore_errors=True),
                  apart=apart, together=together)  # fmt: skip
    each = {name: 1000 * median(times[1:]) / len(films) for name, times in seconds.items()}
    bench.remark(
        f"{films[0].suffix}: {each['decode']:.1f} ms decoding and {each['net']:.1f} ms network an "
        f"image, one after the other {median(found['apart']):.1f} a second, predict_files "
        f"{median(found['together']):.1f}"
    )
    value = bench.over(found["together"], found["apart"])
    bench.ratio(f"predict_vs_decode_plus_forward_{films[0].suffix[1:]}", value, ">=0.9")


def test_first_row(films, checkpoint, tmp_path, bench) -> None:
    """From the start of the process to the first row on disk."""
    seconds: list[float] = []
    for turn in range(3):
        table, begun = tmp_path / f"{turn}/predictions.csv", perf_counter()
        command = [*XRAY, "predict", checkpoint, *films, "--out", table.parent, "device=cpu"]
        begins = lambda _, own=table: own.is_file() and own.read_bytes().count(b"\n") > 1  # noqa: E731
        process = start(command, begins, stderr=subprocess.DEVNULL)
        seconds.append(perf_counter() - begun)
        kill(process)
    bench.remark(f"first row after {', '.join(f'{second:.1f}' for second in seconds)} s")
    bench.ratio(f"predict_first_row_seconds_{films[0].suffix[1:]}", min(seconds), "<=8")


def seconds_of(*command: str | Path) -> float:
    start = perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return perf_counter() - start


def test_xray_help(bench) -> None:
    command = Path(sys.executable).parent / "xray"
    if not command.is_file():
        pytest.skip(f"{command} is absent: pip install -e .")
    seconds = [seconds_of(command, "--help") for _ in range(5)]
    bench.remark(f"best of 5: {min(seconds):.3f} s, worst {max(seconds):.3f} s")
    bench.ratio("xray_help_seconds", min(seconds), "<=0.7")


def test_audit_of_the_nih_table(metadata: Path, tmp_path: Path, bench) -> None:
    settings = ["data=nih", f"data.root={metadata}", "split=official", f"hydra.run.dir={tmp_path}"]
    seconds = seconds_of(*XRAY, "audit", *settings)
    bench.remark(f"{(tmp_path / 'audit.html').stat().st_size / 1e3:.0f} kB of page")
    bench.ratio("audit_seconds", seconds, "<=60")


@pytest.mark.parametrize("backbone", ["densenet121", "resnet50", "mobilenetv2_100"])
def test_images_per_second(backbone, tmp_path, bench) -> None:
    """PyTorch, and onnxruntime in float32 and in 8 bits, on the CPU."""
    checkpoint = save_net(toy_net(("Mass", "Nodule"), backbone, 224), tmp_path / "best.ckpt")
    films = np.random.default_rng(0).integers(0, 256, (8, 224, 224), dtype=np.uint8)
    paths = [tmp_path / f"{name}.onnx" for name in ("float", "int8")]
    export_checkpoint(checkpoint, paths[0])
    write_int8(*paths, iter([films]))
    runs = load_classifier(checkpoint, device="cpu").score, *map(open_onnx, paths)
    names = "pytorch", "onnx", "int8"
    works = {n: lambda run=run: len(run(films)) and 8 for n, run in zip(names, runs, strict=True)}
    rates = bench.rates(5, **works)
    figures = {n: [median(rates[n]), median(rates[f"{n}_cpu"])] for n in names}
    each = ", ".join(f"{n} {figures[n][0]:.1f} ({figures[n][1]:.1f} a CPU second)" for n in names)
    bench.remark(f"{backbone}, batches of 8 at 224 px: {each} images a second")
    for name, bound in (("onnx", ">=0.9"), ("int8", ">=1.0")):
        value = bench.over(rates[name], rates["pytorch"])
        bench.ratio(f"{backbone}_{name}_to_pytorch", value, bound)
