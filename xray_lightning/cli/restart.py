"""One run of a sweep, which may have been started before: skipped, continued or started anew."""

import json
import logging
import shutil
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from xray_lightning.cli.compose import fit, resumed
from xray_lightning.cli.failures import user_message
from xray_lightning.cli.processes import first_process
from xray_lightning.cli.provenance import reusable
from xray_lightning.cli.tables import number, show
from xray_lightning.cli.trust import read_config
from xray_lightning.errors import ConfigError
from xray_lightning.writing import entries_of, write_json

LOG = logging.getLogger(__name__)
# What does not change the result.
SURROUNDINGS = ("run_dir", "hydra", "workers", "threads", "cache_dir", "trust")
LEFTOVERS = ("config.yaml", "environment.json", "metrics.csv", "failure.json")


def sweep_run(config: DictConfig) -> float | None:
    """Train one run of a sweep unless it is done; a failure is written down, not raised.

    The other runs go on: Hydra would give up at the end of the batch and print no table. The sweep
    then leaves with an exit code.

    Returns:
        The best checkpoint's validation AUROC; None if undefined or if the run failed.

    Raises:
        ConfigError: the folder holds a run with other settings.
    """
    run = Path(config.run_dir)
    prepare_log(HydraConfig.get().job.num)
    started = (run / "config.yaml").is_file() and not config.resume
    if started:
        require_same_settings(config, run)
    try:
        return restarted(config, run) if started else fit(config)
    except Exception as error:  # whatever it is, the other runs go on
        message = user_message(error)
        LOG.error("failed: %s", message or error, exc_info=message is None)
        facts = {"overrides": list(HydraConfig.get().overrides.task), "seed": config.seed}
        text = message or f"{type(error).__name__}: {error}"
        write_json({**facts, "message": text}, run / "failure.json")
        return None


def prepare_log(number_of_run: int) -> None:
    """Say in every line on the terminal, which several runs may share, whose it is."""
    form = f"%(asctime)s %(levelname)s #{number_of_run} %(message)s"
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:  # a file is one too
            handler.setFormatter(logging.Formatter(form, "%H:%M:%S"))
    logging.getLogger("submitit").propagate = False  # has a log of its own; train.log is the run's


def restarted(config: DictConfig, run: Path) -> float | None:
    """The score of a finished run; otherwise what is missing of it is trained."""
    (run / "failure.json").unlink(missing_ok=True)
    if (run / "metrics.json").is_file():
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        mean: float | None = metrics["val"]["auroc"]["mean"]
        show(
            f"finished before: {run}, validation AUROC {number(mean, 4)}"
        )  # its log stays as it is
        return mean
    if (run / "checkpoints" / "last.ckpt").is_file():
        return fit(*resumed(run, ["trust=true"]))  # its settings are this command's own
    LOG.info("%s was stopped before its first epoch ended: starting anew", run)
    if first_process():  # the others find what this one wrote
        clear(run)
    return fit(config)


def clear(run: Path) -> None:
    """Remove what a new start would add to instead of replacing it."""
    for name in LEFTOVERS:
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / "tensorboard", ignore_errors=True)


def require_same_settings(config: DictConfig, run: Path) -> None:
    """Never take another run's result, or go on with another run's weights.

    Raises:
        ConfigError: the run in the folder has other settings; the message names them.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    if not isinstance(plain, dict):
        raise ConfigError("the configuration must be a mapping")
    ours = OmegaConf.to_container(reusable({str(key): value for key, value in plain.items()}))
    both = [dict(entries_of(values)) for values in (ours, read_config(run / "config.yaml"))]
    now, then = ({k: v for k, v in each.items() if not isinstance(v, dict)} for each in both)
    keys = [
        key for key in sorted(now.keys() | then.keys()) if key.split(".")[0] not in SURROUNDINGS
    ]
    changed = [key for key in keys if now.get(key) != then.get(key)]
    if changed:
        shown = ", ".join(f"{key}={then.get(key)} (now {now.get(key)})" for key in changed[:3])
        raise ConfigError(
            f"{run} holds a run with other settings: {shown}; name another folder with "
            "hydra.sweep.dir="
        )
