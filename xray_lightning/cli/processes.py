"""What the environment says about the processes of a run, before anything heavy is loaded."""

import os

RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")  # torchrun, Slurm, Lightning, by hand


def first_process() -> bool:
    """Whether this process writes, logs and prints: the first of a run, or the only one."""
    return all(int(os.environ.get(name, "0")) == 0 for name in RANKS)


def started_outside() -> bool:
    """Whether Slurm's srun or torchrun started the processes, and Lightning must not."""
    return "SLURM_PROCID" in os.environ or "RANK" in os.environ


def slurm_step() -> str | None:
    """``slurm-<job>.<step>`` in a job step of several tasks, the same in each; otherwise None."""
    if int(os.environ.get("SLURM_NTASKS", "1")) == 1 or "SLURM_JOB_ID" not in os.environ:
        return None
    return f"slurm-{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_STEP_ID', '0')}"
