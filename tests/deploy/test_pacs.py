"""Maps and probabilities as DICOM: what stands in it, what is left out, how it is sent."""

from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from unittest.mock import Mock

import cv2
import numpy as np
import pydicom
import pytest
from running import read_rows

from xray_lightning import DicomResults, load_classifier, predict_files, write_dicom_results
from xray_lightning.errors import ConfigError
from xray_lightning.report import pacs
from xray_lightning.report.page import say

pytest.importorskip("highdicom")
PATIENT = {"PatientName": "Zqx^Jane", "PatientID": "ZQ-77", "PatientSex": "F"}
PATIENT |= {"PatientBirthDate": "19370203", "StudyDate": "20200102", "AccessionNumber": "ZQ-1"}


@pytest.fixture
def classifier(checkpoint_with_points):
    return load_classifier(checkpoint_with_points, device="cpu")


@pytest.fixture
def scans(write_dicom, tmp_path: Path) -> Path:
    """Two films of a study, one of another, and a PNG."""
    rng, place = np.random.default_rng(0), tmp_path / "scans"
    for name, study in (("a", "1.2.3"), ("b", "1.2.3"), ("c", "1.2.4")):
        told = PATIENT | {"StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.1"}
        pixels = rng.integers(0, 256, (40, 60), dtype=np.uint8)
        write_dicom(place / f"{name}.dcm", pixels, SpecificCharacterSet="ISO_IR 100", **told)
    cv2.imwrite(str(place / "d.png"), pixels)
    return place


@pytest.fixture
def write(classifier, scans):
    places = scans.with_name("out"), scans.with_name("dicom")
    predict_files(classifier, [scans], places[0])
    return lambda **options: write_dicom_results(classifier, *places, **options)


def change(path: Path, **attributes: object) -> None:
    data = pydicom.dcmread(path)
    with pydicom.config.disable_value_validation():
        for keyword, value in attributes.items():
            delattr(data, keyword) if value is None else setattr(data, keyword, value)
        data.save_as(path)


def read(folder, kind="") -> dict:
    return {x.SOPInstanceUID: x for x in map(pydicom.dcmread, Path(folder).glob(f"*{kind}.dcm"))}


def counts(done) -> tuple:
    return done.studies, done.films, done.kept, done.others, len(done.failures)


def by_name(item) -> dict:
    return {str(one.ConceptNameCodeSequence[0].CodeMeaning): one for one in item.ContentSequence}


def test_secondary_captures(write, scans) -> None:
    done, strip = write(method="gradient"), pacs.STRIP  # "cam" has one cell here
    assert (counts(done), DicomResults.from_json(done.to_json())) == ((2, 3, 0, 1, 0), done)
    told = f"as DICOM: 2 studies, 3 films, 0 before; {done.folder} names the patients"
    assert say("returned", done, "") == [f"note: {told}", "note: not DICOM, so not there: 1 file"]
    films, captures = read(scans), read(done.folder, "maps").values()
    for capture in captures:
        film = films.pop(capture.SourceImageSequence[0].ReferencedSOPInstanceUID)
        told = capture.SOPClassUID, capture.Modality, capture.Manufacturer
        assert told == (pydicom.uid.SecondaryCaptureImageStorage, "OT", "xray_lightning")
        same = ("StudyInstanceUID", *PATIENT)
        assert [capture[word].value for word in same] == [film[word].value for word in same]
        assert capture.SeriesInstanceUID != film.SeriesInstanceUID
        assert "research, not for diagnosis" in capture.DerivationDescription
        height, width, _ = capture.pixel_array.shape
        assert (height, width % 512) == (512 + 2 * strip, 0)
        panels = np.split(capture.pixel_array, width // 512, axis=1)
        assert all(panel[-strip:].max() == panel[:strip].max() == 255 for panel in panels)
        wanted = cv2.resize(film.pixel_array, (512, 341), interpolation=cv2.INTER_LINEAR)
        gap = panels[0][strip + 86 : strip + 426, :, 0].astype(int) - wanted[:340]
        assert np.abs(gap).mean() < 25, "the film itself stands first"
        assert all((panel[strip:-strip] != panels[0][strip:-strip]).any() for panel in panels[1:])
    series = {capture.SeriesInstanceUID for capture in captures}
    assert (films, len(captures), len(series)) == ({}, 3, 2), "a series for each study"


def test_reports(classifier, write, scans) -> None:
    films, groups, call = read(scans), [], "Call at the operating point"
    for report in read(write().folder, "report").values():
        groups.append([*map(by_name, by_name(report)["Imaging Measurements"].ContentSequence)])
        told = report.SOPClassUID, report.ContentTemplateSequence[0].TemplateIdentifier
        assert told == (pydicom.uid.ComprehensiveSRStorage, "1500")
        told = report.PatientID, report.PatientName, report.VerificationFlag, report.PreliminaryFlag
        assert told == ("ZQ-77", "Zqx^Jane", "UNVERIFIED", "PRELIMINARY")
        assert report.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99XRAY"
        (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
        assert evidence.StudyInstanceUID == report.StudyInstanceUID
    assert sorted(map(len, groups)) == [3, 6]
    for group in (group for those in groups for group in those):
        (film,) = group["Source of Measurement"].ReferencedSOPSequence
        (finding,) = group["Finding"].ConceptCodeSequence
        wanted = classifier(films[film.ReferencedSOPInstanceUID].filename)
        column, known = classifier.labels.index(finding.CodeMeaning), finding.CodeMeaning == "Mass"
        number = group["Probability" if known else "Score, not calibrated"]
        value = (wanted.probabilities if known else wanted.scores)[0, column]
        assert number.MeasuredValueSequence[0].NumericValue == pytest.approx(value, rel=1e-4)
        assert (call in group) == known
        called = "52101004" if wanted.calls[0, column] else "272519000"  # present, absent
        assert not known or group[call].ConceptCodeSequence[0].CodeValue == called
        assert finding.CodingSchemeDesignator == "SCT", "labels.yaml has codes of these three"
    code = pacs._code("One's own finding")
    assert (code.scheme_designator, code.value) == ("99XRAY", "One's own finding")


def test_only_what_changed_is_written_again(write, scans) -> None:
    first = read(write().folder)
    assert counts(write()) == (0, 0, 2, 1, 0)
    change(scans / "c.dcm", PatientName="Zqx^Joan")
    done = write()
    again = read(done.folder)
    assert (counts(done), len(first), len(again)) == ((1, 1, 1, 1, 0), 5, 5), "no doubles"
    assert [again[uid].PatientName for uid in again.keys() - first] == ["Zqx^Joan"] * 2


@pytest.mark.parametrize(("keyword", "value", "reason"), [
    ("PatientID", None, "it lacks PatientID (0010,0020)"),
    ("PatientName", None, "it lacks PatientName (0010,0010)"),
    ("SeriesInstanceUID", "", "it lacks SeriesInstanceUID (0020,000E)"),
    ("PatientSex", "ZQ", "its PatientSex (0010,0040) is damaged"),
    ("PatientID", "ZQ-78", "its PatientID (0010,0020) is not that of the other films"),
])  # fmt: skip
def test_a_film_of_an_unknown_patient(keyword, value, reason, write, scans) -> None:
    change(scans / "b.dcm", **{keyword: value})
    done = write()
    told = done.failures[str(scans.resolve() / "b.dcm")]
    assert (counts(done), told.startswith(reason), "ZQ" in told) == ((2, 2, 0, 1, 1), True, False)
    assert dict(read_rows(Path(done.folder) / "failed.csv")[1:]) == done.failures
    assert {r.CompletionFlag for r in read(done.folder, "report").values()} > {"PARTIAL"}
    change(scans / "b.dcm", **PATIENT | {"SeriesInstanceUID": "1.2.3.1"})
    assert counts(write()) == (1, 2, 1, 1, 0)
    assert not (Path(done.folder) / "failed.csv").exists()


def test_what_highdicom_refuses_is_told_without_values(write, monkeypatch) -> None:
    monkeypatch.setattr(pacs.SCImage, "from_ref_dataset", Mock(side_effect=ValueError("ZQ-77")))
    done = write()
    reason = "an attribute of its patient or study is damaged (ValueError). Correct the header"
    assert (counts(done), {*done.failures.values()}) == ((0, 0, 0, 1, 3), {reason})


class Service(BaseHTTPRequestHandler):
    """A stand-in for a DICOMweb service: what it answers, and what it took."""

    status, answer, taken, log_message = 200, "{}", [], Mock()

    def do_POST(self) -> None:
        kind, length = self.headers["Content-Type"], int(self.headers["Content-Length"])
        whole = f"Content-Type: {kind}\r\n\r\n".encode() + self.rfile.read(length)
        parts = message_from_bytes(whole).get_payload()
        assert {part.get_content_type() for part in parts} == {"application/dicom"}
        files = [pydicom.dcmread(BytesIO(part.get_payload(decode=True))) for part in parts]
        Service.taken.append((self.path, {data.SOPInstanceUID for data in files}))
        self.send_response(Service.status)
        self.end_headers()
        self.wfile.write(Service.answer.encode())


def test_stow(write) -> None:
    server = HTTPServer(("127.0.0.1", 0), Service)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/dicom-web"
    for Service.status, Service.answer, reason in (
        (200, '{"00081198": {"vr": "SQ", "Value": [{}]}}', "refused a part of it"),
        (202, "{}", "refused a part of it"),
        (200, "<html>", "gave no answer of DICOMweb (JSONDecodeError)"),
        (503, "{}", "refused it (HTTP status 503)"),
    ):
        done = write(stow=address)
        reasons = {f"the service {address} {reason}"}
        assert (counts(done), {*done.failures.values()}) == ((2, 3, 0, 1, 3), reasons)
        assert "sent" not in say("returned", done, address)[0]
    Service.status, Service.answer = 200, '{"00081198": {"vr": "SQ"}}'
    done = write(stow=f"{address}/")
    assert counts(done) == (2, 3, 0, 1, 0)
    assert f"3 films, and sent to {address}, 0 before" in say("returned", done, address)[0]
    assert counts(write(stow=f"{address}/")) == (0, 0, 2, 1, 0)
    server.shutdown()
    server.server_close()
    paths, sent = zip(*Service.taken, strict=True)
    assert (set(paths), len(sent)) == ({"/dicom-web/studies"}, 10)
    assert len(set().union(*sent)) == 5, "the same UIDs each time: a PACS has none twice"
    (gone,) = set(write(stow="http://127.0.0.1:1").failures.values())
    assert "gave no answer of DICOMweb (URLError)" in gone


@pytest.mark.parametrize(("out", "stow", "reason"), [
    ("old", "", "old tells nobody .* name another for DICOM"),
    ("new", "ftp://x", "stow=ftp://x: the address"),
    ("", "http://x", "stow=http://x sends what dicom_out=DIR"),
    ("none", "", r"pip install 'xray_lightning\[pacs\]'"),
])  # fmt: skip
def test_bad_requests(out, stow, reason, monkeypatch) -> None:
    if out == "none":
        monkeypatch.setattr(pacs, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=reason):
        write_dicom_results(Mock(), "old", out, stow=stow)
