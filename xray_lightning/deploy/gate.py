"""What speaks against a film being such as the network was trained on; none is ever refused."""

import re
from collections.abc import Collection
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
from xray_lightning.wording import tell

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
    chances = scipy.special.expit([odds, gate.log_odds])
    seen = tell(__package__, "film", gate, distance, odds, kind, *chances)
    probe = kind if odds > 0 else gate.kinds[0]
    return GateOpinion((*told, *seen), float(distance), gate.limit, probe)


def check_file(gate: Gate | None, dicom: bytes | None, notes: Collection[str]) -> tuple[str, ...]:
    """Reasons by the header of a DICOM file, if it is one, and by what its reader noted."""
    if gate is None:
        return ()
    reasons = [] if dicom is None else _check_header(gate, dicom)
    return (*reasons, *(note for note in notes if note == COLOURED))


def _check_header(gate: Gate, data: bytes) -> list[str]:
    """No text of the header is repeated unless it is of a fixed vocabulary: it may be a name."""
    try:
        header, _ = read_header(BytesIO(data))
        film, modality = read_acquisition(header)[0], header.text("Modality")
        part = header.text("BodyPartExamined")
    except InvalidImageError as error:
        return [f"damaged header: {error}"]
    other = modality and film.modality not in RADIOGRAPHS
    view = "LL" if film.view in ("LATERAL", "LAT", "RL") else film.view  # as the data sets say it
    views = sorted({*FRONTAL, *gate.views})
    elsewhere = part and not re.fullmatch(CHEST, part)
    return tell(__package__, "header", film, other, view, views, elsewhere, gate.youngest)
