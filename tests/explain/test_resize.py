"""A synthetic box through every path from a file to the network's square, found again."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from xray_lightning import Box, Record, enlarge, open_cache
from xray_lightning.data.dataset import XrayDataset
from xray_lightning.data.geometry import box_to_square
from xray_lightning.data.images import read_record
from xray_lightning.explain.localisation import AnnotatedMaps, evaluate_localisation
from xray_lightning.explain.maps import shrink
from xray_lightning.metrics.localisation import detect_boxes, overlaps, region_of

# (height, width) of the file, and (width, height) of the image the box was drawn on
FILES = [
    ((200, 200), None),
    ((300, 220), None),  # taller than wide
    ((220, 300), None),  # wider than tall
    ((60, 80), None),  # smaller than the square
    ((120, 80), (640, 960)),  # the file was made smaller after the box was drawn
    ((240, 480), (240, 120)),  # or larger
]
BOX = (0.2, 0.35, 0.3, 0.25)  # x, y, width, height as shares of the frame: whole pixels


def record_of(folder, number: int) -> Record:
    (height, width), frame = FILES[number]
    x, y, across, down = BOX
    pixels = np.zeros((height, width), np.uint8)
    rows = slice(round(y * height), round((y + down) * height))
    pixels[rows, round(x * width) : round((x + across) * width)] = 255
    path = folder / f"{number}.png"
    cv2.imwrite(str(path), pixels)
    sides = frame or (width, height)
    box = Box("Mass", x * sides[0], y * sides[1], across * sides[0], down * sides[1])
    return Record(path.name, f"p{number}", (1.0,), path, boxes=(box,), box_frame=frame)


@pytest.mark.parametrize("size", [64, 224, 320])
def test_a_box_is_found_again_to_one_pixel(tmp_path, size: int) -> None:
    records = [record_of(tmp_path, number) for number in range(len(FILES))]
    source = SimpleNamespace(name="drawn", read=read_record, identity=dict)
    cache = open_cache(source, records, size=size, root=tmp_path / "cache", progress=False)
    data = XrayDataset(records, cache, np.arange(len(records)))
    images, boxes = [], []
    for row, record in enumerate(records):
        height, width = cache.sizes[row].tolist()
        [box] = record.boxes
        frame = record.box_frame or (width, height)
        boxes.append([box_to_square((box.x, box.y, box.width, box.height), frame, size)])
        images.append(data[row]["image"][0].numpy())
        [found] = detect_boxes(images[-1], [0.5])
        ends = np.array([found[:2], found[:2] + found[2:]])
        x, y, across, down = boxes[-1][0]
        assert ends == pytest.approx(np.array([[x, y], [x + across, y + down]]), abs=1)
    # The picture itself, taken as a map, must score as a map that is right.
    annotated = AnnotatedMaps(
        {"image": np.stack(images)}, boxes, [record.patient_id for record in records]
    )
    facts = evaluate_localisation({"Mass": annotated}, size=size, threshold=[0.5], draws=9)
    found = facts.labels["Mass"].methods["image"]
    assert found.pointing_game.value > 0.97
    assert found.centre.value == found.t_iou["0.8"].value == 1
    assert found.energy.value > 0.9


@pytest.mark.parametrize("cells", [(14, 14), (7, 9), (28, 28)])
def test_a_box_in_cells_is_found_again_to_one_cell(cells: tuple[int, int]) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        box = [*rng.uniform(0, 120, 2), *rng.uniform(60, 100, 2)]
        heat = enlarge(shrink(region_of([box], 224), cells), 224)
        found = max(detect_boxes(heat, [0.5]), key=lambda each: overlaps(each, box)[0][0, 0])
        side = 224 / np.array([cells[1], cells[0]])
        assert (np.abs(found[:2] - box[:2]) <= side).all()
        assert (np.abs(found[:2] + found[2:] - np.add(box[:2], box[2:])) <= side).all()
