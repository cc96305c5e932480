"""The same faults for the trainers of all languages: each strikes all of them in the middle of an upload."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time

import grpc
from conftest import PROGRAMS, Server, build
from gate import Gate

from keepbest._proto.keepbest.v1 import (
    artifacts_pb2,
    artifacts_pb2_grpc,
    checkpoints_pb2,
    checkpoints_pb2_grpc,
    resources_pb2,
    runs_pb2,
    runs_pb2_grpc,
)

_PROJECT = "teams/demo/projects/languages"
# The server is killed in the first upload, frozen in the second, and restarted in the last. In the third the trainer is
# killed; its next life begins that upload anew, as the fourth.
_SERVER_KILLED, _SERVER_FROZEN, _TRAINER_KILLED, _SERVER_RESTARTED = 0, 1, 2, 4
_FREEZE_SECONDS = 40
# A trainer gives up after 5 minutes without the server.
_PATIENCE_SECONDS = 420


class Trainer:
    """The complete program of a language, with a gate before the server."""

    def __init__(self, language: str, server: Server) -> None:
        self.language = language
        self.folder = server.folder / language
        self.folder.mkdir()
        self.run = f"{_PROJECT}/runs/{language}"
        self.gate = Gate(server.port, {_SERVER_KILLED, _SERVER_FROZEN, _TRAINER_KILLED, _SERVER_RESTARTED})
        self.start()

    def start(self) -> None:
        _, complete, form = PROGRAMS[self.language]
        with (self.folder / "out").open("a") as out, (self.folder / "err").open("a") as errors:
            self.process = subprocess.Popen(
                [*complete, form.format(f"127.0.0.1:{self.gate.port}"), self.language, str(self.folder)],
                stdout=out,
                stderr=errors,
                # A shell's trainer is many processes.
                start_new_session=True,
            )

    def told(self) -> str:
        return f"{self.language}: {(self.folder / 'out').read_text()}{(self.folder / 'err').read_text()}"

    def until_within_upload(self) -> None:
        end = time.monotonic() + _PATIENCE_SECONDS
        while not self.gate.closed.wait(timeout=1):
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.told()}"
            assert time.monotonic() < end, f"it came to no upload: {self.told()}"

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _within_upload(server: Server, trainers: list[Trainer]) -> None:
    """Wait until all are in the middle of an upload: by the server's own word."""
    for trainer in trainers:
        trainer.until_within_upload()
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        runs, checkpoints = runs_pb2_grpc.RunsStub(channel), checkpoints_pb2_grpc.CheckpointsStub(channel)
        for trainer in trainers:
            run = runs.GetRun(runs_pb2.GetRunRequest(name=trainer.run), timeout=60)
            (name,) = run.monitor_state.in_flight
            checkpoint = checkpoints.GetCheckpoint(checkpoints_pb2.GetCheckpointRequest(name=name), timeout=60)
            (file,) = checkpoint.files
            assert file.state == resources_pb2.FILE_STATE_OPEN and file.durable_bytes < file.size_bytes, (
                trainer.language
            )


def _open(trainers: list[Trainer]) -> None:
    for trainer in trainers:
        trainer.gate.open()


def _play(server: Server, trainers: list[Trainer]) -> None:
    _within_upload(server, trainers)
    server.end(signal.SIGKILL)
    server.start()
    _open(trainers)

    _within_upload(server, trainers)
    server.process.send_signal(signal.SIGSTOP)
    # The fault itself, not a wait for something.
    time.sleep(_FREEZE_SECONDS)
    server.process.send_signal(signal.SIGCONT)
    _open(trainers)

    _within_upload(server, trainers)
    for trainer in trainers:
        trainer.kill()
        trainer.gate.open()
        trainer.start()

    _within_upload(server, trainers)
    server.process.terminate()
    _open(trainers)
    server.process.wait(timeout=_PATIENCE_SECONDS)
    server.start()
    for trainer in trainers:
        assert trainer.process.wait(timeout=_PATIENCE_SECONDS) == 0, trainer.told()


def _check(server: Server, trainer: Trainer) -> None:
    """What it was told is there: each epoch that was better, once, and the best of them is what it had last."""
    artifact = f"{_PROJECT}/artifacts/run-{trainer.language}-model"
    weights = (trainer.folder / "model.bin").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    out = (trainer.folder / "out").read_text()
    assert f"resume from {artifact}/versions/v1\n" in out, trainer.told()
    assert out.endswith(f"best {artifact}/versions/v3 {digest}\n"), trainer.told()
    for epoch, number in [(0, 0), (1, 1), (3, 2), (4, 3)]:
        assert f"epoch {epoch} saved as {artifact}/versions/v{number}\n" in out, trainer.told()
    assert (trainer.folder / "best.bin").read_bytes() == weights, trainer.language
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        artifacts, runs = artifacts_pb2_grpc.ArtifactsStub(channel), runs_pb2_grpc.RunsStub(channel)
        versions = artifacts.ListVersions(artifacts_pb2.ListVersionsRequest(parent=artifact), timeout=60).versions
        assert [(it.number, it.epoch, it.attempt) for it in versions] == [(3, 4, 2), (2, 3, 2), (1, 1, 1), (0, 0, 1)]
        run = runs.GetRun(runs_pb2.GetRunRequest(name=trainer.run), timeout=60)
        assert run.state == resources_pb2.RUN_STATE_FINISHED
        # Epochs 0 to 3 of the first life, 2 to 4 of the second: each reported once, however often it was sent.
        events = runs.ListEvents(runs_pb2.ListEventsRequest(parent=trainer.run), timeout=60).events
        assert [(it.attempt, it.event.epoch) for it in events] == [
            (1, 0),
            (1, 1),
            (1, 2),
            (1, 3),
            (2, 2),
            (2, 3),
            (2, 4),
        ]


def test_trainers_of_all_languages_live_through_the_same_faults(server: Server) -> None:
    for language in PROGRAMS:
        build(language)
    trainers = [Trainer(language, server) for language in PROGRAMS]
    try:
        _play(server, trainers)
        for trainer in trainers:
            _check(server, trainer)
    finally:
        for trainer in trainers:
            if trainer.process.poll() is None:
                trainer.kill()
            trainer.gate.stop()
    server.end(signal.SIGTERM)
    data = server.folder / "data"
    done = subprocess.run(
        [os.environ["KEEPBEST_BIN"], "check", "--read-data", "--data", str(data)],
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
