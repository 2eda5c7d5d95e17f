"""Back into a PACS: maps as Secondary Captures, probabilities as a structured report (TID 1500).

What is written here identifies patients, unlike everything else that this package writes.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from warnings import catch_warnings

import cv2
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.config import RAISE, disable_value_validation
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import validate_value

import xray_lightning
from xray_lightning.data.decoding import single_threaded_opencv
from xray_lightning.data.files import Journal, file_stamp, is_dicom, read_file, read_head
from xray_lightning.data.images import Pixels, decode_image
from xray_lightning.data.vocabulary import read_vocabulary
from xray_lightning.deploy.classifier import Classifier
from xray_lightning.deploy.interpretation import Interpretation
from xray_lightning.deploy.predict import ScoreTable, read_key
from xray_lightning.errors import ConfigError, DataError, InvalidImageError
from xray_lightning.folders import lock_folder
from xray_lightning.report.studies import describe, draw_maps
from xray_lightning.results import Json, Result
from xray_lightning.writing import open_replacing, read_json, write_rows

with suppress(ImportError):  # an extra: require_pacs says so
    from highdicom import sr
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from highdicom.sc import SCImage

NAME, WARNING, SCHEME = "xray_lightning", "research, not for diagnosis", "99XRAY"
IDENTITY = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
STUDY = ("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName")
SERIES = {"maps": 9001, "report": 9002}  # numbers, far from a modality's
STRIP, SECONDS = 28, 60  # px of a line of text; that a service may take for a study
logging.getLogger("highdicom").setLevel(logging.CRITICAL)  # it quotes names too


@dataclass(frozen=True)
class DicomResults(Result):
    """What :func:`write_dicom_results` did."""

    folder: str
    studies: int  # written now, a report each
    films: int  # of these, a Secondary Capture each
    kept: int  # studies that were written before, unchanged since
    others: int  # files that are not DICOM, and have neither
    failures: dict[str, str]  # file to reason


def write_dicom_results(
    classifier: Classifier,  # the one that made the scores
    folder: str | Path,  # as ``predict_files`` left it
    out: str | Path,  # another folder: this one tells who the patients are
    *,
    method: str = "cam",  # of the maps, see :func:`~xray_lightning.class_maps`
    stow: str = "",  # a DICOMweb service that is sent all, such as http://localhost:8042/dicom-web
) -> DicomResults:
    """A Secondary Capture of each DICOM film in a folder of ``predict_files``, an SR of each study.

    Patient and study are the film's, series are new. Called again, it does the studies that are
    new, changed or failed; what is the same keeps its UIDs, so that no PACS has it twice. A film
    whose attributes are missing or damaged, or that the service refuses, stands in failed.csv.
    ConfigError without highdicom, for the same folder or an address that is none; OutputError
    without a model.json that can be read.
    """
    require_pacs(folder, out, stow)
    classifier.require_maps(method)
    folder, out, model = Path(folder), Path(out), read_json(Path(folder) / "model.json")
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    failures, films, studies = dict[str, str](), list[int](), defaultdict[str, list[str]](list)
    with lock_folder(folder), lock_folder(out), single_threaded_opencv():
        table = ScoreTable(folder, Interpretation.from_json(model))
        journal, key = Journal(out / ".pacs.done"), read_key(out / ".uid.key")
        for name, (study, *_) in table.rows.items():
            if is_dicom(read_head(Path(name)) or b"") or not Path(name).is_file():  # says: gone
                studies[study].append(name)
        for study, names in studies.items():
            rows = [image["rows"] for image in describe(names, table)]
            told = key, [file_stamp(Path(name)) for name in names], rows, method
            stamp = sha256(repr((*told, model["weights_sha256"])).encode()).hexdigest()
            if journal.stamps.get(study) == f"{stamp} {stow}":
                continue
            with disable_value_validation(), catch_warnings(action="ignore"):  # they quote names
                own = _Study(classifier, model["weights_sha256"], method, stamp)
                failed = own.build(dict(zip(names, rows, strict=True)))
                failed |= own.write(out / study, stow)
            films.append(len(own.films))
            failures |= failed
            if not failed:
                journal.add({study: f"{stamp} {stow}"})
        rows = [{"file": name, "reason": reason} for name, reason in failures.items()]
        write_rows(out / "failed.csv", rows)
    written, kept = sum(map(bool, films)), len(studies) - len(films)
    others = len(table.rows) - sum(map(len, studies.values()))
    return DicomResults(str(out), written, sum(films), kept, others, failures)


def require_pacs(folder: str | Path, out: str | Path, stow: str = "") -> None:
    """Refuse what cannot be written or sent, before hours of scoring."""
    if not str(out):
        raise ConfigError(f"stow={stow} sends what dicom_out=DIR writes: name that folder")
    if find_spec("highdicom") is None:
        raise ConfigError("dicom_out= needs highdicom: pip install 'xray_lightning[pacs]'")
    if stow and not stow.startswith(("http://", "https://")):
        raise ConfigError(f"stow={stow}: the address of a DICOMweb service starts with http")
    if Path(out).resolve() == Path(folder).resolve():
        raise ConfigError(f"{out} tells nobody who the patients are: name another for DICOM files")


class _Study:
    """The DICOM objects of a study: Secondary Captures and a report."""

    def __init__(self, classifier: Classifier, weights: str, method: str, stamp: str) -> None:
        self.classifier, self.weights, self.method, self.stamp = classifier, weights, method, stamp
        self.films: dict[str, Dataset] = {}  # file -> its header
        self.objects: dict[str, Dataset] = {}  # end of a file name -> its content

    def build(self, films: dict[str, list[Json]]) -> dict[str, str]:
        """Make the objects of films by their rows; file to reason of those without one."""
        failures, groups = dict[str, str](), list[Any]()
        for name, rows in films.items():
            number = len(self.films) + 1
            try:
                film = decode_image(data := read_file(Path(name)), name)
                header = dcmread(BytesIO(data), stop_before_pixels=True, force=True)
                _require_identity(header, next(iter(self.films.values()), header))
                self.objects[f"{number}_maps"] = self._capture(header, film, rows, number)
                groups += [self._measure(header, number, row) for row in rows]
                self.films[name] = header
            except DataError as error:
                failures[name] = str(error).removeprefix(f"{name}: ")
        if groups:
            self.objects["report"] = self._report(groups, whole=not failures)
        return failures

    def write(self, place: Path, stow: str) -> dict[str, str]:
        """Write the files, in place of older ones, and send them; file to reason if refused."""
        for old in place.parent.glob(f"{place.name}_*.dcm"):
            old.unlink()
        paths = [place.with_name(f"{place.name}_{end}.dcm") for end in self.objects]
        for path, dataset in zip(paths, self.objects.values(), strict=True):
            with open_replacing(path, "wb") as file:
                dataset.save_as(file, enforce_file_format=True)
        reason = store(paths, stow) if stow and paths else ""
        return dict.fromkeys(self.films, reason) if reason else {}

    def _tell(self, header: Dataset, kind: str, number: int) -> Json:
        """What both kinds of objects say of themselves; the same UIDs while nothing changes."""
        own = [self.stamp, kind]
        return {
            "series_instance_uid": generate_uid(entropy_srcs=own),
            "sop_instance_uid": generate_uid(entropy_srcs=[*own, header.SOPInstanceUID]),
            "series_number": SERIES[kind], "series_description": f"{NAME} {kind}: {WARNING}",
            "instance_number": number, "software_versions": xray_lightning.__version__,
            "manufacturer": NAME, "manufacturer_model_name": NAME,
            "specific_character_set": "ISO_IR 192", "transfer_syntax_uid": ExplicitVRLittleEndian,
        }  # fmt: skip

    def _capture(self, header: Dataset, film: Pixels, rows: Sequence[Json], number: int) -> Dataset:
        """The film, and beside it its maps: those of what is called, at least two."""
        grey, _, maps = draw_maps(self.classifier, film, rows, self.method)
        panels = [_frame(grey, "film as it was read")]
        for row, picture in maps:
            kind = "score" if np.isnan(row["probability"]) else "probability"
            text = f"{row['label']}: {kind} {row[kind]:.2f}"
            panels.append(_frame(picture, text + ", called" * int(row["call"] == 1)))
        told = self._tell(header, "maps", number) | {"patient_orientation": ("L", "F")}  # set below
        whole = np.concatenate(panels, 1)
        try:
            capture: Dataset = SCImage.from_ref_dataset(header, whole, "RGB", 8, "PATIENT", **told)
        except Exception as error:  # of an attribute that it copies; it may quote the value
            reason = f"an attribute of its patient or study is damaged ({type(error).__name__})"
            raise InvalidImageError(f"{reason}. Correct the header") from error
        capture.PatientOrientation = header.get("PatientOrientation")  # as the film says
        capture.Laterality = header.get("Laterality")
        capture.BurnedInAnnotation = "YES"  # letters of the film stay where they are
        named = ", ".join(row["label"] for row, _ in maps)
        capture.DerivationDescription = f"{self.method} of {named}: {WARNING}"
        capture.SourceImageSequence = [source := Dataset()]
        source.ReferencedSOPClassUID = header.SOPClassUID
        source.ReferencedSOPInstanceUID = header.SOPInstanceUID
        return capture

    def _measure(self, header: Dataset, number: int, row: Json) -> Any:
        """A finding of a film: its probability, or its score if there is none, and its call."""
        label, value, name = row["label"], row["probability"], codes.DCM.Probability
        if np.isnan(value):
            value, name = row["score"], _code("Score, not calibrated")
        film = header.SOPClassUID, header.SOPInstanceUID
        told = codes.SCT.Present if row["call"] == 1 else codes.SCT.Absent
        said = [sr.QualitativeEvaluation(_code("Call at the operating point"), told)]
        uid = generate_uid(entropy_srcs=[self.stamp, label, film[1]])
        measured = sr.Measurement(name, float(f"{value:.6g}"), codes.UCUM.NoUnits)
        return sr.MeasurementsAndQualitativeEvaluations(
            sr.TrackingIdentifier(uid, f"film {number}: {label}"), finding_type=_code(label),
            measurements=[measured], source_images=[sr.SourceImageForMeasurementGroup(*film)],
            qualitative_evaluations=[] if np.isnan(row["call"]) else said,
        )  # fmt: skip

    def _report(self, groups: list[Any], *, whole: bool) -> Dataset:
        """The Comprehensive SR of the films, TID 1500; ``whole``: of all of the study's."""
        device = sr.DeviceObserverIdentifyingAttributes(
            generate_uid(entropy_srcs=[self.weights]), f"{NAME}: {WARNING}", NAME,
            f"{NAME} {xray_lightning.__version__}", f"weights {self.weights[:16]}",
        )  # fmt: skip
        observer = sr.ObserverContext(codes.DCM.Device, device)
        context = sr.ObservationContext(observer_device_context=observer)
        report = sr.MeasurementReport(context, _code("Chest radiograph, by a network"), groups)
        scheme = CodingSchemeIdentificationItem(SCHEME, f"private: labels of {NAME} by their names")
        films = [*self.films.values()]
        told = self._tell(films[0], "report", 1) | {"coding_schemes": [scheme]}
        return sr.ComprehensiveSR(films, report[0], is_complete=whole, **told)


def _code(name: str) -> Any:
    """SNOMED CT where labels.yaml has a code for a label, else the name by a private scheme."""
    finding = read_vocabulary().get(name)
    snomed = finding and finding.snomed
    return sr.CodedConcept(*((str(snomed), "SCT") if snomed else (name, SCHEME)), name)


def _frame(picture: Pixels, text: str) -> Pixels:
    """A picture (H, W, 3) between two lines of text, nothing of it covered."""
    framed = cv2.copyMakeBorder(picture, STRIP, STRIP, 0, 0, cv2.BORDER_CONSTANT)
    for line, y in ((text, 20), (WARNING.upper(), len(framed) - 8)):
        cv2.putText(framed, line, (8, y), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255,) * 3, 1, cv2.LINE_AA)
    return np.asarray(framed, np.uint8)


def _require_identity(header: Dataset, first: Dataset) -> None:
    """Refuse a film whose patient or study is unknown, damaged or another; no value is told."""
    for keyword in (*IDENTITY, *PATIENT, *STUDY):
        place = f"{keyword} {Tag(keyword)}"
        try:
            value = header.setdefault(keyword, None).value
            validate_value(header[keyword].VR, value or "", RAISE)
            if keyword == "PatientSex" and value not in (None, "", "F", "M", "O"):
                raise ValueError
        except Exception as error:  # pydicom raises anything of damaged bytes
            raise InvalidImageError(f"its {place} is damaged. Correct the header") from error
        if (keyword in IDENTITY and not value) or (keyword == "PatientName" and value is None):
            raise InvalidImageError(f"it lacks {place}. Ask for the original file")
        if keyword in PATIENT and value != first[keyword].value:
            raise InvalidImageError(f"its {place} is not that of the other films of its study")


def store(paths: Sequence[Path], stow: str) -> str:
    """Send DICOM files to a service by STOW-RS (PS3.18 10.5); "" or why it did not take them."""
    line = f"--{generate_uid()}"
    start = f"\r\n{line}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = b"".join(start + path.read_bytes() for path in paths) + f"\r\n{line}--\r\n".encode()
    kind = f'multipart/related; type="application/dicom"; boundary={line[2:]}'
    headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
    try:
        request = Request(f"{stow.rstrip('/')}/studies", body, headers)
        with urlopen(request, timeout=SECONDS) as answer:
            refused = json.loads(answer.read() or b"{}").get("00081198", {}).get("Value")
            part = f"the service {stow} refused a part of it"  # 202, or a FailedSOPSequence
            return part if answer.status != 200 or refused else ""
    except HTTPError as error:
        return f"the service {stow} refused it (HTTP status {error.code})"
    except (OSError, ValueError) as error:
        return f"the service {stow} gave no answer of DICOMweb ({type(error).__name__})"
