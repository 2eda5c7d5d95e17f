"""Settings that cannot work, refused within a second: before torch is loaded, before the work."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from xray_lightning.cli.keys import known_keys
from xray_lightning.errors import CheckpointError, ConfigError, DataNotFoundError

LEAST = {  # of whole numbers; null is a number still to be chosen
    **{"batch_size": 1, "image_size": 1, "epochs": 1, "trainer.max_epochs": 1, "draws": 1},
    **{"workers": 0, "threads": 1, "freeze_epochs": 0, "trainer.accumulate_grad_batches": 1},
}
CHOSEN = ("workers", "threads")
CHANGEABLE = (
    *("data", "split", "trainer", "batch_size", "workers", "threads", "cache_dir"),
    *("tta", "draws", "prior"),
    *("image_size", "clahe"),  # refused with the value the checkpoint needs
)
EXPLAIN = {  # of xray explain, with their defaults
    "subset": "test",
    "methods": "cam,gradcam,gradcam++,layercam,gradient",  # scored against boxes; none: left out
    "saliency": "cam,gradient",  # put to the saliency tests; none: left out
    "label": "",  # the finding of the saliency tests; the one the network knows best unless named
    "positives": "48",  # images of the saliency tests, at most
    "seeds": "",  # checkpoints trained from other seeds
    "permuted": "",  # a checkpoint trained with permute_labels=true
    "shortcuts": "true",
    "draws": "1000",
    "bootstrap_seed": "0",
}
OPENING = {  # of every verb that opens a checkpoint, and what they may be
    "overlap": ("exclude", "report"),
    "images": ("test", "all"),
    "trust": ("true", "false"),
    "tta": ("none", "flip"),
    "subset": ("val", "test"),
    "shortcuts": ("true", "false"),
}


def require_settings(config: DictConfig) -> None:
    """Refuse what cannot work before hours of training.

    Raises:
        ConfigError: a whole number, the devices, a rule, value or method out of range.
    """
    seed = config.seed
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed must be an integer from 0 to 2**32 - 1, got {seed!r}")
    for name, low in LEAST.items():
        value = OmegaConf.select(config, name, default=low)  # an older checkpoint may lack it
        if not (value is None and name in CHOSEN):
            require_integer(name.replace("trainer.max_", ""), value, low)
    devices = config.trainer.devices
    if devices in (0, "0", "") or (isinstance(devices, int) and devices < -1):
        raise ConfigError(
            f"trainer.devices must be at least 1, or -1 for every GPU, got {devices!r}"
        )
    usual = known_keys()
    if (config.operating_point, config.calibration) == (
        usual["operating_point"],
        usual[""]["calibration"],
    ):
        return
    from xray_lightning.metrics.calibration import require_method  # SciPy and scikit-learn: 0.5 s
    from xray_lightning.metrics.operating_points import require_rule

    require_rule(config.operating_point.rule, config.operating_point.value)
    require_method(config.calibration)


def require_openable(
    checkpoints: Sequence[Path], overrides: Sequence[str], names: Sequence[str] = ()
) -> None:
    """Refuse checkpoints and images that are not there, overrides that no verb can lay over one.

    Raises:
        CheckpointError, DataNotFoundError: names the file.
        ConfigError: names the override, and what may stand there.
    """
    for path in checkpoints:
        if not path.exists():
            raise CheckpointError(f"no checkpoint at {path}")
    for name in names:
        if not Path(name).exists() and not set(name) & set("*?["):  # a pattern is looked up later
            raise DataNotFoundError(f"{name}: no such file or folder")
    pairs = {key: value for key, _, value in (text.partition("=") for text in overrides)}
    require_changes(
        [key for key in pairs if key not in {*EXPLAIN, *OPENING, "labels", "hydra.run.dir"}]
    )
    for key, value in pairs.items():
        if value not in OPENING.get(key, (value,)):
            raise ConfigError(f"{key} must be {' or '.join(OPENING[key])}, got {value!r}")
        if key in LEAST and value != "null" and not value.isdecimal():
            require_integer(key, value, LEAST[key])


def point_settings(config: DictConfig) -> dict[str, Any]:
    """How operating points are fitted, see :func:`~.evaluation.evaluate.fit_operating_points`."""
    point = {"rule": config.operating_point.rule, "value": config.operating_point.value}
    return point | {"calibration": config.calibration, "draws": config.draws}


def find_checkpoint(place: Path) -> Path:
    """The best checkpoint of a run folder; a file as it is."""
    return place / "checkpoints" / "best.ckpt" if place.is_dir() else place


def require_changes(overrides: Sequence[str]) -> None:
    """Refuse what would not change an evaluation.

    Raises:
        ConfigError: names the override.
    """
    for text in overrides:
        if text.partition("=")[0].split(".")[0] not in CHANGEABLE:
            raise ConfigError(f"{text}: an evaluation can change only {', '.join(CHANGEABLE)}")


def require_integer(name: str, value: Any, low: int) -> None:
    """Refuse what is no whole number, or too small.

    Raises:
        ConfigError: names the setting.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ConfigError(f"{name} must be an integer of at least {low}, got {value!r}")
