"""The callback with save_format="safetensors": weights straight from memory, beside the training or in it."""

from __future__ import annotations

import copy
import errno
import gc
import pickle
import re
import threading
import weakref

import grpc
import h5py
import numpy as np
import pytest
import safetensors.numpy
from conftest import Interposer, Refused, Server, nothing_told
from training import Drive, X, Y, keras, model, names, versions

import keepbest
from keepbest import _keras_weights, _outage
from keepbest._keras_weights import load_into_model, tensors_of_model
from keepbest._saves import SaveJob
from keepbest._snapshots import SnapshotBuffers
from keepbest._tensors import TensorFile
from keepbest.keras import ModelCheckpoint
from keepbest.types import Decision


@pytest.fixture
def make(server: Server, project, tmp_path):
    def make(template="m-{epoch:02d}.safetensors", **arguments):
        arguments = {"server": server.address, "project": project, "run": "r", "retry_seconds": 20.0, **arguments}
        return ModelCheckpoint(str(tmp_path / "out" / template), save_format="safetensors", **arguments)

    return make


def state(made):
    return {name: np.array(value) for name, value in tensors_of_model(made).items()}


def same(left, right):
    assert set(left) == set(right)
    return all(np.array_equal(left[name], right[name]) for name in left)


def cannot_now(request, forward):
    raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL", retry_seconds=0.0)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_fit_saves_weights_without_a_file_and_resume_gives_all_of_them_back(
    client, make, tmp_path, asynchronous, capsys
):
    callback = make(asynchronous=asynchronous, verbose=1)
    made = model("adam")
    with nothing_told():
        made.fit(X, Y, epochs=2, validation_data=(X, Y), callbacks=[callback], verbose=0)
    assert names(tmp_path) == []
    newest, oldest = versions(client, callback)
    assert (newest.path, newest.weights_only, newest.file_count) == ("m-02.safetensors", True, 1)
    assert same(client.load(newest.name), state(made))
    assert not same(client.load(oldest.name), state(made))
    client.pull(newest.name, tmp_path / "pulled")
    assert same(safetensors.numpy.load_file(tmp_path / "pulled" / newest.path), state(made))
    again = model("adam")  # its layers have other names
    assert make().resume(again) == 2
    assert same(state(again), state(made))
    assert len(again.optimizer.variables) == 10
    held_up = re.findall(r"epoch (\d): the save held the training up for \d+ ms; the upload", capsys.readouterr().out)
    assert held_up == (["1", "2"] if asynchronous else [])
    assert ("blocked_seconds" in newest.metadata) == asynchronous


def test_the_tensors_are_those_of_keras_own_file_of_weights(tmp_path):
    made = model("adam")
    made.fit(X, Y, verbose=0)
    made.save_weights(tmp_path / "m.weights.h5")
    found = {}

    def add(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(tmp_path / "m.weights.h5") as file:
        file.visititems(add)
    assert same(found, state(made))
    assert not [name for name, value in tensors_of_model(made).items() if isinstance(value, np.ndarray)], "no copies"


def test_what_a_background_save_has_is_the_model_of_its_epoch(interposer: Interposer, client, make):
    go_on = threading.Event()

    def wait(request, forward):
        assert go_on.wait(60)
        return forward(request)

    interposer.hooks["CommitCheckpoint"] = wait
    callback = make(server=interposer.address, asynchronous=True)
    drive, after = Drive(callback), []
    for epoch in range(2):
        drive.model.train_on_batch(X, Y)
        after.append(state(drive.model))
        drive.epoch(epoch, val_loss=0.5)
    drive.model.train_on_batch(X, Y)
    go_on.set()
    drive.end()
    saved = versions(client, callback)[::-1]
    assert all(same(client.load(it.name), kept) for it, kept in zip(saved, after, strict=True))
    assert callback._snapshots._free == [], "the memory is given back with the end of the training"


class Own(keras.layers.Layer):
    """Saves something of its own beside its variables."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(), name="factor")
        self.told = 0.0

    def call(self, inputs):
        return inputs * self.factor

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["told"] = self.told

    def load_own_variables(self, store):
        self.told = float(store.pop("told"))
        super().load_own_variables(store)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "bfloat16"])
def test_layers_with_a_state_of_their_own_and_short_floats_come_back(make, dtype):
    def built():
        layers = [
            keras.layers.Input((3,)),
            Own(dtype=dtype),
            keras.layers.Dropout(0.5),
            keras.layers.BatchNormalization(),
        ]
        made = keras.Sequential([*layers, keras.layers.Dense(3, dtype=dtype)])
        made.compile(loss="mse", optimizer=keras.optimizers.SGD(momentum=0.9))
        return made

    made = built()
    made.layers[0].told = 2.5
    Drive(make(asynchronous=True), made=made).epoch(0, val_loss=0.5).end()
    again = built()
    assert make().resume(again) == 1
    assert again.layers[0].told == 2.5
    assert same(state(again), state(made))
    assert any(str(value.dtype) == dtype.removeprefix("mixed_") for value in state(made).values()) or "mixed" in dtype


def test_a_model_is_walked_once_and_again_when_it_has_other_variables(monkeypatch):
    walked = []
    walk = _keras_weights._walked
    monkeypatch.setattr(_keras_weights, "_walked", lambda *them: walked.append(them) or walk(*them))
    made = model("adam")
    assert set(state(made)) == set(state(made))
    assert len(walked) == 1
    made.train_on_batch(X, Y)
    assert any(name.startswith("optimizer/") for name in state(made))
    made.compile(loss="mse", optimizer=keras.optimizers.SGD())
    made.train_on_batch(X, Y)
    assert len([name for name in state(made) if name.startswith("optimizer/")]) == 2
    held = weakref.ref(made)
    own = keras.Sequential([keras.layers.Input((3,)), Own()])
    for told in (1.0, 2.0):
        own.layers[0].told = told
        assert state(own)["layers/own/vars/told"] == told
    walked.clear()
    del made
    keras.backend.clear_session()
    gc.collect()
    assert held() is None


def test_another_model_is_refused():
    tensors = state(model())
    other = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(7)])
    with pytest.raises(ValueError, match="shape"):
        load_into_model(other, tensors)
    unbuilt = keras.Sequential([keras.layers.Dense(7)])
    for work in (tensors_of_model, lambda made: load_into_model(made, tensors)):
        with pytest.raises(ValueError, match="not built yet"):
            work(unbuilt)


def test_arguments_that_do_not_fit_are_refused(make):
    with pytest.raises(ValueError, match=r"`save_format` is 'h5', .* it must be \"safetensors\", or None"):
        ModelCheckpoint("m.keras", save_format="h5")
    with pytest.raises(ValueError, match=r'save_format="safetensors" filepath `m.keras` must end in `.safetensors`'):
        ModelCheckpoint("m.keras", save_format="safetensors")
    with pytest.raises(ValueError, match=r'`m.safetensors` ends in `.safetensors`, which needs save_format="safetens'):
        ModelCheckpoint("m.safetensors")
    for copied in (copy.deepcopy(make()), pickle.loads(pickle.dumps(make()))):
        Drive(copied).epoch(0, val_loss=0.5).end()


def test_while_the_server_is_away_models_are_kept_as_files_and_come_in_later(
    own_server: Server, make, tmp_path, monkeypatch
):
    monkeypatch.setattr(_outage, "_PROBE_SECONDS", 0.0)
    callback = make(server=own_server.address, retry_seconds=0.2, asynchronous=True)
    drive = Drive(callback).epoch(0, val_loss=0.5)
    callback._session._background.wait()
    own_server.kill()
    with pytest.warns(UserWarning, match="the server is away"):
        drive.epoch(1, val_loss=0.4)
    assert names(tmp_path / "out") == ["keepbest-held/r-epoch-2.safetensors"]
    held = safetensors.numpy.load_file(tmp_path / "out" / "keepbest-held" / "r-epoch-2.safetensors")
    assert same(held, state(drive.model))
    own_server.start()
    callback._session.retry_seconds = 30.0
    callback._session._outage.ends()
    drive.model.train_on_batch(X, Y)
    drive.epoch(2, val_loss=0.3).end()
    client = keepbest.Client(own_server.address)
    assert [it.path for it in versions(client, callback)] == [f"m-0{epoch}.safetensors" for epoch in (3, 2, 1)]
    assert same(client.load(f"{client.run(callback.run_name).artifact}:v1"), held)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_tensors_that_cannot_be_uploaded_now_wait_on_disk_and_not_in_memory(
    interposer: Interposer, client, make, tmp_path, monkeypatch, asynchronous
):
    monkeypatch.setattr(_outage, "_PROBE_SECONDS", 0.0)
    interposer.hooks["CommitCheckpoint"] = cannot_now
    callback = make(server=interposer.address, retry_seconds=0.1, asynchronous=asynchronous)
    drive, after = Drive(callback), []
    with pytest.warns(UserWarning, match="the server cannot now, the training goes on without it"):
        for epoch in range(4):  # twice as many as there are buffers
            drive.model.train_on_batch(X, Y)
            after.append(state(drive.model))
            drive.epoch(epoch, val_loss=0.5)
            callback._session._background.wait()
            assert callback._snapshots._taken == 0
    files = (tmp_path / "out" / name for name in names(tmp_path / "out"))
    assert len({file.stat().st_ino for file in files}) == 4  # one that was decided late has a second name
    del interposer.hooks["CommitCheckpoint"]
    callback._session.retry_seconds = 30.0
    drive.end()
    saved = versions(client, callback)[::-1]
    assert [it.epoch for it in saved] == [0, 1, 2, 3]
    assert all(same(client.load(it.name), kept) for it, kept in zip(saved, after, strict=True))
    # What was decided late lies at its path, as the local file that it was.
    assert not [name for name in names(tmp_path / "out") if "keepbest" in name]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_tensors_that_were_never_uploaded_lie_where_the_warning_says(
    interposer: Interposer, make, tmp_path, monkeypatch, asynchronous
):
    interposer.hooks["CommitCheckpoint"] = cannot_now
    callback = make(server=interposer.address, retry_seconds=0.1, asynchronous=asynchronous)
    drive = Drive(callback)
    with pytest.warns(UserWarning) as told:
        drive.epoch(0, val_loss=0.5).end()
    found = re.search(r"epoch 1: not uploaded, its model is at (\S+?\.safetensors)", str(told[-1].message))
    assert same(safetensors.numpy.load_file(found[1]), state(drive.model))
    assert "keepbest-not-uploaded-" in found[1]


def test_tensors_whose_upload_did_not_end_in_time_are_written_and_their_memory_is_free(tmp_path, monkeypatch):
    buffers, path = SnapshotBuffers(), tmp_path / "m.safetensors"
    decision = Decision(path=path.name, checkpoint="teams/t/projects/p/runs/r/checkpoints/1")
    jobs = [SaveJob.of_tensors(decision, path, buffers.copy(TensorFile.of({"a": np.ones(2)}))) for _ in range(2)]
    kept = re.fullmatch(r"its model is at (.*/keepbest-not-uploaded-.*/m\.safetensors)", jobs[0].keep())
    assert list(safetensors.numpy.load_file(kept[1])["a"]) == [1, 1]
    assert buffers._taken == 1
    monkeypatch.setattr(TensorFile, "write_to", full)
    assert jobs[1].keep() == "its model could not be written: [Errno 28] no space left"


def full(self, path):
    raise OSError(errno.ENOSPC, "no space left")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_tensors_for_which_there_is_no_place_are_told_and_the_training_goes_on(
    interposer: Interposer, client, make, tmp_path, monkeypatch, asynchronous
):
    monkeypatch.setattr(_outage, "_PROBE_SECONDS", 0.0)
    monkeypatch.setattr(TensorFile, "write_to", full)
    interposer.hooks["CommitCheckpoint"] = cannot_now
    callback = make(server=interposer.address, retry_seconds=0.1, asynchronous=asynchronous)
    drive = Drive(callback)
    with pytest.warns(UserWarning, match="epoch 1: not saved: it could be neither uploaded nor written to disk"):
        drive.epoch(0, val_loss=0.5)
        callback._session._background.wait()
    assert (len(callback._session._saves), callback._snapshots._taken) == (0, 0)
    del interposer.hooks["CommitCheckpoint"]
    callback._session.retry_seconds = 30.0
    callback._session._outage.ends()
    with pytest.warns(UserWarning, match="epoch 1: not saved: it could be neither"):
        drive.epoch(1, val_loss=0.5).end()
    assert [it.epoch for it in versions(client, callback)] == [1]
    outcomes = [(it.epoch, it.outcome) for it in client.decisions(callback.run_name) if it.action == keepbest.SAVE]
    assert sorted(outcomes) == [(0, 3), (1, 2)]  # given up, and committed


def test_how_long_a_save_in_the_background_of_a_file_took_is_told_too(client, make, server, project, tmp_path):
    callback = ModelCheckpoint(
        str(tmp_path / "m-{epoch}.keras"),
        server=server.address, project=project, run="r", asynchronous=True, metadata={"by": "me"},
    )  # fmt: skip
    Drive(callback).epoch(0, val_loss=0.5).end()
    (version,) = versions(client, callback)
    assert version.metadata["by"] == "me"
    assert version.metadata["blocked_seconds"] > 0
