"""The callback for Keras 3, on the JAX backend, with a real server."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import grpc
import pytest
from conftest import Interposer, Proxy, Refused, Server
from training import Drive, X, Y, model, names, versions

import keepbest
from keepbest import _outage, _retry, _session

keras = pytest.importorskip("keras", minversion="3.0")
import numpy as np  # noqa: E402

from keepbest.keras import ModelCheckpoint, dialect  # noqa: E402


@pytest.fixture
def make(server: Server, project, tmp_path):
    """Makes callbacks of one run that save below tmp_path/"out"."""

    def make(template="m-{epoch:02d}.weights.h5", **arguments):
        arguments = {"server": server.address, "project": project, "run": "r", "retry_seconds": 20.0, **arguments}
        arguments.setdefault("save_weights_only", template.endswith(".weights.h5"))
        return ModelCheckpoint(str(tmp_path / "out" / template), **arguments)

    return make


@pytest.mark.parametrize("template", ["m-{epoch}.keras", "m-{epoch}.h5", "m-{epoch}.weights.h5"])
def test_fit_saves_locally_and_on_the_server(client, make, tmp_path, template):
    callback = make(template, metadata={"author": "me"})
    made = model()
    made.fit(X, Y, epochs=2, validation_data=(X, Y), callbacks=[callback], verbose=0)
    files = [template.format(epoch=1), template.format(epoch=2)]
    assert names(tmp_path / "out") == files
    version = client.best(callback.run_name, "val_loss", "min")
    assert version.epoch == 1 and version.metadata["author"] == "me" and "val_auc" in version.metrics
    assert version.weights_only == template.endswith(".weights.h5")
    client.pull(version.name, tmp_path / "pulled")
    path = tmp_path / "pulled" / files[1]
    assert path.read_bytes() == (tmp_path / "out" / files[1]).read_bytes()
    if version.weights_only:
        other = model()
        other.load_weights(path)
    else:
        other = keras.saving.load_model(path)
    np.testing.assert_allclose(other.predict(X, verbose=0), made.predict(X, verbose=0), rtol=1e-5)
    assert client.run(callback.run_name).state == 2


def test_only_the_best_is_saved_and_the_lines_are_those_of_keras(make, tmp_path, capsys):
    callback = make(save_best_only=True, verbose=1)
    drive = Drive(callback).epoch(0, val_loss=0.5).epoch(1, val_loss=0.6).epoch(2, val_loss=0.4)
    drive.end()
    out = tmp_path / "out"
    assert names(out) == ["m-01.weights.h5", "m-03.weights.h5"]
    finished = ["\nEpoch 1: finished saving model to " + str(out / "m-01.weights.h5")] if dialect_announces() else []
    lines = [f"\nEpoch 1: val_loss improved from None to 0.50000, saving model to {out / 'm-01.weights.h5'}", *finished]
    assert "\n".join(lines) in capsys.readouterr().out
    assert callback.best == 0.4


def dialect_announces():
    return dialect(tuple(int(part) for part in keras.__version__.split(".")[:2]))["announce_finished"]


def test_a_restart_goes_on_with_the_best_and_the_epoch(client, make, tmp_path):
    first = make("best.weights.h5", save_best_only=True)
    assert first.initial_epoch() == 0
    Drive(first).epoch(0, val_loss=0.5).epoch(1, val_loss=0.4)  # then the process dies
    second = make("best.weights.h5", save_best_only=True)
    assert second.initial_epoch() == 2
    before = (tmp_path / "out" / "best.weights.h5").read_bytes()
    drive = Drive(second).epoch(2, val_loss=9.0)
    assert (tmp_path / "out" / "best.weights.h5").read_bytes() == before
    assert second.best == 0.4
    drive.epoch(3, val_loss=0.3).end()
    assert [version.epoch for version in versions(client, second)] == [3, 1, 0]
    assert second.initial_epoch() == 4


def test_a_callbacks_own_connection_ends_with_its_training(client, make):
    own, given = make(), make(run="r2", client=client)
    for callback in (own, given):
        Drive(callback).epoch(0, val_loss=0.5).end()
    assert own._client.connection._stubs == {}
    assert client.connection._stubs != {}
    assert own.initial_epoch() == 1


def test_saves_after_batches(client, make, tmp_path):
    callback = make("m-{epoch}-{batch}.weights.h5", save_freq=4)
    model().fit(X, Y, batch_size=5, epochs=2, callbacks=[callback], verbose=0)  # 6 batches an epoch
    assert names(tmp_path / "out") == ["m-1-4.weights.h5", "m-2-2.weights.h5", "m-2-6.weights.h5"]
    assert [version.batch for version in versions(client, callback)] == [5, 1, 3]


def test_a_direction_comes_from_the_compiled_metrics(client, make):
    callback = make(monitor="val_auc", save_best_only=True)
    Drive(callback).epoch(0, val_auc=0.5).epoch(1, val_auc=0.7).epoch(2, val_auc=0.6).end()
    assert client.best(callback.run_name).epoch == 1
    with pytest.raises(ValueError, match="mode"):
        Drive(make(monitor="val_unknown", run="other")).epoch(0, val_unknown=1.0)


def test_a_missing_monitor_warns_and_saves_as_keras_does(make, tmp_path):
    drive = Drive(make(monitor="nothing", mode="min", save_best_only=True))
    with pytest.warns(UserWarning, match="Can save best model only with nothing available"):
        drive.epoch(0, val_loss=1.0)
    assert names(tmp_path / "out") == ["m-01.weights.h5"]


def test_a_misspelt_monitor_is_told_before_keras_own_sentence(make):
    callback = make("m-{epoch:02d}-{val_loss:.2f}.weights.h5", monitor="vall_loss", mode="min", save_best_only=True)
    drive = Drive(callback)
    with pytest.warns(UserWarning) as told:
        drive.epoch(0, loss=1.0, val_loss=1.0).epoch(1, loss=1.0, val_loss=0.5)
    texts = [str(it.message) for it in told if it.category is UserWarning]
    assert texts[0].startswith("Keepbest: epoch 1 has no `vall_loss`, which the run monitors: it has `val_loss`; is")
    assert texts[1].startswith("Can save best model only with vall_loss available")
    assert sum("is that the one?" in text for text in texts) == 1 and "{vall_loss}" not in "".join(texts)
    with pytest.raises(ValueError, match=r"isn't able to automatically.* Did you mean monitor `val_loss`[?]$"):
        Drive(make(monitor="vall_loss", run="other")).epoch(0, val_loss=1.0)


def test_a_missing_key_in_the_template_raises_as_keras_does(make):
    with pytest.raises(KeyError, match="Failed to format this callback filepath"):
        Drive(make("m-{val_nothing:.2f}.weights.h5")).epoch(0, val_loss=1.0)


def test_a_directory_at_the_path_is_an_error_and_the_save_is_abandoned(client, make, tmp_path):
    (tmp_path / "out" / "m-01.weights.h5" / "x").mkdir(parents=True)
    callback = make(save_best_only=True)
    with pytest.raises(IOError, match="Please specify a non-directory filepath"):
        Drive(callback).epoch(0, val_loss=0.1)
    assert names(tmp_path / "out") == []
    Drive(make(save_best_only=True)).epoch(1, val_loss=0.2).end()
    assert client.best(callback.run_name).epoch == 1


def test_a_save_that_fails_locally_leaves_the_old_file(make, tmp_path, monkeypatch):
    drive = Drive(make("best.weights.h5")).epoch(0, val_loss=1.0)
    before = (tmp_path / "out" / "best.weights.h5").read_bytes()

    def half(path, overwrite):
        Path(path).write_bytes(b"half")
        raise RuntimeError("disk")

    monkeypatch.setattr(drive.model, "save_weights", half)
    with pytest.raises(RuntimeError, match="disk"):
        drive.epoch(1, val_loss=1.0)
    assert (tmp_path / "out" / "best.weights.h5").read_bytes() == before
    assert names(tmp_path / "out") == ["best.weights.h5"]


def test_asynchronous_uploads_keep_what_was_decided(client, make, tmp_path):
    callback = make("same.weights.h5", asynchronous=True)
    drive = Drive(callback)
    saved = []
    for epoch in range(4):
        drive.epoch(epoch, val_loss=1.0)
        saved.append((tmp_path / "out" / "same.weights.h5").read_bytes())
        drive.model.train_on_batch(X, Y)
    drive.end()
    assert len(set(saved)) == 4
    for version in versions(client, callback):
        client.pull(version.name, tmp_path / f"v{version.number}")
        assert (tmp_path / f"v{version.number}" / "same.weights.h5").read_bytes() == saved[version.epoch]
    assert names(tmp_path / "out") == ["same.weights.h5"]


def test_asynchronous_errors_are_told_at_once_and_at_the_end(interposer: Interposer, client, make):
    callback = make(server=interposer.address, asynchronous=True)

    def refuse(request, forward):
        raise Refused(grpc.StatusCode.DATA_LOSS, "DATA_LOSS")

    drive = Drive(callback).epoch(0, val_loss=1.0)
    callback._session._background.wait()
    interposer.hooks["CommitCheckpoint"] = refuse
    with pytest.warns(UserWarning, match="epoch 2: not saved: DATA_LOSS"):
        drive.epoch(1, val_loss=1.0)
        callback._session._background.wait()
    del interposer.hooks["CommitCheckpoint"]
    with pytest.warns(UserWarning, match="epoch 2: not saved: DATA_LOSS"):
        drive.epoch(2, val_loss=1.0).end()
    assert [version.epoch for version in versions(client, callback)] == [2, 0]


def away(monkeypatch):
    monkeypatch.setattr(_outage, "_PROBE_SECONDS", 0.0)


def test_a_training_survives_an_outage_and_the_best_of_it_is_kept(own_server: Server, make, tmp_path, monkeypatch):
    away(monkeypatch)
    callback = make(server=own_server.address, save_best_only=True, retry_seconds=0.2)
    drive = Drive(callback).epoch(0, val_loss=0.5)
    own_server.kill()
    drive.epoch(1, val_loss=0.45).epoch(2, val_loss=0.3).epoch(3, val_loss=0.4)
    assert names(tmp_path / "out") == ["keepbest-held/r-epoch-3.weights.h5", "m-01.weights.h5"]
    held = (tmp_path / "out/keepbest-held/r-epoch-3.weights.h5").read_bytes()
    own_server.start()
    callback._session.retry_seconds = 30.0
    callback._session._outage.ends()
    drive.epoch(4, val_loss=0.9)
    with pytest.warns(UserWarning, match="epoch 2: not saved: a later model took its place"):
        drive.end()
    assert names(tmp_path / "out") == ["m-01.weights.h5", "m-03.weights.h5"]
    client = keepbest.Client(own_server.address)
    best = client.best(callback.run_name)
    assert (best.epoch, best.metrics["val_loss"]) == (2, 0.3)
    client.pull(best.name, tmp_path / "pulled")
    assert (tmp_path / "pulled" / "m-03.weights.h5").read_bytes() == held
    assert [recorded.event.epoch for recorded in client.events(callback.run_name)][:5] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("on_unavailable", ["warn", "raise"])
def test_a_fit_lives_on_when_another_process_reports_in_its_attempt(
    interposer: Interposer, make, tmp_path, on_unavailable
):
    callback = make(server=interposer.address, save_best_only=True, on_unavailable=on_unavailable)
    drive = Drive(callback).epoch(0, val_loss=0.5)

    def refuse(request, forward):
        raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "SEQUENCE_CONFLICT", sequence="1")

    interposer.hooks["ReportEvents"] = refuse
    with pytest.warns(UserWarning, match="no model is saved any more.*End one of them, and pass a launch"):
        drive.epoch(1, val_loss=0.4)
    drive.epoch(2, val_loss=0.3)
    # Nothing was decided, so the best model is kept aside.
    assert names(tmp_path / "out") == ["keepbest-held/r-epoch-3.weights.h5", "m-01.weights.h5"]
    with pytest.warns(UserWarning, match="3 events: not reported.*epoch-3.*refused all events: .*End one of them"):
        drive.end()


def test_a_server_that_hangs_holds_a_training_up_once(own_server: Server, make, tmp_path, monkeypatch):
    away(monkeypatch)
    waits = []
    call_once = _retry.call_once

    def counted(method, request, deadline_seconds):
        waits.append(deadline_seconds)
        return call_once(method, request, deadline_seconds)

    monkeypatch.setattr(_retry, "call_once", counted)
    callback = make(server=own_server.address, save_best_only=True, mode="min")
    drive = Drive(callback).epoch(0, val_loss=0.9)
    own_server.pause()
    waits.clear()
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="the server is away"):
        patch.setattr(_session, "_SILENCE_SECONDS", 0.5)
        for epoch in range(1, 20):
            drive.epoch(epoch, val_loss=0.9 - epoch / 100)
    assert waits == [0.5], "of nineteen epochs one waited for the server"
    own_server.resume()
    # Once a probe is answered, the next epoch is reported again.
    last = 19
    while callback._session._outage.error is not None:
        last += 1
        drive.epoch(last, val_loss=0.9)
    drive.end()
    client = keepbest.Client(own_server.address)
    assert [recorded.event.epoch for recorded in client.events(callback.run_name)][: last + 1] == list(range(last + 1))
    # The best model of the outage was kept for the server's decision.
    assert client.best(callback.run_name).epoch == 19
    assert names(tmp_path / "out") == ["m-01.weights.h5", "m-20.weights.h5"]


def test_steps_that_fail_behind_answered_probes_cost_a_small_share_of_the_time():
    class Answered:
        """Stands for the future of a probe that has been answered."""

        def done(self):
            return True

        def exception(self, timeout=None):
            return None

    now = [0.0]
    outage = _outage.Outage(lambda deadline_seconds: Answered(), lambda: now[0])
    spent = 0.0
    while now[0] < 10_000:
        if outage.may_step():
            now[0] += 10.0
            spent += 10.0
            outage.fails(keepbest.Unavailable("no answer"), 10.0)
        now[0] += 0.1
    assert spent <= 10.0 + 0.05 * 10_000
    assert spent >= 0.04 * 10_000, "and it is tried again"


def test_a_server_that_was_never_there_loses_no_model_and_is_told_at_the_end(make, tmp_path, monkeypatch):
    away(monkeypatch)
    callback = make("best.keras", server="127.0.0.1:1", save_best_only=True, retry_seconds=0.1)
    with pytest.warns(UserWarning) as told:
        model().fit(X, Y, epochs=2, validation_data=(X, Y), callbacks=[callback], verbose=0)
    held = names(tmp_path / "out")
    assert held == ["keepbest-held/r-epoch-1.keras", "keepbest-held/r-epoch-2.keras"]
    keras.saving.load_model(tmp_path / "out" / held[-1])
    # Keras and JAX give warnings of their own.
    ours = [text for warning in told if (text := str(warning.message)).startswith("Keepbest")]
    first, last = ours
    assert "the server is away, the training goes on without it" in first
    assert "events: not reported but kept in" in last and "the server is away" in last
    assert all(str(tmp_path / "out" / name) in last for name in held), last


def test_with_a_mode_only_the_best_is_kept_although_no_run_began(make, tmp_path, monkeypatch):
    away(monkeypatch)
    callback = make(server="127.0.0.1:1", save_best_only=True, mode="min", retry_seconds=0.1)
    drive = Drive(callback)
    with pytest.warns(UserWarning):
        drive.epoch(0, val_loss=0.5).epoch(1, val_loss=0.3).epoch(2, val_loss=0.4).end()
    assert names(tmp_path / "out") == ["keepbest-held/r-epoch-2.weights.h5"]


def test_held_models_give_way_to_newer_ones_and_are_named(make, tmp_path, monkeypatch):
    away(monkeypatch)
    model().save_weights(tmp_path / "x.weights.h5")
    size_bytes = (tmp_path / "x.weights.h5").stat().st_size
    drive = Drive(make(server="127.0.0.1:1", retry_seconds=0.1, held_bytes=5 * size_bytes // 2))
    drive.epoch(0, val_loss=0.5).epoch(1, val_loss=0.4)
    held = tmp_path / "out" / "keepbest-held"
    with pytest.warns(UserWarning, match=r"held_bytes.*gave way to the newest: .*r-epoch-1\.weights"):
        drive.epoch(2, val_loss=0.3)
    assert names(held) == ["r-epoch-2.weights.h5", "r-epoch-3.weights.h5"]
    with pytest.warns(UserWarning, match=r"models removed.*r-epoch-1.*r-epoch-2.*models kept aside"):
        drive.epoch(3, val_loss=0.2).end()
    assert names(held) == ["r-epoch-3.weights.h5", "r-epoch-4.weights.h5"]


def test_the_newest_held_model_is_kept_whatever_it_takes(make, tmp_path, monkeypatch):
    away(monkeypatch)
    drive = Drive(make(server="127.0.0.1:1", retry_seconds=0.1, held_bytes=0))
    with pytest.warns(UserWarning, match="gave way"):
        drive.epoch(0, val_loss=0.5).epoch(1, val_loss=0.4).end()
    assert names(tmp_path / "out") == ["keepbest-held/r-epoch-2.weights.h5"]


def test_a_start_is_repeated_as_it_was(interposer: Interposer, make, monkeypatch):
    away(monkeypatch)
    callback = make(server=interposer.address, retry_seconds=0.1)
    requests = []

    def lose_the_first_answer(request, forward):
        requests.append(request)
        answer = forward(request)
        if len(requests) == 1:
            raise Refused(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", retry_seconds=60.0)
        return answer

    interposer.hooks["StartRun"] = lose_the_first_answer
    # As if a metric were added after the first batch.
    monkeypatch.setattr(callback, "_metric_directions", lambda: {f"metric-{len(requests)}": "up"})
    with pytest.warns(UserWarning, match="the server cannot now, the training goes on without it"):
        drive = Drive(callback).epoch(0, val_loss=0.5)
    drive.end()
    assert len(requests) == 2 and requests[0] == requests[1]


def test_where_a_run_stands_is_not_guessed(make):
    with pytest.raises(keepbest.Unavailable, match=r"start it .`keepbest serve`., or name another"):
        make(server="127.0.0.1:1", retry_seconds=0.1).initial_epoch()


def test_an_upload_that_met_no_server_is_done_later(own_server: Server, make, tmp_path, monkeypatch):
    away(monkeypatch)
    callback = make(server=own_server.address, retry_seconds=0.2)
    drive = Drive(callback)
    write = callback._write

    def write_and_kill(path):
        write(path)
        own_server.kill()

    monkeypatch.setattr(callback, "_write", write_and_kill)
    drive.epoch(0, val_loss=1.0)
    monkeypatch.setattr(callback, "_write", write)
    own_server.start()
    callback._session.retry_seconds = 30.0
    drive.epoch(1, val_loss=1.0)
    drive.end()
    client = keepbest.Client(own_server.address)
    assert [version.epoch for version in versions(client, callback)] == [1, 0]


def test_raise_stops_the_training(make):
    callback = make(server="127.0.0.1:1", on_unavailable="raise", retry_seconds=0.1)
    with pytest.raises(keepbest.Unavailable):
        model().fit(X, Y, epochs=1, callbacks=[callback], verbose=0)


def test_an_upload_through_cuts(server: Server, client, make, tmp_path):
    proxy = Proxy(server, [3 << 20, 20 << 20])
    keras.utils.set_random_seed(1)
    large = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2048), keras.layers.Dense(3000)])
    large.compile(loss="mse", optimizer="sgd")
    callback = make("m.keras", server=proxy.address)
    large.fit(X, np.zeros((30, 3000), "float32"), epochs=1, callbacks=[callback], verbose=0)
    assert proxy.cuts == 2
    client.pull(client.best(callback.run_name, "loss", "min").name, tmp_path / "pulled")
    assert (tmp_path / "pulled" / "m.keras").read_bytes() == (tmp_path / "out" / "m.keras").read_bytes()
    proxy.close()


def test_the_arguments_stand_in_the_order_of_keras():
    ours = list(inspect.signature(ModelCheckpoint.__init__).parameters.values())
    theirs = list(inspect.signature(keras.callbacks.ModelCheckpoint.__init__).parameters.values())
    plain = [(parameter.name, parameter.default) for parameter in ours if parameter.kind != parameter.KEYWORD_ONLY]
    assert plain == [(parameter.name, parameter.default) for parameter in theirs]


def test_wrong_arguments_are_refused_as_by_keras(tmp_path):
    for arguments, text in [
        ({"save_freq": "often"}, "Unrecognized save_freq: often"),
        ({"save_weights_only": True}, "must end in `.weights.h5`"),
        ({"filepath": "m.bin"}, "must end in `.keras`"),
        ({"filepath": "s3://bucket/m.keras"}, "is remote"),
        ({"held_bytes": -1}, "is negative"),
        ({"on_unavailable": "ignore"}, "neither `warn` nor `raise`"),
        ({"project": "one/two/three"}, "neither `team/project`"),
    ]:
        with pytest.raises(ValueError, match=text):
            ModelCheckpoint(**{"filepath": "m.keras", **arguments})
    with pytest.warns(UserWarning, match="ModelCheckpoint mode 'up' is unknown, fallback to auto mode"):
        ModelCheckpoint("m.keras", mode="up")


def test_the_dialect_follows_the_version_of_keras():
    assert dialect((3, 9))["when_monitor_missing"] == "WHEN_MISSING_SKIP"
    assert dialect((3, 10))["direction_inference"] == "DIRECTION_INFERENCE_NAME"
    assert dialect((3, 12))["announce_finished"] is False
    assert dialect((3, 15)) == {
        "when_monitor_missing": "WHEN_MISSING_SAVE",
        "when_monitor_not_scalar": "WHEN_MISSING_SAVE",
        "when_template_key_missing": "WHEN_TEMPLATE_KEY_MISSING_FAIL",
        "initial_best": "INITIAL_BEST_NONE",
        "announce_finished": True,
        "direction_inference": "DIRECTION_INFERENCE_METRIC_DIRECTIONS",
    }
