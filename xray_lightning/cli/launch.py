"""``python train.py`` and ``xray train``: settings are read before anything heavy is loaded."""

import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from xray_lightning.cli.failures import guarded
from xray_lightning.cli.locate import conf_dir
from xray_lightning.cli.overrides import register_resolvers


def train(arguments: Sequence[str] | None = None) -> int:
    """Train and evaluate; returns the exit code.

    Args:
        arguments: overrides and Hydra's options; None: those of the command line.
    """
    if arguments is not None:
        sys.argv = [__file__, *arguments]  # a file: Lightning starts it again for each process
    register_resolvers()
    main = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(_fit)
    return guarded(main)


def _fit(config: DictConfig) -> float | None:
    from xray_lightning.cli.compose import fit

    return fit(config)


if __name__ == "__main__":
    sys.exit(train())
