"""The Image Pixel module (PS3.3 C.7.6.3), checked before anything is allocated."""

from dataclasses import dataclass

from xray_lightning.data.dicom.elements import AGAIN, Elements, refusal

MAX_SIDE = 20_000  # px; a detector has about 4,000, so a larger figure is a damaged header
MAX_PIXELS = 100_000_000  # of one frame; with MAX_SIDE the limit on memory: 600 MB at 16 bits

MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_SAMPLES = {
    **dict.fromkeys(MONOCHROME, 1),
    "PALETTE COLOR": 1,
    **dict.fromkeys(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"), 3),
}


@dataclass(frozen=True)
class Layout:
    """How the pixels of a file are stored.

    Args:
        rows: height of a frame in px.
        columns: its width.
        frames: how many frames.
        samples: 1, or 3 for colour.
        photometric: the photometric interpretation.
        planar: whether the three colours follow each other plane by plane.
        allocated: bits a sample takes in the file, 8 or 16.
        stored: bits of them that hold the value.
        high: index of the highest of these bits.
        signed: whether the value is two's complement.
    """

    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    planar: bool
    allocated: int
    stored: int
    high: int
    signed: bool


def read_layout(elements: Elements) -> Layout:
    """The checked layout of a file.

    Raises:
        InvalidImageError: an attribute is missing, out of range or of a kind not read here.
    """
    stored = _number(elements, "BitsStored", 1, 32)
    photometric = elements.text("PhotometricInterpretation")
    if photometric not in _SAMPLES:
        reason = f"its PhotometricInterpretation is none of {', '.join(_SAMPLES)}"
        raise refusal(reason, "Convert it to MONOCHROME2")
    layout = Layout(
        rows=_number(elements, "Rows", 1, MAX_SIDE),
        columns=_number(elements, "Columns", 1, MAX_SIDE),
        frames=_frames(elements),
        samples=_number(elements, "SamplesPerPixel", 1, 4),
        photometric=photometric,
        planar=_number(elements, "PlanarConfiguration", 0, 1, default=0) == 1,
        allocated=_number(elements, "BitsAllocated", 1, 64),
        stored=stored,
        high=_number(elements, "HighBit", 0, 63, default=stored - 1),
        signed=_number(elements, "PixelRepresentation", 0, 1) == 1,
    )
    _check(layout)
    return layout


def _check(layout: Layout) -> None:
    """Raise where attributes contradict each other or exceed what is read here."""
    if layout.samples != _SAMPLES[layout.photometric]:
        reason = f"{layout.samples} samples per pixel contradict {layout.photometric}"
        raise refusal(reason, "Correct the header")
    if layout.rows * layout.columns > MAX_PIXELS:
        size = f"{layout.columns:,} x {layout.rows:,} pixels"
        raise refusal(f"a frame has {size}, more than {MAX_PIXELS:,} in all", AGAIN)
    bits = f"bits allocated {layout.allocated}, stored {layout.stored}, high bit {layout.high}"
    if layout.allocated not in (8, 16):
        raise refusal(f"{bits}: only 8 or 16 bits allocated are read", "Convert it to 16 bits")
    if layout.stored > layout.allocated or not layout.stored <= layout.high + 1 <= layout.allocated:
        raise refusal(f"{bits}: they contradict each other", "Correct the header")


def _number(
    elements: Elements, keyword: str, low: int, high: int, default: int | None = None
) -> int:
    """The first value of a US attribute, within its range."""
    values = elements.integers(keyword)
    if not values and default is None:
        raise refusal(f"it lacks {keyword}", "Ask for the original file")
    number = values[0] if values else default
    if number is None or not low <= number <= high:
        raise refusal(f"its {keyword} is {number}, not {low:,} to {high:,}", AGAIN)
    return number


def _frames(elements: Elements) -> int:
    """NumberOfFrames, 1 where it is absent."""
    value = next(iter(elements.decimals("NumberOfFrames")), 1.0)
    if not (value.is_integer() and 1 <= value < 2**31):
        raise refusal(f"its NumberOfFrames is {value:g}, no positive integer", AGAIN)
    return int(value)
