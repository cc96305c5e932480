"""Which rank of a launch this process is, for trainings whose ranks save one checkpoint together.

All ranks of a launch are one attempt of the run, and each start of the training is a new attempt. The server tells them
apart by the launch's id, which must therefore be the same on all ranks and new in each start. Few launchers put such a
value into the environment. Where none does, rank 0 makes one and sends it to the others.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from keepbest._tell import tell

# Rank and number of ranks: of torchrun and its kin, of Open MPI, and of MPICH and Intel MPI. They count more than
# Slurm's, because mpirun passes the variables of its own job on to all ranks.
_PLACES = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)
# What srun sets for its tasks. SLURM_PROCID and SLURM_NTASKS are set in a batch script as well, which is no task.
_STEP = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")

_WHAT_TO_DO = (
    "Call torch.distributed.init_process_group() first: then rank 0 makes an id and the process group carries it. "
    "Without torch, pass broadcast=, for example mpi4py's `MPI.COMM_WORLD.bcast`; or let the script that starts all "
    "ranks set KEEPBEST_LAUNCH to a new text each time (`export KEEPBEST_LAUNCH=$(uuidgen)`)"
)


class Launch(TypedDict):
    """The arguments of `Client.start_run` that say which rank of a training this is."""

    rank: int
    ranks: int
    launch: str | None


def launch_from_environment(
    environment: Mapping[str, str] | None = None, *, broadcast: Callable[[str], str] | None = None
) -> Launch:
    """Find this process's place in its launch. On every rank: `start_run(..., **launch_from_environment())`.

    If torch.distributed has a process group, rank and ranks are the group's. Rank 0 makes the launch's id, and the
    group carries it to the others: this is a collective call (`broadcast_object_list`; with NCCL, call
    `torch.cuda.set_device` before).

    Else rank and ranks are RANK and WORLD_SIZE, or those of mpirun (OMPI_COMM_WORLD_*, PMI_*) or srun (SLURM_*), or 0
    of 1. The launch's id is

    - with `broadcast`, one that rank 0 makes;
    - KEEPBEST_LAUNCH, to which whatever starts the ranks must give a new value each time. Under torchrun on one node
      the number of its restarts is appended;
    - under srun, made of the ids of job and step and of how often the job was requeued.

    Under torchrun on several nodes the environment is not enough: `--rdzv-id` stays the same from start to start, and
    the count of restarts differs between the nodes.

    Args:
        environment: to be read instead of the process's environment. The process group is ignored then.
        broadcast: called on every rank; returns what rank 0 passed to it. For example `MPI.COMM_WORLD.bcast`.

    Raises:
        ValueError: there are several ranks, but nothing that is new in each start of them; the text says what to do.
            Or a rank is not a number.
    """
    group = _torch_group() if environment is None else None
    found = os.environ if environment is None else environment
    rank, ranks = _place(found) if group is None else (group.get_rank(), group.get_world_size())
    if ranks == 1:  # there is nobody to agree with, so `start_run` makes an id
        return Launch(rank=rank, ranks=ranks, launch=None)
    if broadcast is None and group is not None:
        broadcast = _broadcast_of(group)
    if broadcast is None:
        return Launch(rank=rank, ranks=ranks, launch=_launch(found, rank, ranks))
    return Launch(rank=rank, ranks=ranks, launch=broadcast(str(uuid.uuid4()) if rank == 0 else ""))


def training_rank(*, told: bool) -> tuple[int, int, str]:
    """Which rank of how many this process is in a training whose ranks hold the same model; and how that is known.

    Nothing is raised, and no framework is imported: a process of which nothing is known trains alone, as 0 of 1.

    Args:
        told: whether all processes were given the name of one run. Slurm also starts trainings side by side that have
            nothing to do with each other, so its tasks count as ranks of one training only then, also where srun
            numbers them by PMI_RANK.
    """
    group = _torch_group()
    if group is not None:
        return group.get_rank(), group.get_world_size(), "torch.distributed"
    jax = sys.modules.get("jax")
    started = getattr(getattr(jax, "distributed", None), "is_initialized", None)
    if jax is not None and started is not None and started():
        return jax.process_index(), jax.process_count(), "jax.distributed"
    try:
        return _training_place(os.environ, told)
    except ValueError as error:
        tell(f"Keepbest: {error}; this process saves as if it trained alone")
        return 0, 1, ""


def _training_place(found: Mapping[str, str], told: bool) -> tuple[int, int, str]:
    for names in (*_PLACES, ("HOROVOD_RANK", "HOROVOD_SIZE")):
        if all(name in found for name in names):
            rank, ranks = _number(found, names[0]), _number(found, names[1])
            # Where pmi2 is Slurm's default, srun sets PMI_RANK in each of its tasks.
            if told or names[0] != "PMI_RANK" or not _is_task(found, rank, ranks):
                return rank, ranks, f"the environment's {names[0]}"
    if found.get("TF_CONFIG"):
        rank, ranks = _tensorflow_place(found["TF_CONFIG"])
        return rank, ranks, "the environment's TF_CONFIG"
    if told and all(name in found for name in _STEP):
        return _number(found, _STEP[2]), _number(found, _STEP[3]), f"the environment's {_STEP[2]}"
    return 0, 1, ""


def _tensorflow_place(text: str) -> tuple[int, int]:
    """Rank and number of those that train: the chief, then the workers."""
    try:
        config = json.loads(text)
        cluster, task = config.get("cluster", {}), config.get("task", {})
        sizes = {kind: len(cluster.get(kind, [])) for kind in ("chief", "master", "worker")}
        kind, index = task.get("type", ""), int(task.get("index", 0))
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"the environment's TF_CONFIG is `{text:.80}`, which names no cluster and task") from None
    if kind not in sizes:
        return 0, 1
    before = sum(sizes[other] for other in list(sizes)[: list(sizes).index(kind)])
    return before + index, max(sum(sizes.values()), 1)


def _torch_group() -> Any:
    """The module torch.distributed, if this process has joined a process group of several ranks."""
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
    """The launch's id, as far as the environment alone can tell."""
    launch = found.get("KEEPBEST_LAUNCH")
    if "TORCHELASTIC_RUN_ID" in found:
        # One agent for each node starts the workers, with its own environment, which a restart does not change. It
        # counts only the restarts that its own workers caused, so with several agents the counts differ.
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
    empty = "KEEPBEST_LAUNCH is empty, and " if launch == "" else ""
    raise ValueError(
        f"{ranks} ranks, but {empty}nothing in the environment is the same on all of them and new in each start. "
        f"{_WHAT_TO_DO}"
    )


def _is_task(found: Mapping[str, str], rank: int, ranks: int) -> bool:
    """Whether the ranks are the tasks of one srun, which is a new step in each start."""
    place = (found.get("SLURM_PROCID"), found.get("SLURM_STEP_NUM_TASKS"))
    return all(name in found for name in _STEP) and place == (str(rank), str(ranks))


def _number(found: Mapping[str, str], name: str) -> int:
    try:
        return int(found[name])
    except ValueError:
        raise ValueError(f"the environment's {name} is `{found[name]}`, which is no number") from None
