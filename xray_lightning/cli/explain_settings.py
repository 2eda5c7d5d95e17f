"""What ``xray explain`` is asked for, and what it refuses."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xray_lightning.checkpoint import load_checkpoint, require_labels
from xray_lightning.cli.opening import Opened
from xray_lightning.cli.overrides import integer, listed, taken_out
from xray_lightning.cli.settings import EXPLAIN
from xray_lightning.errors import ConfigError
from xray_lightning.explain.maps import GATES, METHODS
from xray_lightning.models.network import XrayNet


@dataclass(frozen=True)
class Settings:
    """The settings of this verb, see ``EXPLAIN``."""

    subset: str
    methods: tuple[str, ...]
    saliency: tuple[str, ...]
    label: str
    positives: int
    seeds: tuple[Path, ...]
    permuted: tuple[Path, ...]
    shortcuts: bool
    draws: int
    seed: int


def own_settings(overrides: Sequence[str]) -> tuple[Settings, list[str]]:
    """The settings of this verb, and what is left for the configuration.

    Raises:
        ConfigError: a value that cannot work.
    """
    values, rest = taken_out(overrides, EXPLAIN)
    if idle := [text for text in rest if text.startswith(("tta=", "prior="))]:
        raise ConfigError(f"{idle[0]}: nothing here depends on it; xray evaluate takes it")
    if values["subset"] not in ("val", "test"):
        raise ConfigError(f"subset must be val or test, got {values['subset']!r}")
    if values["shortcuts"] not in ("true", "false"):
        raise ConfigError(f"shortcuts must be true or false, got {values['shortcuts']!r}")
    permuted = listed(values["permuted"])
    if len(permuted) > 1:
        raise ConfigError(f"permuted takes one checkpoint, got {', '.join(permuted)}")
    settings = Settings(
        subset=values["subset"],
        methods=methods_of("methods", values["methods"]),
        saliency=methods_of("saliency", values["saliency"]),
        label=values["label"],
        positives=integer("positives", values["positives"], 2),
        seeds=tuple(map(Path, listed(values["seeds"]))),
        permuted=tuple(map(Path, permuted)),
        shortcuts=values["shortcuts"] == "true",
        draws=integer("draws", values["draws"], 1),
        seed=integer("bootstrap_seed", values["bootstrap_seed"], 0),
    )
    return settings, rest


def methods_of(name: str, text: str) -> tuple[str, ...]:
    """Names of map methods; "none" and "all", those of every network, are lists too.

    Raises:
        ConfigError: an unknown one.
    """
    if text in ("none", "all"):
        return METHODS if text == "all" else ()
    found = listed(text)
    known = (*METHODS, GATES)
    unknown = [method for method in found if method not in known]
    if unknown or not found:
        raise ConfigError(
            f"{name} must be none, all, or of {', '.join(known)}, got "
            f"{', '.join(unknown) or 'nothing'}"
        )
    return found


def require_subset(found: Opened, settings: Settings) -> None:
    """Refuse what is not there, a label or gates, and images that may have been trained on.

    Raises:
        ConfigError: names the label, says how a network gets gates, or names the validation set.
    """
    data, trained = found.data, found.checkpoint.description.split["subsets"]["val"]
    if GATES in (*settings.methods, *settings.saliency):
        found.checkpoint.build_net().require_gates()
    if settings.label and settings.label not in data.labels:
        raise ConfigError(f"label must be one of {', '.join(data.labels)}, got {settings.label!r}")
    if settings.subset == "val" and data.split.subset_fingerprints["val"] != trained:
        raise ConfigError(
            "subset=val: this split's validation set is not that of the training run, and only "
            "test images are checked for patients it learned from; use subset=test"
        )


def trained_like(paths: Sequence[Path], found: Opened, *, permuted: bool) -> list[XrayNet]:
    """Other networks of the same architecture, to compare maps with.

    Raises:
        CheckpointError: no checkpoint, or one of other labels.
        ConfigError: another architecture or preprocessing, labels permuted or not against what is
            wanted, or a seed that another one has.
    """
    own = found.checkpoint.description
    seeds = set() if permuted else {own.config.get("seed")}
    nets = []
    for path in paths:
        loaded = load_checkpoint(path)
        other = loaded.description
        require_labels(other, found.data.labels, str(path))
        if (other.net, other.preprocessing) != (own.net, own.preprocessing):
            raise ConfigError(
                f"{path} has another network or preprocessing than {found.checkpoint.path}: their "
                "maps cannot be compared; train it with the same settings but the seed"
            )
        if other.config.get("permute_labels", False) != permuted:
            raise ConfigError(
                f"{path} was trained with permute_labels={str(not permuted).lower()}: "
                f"{'permuted' if permuted else 'seeds'}= needs the opposite"
            )
        if (seed := other.config.get("seed", path)) in seeds:
            raise ConfigError(f"{path} has seed={seed}, as another one: maps of it agree anyway")
        seeds.add(seed)
        nets.append(loaded.build_net())
    return nets
