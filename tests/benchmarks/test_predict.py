"""``predict_files`` beside its decoding and its network alone, and how soon a first row is there.

Decoding runs in a thread for each core, the network on all cores, one after the other: what a
program without overlap needs, with nothing written. DenseNet-121 at 224 px, real films.
"""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from shutil import rmtree
from statistics import median
from time import perf_counter, sleep

import numpy as np
import pytest
import torch
from running import XRAY

from xray_lightning import load_classifier, predict_files
from xray_lightning.checkpoint import KEY, Description
from xray_lightning.data.decoding import available_cores, single_threaded_opencv
from xray_lightning.data.images import read_image
from xray_lightning.models.network import XrayNet
from xray_lightning.records import CHEST_XRAY14

pytestmark = pytest.mark.benchmark

TURNS, COUNT, BATCH = 3, 64, 16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory):
    torch.manual_seed(0)
    net, subsets = XrayNet(CHEST_XRAY14, "densenet121", image_size=224), ("train", "val", "test")
    split = {"fingerprint": "0", "subsets": dict.fromkeys(subsets, "0")}
    description = Description(net.config, {"image_size": 224, "clahe": False}, split)
    state = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    torch.save({KEY: description.to_plain(), "state_dict": state, "epoch": 0}, path)
    return path


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
        table, start = tmp_path / f"{turn}/predictions.csv", perf_counter()
        arguments = [checkpoint, *films, "--out", table.parent, "device=cpu"]
        process = subprocess.Popen(
            [*XRAY, "predict", *map(str, arguments)], stderr=subprocess.DEVNULL
        )
        while not (table.is_file() and table.read_bytes().count(b"\n") > 1):
            assert process.poll() is None
            sleep(0.01)
        seconds.append(perf_counter() - start)
        process.kill()
        process.wait()
    bench.remark(f"first row after {', '.join(f'{second:.1f}' for second in seconds)} s")
    bench.ratio(f"predict_first_row_seconds_{films[0].suffix[1:]}", min(seconds), "<=8")
