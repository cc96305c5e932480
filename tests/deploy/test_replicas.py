"""Three replicas on Postgres and S3 behind the load balancer of deploy/, and the runbook's backup of them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from backends import S3, Balancer, Postgres, migrated
from conftest import DEPLOY, Server, doomed_chunks, keepbest, runbook, until

_MIB = 1 << 20


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.end()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    server = S3(tmp_path_factory.mktemp("s3") / "data")
    yield server
    server.end()


class Service:
    """What a test starts: replicas with the settings of deploy/, and the balancer before them."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.settings = settings
        self._folder = folder
        self.replicas: list[Server] = []
        migrated(settings)
        for number in range(3):
            self.replicas.append(Server(folder / f"replica-{number}.log", settings))
        self.balancer = Balancer(folder / "balancer", [it.port for it in self.replicas])
        until("all replicas are ready", lambda: len(self.balancer.healthy()) == 3)

    def push(self, name: str, size: int) -> None:
        path = self._folder / name
        path.write_bytes(os.urandom(size))
        keepbest("push", path, name, "--server", self.balancer.url)

    def pulled(self, version: str) -> bytes:
        target = self._folder / f"pulled-{version.replace(':', '-')}"
        keepbest("pull", version, target, "--server", self.balancer.url)
        [path] = [it for it in target.rglob("*") if it.is_file()]
        return path.read_bytes()

    def sent(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def answered(self, method: str) -> list[int]:
        return [it.answered(method) for it in self.replicas]

    def problems(self) -> list[str]:
        return json.loads(keepbest("--json", "check", "--read-data", settings=self.settings))["problems"]

    def end(self) -> None:
        self.balancer.end()
        for replica in self.replicas:
            if replica.process.poll() is None:
                replica.process.kill()
                replica.process.wait()


@pytest.fixture
def service(tmp_path: Path, postgres: Postgres, s3: S3, request: pytest.FixtureRequest) -> Iterator[Service]:
    database = request.node.name[:60].lower()
    settings = s3.settings | {
        "KEEPBEST_CONFIG": str(DEPLOY / "config.replicas.toml"),
        "KEEPBEST_DATABASE_URL": postgres.create(database),
        "KEEPBEST_DATABASE_CONNECTIONS": "8",
        "KEEPBEST_STORE_URL": f"{s3.settings['KEEPBEST_STORE_URL']}/{database}",
    }
    started = Service(tmp_path, settings)
    yield started
    started.end()


def test_the_calls_of_one_connection_are_balanced_over_replicas(service: Service) -> None:
    # Each push is one process with one connection and six calls, one after the other. That sixty calls leave one
    # of three out by chance is one in ten thousand million.
    before, spread = [0, 0, 0], 0
    for number in range(10):
        service.push(f"small-{number}", 1000)
        after = service.answered("keepbest.v1.")
        spread += sum(now > then for now, then in zip(after, before, strict=True)) > 1
        before = after
        if all(after):
            break
    assert all(before), before
    assert spread > 0


def test_an_upload_flows_through_the_balancer_and_goes_on_when_its_replica_dies(service: Service, s3: S3) -> None:
    prepared = sum(service.answered("keepbest.v1.Checkpoints/PrepareFile"))
    size = 96 * _MIB
    with ThreadPoolExecutor() as pool:
        # The store stands still, so the upload is caught in the middle.
        s3.pause()
        try:
            upload = pool.submit(service.push, "large", size)
            until(
                "the file is declared", lambda: sum(service.answered("keepbest.v1.Checkpoints/PrepareFile")) > prepared
            )
            seen = [-1]

            def stalled() -> bool:
                seen.append(service.balancer.received_bytes())
                return seen[-1] > 8 * _MIB and len(seen) > 20 and seen[-1] == seen[-20]

            until("the sender is held back", stalled)
            # The replica's buffers and the windows: the balancer keeps no upload in its memory.
            assert seen[-1] < size // 2
            [port] = service.balancer.busy()
            victim = next(it for it in service.replicas if it.port == port)
            victim.stop(kill=True)
        finally:
            s3.go_on()
        upload.result(timeout=120)
    assert service.pulled("large:v0") == service.sent("large")
    until("the dead replica is known", lambda: len(service.balancer.healthy()) == 2)
    assert service.problems() == []


def test_calls_go_on_while_replicas_are_killed_and_stopped(service: Service) -> None:
    names = [f"model-{number}" for number in range(12)]
    killed, stopped, _ = service.replicas
    with ThreadPoolExecutor(4) as pool:
        pushes = [pool.submit(service.push, name, 100_000) for name in names]
        until("some are done", lambda: sum(it.done() for it in pushes) >= 3)
        killed.stop(kill=True)
        until("more are done", lambda: sum(it.done() for it in pushes) >= 7)
        stopped.stop()
        for push in pushes:
            push.result(timeout=120)
    for name in names:
        assert service.pulled(f"{name}:v0") == service.sent(name)
    assert service.problems() == []


def test_a_dump_finds_its_objects_in_a_store_that_went_on(service: Service, postgres: Postgres, tmp_path: Path) -> None:
    for name in ["kept", "deleted"]:
        service.push(name, 9 * _MIB)
    commands = {"PATH": f"{postgres.bin}:{Path(os.environ['KEEPBEST_BIN']).parent}:{os.environ['PATH']}"}
    backup = tmp_path / "dump"
    live = service.settings["KEEPBEST_DATABASE_URL"]
    runbook("backup-postgres", commands | {"DATABASE_URL": live, "BACKUP": str(backup)})
    # The service goes on: a commit, a deletion, and the collector.
    service.push("later", 9 * _MIB)
    keepbest("rm", "deleted:v0", "--server", service.balancer.url)
    assert doomed_chunks(service.settings) == 2
    for replica in service.replicas:
        replica.stop()

    service.settings["KEEPBEST_DATABASE_URL"] = restored = postgres.create("restored")
    runbook("restore-postgres", commands | service.settings | {"DATABASE_URL": restored, "BACKUP": str(backup)})
    assert service.problems() == []
    again = Server(tmp_path / "again.log", service.settings)
    service.replicas.append(again)
    for name in ["kept", "deleted"]:
        target = tmp_path / f"{name}-again"
        keepbest("pull", f"{name}:v0", target, "--server", again.url)
        [path] = [it for it in target.rglob("*") if it.is_file()]
        assert path.read_bytes() == service.sent(name)
    lost = subprocess.run(
        [os.environ["KEEPBEST_BIN"], "show", "later:v0", "--server", again.url], capture_output=True, check=False
    )
    assert lost.returncode == 3
