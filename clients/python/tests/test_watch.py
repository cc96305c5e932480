"""Watching versions from Python: each once and in order, also across a server that is killed."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from conftest import Server

import keepbest

RULE = keepbest.strategy("m.bin", monitor="loss", mode="min")


class Training:
    """A run that saves every epoch."""

    def __init__(self, client: keepbest.Client, project: str, name: str, folder: Path) -> None:
        self._run = client.start_run(project, name, RULE)
        self._path = folder / "m.bin"
        self._epoch = 0

    def save(self, loss: float) -> None:
        self._path.write_bytes(f"{loss}".encode())
        self._run.save(self._run.report_epoch(self._epoch, {"loss": loss}), self._path)
        self._epoch += 1


def test_versions_come_in_order_and_a_watch_goes_on_behind_a_cursor(
    client: keepbest.Client, project: str, tmp_path: Path
) -> None:
    training = Training(client, project, "r", tmp_path)
    for loss in (0.5, 0.7, 0.3):
        training.save(loss)
    seen = list(islice(client.watch(project, from_start=True), 3))
    assert [(it.version.number, it.is_best) for it in seen] == [(0, True), (1, False), (2, True)]
    later = client.watch(project, cursor=seen[0].cursor)
    assert [it.version.number for it in islice(later, 2)] == [1, 2]
    best = client.watch(f"{project}/run-r-model", best_only=True, from_start=True)
    assert [it.version.number for it in islice(best, 2)] == [0, 2]
    training.save(0.1)
    assert next(later).version.metrics["loss"] == 0.1
    assert next(best).version.number == 3


def test_a_watch_outlives_a_server_that_is_killed(own_server: Server, tmp_path: Path) -> None:
    server = own_server
    client = keepbest.Client(server.address, timeout=60)
    training = Training(client, "a/b", "r", tmp_path)
    training.save(0.5)
    watch = client.watch("a/b", from_start=True)
    assert next(watch).version.number == 0
    server.kill()
    server.start()
    training.save(0.4)
    assert next(watch).version.number == 1


def test_what_cannot_pass_is_raised(client: keepbest.Client, project: str) -> None:
    with pytest.raises(keepbest.InvalidArgument) as error:
        next(client.watch(project, cursor="x"))
    assert error.value.reason == "BAD_CURSOR"
    with pytest.raises(keepbest.NotFound):
        next(client.watch(f"{project}/none"))
