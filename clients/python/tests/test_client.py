"""Runs, decisions, versions, errors: the client against a real server."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from concurrent import futures

import grpc
import pytest
from conftest import Interposer, Refused, Server, random_file, same

import keepbest
from keepbest import _events, _pull, names
from keepbest._channel import Address, Connection
from keepbest._events import DueCounter, Entry, EventBuffer, make_event
from keepbest._proto.keepbest.v1.artifacts_pb2 import ListFilesResponse
from keepbest._proto.keepbest.v1.runs_pb2 import GetRunRequest, ReportEventsRequest
from keepbest.types import EventKind, NextDue

BEST = keepbest.strategy("m-{epoch:02d}.bin", save_best_only=True, verbose=1)


def saved(run: keepbest.Run, epoch: int, value: float, path) -> keepbest.Version | None:
    decision = run.report_epoch(epoch, {"val_loss": value})
    return run.save(decision, path) if decision.action == keepbest.SAVE else None


def test_only_improvements_become_versions(client, project, tmp_path):
    random_file(tmp_path / "m", 1000)
    with client.start_run(project, "r", BEST) as run:
        versions = [
            saved(run, epoch, value, tmp_path / "m") for epoch, value in enumerate([0.5, 0.7, math.nan, 0.5, 0.2])
        ]
    assert [version.number if version else None for version in versions] == [0, None, None, None, 1]
    best = client.best(run.name)
    assert (best.number, best.epoch, best.path, best.metrics["val_loss"]) == (1, 4, "m", 0.2)
    assert client.best(project, "val_loss", "max").number == 0
    assert [version.number for version in client.versions(f"{project}/run-r-model")] == [1, 0]
    assert client.version(f"{project}/run-r-model:best").name == best.name
    actions = [decision.action for decision in client.decisions(run.name)]
    assert actions == [keepbest.SAVE, keepbest.SKIP, keepbest.SKIP, keepbest.SKIP, keepbest.SAVE]
    assert len(list(client.events(run.name))) == 5


def test_decisions_carry_the_line_to_print(client, project):
    run = client.start_run(project, "r", BEST)
    decision = run.report_epoch(0, {"val_loss": 0.5})
    assert decision.message == "\nEpoch 1: val_loss improved from None to 0.50000, saving model to m-01.bin"


def test_a_resumed_run_goes_on_with_its_best(client, project, tmp_path):
    random_file(tmp_path / "m", 1000)
    first = client.start_run(project, "r", BEST)
    version = saved(first, 0, 0.4, tmp_path / "m")
    second = client.start_run(project, "r", BEST)
    assert (second.resumed, second.next_epoch, second.attempt) == (True, 1, first.attempt + 1)
    assert second.resume_from.name == version.name
    assert saved(second, 1, 9.0, tmp_path / "m") is None
    with pytest.raises(keepbest.StaleAttempt) as caught:
        first.report_epoch(1, {"val_loss": 0.1})
    assert caught.value.reason == "STALE_ATTEMPT"
    assert caught.value.metadata["attempt"] == str(second.attempt)
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION


def test_events_of_another_process_in_the_attempt_end_the_reports_and_say_what_to_do(interposer: Interposer, project):
    client = keepbest.Client(interposer.address, timeout=30)
    run = client.start_run(project, "r", BEST, request_id="one")
    run.report_epoch(0, {"val_loss": 0.5})

    def refuse(request, forward):
        raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "SEQUENCE_CONFLICT", sequence="1")

    interposer.hooks["ReportEvents"] = refuse
    interposer.calls.clear()
    for report in (
        lambda: run.report_epoch(1, {"val_loss": 0.4}),
        lambda: run.report_batch(2, 0, {}),
        run.flush,
        run.finish,
    ):
        with pytest.raises(keepbest.SequenceConflict, match="End one of them, and pass a launch that is new") as caught:
            report()
        assert caught.value.metadata == {"sequence": "1"}
    assert interposer.calls == ["ReportEvents"], "what is refused for good is not sent again"


def test_a_repeated_start_is_one_attempt(client, project):
    first = client.start_run(project, "r", BEST, request_id="one")
    again = client.start_run(project, "r", BEST, request_id="one")
    assert again.attempt == first.attempt


def test_a_report_that_was_taken_in_part_goes_on(interposer: Interposer, project):
    """As when the decisions about its events do not fit one answer."""

    def take_two(request, forward):
        whole = ReportEventsRequest.FromString(request)
        del whole.events[2:]
        return forward(whole.SerializeToString())

    interposer.hooks["ReportEvents"] = take_two
    client = keepbest.Client(interposer.address, timeout=30)
    run = client.start_run(project, "r", BEST)
    for batch in range(6):
        assert run.report_batch(0, batch, {"loss": 1.0}) is None
    decision = run.report_epoch(0, {"val_loss": 1.0})
    assert decision is not None and decision.sequence == 6
    assert [event.sequence for event in client.events(run.name)] == list(range(7))
    assert run.report_epoch(1, {"val_loss": 2.0}).action == keepbest.SKIP


def test_batches_are_sent_in_groups_and_waited_for_only_when_a_save_can_come(client, project):
    run = client.start_run(project, "r", keepbest.strategy("m-{batch}.bin", save_freq=4))
    due = [run.report_batch(0, batch, {"loss": 1.0}) for batch in range(10)]
    assert [batch for batch, decision in enumerate(due) if decision] == [3, 7]
    assert len(list(client.events(run.name))) == 8
    run.finish()
    assert len(list(client.events(run.name))) == 10


def test_metrics_keep_their_types(client, project):
    numpy = pytest.importorskip("numpy")
    run = client.start_run(project, "r", keepbest.strategy("m-{steps:d}-{val_loss:.1f}.bin"))
    metrics = {
        "val_loss": numpy.float32(0.5),
        "steps": numpy.int64(7),
        "none": None,
        "many": numpy.ones(2),
        "text": "x",
    }
    assert run.report_epoch(0, metrics).path == "m-7-0.5.bin"
    (recorded,) = client.events(run.name)
    assert recorded.event.typed_metrics["many"].not_scalar == "[1. 1.]"
    assert recorded.event.typed_metrics["none"].missing is True
    assert recorded.event.typed_metrics["text"].text == "x"


def test_errors_have_their_class_and_reason(client, project):
    with pytest.raises(keepbest.NotFound):
        client.version(f"{project}/nothing:best")
    with pytest.raises(keepbest.NotFound):
        client.start_run(project, "nothing", BEST, resume="must")
    with pytest.raises(keepbest.InvalidArgument) as caught:
        client.start_run(project, "r", keepbest.strategy("/absolute.bin"))
    assert isinstance(caught.value, ValueError)
    client.start_run(project, "r", BEST)
    with pytest.raises(keepbest.AlreadyExists) as caught:
        client.start_run(project, "r", BEST, resume="never")
    assert caught.value.reason == "RUN_EXISTS"


def test_an_unknown_direction_says_what_to_pass(client, project):
    with pytest.raises(keepbest.InvalidArgument, match="mode"):
        client.start_run(project, "r", keepbest.strategy("m.bin", monitor="val_foo"))
    run = client.start_run(project, "r", keepbest.strategy("m.bin", monitor="val_foo"), metric_directions={"foo": "up"})
    assert run.resource.direction == 2


@pytest.mark.parametrize("reported", [1, 5], ids=["behind the default writer", "ahead of the default writer"])
def test_a_named_writer_goes_on_where_it_stopped_itself(client, project, reported):
    for start in range(2):
        writer = client.start_run(project, "r", BEST, writer="rank-1")
        for epoch in range(reported):
            assert writer.report_epoch(start * reported + epoch, {"val_loss": 0.1}) is None
        leader = client.start_run(project, "r", BEST)
        for epoch in range(3):
            leader.report_epoch(epoch, {"val_loss": 1.0})
    events = [recorded for recorded in client.events(leader.name) if recorded.writer == "rank-1"]
    assert [(recorded.sequence, recorded.event.epoch) for recorded in events] == [(n, n) for n in range(2 * reported)]


def test_an_exception_marks_the_run_as_failed_and_goes_through(client, project):
    with pytest.raises(ZeroDivisionError), client.start_run(project, "r", BEST) as run:
        raise ZeroDivisionError
    assert client.run(run.name).state == 3


def test_a_server_that_is_away_is_unavailable_after_the_budget():
    client = keepbest.Client("127.0.0.1:1", timeout=0.5)
    with pytest.raises(keepbest.Unavailable):
        client.run("teams/t/projects/p/runs/r")


def test_events_reported_while_the_server_is_away_come_later(own_server: Server, project):
    client = keepbest.Client(own_server.address, timeout=30)
    run = client.start_run(project, "r", BEST)
    own_server.kill()
    client.timeout = 0.3
    for epoch, value in enumerate([0.5, 0.4]):
        with pytest.raises(keepbest.Unavailable):
            run.report_epoch(epoch, {"val_loss": value})
    own_server.start()
    client.timeout = 30
    decision = run.report_epoch(2, {"val_loss": 0.45})
    # The models of the outage were not kept, so their saves were given up, and this one is the best.
    assert decision.action == keepbest.SAVE
    assert [recorded.event.epoch for recorded in client.events(run.name)] == [0, 1, 2]


def test_a_call_is_repeated_while_the_server_restarts(own_server: Server, project):
    client = keepbest.Client(own_server.address, timeout=60)
    run = client.start_run(project, "r", BEST)
    own_server.kill()
    own_server.start()
    assert run.report_epoch(0, {"val_loss": 1.0}).action == keepbest.SAVE


def test_threads_that_meet_at_the_first_call_share_one_channel_and_leak_none(server: Server, monkeypatch):
    connection = keepbest.Client(server.address).connection
    opened, both = [], threading.Barrier(2)
    open_ = Connection._open

    def open_together(self):
        stubs = open_(self)
        opened.append(stubs)
        both.wait()
        return stubs

    monkeypatch.setattr(Connection, "_open", open_together)
    with futures.ThreadPoolExecutor() as threads:
        first, second = (thread.result() for thread in [threads.submit(connection.stubs) for _ in range(2)])
    assert first is second and len(opened) == 2
    (leaked,) = [stubs for stubs in opened if stubs is not first]
    with pytest.raises(ValueError, match="closed channel"):
        leaked.runs.GetRun(GetRunRequest())
    with pytest.raises(grpc.RpcError):
        first.runs.GetRun(GetRunRequest())


def test_a_forked_child_makes_its_own_channel(client, project):
    run = client.start_run(project, "r", BEST)
    child = os.fork()
    if child == 0:  # it must not run pytest's clean-up
        code = 1
        try:
            code = 0 if client.run(run.name).name == run.name else 2
        finally:
            os._exit(code)
    assert client.run(run.name).name == run.name
    end = time.monotonic() + 30
    while (status := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
        time.sleep(0.05)
    assert status == (child, 0)
    assert run.report_epoch(0, {"val_loss": 1.0}).action == keepbest.SAVE


def test_pull_brings_back_a_directory(client, project, tmp_path):
    source = tmp_path / "source"
    (source / "a" / "b").mkdir(parents=True)
    big = random_file(source / "a" / "big", (8 << 20) + 5)
    small = random_file(source / "a" / "b" / "small", 3)
    (source / "empty").write_bytes(b"")
    run = client.start_run(project, "r", BEST)
    version = run.save(run.report_epoch(0, {"val_loss": 1.0}), source, {"note": "x"}, sha256=True)
    assert (version.file_count, version.metadata["note"]) == (3, "x")
    pulled = client.pull(f"{project}/run-r-model:best", tmp_path / "target")
    assert same(client.version(f"{project}/run-r-model:v0", include_files=True), pulled)
    assert (tmp_path / "target/a/big").read_bytes() == big
    assert (tmp_path / "target/a/b/small").read_bytes() == small
    assert sorted(path.name for path in (tmp_path / "target").rglob("*") if path.is_file()) == ["big", "empty", "small"]


def test_a_version_of_more_files_than_a_page_is_pulled_whole(client, project, tmp_path):
    files = 1_100
    source = tmp_path / "source"
    source.mkdir()
    for number in range(files):
        (source / f"{number:04}").write_text(str(number))
    version = saved(client.start_run(project, "r", BEST), 0, 0.4, source)
    pulled = client.pull(version.name, tmp_path / "target")
    assert len(pulled.files) == version.file_count == files
    assert {path.name: path.read_text() for path in (tmp_path / "target").iterdir()} == {
        f"{number:04}": str(number) for number in range(files)
    }
    assert same(client.best(version.run, include_files=True), pulled)


def test_pull_gives_files_the_mode_of_new_files_and_leaves_the_umask_alone(client, project, tmp_path, monkeypatch):
    random_file(tmp_path / "m", 10)
    run = client.start_run(project, "r", BEST)
    version = saved(run, 0, 0.4, tmp_path / "m")
    umask = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            # It belongs to the whole process: another thread might create a file meanwhile.
            patch.setattr(os, "umask", lambda mask: pytest.fail("the umask was changed"))
            client.pull(version.name, tmp_path / "pulled")
    finally:
        os.umask(umask)
    assert (tmp_path / "pulled" / "m").stat().st_mode & 0o777 == 0o640


def leave_one_out(page: ListFilesResponse) -> None:
    del page.files[0]


def swap_the_digests(page: ListFilesResponse) -> None:
    first, second = page.files
    first.digest, second.digest = second.digest, first.digest


def name_one_otherwise(page: ListFilesResponse) -> None:
    page.files[0].path += "x"


@pytest.mark.parametrize("spoil", [leave_one_out, swap_the_digests, name_one_otherwise])
def test_pull_takes_no_files_but_those_of_the_versions_digest(client, interposer: Interposer, project, tmp_path, spoil):
    (tmp_path / "m").mkdir()
    for name in ("a", "b"):
        random_file(tmp_path / "m" / name, 10)
    version = saved(client.start_run(project, "r", BEST), 0, 0.4, tmp_path / "m")

    def spoilt(request, forward):
        answer = ListFilesResponse.FromString(forward(request))
        spoil(answer)
        return answer.SerializeToString()

    interposer.hooks["ListFiles"] = spoilt
    with pytest.raises(keepbest.DataLoss, match="is not what was committed"):
        keepbest.Client(interposer.address, timeout=30).pull(version.name, tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()
    assert "ReadFile" not in interposer.calls


def test_pull_never_leaves_the_directory_and_follows_no_symlink(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    for path in ("/etc/passwd", "../x", "a/../../x", "", "a\\..\\x", "link/x"):
        with pytest.raises(ValueError):
            _pull.target_path(tmp_path, path)
    assert _pull.target_path(tmp_path, "a/b") == tmp_path / "a" / "b"


def test_importing_keepbest_imports_no_framework():
    code = "import sys, keepbest; print({'keras', 'tensorflow', 'jax', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_addresses():
    assert Address.parse("host:1") == Address("host:1", False)
    assert Address.parse("http://host:1") == Address("host:1", False)
    assert Address.parse("https://host") == Address("host:443", True)
    assert Address.parse("[::1]:5") == Address("[::1]:5", False)
    for text in ("ftp://x:1", "host:port", "http://host:1/path", "http://"):
        with pytest.raises(ValueError, match="is not host:port"):
            Address.parse(text)


def test_short_names():
    assert names.version_name("t/p/a:best") == "teams/t/projects/p/artifacts/a/versions/best"
    assert names.parent_name("t/p") == "teams/t/projects/p"
    assert names.parent_name("teams/t/projects/p/runs/r") == "teams/t/projects/p/runs/r"
    for text in ("t/p/a", "t/p:best", "t//a:best", "t/p/a:"):
        with pytest.raises(ValueError, match="neither"):
            names.version_name(text)


def texts_of(size_bytes: int) -> dict[str, str]:
    """Metrics of 1,000 bytes each: a longer one would be cut."""
    return {f"log{number}": "x" * 1_000 for number in range(size_bytes // 1_000)}


def test_a_full_buffer_drops_the_oldest_events_by_their_bytes(monkeypatch):
    monkeypatch.setattr(_events, "_CAPACITY_BYTES", 100_000)
    buffer = EventBuffer(DueCounter(None))

    def add(epoch: int, size_bytes: int) -> Entry:
        return buffer.add(make_event(EventKind.EVENT_KIND_EPOCH_END, epoch, texts_of(size_bytes)))

    first = add(0, 30_000)
    for epoch in (1, 2):
        add(epoch, 30_000)
    with pytest.warns(UserWarning, match=r"3 events wait.*the oldest are dropped"):
        add(3, 30_000)
    add(4, 90_000)
    assert (len(buffer), buffer.dropped) == (1, 4)
    assert first.why_undecided.startswith("its event was dropped"), "so that its model is told of"
    add(5, 200_000)
    # Whether one that is too large on its own can be stored is for the server to say.
    assert [entry.event.epoch for entry in buffer.group()] == [5]


def test_a_group_of_events_is_bounded_by_its_bytes():
    buffer = EventBuffer(DueCounter(1000))
    for batch in range(5):
        buffer.add(make_event(EventKind.EVENT_KIND_BATCH_END, 0, texts_of(400_000), batch=batch))
    sizes = []
    while group := buffer.group():
        sizes.append(len(group))
        buffer.confirm(len(buffer.group()), NextDue(batches=1000))
    assert sizes == [2, 2, 1]


def test_a_report_that_is_above_a_limit_holds_nothing_up(interposer: Interposer, project):
    client = keepbest.Client(interposer.address, timeout=30)
    run = client.start_run(project, "r", BEST)

    def refuse(request, forward):
        raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")

    interposer.hooks["ReportEvents"] = refuse
    with pytest.raises(keepbest.ResourceExhausted):
        run.report_epoch(0, {"val_loss": 0.5})
    del interposer.hooks["ReportEvents"]
    assert run.report_epoch(1, {"val_loss": 0.4}).action == keepbest.SAVE
    assert [recorded.event.epoch for recorded in client.events(run.name)] == [1]


def test_the_due_counter_counts_as_the_server_does():
    counter = DueCounter(3)
    batches = [1, 3, 5, 1, 3, 0, 1, 2]  # two steps an execution, then another epoch
    events = [make_event(EventKind.EVENT_KIND_BATCH_END, 0, {}, batch=batch) for batch in batches]
    assert [counter.step(event) for event in events] == [False, True, False, True, False, True, False, False]
    counter.correct(NextDue(batches=1))
    assert counter.step(make_event(EventKind.EVENT_KIND_BATCH_END, 0, {}, batch=3))
