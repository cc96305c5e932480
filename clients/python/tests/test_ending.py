"""Ends of a training that its framework does not tell: the run has failed, and a save that runs is finished."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import plain
import pytest

import keepbest
from keepbest.types import RunState

FAILED, FINISHED, ACTIVE = RunState.RUN_STATE_FAILED, RunState.RUN_STATE_FINISHED, RunState.RUN_STATE_ACTIVE
# Writes the model, and is asked to end before it is uploaded.
_SIGTERM_IN_A_SAVE = """
write = callback._write
def write_and_ask(path):
    write(path)
    callback._write = write
    os.kill(os.getpid(), 15)
callback._write = write_and_ask
"""
# The upload hangs for ever.
_SIGTERM_IN_A_SAVE_THAT_HANGS = """
import threading
import warnings
def hang(*_, **__):
    os.kill(os.getpid(), 15)
    threading.Event().wait()
callback._session.run.save = hang
"""
_BACKGROUND_FAILS = """
callback._session._background.wait()
def fail(*_, **__):
    raise ValueError("the upload failed")
callback._session.run.save = fail
write = callback._write
def write_and_die(path):
    write(path)
    callback.on_epoch_begin = die
def die(epoch, logs=None):
    raise KeyError("x")
callback._write = write_and_die
"""


@pytest.fixture
def train(server, project, tmp_path):
    """Trains in another process, which runs this code in the second epoch."""

    def train(code, **arguments):
        arguments = {"filepath": str(tmp_path / "out/m-{epoch}.txt"), "server": server.address, **arguments}
        arguments |= {"project": project, "run": "r"}
        command = [sys.executable, "-W", "always", plain.__file__, json.dumps(arguments), code]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    return train


def outcome(client, project):
    """The run's state, the reason of its end, and the epochs that were saved."""
    run = client.run(f"teams/{project.replace('/', '/projects/')}/runs/r")
    events = list(client.events(run.name))
    reasons = [event.event.typed_metrics["failure"].text for event in events if event.event.typed_metrics]
    return run.state, reasons, [version.epoch for version in client.versions(run.artifact)]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("code", "exit_code", "reason"),
    [
        ("raise KeyError('x')", 1, "KeyError: 'x'"),
        ("os.kill(os.getpid(), 2)", -2, "KeyboardInterrupt"),
        ("sys.exit(3)", 3, "an exception ended fit"),
        ("os.kill(os.getpid(), 15)", -15, "SIGTERM"),
    ],
)
def test_a_process_that_ends_tells_why(client, project, train, asynchronous, code, exit_code, reason):
    ended = train(code, asynchronous=asynchronous)
    assert ended.returncode == exit_code, ended.stderr
    assert outcome(client, project) == (FAILED, [reason], [0])


def test_a_save_that_runs_is_finished_before_the_process_ends(client, project, train):
    ended = train(_SIGTERM_IN_A_SAVE)
    assert ended.returncode == -signal.SIGTERM, ended.stderr
    assert outcome(client, project) == (FAILED, ["SIGTERM"], [1, 0])


def test_a_save_that_does_not_end_keeps_the_process_for_the_grace_only(client, project, train):
    ended = train(_SIGTERM_IN_A_SAVE_THAT_HANGS, grace_seconds=0.5)
    assert ended.returncode == -signal.SIGTERM, ended.stderr
    assert outcome(client, project) == (FAILED, [], [0])


def test_the_error_of_an_upload_in_the_background_is_told_by_a_process_that_dies(client, project, train):
    ended = train(_BACKGROUND_FAILS, asynchronous=True)
    assert ended.returncode == 1 and "not saved: the upload failed" in ended.stderr
    assert outcome(client, project) == (FAILED, ["KeyError: 'x'"], [0])


def test_a_handler_of_the_trainings_own_is_left_alone(client, project, train):
    handler = "import signal; signal.signal(15, signal.default_int_handler)"
    ended = train(f"{handler}; os.kill(os.getpid(), 15)")
    assert outcome(client, project) == (FAILED, ["KeyboardInterrupt"], [0]), ended.stderr


def test_the_end_of_a_forked_child_is_not_the_end_of_its_parents_training(client, project, train):
    fork = """
child = os.fork()
if not child:
    os.kill(os.getpid(), 15)
assert os.waitpid(child, 0)[1] == 15
child = os.fork()
if not child:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    ended = train(fork)
    assert ended.returncode == 0, ended.stderr
    assert outcome(client, project) == (FINISHED, [], [2, 1, 0])


@pytest.fixture
def callback(server, project, tmp_path):
    return plain.Callback(tmp_path / "m-{epoch}.txt", server=server.address, project=project, run="r")


def test_an_exception_that_is_caught_ends_the_run_too(client, project, callback):
    def fails(epoch):
        if epoch == 1:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        plain.fit(callback, in_epoch=fails)
    for thread in threading.enumerate():
        if thread.name == "keepbest-ending":
            thread.join()
    state, reasons, epochs = outcome(client, project)
    assert (state, len(reasons), epochs) == (FAILED, 1, [0])
    # And the same callback may go on.
    plain.fit(callback, 3, first=1)
    assert outcome(client, project)[::2] == (FINISHED, [2, 1, 0])


def test_an_ordinary_end_leaves_no_handler_behind(client, project, callback):
    plain.fit(callback)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert outcome(client, project) == (FINISHED, [], [1, 0])


def test_a_run_of_a_script_fails_with_the_reason(client, project, tmp_path):
    rule = keepbest.strategy("m", "loss", mode="min")
    with pytest.raises(ValueError, match="wrong"), client.start_run(project, "r", rule) as run:
        (tmp_path / "m").write_text("m")
        run.save(run.report_epoch(0, {"loss": 0.5}), tmp_path / "m")
        raise ValueError("wrong")
    assert outcome(client, project) == (FAILED, ["ValueError: wrong"], [0])


def test_local_files_go_once_they_are_safe_if_asked(client, project, server, tmp_path):
    for asynchronous in (False, True):
        callback = plain.Callback(
            tmp_path / "m-{epoch}.txt",
            server=server.address,
            project=project,
            run="r",
            keep_local=False,
            asynchronous=asynchronous,
        )
        with pytest.warns(UserWarning, match="is an old one") if asynchronous else contextlib.nullcontext():
            plain.fit(callback)
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []
    assert outcome(client, project)[2] == [1, 0, 1, 0]


def test_a_full_disk_of_the_trainers_ends_no_training_whose_files_are_not_kept(client, project, server, tmp_path):
    def full(path):
        Path(path).write_text("half")
        raise OSError(28, "No space left on device")

    arguments = {"server": server.address, "project": project, "run": "r"}
    callback = plain.Callback(tmp_path / "m-{epoch}.txt", keep_local=False, **arguments)
    write, callback._write = callback._write, full

    def room_again(epoch):
        if epoch == 1:
            callback._write = write

    with pytest.warns(UserWarning, match="epoch 1 is not saved, there is no room: .*No space left"):
        plain.fit(callback, in_epoch=room_again)
    assert outcome(client, project) == (FINISHED, [], [1])
    kept = plain.Callback(tmp_path / "m-{epoch}.txt", **arguments)
    kept._write = full
    kept.initial_epoch()
    with pytest.raises(OSError, match="No space left"):
        plain.fit(kept)


# Dies in the middle of writing a model, and another time with an upload that waits.
_KILLED_IN_A_WRITE = """
def write_a_part(path):
    open(path, "w").write("half")
    os.kill(os.getpid(), 9)
callback._write = write_a_part
"""
_KILLED_IN_AN_UPLOAD = """
import threading
import warnings
callback._session.run.save = lambda *_, **__: os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("template", ["m-{epoch}.txt", "of-{epoch}/m.txt", "m.txt"])
def test_what_a_killed_process_left_beside_the_models_goes_with_the_next_start(train, tmp_path, template):
    out = tmp_path / "out"

    def hidden():
        return [it for it in out.rglob(".keepbest-*") if not it.name.endswith(".keepbest-pulled")]

    for code in (_KILLED_IN_A_WRITE, _KILLED_IN_AN_UPLOAD):
        killed = train(code, filepath=str(out / template), asynchronous=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    mine = out / f".keepbest-r-best-{'0' * 32}"
    mine.mkdir()  # another run's
    assert len(hidden()) == 2, "the second start removed what the first one left"
    trained = train("", filepath=str(out / template))
    assert trained.returncode == 0, trained.stderr
    assert hidden() == [mine]
    assert (out / template.format(epoch=3)).read_text() == "epoch 2"


@pytest.mark.parametrize("every_epochs", [1, 2])
def test_what_was_killed_while_it_held_a_model_goes_with_the_next_start(train, tmp_path, every_epochs):
    """In its second epoch. With `every_epochs` 2 nothing was kept before, so that the server never hears of the run."""
    out = tmp_path / "out"
    away = {"server": "127.0.0.1:1", "retry_seconds": 0.1}
    killed = train(_KILLED_IN_A_WRITE, every_epochs=every_epochs, **away)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list(out.glob("keepbest-held/.keepbest-*"))) == 1
    trained = train("")
    assert trained.returncode == 0, trained.stderr
    assert not (out / "keepbest-held").exists(), list(out.rglob("*"))


def test_a_run_whose_process_died_before_its_end_is_ended_by_a_start_that_has_nothing_to_train(
    train, client, project, tmp_path
):
    killed = train("callback._session.run._finish = lambda *_: os.kill(os.getpid(), 9)")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run = f"{project}/r"
    assert client.run(run).state == ACTIVE
    arguments = {"server": client.connection.address.target, "project": project, "run": "r"}
    callback = plain.Callback(tmp_path / "out/m-{epoch}.txt", **arguments)
    first = callback.resume(plain.Model())
    assert first == 3
    plain.fit(callback, epochs=3, first=first)
    assert (client.run(run).state, client.run(run).last_epoch) == (FINISHED, 2)
    attempt = client.run(run).attempt
    again = plain.Callback(tmp_path / "out/m-{epoch}.txt", **arguments)
    plain.fit(again, epochs=3, first=again.resume(plain.Model()))
    assert client.run(run).attempt == attempt, "a run that has ended is left alone"


def test_the_count_of_batches_goes_on_in_a_second_fit(server, project, tmp_path):
    arguments = {"server": server.address, "project": project, "run": "r", "save_freq": 2}
    callback = plain.Callback(tmp_path / "m-{epoch}-{batch}.txt", **arguments)
    plain.fit(callback, epochs=3)
    plain.fit(callback, epochs=5, first=3)
    assert sorted(path.name for path in tmp_path.glob("*.txt")) == ["m-2-1.txt", "m-4-1.txt"]


@pytest.mark.parametrize("when", ["at the end", "in a batch"])
def test_where_warnings_are_errors_a_training_without_its_server_goes_on_and_keeps_what_waits(
    own_server, project, tmp_path, caplog, when
):
    arguments = {"server": own_server.address, "project": project, "run": "r", "retry_seconds": 0.1}
    callback = plain.Callback(tmp_path / "m-{epoch}.txt", every_epochs=3, **arguments)

    def server_goes(epoch):
        if epoch == (4 if when == "at the end" else 1):
            own_server.kill()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain.fit(callback, 5, in_epoch=server_goes)
    (spool,) = tmp_path.rglob("*.spool")
    assert '"ended": "RUN_STATE_FINISHED"' in spool.read_text()
    assert "the server is away" in caplog.text and "events: not reported but kept in" in caplog.text
