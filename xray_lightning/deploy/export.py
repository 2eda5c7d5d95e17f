"""A checkpoint as one file for other programs: ONNX, a torch.export archive, or safetensors.

A file stays only if it gives the scores and probabilities of the checkpoint; one in 8-bit integers
only where the patients of the test set show that it costs little.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from xray_lightning.checkpoint import KEY, load_checkpoint, write_safetensors
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.files import READER_VERSION
from xray_lightning.data.geometry import RULE
from xray_lightning.data.images import Pixels, read_image
from xray_lightning.deploy.classifier import Classifier, load_classifier
from xray_lightning.errors import CheckpointError, ConfigError, require_choice
from xray_lightning.hub import WEIGHTS, push_files, require_pushable
from xray_lightning.metrics.calibration import TINY, Calibration
from xray_lightning.metrics.compare import Difference, compare_aurocs
from xray_lightning.metrics.intervals import exact_interval
from xray_lightning.records import patient_ids
from xray_lightning.results import Json, Result
from xray_lightning.wording import fault, tell

OUTPUTS = ("scores", "probabilities", "calls")
BATCHES = (1, 2, 5)  # sizes that are checked
TOLERANCE = 1e-4  # of a score or probability
BATCH, CALIBRATION = 16, 128  # films an 8-bit file takes at once, and that give ranges
Run = Callable[[Pixels], Sequence[npt.NDArray[Any]]]  # (N, S, S) -> OUTPUTS, each (N, L)


@dataclass(frozen=True)
class Exported(Result):
    """A file that :func:`export_checkpoint` wrote."""

    path: str
    format: str  # "onnx", "pt2" or "safetensors"
    bytes: int
    labels: tuple[str, ...]
    image_size: int
    largest_difference: float  # of scores and probabilities to those of the checkpoint
    films: int  # real images it was checked on; 0: noise alone


@dataclass(frozen=True)
class Quantised(Exported):
    """What 8-bit integers cost on the test set (``films``), and whether the file was kept."""

    kept: bool
    patients: int
    float_bytes: int
    calibration_films: int  # of training, for ranges of activations; 0: each batch has its own
    margin: float  # of the mean AUROC: what it may cost
    auroc: Difference  # of the mean: float32 first, 8 bits second
    turned: float  # share of calls that are others than in float32, NaN without operating points

    @property
    def sentence(self) -> str:
        """What was seen, and what became of the file."""
        return tell(__package__, "quantised", self)[0]


class Deployed(nn.Module):
    """A classifier as a graph: pixels (N, S, S) uint8 in; scores, probabilities and calls out.

    Of the outputs, (N, L) float32 each, probabilities are NaN for a label without calibration, and
    calls (1 positive, 0 negative) for one without operating point.
    """

    thresholds: Tensor  # (L,)

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.net, self.flip = classifier.net, classifier.tta == "flip"
        read = classifier.interpretation
        self.calibrations = [read.calibrations.get(label) for label in classifier.labels]
        self.register_buffer("thresholds", torch.tensor(read.thresholds, dtype=torch.float32))
        points = read.operating_points.to_json() if read.operating_points else {}
        self.facts = {
            **{"labels": list(classifier.labels), "outputs": list(OUTPUTS), "tta": classifier.tta},
            **{**classifier.preprocessing, "square": RULE, "reader": READER_VERSION},
            "operating_points": {k: v for k, v in points.items() if k != "fingerprint"},
            "priors": read.to_json()["priors"],
        }
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, probabilities and calls of pixels."""
        images = pixels.unsqueeze(1).to(torch.float32) / 255  # (N, 1, S, S)
        scores = torch.sigmoid(self.net(images))
        if self.flip:
            scores = (scores + torch.sigmoid(self.net(images.flip(3)))) / 2
        columns = [_calibrate(c, scores[:, i]) for i, c in enumerate(self.calibrations)]
        called = (scores >= self.thresholds).float()
        calls = torch.where(torch.isnan(self.thresholds), torch.nan, called)
        return scores, torch.stack(columns, dim=1), calls


def _calibrate(calibration: Calibration | None, scores: Tensor) -> Tensor:
    """What a calibration makes of scores (N,), by operations that every format has."""
    if calibration is None:
        return torch.full_like(scores, torch.nan)
    exact = scores.double()
    if calibration.method == "isotonic":
        knots = torch.tensor(calibration.knots, dtype=torch.float64)
        steps = torch.tensor(calibration.values, dtype=torch.float64)
        width = (knots[1:] - knots[:-1]).clamp_min(1e-300)
        share = ((exact[:, None] - knots[:-1]) / width).clamp(0, 1)
        exact = steps[0] + (share * (steps[1:] - steps[:-1])).sum(dim=1)
        if calibration.shift == 0:
            return exact.float()
    exact = exact.clamp(TINY, 1 - TINY)
    odds = calibration.slope * (exact.log() - torch.log1p(-exact)) + calibration.intercept
    return torch.sigmoid(odds + calibration.shift).float()


def export_checkpoint(
    path: str | Path,
    out: str | Path,  # the file; ends in its format
    format: str = "onnx",  # or "pt2", "safetensors"
    *,
    # images to check it on too, in batches of 1, 2 and 5; noise is checked anyway
    films: Sequence[str | Path] = (),
    **reading: Any,  # points, prior, trust of ``load_classifier``; of safetensors the checkpoint's
) -> Exported:
    """Write a checkpoint as one file, and check that it gives the same scores.

    ONNX and pt2 hold normalisation, sigmoid, calibration and thresholds, see :class:`Deployed`;
    labels, size, reading rules and operating points are JSON in the metadata "xray_lightning".
    safetensors hold the tensors and what :func:`~xray_lightning.load_classifier` needs, without
    the run's settings, split and patients.

    Raises:
        ConfigError: an unknown format, another ending, or packages of the extra are missing.
        CheckpointError: the network has no such graph, or the file gives other scores.
        InvalidImageError: a film is not a readable image.
    """
    require_choice("format", format, WRITERS)
    out = Path(out)
    if out.suffix != f".{format}":
        raise ConfigError(f"{out}: a file of format={format} ends in .{format}")
    classifier = load_classifier(path, device="cpu", **reading)
    size = classifier.preprocessing["image_size"]
    kinds = [np.random.default_rng(0).integers(0, 256, (max(BATCHES), size, size), dtype=np.uint8)]
    if films:
        kinds.append(np.stack([classifier.fit(read_image(Path(film))) for film in films]))
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.stem}.") as place:
        run = _write(format, classifier, kinds[0][:2], whole := Path(place, out.name))
        difference = max(_compare(classifier, run, pixels) for pixels in kinds)
        if not difference <= TOLERANCE:
            raise CheckpointError(fault("other_scores", out, path, difference, TOLERANCE))
        whole.replace(out)
    sizes = out.stat().st_size, classifier.labels, size
    return Exported(str(out), format, *sizes, difference, len(films))


def push_checkpoint(path: str | Path, repo: str, card: str, *, public: bool = False) -> str:
    """Put a checkpoint on the Hugging Face hub; returns hf://OWNER/NAME@COMMIT.

    ``repo`` is OWNER/NAME; ``card`` its README.md, as ``card_text`` gives it. What inference needs
    leaves, as safetensors and as JSON: no settings, predictions, patients or fingerprints of
    images, of the gate's lowest age the decade. Raises as :func:`export_checkpoint` and hub.py; a
    card of other weights is a ConfigError.
    """
    require_pushable(repo)
    with TemporaryDirectory() as folder:
        export_checkpoint(path, weights := Path(folder) / WEIGHTS, "safetensors")
        bare = load_checkpoint(weights)
        if bare.weights_sha256 not in card:
            raise ConfigError(f"the card is of other weights than {path}: xray report makes it new")
        if bare.gate and bare.gate.youngest:  # it may be one patient's
            gate = replace(bare.gate, youngest=bare.gate.youngest // 10 * 10)
            write_safetensors(replace(bare, gate=gate), weights)
        config = json.dumps(bare.description.to_plain(), indent=1).encode()
        texts = {"config.json": config, "README.md": card.encode()}
        return push_files(repo, {WEIGHTS: weights, **texts}, public)


def _write(format: str, classifier: Classifier, two: Pixels, path: Path) -> Run:
    """Write the file; what runs it again."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter, about itself
            return WRITERS[format](classifier, torch.from_numpy(two), path)
    except ImportError as error:
        raise ConfigError(fault("no_exporter", format, error.name)) from error
    except OSError:  # of the disk
        raise
    except Exception as error:  # an exporter raises whatever a layer of it does
        raise CheckpointError(fault("no_export", classifier.checkpoint, format, error)) from error


def _compare(classifier: Classifier, run: Run, pixels: Pixels) -> float:
    """The largest difference of scores and probabilities; infinite where a NaN is at odds."""
    largest = 0.0
    for count in BATCHES:
        scores = classifier.score(pixels[:count])
        wanted: list[Any] = [scores, classifier.interpretation.probabilities(scores)]
        for ours, theirs in zip(wanted, run(pixels[:count])[:2], strict=True):
            same = ours.shape == theirs.shape and (np.isnan(ours) == np.isnan(theirs)).all()
            gap = np.nanmax(np.abs(ours - theirs), initial=0) if same else np.inf
            largest = max(largest, float(gap))
    return largest


def write_onnx(classifier: Classifier, example: Tensor, path: Path) -> Run:
    """ONNX for onnxruntime and others, opset 18."""
    import onnx

    model = Deployed(classifier)
    program: Any = torch.onnx.export(
        model, (example,), input_names=["pixels"], output_names=list(OUTPUTS), dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},), opset_version=18, verbose=False,
    )  # fmt: skip
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {KEY: json.dumps(model.facts)})
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)
    return open_onnx(path)


def open_onnx(path: Path) -> Run:
    """A file of :func:`write_onnx` or :func:`write_int8` on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(list(OUTPUTS), {"pixels": pixels})


def write_pt2(classifier: Classifier, example: Tensor, path: Path) -> Run:
    """An archive of torch.export, for torch without this package."""
    model, batch = Deployed(classifier), {"pixels": {0: torch.export.Dim("batch")}}
    program = torch.export.export(model, (example,), dynamic_shapes=batch)
    torch.export.save(program, path, extra_files={f"{KEY}.json": json.dumps(model.facts)})
    loaded = torch.export.load(path).module()
    return lambda pixels: [output.numpy() for output in loaded(torch.from_numpy(pixels))]


def write_weights(classifier: Classifier, example: Tensor, path: Path) -> Run:
    """What :func:`~xray_lightning.load_checkpoint` reads."""
    write_safetensors(load_checkpoint(str(classifier.checkpoint)), path)
    model = Deployed(load_classifier(path, device="cpu", trust=True))  # as that of the checkpoint
    return lambda pixels: [output.numpy() for output in model(torch.from_numpy(pixels))]


WRITERS = {"onnx": write_onnx, "pt2": write_pt2, "safetensors": write_weights}


def quantise_checkpoint(
    path: str | Path,
    out: str | Path,  # the file; ends in .onnx
    data: XrayDataModule,  # its training films give ranges of activations, its test films decide
    *,
    margin: float = 0.01,  # of the mean AUROC
    draws: int = 2000,  # of patients
    trust: bool = False,  # see :func:`~xray_lightning.load_checkpoint`
) -> Quantised:
    """Write a checkpoint as ONNX whose convolutions and products are in 8-bit integers.

    Convolutional networks: weights by channel, activations static (QDQ of onnxruntime); networks of
    tokens: dynamic. The file is kept if the 95 % interval of the AUROC it costs, test patients
    drawn in pairs, ends below ``margin``; where no draw differs, Clopper and Pearson's of so many
    patients who agree. Raises as :func:`export_checkpoint`.
    """
    out, train, test = Path(out), *map(data.subset_records, ("train", "test"))
    rows = np.random.default_rng(0).permutation(len(train))[:CALIBRATION].tolist()
    if not rows:
        raise ConfigError("8 bits need training films for their ranges: leave out images=all")
    truth, patients = data.subset_targets("test"), patient_ids(test)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.stem}.") as place:
        exact, whole = Path(place, f"float{out.suffix}"), Path(place, "int8.onnx")
        exported = export_checkpoint(path, exact, trust=trust)
        static = write_int8(exact, whole, _iterate(data, "train", rows))
        (first, one), (second, two) = (_score(file, data, len(test)) for file in (exact, whole))
        columns = [exported.labels.index(label) for label in data.labels]
        sides = [first[:, columns]], [second[:, columns]]
        compared = compare_aurocs(data.labels, truth, patients, *sides, draws=draws)
        size, count = whole.stat().st_size, len(set(patients.tolist()))
        ends = compared.mean.interval or exact_interval(compared.mean.difference, count)
        if kept := ends[1] < margin:
            whole.replace(out)
    turned, gap = (one != two)[~np.isnan(one)], float(np.abs(first - second).max())
    told: Json = {"path": str(out), "bytes": size, "films": len(test), "patients": count}
    told |= {"float_bytes": exported.bytes, "calibration_films": len(rows) * static, "kept": kept}
    told |= {"largest_difference": gap, "margin": margin, "auroc": compared.mean}
    return Quantised(**{**vars(exported), **told}, turned=turned.mean() if turned.size else np.nan)


def write_int8(exact: Path, whole: Path, batches: Iterator[Pixels]) -> bool:
    """Write an ONNX file in 8 bits; whether the batches (B, S, S) gave static ranges."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    kinds = [node.op_type for node in onnx.load(exact).graph.node]
    prepared = exact.with_name("prepared.onnx")
    quant_pre_process(exact, prepared, skip_symbolic_shape=True)
    layers = {"per_channel": True, "op_types_to_quantize": ("Conv", "Gemm", "MatMul")}
    if kinds.count("Conv") < kinds.count("MatMul"):  # tokens
        quantization.quantize_dynamic(prepared, whole, **layers)
        return False
    reader = SimpleNamespace(get_next=lambda: next(({"pixels": batch} for batch in batches), None))
    kind = quantization.QuantType.QUInt8  # of activations: with QInt8 it is slower than float32
    quantization.quantize_static(prepared, whole, reader, **layers, activation_type=kind)
    return True


def _iterate(data: XrayDataModule, subset: str, rows: Sequence[int]) -> Iterator[Pixels]:
    """Pixels (B, S, S) as the network sees them."""
    films, generator = Subset(data.dataset(subset), rows), torch.Generator()
    for batch in DataLoader(films, BATCH, generator=generator):
        yield (batch["image"][:, 0] * 255).round().byte().numpy()


def _score(path: Path, data: XrayDataModule, count: int) -> list[npt.NDArray[Any]]:
    """Scores and calls of the test images, (N, L) each."""
    outputs = map(open_onnx(path), _iterate(data, "test", range(count)))
    return [np.concatenate(parts) for parts in zip(*outputs, strict=True)][::2]
