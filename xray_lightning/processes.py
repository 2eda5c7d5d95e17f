"""Which process of a run this is and what it may say, before anything heavy is loaded."""

import logging
import os
import warnings

RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")  # torchrun, Slurm, Lightning, by hand
REMARKS = (
    ".*does not have many workers.*",  # on a CPU they would fight with the compute threads
    ".*smaller than the logging interval.*",  # figures are logged once an epoch
    ".*isinstance.treespec, LeafSpec.*",  # inside Lightning
    ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
)


def first_process() -> bool:
    """Whether this process writes, logs and prints: the first of a run, or the only one."""
    return all(int(os.environ.get(name, "0")) == 0 for name in RANKS)


def started_outside() -> bool:
    """Whether Slurm's srun or torchrun started the processes, and Lightning must not."""
    return "SLURM_PROCID" in os.environ or "RANK" in os.environ


def slurm_step() -> str | None:
    """``slurm-<job>.<step>`` or ``torchrun-<id>.<port>``, the same in each task; otherwise None."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun-{TORCHELASTIC_RUN_ID}.{MASTER_PORT}".format(**os.environ)
    if int(os.environ.get("SLURM_NTASKS", "1")) == 1 or "SLURM_JOB_ID" not in os.environ:
        return None
    return f"slurm-{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_STEP_ID', '0')}"


def number_lines(run: int) -> None:
    """Say in every line on the terminal, which several runs may share, whose it is."""
    form = f"%(asctime)s %(levelname)s #{run} %(message)s"
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:  # a file is one too
            handler.setFormatter(logging.Formatter(form, "%H:%M:%S"))
    logging.getLogger("submitit").propagate = False  # has a log of its own; train.log is the run's


def quieten() -> None:
    """Silence libraries' remarks about our considered choices, and all processes but the first."""
    if not first_process():
        logging.disable(logging.ERROR)
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    for message in REMARKS:
        warnings.filterwarnings("ignore", message)
    warnings.formatwarning = lambda message, *_, **__: str(message)
