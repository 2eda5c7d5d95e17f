"""Which files a list of paths, folders and patterns means; and how a file of pixels is opened."""

import glob
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from xray_lightning.errors import DataNotFoundError, InvalidImageError
from xray_lightning.wording import fault

DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", *DICOM_ENDINGS)
PNG, JPEG, TIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", (b"II*\x00", b"MM\x00*")  # first bytes
BARE = b"\2\0\0\0"  # group 2, element 0: the file begins with its meta group, without preamble
MAX_FILE = 2**30  # bytes; a larger one would fill the memory
HEAD = 4096  # bytes: the header of a DICOM file, the first rows of a picture
READER_VERSION = 2  # raise it when a rule of images.py changes: caches of pixels become stale


@dataclass(frozen=True)
class ImageFiles:
    """Files, each once, absolute."""

    images: list[Path]  # in the order they were named, those of a folder sorted
    skipped: list[Path]  # files in the folders that are not images
    links: list[Path]  # symbolic links to files in ``images``, which are not in it again


class Journal:
    """Which files are done, and what they were then, in a file that a kill cannot spoil."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.stamps: dict[str, str] = {}  # by name, see ``file_stamp``
        for line in path.read_bytes().splitlines() if path.is_file() else ():
            with suppress(ValueError, TypeError):  # cut off by a kill: done again
                self.stamps |= dict([json.loads(line)])

    def add(self, stamps: Mapping[str, str]) -> None:
        """Note that files are done; the line break comes first, after what a kill cut off."""
        self.stamps |= stamps
        with self._path.open("a", encoding="ascii") as file:
            file.writelines("\n" + json.dumps(pair) for pair in stamps.items())

    def join(self, paths: Iterable[Path]) -> None:
        """Take over what other journals know and this one does not."""
        known = [pair for path in paths for pair in Journal(path).stamps.items()]
        self.add({name: stamp for name, stamp in known if name not in self.stamps})


def read_file(path: Path) -> bytes:
    """The content of a file; InvalidImageError for pipes and devices, and above 1 GiB."""
    try:
        facts = path.stat()
        if facts.st_size > MAX_FILE:
            reason = f"the file is larger than {MAX_FILE:,} bytes. Split it"
        elif stat.S_IFMT(facts.st_mode) in (stat.S_IFREG, stat.S_IFDIR):
            return path.read_bytes()  # of a folder this is an error that says so
        else:
            reason = "is a pipe, a socket or a device, not a file. Name the image itself"
    except OSError as error:
        reason = f"cannot be opened ({error.strerror or error}). Check the path"
    raise InvalidImageError(f"{path}: {reason}")


def read_head(path: Path) -> bytes | None:
    """The first 4,096 bytes of a regular file, b"" of others; None if it cannot be opened."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError:
        return None


def file_stamp(path: Path) -> str:
    """Hex digits that change with a file's size, date or first bytes; "" where there is none."""
    if not (head := read_head(path)):
        return ""
    facts = path.stat()
    return hashlib.sha256(b"%d %d " % (facts.st_size, facts.st_mtime_ns) + head).hexdigest()[:32]


def match_paths(name: str | Path, *, recursive: bool = False) -> list[Path]:
    """What is there by that name, which may hold brackets; else what it is a pattern of."""
    if os.path.lexists(name):
        return [Path(name)]
    matches = glob.glob(str(name), recursive=recursive)  # noqa: PTH207 - Path's takes no absolute one
    return list(map(Path, sorted(matches)))


def find_images(names: str | Path | Sequence[str | Path]) -> ImageFiles:
    """The images that files, folders (with all below) and patterns (``scans/**/*.dcm``) name."""
    # What is named is taken for an image whatever it holds; in folders content or ending decide: a
    # damaged .png cannot be read. A link keeps its own name, unless its file is among the images.
    images: dict[Path, None] = {}  # ordered
    skipped: dict[Path, None] = {}
    for name in (names := [names] if isinstance(names, str | Path) else names):
        if not (places := match_paths(name, recursive=True)):
            raise DataNotFoundError(f"{name}: no such file or folder, and no file matches it")
        for place in places:
            if not place.is_dir():  # a link to a file keeps its name
                images[place.parent.resolve() / place.name] = None
                continue
            for path in walk_files(place.resolve(), follow=True):
                (images if looks_like_image(path) else skipped)[path] = None
    if not images:
        raise DataNotFoundError(fault("no_image_file", names, skipped))
    links = [path for path in images if path.is_symlink() and path.resolve() in images]
    listed = [path for path in images if path not in set(links)]
    return ImageFiles(listed, [path for path in skipped if path not in images], links)


def find_dicom(root: Path) -> tuple[list[Path], int]:
    """DICOM files below a folder, sorted, and the number of other files; no links to folders."""
    # a file counts by its ending or by the mark at byte 128
    below = sorted(walk_files(root, follow=False))
    files = [path for path in below if looks_like_image(path, dicom=True)]
    if not files:
        raise DataNotFoundError(f"there is no DICOM file in {root}, only {len(below):,} others")
    return files, len(below) - len(files)


def is_dicom(data: bytes, name: str = "") -> bool:
    """Whether the bytes of a file, or else its name, say that it is a DICOM file."""
    marked = data[128:132] == b"DICM" or data.startswith(BARE)
    return (marked or name.lower().endswith(DICOM_ENDINGS)) and not data.startswith((PNG, JPEG))


def looks_like_image(path: Path, *, dicom: bool = False) -> bool:
    """Whether a file is a picture or DICOM, or only ``dicom``, by first bytes or ending."""
    # one that cannot be opened counts as one: reading it will say why
    if path.name.upper() == "DICOMDIR":  # an index, not an image
        return False
    if path.suffix.lower() in (DICOM_ENDINGS if dicom else ENDINGS):  # a broken link says why
        return dicom or path.is_file() or not path.exists()
    if (head := read_head(path)) is None or is_dicom(head, path.name):
        return True
    bitmap = head[:2] == b"BM" and head[6:10] == bytes(4)
    bare = head[:2] in (b"\2\0", b"\x08\0") and head[3:4] == b"\0"  # DICOM without preamble
    return not dicom and (head.startswith((PNG, JPEG, *TIFF)) or bitmap or bare)


def walk_files(folder: Path, *, follow: bool) -> Iterator[Path]:
    """Every file below a folder, sorted; links to folders are followed or not, circles never."""

    def refuse(error: OSError) -> None:
        raise DataNotFoundError(f"{error.filename}: cannot list this folder ({error.strerror})")

    seen: set[Path] = set()
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=follow):
        here = Path(place).resolve()
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        folders.sort()
        yield from (here / name for name in sorted(files))
