"""Reports and saves beside the training: nothing that no decision depends on costs it a round trip."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import warnings

import grpc
import pytest
from conftest import Interposer, Refused, Server, nothing_told, random_file

import keepbest
from keepbest import _events, _reports
from keepbest._proto.keepbest.v1.checkpoints_pb2 import GetCheckpointRequest

EVERY_1000 = keepbest.strategy("m-{epoch}-{batch}.bin", save_freq=1_000)
EVERY_EPOCH = keepbest.strategy("m-{epoch}.bin")


def batches(client, run):
    return [(recorded.event.epoch, recorded.event.batch) for recorded in client.events(run.name)]


def test_no_batch_waits_for_a_server_that_hangs(interposer: Interposer, client, project):
    run = keepbest.Client(interposer.address, timeout=30).start_run(project, "r", EVERY_1000)
    asked, go_on = threading.Event(), threading.Event()

    def hang(request, forward):
        asked.set()
        go_on.wait()
        return forward(request)

    interposer.hooks["ReportEvents"] = hang
    for batch in range(999):
        assert run.report_batch(0, batch, {"loss": 1.0}) is None
        if batch == 600:
            asked.wait()  # more than enough waits, so the background has begun
    go_on.set()
    decision = run.report_batch(0, 999, {"loss": 1.0})
    assert (decision.action, decision.batch) == (keepbest.SAVE, 999)
    assert batches(client, run) == [(0, batch) for batch in range(1_000)]


def test_an_event_becomes_durable_although_nothing_is_reported_after_it(
    interposer: Interposer, client, project, monkeypatch
):
    monkeypatch.setattr(_events, "DURABLE_SECONDS", 0.0)
    run = keepbest.Client(interposer.address, timeout=30).start_run(project, "r", EVERY_1000)
    stored = threading.Event()

    def seen(request, forward):
        answer = forward(request)
        stored.set()
        return answer

    interposer.hooks["ReportEvents"] = seen
    run.report_batch(0, 0, {"loss": 1.0})
    assert stored.wait(60)
    assert batches(client, run) == [(0, 0)]


def test_what_the_background_could_not_send_is_sent_with_the_next_decision(interposer: Interposer, client, project):
    run = keepbest.Client(interposer.address, timeout=30).start_run(project, "r", EVERY_1000)
    failed = threading.Event()

    def refuse(request, forward):
        failed.set()
        raise Refused(grpc.StatusCode.UNAVAILABLE, "STOPPING")

    interposer.hooks["ReportEvents"] = refuse
    for batch in range(999):
        run.report_batch(0, batch, {})
    failed.wait()
    del interposer.hooks["ReportEvents"]
    assert run.report_batch(0, 999, {}).action == keepbest.SAVE
    assert batches(client, run) == [(0, batch) for batch in range(1_000)]


def test_a_program_that_just_ends_has_sent_its_events_and_saves(server: Server, client, project, tmp_path):
    random_file(tmp_path / "m.bin", 1 << 20)
    script = f"""
        import keepbest
        run = keepbest.Client({server.address!r}).start_run({project!r}, "r", keepbest.strategy("m.bin"))
        run.save(run.report_epoch(0, {{"val_loss": 1.0}}), {str(tmp_path / "m.bin")!r}, asynchronous=True)
        run.report_batch(1, 0, {{"loss": 1.0}})
        raise SystemExit(3)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    name = f"teams/tests/projects/{project.partition('/')[2]}/runs/r"
    assert [recorded.event.epoch for recorded in client.events(name)] == [0, 1]
    assert client.best(name).epoch == 0


def test_many_events_are_reported_at_once_and_each_decision_comes_back(interposer: Interposer, client, project):
    run = keepbest.Client(interposer.address, timeout=30).start_run(project, "r", EVERY_EPOCH)
    interposer.calls.clear()
    events = []
    for epoch in range(3):
        events += [run.event(epoch, {"loss": 1.0}, batch=batch) for batch in range(10)]
        events.append(run.event(epoch, {"val_loss": 1.0 / (epoch + 1)}))
    decisions = run.report_many(events)
    assert [(decision.epoch, decision.action) for decision in decisions] == [
        (epoch, keepbest.SAVE) for epoch in range(3)
    ]
    assert interposer.calls == ["ReportEvents"] * 3
    assert len(batches(client, run)) == 33
    assert run.report_many([run.event(3, {}, batch=0)]) == []


def test_a_save_in_the_background_gives_a_future_and_tells_of_progress(client, project, tmp_path):
    data = random_file(tmp_path / "large", 9 << 20)
    random_file(tmp_path / "small", 100)
    run, steps = client.start_run(project, "r", EVERY_EPOCH), []
    future = run.save(
        run.report_epoch(0, {"val_loss": 1.0}),
        [tmp_path / "large", tmp_path / "small"],
        asynchronous=True,
        on_progress=lambda sent, total: steps.append((sent, total)),
    )
    assert future.result().epoch == 0
    assert {total for _, total in steps} == {len(data) + 100}
    assert [sent for sent, _ in steps] == sorted(sent for sent, _ in steps)
    assert steps[-1][0] == len(data) + 100 and len(steps) > 9


def test_a_save_in_the_background_that_fails_is_told_at_once_and_by_its_future(
    interposer: Interposer, project, tmp_path
):
    random_file(tmp_path / "m.bin", 100)
    run = keepbest.Client(interposer.address, timeout=30).start_run(project, "r", EVERY_EPOCH)

    def refuse(request, forward):
        raise Refused(grpc.StatusCode.DATA_LOSS, "DATA_LOSS")

    interposer.hooks["CommitCheckpoint"] = refuse
    with pytest.warns(UserWarning, match="epoch 1: not saved: DATA_LOSS"):
        failed = run.save(run.report_epoch(0, {}), tmp_path / "m.bin", asynchronous=True)
        assert isinstance(failed.exception(), keepbest.DataLoss)
        run._saves._background.wait()
    del interposer.hooks["CommitCheckpoint"]
    assert run.save(run.report_epoch(1, {}), tmp_path / "m.bin", asynchronous=True).result().epoch == 1
    with pytest.raises(ValueError, match="not SAVE"):
        run.save(keepbest.types.Decision(), tmp_path / "m.bin", asynchronous=True)


def test_saves_in_the_background_go_on_where_warnings_are_errors(client, project, tmp_path):
    random_file(tmp_path / "m.bin", 100)
    run = client.start_run(project, "r", EVERY_EPOCH)
    decisions, go_on = [run.report_epoch(epoch, {}) for epoch in range(3)], threading.Event()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = run.save(
            decisions[0], tmp_path / "m.bin", asynchronous=True, on_progress=lambda sent, total: go_on.wait(60)
        )
        failed = run.save(decisions[1], tmp_path / "absent", asynchronous=True)
        last = run.save(decisions[2], tmp_path / "m.bin", asynchronous=True)
        go_on.set()
        assert (first.result(60).epoch, last.result(60).epoch) == (0, 2)
        assert isinstance(failed.exception(60), FileNotFoundError)


def test_more_events_than_there_is_room_for_are_all_reported(client, project):
    run = client.start_run(project, "r", EVERY_EPOCH)
    run.report_batch(0, 0, {"loss": 1.0})
    events = [run.event(0, {"loss": 1.0}, batch=batch) for batch in range(1, 25_000)]
    with nothing_told():
        (decision,) = run.report_many([*events, run.event(0, {"val_loss": 1.0})])
    assert (decision.epoch, decision.action) == (0, keepbest.SAVE)
    assert client.run(run.name).event_count == 25_001


def test_large_events_are_reported_before_there_is_no_room(client, project):
    run = client.start_run(project, "r", EVERY_EPOCH)
    large = {f"{number:03d}": "x" * 1_000 for number in range(500)}
    with nothing_told():
        decisions = run.report_many(run.event(epoch, large) for epoch in range(20))
    assert [decision.epoch for decision in decisions] == list(range(20))


def checkpoint_states(client, run):
    get = client.connection.stubs().checkpoints.GetCheckpoint
    return [get(GetCheckpointRequest(name=it.checkpoint)).state for it in client.decisions(run.name)]


def test_decisions_that_an_error_keeps_back_are_abandoned(interposer: Interposer, client, project):
    run = keepbest.Client(interposer.address, timeout=30).start_run(project, "r", EVERY_EPOCH)
    with pytest.raises(keepbest.InvalidArgument):
        run.report_many([run.event(0, {}), run.event(1, {}), run.event(-1, {})])
    assert checkpoint_states(client, run) == [3, 3]

    def fail(request, forward):
        if interposer.calls.count("ReportEvents") > 1:
            raise Refused(grpc.StatusCode.UNAVAILABLE, "STOPPING")
        return forward(request)

    interposer.calls.clear()
    interposer.hooks["ReportEvents"] = fail
    run._connection.timeout = 0.1
    with pytest.raises(keepbest.Unavailable):
        run.report_many([run.event(2, {}), run.event(3, {})])
    assert checkpoint_states(client, run) == [3, 3, 3]
    del interposer.hooks["ReportEvents"]
    run._connection.timeout = 30
    assert [decision.epoch for decision in run.report_many([run.event(4, {})])] == [4]
    assert [recorded.event.epoch for recorded in client.events(run.name)] == list(range(5))


def test_what_is_reported_while_the_server_goes_away_waits_for_it(interposer: Interposer, client, project, monkeypatch):
    monkeypatch.setattr(_reports, "_GATHERED_EVENTS", 10)
    run = keepbest.Client(interposer.address, timeout=0.1).start_run(project, "r", EVERY_EPOCH)

    def fail(request, forward):
        raise Refused(grpc.StatusCode.UNAVAILABLE, "STOPPING")

    interposer.hooks["ReportEvents"] = fail
    run._reports.send_soon = lambda: None
    assert run.report_many([run.event(0, {}, batch=batch) for batch in range(25)]) == []
    with pytest.raises(keepbest.Unavailable):
        run.report_many([run.event(0, {}), *(run.event(1, {}, batch=batch) for batch in range(25))])
    del interposer.hooks["ReportEvents"]
    run.flush(timeout=30)
    assert batches(client, run) == [*((0, batch) for batch in range(25)), (0, 0), *((1, batch) for batch in range(25))]


def test_an_event_that_is_refused_midway_is_left_out_with_a_warning(client, project, monkeypatch):
    monkeypatch.setattr(_reports, "_GATHERED_EVENTS", 2)
    run = client.start_run(project, "r", EVERY_EPOCH)
    with pytest.warns(UserWarning, match="refuses what was reported"):
        decisions = run.report_many([run.event(0, {}), run.event(-1, {}), run.event(1, {}), run.event(2, {})])
    assert [decision.epoch for decision in decisions] == [0, 1, 2]


def test_a_batch_runs_nothing_of_protobuf_that_is_written_in_python(client, project):
    run = client.start_run(project, "r", EVERY_1000)
    run.report_batch(0, 0, {"loss": 1.0})  # makes what is made once
    run.stop_sending()
    ran = []

    def profile(frame, happening, argument):
        if happening == "call" and frame.f_globals.get("__name__", "").startswith("google.protobuf"):
            ran.append(frame.f_code.co_name)

    sys.setprofile(profile)
    try:
        run.report_batch(0, 1, {"loss": 1.0, "accuracy": 0.5}, step=1)
    finally:
        sys.setprofile(None)
    assert ran == []


@pytest.mark.parametrize(
    ("now_ns", "seconds", "nanos"), [(1_700_000_000_123_456_789, 1_700_000_000, 123_456_000), (5_000, 0, 5_000)]
)
def test_an_event_has_the_time_in_whole_microseconds(monkeypatch, now_ns, seconds, nanos):
    monkeypatch.setattr(_events.time, "time_ns", lambda: now_ns)
    event = _events.make_event(keepbest.types.EventKind.EVENT_KIND_EPOCH_END, 0, {})
    assert (event.wall_time.seconds, event.wall_time.nanos) == (seconds, nanos)


def test_an_event_keeps_the_time_that_it_was_given_also_if_it_is_zero(client, project):
    run = client.start_run(project, "r", EVERY_EPOCH)
    event = run.event(0, {"val_loss": 1.0})
    event.wall_time.seconds = event.wall_time.nanos = 0
    run.report(event)
    (recorded,) = client.events(run.name)
    assert recorded.event.HasField("wall_time") and recorded.event.wall_time.ToNanoseconds() == 0
