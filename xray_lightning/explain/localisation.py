"""The table of localisation: every method and control, every figure, with patient intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xray_lightning.errors import ConfigError
from xray_lightning.explain.grid import enlarge
from xray_lightning.explain.located import SIGMA, Boxes, Located, control_maps
from xray_lightning.metrics.bootstrap import (
    Codes,
    Counts,
    Floats,
    divided,
    patient_codes,
    patient_draws,
    percentile_interval,
    sums_over,
)
from xray_lightning.metrics.localisation import (
    METRICS,
    WANG,
    Heat,
    score_map,
    tune_threshold,
    widen,
)

MINIMUM = 10  # images and patients with boxes: with fewer no interval is given, and nothing tuned
TOO_FEW = f"too few: fewer than {MINIMUM} images or patients, no interval"

Facts = dict[str, Any]


@dataclass(frozen=True)
class Reference:
    """What images of other patients say: thresholds, and where boxes lie.

    Attributes:
        shares: threshold of each (label, method); not there where the boxes were too few.
        boxes: of each image, likewise: the mean of a few boxes would be a weak control.
        patients: whose images these were; :func:`localisation` refuses to score any of them.
    """

    shares: Mapping[tuple[str, str], float]
    boxes: Mapping[str, Boxes]
    patients: frozenset[str]


def reference_of(
    validation: Mapping[str, Located], *, size: int, sigma: float = SIGMA, seed: int = 0
) -> Reference:
    """Tune the threshold of every method and control of each label on validation images.

    The validation images are never those to be scored. ``size`` is the side of the square in
    pixels, ``sigma`` of the centre Gaussian, ``seed`` of the random map.
    """
    shares, boxes = {}, {}
    for label, located in validation.items():
        if min(len(located.boxes), len(set(located.patients))) < MINIMUM:
            continue
        boxes[label] = located.boxes
        controls = control_maps(located, size, _seeds(seed, label), sigma, None)
        for method, maps in {**located.maps, **controls}.items():
            large = (enlarge(heat, size, located.grids) for heat in maps)
            shares[label, method] = tune_threshold(large, located.boxes)
    patients = frozenset(each for located in validation.values() for each in located.patients)
    return Reference(shares, boxes, patients)


def localisation(
    scored: Mapping[str, Located],
    *,
    size: int,
    threshold: Sequence[float] = WANG,
    reference: Reference | None = None,
    tolerance: float = 0.0,
    sigma: float = SIGMA,
    draws: int = 1000,
    seed: int = 0,
) -> Facts:
    """Figures of every method beside the controls, per label and as the mean over the labels.

    Args:
        scored: images of each label that have boxes of it; all labels have the same methods.
        size: side of the square in pixels.
        threshold: stated shares of a map's range for its boxes, used where none was tuned.
        reference: thresholds tuned on other patients, and their boxes for the mean box.
        tolerance: pixels beside the place that the pointing game still counts as a hit.
        sigma: of the centre Gaussian, as a share of the side.
        draws: of the bootstrap over patients.
        seed: of the bootstrap and the random map.

    Returns:
        ``{"labels": {label: {"images", "patients", "boxes", "area", "note", "methods"}},
        "mean": {"labels", "note", "methods"}, "thresholds": {label: {method: {"shares",
        "source"}}}, "settings"}``, plain values. "area" is the place's mean share of the image:
        what chance would get. "methods" holds the figures of each method and control, each
        ``{"value", "interval"}``, None where undefined; "t_iou", "t_iobb" and "afp" hold one for
        each overlap, "0.1" to "0.9", see
        :func:`~xray_lightning.metrics.localisation.score_map`. Intervals are 95 % percentile
        intervals, None where all draws are equal or fewer than 39.

    Raises:
        ConfigError: nothing to score, labels with different methods, or a patient that the
            reference was tuned on.
    """
    _require_scorable(scored, reference)
    boxes = {} if reference is None else reference.boxes
    codes, counts = _draws(scored, draws, seed)
    labels, thresholds, values = {}, {}, {}
    for label, located in scored.items():
        maps = control_maps(located, size, _seeds(seed, label), sigma, boxes.get(label))
        maps = {**located.maps, **maps}
        chosen = {name: _chosen(reference, (label, name), threshold) for name in maps}
        shares = {name: each["shares"] for name, each in chosen.items()}
        sums = _sums(located, maps, shares, size, tolerance)
        values[label] = {name: _over(counts, codes[label], *pair) for name, pair in sums.items()}
        labels[label] = _label_facts(located, size, values[label], sums)
        thresholds[label] = chosen
    return {
        "labels": labels,
        "mean": _mean_facts(labels, values),
        "thresholds": thresholds,
        "settings": {
            "size": size,
            "tolerance": tolerance,
            "sigma": sigma,
            "draws": draws,
            "seed": seed,
            "mean_box": {label: _prior(label in boxes) for label in scored},
        },
    }


def _require_scorable(scored: Mapping[str, Located], reference: Reference | None) -> None:
    if not scored or not all(len(located.boxes) for located in scored.values()):
        raise ConfigError("there is nothing to score: leave out labels without boxes")
    methods = {label: tuple(located.maps) for label, located in scored.items()}
    if len(set(methods.values())) > 1 or () in methods.values():
        raise ConfigError(f"every label needs maps of the same methods, got {methods}")
    known = frozenset() if reference is None else reference.patients
    if shared := known & {each for located in scored.values() for each in located.patients}:
        raise ConfigError(
            f"thresholds were tuned on {len(shared)} of the patients to be scored, the first is "
            f"{min(shared)}: tune on a part that shares no patient with this one"
        )


def _seeds(seed: int, label: str) -> list[int]:
    """Of a label's random maps: the same whatever other labels there are."""
    return [seed, *label.encode()]


def _prior(given: bool) -> str:
    return "reference images" if given else "scored images of other patients"


def _draws(scored: Mapping[str, Located], draws: int, seed: int) -> tuple[dict[str, Codes], Counts]:
    """Numbers of each label's patients, among all, and all patients once before the draws."""
    codes = patient_codes([each for located in scored.values() for each in located.patients])
    ends = np.cumsum([len(located.boxes) for located in scored.values()])
    own = dict(zip(scored, np.split(codes, ends[:-1]), strict=True))
    return own, patient_draws(codes, draws, seed)


def _chosen(
    reference: Reference | None, place: tuple[str, str], stated: Sequence[float]
) -> dict[str, Any]:
    """The shares of the range for one label and method, and where they come from."""
    if reference is None or place not in reference.shares:
        return {"shares": list(stated), "source": "stated"}
    images = len(reference.boxes[place[0]])
    return {"shares": [reference.shares[place]], "source": f"tuned on {images} reference images"}


def _sums(
    located: Located,
    maps: Mapping[str, Heat],
    shares: Mapping[str, Sequence[float]],
    size: int,
    tolerance: float,
) -> dict[str, tuple[Floats, Floats]]:
    """Sums and weights of each method's figures in each image, (N, F) each."""
    regions = located.regions(size)
    near = [widen(region, tolerance) for region in regions]
    found = {}
    for name, heats in maps.items():
        rows = [
            score_map(
                enlarge(heat, size, located.grids),
                region,
                boxes,
                shares=shares[name],
                near=around,
            )
            for heat, region, boxes, around in zip(heats, regions, located.boxes, near, strict=True)
        ]
        found[name] = np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])
    return found


def _over(counts: Counts, codes: Codes, sums: Floats, weights: Floats) -> Floats:
    """Every figure in every draw, (D, F); NaN where undefined."""
    present, own = np.unique(codes, return_inverse=True)
    both = sums_over(counts[:, present], own, np.column_stack([sums, weights]))
    return divided(both[:, : sums.shape[1]], both[:, sums.shape[1] :])


def _label_facts(
    located: Located,
    size: int,
    values: Mapping[str, Floats],
    sums: Mapping[str, tuple[Floats, Floats]],
) -> Facts:
    images, patients = len(located.boxes), len(set(located.patients))
    few = min(images, patients) < MINIMUM
    energy = METRICS.index(("energy",))
    return {
        "images": images,
        "patients": patients,
        "boxes": sum(len(boxes) for boxes in located.boxes),
        "area": float(located.regions(size).mean()),
        "note": TOO_FEW if few else "",
        "methods": {
            name: _figures(found, intervals=not few)
            | {"without_energy": int((sums[name][1][:, energy] == 0).sum())}
            for name, found in values.items()
        },
    }


def _mean_facts(labels: Mapping[str, Facts], values: Mapping[str, Mapping[str, Floats]]) -> Facts:
    """Over the labels; a draw counts only if every label is defined in it."""
    few = [label for label, facts in labels.items() if facts["note"]]
    methods = {}
    for name in max(values.values(), key=len):  # a label of one patient has no mean box
        found = np.stack([each[name] for each in values.values() if name in each])  # (L, D, F)
        known = np.broadcast_to(~np.isnan(found[:, :1]), found.shape)
        means = divided(np.where(known, found, 0).sum(axis=0), known.sum(axis=0))
        methods[name] = _figures(means, intervals=not few) | {"labels": len(found)}
    note = f"no interval: too few images or patients of {', '.join(few)}" if few else ""
    return {"labels": len(labels), "note": note, "methods": methods}


def _figures(values: Floats, *, intervals: bool) -> Facts:
    """Figures of one method as plain values, from the sample's row and the draws'."""
    facts: Facts = {}
    for column, (name, *over) in enumerate(METRICS):
        sample, *_ = values[:, column].tolist()
        ends = percentile_interval(values[1:, column]) if intervals else (np.nan, np.nan)
        figure = {
            "value": None if np.isnan(sample) else sample,
            "interval": None if np.isnan(ends).any() else list(ends),
        }
        if over:
            facts.setdefault(name, {})[over[0]] = figure
        else:
            facts[name] = figure
    return facts
