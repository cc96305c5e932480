"""A training without a server: what it keeps, and how that is brought in later."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import plain
import pytest
from conftest import Server, random_file

import keepbest
from keepbest import _local, _spool, _sync
from keepbest._events import DueCounter, EventBuffer, make_event
from keepbest._spool import Kept, Spool, moment, spools_in
from keepbest.client import start_request
from keepbest.keras import ModelCheckpoint
from keepbest.types import EventKind, RunState

NOBODY = "127.0.0.1:1"
X = np.ones((8, 4), "float32")
BEST = {"monitor": "val_loss", "mode": "min", "save_best_only": True}


class Losses(keras.callbacks.Callback):
    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self._losses = losses

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self._losses[epoch]


def fit(callback, losses: list[float], first: int = 0) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(X, X[:, :1], epochs=len(losses), initial_epoch=first, verbose=0, callbacks=[Losses(losses), callback])


@pytest.mark.filterwarnings("ignore:Keepbest")
def test_what_a_training_without_a_server_kept_is_taken_up_by_its_next_start(server: Server, client, project, tmp_path):
    arguments = {"filepath": str(tmp_path / "m-{epoch:02d}.keras"), "run": "r", "project": project, **BEST}
    fit(ModelCheckpoint(**arguments, server=NOBODY, retry_seconds=0.3), [0.5, 0.2, 0.4])
    assert len(spools_in(tmp_path)) == 1
    again = ModelCheckpoint(**arguments, server=server.address)
    assert again.initial_epoch() == 2  # after the best, whose weights are there
    assert not (tmp_path / "keepbest-held").exists() and (tmp_path / "m-02.keras").exists()
    fit(again, [0.5, 0.2, 0.4, 0.3, 0.1], first=2)
    versions = list(client.versions(f"{project}/run-r-model", order_by="number asc"))
    assert [(version.epoch, version.metrics["val_loss"]) for version in versions] == [(1, 0.2), (4, 0.1)]
    assert [it.event.epoch for it in client.events(versions[0].run) if it.event.kind == 2] == [0, 1, 2, 2, 3, 4]


@pytest.mark.filterwarnings("ignore:Keepbest")
def test_the_spool_of_an_earlier_training_keeps_its_own_models(client, project, tmp_path):
    """Two trainings without a server save under one path; each event gets the model of its own training."""
    arguments = {"filepath": str(tmp_path / "m.keras"), "run": "r", "project": project, "monitor": "val_loss"}
    for _ in range(2):
        fit(ModelCheckpoint(**arguments, server=NOBODY, retry_seconds=0.3), [0.5])
    held = {path.name: path.read_bytes() for path in (tmp_path / "keepbest-held").glob("*.keras")}
    assert len(held) == 2
    done = list(client.sync(tmp_path))
    assert [(synced.events, len(synced.versions), synced.losses) for synced in done] == [(2, 1, []), (2, 1, [])]
    for number, name in enumerate(sorted(held, key=len)):
        client.pull(f"{project}/run-r-model:v{number}", tmp_path / f"v{number}")
        assert (tmp_path / f"v{number}" / "m.keras").read_bytes() == held[name]


@pytest.mark.filterwarnings("ignore:Keepbest")
@pytest.mark.parametrize("how", ["ends", "is killed", "dies"])
def test_epochs_between_saves_of_a_training_without_a_server_come_in_too(server, client, project, tmp_path, how):
    code = {
        "ends": "",
        "is killed": "callback.on_train_end = lambda: os.kill(os.getpid(), 9)",
        "dies": "callback.on_train_end = lambda: {}['x']",
    }[how]
    arguments = {"filepath": str(tmp_path / "m-{epoch}.txt"), "run": "r", "project": project, "every_epochs": 2}
    arguments |= {"server": NOBODY, "retry_seconds": 0.1}
    command = [sys.executable, "-W", "always", plain.__file__, json.dumps(arguments), code]
    trained = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if how != "is killed":
        assert f"{4 if how == 'ends' else 3} events: not reported but kept in" in trained.stderr
    (synced,) = client.sync(tmp_path)
    assert (synced.losses, len(synced.versions)) == ([], 1)
    recorded = [it for it in client.events(f"{project}/r") if it.event.kind == EventKind.EVENT_KIND_EPOCH_END]
    assert {it.event.epoch: it.writer for it in recorded} == {0: "between-saves", 1: "", 2: "between-saves"}


def spool_of(project: str, folder: Path, epochs: int, ended: RunState | None = RunState.RUN_STATE_FINISHED) -> Spool:
    """What a training keeps that reported so many epochs and saved at each, with as many epochs between saves."""
    request = start_request(project, "r", keepbest.strategy("m-{epoch}.bin", monitor="loss", mode="min"))
    spool = Spool(folder / "r.spool", lambda: request, str(folder) + "/", {"by": "test"})
    buffer, between = EventBuffer(DueCounter(None)), []
    for epoch in range(epochs):
        buffer.add(make_event(EventKind.EVENT_KIND_BATCH_END, epoch, {"loss": 2.0}, batch=0))
        entry = buffer.add(make_event(EventKind.EVENT_KIND_EPOCH_END, epoch, {"loss": 1.0 / (epoch + 1)}))
        entry.held = folder / f"held-{epoch}.bin"
        folder.mkdir(exist_ok=True)
        random_file(entry.held, 100)
        between.append(make_event(EventKind.EVENT_KIND_EPOCH_END, 10 + epoch, {"loss": 3.0}))
        spool.keep(buffer.entries(), None, between=between)
    spool.keep(buffer.entries(), None, ended, between=between)
    spool.close()
    return spool


class Killed(BaseException):
    """What ends a process at any moment."""


STEPS = ["StartRun", "ReportEvents", "PrepareFile", "WriteSmallFiles", "CommitCheckpoint", "FinishRun"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [1, 2, 4])
@pytest.mark.parametrize("finished_by", ["its spool", "another start", "the training"])
def test_a_sync_that_is_killed_anywhere_is_repeated_and_nothing_comes_twice(
    client, project, tmp_path, monkeypatch, step, after, finished_by
):
    """Either the spool says how the run ended, or the run stands finished on the server, and is so afterwards."""
    spool_of(project, tmp_path / "node", 3, ended=RunState.RUN_STATE_FINISHED if finished_by == "its spool" else None)
    if finished_by != "its spool":
        kept = Kept.open(tmp_path / "node" / "r.spool")
        request_id = kept.start.request_id if finished_by == "the training" else None
        if request_id:
            kept.note_attempt(1)
        kept.close()
        rule = keepbest.strategy("m-{epoch}.bin", monitor="loss", mode="min")
        client.start_run(project, "r", rule, request_id=request_id).finish()
    call, calls = _sync.call, []

    def killed(method, request, patience):
        answer = call(method, request, patience)
        if type(request).__name__ == f"{step}Request":
            calls.append(request)
            if len(calls) == after:
                raise Killed
        return answer

    with monkeypatch.context() as patch:
        for module in ("_sync", "_save", "_upload", "run"):
            patch.setattr(f"keepbest.{module}.call", killed)
        try:
            list(client.sync(tmp_path / "node"))
        except Killed:
            assert spools_in(tmp_path / "node")
    list(client.sync(tmp_path / "node"))
    assert list(tmp_path.glob("node/*.spool")) == []
    versions = list(client.versions(f"{project}/run-r-model", order_by="number asc"))
    assert [(version.epoch, version.metadata["by"]) for version in versions] == [(0, "test"), (1, "test"), (2, "test")]
    events = list(client.events(versions[0].run))
    decided_upon = [(it.event.epoch, it.event.kind) for it in events if not it.writer]
    assert decided_upon == [(epoch, kind) for epoch in range(3) for kind in (1, 2)]
    assert [it.event.epoch for it in events if it.writer == "between-saves"] == [10, 11, 12]
    assert client.run(versions[0].run).state == RunState.RUN_STATE_FINISHED


def test_a_run_that_is_active_in_another_attempt_is_only_taken_over_if_asked(client, project, tmp_path):
    spool_of(project, tmp_path / "node", 1)
    live = client.start_run(project, "r", keepbest.strategy("m-{epoch}.bin", monitor="loss", mode="min"))
    with pytest.raises(keepbest.FailedPrecondition, match=r"is active in attempt 1, which a sync would end"):
        list(client.sync(tmp_path))
    assert live.report_epoch(0, {"loss": 9.0}).action == keepbest.SAVE
    (synced,) = client.sync(tmp_path, take_over=True)
    assert len(synced.versions) == 1
    with pytest.raises(keepbest.StaleAttempt):
        live.report_epoch(1, {"loss": 8.0})


def test_no_sync_takes_what_a_training_is_still_writing(client, project, tmp_path):
    spool = spool_of(project, tmp_path / "node", 1)
    spool.keep(EventBuffer(DueCounter(None)).entries(), None, RunState.RUN_STATE_FAILED)
    with pytest.raises(BlockingIOError, match="is in use by a training"):
        Kept.open(spool.path)
    spool.close()
    Kept.open(spool.path).close()


def test_a_torn_line_is_not_there(client, project, tmp_path):
    spool = spool_of(project, tmp_path / "node", 2, ended=None)
    whole = spool.path.read_bytes()
    spool.path.write_bytes(whole[:-20])
    (synced,) = client.sync(tmp_path / "node")
    assert (synced.events, len(synced.versions)) == (5, 2)


def test_the_command_tells_what_came_in_and_fails_where_something_did_not(server: Server, project, tmp_path):
    spool_of(project, tmp_path / "node", 2)

    def sync(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "keepbest", "sync", *arguments]
        environment = os.environ | {"KEEPBEST_ADDRESS": server.address}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    (tmp_path / "broken.spool").write_text("{}\n")
    first = sync(str(tmp_path))
    assert first.returncode == 1
    assert "runs/r: 6 events, 2 versions" in first.stdout and "is no spool that this version" in first.stderr
    (tmp_path / "broken.spool").unlink()
    again = sync(str(tmp_path))
    assert (again.returncode, again.stdout) == (0, f"nothing to sync in `{tmp_path}`\n")
    assert sync(str(tmp_path / "nowhere")).returncode == 1


@pytest.mark.parametrize("failed", [False, True])
def test_a_run_that_has_ended_takes_a_spool_and_is_ended_as_before(client, project, tmp_path, failed):
    spool_of(project, tmp_path / "node", 2, ended=None)
    client.start_run(project, "r", keepbest.strategy("m-{epoch}.bin", monitor="loss", mode="min")).finish(failed)
    (synced,) = client.sync(tmp_path / "node")
    assert (synced.losses, len(synced.versions)) == ([], 2)
    assert client.run(synced.run).state == (RunState.RUN_STATE_FAILED if failed else RunState.RUN_STATE_FINISHED)


@pytest.mark.parametrize("was_saved", [False, True])
def test_what_was_decided_in_an_attempt_that_is_over_is_reported_anew_and_saved_once(
    client, project, tmp_path, was_saved
):
    """The training's answer was lost, and it was killed; another one of the run came before the sync."""
    spool_of(project, tmp_path / "node", 1, ended=None)
    kept = Kept.open(tmp_path / "node" / "r.spool")
    kept.note_attempt(1)
    events, held = [spooled.event for spooled in kept.events], kept.events[-1].model
    request_id = kept.start.request_id
    kept.close()
    rule = keepbest.strategy("m-{epoch}.bin", monitor="loss", mode="min")
    (decision,) = (first := client.start_run(project, "r", rule, request_id=request_id)).report_many(events)
    if was_saved:
        first.save(decision, {decision.path: held}, {"by": "test"})
    client.start_run(project, "r", rule).finish()
    (synced,) = client.sync(tmp_path / "node")
    assert (synced.losses, len(synced.versions)) == ([], 1)
    assert list(client.sync(tmp_path / "node")) == []
    (version,) = client.versions(f"{project}/run-r-model")
    assert (version.epoch, version.attempt) == (0, 1 if was_saved else 3)
    reports = [it.event.epoch for it in client.events(f"{project}/r") if not it.writer and it.event.kind == 2]
    assert reports == ([0] if was_saved else [0, 0])


@pytest.mark.parametrize("written", [0.3, 0.6, 0.8, 0.95, 1.0])
def test_what_was_written_when_the_disk_was_full_comes_in_once(client, project, tmp_path, monkeypatch, written):
    folder = tmp_path / "node"
    folder.mkdir()
    request = start_request(project, "r", keepbest.strategy("m-{epoch}.bin", monitor="loss", mode="min"))
    spool = Spool(folder / "r.spool", lambda: request, str(folder) + "/")
    buffer, between = EventBuffer(DueCounter(None)), []
    buffer.add(make_event(EventKind.EVENT_KIND_EPOCH_END, 0, {"loss": 1.0}))
    spool.keep(buffer.entries(), None)
    for batch in range(3):
        buffer.add(make_event(EventKind.EVENT_KIND_BATCH_END, 1, {"loss": 1.0}, batch=batch))
    newest = buffer.add(make_event(EventKind.EVENT_KIND_EPOCH_END, 1, {"loss": 0.5}))
    between = [make_event(EventKind.EVENT_KIND_EPOCH_END, 10 + number, {}) for number in range(2)]
    write = _spool._write

    def fills_the_disk(opened, data):
        write(opened, data[: int(len(data) * written)])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(_spool, "_write", fills_the_disk)
        spool.keep(buffer.entries(), None, between=between)
    newest.held = folder / "held.bin"
    random_file(newest.held, 100)
    spool.keep(buffer.entries(), None, between=between)
    spool.close()
    (synced,) = client.sync(folder)
    assert (synced.events, [version.epoch for version in synced.versions]) == (7, [1])
    assert synced.losses == ["epoch 1: not saved: no model of it was kept"]
    events = [(it.writer, moment(it.event)) for it in client.events(f"{project}/r")]
    assert len(events) == len(set(events)) == 7


def test_a_signal_in_the_middle_of_what_is_kept_of_an_epoch_between_saves_does_not_keep_it_twice(tmp_path):
    code = """
sync = os.fsync
def sync_and_ask(descriptor):
    sync(descriptor)
    os.fsync = sync
    os.kill(os.getpid(), 15)
os.fsync = sync_and_ask
"""
    arguments = {"filepath": str(tmp_path / "m.txt"), "server": NOBODY, "run": "r", "retry_seconds": 0.1}
    arguments |= {"every_epochs": 5}
    command = [sys.executable, plain.__file__, json.dumps(arguments), code]
    trained = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert trained.returncode == -signal.SIGTERM, trained.stderr
    (spool,) = tmp_path.rglob("*.spool")
    assert spool.read_text().count('"between"') == 2


@pytest.mark.parametrize("what", ["a spool", "a model"])
def test_a_folder_that_another_run_removes_while_it_is_empty_is_made_again(project, tmp_path, monkeypatch, what):
    folder, mkdir, removed = tmp_path / "keepbest-held", Path.mkdir, []

    def made_and_removed(path, *arguments, **named):
        mkdir(path, *arguments, **named)
        if path == folder and not removed:
            removed.append(path)
            _local.remove_hidden(tmp_path, "m.txt", f"{project}/another")

    monkeypatch.setattr(Path, "mkdir", made_and_removed)
    if what == "a spool":
        spool = Spool(folder / "r.spool", lambda: start_request(project, "r", None))
        spool.keep([], 1)
        spool.close()
    else:
        _local.replace(folder / "r.txt", lambda path: Path(path).write_text("model"), f"{project}/r")
    assert removed and len(list(folder.iterdir())) == 1
