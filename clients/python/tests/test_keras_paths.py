"""Our callback saves where Keras' own does, whatever the path looks like, and it comes back from there."""

from __future__ import annotations

import ntpath
import os
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import Server

import keepbest
from keepbest._paths import split_template
from keepbest.keras import ModelCheckpoint

X = np.ones((8, 4), "float32")


def fit(callback) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(X, X[:, :1], epochs=2, verbose=0, callbacks=[callback])


def saved_in(folder: Path, callback, monkeypatch) -> list[str]:
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        fit(callback())
        return sorted(path.as_posix() for path in Path().rglob("*.keras"))


@pytest.mark.parametrize(
    "path",
    [
        "m-{epoch:02d}.keras",
        "./a/b/m-{epoch}.keras",
        "a//b/m-{epoch}.keras",
        "a/./b/m-{epoch}.keras",
        "a/{epoch}//b/./m.keras",
        "{epoch:02d}/model.keras",
        "e:{epoch}.keras",
        "a/e:{epoch}.keras",
        "b14\\models\\m-{epoch}.keras",
    ],
)
def test_files_are_where_keras_puts_them_and_come_back(server: Server, project, tmp_path, monkeypatch, path):
    kerass = saved_in(tmp_path / "keras", lambda: keras.callbacks.ModelCheckpoint(path), monkeypatch)
    ours = saved_in(
        tmp_path / "ours",
        lambda: ModelCheckpoint(path, server=server.address, project=project, run="r"),
        monkeypatch,
    )
    assert ours == kerass
    saved = keepbest.Client(server.address, project=project).pull("run-r-model:latest", tmp_path / "out")
    newest = keras.models.load_model(tmp_path / "out" / saved.path)
    assert any(
        all(np.array_equal(*pair) for pair in zip(newest.get_weights(), other.get_weights(), strict=True))
        for other in [keras.models.load_model(tmp_path / "ours" / name) for name in ours]
    )


@pytest.mark.parametrize(
    "path",
    [
        "C:\\runs\\{epoch}\\m.keras",
        "runs\\m-{epoch}.keras",
        "e:{epoch}.keras",
        "\\\\host\\share\\m-{epoch}.keras",
        "m.keras",
    ],
)
def test_on_windows_the_local_path_is_the_one_that_was_typed(path):
    """By the rules of Windows' paths, which Python has on every system."""
    beginning, template = split_template(path)
    rendered = template.format(epoch=1)  # as the server does
    assert ntpath.normpath(beginning + rendered) == ntpath.normpath(path.format(epoch=1))
    assert "\\" not in rendered and ntpath.splitdrive(rendered)[0] == "" and not os.path.isabs(rendered)
