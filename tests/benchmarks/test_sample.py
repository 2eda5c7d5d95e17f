"""Reading one training sample: ours from the cache, against the readers that decode every time.

One process, one thread, 224 px. Ours includes the augmentation, theirs has none. The cache of 40
images lies in memory; the whole of NIH (5.6 GB at 224 px) only does if the machine has as much.
"""

from importlib.util import find_spec
from itertools import count
from statistics import median

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


@pytest.fixture(params=["light", "xray14"])
def ours(request, radiographs, metadata, tmp_path_factory):
    """An augmentation, and work that reads samples as XrayDataModule does, each newly augmented."""
    folder, root = radiographs[0].parent, tmp_path_factory.getbasetemp() / "sample_cache"
    source = ChestXray14(folder, table=metadata / TABLE, allow_missing=True)
    records = readable_records(source)
    cache = open_cache(source, records, size=SIZE, root=root, progress=False)
    augment = getattr(transforms, f"augment_{request.param}")()
    dataset, seeds = XrayDataset(records, cache, np.arange(len(records)), augment=augment), count()

    def work() -> int:
        for _ in range(OURS_A_TURN):
            seed = next(seeds)
            sample = dataset[seed % len(dataset), seed]
        assert sample["image"].shape == (1, SIZE, SIZE)
        return OURS_A_TURN

    return request.param, work


def compare(bench, peer: str, bound: str, ours, **theirs) -> None:
    """Ratios to the first of their ways, and a remark on all."""
    augmentation, work = ours
    rates = bench.rates(TURNS, ours=work, **theirs)
    first, *_ = theirs
    shown = ", ".join(f"{name} {median(rates[name]):.1f}" for name in ("ours", *theirs))
    times = ", ".join(f"{bench.over(rates['ours'], rates[name]):.0f} times" for name in theirs)
    bench.remark(f"samples a second at {SIZE} px, augmentation {augmentation}: {shown} ({times})")
    ending = "" if augmentation == "light" else f"_{augmentation}_augmentation"
    value = bench.over(rates["ours"], rates[first])
    bench.ratio(f"sample_vs_{peer}{ending}", value, bound)


@pytest.mark.skipif(find_spec("skimage") is None, reason="needs scikit-image")
@pytest.mark.filterwarnings("ignore")  # the peer's, at import
def test_sample_vs_torchxrayvision(ours, xrv, radiographs, metadata, tmp_path, bench) -> None:
    """NIH_Dataset on the same files, with its usual crop and resize, by either engine."""
    entries, numbers = pd.read_csv(metadata / TABLE), count()
    entries[entries["Image Index"].isin([path.name for path in radiographs])].to_csv(
        tmp_path / "table.csv", index=False
    )
    places = {"imgpath": str(radiographs[0].parent), "csvpath": str(tmp_path / "table.csv")}

    def peer_reading(engine: str):
        crop, resize = xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(SIZE, engine=engine)
        dataset = xrv.datasets.NIH_Dataset(
            **places, views=["PA", "AP"], unique_patients=False, transform=lambda x: resize(crop(x))
        )
        assert len(dataset) == len(radiographs)

        def work() -> int:
            for _ in range(THEIRS_A_TURN):
                sample = dataset[next(numbers) % len(dataset)]
            assert sample["img"].shape == (1, SIZE, SIZE)
            return THEIRS_A_TURN

        return work

    peers = {"default": peer_reading("skimage"), "with_cv2_engine": peer_reading("cv2")}
    compare(bench, "torchxrayvision", ">=30", ours, **peers)


def test_sample_vs_opencv(ours, radiographs, bench) -> None:
    def decode() -> int:
        for file in radiographs:
            image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
            small = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        assert small.shape == (SIZE, SIZE)
        return len(radiographs)

    compare(bench, "opencv", ">=10", ours, opencv=decode)
