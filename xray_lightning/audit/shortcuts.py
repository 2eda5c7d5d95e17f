"""All shortcut tests of a network, with a verdict and its reason for each label."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from xray_lightning.audit import occlusion
from xray_lightning.audit.label_table import LabelTable
from xray_lightning.audit.shift import score_by_metadata
from xray_lightning.checkpoint import weights_sha256
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.phantom.source import Phantom
from xray_lightning.data.source import Mask, Source
from xray_lightning.explain.maps import cell_grids, class_map
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.intervals import Estimate, Floats, Interval
from xray_lightning.models.batches import iterate_batches, run_batches
from xray_lightning.models.network import XrayNet, pool_features
from xray_lightning.records import Record, patient_ids
from xray_lightning.results import Result
from xray_lightning.wording import tell

LIMIT = 2000  # images: a drawn sample of a larger subset
FOLDS = 5
PENALTY = 0.1  # scikit-learn's C, on standardised features; not tuned
Maps = Callable[[XrayNet, Tensor, str], Any]  # images (n, 1, H, W), a label -> (n, h, w)
CAUGHT, NOT_CAUGHT = "caught", "not caught"
OF_LABEL = {occlusion.FLAGGED: CAUGHT, occlusion.CLEAR: NOT_CAUGHT}  # undecided stays undecided


@dataclass(frozen=True, eq=False)
class Sample:
    """N images that a network has not learned from."""

    images: Tensor  # (N, 1, H, W) in [0, 1]
    targets: Floats  # (N, L) of the network's labels, NaN where unknown
    patients: npt.ArrayLike  # N ids
    marker: Mask | None = None  # (N, H, W): where one is; None: nothing is known
    attributes: Mapping[str, Floats] = field(default_factory=dict)  # for probes: 0, 1 or NaN, (N,)
    floor: Floats | None = None  # (N, L): scores that needed no image, NaN for a label without


def draw_sample(
    data: XrayDataModule, subset: str, labels: Sequence[str], *, limit: int = LIMIT, seed: int = 0
) -> Sample:
    """At most ``limit`` images of a subset, without flips, drawn with ``seed``."""
    # Attributes: sex, view and, of the phantom, the words of portable films; floor: trees on the
    # training set's metadata. One of the ``labels`` that the data lacks is unknown in every image.
    chosen, images = draw_images(data, subset, limit, seed)
    records = [data.subset_records(subset)[row] for row in chosen]
    rows = data.split.subsets[subset][chosen]
    return Sample(
        images=images,
        targets=_align(data.targets[rows], data.labels, labels),
        patients=patient_ids(records),
        marker=locate_marker(data.source, records, data.image_size),
        attributes=read_attributes(data.source, records),
        floor=_score_floor(data, rows, labels, seed),
    )


def draw_images(
    data: XrayDataModule, subset: str, limit: int, seed: int
) -> tuple[list[int], Tensor]:
    """At most ``limit`` images (N, 1, S, S) of a subset and their rows in it, in table order."""
    dataset = data.dataset(subset)
    rows: list[int] = np.random.default_rng(seed).permutation(len(dataset))[:limit].tolist()
    return sorted(rows), torch.stack([dataset[row]["image"] for row in sorted(rows)])


def locate_marker(source: Source, records: Sequence[Record], size: int) -> Mask | None:
    """Where a phantom's marker is, to the last pixel it touches, (N, size, size); else None."""
    if not isinstance(source, Phantom) or "marker" not in source.identity():
        return None
    masks = [source.marker(record).astype(np.float32) for record in records]
    side = (size, size)
    return np.stack([cv2.resize(mask, side, interpolation=cv2.INTER_AREA) > 0 for mask in masks])


def read_attributes(source: Source, records: Sequence[Record]) -> dict[str, Floats]:
    """What a probe can ask for, name -> 1, 0 or NaN, (N,)."""
    sex = [{"M": 1.0, "F": 0.0}.get(record.sex, np.nan) for record in records]
    view = [{"AP": 1.0, "PA": 0.0}.get(record.view, np.nan) for record in records]
    attributes = {"sex: M": sex, "view: AP": view}
    hospitals = {record.hospital for record in records}
    for name in sorted(hospitals) if len(hospitals) > 1 else ():
        attributes[f"hospital: {name}"] = [float(record.hospital == name) for record in records]
    if isinstance(source, Phantom):
        attributes["word: AP or PORT"] = [float(source.word(record) != "") for record in records]
    return {name: np.array(column) for name, column in attributes.items()}


def _align(columns: npt.ArrayLike, own: Sequence[str], labels: Sequence[str]) -> Floats:
    """Columns (N, L) of ``labels`` from those of the data's own, NaN where it lacks one."""
    aligned = np.full((len(np.asarray(columns)), len(labels)), np.nan)
    aligned[:, [labels.index(label) for label in own]] = columns
    return aligned


def _score_floor(
    data: XrayDataModule, rows: npt.NDArray[np.int64], labels: Sequence[str], seed: int
) -> Floats | None:
    train = data.split.subsets["train"]
    learned, shown = ({data.records[row].patient_id for row in places} for places in (train, rows))
    if learned & shown:
        return None  # with images=all or a split that leaks it would know the answers
    scores = score_by_metadata(LabelTable.of(data.records, data.labels), train, rows, seed)
    return None if scores is None else _align(scores, data.labels, labels)


@dataclass(frozen=True)
class Probe(Result):
    """AUROC of a linear probe, NaN where undefined: what can be read, not what the scores use."""

    trained: float  # on the features of the network
    interval: Interval
    random: float  # on those of the same architecture with random weights
    random_interval: Interval
    known: int  # images where the attribute is known
    positive: int  # of them, those that have it

    @classmethod
    def of(
        cls, features: Sequence[Floats], attribute: Floats, bootstrap: PatientBootstrap, seed: int
    ) -> "Probe":
        """Of both networks' features (N, C) for an attribute (N,), 0, 1 or NaN."""
        trained, random = (probe(own, attribute, bootstrap, seed) for own in features)
        counts = int((~np.isnan(attribute)).sum()), int((attribute == 1).sum())
        return cls(trained.value, trained.interval, random.value, random.interval, *counts)


def build_untrained(net: XrayNet, seed: int) -> XrayNet:
    """The same architecture with random weights, in evaluation mode, on the same device."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return net.new().eval().to(next(net.parameters()).device)


def probe(features: Floats, attribute: Floats, bootstrap: PatientBootstrap, seed: int) -> Estimate:
    """AUROC at which logistic regression of features (N, C), fitted on other patients, tells it."""
    # NaN with too few patients on either side of the attribute, (N,) 0, 1 or NaN.
    codes, known = bootstrap.codes, ~np.isnan(attribute)
    if occlusion.are_few(codes, attribute):
        return Estimate(np.nan)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=1000))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    scores = np.full(len(attribute), np.nan)
    with threadpool_limits(1):
        scores[known] = cross_val_predict(
            model, features[known], attribute[known], groups=codes[known], cv=folds,
            method="decision_function",
        )  # fmt: skip
    return Estimate.of_draws(bootstrap.auroc(scores, attribute))


def probe_hospitals(
    net: nn.Module,  # in evaluation mode; of another class than XrayNet it has no features
    data: XrayDataModule,
    subset: str,
    *,
    draws: int = 500,
) -> dict[str, Estimate]:
    """AUROC at which a network's features tell each hospital from the others, patients held out."""
    # Empty where all images are of one hospital; NaN for one of too few patients.
    records = data.subset_records(subset)
    if len({record.hospital for record in records}) < 2 or not isinstance(net, XrayNet):
        return {}
    rows, images = draw_images(data, subset, LIMIT // 2, seed=0)
    features = pool_features(net.eval(), images)
    bootstrap = PatientBootstrap(patient_ids([records[row] for row in rows]), draws)
    hospitals = np.array([records[row].hospital for row in rows])
    names = np.unique(hospitals).tolist()
    return {
        name: probe(features, (hospitals == name).astype(np.float64), bootstrap, seed=0)
        for name in (names[:1] if len(names) == 2 else names)
    }


@dataclass(frozen=True)
class LabelShortcut(Result):
    """What the tests say of one label."""

    verdict: str  # caught, not caught or undecided, see :func:`examine`
    reason: str  # in a sentence
    auroc: Estimate
    positives: int
    covered: dict[str, occlusion.ScoreDrop]  # by region
    maps: dict[str, occlusion.Energy]  # by region; {} without positives
    floor: Estimate | None = None  # AUROC of the scores that needed no image


@dataclass(frozen=True)
class Shortcuts(Result):
    """Which labels a network reads off the film instead of the chest; shortcuts.json."""

    labels: dict[str, LabelShortcut]  # those with a known target
    probes: dict[str, Probe]  # by attribute or label
    images: int
    patients: int
    draws: int
    seed: int
    data: str = ""
    fingerprint: str = ""  # of the images they were drawn from
    weights_sha256: str = ""


def find_shortcuts(
    net: XrayNet,
    data: XrayDataModule,
    subset: str = "test",
    *,
    maps: Maps = class_map,
    limit: int = LIMIT,
    draws: int = 1000,
    seed: int = 0,
) -> Shortcuts:
    """Test a network in evaluation mode on a subset it has not learned from, see :func:`examine`.

    At most ``limit`` images are drawn; ``maps`` gives the maps whose energy is measured, ``seed``
    is that of images, draws over patients, patches, folds and random weights.
    """
    sample = draw_sample(data, subset, net.labels, limit=limit, seed=seed)
    shortcuts = examine(net, sample, maps=maps, draws=draws, seed=seed)
    about = data.source.title, data.split.subset_fingerprints[subset]
    sha256 = weights_sha256(net.state_dict())
    return replace(shortcuts, data=about[0], fingerprint=about[1], weights_sha256=sha256)


def examine(
    net: XrayNet, sample: Sample, *, maps: Maps = class_map, draws: int = 1000, seed: int = 0
) -> Shortcuts:
    """Test a network for shortcuts on images it has not learned from."""
    # The rule, its two limits and what stands beside the verdict: audit/README.md, "What the
    # shortcut tests decide". Regions: corners, border, letters and a known marker.
    bootstrap = PatientBootstrap(sample.patients, draws, seed)
    logits = run_batches(net, sample.images).double().numpy()  # (N, L)
    occlusions = occlusion.occlude(net, sample.images, sample.marker, seed)
    pairs = zip(net.labels, sample.targets.T.astype(np.float64), strict=True)
    columns = {label: column for label, column in pairs if not np.isnan(column).all()}
    labels = {}
    for label, column in columns.items():
        index, rows = net.labels.index(label), np.flatnonzero(column == 1)
        drops = {
            region: occlusion.measure_drop(logits, covered, index, column, bootstrap)
            for region, covered in occlusions.items()
        }
        energy = _measure_maps(net, sample.images[rows], label, bootstrap.subset(rows), maps)
        auroc = Estimate.of_draws(bootstrap.auroc(logits[:, index], column))
        floor = None if sample.floor is None else Estimate(np.nan)
        if sample.floor is not None and not np.isnan(scores := sample.floor[:, index]).any():
            floor = Estimate.of_draws(bootstrap.auroc(scores, column))
        verdict, reason = decide(drops, energy, auroc.value)
        labels[label] = LabelShortcut(verdict, reason, auroc, len(rows), drops, energy, floor)
    nets = net, build_untrained(net, seed)
    features = [pool_features(model, sample.images) for model in nets]
    probes = {
        name: Probe.of(features, attribute, bootstrap, seed)
        for name, attribute in {**sample.attributes, **columns}.items()
        if not np.isnan(attribute).all()
    }
    return Shortcuts(labels, probes, len(sample.images), bootstrap.patients, draws, seed)


def decide(
    drops: Mapping[str, occlusion.ScoreDrop], energy: Mapping[str, occlusion.Energy], auroc: float
) -> tuple[str, str]:
    """Verdict of a label by the rule of audit/README.md, and the reason in a sentence."""
    verdict = max((drop.verdict for drop in drops.values()), key=occlusion.RISING.index)
    alike = (name for name, drop in drops.items() if drop.verdict == verdict)
    worst = max(alike, key=lambda name: drops[name].logit.region.value)
    regions = [drop.auroc.region for drop in drops.values()]
    most = max(0.0, *(max(region.value, *region.interval) for region in regions))  # NaN is no end
    dense = [name for name, region in energy.items() if region.verdict == occlusion.FLAGGED]
    about = worst, drops[worst], auroc, most if verdict == occlusion.CLEAR else None, dense
    return OF_LABEL.get(verdict, verdict), tell(__package__, "shortcut", *about)[0]


def write_gist(shortcuts: Shortcuts) -> str:
    """Which labels were caught, and how many not, in a line."""
    return tell(__package__, "caught", shortcuts.labels)[0]


def _measure_maps(
    net: XrayNet, images: Tensor, label: str, bootstrap: PatientBootstrap, maps: Maps
) -> dict[str, occlusion.Energy]:
    """Of images (n, 1, H, W) with the label; {} without any."""
    if not len(images):
        return {}
    batches = [maps(net, batch, label) for batch in iterate_batches(net, images, occlusion.BATCH)]
    evidence = torch.cat([torch.as_tensor(batch).cpu() for batch in batches]).double().numpy()
    return occlusion.measure_energy(evidence, images, bootstrap, cell_grids(net, images.shape[-1]))
