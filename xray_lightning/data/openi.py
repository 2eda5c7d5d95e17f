"""Open-I, the chest radiographs of Indiana University (Demner-Fushman et al., JAMIA 2016).

=========  =========================================================================================
images     7,470 of 3,851 reports (3,955 in all, 104 without an image); PNG stored as RGB,
           ``CXR1_1_IM-0001-3001.png``, in the folder, ``NLMCXR_png/`` or ``images/``
labels     MeSH major terms that readers gave the reports, such as ``Pulmonary Atelectasis/base``
reports    ``ecgen-radiology/N.xml``: uId, terms, and the ``parentImage`` of each image
headers    ``nlmcxr_dicom_metadata.csv``, gzip-compressed or not: 7,469 DICOM headers as others read
           them, the only place of views (PA 3,593, AP 423, lateral 867 in four words, blank 2,586)
split      none
=========  =========================================================================================

Counted in the files. Traps: ``data/README.md``. Not checked: ages, which a header's shifted dates
might tell, and are left unknown here; that the PNG files are not inverted (3,584 headers say
MONOCHROME1).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from xray_lightning.data.source import Counts, Source, find_files, index_images, read_facts, say
from xray_lightning.data.tables import read_table
from xray_lightning.data.vocabulary import encode_words, name_map, read_label_map
from xray_lightning.errors import ConfigError, DataNotFoundError, TableError
from xray_lightning.records import Record
from xray_lightning.wording import fault

REPORTS, HEADERS = "ecgen-radiology", "nlmcxr_dicom_metadata.csv"
IMAGE_FOLDERS = ("", "NLMCXR_png", "images")
LABEL_MAP = Path(__file__).with_suffix(".yaml")
NOT_INDEXED = "No Indexing"
FACTS = read_facts("openi")
_IMAGE, _VIEW = "imageid", "View Position"

Report = tuple[str, tuple[str, ...], tuple[str, ...]]  # uId, terms, images


class OpenI(Source, published="openi"):
    """An Open-I folder; ``root`` and ``allow_missing`` are as of every :class:`Source`.

    Args:
        label_map: terms of each label, see ``openi.yaml``, which is taken unless named.
        views: of the images wanted, PA, AP, LL, unknown; None: all.

    Raises:
        ConfigError: no image has one of the views, or views are asked for without the headers.
        DataNotFoundError, TableError, DataError: as every :class:`Source` of a folder; also where a
            report is not XML, has no uId, or shares an image with another.
    """

    owner = "report"

    def __init__(
        self,
        root: str | Path,
        *,
        label_map: str | Path | None = None,
        views: Sequence[str] | None = ("PA", "AP"),
        allow_missing: bool = False,
    ) -> None:
        folder, notes = self.open_folder(root, allow_missing=allow_missing)
        words = read_label_map(Path(label_map or LABEL_MAP))
        self.labels = tuple(words)
        self.choices = name_map(words, LABEL_MAP)
        reports = read_reports(folder)
        headers = read_views(folder, needed=views is not None)
        paths = index_images(map(folder.joinpath, IMAGE_FOLDERS), (".png",))
        indexed = [r for r in reports if r[1] and NOT_INDEXED not in r[1]]
        counts = _count_files(reports, headers)
        told = sum(len(images) for *_, images in indexed)
        notes += say("not_indexed", counts["files"]["images"] - told)
        records = [
            Record(
                *(image, report, encode_words(shorten_terms(terms), words), paths.get(image)),
                view=FACTS.views.get(headers.get(image, ""), headers.get(image, "")),
                study_id=report,
            )
            for report, terms, images in indexed
            for image in images
        ]
        stray = paths.keys() - {image for *_, images in reports for image in images}
        self.fill(records, notes, views=views, counts=counts, stray=stray)


def read_reports(root: Path) -> list[Report]:
    """Every report in the order of its number."""
    files = sorted((root / REPORTS).glob("*.xml"), key=lambda path: (len(path.stem), path.stem))
    if not files:
        raise DataNotFoundError(f"there is no report {root / REPORTS}/1.xml. {FACTS.expected}")
    reports, owners = [], dict[str, Path]()
    for path in files:
        reports.append(report := _read_report(path))
        for image in report[2]:
            if owners.setdefault(image, path) is not path:
                raise TableError(f"{path}: {image} is an image of {owners[image]} too")
    return reports


def _read_report(path: Path) -> Report:
    try:
        tree = ElementTree.parse(path)
    except ElementTree.ParseError as error:
        raise TableError(f"{path} is not XML ({error}). Download it again") from error
    report = tree.find("uId")
    if report is None or not report.get("id"):
        raise TableError(f"{path} has no uId with an id: it is not a report of Open-I")
    terms = tuple((term.text or "").strip() for term in tree.iterfind("MeSH/major"))
    images = (image.get("id", "") for image in tree.iterfind("parentImage"))
    return report.get("id", ""), terms, tuple(dict.fromkeys(images))


def read_views(root: Path, *, needed: bool) -> dict[str, str]:
    """View of each image as its header writes it; empty where no table is there."""
    for path in find_files(root, HEADERS)[:1]:
        table = read_table(path, _IMAGE, _VIEW, once=_IMAGE)
        return dict(zip(table.text(_IMAGE), table.text(_VIEW), strict=True))
    if needed:
        raise ConfigError(fault("no_headers", root / HEADERS))
    return {}


def shorten_terms(terms: Iterable[str]) -> set[str]:
    """The first word of each term, and its first two.

    >>> sorted(shorten_terms(["Nodule/lung/base"]))
    ['Nodule', 'Nodule/lung']
    """
    parts = [term.split("/") for term in terms]
    return {"/".join(words[:number]).strip() for words in parts for number in (1, 2)}


def _count_files(reports: Sequence[Report], views: Mapping[str, str]) -> Counts:
    return {
        "files": {
            "reports": len(reports),
            "images": sum(len(images) for *_, images in reports),
            "headers": len(views),
            "reports without image": sum(not images for *_, images in reports),
        },
        _VIEW: dict(Counter(view or "blank" for view in views.values()).most_common()),
        "MeSH": {k: sum(k in own for _, own, _ in reports) for k in (NOT_INDEXED, "normal")},
    }
