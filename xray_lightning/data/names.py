"""Lists of image names in the forms people publish, and the images of a data set they name."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

from xray_lightning.data.tables import open_text
from xray_lightning.errors import TableError
from xray_lightning.writing import from_spreadsheet

HEADERS = {"image", "imageindex", "imageid", "imagename", "imagepath", "img", "imgid", "id"}
HEADERS |= {"name", "file", "filename", "path", "patientid"}

_ENDING = re.compile(r"\.(png|jpe?g|dcm|dicom|tiff?|bmp)$", re.IGNORECASE)
_NUMBERS = re.compile(r"([\s,;]+[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?)+$", re.IGNORECASE)
_SAMPLE = 500  # lines that tell the form of a list


class NameIndex:
    """The image that a name means: its id, or an id with or without a folder or an ending."""

    # an ending is one of an image file: ``1.2.840.1`` and ``1.2.840.2`` are two images

    def __init__(self, ids: Iterable[str]) -> None:
        self.ids = frozenset(ids)

    def find(self, name: str) -> str | None:
        """The id; None where no image, or more than one, may be meant."""
        for form in (name, from_spreadsheet(name)):
            if form in self.ids:
                return form
        path = _strip_ending(name)
        alike = self._alike.get(path.rpartition("/")[2], ())
        ends = ((image, f"/{_strip_ending(image)}") for image in alike)  # one may have more folders
        images = [i for i, end in ends if end.endswith(f"/{path}") or f"/{path}".endswith(end)]
        return images[0] if len(images) == 1 else None

    @cached_property
    def _alike(self) -> dict[str, list[str]]:
        """File name without folder and ending -> ids."""
        alike = defaultdict(list)
        for image in self.ids:
            alike[_strip_ending(image).rpartition("/")[2]].append(image)
        return dict(alike)


def read_list(path: Path, index: NameIndex) -> tuple[str, ...]:
    """The different names in a list: ids where an image is meant, else as they stand there."""
    # a name a line, perhaps with numbers behind it (``name 0 0 1``), or the column that names most
    # images of a table, with or without a header
    with open_text(path, "list") as file:
        lines = [line.strip() for line in file.read().splitlines() if line.strip()]
    if not lines:
        raise TableError(f"{path} is empty: it was to list images")
    names = max(_read_forms(lines), key=lambda names: _count_hits(names, index))
    if _is_header(names[0], lines[0], index):
        names = names[1:]
    return tuple(dict.fromkeys(index.find(name) or name for name in names))


def _read_forms(lines: Sequence[str]) -> Iterator[Sequence[str]]:
    """What may be the names: whole lines, lines without the numbers at their end, each column."""
    yield lines
    yield [_NUMBERS.sub("", line) for line in lines]
    for separator in ",;\t":
        if separator in lines[0]:
            rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
            yield from zip_longest(*rows, fillvalue="")


def _count_hits(names: Sequence[str], index: NameIndex) -> int:
    return sum(index.find(name) is not None for name in names[:: len(names) // _SAMPLE + 1])


def _is_header(name: str, line: str, index: NameIndex) -> bool:
    if index.find(name) is not None or _ENDING.search(name):
        return False
    word = "".join(letter for letter in name.lower() if letter.isalnum())
    return word in HEADERS or (any(mark in line for mark in ",;\t") and not _NUMBERS.search(line))


def _strip_ending(name: str) -> str:
    """With forward slashes, without an ending: ``images/1.2.840`` of ``images/1.2.840.PNG``."""
    return _ENDING.sub("", name.strip().replace("\\", "/"))
