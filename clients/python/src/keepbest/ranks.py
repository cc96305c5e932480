"""Which rank of a launch this process is, for trainings whose ranks save one checkpoint together.

All ranks of a launch are one attempt of the run, and each start of the training is a new one that fences the last. The
server tells attempts apart by the launch's id, so that id must be the same on all ranks and new in each start. Few
launchers put such a value into the environment; where none does, rank 0 makes one and it travels to the others.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

# Where launchers put a process's rank and the number of ranks: torchrun and its kin, Open MPI, MPICH and Intel MPI.
# These come before Slurm's, because mpirun passes on the variables of the job that it runs in.
_PLACES = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)
# What srun tells its tasks. A batch script has SLURM_PROCID and SLURM_NTASKS too, but it is one process and no step.
_STEP = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")

_WHAT_TO_DO = (
    "Call torch.distributed.init_process_group() first: then rank 0 makes an id and the process group carries it. "
    "Without torch, pass broadcast=, for example mpi4py's `MPI.COMM_WORLD.bcast`; or let the script that starts all "
    "ranks set KEEPBEST_LAUNCH to a new text each time (`export KEEPBEST_LAUNCH=$(uuidgen)`)"
)


class Launch(TypedDict):
    """What `Client.start_run` has to know of a training of several ranks."""

    rank: int
    ranks: int
    launch: str | None


def launch_from_environment(
    environment: Mapping[str, str] | None = None, *, broadcast: Callable[[str], str] | None = None
) -> Launch:
    """This process's place in its launch: `start_run(..., **launch_from_environment())`, on every rank.

    Where torch.distributed has a process group, rank and ranks are the group's, and the launch is an id that rank 0
    makes and the group carries to the others (`broadcast_object_list`; with NCCL, call `torch.cuda.set_device` before).

    Else rank and ranks are RANK and WORLD_SIZE, or what mpirun (OMPI_COMM_WORLD_*, PMI_*) or srun (SLURM_*) says, or 0
    of 1; and the launch is

    - with `broadcast`, an id that rank 0 makes;
    - KEEPBEST_LAUNCH, which whatever starts the ranks has to make anew each time. Where torchrun runs on one node, the
      number of its restarts is added;
    - under srun, the job's id, the step's, and how often the job was requeued.

    torchrun's `--rdzv-id` names a job, not a start of it, and the count of restarts differs between nodes: over several
    nodes torchrun's environment names no launch.

    Args:
        environment: names and values, to be read instead of the process's; the process group is not looked at then.
        broadcast: returns on every rank what rank 0 passed to it, for example `MPI.COMM_WORLD.bcast`.

    Raises:
        ValueError: there are several ranks, but nothing is new in each start of them; the text says what to pass. Or a
            rank is no number.
    """
    group = _torch_group() if environment is None else None
    found = os.environ if environment is None else environment
    rank, ranks = _place(found) if group is None else (group.get_rank(), group.get_world_size())
    if ranks == 1:  # nobody to agree with: `start_run` makes an id
        return Launch(rank=rank, ranks=ranks, launch=None)
    if broadcast is None and group is not None:
        broadcast = _broadcast_of(group)
    if broadcast is None:
        return Launch(rank=rank, ranks=ranks, launch=_launch(found, rank, ranks))
    return Launch(rank=rank, ranks=ranks, launch=broadcast(str(uuid.uuid4()) if rank == 0 else ""))


def _torch_group() -> Any:
    """`torch.distributed`, if the process has imported it and joined a process group of several ranks."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed if distributed.get_world_size() > 1 else None


def _broadcast_of(group: Any) -> Callable[[str], str]:
    def broadcast(text: str) -> str:
        texts = [text]
        group.broadcast_object_list(texts, src=0)
        return texts[0]

    return broadcast


def _place(found: Mapping[str, str]) -> tuple[int, int]:
    for rank_name, ranks_name in _PLACES:
        if rank_name in found and ranks_name in found:
            return _number(found, rank_name), _number(found, ranks_name)
    if all(name in found for name in _STEP):
        return _number(found, "SLURM_PROCID"), _number(found, "SLURM_STEP_NUM_TASKS")
    return 0, 1


def _launch(found: Mapping[str, str], rank: int, ranks: int) -> str:
    """The launch's id, from the environment alone."""
    launch = found.get("KEEPBEST_LAUNCH")
    if "TORCHELASTIC_RUN_ID" in found:
        # An agent starts its workers anew with the environment that it was given itself. It counts the restarts that
        # its own workers caused, so the count is new in each start only where there is one agent.
        if found.get("GROUP_WORLD_SIZE", "1") != "1":
            raise ValueError(
                f"{ranks} ranks on {found['GROUP_WORLD_SIZE']} nodes, but torchrun tells them nothing that is the same "
                f"on all of them and new in each start. {_WHAT_TO_DO}; torchrun over several nodes needs one of the "
                "first two"
            )
        if launch:
            return f"{launch}-{found.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    elif launch:
        return launch
    elif _is_task(found, rank, ranks):
        restarts = found.get("SLURM_RESTART_COUNT", "0")
        return f"slurm-{found['SLURM_JOB_ID']}-{found['SLURM_STEP_ID']}-{restarts}"
    raise ValueError(
        f"{ranks} ranks, but nothing in the environment is the same on all of them and new in each start. {_WHAT_TO_DO}"
    )


def _is_task(found: Mapping[str, str], rank: int, ranks: int) -> bool:
    """Whether srun started the ranks itself: then there is a new step for each start of them."""
    place = (found.get("SLURM_PROCID"), found.get("SLURM_STEP_NUM_TASKS"))
    return all(name in found for name in _STEP) and place == (str(rank), str(ranks))


def _number(found: Mapping[str, str], name: str) -> int:
    try:
        return int(found[name])
    except ValueError:
        raise ValueError(f"the environment's {name} is `{found[name]}`, which is no number") from None
