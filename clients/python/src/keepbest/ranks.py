"""Which rank of a launch this process is, for trainings whose ranks save one checkpoint together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypedDict


class Launch(TypedDict):
    """What `Client.start_run` wants to know of a training of several ranks."""

    rank: int
    ranks: int
    launch: str | None


def launch_from_environment(environment: Mapping[str, str] | None = None) -> Launch:
    """This process's place in its launch: `start_run(..., **launch_from_environment())`.

    Rank and ranks are RANK and WORLD_SIZE (torchrun and its kin), else SLURM_PROCID and SLURM_NTASKS, else 0 of 1. The
    launch is KEEPBEST_LAUNCH, else torchrun's id of the run with its restarts, else SLURM's job, step and restarts. It
    must be the same on all ranks and new in each start of the training: set KEEPBEST_LAUNCH where it is not.

    Args:
        environment: names and values; None: the process's.

    Raises:
        ValueError: there are several ranks, but nothing tells one launch from the next; or a number is none.
    """
    found = os.environ if environment is None else environment
    for rank_name, ranks_name in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank_name in found and ranks_name in found:
            rank, ranks = _number(found, rank_name), _number(found, ranks_name)
            break
    else:
        rank, ranks = 0, 1
    launch = _launch(found)
    if ranks > 1 and launch is None:
        raise ValueError(
            f"{ranks} ranks, but nothing names their launch: set KEEPBEST_LAUNCH to the same text on all ranks, a new "
            "one in each start (`torchrun --rdzv-id` does it too)"
        )
    return Launch(rank=rank, ranks=ranks, launch=launch)


def _launch(found: Mapping[str, str]) -> str | None:
    if launch := found.get("KEEPBEST_LAUNCH"):
        return launch
    restarts = found.get("TORCHELASTIC_RESTART_COUNT", "0")
    run = found.get("TORCHELASTIC_RUN_ID", "none")
    if run != "none":  # what torchrun calls every run that was given no id
        return f"torch-{run}-{restarts}"
    if job := found.get("SLURM_JOB_ID"):
        return f"slurm-{job}-{found.get('SLURM_STEP_ID', '0')}-{found.get('SLURM_RESTART_COUNT', '0')}-{restarts}"
    return None


def _number(found: Mapping[str, str], name: str) -> int:
    try:
        return int(found[name])
    except ValueError:
        raise ValueError(f"the environment's {name} is `{found[name]}`, which is no number") from None
