"""The callback for tf_keras. Needs tensorflow-cpu and tf_keras, which the default requirements leave out."""

from __future__ import annotations

import pytest
from conftest import Server

tf = pytest.importorskip("tensorflow")
tf_keras = pytest.importorskip("tf_keras")
import keras  # noqa: E402
import numpy as np  # noqa: E402

import keepbest.keras  # noqa: E402
from keepbest.tf_keras import ModelCheckpoint  # noqa: E402

X = np.random.default_rng(1).random((30, 3), dtype="float32")
Y = np.random.default_rng(2).random((30, 3), dtype="float32")


def model():
    made = tf_keras.Sequential([tf_keras.layers.Input((3,)), tf_keras.layers.Dense(3)])
    made.compile(loss="mse", optimizer="sgd")
    return made


@pytest.fixture
def make(server: Server, project, tmp_path):
    def make(template, **arguments):
        return ModelCheckpoint(
            str(tmp_path / "out" / template), server=server.address, project=project, run="r", **arguments
        )

    return make


def fit_and_pull(client, callback, directory):
    made = model()
    made.fit(X, Y, epochs=2, validation_data=(X, Y), callbacks=[callback], verbose=0)
    version = client.best(callback.run_name, "val_loss", "min")
    client.pull(version.name, directory)
    return made, version


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_saved_model_directory_comes_back_whole(client, make, tmp_path, asynchronous):
    made, version = fit_and_pull(client, make("model", asynchronous=asynchronous), tmp_path / "pulled")
    assert version.file_count >= 4
    loaded = tf_keras.models.load_model(tmp_path / "pulled" / version.path)
    np.testing.assert_allclose(loaded.predict(X, verbose=0), made.predict(X, verbose=0), rtol=1e-5)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]


@pytest.mark.parametrize("template", ["m-{epoch}.keras", "m-{epoch}.h5"])
def test_whole_models_in_one_file(client, make, tmp_path, template):
    made, version = fit_and_pull(client, make(template), tmp_path / "pulled")
    loaded = tf_keras.models.load_model(tmp_path / "pulled" / version.path)
    np.testing.assert_allclose(loaded.predict(X, verbose=0), made.predict(X, verbose=0), rtol=1e-5)


@pytest.mark.parametrize("template", ["m-{epoch}.weights.h5", "m-{epoch}.h5", "m-{epoch}"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_weights_in_each_format(client, make, tmp_path, template, asynchronous):
    callback = make(template, save_weights_only=True, asynchronous=asynchronous)
    made, version = fit_and_pull(client, callback, tmp_path / "pulled")
    other = model()
    other.load_weights(str(tmp_path / "pulled" / version.path))
    np.testing.assert_allclose(other.predict(X, verbose=0), made.predict(X, verbose=0), rtol=1e-5)
    if "." not in template:
        assert tf.train.latest_checkpoint(tmp_path / "out") == str(tmp_path / "out" / "m-2")


def test_a_missing_monitor_skips_and_the_name_gives_the_direction(client, make, tmp_path):
    callback = make("m.h5", monitor="val_accuracy", save_best_only=True)
    model().fit(X, Y, epochs=1, callbacks=[callback], verbose=0)
    assert not (tmp_path / "out").exists()
    assert client.run(callback.run_name).direction == 2


def test_options_are_checked_and_shown(client, make):
    with pytest.raises(TypeError, match=r"tf\.train\.CheckpointOptions"):
        make("m", save_weights_only=True, options="x")
    with pytest.raises(ValueError, match="does not support the `options` argument"):
        make("m.keras", options=tf.saved_model.SaveOptions())
    callback = make("m", options=tf.saved_model.SaveOptions(experimental_custom_gradients=False))
    model().fit(X, Y, epochs=1, callbacks=[callback], verbose=0)
    options = client.run(callback.run_name).strategy.options
    assert options["experimental_custom_gradients"] is False


def test_the_other_framework_is_named(make):
    made = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(3)])
    with pytest.raises(TypeError, match=r"use keepbest\.keras\.ModelCheckpoint"):
        make("m.keras").set_model(made)


def test_tensors_of_tensorflow_are_saved_from_memory(client, project):
    tensors = {
        "constant": tf.constant([[1.0, 2.0]]),
        "variable": tf.Variable([1, 2, 3]),
        "bfloat16": tf.cast(tf.range(4), tf.bfloat16),
        "scalar": tf.constant(True),
    }
    run = client.start_run(project, "r", {"filepath": "m.bin"})
    for epoch, asynchronous in enumerate([False, True]):
        saved = run.save(run.report_epoch(epoch, {}), tensors=tensors, asynchronous=asynchronous)
        loaded = client.load((saved.result(60) if asynchronous else saved).name)
        for name, tensor in tensors.items():
            value = tensor.numpy()
            assert (loaded[name].dtype, loaded[name].shape) == (value.dtype, value.shape)
            assert loaded[name].tobytes() == value.tobytes()
    symbolic = keras.Input((3,))
    with pytest.raises(TypeError, match="it must be a tensor with values"):
        run.save(run.report_epoch(2, {}), tensors={"a": symbolic})


@pytest.mark.parametrize("asynchronous", [False, True])
def test_keras_on_tensorflow_saves_its_weights_from_memory_too(server: Server, project, tmp_path, asynchronous):
    def made():
        made = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(3)])
        made.compile(loss="mse", optimizer="adam")
        return made

    def callback():
        return keepbest.keras.ModelCheckpoint(
            str(tmp_path / "m-{epoch}.safetensors"),
            save_format="safetensors", server=server.address, project=project, run="r", asynchronous=asynchronous,
        )  # fmt: skip

    trained, again = made(), made()
    trained.fit(X, Y, epochs=2, callbacks=[callback()], verbose=0)
    assert callback().resume(again) == 2
    for left, right in ((trained.weights, again.weights), (trained.optimizer.variables, again.optimizer.variables)):
        assert all(np.array_equal(one, other) for one, other in zip(left, right, strict=True))
