"""Uploads: of large, small and many files, with broken connections, and of files that change meanwhile."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import grpc
import pytest
from conftest import Interposer, Proxy, Refused, Server, durable_at_each_try, random_file

import keepbest
from keepbest import _chunks, _files, _upload
from keepbest._files import collect
from keepbest._proto.keepbest.v1.checkpoints_pb2 import GetCheckpointRequest, PrepareFileRequest, WriteFileRequest

ALWAYS = keepbest.strategy("m-{epoch}.bin")
MIB = 1 << 20


def decided(client, project, name="r"):
    run = client.start_run(project, name, ALWAYS)
    return run, run.report_epoch(0, {"val_loss": 1.0})


def pulled(client, version, directory):
    client.pull(version.name, directory)
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("size_bytes", [0, 1, 256 << 10, (1 << 20) + 1, 8 << 20, (16 << 20) + 7])
def test_every_size_comes_back_as_it_was(client, project, tmp_path, size_bytes):
    data = random_file(tmp_path / "m.bin", size_bytes)
    run, decision = decided(client, project)
    version = run.save(decision, tmp_path / "m.bin")
    assert (version.size_bytes, version.epoch) == (size_bytes, 0)
    assert pulled(client, version, tmp_path / "pulled") == {"m.bin": data}


def test_many_small_files_go_in_few_calls(client, project, tmp_path, monkeypatch):
    calls = []
    call = _upload.call
    monkeypatch.setattr(
        _upload, "call", lambda method, request, budget: calls.append(request) or call(method, request, budget)
    )
    for number in range(1200):
        (tmp_path / f"f-{number:04d}").write_bytes(b"%d" % number)
    run, decision = decided(client, project)
    version = run.save(decision, tmp_path)
    assert version.file_count == 1200
    assert [len(request.files) for request in calls] == [1000, 200]


def test_several_paths_and_a_map_of_names(client, project, tmp_path):
    random_file(tmp_path / "a", 10)
    random_file(tmp_path / "b", 10)
    run, decision = decided(client, project)
    version = run.save(decision, [tmp_path / "a", tmp_path / "b"])
    assert sorted(pulled(client, version, tmp_path / "1")) == ["a", "b"]
    version = run.save(run.report_epoch(1, {}), {"x/y": tmp_path / "a"})
    assert sorted(pulled(client, version, tmp_path / "2")) == ["x/y"]


def test_symlinks_equal_names_and_nothing_are_refused_and_abandon_the_save(client, project, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "link").symlink_to("/etc/passwd")
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "empty" / "sub").mkdir()
    run = client.start_run(project, "r", ALWAYS)
    for epoch, (what, text) in enumerate([
        (tmp_path / "empty", "no file"),
        (tmp_path / "linked", "symlink"),
        ([tmp_path / "a", tmp_path / "a"], "would both be"),
    ]):  # fmt: skip
        decision = run.report_epoch(epoch, {})
        with pytest.raises(ValueError, match=text):
            run.save(decision, what)
        state = (
            client.connection.stubs().checkpoints.GetCheckpoint(GetCheckpointRequest(name=decision.checkpoint)).state
        )
        assert state == 3


def test_a_skip_cannot_be_saved(client, project, tmp_path):
    run = client.start_run(project, "r", keepbest.strategy("m.bin", save_best_only=True))
    with pytest.raises(ValueError, match="not SAVE"):
        run.save(run.report_epoch(0, {}), tmp_path)


def test_an_upload_goes_on_after_each_cut(server: Server, project, tmp_path, monkeypatch):
    durable = durable_at_each_try(monkeypatch)
    data = random_file(tmp_path / "m.bin", 40 << 20)
    cuts = [10 * MIB, 24 * MIB, 37 * MIB]
    proxy = Proxy(server, cuts)
    client = keepbest.Client(proxy.address, timeout=60)
    run, decision = decided(client, project)
    version = run.save(decision, tmp_path / "m.bin")
    # What came whole before a cut is not sent again, so the last one may find nothing to cut.
    assert proxy.cuts >= 2
    assert proxy.forwarded_bytes < cuts[proxy.cuts - 1] + len(data) - durable[-1] + MIB
    assert durable == sorted(durable)
    assert pulled(keepbest.Client(server.address), version, tmp_path / "pulled") == {"m.bin": data}
    proxy.close()


def test_an_upload_survives_kill_9_of_the_server(own_server: Server, project, tmp_path):
    data = random_file(tmp_path / "m.bin", 40 << 20)

    def restart(index: int) -> None:
        own_server.kill()
        own_server.start()

    proxy = Proxy(own_server, [18 << 20], restart)
    client = keepbest.Client(proxy.address, timeout=60)
    run, decision = decided(client, project)
    version = run.save(decision, tmp_path / "m.bin")
    assert proxy.cuts == 1
    assert pulled(keepbest.Client(own_server.address), version, tmp_path / "pulled") == {"m.bin": data}
    proxy.close()


@pytest.mark.parametrize(
    ("breaks", "takeovers", "saved"), [([10 << 20], 2, True), ([10 << 20], 9, False), ([], 1, True), ([], 9, False)]
)
def test_a_file_is_taken_back_a_few_times(server: Server, project, tmp_path, monkeypatch, breaks, takeovers, saved):
    data = random_file(tmp_path / "m.bin", 40 << 20)
    proxy = Proxy(server, breaks)
    client = keepbest.Client(proxy.address, timeout=60)
    run, decision = decided(client, project)
    direct = keepbest.Client(server.address).connection.stubs().checkpoints
    fill, taken = _chunks.Messages._message, []

    def fill_and_take(messages, **fields):
        # So far behind the break that no buffer matters: another stream takes the file over, and ends.
        if messages.position == 33 << 20 and len(taken) < takeovers:
            other = WriteFileRequest(checkpoint=decision.checkpoint, attempt=run.attempt, path="m.bin")
            with pytest.raises(grpc.RpcError, match="finish"):
                direct.WriteFile(iter([other]))
            taken.append(other)
        return fill(messages, **fields)

    monkeypatch.setattr(_chunks.Messages, "_message", fill_and_take)
    if saved:
        version = run.save(decision, tmp_path / "m.bin")
        assert pulled(client, version, tmp_path / "pulled") == {"m.bin": data}
    else:
        with pytest.raises(keepbest.Aborted, match="another stream writes this file"):
            run.save(decision, tmp_path / "m.bin")
    # One more than is taken back. The first may have been an earlier, cancelled stream of the client itself.
    assert len(taken) == (takeovers if saved else 4)
    proxy.close()


def test_a_file_that_changes_meanwhile_is_not_committed(client, project, tmp_path, monkeypatch):
    path = tmp_path / "m.bin"
    random_file(path, 4 << 20)
    run, decision = decided(client, project)
    fill = _chunks.Messages._message

    def fill_and_disturb(messages, **fields):
        filled = fill(messages, **fields)
        with path.open("r+b") as opened:
            opened.write(b"changed")
        os.utime(path)
        return filled

    monkeypatch.setattr(_chunks.Messages, "_message", fill_and_disturb)
    with pytest.raises(keepbest.FileChanged, match="was changed while it was uploaded"):
        run.save(decision, path)
    with pytest.raises(keepbest.NotFound):
        client.best(run.name)
    state = client.connection.stubs().checkpoints.GetCheckpoint(GetCheckpointRequest(name=decision.checkpoint)).state
    assert state == 3


def overwrite(path, at: int, data: bytes, times: os.stat_result | None = None) -> None:
    """Write into a file. With `times`, it gets these back, as if nothing had been written."""
    with path.open("r+b") as opened:
        opened.seek(at)
        opened.write(data)
    if times is not None:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("sha256", [False, True])
def test_a_change_that_hides_behind_its_time_is_found(client, project, tmp_path, monkeypatch, sha256):
    path = tmp_path / "m.bin"
    random_file(path, 4 << 20)
    times = path.stat()
    run, decision = decided(client, project)
    fill = _chunks.Messages._message

    def fill_and_disturb(messages, **fields):
        filled = fill(messages, **fields)
        if messages.position == 2 << 20:
            # Half of it has been sent. From now on, bytes of another state are.
            overwrite(path, 0, os.urandom(4 << 20), times)
        return filled

    monkeypatch.setattr(_chunks.Messages, "_message", fill_and_disturb)
    with pytest.raises(keepbest.FileChanged, match="was changed while it was uploaded"):
        run.save(decision, path, sha256=sha256)
    with pytest.raises(keepbest.NotFound):
        client.best(run.name)


def test_a_file_that_only_got_another_name_meanwhile_is_saved(client, project, tmp_path, monkeypatch):
    path = tmp_path / "m.bin"
    data = random_file(path, 4 << 20)
    run, decision = decided(client, project)
    fill = _chunks.Messages._message

    def fill_and_link(messages, **fields):
        (tmp_path / f"link-{messages.position}").hardlink_to(path)
        return fill(messages, **fields)

    monkeypatch.setattr(_chunks.Messages, "_message", fill_and_link)
    version = run.save(decision, path)
    assert pulled(client, version, tmp_path / "pulled") == {"m.bin": data}


@pytest.fixture
def waits(interposer: Interposer, tmp_path, monkeypatch):
    """A clock by hand, at which each file was written a moment ago: for each wait, the call that came before it."""
    seen, now = [], [0.0]

    def time() -> float:
        return now[0] or max(path.stat().st_ctime for path in tmp_path.iterdir()) + 1.0

    def sleep(seconds: float) -> None:
        seen.append(interposer.calls[-1])
        now[0] = time() + seconds

    monkeypatch.setattr(_files, "time", SimpleNamespace(time=time, sleep=sleep))
    monkeypatch.setattr(_files, "_TICK_SECONDS", 3600.0)
    return seen


def before_the_answer(interposer: Interposer, do) -> None:
    """Have something done when small files were read and sent, but not answered."""

    def write(request, forward):
        do()
        return forward(request)

    interposer.hooks["WriteSmallFiles"] = write


def test_what_was_just_written_is_sent_before_it_is_waited_for(interposer: Interposer, project, tmp_path, waits):
    data = random_file(tmp_path / "m.bin", 1000)
    client = keepbest.Client(interposer.address, timeout=30)
    run, decision = decided(client, project)
    version = run.save(decision, tmp_path / "m.bin")
    assert waits == ["WriteSmallFiles"]
    assert pulled(client, version, tmp_path / "pulled") == {"m.bin": data}
    run.save(run.report_epoch(1, {}), tmp_path / "m.bin")
    assert waits == ["WriteSmallFiles"]  # by now it is settled


def test_a_large_file_is_waited_for_before_it_is_read(interposer: Interposer, project, tmp_path, waits):
    random_file(tmp_path / "m.bin", 1 << 20)
    client = keepbest.Client(interposer.address, timeout=30)
    run, decision = decided(client, project)
    run.save(decision, tmp_path / "m.bin")
    assert waits == ["ReportEvents"]


def test_of_many_small_files_only_so_many_are_kept_open(interposer: Interposer, project, tmp_path, waits, monkeypatch):
    monkeypatch.setattr(_upload, "_UNSETTLED_FILES", 2)
    data = {f"f-{number}": random_file(tmp_path / f"f-{number}", 100) for number in range(5)}
    client = keepbest.Client(interposer.address, timeout=30)
    run, decision = decided(client, project)
    version = run.save(decision, [tmp_path / name for name in data])
    assert set(waits) == {"ReportEvents"}
    assert pulled(client, version, tmp_path / "pulled") == data


@pytest.mark.parametrize("how", ["in the same tick", "with its time reset", "later"])
def test_a_change_of_a_small_file_while_it_is_sent_is_found(
    interposer: Interposer, client, project, tmp_path, waits, monkeypatch, how
):
    path = tmp_path / "m.bin"
    random_file(path, 1000)
    run, decision = decided(keepbest.Client(interposer.address, timeout=30), project)
    times, fstat = path.stat(), os.fstat

    def change() -> None:
        overwrite(path, 500, os.urandom(500), None if how == "later" else times)
        if how == "in the same tick":

            def unchanged(descriptor):
                status = fstat(descriptor)
                return times if status.st_ino == times.st_ino else status

            monkeypatch.setattr(_files.os, "fstat", unchanged)

    before_the_answer(interposer, change)
    with pytest.raises(keepbest.FileChanged, match="was changed while it was uploaded"):
        run.save(decision, path)
    assert "CommitCheckpoint" not in interposer.calls
    assert state_of(client, decision) == 3


def test_a_small_file_that_is_replaced_while_it_is_sent_is_saved(interposer: Interposer, project, tmp_path, waits):
    path = tmp_path / "m.bin"
    data = random_file(path, 1000)
    random_file(tmp_path / "other", 1000)
    client = keepbest.Client(interposer.address, timeout=30)
    run, decision = decided(client, project)
    before_the_answer(interposer, lambda: (tmp_path / "other").replace(path))
    version = run.save(decision, path)
    assert pulled(client, version, tmp_path / "pulled") == {"m.bin": data}


@pytest.mark.parametrize("size_bytes", [1000, 9 << 20], ids=["small", "large"])
def test_a_repeat_with_other_bytes_is_no_success(client, project, tmp_path, size_bytes):
    path = tmp_path / "m.bin"
    random_file(path, size_bytes)
    run, decision = decided(client, project)
    uploader = _upload.Uploader(client.connection, decision.checkpoint, run.attempt, client.connection.patience())
    first = uploader.upload(collect(path))
    assert uploader.upload(collect(path)) == first
    overwrite(path, size_bytes - 1, b"x")
    with pytest.raises(keepbest.FileChanged, match="other bytes"):
        run.save(decision, path)


def test_an_upload_does_not_go_on_behind_other_bytes(client, project, tmp_path):
    data = random_file(tmp_path / "m.bin", 20 << 20)
    run, decision = decided(client, project)
    stubs, target = client.connection.stubs().checkpoints, {"checkpoint": decision.checkpoint, "attempt": run.attempt}
    stubs.PrepareFile(PrepareFileRequest(**target, path="m.bin", size_bytes=len(data)))
    other = bytes(1 << 20)
    messages = [WriteFileRequest(**target, path="m.bin", data=other), *[WriteFileRequest(data=other)] * 7]
    with pytest.raises(grpc.RpcError, match="finish"):
        stubs.WriteFile(iter(messages))
    (file,) = stubs.GetCheckpoint(GetCheckpointRequest(name=decision.checkpoint)).files
    assert file.durable_bytes == 8 << 20
    with pytest.raises(keepbest.FileChanged, match=r"holds other bytes as `m\.bin`"):
        run.save(decision, tmp_path / "m.bin")


def test_a_save_that_met_no_server_can_be_repeated(own_server: Server, project, tmp_path):
    random_file(tmp_path / "m.bin", 1 << 20)
    client = keepbest.Client(own_server.address, timeout=30)
    run, decision = decided(client, project)
    own_server.kill()
    client.timeout = 0.3
    with pytest.raises(keepbest.Unavailable):
        run.save(decision, tmp_path / "m.bin")
    own_server.start()
    client.timeout = 30
    assert run.save(decision, tmp_path / "m.bin").number == 0


def test_a_save_can_be_repeated_after_its_commit(interposer: Interposer, project, tmp_path):
    (tmp_path / "m").mkdir()
    random_file(tmp_path / "m" / "large", 9 << 20)
    random_file(tmp_path / "m" / "small", 100)
    client = keepbest.Client(interposer.address, timeout=30)
    run, decision = decided(client, project)

    def lose(request, forward):
        forward(request)
        raise Refused(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")

    interposer.hooks["CommitCheckpoint"] = lose
    with pytest.raises(keepbest.Unavailable):
        run.save(decision, tmp_path / "m", timeout=0.0, sha256=True)
    del interposer.hooks["CommitCheckpoint"]
    for what in (tmp_path / "m", {name: tmp_path / "m" / name for name in ("large", "small")}):
        assert run.save(decision, what, sha256=True).number == 0
    assert "AbandonCheckpoint" not in interposer.calls
    assert client.version(f"{project}/run-r-model:latest").number == 0


def test_a_repeat_of_a_committed_save_with_other_files_is_no_success(client, project, tmp_path):
    for name in ("a", "b", "c"):
        random_file(tmp_path / name, 100)
    large = random_file(tmp_path / "large", 9 << 20)
    run, decision = decided(client, project)
    files = {name: tmp_path / name for name in ("a", "b", "large")}
    version = run.save(decision, files)
    fewer = {name: files[name] for name in ("a", "large")}
    more = {**files, "c": tmp_path / "c"}
    other = {**files, "b": tmp_path / "c"}
    for what, fault in [(fewer, "3 file"), (more, "3 file"), (other, "other bytes")]:
        with pytest.raises(keepbest.KeepbestError, match=fault):
            run.save(decision, what)
    overwrite(tmp_path / "large", 0, b"other")
    with pytest.raises(keepbest.FileChanged, match="other bytes"):
        run.save(decision, files)
    assert pulled(client, version, tmp_path / "pulled")["large"] == large


@pytest.mark.parametrize("reason", ["STORE_FULL", "OVERLOADED"])
def test_a_save_that_met_a_full_or_busy_server_can_be_repeated(interposer: Interposer, project, tmp_path, reason):
    random_file(tmp_path / "m.bin", 100)
    client = keepbest.Client(interposer.address, timeout=30)
    run, decision = decided(client, project)

    def refuse(request, forward):
        raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, reason, 0.1)

    interposer.hooks["WriteSmallFiles"] = refuse
    with pytest.raises(keepbest.ResourceExhausted):
        run.save(decision, tmp_path / "m.bin", timeout=0.0)
    del interposer.hooks["WriteSmallFiles"]
    assert run.save(decision, tmp_path / "m.bin").number == 0


def test_a_newer_attempt_stops_an_upload(client, project, tmp_path):
    random_file(tmp_path / "m.bin", 1 << 20)
    run, decision = decided(client, project)
    client.start_run(project, "r", ALWAYS)
    with pytest.raises(keepbest.StaleAttempt):
        run.save(decision, tmp_path / "m.bin")


def state_of(client, decision):
    return client.connection.stubs().checkpoints.GetCheckpoint(GetCheckpointRequest(name=decision.checkpoint)).state


@pytest.mark.parametrize("how", ["write", "replace"])
def test_a_save_that_waits_publishes_what_it_was_given_or_nothing(client, project, tmp_path, how):
    random_file(tmp_path / "first", 3 << 20)
    path, metadata, go_on = tmp_path / "m.bin", {"step": 1}, threading.Event()
    path.write_bytes(b"1" * 1000)
    run, first = decided(client, project)
    run.save(first, tmp_path / "first", asynchronous=True, on_progress=lambda sent, total: go_on.wait(60))
    changed, kept = run.report_epoch(1, {"val_loss": 0.9}), run.report_epoch(2, {"val_loss": 0.8})
    with pytest.warns(UserWarning, match=r"epoch 2: not saved: .*was changed while it was uploaded"):
        failed = run.save(changed, path, asynchronous=True)
        if how == "write":
            path.write_bytes(b"2" * 1000)
        else:
            (tmp_path / "other").write_bytes(b"2" * 1000)
            (tmp_path / "other").replace(path)
        saved = run.save(kept, path, metadata, asynchronous=True)
        metadata["step"] = 2
        go_on.set()
        assert isinstance(failed.exception(60), keepbest.FileChanged)
        version = saved.result(60)
    assert (version.epoch, version.metadata["step"]) == (2, 1)
    assert pulled(client, version, tmp_path / "pulled") == {"m.bin": b"2" * 1000}
    assert state_of(client, changed) == 3


def test_a_save_in_the_background_of_nothing_is_told_by_its_future(client, project, tmp_path):
    run, decision = decided(client, project)
    with pytest.warns(UserWarning, match="epoch 1: not saved: .*absent"):
        failed = run.save(decision, tmp_path / "absent", asynchronous=True)
        assert isinstance(failed.exception(60), FileNotFoundError)
        run._saves._background.wait()
    assert state_of(client, decision) == 3


def test_saves_from_a_thread_do_not_disturb_reports(client, project, tmp_path):
    random_file(tmp_path / "m.bin", 20 << 20)
    run, decision = decided(client, project)
    versions = []
    thread = threading.Thread(target=lambda: versions.append(run.save(decision, tmp_path / "m.bin")))
    thread.start()
    for epoch in range(1, 5):
        run.abandon(run.report_epoch(epoch, {}))
    thread.join()
    assert versions[0].epoch == 0
