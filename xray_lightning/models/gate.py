"""Is a film such as the network was trained on? A distance, and probes for what was done to it.

Of a layer halfway through the backbone, pooled to 3 x 3 places: the class-free Mahalanobis distance
to the training films (Lee 2018, eq. 2, without classes; FRODO, Calli 2019), the covariance shrunk
(Ledoit and Wolf 2004), and a multinomial logistic model of what was done to training films by us.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from xray_lightning.errors import CheckpointError, ConfigError, require_number
from xray_lightning.models.backbones import to_map
from xray_lightning.models.batches import record_outputs, run_batches
from xray_lightning.models.network import XrayNet
from xray_lightning.wording import fault
from xray_lightning.writing import Json

Floats = npt.NDArray[np.floating]
GRID = 3  # places along a side: the heart's side tells a mirrored film
AXES = 128  # principal axes kept; a covariance of all features would be larger than the network
LEAST = 16  # training films; below, there is nothing to fit


@dataclass(frozen=True, eq=False)
class Gate:
    """What a checkpoint knows of its training films: F features, K axes, C kinds, first as is."""

    layer: str  # the module whose output is pooled
    kinds: tuple[str, ...]
    centre: Tensor  # (F,)
    axes: Tensor  # (F, K), so that the distance is |(x - centre) axes|
    weights: Tensor  # (K, C)
    bias: Tensor  # (C,)
    limit: float  # of the distance
    log_odds: float  # limit of those against a film as it is
    false_alarms: float  # the largest share of further films to be expected above either limit
    films: int  # of training
    validation: int  # films of validation
    youngest: float | None  # age in years in the training set; None where unknown
    views: tuple[str, ...]  # views of the training set, where known

    def check(self, features: Tensor) -> tuple[Floats, Floats, list[str]]:
        """Distance and log odds (N,) of features (N, F), and what each film most looks like."""
        whitened = (features.cpu() - self.centre) @ self.axes  # (N, K)
        logits = (whitened @ self.weights + self.bias).double()  # (N, C)
        others = logits[:, 1:]
        odds = torch.logsumexp(others, dim=1) - logits[:, 0]
        named = [self.kinds[int(index) + 1] for index in others.argmax(dim=1)]
        return whitened.norm(dim=1).double().numpy(), odds.numpy(), named

    def to_plain(self) -> Json:
        """The entry of the checkpoint."""
        return vars(self) | {"kinds": list(self.kinds), "views": list(self.views)}

    def to_json(self) -> Json:
        """Without its tensors."""
        return {key: entry for key, entry in self.to_plain().items() if not torch.is_tensor(entry)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The gate of such an entry; CheckpointError if that is none."""
        if not isinstance(plain, Mapping) or {*plain} != {entry.name for entry in fields(cls)}:
            raise CheckpointError("its gate is of another version, or damaged")
        gate = cls(**{**plain, "kinds": tuple(plain["kinds"]), "views": tuple(plain["views"])})
        tensors = gate.centre, gate.axes, gate.weights, gate.bias
        if not all(isinstance(entry, Tensor) and entry.isfinite().all() for entry in tensors):
            raise CheckpointError("its gate has values that are missing, NaN or infinite")
        numbers = gate.limit, gate.log_odds, gate.false_alarms, gate.youngest or 0.0
        if not all(type(number) in (int, float) and np.isfinite(number) for number in numbers):
            raise CheckpointError(f"its gate has a limit, rate or age that is none: {numbers}")
        axes, weights = gate.axes.shape, gate.weights.shape
        kinds = (len(gate.kinds),)
        if axes != (*gate.centre.shape, *weights[:1]) or {weights[1:], gate.bias.shape} != {kinds}:
            raise CheckpointError(f"its gate has axes {axes} and weights {weights} that do not fit")
        return gate


def run_watched(net: XrayNet, layer: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, L) of images, and features (B, F): means of a layer's channels at 3 x 3 places."""
    with record_outputs({layer: net.get_submodule(layer)}) as outputs:
        logits = net(images)
    return logits, pool(net, outputs[layer][0])


def pool(net: XrayNet, output: Tensor) -> Tensor:
    """Features (B, F) of a layer's output."""
    maps = to_map(output.float(), net.layout, net.backbone)
    return functional.adaptive_avg_pool2d(maps, GRID).flatten(1)


class _ReachedError(Exception):
    """The layer gave its output: what follows it is not needed."""


def run_to(net: XrayNet, layer: str, images: Tensor) -> Tensor:
    """Features (B, F) of images as :func:`run_watched` gives them, nothing behind the layer run."""
    outputs: list[Tensor] = []

    def stop(module: object, inputs: object, output: Tensor) -> None:
        outputs.append(output)
        raise _ReachedError

    with suppress(_ReachedError), net.get_submodule(layer).register_forward_hook(stop):
        net(images)
    return pool(net, outputs[0])


def fit_gate(
    net: XrayNet,  # in evaluation mode
    train: Tensor,  # (N, 1, S, S) in [0, 1]
    validation: Tensor,  # (M, 1, S, S)
    *,
    false_alarms: float = 0.05,  # share of films as they are that may be remarked on
    seed: int = 0,  # which training film is changed in which way
    youngest: float | None = None,  # and views: see :class:`Gate`
    views: tuple[str, ...] = (),
) -> Gate:
    """Fit distance and probes on training films, and their limits on validation films."""
    # Every training film is taken as it is, mirrored, and changed in one of the other ways. One
    # limit or both reach at most ``false_alarms * (M + 1)`` validation films, so that of further
    # ones no larger share is expected above (Vovk 2005); with few it tells that of two films.
    require_number("gate: false_alarms", false_alarms, 0, 1, "()")
    if len(train) < LEAST or not len(validation):
        raise ConfigError(fault("few_films", LEAST, train, validation))
    from sklearn.linear_model import LogisticRegression  # 1 s that only a fit needs

    layer = middle_layer(net)

    def measure(images: Tensor) -> Floats:
        pooled = run_batches(net, images, lambda batch: run_to(net, layer, batch))
        return pooled.double().numpy()

    names, sets = [*CHANGES], [measure(films) for films in change_films(train, seed)]
    kinds = np.repeat(np.arange(len(sets)), [len(features) for features in sets])
    centre, axes = fit_distance(sets[0], np.concatenate(sets))
    probe = LogisticRegression(C=0.01, solver="newton-cholesky", class_weight="balanced")
    probe.fit((np.concatenate(sets) - centre) @ axes, kinds)
    arrays = centre, axes, probe.coef_.T, probe.intercept_
    tensors = [torch.from_numpy(np.float32(array)) for array in arrays]
    free = Gate(
        layer, ("as it is", *names), tensors[0], tensors[1], tensors[2], tensors[3], np.inf, np.inf,
        max(false_alarms, 2 / (len(validation) + 1)), len(train), len(validation), youngest, views,
    )  # fmt: skip
    distances, odds, _ = free.check(torch.from_numpy(np.float32(measure(validation))))
    limit, log_odds = choose_limits(np.stack([distances, odds], axis=1), false_alarms)
    return replace(free, limit=limit, log_odds=max(0.0, log_odds))


def middle_layer(net: XrayNet) -> str:
    """The module halfway through the backbone."""
    stages = list(getattr(net.backbone, "feature_info", ()))
    if not stages:
        raise ConfigError(f"{net.config['backbone']}: timm lists no stages of it (feature_info)")
    return f"backbone.{stages[len(stages) // 2]['module']}"


def change_films(films: Tensor, seed: int) -> list[Tensor]:
    """Films (N, 1, S, S) as they are, all mirrored, and each in one of the other ways, by kind."""
    rng, names = np.random.default_rng(seed), [*CHANGES][1:]
    turns = rng.permutation(len(films)) % len(names)
    changed = [
        torch.stack([CHANGES[name](film, rng) for film in films[turns == number]])
        for number, name in enumerate(names)
    ]
    return [films, films.flip(3), *changed]


def fit_distance(plain: Floats, everything: Floats) -> tuple[Floats, Floats]:
    """Centre (F,) and whitening axes (F, K) of features (N, F); the axes are those of (P, F)."""
    from sklearn.covariance import LedoitWolf
    from sklearn.decomposition import PCA

    deviation = plain.std(axis=0)
    scale = 1 / np.where(deviation > 0, deviation, 1)
    principal = PCA(min(AXES, *everything.shape), svd_solver="randomized", random_state=0)
    kept = scale[:, None] * principal.fit(everything * scale).components_.T
    return plain.mean(axis=0), kept @ np.linalg.cholesky(LedoitWolf().fit(plain @ kept).precision_)


def choose_limits(values: Floats, rate: float) -> list[float]:
    """The lowest limits (C,) that equally many of M ``values`` (M, C) reach, few any of them."""
    allowed = int(rate * (len(values) + 1))
    steps = -np.sort(-values, axis=0)
    kept = [step for step in steps if (values >= step).any(axis=1).sum() <= allowed]
    return [float(limit) for limit in (kept[-1] if kept else steps[0])]


def crop(film: Tensor, generator: np.random.Generator) -> Tensor:
    """A part of half to 0.7 of the side, anywhere, enlarged; (1, S, S) as all below."""
    side = film.shape[-1]
    part = int(side * generator.uniform(0.5, 0.7))
    y, x = generator.integers(0, side - part + 1, 2)
    return _resize(film[:, y : y + part, x : x + part], side)


def fade(film: Tensor, generator: np.random.Generator) -> Tensor:
    """Nearly empty: hardly any contrast, or a small film on black."""
    if generator.random() < 0.5:
        return film * 0.05 + generator.uniform(0, 0.95)
    side = film.shape[-1]
    part = max(1, int(side * generator.uniform(0.2, 0.4)))
    y, x = generator.integers(0, side - part + 1, 2)
    empty = torch.zeros_like(film)
    empty[:, y : y + part, x : x + part] = _resize(film, part)
    return empty


def _resize(film: Tensor, side: int) -> Tensor:
    return functional.interpolate(film[None], (side, side), mode="bilinear", antialias=True)[0]


CHANGES: dict[str, Callable[[Tensor, np.random.Generator], Tensor]] = {
    "mirrored": lambda film, _: film.flip(2),
    "turned a quarter to the left": lambda film, _: film.rot90(1, (1, 2)),
    "turned upside down": lambda film, _: film.rot90(2, (1, 2)),
    "turned a quarter to the right": lambda film, _: film.rot90(3, (1, 2)),
    "inverted": lambda film, _: 1 - film,
    "cropped": crop,
    "nearly empty": fade,
}
