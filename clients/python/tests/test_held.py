"""Every model that is set aside while the server is away is saved, removed because nobody wants it, or told of."""

from __future__ import annotations

import ast
import json
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import plain
import pytest
from conftest import Interposer, Server
from test_session import Trainer, refuse, with_spool

import keepbest
from keepbest import _events, _held, _outage
from keepbest._events import DueCounter, EventBuffer, make_event
from keepbest._proto.keepbest.v1.runs_pb2 import ReportEventsResponse
from keepbest._spool import Spool, spools_in
from keepbest.client import start_request
from keepbest.types import Action, EventKind, RunState

PACKAGE = Path(keepbest.__file__).parent
UNAVAILABLE = refuse(grpc.StatusCode.UNAVAILABLE, "STOPPING")


@pytest.fixture(autouse=True)
def probes_at_once(monkeypatch):
    monkeypatch.setattr(_outage, "_PROBE_SECONDS", 0.0)


def held_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("keepbest-held/*") if path.suffix != ".spool")


@pytest.fixture
def by_batches(own_server: Server, project, tmp_path):
    """Makes a callback that saves every two batches; a `plain.fit` has one batch an epoch."""

    def make(**arguments):
        arguments = {"server": own_server.address, "project": project, "run": "r", "retry_seconds": 0.2, **arguments}
        return plain.Callback(tmp_path / "m-{epoch}-{batch}.txt", save_freq=2, **arguments)

    return make


def saved(address: str, run: str) -> list[int]:
    with keepbest.Client(address, timeout=30) as client:
        return sorted(version.epoch for version in client.versions(client.run(run).artifact))


# The count of batches, by which the trainer knows at which of them the server will decide.


@pytest.mark.filterwarnings("ignore:Keepbest")
@pytest.mark.parametrize("comes_back", ["in the training", "after it"])
def test_a_second_fit_without_the_server_holds_the_models_that_it_will_want(
    own_server: Server, by_batches, tmp_path, comes_back
):
    callback = by_batches()
    plain.fit(callback, epochs=3)
    own_server.kill()

    def server_comes(epoch):
        if epoch == 6 and comes_back == "in the training":
            own_server.start()
            callback._session.retry_seconds = 30.0
            callback._session._outage.ends()

    plain.fit(callback, epochs=8, first=3, in_epoch=server_comes)
    if comes_back == "after it":
        own_server.start()
        with keepbest.Client(own_server.address, timeout=30) as client:
            (synced,) = client.sync(tmp_path)
        assert (synced.losses, len(synced.versions)) == ([], 3)
    assert saved(own_server.address, callback.run_name) == [1, 3, 5, 7]
    assert not (tmp_path / "keepbest-held").exists()


@pytest.mark.filterwarnings("ignore:Keepbest")
@pytest.mark.parametrize("asks", ["resume", "initial_epoch"])
def test_a_training_that_asked_where_to_go_on_knows_the_count_without_the_server(
    own_server: Server, by_batches, tmp_path, asks
):
    plain.fit(by_batches(), epochs=3)
    again = by_batches()
    assert (again.resume(plain.Model()) if asks == "resume" else again.initial_epoch()) == 1
    own_server.kill()
    plain.fit(again, epochs=8, first=3)
    assert held_in(tmp_path) == [f"r-epoch-{epoch}-batch-1" for epoch in (4, 6, 8)]
    own_server.start()
    with keepbest.Client(own_server.address, timeout=30) as client:
        (synced,) = client.sync(tmp_path)
    assert (synced.losses, len(synced.versions)) == ([], 3)


@pytest.mark.filterwarnings("ignore:Keepbest")
def test_a_node_without_the_server_goes_on_with_the_count_of_its_spool(own_server: Server, by_batches, tmp_path):
    for first, epochs in ((0, 3), (3, 6), (6, 9)):  # nine batches in three lives
        plain.fit(by_batches(server="127.0.0.1:1"), epochs=epochs, first=first)
    assert held_in(tmp_path) == [f"r-epoch-{epoch}-batch-1" for epoch in (2, 4, 6, 8)]
    with keepbest.Client(own_server.address, timeout=30) as client:
        done = list(client.sync(tmp_path))
    assert [synced.losses for synced in done] == [[], [], []]
    assert saved(own_server.address, by_batches().run_name) == [1, 3, 5, 7]
    assert not (tmp_path / "keepbest-held").exists()


def test_the_answer_to_a_start_corrects_the_count_for_events_that_come_after_those_that_wait():
    buffer = EventBuffer(DueCounter(3))
    batches = iter(make_event(EventKind.EVENT_KIND_BATCH_END, 0, {}, batch=number) for number in range(9))
    assert [buffer.add(next(batches)).due for _ in range(4)] == [False, False, True, False]
    response = ReportEventsResponse()
    response.next_due.batches = 1
    buffer.correct(response.next_due)  # so batches 0, 3 and 6 are due
    assert [buffer.add(next(batches)).due for _ in range(4)] == [False, False, True, False]


def test_spools_are_brought_in_in_the_order_in_which_they_were_begun(project, tmp_path):
    for name in ("b", "a"):
        spool = Spool(tmp_path / f"{name}.spool", lambda: start_request(project, "r", None))
        spool.keep([], 1)
        spool.close()
    with (tmp_path / "b.spool").open("a") as file:  # as a sync does that is cut off
        file.write('{"attempt": 2}\n')
    assert [path.name for path in spools_in(tmp_path)] == ["b.spool", "a.spool"]


@pytest.mark.filterwarnings("ignore:Keepbest")
def test_no_model_gets_the_name_of_one_that_gave_way_in_an_earlier_training(own_server: Server, project, tmp_path):
    """Else the earlier spool, which names it still, would bring in the model of another training."""
    arguments = {"server": "127.0.0.1:1", "project": project, "run": "r", "retry_seconds": 0.1}
    for epochs in (2, 1):  # the loss is 1 in the first epoch, and less in the second
        plain.fit(plain.Callback(tmp_path / "m-{epoch}.txt", save_best_only=True, **arguments), epochs=epochs)
    assert held_in(tmp_path) == ["r-epoch-1-2", "r-epoch-2"]
    with keepbest.Client(own_server.address, timeout=30) as client:
        done = list(client.sync(tmp_path))
    assert [(synced.losses, [version.epoch for version in synced.versions]) for synced in done] == [([], [1]), ([], [])]
    assert not (tmp_path / "keepbest-held").exists()


@pytest.mark.filterwarnings("ignore:Keepbest")
@pytest.mark.parametrize(
    "text", ["[]", '{"spool": 1}', '{"spool": 1, "start": "AAAA", "directory": "", "metadata": null}']
)
def test_a_file_that_is_no_spool_is_none_and_ends_no_training(own_server: Server, by_batches, tmp_path, text):
    (tmp_path / "keepbest-held").mkdir()
    (tmp_path / "keepbest-held" / "x.spool").write_text(f"{text}\n")
    callback = by_batches()
    plain.fit(callback, epochs=2)
    assert saved(own_server.address, callback.run_name) == [1]
    own_server.kill()
    plain.fit(by_batches(), epochs=2)
    assert held_in(tmp_path) == ["r-epoch-2-batch-1"]


# Models whose moments the server does not decide about after all.


@pytest.mark.parametrize("comes_back", ["in the training", "after it"])
def test_a_model_of_a_moment_at_which_the_server_decides_nothing_is_left_and_told(
    own_server: Server, by_batches, tmp_path, comes_back
):
    """A process that asked nobody where to go on, and whose earlier life left nothing beside the models."""
    plain.fit(by_batches(), epochs=3)
    own_server.kill()
    callback = by_batches()

    def server_comes(epoch):
        if epoch == 6 and comes_back == "in the training":
            own_server.start()
            callback._session.retry_seconds = 30.0
            callback._session._outage.ends()

    with pytest.warns(UserWarning) as told:
        plain.fit(callback, epochs=8, first=3, in_epoch=server_comes)
    texts = [str(it.message) for it in told]
    if comes_back == "after it":
        own_server.start()
        with keepbest.Client(own_server.address, timeout=30) as client:
            (synced,) = client.sync(tmp_path)
        texts = synced.losses
    left = sorted(tmp_path.glob("keepbest-held/*"))
    where = "is" if comes_back == "in the training" else "stays"
    for epoch, path in zip((5, 7), left, strict=True):
        assert (path.name, path.read_text()) == (f"r-epoch-{epoch}-batch-1", f"epoch {epoch - 2}")
        loss = f"epoch {epoch}, batch 1: not saved: the server decided at other moments; its model {where} at {path}"
        assert any(loss in text for text in texts), texts
    for epoch in (4, 6, 8):
        why = "the server was away, and it was not known that it would decide here"
        assert any(f"epoch {epoch}" in text and f"not saved: {why}" in text for text in texts), texts


@pytest.mark.filterwarnings("ignore:Keepbest")
@pytest.mark.parametrize("how", ["dropped", "refused"])
def test_a_model_whose_event_never_reaches_the_server_is_left_and_told(
    interposer: Interposer, project, tmp_path, monkeypatch, how
):
    monkeypatch.setattr(_events, "_CAPACITY", 2)
    trainer = Trainer(interposer.address, project, tmp_path, best_only=False, retry_seconds=0.1)
    trainer.session.open()
    interposer.hooks["ReportEvents"] = UNAVAILABLE
    for epoch in range(3 if how == "dropped" else 1):
        trainer.epoch(epoch, 0.9)
    if how == "refused":
        interposer.hooks["ReportEvents"] = refuse(grpc.StatusCode.INVALID_ARGUMENT, "EVENT_INVALID")
    epoch = 2 if how == "dropped" else 1  # the first may have reached the server, so it gives way to none
    held = tmp_path / "keepbest-held" / f"r-epoch-{epoch}"
    why = "its event was dropped, because" if how == "dropped" else "the server refused what was reported of it"
    losses = [loss for loss in trainer.end() if str(held) in loss]
    assert [loss.startswith(f"epoch {epoch}: not saved: {why}") for loss in losses] == [True], losses
    assert losses[0].endswith(f"its model is at {held}") and held.read_text() == "0.9"


@pytest.mark.filterwarnings("ignore:Keepbest")
def test_a_model_whose_decision_is_a_failure_is_left_and_told(interposer: Interposer, project, tmp_path):
    trainer = Trainer(interposer.address, project, tmp_path, best_only=False, retry_seconds=0.1)
    trainer.session.open()
    interposer.hooks["ReportEvents"] = UNAVAILABLE
    trainer.epoch(0, 0.9)

    def fails(request, forward):
        answer = ReportEventsResponse.FromString(forward(request))
        for decision in answer.decisions:
            decision.action, decision.reason_text = Action.ACTION_FAIL, "`nu` is no metric"
        return answer.SerializeToString()

    interposer.hooks["ReportEvents"] = fails
    trainer.session.retry_seconds = 20.0
    (held,) = tmp_path.glob("keepbest-held/*")
    assert f"epoch 1: not saved: `nu` is no metric; its model is at {held}" in trainer.end()
    assert held.read_text() == "0.9"


@pytest.mark.filterwarnings("ignore:Keepbest")
def test_a_model_that_cannot_be_moved_to_its_path_is_left_and_told(
    interposer: Interposer, project, tmp_path, monkeypatch
):
    trainer = Trainer(interposer.address, project, tmp_path, best_only=False, retry_seconds=0.1)
    trainer.session.open()
    interposer.hooks["ReportEvents"] = UNAVAILABLE
    trainer.epoch(0, 0.9)
    del interposer.hooks["ReportEvents"]
    trainer.session.retry_seconds = 20.0

    def fails(source, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_held, "move", fails)
    (held,) = tmp_path.glob("keepbest-held/*")
    (loss,) = trainer.end()
    assert loss.startswith("epoch 1: not saved: it could not be moved to") and loss.endswith(f"its model is at {held}")
    assert trainer.saved() == {} and interposer.calls.count("AbandonCheckpoint") == 1


# Trainings that die.


@pytest.mark.filterwarnings("ignore:Keepbest")
def test_a_dying_training_leaves_a_held_model_that_the_server_wants_to_the_next_start(
    interposer: Interposer, project, tmp_path
):
    client = keepbest.Client(interposer.address, timeout=20)
    trainer = with_spool(client, interposer.address, project, tmp_path, retry_seconds=0.1)
    trainer.epoch(0, 0.9)
    interposer.hooks["ReportEvents"] = UNAVAILABLE
    trainer.epoch(1, 0.1)
    del interposer.hooks["ReportEvents"]
    losses = trainer.session.fail("died", 1, 20.0, in_a_save=False)
    run = client.run(trainer.session.run.name)
    assert (run.state, run.failure) == (RunState.RUN_STATE_FAILED, "died")
    assert any("1 model: not uploaded but kept in `" in loss for loss in losses), losses
    (synced,) = client.sync(tmp_path)
    assert (synced.losses, len(synced.versions)) == ([], 1)
    assert trainer.saved() == {0: 0.9, 1: 0.1}
    assert client.run(run.name).state == RunState.RUN_STATE_FAILED
    assert not (tmp_path / "keepbest-held").exists()


@pytest.mark.filterwarnings("ignore:Keepbest")
@pytest.mark.parametrize("wanted", [False, True])
def test_a_dying_training_without_a_spool_tells_of_a_held_model_unless_it_is_not_wanted(
    interposer: Interposer, project, tmp_path, wanted
):
    trainer = Trainer(interposer.address, project, tmp_path, retry_seconds=0.1)
    trainer.epoch(0, 0.5)
    interposer.hooks["ReportEvents"] = UNAVAILABLE
    trainer.epoch(1, 0.1 if wanted else 0.9)
    del interposer.hooks["ReportEvents"]
    (held,) = tmp_path.glob("keepbest-held/*")
    losses = trainer.session.fail("died", 1, 20.0, in_a_save=False)
    assert any(f"its model is at {held}" in loss for loss in losses) == wanted == held.exists(), losses


@pytest.mark.filterwarnings("ignore:Keepbest")
@pytest.mark.parametrize("in_a_save", [False, True])
def test_a_dying_training_that_was_taken_over_tells_of_the_models_that_it_held(
    interposer: Interposer, project, tmp_path, in_a_save
):
    trainer = Trainer(interposer.address, project, tmp_path, best_only=False, retry_seconds=0.1)
    trainer.epoch(0, 0.9)
    interposer.hooks["ReportEvents"] = UNAVAILABLE
    trainer.epoch(1, 0.1)
    del interposer.hooks["ReportEvents"]
    trainer.client.start_run(project, "r", trainer.session.strategy).finish()
    (held,) = tmp_path.glob("keepbest-held/*")
    losses = trainer.session.fail("died", 1, 20.0, in_a_save)
    assert any(str(held) in loss for loss in losses), losses


def test_a_process_that_is_killed_once_it_has_held_a_model_leaves_none_that_its_spool_does_not_name(
    own_server: Server, project, tmp_path
):
    code = """
from keepbest import _held
replace = _held.replace
def replace_and_die(*arguments):
    replace(*arguments)
    os.kill(os.getpid(), 9)
_held.replace = replace_and_die
"""
    arguments = {"filepath": str(tmp_path / "m-{epoch}.txt"), "run": "r", "project": project}
    arguments |= {"server": "127.0.0.1:1", "retry_seconds": 0.1}
    command = [sys.executable, "-W", "always", plain.__file__, json.dumps(arguments), code]
    trained = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert trained.returncode == -signal.SIGKILL, trained.stderr
    assert held_in(tmp_path) == ["r-epoch-1", "r-epoch-2"]
    with keepbest.Client(own_server.address, timeout=30) as client:
        (synced,) = client.sync(tmp_path)
    assert (synced.losses, len(synced.versions)) == ([], 2)
    assert not (tmp_path / "keepbest-held").exists()


# Who decides what becomes of a held model.


def test_one_file_alone_says_where_a_held_model_is():
    """`Entry.held` is where it lies, and is set by `_held` alone: so all that were held are known to it at the end."""
    found = {}
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(target, ast.Attribute) and target.attr == "held" for target in targets):
                found[path.stem] = found.get(path.stem, 0) + 1
    assert set(found) == {"_held"}
