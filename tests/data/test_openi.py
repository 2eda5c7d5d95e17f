"""Open-I on a phantom folder with every odd report, and the counts of the real files."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from xray_lightning import ConfigError, DataNotFoundError, OpenI, TableError, UnknownPatientsWarning
from xray_lightning.data.openi import HEADERS

pytestmark = pytest.mark.filterwarnings("ignore::xray_lightning.data.source.UnknownPatientsWarning")

VIEWS = {"CXR1_1": "PA", "CXR1_2": "LARGE LATERAL", "CXR2_1": "AP", "CXR3_1": "", "CXR4_1": "PA"}


def write_report(root: Path, number: int, terms: Sequence[str], images: Sequence[str]) -> None:
    folder = root / "ecgen-radiology"
    folder.mkdir(exist_ok=True)
    major = "".join(f"<major>{term}</major>" for term in terms)
    parent = '<parentImage id="{}"><caption>PA</caption></parentImage>'
    parents = "".join(map(parent.format, images))
    mesh = f"<MeSH>{major}<automatic>Mass</automatic></MeSH>"
    text = f'<eCitation><uId id="CXR{number}"/>{mesh}{parents}'
    (folder / f"{number}.xml").write_text(f"<?xml version='1.0'?>{text}</eCitation>")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    two = ["Thickening/pleura/apex", "Hydropneumothorax/right", "Nodule/thorax"]
    one = ["Nodule/lung/base/left", "Subcutaneous Emphysema/neck"]
    write_report(tmp_path, 1, one, ["CXR1_1", "CXR1_2"])
    write_report(tmp_path, 2, two, ["CXR2_1"])
    write_report(tmp_path, 3, ["normal"], ["CXR3_1"])
    write_report(tmp_path, 4, ["No Indexing"], ["CXR4_1"])
    write_report(tmp_path, 10, ["Pneumonia"], [])
    rows = [f"{image},x,{view}" for image, view in VIEWS.items()]
    (tmp_path / HEADERS).write_text("\n".join(["imageid,Rows,View Position", *rows]))
    return tmp_path


def test_odd_reports(folder: Path) -> None:
    image = np.dstack([np.full((6, 5), 200, np.uint8)] * 3)  # grey stored as RGB
    (folder / "NLMCXR_png").mkdir()
    cv2.imwrite(str(folder / "NLMCXR_png" / "CXR1_1.png"), image)
    source = OpenI(folder, views=None)
    wanted = {"CXR1_1": "PA", "CXR1_2": "LL", "CXR2_1": "AP", "CXR3_1": ""}
    assert {r.image_id: r.view for r in source.records} == wanted
    assert all(r.image_id.startswith(f"{r.patient_id}_") for r in source.records)
    present = [
        {label for label, target in zip(source.labels, record.targets, strict=True) if target}
        for record in source.records
    ]
    pleural = {"Pleural_Thickening", "Pneumothorax", "Effusion"}
    assert present == [{"Nodule"}, {"Nodule"}, pleural, set()]
    assert source.read(source.records[0]).tolist() == image[:, :, 0].tolist()
    assert "LEFT OUT: 1 image of reports that were not indexed" in source.notes
    assert source.counts["files"]["reports without image"] == 1
    with pytest.warns(UnknownPatientsWarning, match="a report counts as a patient"):
        assert [r.image_id for r in OpenI(folder).records] == ["CXR1_1", "CXR2_1"]


def test_errors(folder: Path) -> None:
    (folder / HEADERS).rename(folder / "elsewhere.csv")
    with pytest.raises(ConfigError, match="views=null"):
        OpenI(folder)
    assert len(OpenI(folder, views=None).records) == 4
    write_report(folder, 5, ["normal"], ["CXR1_1"])
    with pytest.raises(TableError, match=r"5\.xml: CXR1_1"):
        OpenI(folder, views=None)
    for text, reason in (("<eCitation/>", "uId"), ("<eCitation>", "not XML")):
        (folder / "ecgen-radiology" / "5.xml").write_text(text)
        with pytest.raises(TableError, match=rf"5\.xml.*{reason}"):
            OpenI(folder, views=None)
    with pytest.raises(DataNotFoundError, match="ecgen-radiology"):
        OpenI(folder / "ecgen-radiology")


def test_real_counts(tables: Path) -> None:
    source = OpenI(tables / "openi")
    assert not any("expected" in note for note in source.notes)
    assert len(source.records) == 3_893
    assert not source.official
