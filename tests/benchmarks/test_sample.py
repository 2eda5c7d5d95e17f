"""Reading one training sample: ours from the cache, against the readers that decode every time.

One process, one thread, 224 px. Ours includes the augmentation, theirs has none. The cache of 40
images lies in memory; the whole of NIH (5.6 GB at 224 px) only does if the machine has as much.
"""

import importlib
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from xray_lightning import ChestXray14, open_cache
from xray_lightning.data import transforms
from xray_lightning.data.dataset import XrayDataset
from xray_lightning.data.source import readable_records

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]

SIZE = 224
TURNS = 5
OURS_A_TURN = 1500
THEIRS_A_TURN = 20
TABLE = "Data_Entry_2017_v2020.csv.gz"
AUGMENTATIONS = {"": "light", "_xray14_augmentation": "xray14"}  # name's end -> augmentation

Rates = Callable[..., dict[str, list[float]]]
Over = Callable[[list[float], list[float]], float]


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, Path, str], XrayDataset]:
    """The data set as XrayDataModule makes it, with an augmentation of this name."""
    root = tmp_path_factory.mktemp("cache")

    def make(radiographs: Path, metadata: Path, augmentation: str) -> XrayDataset:
        source = ChestXray14(radiographs, table=metadata / TABLE, allow_missing=True)
        records = readable_records(source)
        cache = open_cache(source, records, size=SIZE, root=root, progress=False)
        augment = getattr(transforms, augmentation)()
        return XrayDataset(records, cache, np.arange(len(records)), augment=augment)

    return make


def reading(dataset: XrayDataset) -> Callable[[], int]:
    """Reads samples with a new augmentation each time."""
    seeds = count()

    def work() -> int:
        for _ in range(OURS_A_TURN):
            seed = next(seeds)
            sample = dataset[seed % len(dataset), seed]
        assert sample["image"].shape == (1, SIZE, SIZE)
        return OURS_A_TURN

    return work


@pytest.fixture
def torchxrayvision() -> Iterator[ModuleType]:
    """The peer's data sets; its remarks at import are not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield importlib.import_module("torchxrayvision.datasets")
        except ModuleNotFoundError as error:
            pytest.skip(f"needs torchxrayvision ({error}): pip install torchxrayvision")


def peer_dataset(peer: ModuleType, folder: Path, table: Path, to: Path, engine: str) -> Any:
    """torchxrayvision's NIH_Dataset on the files of a folder, with its usual crop and resize."""
    entries = pd.read_csv(table)
    entries = entries[entries["Image Index"].isin([path.name for path in folder.glob("*.png")])]
    entries.to_csv(to, index=False)
    steps = [peer.XRayCenterCrop(), peer.XRayResizer(SIZE, engine=engine)]

    def transform(image: Any) -> Any:
        return steps[1](steps[0](image))

    return peer.NIH_Dataset(
        imgpath=str(folder),
        csvpath=str(to),
        views=["PA", "AP"],
        unique_patients=False,
        transform=transform,
    )


@pytest.mark.parametrize("suffix", AUGMENTATIONS)
def test_sample_vs_torchxrayvision(
    suffix: str,
    cached: Any,
    torchxrayvision: ModuleType,
    radiographs: Path,
    metadata: Path,
    tmp_path: Path,
    rates: Rates,
    over: Over,
    remark: Any,
    ratio: Any,
) -> None:
    numbers = count()

    def peer_reading(engine: str) -> Callable[[], int]:
        dataset = peer_dataset(
            torchxrayvision, radiographs, metadata / TABLE, tmp_path / f"{engine}.csv", engine
        )
        assert len(dataset) == len(list(radiographs.glob("*.png")))

        def work() -> int:
            for _ in range(THEIRS_A_TURN):
                sample = dataset[next(numbers) % len(dataset)]
            assert sample["img"].shape == (1, SIZE, SIZE)
            return THEIRS_A_TURN

        return work

    ours = reading(cached(radiographs, metadata, AUGMENTATIONS[suffix]))
    found = rates(
        TURNS, ours=ours, default=peer_reading("skimage"), with_cv2_engine=peer_reading("cv2")
    )
    remark(
        f"samples a second at {SIZE} px, augmentation {AUGMENTATIONS[suffix]}: ours "
        f"{median(found['ours']):.0f}, torchxrayvision {median(found['default']):.1f}, with its "
        f"cv2 engine {median(found['with_cv2_engine']):.1f} "
        f"({over(found['ours'], found['with_cv2_engine']):.0f} times)"
    )
    ratio(f"sample_vs_torchxrayvision{suffix}", over(found["ours"], found["default"]), ">=30")


@pytest.mark.parametrize("suffix", AUGMENTATIONS)
def test_sample_vs_opencv(
    suffix: str,
    cached: Any,
    radiographs: Path,
    metadata: Path,
    rates: Rates,
    over: Over,
    remark: Any,
    ratio: Any,
) -> None:
    files = sorted(radiographs.glob("*.png"))

    def decode() -> int:
        for file in files:
            image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
            small = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        assert small.shape == (SIZE, SIZE)
        return len(files)

    ours = reading(cached(radiographs, metadata, AUGMENTATIONS[suffix]))
    found = rates(TURNS, ours=ours, opencv=decode)
    remark(
        f"samples a second at {SIZE} px, augmentation {AUGMENTATIONS[suffix]}: ours "
        f"{median(found['ours']):.0f}, OpenCV decode + area resize {median(found['opencv']):.1f}"
    )
    ratio(f"sample_vs_opencv{suffix}", over(found["ours"], found["opencv"]), ">=10")
