"""Settings that cannot work, refused within a second: before torch is loaded, before the work."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from xray_lightning.errors import ConfigError
from xray_lightning.metrics.calibration import require_method
from xray_lightning.metrics.thresholds import require_rule

LEAST = {  # of whole numbers; null is a number still to be chosen
    **{"batch_size": 1, "image_size": 1, "epochs": 1, "trainer.max_epochs": 1, "draws": 1},
    **{"workers": 0, "threads": 1, "freeze_epochs": 0, "trainer.accumulate_grad_batches": 1},
}
CHOSEN = ("workers", "threads")


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
    require_rule(config.operating_point.rule, config.operating_point.value)
    require_method(config.calibration)


def require_integer(name: str, value: Any, low: int) -> None:
    """Refuse what is no whole number, or too small.

    Raises:
        ConfigError: names the setting.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ConfigError(f"{name} must be an integer of at least {low}, got {value!r}")
