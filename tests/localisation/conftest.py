from collections.abc import Callable

import numpy as np
import pytest

from xray_lightning.grid import shrunk
from xray_lightning.localisation.located import Located
from xray_lightning.metrics.localisation import region_of

SIZE = 48  # three times the maps: a cell has a middle pixel, which keeps its value


@pytest.fixture
def located() -> Callable[..., Located]:
    """Images with one box each; "sees" is the box in 16 x 16 cells and noise, "blind" noise."""

    def make(count: int, *, seed: int = 0, first: int = 0, images: int = 2) -> Located:
        rng = np.random.default_rng(seed)
        boxes = [[tuple(box)] for box in rng.uniform([2, 2, 8, 8], [28, 28, 16, 16], (count, 4))]
        noise = rng.random((2, count, 16, 16), dtype=np.float32)
        cells = np.stack([shrunk(region_of(box, SIZE), (16, 16)) for box in boxes])
        patients = [f"p{first + row // images}" for row in range(count)]
        return Located({"sees": cells + noise[0] / 2, "blind": noise[1]}, boxes, patients)

    return make
