"""A session: its states, and that nothing the server does ends, slows or spoils the training that it goes with."""

from __future__ import annotations

import threading
import time

import grpc
import pytest
from conftest import Interposer, Refused, Server

import keepbest
from keepbest import _between, _events, _outage, _session
from keepbest._events import make_event
from keepbest._held import HeldFiles
from keepbest._proto.keepbest.v1.checkpoints_pb2 import AbandonCheckpointRequest
from keepbest._proto.keepbest.v1.runs_pb2 import GetRunRequest
from keepbest._saves import SaveJob, SaveQueue
from keepbest._session import Session
from keepbest._spool import Spool
from keepbest._state import TRANSITIONS, Happening, State
from keepbest.client import start_request
from keepbest.names import run_name
from keepbest.types import Action, Decision, EventKind, Mode, RunState

Code = grpc.StatusCode


@pytest.fixture(autouse=True)
def probes_at_once(monkeypatch):
    monkeypatch.setattr(_outage, "_PROBE_SECONDS", 0.0)


class Trainer:
    """A training that reports epochs to a session and saves what is decided, as a callback does."""

    def __init__(self, address, project, folder, run="r", best_only=True, start=None, **settings):
        client = keepbest.Client(address, timeout=20)
        name = "best.bin" if best_only else "m-{epoch}.bin"
        rule = keepbest.strategy(name, save_best_only=best_only, mode="min")
        self.client, self.project, self.folder, self.name = client, project, folder, name
        runs = client.connection.stubs().runs
        name_of_run = run_name(project, run)
        request = GetRunRequest(name=name_of_run)
        settings = {"retry_seconds": 1.0, "survive": True, "asynchronous": False, "metadata": None, **settings}
        self.session = Session(
            start=start
            or (lambda events, patience: client.start_run(project, run, rule, timeout=patience, _events=events)),
            ask=lambda seconds: runs.GetRun.future(request, timeout=seconds),
            strategy=rule,
            held=HeldFiles(str(folder / name), "val_loss", best_only, Mode.MODE_MIN, name_of_run, 1 << 20),
            final_path=lambda decision: folder / decision.path,
            **settings,
        )

    def epoch(self, epoch, loss):
        def write(path):
            with open(path, "w") as file:  # noqa: PTH123
                file.write(f"{loss}")

        event = make_event(EventKind.EVENT_KIND_EPOCH_END, epoch, {"val_loss": loss})
        decision = self.session.report(event, write)
        if decision is not None and decision.action == Action.ACTION_SAVE:
            path = self.folder / decision.path
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name("temporary")
            write(temporary)
            temporary.replace(path)
            self.session.save(decision, path)
        return self.session.state

    def end(self):
        return self.session.close(make_event(EventKind.EVENT_KIND_TRAIN_END, 0, {}), finish=True)

    def saved(self):
        versions = self.client.versions(self.session.run.resource.artifact, order_by="epoch asc")
        return {version.epoch: version.metrics["val_loss"] for version in versions}


def with_spool(client, address, project, folder, best_only=True, **settings):
    """A training that keeps in `keepbest-held/` what it cannot tell, with a start that a sync repeats."""
    name = "best.bin" if best_only else "m-{epoch}.bin"
    rule = keepbest.strategy(name, save_best_only=best_only, mode="min")
    request = start_request(project, "r", rule, request_id="x")
    return Trainer(
        address,
        project,
        folder,
        best_only=best_only,
        start=lambda events, patience: client.start_run(project, "r", rule, request_id="x", _events=events),
        spool=Spool(folder / "keepbest-held" / "r.spool", lambda: request, f"{folder}/"),
        **settings,
    )


def refuse(code, reason, retry_seconds=None):
    def hook(request, forward):
        raise Refused(code, reason, retry_seconds)

    return hook


def test_the_table_of_states_is_whole():
    connected, away, behind, fenced, ended = State
    assert {
        state: [TRANSITIONS[state][happening] for happening in Happening] for state in State
    } == {
        # caught up, answered, not now, no answer, overtaken, closed
        connected: [connected, behind, behind, away, fenced, ended],
        away: [connected, behind, behind, away, fenced, ended],
        behind: [connected, behind, behind, away, fenced, ended],
        fenced: [fenced, fenced, fenced, fenced, fenced, ended],
        ended: [ended, ended, ended, ended, ended, ended],
    }  # fmt: skip


def test_a_session_goes_through_its_states(interposer: Interposer, project, tmp_path):
    trainer = Trainer(interposer.address, project, tmp_path)
    assert trainer.epoch(0, 0.9) is State.CONNECTED
    for hook, state, text in [
        (refuse(Code.UNAVAILABLE, "STOPPING"), State.BEHIND, "the server cannot now"),
        (refuse(Code.FAILED_PRECONDITION, "STALE_ATTEMPT"), State.FENCED, "no model is saved any more"),
    ]:
        interposer.hooks["ReportEvents"] = hook
        with pytest.warns(UserWarning, match=text):
            assert trainer.epoch(1, 0.8) is state
        del interposer.hooks["ReportEvents"]
        if state is State.BEHIND:
            epoch = 2
            while trainer.epoch(epoch, 0.7) is not State.CONNECTED:  # until a probe was answered in time
                epoch += 1
            assert trainer.session.state is State.CONNECTED
    assert trainer.epoch(1_000, 0.6) is State.FENCED
    losses = trainer.end()
    assert trainer.session.state is State.ENDED
    assert any("the server refused all events" in loss for loss in losses)


def test_a_server_that_is_gone_is_away_and_then_caught_up_with(own_server: Server, project, tmp_path):
    trainer = Trainer(own_server.address, project, tmp_path, retry_seconds=0.2)
    trainer.epoch(0, 0.9)
    own_server.kill()
    with pytest.warns(UserWarning, match="the server is away"):
        assert trainer.epoch(1, 0.1) is State.AWAY
    assert trainer.epoch(2, 0.5) is State.AWAY
    own_server.start()
    trainer.session.retry_seconds = 30.0
    assert trainer.end() == []
    assert trainer.saved() == {0: 0.9, 1: 0.1}
    assert (tmp_path / "best.bin").read_text() == "0.1"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_best_model_outlives_a_full_store(interposer: Interposer, project, tmp_path, asynchronous):
    trainer = Trainer(interposer.address, project, tmp_path, asynchronous=asynchronous, retry_seconds=0.1)
    trainer.epoch(0, 0.9)
    trainer.session._background.wait()
    interposer.hooks["WriteSmallFiles"] = refuse(Code.RESOURCE_EXHAUSTED, "STORE_FULL", 60.0)
    with pytest.warns(UserWarning, match="the server cannot now.*STORE_FULL"):
        trainer.epoch(1, 0.1)
        trainer.session._background.wait()
    assert trainer.session.state is State.BEHIND
    for epoch, loss in [(2, 0.2), (3, 0.15)]:
        trainer.epoch(epoch, loss)
        assert (tmp_path / "best.bin").read_text() == "0.1", "nothing worse takes its place"
    # Not even one that is written over it by somebody else costs what was told as saved.
    (tmp_path / "other").write_text("other")
    (tmp_path / "other").replace(tmp_path / "best.bin")
    del interposer.hooks["WriteSmallFiles"]
    assert not [loss for loss in trainer.end() if "epoch 2" in loss]
    assert trainer.saved()[1] == 0.1
    best = trainer.client.best(trainer.session.run.name)
    trainer.client.pull(best.name, tmp_path / "pulled")
    assert (tmp_path / "pulled" / "best.bin").read_text() == "0.1"
    assert trainer.client.run(trainer.session.run.name).state == RunState.RUN_STATE_FINISHED


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_save_that_can_never_be_is_told_and_ends_nothing(interposer: Interposer, project, tmp_path, asynchronous):
    trainer = Trainer(interposer.address, project, tmp_path, best_only=False, asynchronous=asynchronous)
    interposer.hooks["CommitCheckpoint"] = refuse(Code.DATA_LOSS, "DATA_LOSS")
    with pytest.warns(UserWarning, match="epoch 1: not saved: DATA_LOSS"):
        trainer.epoch(0, 0.9)
        trainer.session._background.wait()
    del interposer.hooks["CommitCheckpoint"]
    trainer.epoch(1, 0.8)
    assert trainer.end() == ["epoch 1: not saved: DATA_LOSS"]
    assert trainer.saved() == {1: 0.8}


def test_an_upload_that_hangs_in_the_background_holds_no_epoch_up(interposer: Interposer, project, tmp_path):
    trainer = Trainer(interposer.address, project, tmp_path, best_only=False, asynchronous=True, retry_seconds=60.0)
    trainer.session.open()
    begun, go_on = threading.Event(), threading.Event()

    def hang(request, forward):
        begun.set()
        go_on.wait()
        return forward(request)

    interposer.hooks["WriteSmallFiles"] = hang
    for epoch in range(10):
        trainer.epoch(epoch, 1.0 - epoch / 100)
        begun.wait()
    # Ten epochs went by while the first upload hangs.
    assert len(trainer.session._saves) == 10
    go_on.set()
    assert trainer.end() == []
    assert sorted(trainer.saved()) == list(range(10))


def test_saves_that_wait_are_bounded_in_bytes_and_the_oldest_gives_way(tmp_path):
    queue, jobs = SaveQueue(limit_bytes=250), []
    for number in range(4):
        (tmp_path / f"m-{number}").write_bytes(bytes(100))
        jobs.append(SaveJob.of(Decision(epoch=number, path=f"m-{number}"), tmp_path / f"m-{number}"))
    assert [queue.add(job) for job in jobs[:3]] == [[], [], [jobs[0]]]
    seen = []

    def upload(job):
        seen.append(job)
        if job is jobs[1]:
            assert queue.add(jobs[3]) == [jobs[2]], "what is being uploaded gives way to nothing"
        return True

    assert queue.work(upload)
    assert seen == [jobs[1], jobs[3]]


@pytest.mark.filterwarnings("ignore:Keepbest")
def test_saves_that_gave_way_are_abandoned_as_soon_as_the_server_answers(interposer: Interposer, project, tmp_path):
    trainer = Trainer(interposer.address, project, tmp_path, best_only=False, asynchronous=True, retry_seconds=0.1)
    trainer.session._saves = SaveQueue(limit_bytes=3)  # as large as one model
    abandoned = []

    def note(request, forward):
        abandoned.append(AbandonCheckpointRequest.FromString(request).checkpoint)
        return forward(request)

    interposer.hooks["AbandonCheckpoint"] = note
    interposer.hooks["WriteSmallFiles"] = refuse(Code.RESOURCE_EXHAUSTED, "STORE_FULL", 60.0)
    epoch = 0
    while len(trainer.session.losses) < 3:  # until a probe was answered in time, so often
        trainer.epoch(epoch, 0.9)
        trainer.session._background.wait()
        epoch += 1
    del interposer.hooks["WriteSmallFiles"]
    trainer.session.retry_seconds = 20.0
    losses = trainer.end()
    assert len(losses) >= 3 and all("those that waited exceeded `held_bytes`" in loss for loss in losses)
    saved = trainer.saved()
    decided = trainer.client.decisions(trainer.session.run.name)
    left_out = [it.checkpoint for it in decided if it.action == Action.ACTION_SAVE and it.epoch not in saved]
    assert sorted(abandoned) == sorted(left_out)
    assert len(abandoned) == len(losses)


@pytest.mark.filterwarnings("ignore:Keepbest")
@pytest.mark.parametrize("dies", [False, True])
def test_nothing_is_sent_any_more_once_a_training_is_over(interposer: Interposer, project, tmp_path, dies):
    trainer = Trainer(interposer.address, project, tmp_path, retry_seconds=0.1)
    trainer.epoch(0, 0.9)
    interposer.hooks["ReportEvents"] = refuse(Code.UNAVAILABLE, "STOPPING")
    for batch in range(300):
        trainer.session.report(make_event(EventKind.EVENT_KIND_BATCH_END, 1, {}, batch=batch), lambda path: None)
    sender = trainer.session.run._reports._sender._thread
    losses = trainer.session.fail("died", 1, 1.0, in_a_save=False) if dies else trainer.end()
    sender.join(20)
    assert not sender.is_alive()
    assert any("301 events: not reported" in loss for loss in losses)


def test_without_a_server_at_the_start_a_training_is_told_and_goes_on(project, tmp_path):
    trainer = Trainer("127.0.0.1:1", project, tmp_path, retry_seconds=0.1)
    with pytest.warns(UserWarning, match="the server is away.*keepbest serve"):
        trainer.session.open()
    trainer.epoch(0, 0.9)
    assert [path.read_text() for path in (tmp_path / "keepbest-held").iterdir()] == ["0.9"]
    assert any("models kept aside" in loss for loss in trainer.end())


def test_the_silence_of_a_server_is_waited_for_once(own_server: Server, project, tmp_path, monkeypatch):
    trainer = Trainer(own_server.address, project, tmp_path, retry_seconds=20.0)
    trainer.epoch(0, 0.9)
    own_server.pause()
    monkeypatch.setattr(_session, "_SILENCE_SECONDS", 0.3)
    waits, flush = [], trainer.session.run.flush
    monkeypatch.setattr(
        trainer.session.run,
        "flush",
        lambda on_late=None, timeout=None: waits.append(timeout) or flush(on_late, timeout),
    )
    with pytest.warns(UserWarning, match="the server is away"):
        for epoch in range(1, 20):
            trainer.epoch(epoch, 0.9 - epoch / 100)
    assert len(waits) == 1
    own_server.resume()
    assert all("a later model took its place" in loss for loss in trainer.end())
    assert min(trainer.saved().values()) == pytest.approx(0.71)


def test_models_that_are_decided_late_at_the_end_are_uploaded_once(interposer, project, tmp_path):
    trainer = Trainer(interposer.address, project, tmp_path, best_only=False, asynchronous=True, retry_seconds=0.1)
    trainer.session.open()
    interposer.hooks["ReportEvents"] = refuse(Code.UNAVAILABLE, "STOPPING")
    with pytest.warns(UserWarning, match="the server cannot now"):
        trainer.epoch(0, 0.9)
    trainer.epoch(1, 0.8)
    del interposer.hooks["ReportEvents"]
    trainer.session.retry_seconds = 20.0
    uploaded, upload = [], trainer.session._upload

    def counted(job):
        uploaded.append(job.decision.epoch)
        return upload(job)

    trainer.session._upload = counted
    assert trainer.end() == []
    assert (sorted(uploaded), trainer.saved()) == ([0, 1], {0: 0.9, 1: 0.8})


def test_the_end_of_an_upload_removes_its_own_local_file_and_no_newer_one(interposer, project, tmp_path):
    trainer = Trainer(interposer.address, project, tmp_path, asynchronous=True, keep_local=False, retry_seconds=20.0)
    committed, written = threading.Event(), threading.Event()

    def hold(request, forward):
        answer = forward(request)
        committed.set()
        written.wait(60)
        return answer

    interposer.hooks["CommitCheckpoint"] = hold
    trainer.epoch(0, 0.9)
    committed.wait(60)
    save = trainer.session.save

    def save_when_the_first_upload_has_ended(decision, path):
        written.set()
        trainer.session._background.wait()
        return save(decision, path)

    trainer.session.save = save_when_the_first_upload_has_ended
    trainer.epoch(1, 0.8)
    assert trainer.end() == []
    assert trainer.saved() == {0: 0.9, 1: 0.8}
    assert not (tmp_path / "best.bin").exists()


def test_epochs_between_saves_reach_the_server_before_a_training_that_died(interposer, project, tmp_path):
    trainer = Trainer(interposer.address, project, tmp_path)
    trainer.epoch(0, 0.9)
    trainer.session.record(make_event(EventKind.EVENT_KIND_EPOCH_END, 1, {"val_loss": 0.8}))
    assert trainer.session.fail("died", 1, 20.0, in_a_save=False) == []
    name = trainer.session.run.name
    assert [it.event.epoch for it in trainer.client.events(name) if it.writer == "between-saves"] == [1]
    assert trainer.client.run(name).state == RunState.RUN_STATE_FAILED


def test_that_a_training_died_is_told_though_its_epochs_between_saves_are_not_taken(interposer, project, tmp_path):
    trainer = Trainer(interposer.address, project, tmp_path)
    trainer.epoch(0, 0.9)
    trainer.session.record(make_event(EventKind.EVENT_KIND_EPOCH_END, 1, {"val_loss": 0.8}))
    interposer.hooks["ReportEvents"] = refuse(Code.UNAVAILABLE, "STOPPING")
    losses = trainer.session.fail("died", 1, 3.0, in_a_save=False)
    assert "2 events: not reported" in losses  # the other one says why it died
    assert trainer.client.run(trainer.session.run.name).state == RunState.RUN_STATE_FAILED


def test_epochs_between_saves_for_which_there_is_no_room_are_told(project, tmp_path, monkeypatch):
    monkeypatch.setattr(_between, "_EVENTS", 2)
    trainer = Trainer("127.0.0.1:1", project, tmp_path, retry_seconds=0.1)
    for epoch in range(5):
        trainer.session.record(make_event(EventKind.EVENT_KIND_EPOCH_END, epoch, {}))
    with pytest.warns(UserWarning, match="the server is away"):
        losses = trainer.end()
    assert "3 epochs between saves: dropped, because too many waited" in losses
    assert "3 events: not reported" in losses


def test_what_cannot_be_kept_during_an_outage_is_told_at_once(own_server: Server, project, tmp_path):
    (tmp_path / "keepbest-held").write_text("a file is in the way")
    spool = Spool(tmp_path / "keepbest-held" / "r.spool", lambda: start_request(project, "r", None), str(tmp_path))
    trainer = Trainer(own_server.address, project, tmp_path, retry_seconds=0.2, spool=spool)
    trainer.epoch(0, 0.9)
    own_server.kill()
    with pytest.warns(UserWarning, match="the server is away") as told:
        trainer.epoch(1, 0.1)
    texts = [str(it.message) for it in told]
    assert any("epoch 2: the server was away, and its model could not be kept: " in text for text in texts)
    assert any("is in memory alone, because" in text and "r.spool` cannot be written" in text for text in texts)
    own_server.start()
    trainer.session.retry_seconds = 30.0
    (loss,) = trainer.end()
    assert loss.startswith("epoch 2: not saved: the server was away, and its model could not be kept: ")


@pytest.mark.parametrize("dies", [False, True])
def test_no_sign_of_life_is_given_of_a_training_that_is_over(interposer: Interposer, project, tmp_path, dies):
    trainer = Trainer(interposer.address, project, tmp_path)
    trainer.epoch(0, 0.9)
    interposer.hooks["FinishRun"] = refuse(Code.FAILED_PRECONDITION, "NOT_NOW")
    if dies:
        trainer.session.fail("died", 0, 1.0, in_a_save=False)
    else:
        trainer.session.close(make_event(EventKind.EVENT_KIND_TRAIN_END, 0, {}), finish=False)
    assert trainer.session.run._heartbeat._over.is_set()


def test_the_end_of_a_run_that_could_not_be_told_is_told_by_a_sync(interposer, project, tmp_path):
    held = tmp_path / "keepbest-held"
    client = keepbest.Client(interposer.address, timeout=20)
    trainer = with_spool(client, interposer.address, project, tmp_path)
    trainer.epoch(0, 0.9)
    interposer.hooks["FinishRun"] = refuse(Code.UNAVAILABLE, "STOPPING")
    with pytest.warns(UserWarning, match="the server cannot now"):
        losses = trainer.end()
    assert "the end of the run: not told but kept in" in losses[0]
    assert client.run(trainer.session.run.name).state == RunState.RUN_STATE_ACTIVE
    del interposer.hooks["FinishRun"]
    (synced,) = client.sync(held)
    assert (synced.events, synced.losses) == (0, [])
    run = client.run(trainer.session.run.name)
    assert (run.state, run.attempt) == (RunState.RUN_STATE_FINISHED, 1)


def test_what_a_dying_training_could_not_report_comes_in_though_its_end_was_told(interposer, project, tmp_path):
    held = tmp_path / "keepbest-held"
    client = keepbest.Client(interposer.address, timeout=20)
    trainer = with_spool(client, interposer.address, project, tmp_path, retry_seconds=0.1)
    trainer.epoch(0, 0.9)
    interposer.hooks["ReportEvents"] = refuse(Code.UNAVAILABLE, "STOPPING")
    with pytest.warns(UserWarning, match="the server cannot now"):
        trainer.epoch(1, 0.1)
    losses = trainer.session.fail("died", 1, 1.0, in_a_save=False)
    assert "not reported but kept in" in losses[0]
    assert client.run(trainer.session.run.name).state == RunState.RUN_STATE_FAILED
    del interposer.hooks["ReportEvents"]
    (synced,) = client.sync(held)
    assert (synced.events, synced.losses, len(synced.versions)) == (2, [], 1)
    assert trainer.saved() == {0: 0.9, 1: 0.1}
    assert client.run(trainer.session.run.name).state == RunState.RUN_STATE_FAILED


@pytest.fixture
def dying(interposer, project, tmp_path, monkeypatch):
    """A training with a spool that has one event to send, one epoch between saves, and an end to tell."""
    monkeypatch.setattr(_session, "_FAIL_SECONDS", 1.0)
    client = keepbest.Client(interposer.address, timeout=20)
    trainer = with_spool(client, interposer.address, project, tmp_path)
    trainer.epoch(0, 0.9)
    trainer.session.record(make_event(EventKind.EVENT_KIND_EPOCH_END, 1, {"val_loss": 0.8}))
    return trainer


@pytest.mark.filterwarnings("ignore:Keepbest")
def test_a_dying_training_keeps_what_waits_before_it_asks_a_server_that_hangs_and_asks_it_once(
    interposer: Interposer, dying, tmp_path
):
    kept, go_on = [], threading.Event()

    def hang(request, forward):
        kept.extend(path.read_text() for path in tmp_path.glob("keepbest-held/*.spool"))
        go_on.wait(60)
        return forward(request)

    interposer.hooks["ReportEvents"] = hang
    del interposer.calls[:]
    begin = time.monotonic()
    losses = dying.session.fail("died", 1, 25.0, in_a_save=False)
    spent_seconds = time.monotonic() - begin
    go_on.set()
    (spool,) = kept
    assert '"ended": "RUN_STATE_FAILED"' in spool and spool.count('"between"') == spool.count('"event"') == 1
    assert "FinishRun" not in interposer.calls and interposer.calls.count("ReportEvents") == 1
    assert spent_seconds < 2.0
    assert any("2 events: not reported but kept in" in loss for loss in losses)
    del interposer.hooks["ReportEvents"]
    (synced,) = dying.client.sync(tmp_path)
    assert synced.losses == []
    run = dying.client.run(dying.session.run.name)
    assert (run.state, run.failure) == (RunState.RUN_STATE_FAILED, "died")


def test_a_dying_training_of_which_the_server_took_all_leaves_nothing_on_disk(interposer: Interposer, dying, tmp_path):
    assert dying.session.fail("died", 1, 25.0, in_a_save=False) == []
    assert not (tmp_path / "keepbest-held").exists()
    assert dying.client.run(dying.session.run.name).state == RunState.RUN_STATE_FAILED


@pytest.mark.filterwarnings("ignore:Keepbest")
def test_a_dying_training_that_another_one_took_over_leaves_no_end_of_its_own(dying, tmp_path):
    dying.client.start_run(dying.project, "r", dying.session.strategy).finish()
    losses = dying.session.fail("died", 1, 25.0, in_a_save=False)
    assert any("could not be told" in loss for loss in losses)
    assert not (tmp_path / "keepbest-held").exists()
    assert dying.client.run(dying.session.run.name).state == RunState.RUN_STATE_FINISHED


def epoch_end(epoch):
    return make_event(EventKind.EVENT_KIND_EPOCH_END, epoch, {"val_loss": 1.0})


@pytest.mark.filterwarnings("ignore:Keepbest")
@pytest.mark.parametrize("comes_back", [False, True])
@pytest.mark.parametrize("between", [False, True])
def test_what_only_the_spool_has_is_no_loss_and_stays_there(
    own_server, project, tmp_path, monkeypatch, between, comes_back
):
    monkeypatch.setattr(_between, "_EVENTS", 2)
    monkeypatch.setattr(_events, "_CAPACITY", 2)
    held = tmp_path / "keepbest-held"
    client = keepbest.Client(own_server.address, timeout=20)
    trainer = with_spool(client, own_server.address, project, tmp_path, best_only=False, retry_seconds=0.2)
    trainer.epoch(0, 0.9)
    own_server.kill()
    for epoch in range(1, 7):
        if between and epoch > 1:
            trainer.session.record(epoch_end(epoch))
        else:
            trainer.epoch(epoch, 0.9 - epoch / 10)
    if comes_back:
        own_server.start()
        trainer.session.retry_seconds = 30.0
    losses = trainer.end()
    assert not [loss for loss in losses if "dropped" in loss]
    assert any("not reported but kept in" in loss for loss in losses)
    if not comes_back:
        own_server.start()
    (synced,) = client.sync(held)
    assert synced.losses == []
    reported = [it.event.epoch for it in client.events(f"{project}/r") if it.event.kind == 2]
    assert sorted(reported) == list(range(7))
    versions = sorted(version.epoch for version in client.versions(f"{project}/run-r-model"))
    assert versions == ([0, 1] if between else list(range(7)))
    assert client.run(f"{project}/r").state == RunState.RUN_STATE_FINISHED
    assert not held.exists()
