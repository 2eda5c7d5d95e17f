"""Everything the project does, once on a GPU, beside the same on the CPU; data from the phantom.

    python tests/benchmarks/gpu.py                        # with a GPU: below 6 minutes on an H100
    python tests/benchmarks/gpu.py --device cpu --small   # a rehearsal: bfloat16 beside float32

Trains, resumes, evaluates, predicts and explains by the commands a user has, in bfloat16 (as on a
GPU by default) and in float32, compares the scores and maps with the CPU's, and times a training
step against a bare loop, from memory and from the cache. Prints a line as each step ends, then a
table; the exit code is 1 if a bound is missed or a command fails.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
import pandas as pd
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = map(str, (HERE.parents[1], HERE.parent, HERE))

from running import ROOT, TRAIN, XRAY  # noqa: E402
from test_step import GPU, Case, measure_step  # noqa: E402

from xray_lightning import (  # noqa: E402
    Phantom,
    XrayDataModule,
    augment_light,
    class_maps,
    load_classifier,
    read_predictions,
)

BF16, FLOAT32, SAME = 1e-3, 1e-5, 1e-6  # largest difference of a score in [0, 1]
MAPS = 1e-3  # of a map, over its largest absolute value
METHODS = ("cam", "gradcam", "gradcam++", "layercam", "gradient")


@dataclass
class Rehearsal:
    """The place of one pass over everything, and what came out of it."""

    folder: Path
    device: str
    small: bool
    rows: list[tuple[str, float, float]] = field(default_factory=list)  # a figure, its bound
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.run = self.folder / "run"
        self.checkpoint = self.run / "checkpoints/best.ckpt"
        on_cpu = ["trainer=cpu", "trainer.precision=bf16-mixed"]  # in training: bfloat16 on either
        self.trainer = ["trainer=gpu"] if self.device == "cuda" else on_cpu
        patients, size, batch = (60, 64, 16) if self.small else (700, 224, 32)
        self.data = [f"data.patients={patients}", f"image_size={size}", f"batch_size={batch}"]

    @contextmanager
    def timed(self, step: str):
        start = perf_counter()
        yield
        self.seconds[step] = perf_counter() - start
        print(f"{step}: {self.seconds[step]:.1f} s", flush=True)

    def command(self, *arguments: str | Path) -> None:
        """Run train.py or a verb as its user would; a failure ends everything with its output."""
        first, *rest = map(str, arguments)
        start = TRAIN if first == "train" else [*XRAY, first]
        search = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        place = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": search}}
        done = subprocess.run([*start, *rest], **place, **streams)
        if done.returncode:
            raise SystemExit(
                f"{first} {' '.join(rest)}: exit code {done.returncode}\n{done.stdout}"
            )

    def check(self, what: str, value: float, bound: float) -> None:
        self.rows.append((what, value, bound))
        print(f"  {what}: {value:.3g} (at most {bound:g})", flush=True)


def scores_of(folder: Path) -> np.ndarray:
    """(N, L) of the test subset."""
    return read_predictions(folder / "predictions_test.csv").scores


def largest(first: np.ndarray, second: np.ndarray) -> float:
    """Largest absolute difference; infinite where the shapes differ."""
    if first.shape != second.shape:
        return float("inf")
    return float(np.abs(first.astype(np.float64) - second).max())


def train_and_resume(all_: Rehearsal) -> None:
    epochs = 1 if all_.small else 2
    model = ["model=resnet50", "model.backbone=resnet18"] if all_.small else ["model=densenet121"]
    settings = [f"cache_dir={all_.folder / 'cache'}", f"hydra.run.dir={all_.run}", "report=false"]
    settings.append("augment=light")
    with all_.timed("train"):
        all_.command("train", *model, *all_.data, *all_.trainer, *settings, f"epochs={epochs}")
    with all_.timed("resume for another epoch"):
        all_.command("train", f"resume={all_.run}", f"trainer.max_epochs={epochs + 1}")
    rows = pd.read_csv(all_.run / "metrics.csv")
    all_.check("epochs missing after the resume", epochs + 1 - len(rows), 0)


def evaluate_everywhere(all_: Rehearsal) -> None:
    float32 = [all_.trainer[0], "trainer.precision=32-true"]
    places = {"same": all_.trainer, "cpu": ["trainer=cpu"], "float32": float32}
    for name, trainer in places.items():
        with all_.timed(f"evaluate, {' '.join(trainer)}"):
            out = f"hydra.run.dir={all_.folder / name}"
            all_.command("evaluate", all_.checkpoint, *trainer, "draws=50", out)
    own, cpu = scores_of(all_.run), scores_of(all_.folder / "cpu")
    same, single = (scores_of(all_.folder / name) for name in ("same", "float32"))
    all_.check("evaluate against the end of training", largest(same, own), SAME)
    all_.check("scores in bfloat16 against the CPU's", largest(own, cpu), BF16)
    all_.check("scores in float32 against the CPU's", largest(single, cpu), FLOAT32)
    means = [
        json.loads((place / "metrics.json").read_text())["test"]["auroc"]["mean"]
        for place in (all_.run, all_.folder / "cpu")
    ]
    bound = 1e-2 if all_.small else 1e-3  # of 30 images one changed pair moves more
    all_.check("mean test AUROC, bfloat16 against the CPU's", abs(means[0] - means[1]), bound)


def predict_files(all_: Rehearsal) -> None:
    images = np.random.default_rng(0).integers(0, 256, (16, 300, 280), dtype=np.uint8)
    place = all_.folder / "images"
    place.mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(place / f"{number:02}.png"), cv2.GaussianBlur(image, (31, 31), 8))
    tables = []
    for device in (all_.device, "cpu"):
        out = all_.folder / f"predict_{device}_{len(tables)}"
        with all_.timed(f"predict, device {device}"):
            all_.command("predict", all_.checkpoint, place, "--out", out, "--device", device)
        tables.append(pd.read_csv(out / "predictions.csv").filter(like="score_").to_numpy())
    all_.check("predict against the CPU's", largest(*tables), FLOAT32)


def explain(all_: Rehearsal) -> None:
    with all_.timed("explain"):
        out = f"hydra.run.dir={all_.folder / 'explain'}"
        wanted = ["methods=cam,gradcam", "saliency=cam", "shortcuts=false"]
        wanted += ["positives=8", "draws=50"]
        all_.command("explain", all_.checkpoint, *all_.trainer, *wanted, out)
    size = load_classifier(all_.checkpoint, device="cpu").preprocessing["image_size"]
    images = torch.rand(4, 1, size, size, generator=torch.Generator().manual_seed(0))
    nets = [load_classifier(all_.checkpoint, device=device).net for device in (all_.device, "cpu")]
    for method in METHODS:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            ours, theirs = (
                class_maps(net, images.to(device), method=method).detach().cpu().numpy()
                for net, device in zip(nets, (all_.device, "cpu"), strict=True)
            )
        difference = largest(ours, theirs) / (np.abs(theirs).max() or 1.0)
        all_.check(f"maps of {method} against the CPU's", difference, MAPS)


def time_step(all_: Rehearsal) -> None:
    case = GPU if all_.device == "cuda" else Case("cpu", 32, 4, 2, backbone="resnet18")
    with all_.timed("training steps"):
        bare, lightning, ratio = measure_step(case, all_.folder)
    name = f"step ({case.backbone}, {case.size} px, batch {case.batch}, {case.precision})"
    print(f"  {name}: bare loop {bare:.1f} ms, Trainer and XrayTask {lightning:.1f} ms")
    all_.check(f"{name} over a bare loop", ratio, 1.05 if all_.device == "cuda" else float("inf"))


def feed_steps(all_: Rehearsal) -> None:
    """Training from the cache beside the same loop on one batch that lies on the device already."""
    on_gpu = all_.device == "cuda"
    case = GPU if on_gpu else Case("cpu", 32, 4, 2, backbone="resnet18")
    source = Phantom(patients=1000 if on_gpu else 24, size=case.size)
    for on, resident in (("cpu", "false"), ("gpu", "false"), ("gpu", "true")):
        place = {"image_size": case.size, "batch_size": case.batch, "resident": resident}
        place |= {"augment": augment_light(on=on), "cache_dir": all_.folder / "cache"}
        feed = XrayDataModule(source, **place)
        with all_.timed(f"steps from the cache, augment.on={on} resident={resident}"):
            bare, lightning, ratio = measure_step(case, all_.folder, feed)
        print(f"  on one batch {bare:.1f} ms, from the cache {lightning:.1f} ms")
        bound = 1 / 0.95 if on_gpu and on == "gpu" else float("inf")
        all_.check(f"a step with augment.on={on} resident={resident} over one batch", ratio, bound)


def show(all_: Rehearsal) -> None:
    named = torch.cuda.get_device_name() if all_.device == "cuda" else "CPU (rehearsal)"
    print(f"\n{named}, torch {torch.__version__}, {sum(all_.seconds.values()):.0f} s")
    width = max(len(what) for what, *_ in all_.rows)
    for what, value, bound in all_.rows:
        verdict = "kept" if value <= bound else "MISSED"
        print(f"{what:{width}}  {value:10.3g}  {verdict} ({bound:g})")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="60 patients at 64 px, ResNet-18")
    parser.add_argument("--keep", type=Path, help="a folder for everything that is written")
    asked = parser.parse_args(arguments)
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --device cpu --small rehearses without one")
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        all_ = Rehearsal(folder.resolve(), asked.device, asked.small)
        for step in (train_and_resume, evaluate_everywhere, predict_files, explain):
            step(all_)
        time_step(all_)
        feed_steps(all_)
    show(all_)
    return 0 if all(value <= bound for _, value, bound in all_.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
