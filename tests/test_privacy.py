"""A DICOM file full of identities: nothing of them gets into any output of any command.

Filled are all text, date, time, UID and number elements that pydicom's dictionary knows in the
groups of PS3.15 annex E (identification, patient, acquisition, study, procedure, ...), sequences,
private elements, an overlay, the preamble and the file meta information.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile

import pydicom
import pytest
from pydicom.config import disable_value_validation
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from running import XRAY, ask, read_table, run, xray
from toy import save_net, toy_net

GROUPS = {0x0008, 0x0010, 0x0012, 0x0014, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040, 0x0088, 0x4008}
NEEDED = {  # to read the image, or allowed by data/dicom/acquisition.py
    *("SpecificCharacterSet", "SOPClassUID", "Modality", "ViewPosition", "ImageLaterality"),
    *("Laterality", "PatientAge", "PatientSex", "ImagerPixelSpacing", "Manufacturer"),
}
TOLD = {"PatientAge": "097Y", "PatientSex": "F", "ViewPosition": "AP", "ImageLaterality": "U"}
TOLD |= {"Manufacturer": "Canon Imaging"}
VALUES = {  # by value representation; every text has ZQXWVK in it, too long for chance
    **dict.fromkeys(("LO", "SH", "CS", "AE", "ST", "LT", "UT", "UC"), "ZQXWVK{:08X}"),
    **{"PN": "Zqxwvk{:08X}^Jane", "UR": "http://zqxwvk.example/{:08X}"},
    **{"DA": "19370203", "DT": "19370203113355", "TM": "113355.77"},
    **{"UI": "2.25.98989898{}", "IS": "98989898", "DS": "98989898"},
}
SECRETS = [b"zqxwvk", b"19370203", b"1937-02-03", b"113355.77", b"2.25.98989898", b"98989898"]
COLUMNS = ("age", "sex", "view", "laterality", "manufacturer")
TOY = ["model=resnet50", "model.backbone=test_resnet", "model.weights=none", "image_size=32"]
TOY += ["batch_size=8", "epochs=1", "augment=none", "logger=none", "draws=20"]


def identities() -> dict[str, object]:
    """Keyword -> value for every element that is filled."""
    found: dict[str, object] = {}
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if tag >> 16 in GROUPS and vr in VALUES and keyword and keyword not in NEEDED:
            found[keyword] = VALUES[vr].format(tag)
    inner = Dataset()
    inner.PatientID, inner.RequestingPhysician = "ZQXWVKINNER", "Zqxwvk^Doctor"
    found["OtherPatientIDsSequence"] = [inner]
    found["RequestAttributesSequence"] = [inner]
    return found


@disable_value_validation()  # a name typed into the wrong field is no valid value of it
def full_of_identities(path: Path) -> None:
    """Add what attributes by keyword cannot say: private elements, overlay, meta, preamble.

    The elements of the allow-list hold identities too, but for image K = 0 of each patient, which
    has values that may be told, and an age that may not.
    """
    data = pydicom.dcmread(path)
    allowed = TOLD if path.stem.endswith("0") else dict.fromkeys(TOLD, "ZQXWVK^JANE")
    for keyword, value in allowed.items():
        setattr(data, keyword, value)
    block = data.private_block(0x0009, "ZQXWVKCREATOR", create=True)
    block.add_new(1, "LO", "ZQXWVKPRIVATE")
    block.add_new(2, "OB", b"ZQXWVKBYTE")
    overlay = {0x10: ("US", 32), 0x11: ("US", 32), 0x22: ("LO", "ZQXWVKOVERLAY"), 0x40: ("CS", "G")}
    overlay |= {0x50: ("SS", [1, 1]), 0x100: ("US", 1), 0x102: ("US", 0)}
    overlay |= {0x1500: ("LO", "ZQXWVKLABEL"), 0x3000: ("OW", b"ZQXWVKPX" * 16)}
    for element, told in overlay.items():
        data.add_new(0x60000000 + element, *told)
    data.add_new(0xFFFCFFFC, "OB", b"ZQXWVKTR")
    data.BurnedInAnnotation = "YES"
    data.file_meta.SourceApplicationEntityTitle = "ZQXWVKAE"
    data.file_meta.PrivateInformationCreatorUID = "2.25.989898981"
    data.file_meta.PrivateInformation = b"ZQXWVKMT"
    data.preamble = b"ZQXWVK" + bytes(122)
    data.save_as(path, enforce_file_format=True)


@pytest.fixture
def folder(empty_rsna):
    """An RSNA folder of 15 images whose every file is full of identities."""
    empty_rsna.patients = 5
    empty_rsna.complete(**identities())
    for path in empty_rsna.root.rglob("*.dcm"):
        full_of_identities(path)
    return empty_rsna


def leaks(text: bytes, place: str) -> Iterator[str]:
    lowered = text.lower()
    for secret in SECRETS:
        if secret in lowered:
            at = lowered.index(secret)
            yield f"{place}: {text[max(0, at - 40) : at + 40]!r}"


def leaks_below(folder: Path, but: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file() and but not in path.parents]
    assert files
    return [leak for path in files for leak in leaks(path.read_bytes(), str(path))]


def test_the_file_is_full(folder) -> None:
    """The test can fail: pydicom reads hundreds of identities, and the scan finds each kind."""
    path = folder.root / "stage_2_train_images/id-00.dcm"
    content = path.read_bytes().lower()
    assert len(list(pydicom.dcmread(path))) > 900
    assert content.count(b"zqxwvk") > 600
    assert all(secret in content for secret in SECRETS if secret != b"1937-02-03")
    assert len(list(leaks(content, "file"))) == len(SECRETS) - 1


def test_convert(folder, tmp_path: Path, write_dicom) -> None:
    images = folder.root / "stage_2_train_images"
    whole = (images / "id-00.dcm").read_bytes()
    (images / "half.dcm").write_bytes(whole[: len(whole) // 2])
    (images / "short.dcm").write_bytes(whole[:-200])
    out = tmp_path / "elsewhere" / "out"
    out.parent.mkdir()
    for options in ([], ["--bits", "16"], ["--bits", "8", "--rename"]):
        target = out.with_name(f"out{len(options)}")
        text = run([*XRAY, "convert", str(images), str(target), *options], tmp_path, 3)
        assert "2 of 17 files could not be converted" in text
        assert not list(leaks(text.encode(), "terminal"))
        assert len(list(target.rglob("*.png"))) == 15
        rows = read_table(target / "headers.csv")
        told = Counter(tuple(row[name] for name in COLUMNS) for row in rows)
        assert told == {("90", "F", "AP", "U", "Canon Imaging"): 5, ("", "", "", "", ""): 10}
    assert leaks_below(out.parent, folder.root / "stage_2_train_images") == []


def test_renamed(folder, tmp_path: Path) -> None:
    """Names of folders and files stand in names.csv alone, which says so."""
    named = folder.root / "stage_2_train_images" / "ZQXWVK^Jane"
    named.mkdir()
    for path in named.parent.glob("*.dcm"):
        path.rename(named / f"Zqxwvk_19370203_{path.name}")
    out = tmp_path / "elsewhere" / "out"
    out.parent.mkdir()
    text = run([*XRAY, "convert", str(named.parent), str(out), "--rename"], tmp_path)
    assert not list(leaks(text.encode(), "terminal"))
    assert "tells the original names: do not pass it on" in text
    assert len(list(out.rglob("*.png"))) == 15
    assert not list(leaks(" ".join(map(str, out.rglob("*"))).encode(), "names of files"))
    assert list(leaks((out / "names.csv").read_bytes(), "names.csv"))
    (out / "names.csv").unlink()
    assert leaks_below(out, folder.root / "none") == []


def test_data_train_and_evaluate(folder, tmp_path: Path) -> None:
    options = ["data=rsna", f"data.root={folder.root}", f"data.nih_map={folder.nih_map()}"]
    here = tmp_path / "elsewhere"
    here.mkdir()
    evaluation = ["images=all", "overlap=report"]
    script = (  # the three commands in one process, to import torch once
        "from xray_lightning.cli.app import run_verb; from xray_lightning.cli.train import train; "
        f"run_verb('data', {[*options, 'hydra.run.dir=facts']}); "
        f"code = train({[*TOY, *options, 'hydra.run.dir=run']}); "
        f"run_verb('evaluate', {['run/checkpoints/best.ckpt', *evaluation]}); "
        "raise SystemExit(code)"
    )
    text = run([sys.executable, "-c", script], here)
    assert "rsna (negatives: all)" in text
    assert not list(leaks(text.encode(), "terminal"))
    assert (here / "run/checkpoints/best.ckpt").is_file()
    assert leaks_below(here, here / "none") == []


def test_predict(folder, tmp_path: Path) -> None:
    """Scores and failures name files, and tell nothing else of them."""
    images, here = folder.root / "stage_2_train_images", tmp_path / "elsewhere"
    here.mkdir()
    whole = (images / "id-00.dcm").read_bytes()
    (images / "half.dcm").write_bytes(whole[: len(whole) // 2])
    (images / "short.dcm").write_bytes(whole[:-200])
    (images / "no_ending").write_bytes(whole)
    checkpoint = tmp_path / "best.ckpt"  # no output; random weights hold any three letters
    save_net(toy_net(["Lung Opacity"]), checkpoint)
    command = ["predict", str(checkpoint), str(images), "--out", str(here / "out")]
    text = "".join(xray(*command, code=3) for _ in range(2))
    assert "2 of 18 files could not be read" in text
    assert len((here / "out/predictions.csv").read_text().splitlines()) == 17
    assert len((here / "out/failed.csv").read_text().splitlines()) == 3
    assert not list(leaks(text.encode(), "terminal"))
    assert leaks_below(here, here / "none") == []


def test_serve(folder, tmp_path, monkeypatch, caplog, capfd) -> None:
    """Answers and logs tell nothing of a film, its name, its headers; none goes to the disk."""
    from xray_lightning import ServeLimits, create_app, load_classifier

    whole = (folder.root / "stage_2_train_images/id-00.dcm").read_bytes()
    save_net(toy_net(["Lung Opacity"]), tmp_path / "best.ckpt")
    app = create_app({"a": load_classifier(tmp_path / "best.ckpt")}, ServeLimits(megabytes=8))
    films = [whole, whole + bytes(3_000_000), whole[: len(whole) // 2], whole + bytes(9_000_000)]
    forms = [{"files": {"file": ("zqxwvk.dcm", film)}} for film in films]
    headers = {"referer": "http://zqxwvk.example/98989898", "x-patient": "ZQXWVK^Jane"}
    monkeypatch.setattr(SpooledTemporaryFile, "rollover", lambda _: pytest.fail("to the disk"))
    with caplog.at_level("DEBUG"):
        answers = ask(app, *films, *forms, url="/v1/predict?film=true", headers=headers)
        answers += ask(app, whole, url="/v1/predict?zqxwvk=1", headers=headers)
        answers += ask(app, "/metrics", "/zqxwvk")
    assert [one.status_code for one in answers] == [*[200, 200, 422, 413] * 2, 422, 200, 404]
    said = "".join(one.getMessage() for one in caplog.records if one.name != "httpx")  # the client
    for text in (said, *capfd.readouterr(), *(f"{one.headers}{one.text}" for one in answers)):
        assert not list(leaks(text.encode(), "service"))


def test_dicom_out(folder, tmp_path: Path) -> None:
    """What goes back to a PACS names the patients; the scores and the terminal still do not."""
    images, here = folder.root / "stage_2_train_images", tmp_path / "elsewhere"
    here.mkdir()
    save_net(toy_net(["Lung Opacity"]), tmp_path / "best.ckpt")
    command = ["predict", str(tmp_path / "best.ckpt"), str(images), "--out", str(here / "out")]
    said = xray(*command, f"dicom_out={tmp_path / 'pacs'}", code=3)
    assert "names the patients" in said
    assert "10 of 15 files could not be returned as DICOM" in said
    told = said.encode() + (tmp_path / "pacs/failed.csv").read_bytes()
    assert not list(leaks(told, "the terminal and failed.csv"))
    assert len(leaks_below(tmp_path / "pacs", here)) > 5
    assert leaks_below(here, here / "none") == []


def test_errors_name_the_file_alone(folder, rng) -> None:
    """What the reader says of broken files quotes nothing from them."""
    from xray_lightning.data.images import decode_image
    from xray_lightning.errors import InvalidImageError

    content = (folder.root / "stage_2_train_images/id-00.dcm").read_bytes()
    for size in rng.integers(132, len(content), 40):
        with pytest.raises(InvalidImageError) as caught:
            decode_image(content[:size], "x.dcm")
        assert not list(leaks(str(caught.value).encode(), "message"))
