"""Every model that is set aside while the server is away is saved, removed because nobody wants it, or told of."""

from __future__ import annotations

from pathlib import Path

import plain
import pytest
from conftest import Server

import keepbest
from keepbest import _outage
from keepbest._events import DueCounter, EventBuffer, make_event
from keepbest._proto.keepbest.v1.runs_pb2 import ReportEventsResponse
from keepbest._spool import Spool, spools_in
from keepbest.client import start_request
from keepbest.types import EventKind


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
