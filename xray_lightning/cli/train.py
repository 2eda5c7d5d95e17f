"""``python train.py`` and ``xray train``: settings are read before anything heavy is loaded."""

import hashlib
import re
import sys
from collections.abc import Sequence

import hydra

from xray_lightning.cli.config import in_sweep, join_sets, make, name_unknown_keys
from xray_lightning.cli.failures import KEPT, run_guarded
from xray_lightning.cli.info import show_settings
from xray_lightning.cli.settings import Settings, find_conf
from xray_lightning.errors import ConfigError
from xray_lightning.folders import name_run
from xray_lightning.processes import STOPPED


def train(arguments: Sequence[str] | None = None) -> int:
    """Train and evaluate, one run or a sweep; returns the exit code.

    Args:
        arguments: overrides and Hydra's options; None: those of the command line.
    """
    if arguments is not None:
        sys.argv = [__file__, *arguments]  # a file: Lightning starts it again for each process
    if {"--help", "-h"} & set(sys.argv[1:]):
        show_settings()
        return 0
    main = hydra.main(version_base="1.3", config_path=str(find_conf()), config_name="train")(_fit)

    def command() -> None:
        sys.argv[1:] = join_sets(name_folders(free_moved(sys.argv[1:])))
        try:
            with name_unknown_keys(sys.argv[1:]):
                main()
        except SystemExit as stop:
            raise stop.__cause__ if isinstance(stop.__cause__, ConfigError) else stop from None

    code = run_guarded(command, KEPT)
    if code > STOPPED and {"-m", "--multirun"} & set(sys.argv):
        named = any(text.startswith("hydra.sweep.dir=") for text in sys.argv)
        again = "" if named else " with hydra.sweep.dir= and the folder of this one"
        print(f"start the same command again{again}: it runs only what is missing", file=sys.stderr)
    return code


def free_moved(arguments: Sequence[str]) -> list[str]:
    """Let ``resume=`` change what the run's own data, split and augment have, not the defaults'.

    >>> free_moved(["resume=RUN", "data.root=DIR"])
    ['resume=RUN', '++data.root=DIR']
    """
    resumed = any(text.startswith("resume=") for text in arguments)
    groups = ("data.", "split.", "augment.")
    return [f"++{text}" if resumed and text.startswith(groups) else text for text in arguments]


def name_folders(arguments: Sequence[str]) -> list[str]:
    """``run_dir=`` as Hydra calls it; and a ``sweep=`` has a folder named after the command.

    >>> name_folders(["-m", "sweep=losses", "seed=0,1"])
    ['-m', 'sweep=losses', 'hydra.sweep.dir=outputs/sweep_losses_05f7f191', 'seed=0,1']
    """
    # Hydra's own settings and -m do not count: another launcher goes on in the same folder
    given = {key: value for key, _, value in (text.partition("=") for text in arguments)}
    kind = "sweep" if {"sweep", "-m", "--multirun"} & {*given} else "run"
    arguments = [re.sub("^run_dir=", f"hydra.{kind}.dir=", text) for text in arguments]
    if "," in (name := given.get("sweep", "")):
        raise ConfigError(f"sweep={name}: one sweep at a time")
    if name in ("", "null") or {"run_dir", "hydra.sweep.dir"} & {*given}:
        return arguments
    skipped = ("sweep=", "hydra.", "hydra/", "-m", "--multirun")
    rest = [text for text in arguments if not text.startswith(skipped)]
    mark = hashlib.sha256("\n".join(rest).encode()).hexdigest()[:8]
    place = arguments.index(f"sweep={name}") + 1  # argparse wants the overrides in one piece
    folder = f"hydra.sweep.dir=outputs/sweep_{name}_{mark}"
    return [*arguments[:place], folder, *arguments[place:]]


def _fit(config: Settings) -> float | None:
    alone = not in_sweep()
    resumed = config.resume and name_run(config.resume)  # refused, too, beside hydra.run.dir=
    source = make(config.data) if alone and not resumed else None  # a table is not there
    from xray_lightning.cli.fit import start_run, sweep_run  # torch, after that was said

    return start_run(config, source) if alone else sweep_run(config)


if __name__ == "__main__":
    sys.exit(train())
