"""Several ranks save one checkpoint: real processes against the real server."""

from __future__ import annotations

import functools
import multiprocessing
import os
import queue
import sys
import threading
import types
from concurrent import futures
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from conftest import Server

import keepbest
from keepbest.ranks import training_rank

RANKS = 4
RULE = {"filepath": "m-{epoch}", "save_best_only": True}
# Epochs, and the values that rank 0 reports for them. The second is no improvement.
VALUES = [(0, 0.5), (1, 0.6), (2, 0.4)]
_PROCESSES = multiprocessing.get_context("spawn")


def train(
    address: str,
    project: str,
    launch: str,
    rank: int,
    folder: Path,
    dying: int | None,
    ready: Barrier,
    told: Connection,
) -> None:
    """Train as one rank. Sends to `told` the names of its versions; or its error's reason and missing parts."""
    client = keepbest.Client(address, timeout=60)
    run = client.start_run(project, "r", RULE, rank=rank, ranks=RANKS, launch=launch)
    saved = []
    for epoch, value in VALUES:
        decision = run.report_epoch(epoch, {"val_loss": value} if rank == 0 else {})
        assert decision is not None
        if decision.action != keepbest.SAVE:
            continue
        shard = folder / f"shard-{rank}"
        shard.write_text(f"{launch} {epoch} {rank}")
        ready.wait()
        if rank == dying:
            os._exit(9)
        try:
            saved.append(run.save(decision, shard, {"by": rank}).name)
        except keepbest.FailedPrecondition as error:
            told.send((error.reason, error.metadata.get("missing_parts")))
            return
    run.finish()
    told.send(saved)


def launch_all(server: Server, project: str, launch: str, folder: Path, dying: int | None = None) -> list[Any]:
    """Run all ranks of a launch. Returns what each sent; None for one that died."""
    folder.mkdir(exist_ok=True)
    ready, ends, ranks = _PROCESSES.Barrier(RANKS), [], []
    for rank in range(RANKS):
        end, told = _PROCESSES.Pipe(duplex=False)
        arguments = (server.address, project, launch, rank, folder, dying, ready, told)
        process = _PROCESSES.Process(target=train, args=arguments)
        process.start()
        told.close()  # so that reading from a rank that died raises EOFError
        ends.append(end)
        ranks.append(process)
    answers = []
    for end in ends:
        try:
            answers.append(end.recv())
        except EOFError:
            answers.append(None)
    for process in ranks:
        process.join()
    return answers


def test_four_processes_make_one_version_of_each_save(client, server: Server, project, tmp_path):
    answers = launch_all(server, project, "job-1", tmp_path / "files")
    names = [f"teams/tests/projects/{project.split('/')[1]}/artifacts/run-r-model/versions/v{n}" for n in (0, 1)]
    assert answers == [names] * RANKS
    version = client.pull(f"{project}/run-r-model:best", tmp_path / "pulled")
    assert (version.name, version.file_count, version.epoch) == (names[1], RANKS, 2)
    assert version.metadata["by"] == 0
    for rank in range(RANKS):
        assert (tmp_path / "pulled" / f"shard-{rank}").read_text() == f"job-1 2 {rank}"
    run = client.run(version.run)
    assert (run.attempt, run.event_count, run.state) == (1, 3, keepbest.types.RunState.RUN_STATE_FINISHED)


def test_a_rank_that_dies_is_named_to_the_others_and_the_next_attempt_saves(tmp_path, project):
    # Longer than four processes take to save after they left a barrier together.
    server = Server(tmp_path / "data", {"KEEPBEST_COLLECTOR_PARTS_EXPIRY_SECONDS": "6"})
    server.start()
    try:
        expired = ("PARTS_EXPIRED", "3")
        assert launch_all(server, project, "job-1", tmp_path / "files", dying=3) == [expired, expired, expired, None]
        client = keepbest.Client(server.address, timeout=30)
        with pytest.raises(keepbest.NotFound):
            client.version(f"{project}/run-r-model:latest")
        answers = launch_all(server, project, "job-1-restarted", tmp_path / "files")
        assert [len(names) for names in answers] == [2] * RANKS
        assert answers[0][0].endswith("/v0"), "no number was lost"
    finally:
        server.stop()


def test_a_rank_whose_save_fails_ends_it_for_the_others(client, project, tmp_path):
    runs = [client.start_run(project, "r", RULE, rank=rank, ranks=2, launch="job-1") for rank in (0, 1)]
    decision = runs[0].report_epoch(0, {"val_loss": 0.5})
    assert runs[1].report_epoch(0, {}) == decision
    (tmp_path / "shard-0").write_bytes(b"zero")
    errors = []

    def wait() -> None:
        try:
            runs[0].save(decision, tmp_path / "shard-0")
        except keepbest.FailedPrecondition as error:
            errors.append(error.reason)

    waiting = threading.Thread(target=wait)
    waiting.start()
    with pytest.raises(FileNotFoundError):
        runs[1].save(decision, tmp_path / "shard-1")
    waiting.join()
    assert errors == ["CHECKPOINT_DELETED"]


def test_a_rank_may_have_no_files_and_its_end_is_not_the_runs(client, project, tmp_path):
    runs = [client.start_run(project, "r", RULE, rank=rank, ranks=2, launch="job-1") for rank in (0, 1)]
    assert [run.attempt for run in runs] == [1, 1]
    decision = runs[0].report_epoch(0, {"val_loss": 0.5})
    (tmp_path / "model").write_bytes(b"model")
    with pytest.raises(ValueError, match="no file"):
        client.start_run(project, "alone", RULE).save(decision, None)
    decision = runs[0].report_epoch(1, {"val_loss": 0.4})
    saving = threading.Thread(target=lambda: runs[1].save(decision, None))
    saving.start()
    assert runs[0].save(decision, tmp_path / "model").file_count == 1
    saving.join()
    with runs[1]:
        pass
    assert client.run(runs[0].name).state == keepbest.types.RunState.RUN_STATE_ACTIVE


def test_each_rank_can_repeat_its_save(client, project, tmp_path):
    runs = [client.start_run(project, "r", RULE, rank=rank, ranks=2, launch="job-1") for rank in (0, 1)]
    decision = runs[0].report_epoch(0, {"val_loss": 0.5})
    for rank in (0, 1):
        (tmp_path / f"shard-{rank}").write_bytes(b"%d" % rank)

    def save(rank: int) -> str:
        return runs[rank].save(decision, tmp_path / f"shard-{rank}").name

    with futures.ThreadPoolExecutor() as ranks:
        names = {*ranks.map(save, (0, 1))}
    assert len(names) == 1
    assert {save(0), save(1), save(0)} == names
    (tmp_path / "shard-1").write_bytes(b"other")
    with pytest.raises(keepbest.FileChanged, match="a file that changed needs a new save"):
        save(1)


def test_ranks_follow_saves_by_batches(client, project, tmp_path):
    rule = {"filepath": "m-{epoch}-{batch}", "save_freq": 2}
    runs = [client.start_run(project, "r", rule, rank=rank, ranks=2, launch="job-1") for rank in (0, 1)]
    seen = [[], []]
    for batch in range(5):
        for rank in (0, 1):
            decision = runs[rank].report_batch(0, batch, {"loss": 1.0} if rank == 0 else {})
            seen[rank].append(decision.checkpoint if decision is not None else None)
    assert seen[0] == seen[1]
    assert [checkpoint is not None for checkpoint in seen[0]] == [False, True, False, True, False]


def test_several_ranks_need_a_launch_and_a_place_in_it(client, project):
    with pytest.raises(ValueError, match="launch"):
        client.start_run(project, "r", RULE, rank=1, ranks=2)
    for rank, ranks in [(2, 2), (-1, 2), (0, 0)]:
        with pytest.raises(ValueError, match="count from 0"):
            client.start_run(project, "r", RULE, rank=rank, ranks=ranks, launch="job-1")


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "a", "TORCHELASTIC_RESTART_COUNT": "0"}
SRUN = {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "3", "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1, None)),
        ({"RANK": "3", "WORLD_SIZE": "8", "KEEPBEST_LAUNCH": "mine"}, (3, 8, "mine")),
        ({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8", "KEEPBEST_LAUNCH": "mine"}, (3, 8, "mine")),
        ({"PMI_RANK": "3", "PMI_SIZE": "8", "KEEPBEST_LAUNCH": "mine"}, (3, 8, "mine")),
        ({**TORCHRUN, "KEEPBEST_LAUNCH": "mine"}, (1, 2, "mine-0")),
        ({**TORCHRUN, "KEEPBEST_LAUNCH": "mine", "TORCHELASTIC_RESTART_COUNT": "4"}, (1, 2, "mine-4")),
        (SRUN, (5, 6, "slurm-77-3-0")),
        ({**SRUN, "SLURM_RESTART_COUNT": "2", "RANK": "5", "WORLD_SIZE": "6"}, (5, 6, "slurm-77-3-2")),
        ({**SRUN, "KEEPBEST_LAUNCH": "mine"}, (5, 6, "mine")),
        # A batch script is one process, however many tasks its steps have.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "6", "SLURM_JOB_ID": "77"}, (0, 1, None)),
        # A single rank needs no id, and one that stays the same would put it into the attempt of its last start.
        ({"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "a", "KEEPBEST_LAUNCH": "mine"}, (0, 1, None)),
    ],
)
def test_launchers_tell_rank_and_launch(environment, expected):
    found = keepbest.launch_from_environment(environment)
    assert (found["rank"], found["ranks"], found["launch"]) == expected


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "0", "WORLD_SIZE": "2"},
        # --rdzv-id alone, which is the same in each start.
        TORCHRUN,
        # With several nodes, a restart is counted only on the node that caused it.
        {**TORCHRUN, "KEEPBEST_LAUNCH": "mine", "GROUP_WORLD_SIZE": "2"},
        # torchrun in a step of Slurm: if a loop starts it again, the step is the same.
        {**SRUN, **TORCHRUN},
        # mpirun in a job of Slurm: on other nodes it starts ranks through a step of its own.
        {**SRUN, "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "24"},
    ],
)
def test_what_is_not_new_in_each_start_names_no_launch(environment):
    with pytest.raises(ValueError, match=r"new in each start.*init_process_group.*broadcast=.*KEEPBEST_LAUNCH"):
        keepbest.launch_from_environment(environment)


def test_an_empty_launch_is_named():
    with pytest.raises(ValueError, match="8 ranks, but KEEPBEST_LAUNCH is empty, and nothing in the environment"):
        keepbest.launch_from_environment({"RANK": "3", "WORLD_SIZE": "8", "KEEPBEST_LAUNCH": ""})


@pytest.mark.parametrize(
    ("environment", "told", "place"),
    [
        # What srun sets in each task where pmi2 is its default.
        ({**SRUN, "PMI_RANK": "5", "PMI_SIZE": "6"}, False, (0, 1)),
        ({**SRUN, "PMI_RANK": "5", "PMI_SIZE": "6"}, True, (5, 6)),
        # mpirun, in a job of Slurm and in one of its steps.
        ({"SLURM_JOB_ID": "77", "SLURM_PROCID": "0", "PMI_RANK": "5", "PMI_SIZE": "6"}, False, (5, 6)),
        ({**SRUN, "PMI_RANK": "7", "PMI_SIZE": "24"}, False, (7, 24)),
        ({"PMI_RANK": "5", "PMI_SIZE": "6"}, False, (5, 6)),
    ],
)
def test_tasks_of_srun_without_a_name_train_alone_whatever_it_calls_them(monkeypatch, environment, told, place):
    for name in ("RANK", "WORLD_SIZE", *SRUN):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert training_rank(told=told)[:2] == place


def test_a_rank_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="no number"):
        keepbest.launch_from_environment({"RANK": "x", "WORLD_SIZE": "2"})


class Wire:
    """Carries a text from rank 0 to the other rank, like a process group or an MPI communicator."""

    def __init__(self) -> None:
        self._said: queue.Queue[str] = queue.Queue()

    def broadcast(self, rank: int, text: str) -> str:
        if rank != 0:
            return self._said.get()
        self._said.put(text)
        return text


def test_two_starts_with_one_rendezvous_id_are_two_attempts(client, project):
    def start() -> list[int]:
        """Start two ranks in torchrun's environment; the attempts that they get."""
        wire, runs = Wire(), []
        for rank in (0, 1):
            environment = {**TORCHRUN, "RANK": str(rank)}
            launch = keepbest.launch_from_environment(environment, broadcast=functools.partial(wire.broadcast, rank))
            runs.append(client.start_run(project, "r", RULE, **launch))
        return [run.attempt for run in runs]

    assert [start(), start()] == [[1, 1], [2, 2]]


def test_a_process_group_of_torch_carries_the_id(monkeypatch):
    """A module with the five functions that are called stands in for torch.distributed, which takes 2.5 GB."""
    wire = Wire()

    def module(rank: int) -> types.ModuleType:
        def broadcast_object_list(texts: list[str], src: int) -> None:
            assert src == 0
            texts[0] = wire.broadcast(rank, texts[0])

        made = types.ModuleType("torch.distributed")
        made.is_available = made.is_initialized = lambda: True
        made.get_rank, made.get_world_size = lambda: rank, lambda: 2
        made.broadcast_object_list = broadcast_object_list
        return made

    # torchrun on two nodes, whose environment alone is not enough.
    for name, value in {**TORCHRUN, "GROUP_WORLD_SIZE": "2", "KEEPBEST_LAUNCH": "old"}.items():
        monkeypatch.setenv(name, value)
    launches = []
    for rank in (0, 1, 0, 1):
        monkeypatch.setitem(sys.modules, "torch.distributed", module(rank))
        launches.append(keepbest.launch_from_environment())
    assert [launch["rank"] for launch in launches] == [0, 1, 0, 1]
    first, also_first, second, also_second = (launch["launch"] for launch in launches)
    assert first == also_first and second == also_second
    assert len({first, second, "old"}) == 3
