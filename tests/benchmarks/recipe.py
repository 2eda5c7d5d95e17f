"""Does the recipe beat a bare loop? Both train on one patient split of a folder of NIH's layout.

    python tests/benchmarks/recipe.py ../shared/data/nih-sample [seeds=3] [KEY=VALUE for train.py]

The bare loop is 30 lines of PyTorch: one-cycle learning rate, mirror and shift by a sixteenth of
the side, one grey channel by the training set's own mean and deviation, every parameter decayed,
no clipping, no validation: it learns from those films too, and its last epoch counts. Ours is
``train.py`` with the defaults, but for the optimiser's rates. Prints both mean AUROCs of each seed
with the interval of the difference (patients resampled), and at the end their mean over the seeds.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

import xray_lightning as xl
from xray_lightning.wording import number

TRAIN = Path(__file__).parents[2] / "train.py"
SETTINGS = {"model": "densenet121", "image_size": "96", "epochs": "12", "batch_size": "32"}
SETTINGS |= {"weights": "none", "model.dropout": "0.2", "optim.optimizer.lr": "1e-3"}
QUIET = ("callbacks.heat_maps=null", "callbacks.gate=null", "report=false", "logger=none")


def train_bare(data: xl.XrayDataModule, settings: dict[str, str], seed: int) -> np.ndarray:
    """Scores (N, L) of the test films by a network of timm and a loop of PyTorch."""
    torch.manual_seed(seed)
    films = [data.dataset(subset) for subset in ("train", "val", "test")]
    images, test = (
        torch.stack([film["image"] for part in parts for film in part])
        for parts in (films[:2], films[2:])
    )
    targets = torch.cat([torch.from_numpy(data.subset_targets(s)) for s in ("train", "val")])
    deviation, mean = torch.std_mean(images)
    net = timm.create_model(
        settings["model"], in_chans=1, num_classes=len(data.labels),
        drop_rate=float(settings["model.dropout"]),
    )  # fmt: skip
    epochs, batch, rate = (
        kind(settings[key])
        for kind, key in ((int, "epochs"), (int, "batch_size"), (float, "optim.optimizer.lr"))
    )
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.05)
    steps = max(1, len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps * epochs + 1)
    far = images.shape[-1] // 16
    for _ in range(epochs):
        for rows in torch.randperm(len(images))[: steps * batch].chunk(steps):
            moved = []
            for film in images[rows]:
                film = film.flip(-1) if torch.rand(()) < 0.5 else film
                film = torch.nn.functional.pad(film, [far] * 4)
                top, left = torch.randint(0, 2 * far + 1, (2,)).tolist()
                moved.append(film[:, top:, left:][:, : images.shape[-2], : images.shape[-1]])
            logits = net((torch.stack(moved) - mean) / deviation)
            optimizer.zero_grad()
            binary_cross_entropy_with_logits(logits, targets[rows]).backward()
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.inference_mode():
        return torch.cat([net((part - mean) / deviation) for part in test.split(64)]).sigmoid()


def main(root: str, *changes: str) -> None:
    """Train both for each seed and compare."""
    given = dict(text.split("=", 1) for text in changes)
    seeds, settings = int(given.pop("seeds", "3")), SETTINGS | given
    source, rows = xl.ChestXray14(root), []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as place:
            words = [f"{key}={value}" for key, value in settings.items()]
            words += [f"data.root={root}", f"seed={seed}", f"split.seed={seed}", *QUIET]
            words += [f"hydra.run.dir={place}/run", f"cache_dir={place}/cache"]
            command = [sys.executable, str(TRAIN), "data=nih", "split=patient", *words]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            ours = xl.read_predictions(Path(place, "run", "predictions_test.csv"))
            data = xl.XrayDataModule(
                source, split=lambda *args, seed=seed: xl.patient_split(*args, seed=seed),
                image_size=int(settings["image_size"]), cache_dir=f"{place}/cache",
            )  # fmt: skip
            scores = train_bare(data, settings, seed)
        films = data.subset_records("test")
        bare = xl.Predictions.of(films, data.labels, np.asarray(scores))
        mean = xl.compare(ours, bare).mean
        low, high = mean.interval or (np.nan, np.nan)
        print(
            f"seed {seed}: train.py {mean.first:.4f}, bare loop {mean.second:.4f}, difference "
            f"{mean.difference:+.4f}, 95 % {number(low, 4, '+')} to {number(high, 4, '+')}"
        )
        rows.append((mean.first, mean.second))
    first, second = np.mean(rows, axis=0)
    print(f"mean of {seeds} seeds: train.py {first:.4f}, bare loop {second:.4f}")
    print(f"ratio recipe_over_bare_loop {first / second:.4f} target >=1")


if __name__ == "__main__":
    main(*sys.argv[1:])
