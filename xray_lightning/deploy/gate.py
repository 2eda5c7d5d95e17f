"""What speaks against a film being such as the network was trained on; none is ever refused."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from io import BytesIO

import scipy  # .special loads at its first use
from torch import Tensor

from xray_lightning.data.dicom.acquisition import read_acquisition
from xray_lightning.data.dicom.header import read_header
from xray_lightning.data.images import COLOURED
from xray_lightning.errors import InvalidImageError
from xray_lightning.models.gate import Gate
from xray_lightning.results import Result

RADIOGRAPHS = ("CR", "DX", "DR", "RG")  # Modality; DR is no standard value, but in use
FRONTAL = ("AP", "PA")
CHEST = r"(?i).*(CHEST|TH?ORAX|LUNG|PECHO).*"  # BodyPartExamined, also of Spanish hospitals


@dataclass(frozen=True)
class GateOpinion(Result):
    """What a checkpoint's gate says of one film."""

    reasons: tuple[str, ...]  # "kind: what was seen, and its limit"; empty: nothing to remark
    distance: float  # to the training films, see :class:`~xray_lightning.models.gate.Gate`
    limit: float  # of the distance
    probe: str  # which change of a training film it looks like most; "as it is": none

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each reason."""
        return tuple(reason.partition(":")[0] for reason in self.reasons)


def check_film(gate: Gate, features: Tensor, told: Collection[str] = ()) -> GateOpinion:
    """The opinion on a film by its features (F,), behind what its file told."""
    (distance,), (odds,), (kind,) = gate.check(features[None])
    against, limit = scipy.special.expit([odds, gate.log_odds])
    reasons = [*told]
    if odds > gate.log_odds:
        reasons.append(f"looks {kind}: probability {against:.3f}, limit {limit:.3f}")
    if distance > gate.limit:
        reasons.append(
            f"unlike the training films: distance {distance:.1f}, limit {gate.limit:.1f}"
        )
    probe = kind if odds > 0 else gate.kinds[0]
    return GateOpinion(tuple(reasons), float(distance), gate.limit, probe)


def check_file(gate: Gate | None, dicom: bytes | None, notes: Collection[str]) -> tuple[str, ...]:
    """Reasons by the header of a DICOM file, if it is one, and by what its reader noted."""
    if gate is None:
        return ()
    reasons = [] if dicom is None else [*_check_header(gate, dicom)]
    return (*reasons, *(note for note in notes if note == COLOURED))


def _check_header(gate: Gate, data: bytes) -> Iterator[str]:
    """No text of the header is repeated unless it is of a fixed vocabulary: it may be a name."""
    try:
        header, _ = read_header(BytesIO(data))
        film, modality = read_acquisition(header)[0], header.text("Modality")
        part = header.text("BodyPartExamined")
    except InvalidImageError as error:
        yield f"damaged header: {error}"
        return
    if modality and film.modality not in RADIOGRAPHS:
        yield f"another modality: Modality {film.modality or 'unknown'}, not CR, DX or RG"
    views = sorted({*FRONTAL, *gate.views})
    view = "LL" if film.view in ("LATERAL", "LAT", "RL") else film.view  # as the data sets say it
    if view and view not in views:
        yield f"not a frontal film: ViewPosition {film.view}, not one of {', '.join(views)}"
    if part and not re.fullmatch(CHEST, part):
        yield "not the chest: BodyPartExamined names another part"
    if gate.youngest is not None and film.age < gate.youngest:
        yield f"too young: {film.age:.3g} years, the youngest of training {gate.youngest:.3g}"
