import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from xray_lightning.data.nih_map import nih_patient, read_nih_map
from xray_lightning.errors import DataNotFoundError, TableError

PAIRS = {"a-1": "00000013_002.png", "b-2": "00030805_000.png"}


def as_json(path: Path, names: dict[str, str]) -> Path:
    objects = [
        {"subset_img_id": rsna, "img_id": nih, "orig_labels": ["Mass"], "SOPInstanceUID": "1.2"}
        for rsna, nih in names.items()
    ]
    data = json.dumps(objects).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["map.json", "map.json.gz"])
def test_published_json(tmp_path: Path, name: str) -> None:
    assert read_nih_map(as_json(tmp_path / name, PAIRS)) == PAIRS


@pytest.mark.parametrize(
    "header", ["patientId,Image Index", "patientId,image", "extra,subset_img_id,img_id"]
)
def test_tables(tmp_path: Path, header: str) -> None:
    lead = "x," * (header.count(",") - 1)
    rows = [f"{lead}{rsna},{nih}" for rsna, nih in PAIRS.items()]
    (tmp_path / "map.csv").write_text("\n".join([header, *rows]))
    assert read_nih_map(tmp_path / "map.csv") == PAIRS


def test_names_without_zeros_or_suffix(tmp_path: Path) -> None:
    names = read_nih_map(as_json(tmp_path / "m.json", {"a": "13_002", "b": "00000013_001.PNG"}))
    assert names == {"a": "00000013_002.png", "b": "00000013_001.png"}
    assert {nih_patient(name) for name in names.values()} == {"13"}


PAIR = "patientId,Image Index\na,"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (f"{PAIR}00000001_000.png\na,00000002_000.png", "row 3: a is 00000002_0"),
        (f"{PAIR}scan7.png", "row 2: 'a' -> 'scan7.png' does not name an NIH"),
        (f"{PAIR[:-2]},00000001_000.png", "row 2: '' -> .* does not name an NIH image"),
        ("patientId,file\na,00000001_000.png", "not a map from RSNA .*: it has patientId, file"),
        ("id,image\na,00000001_000.png", "it has id, image. It needs one of patientId, subset"),
        ("[{", "is not a readable JSON"),
        ('{"a": 1}', "is not a list of objects"),
        ("[1]", "is not a list of objects"),
        ('[{"img_id": "1"}]', "not a map from RSNA to NIH: it has img_id"),
        ('[{"subset_img_id": "a", "img_id": null}]', "object 1: 'a' -> 'None' does not name"),
    ],
)
def test_bad_maps(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / ("map.json" if text[0] in "[{" else "map.csv")
    path.write_text(text)
    with pytest.raises(TableError, match=match):
        read_nih_map(path)


@pytest.mark.parametrize("name", ["map.json", "map.csv"])
def test_no_map(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataNotFoundError, match=name):
        read_nih_map(tmp_path / name)


def test_the_real_map(real_data: Callable[[str], Path]) -> None:
    names = read_nih_map(real_data("rsna-metadata") / "rsna_to_nih.csv.gz")
    assert len(names) == 26_684
    assert len({nih_patient(name) for name in names.values()}) == 11_439
    own = read_nih_map(real_data("rsna-sample") / "nih_image_index.csv")
    assert len(own) == 338
    assert own.items() <= names.items()
