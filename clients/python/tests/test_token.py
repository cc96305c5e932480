"""API tokens: where they come from, what is no token, and a training on a server that asks who calls."""

from __future__ import annotations

import os
import pickle
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Server

import keepbest
from keepbest import _token
from keepbest.errors import KeepbestError

PROGRAM = os.environ["KEEPBEST_BIN"]
# Without its checksum; no server knows it.
NOBODYS = "kb_02Y5iVlIWj1Z_0000000000000000000000000000000000000000000"


def token_of(text: str) -> str:
    """The text with its checksum."""
    return text + _token._digits(zlib.crc32(text.encode()))


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[Server, str]]:
    """A server that asks who calls, and a token of its own admin."""
    server = Server(tmp_path / "data", {"KEEPBEST_AUTH_REQUIRED": "true"})
    server.start()
    made = subprocess.run(
        [PROGRAM, "admin", "init", "--data", str(tmp_path / "data")], check=True, capture_output=True, text=True
    )
    yield server, made.stdout.strip()
    server.stop()


def admin(server: Server, token: str, *arguments: str) -> str:
    command = [PROGRAM, "admin", *arguments, "--server", server.address]
    done = subprocess.run(command, capture_output=True, text=True, env={"KEEPBEST_TOKEN": token})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_training_shows_who_it_is(
    guarded: tuple[Server, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, of_service = guarded
    admin(server, of_service, "create-team", "vision")
    token = admin(server, of_service, "create-token", "vision", "--role", "trainer")
    model = tmp_path / "model.bin"
    model.write_bytes(b"weights")
    refused = keepbest.Client(server.address)
    with pytest.raises(KeepbestError, match="KEEPBEST_TOKEN"):
        refused.start_run("vision/digits")
    asked = 0

    def refreshed() -> str:
        nonlocal asked
        asked += 1
        return token

    (tmp_path / "token").write_text(token + "\n")
    monkeypatch.setenv("KEEPBEST_TOKEN_FILE", str(tmp_path / "token"))
    for number, client in enumerate(
        [
            keepbest.Client(server.address, token=token),
            keepbest.Client(server.address, token=refreshed),
            keepbest.Client(server.address),
        ]
    ):
        client = pickle.loads(pickle.dumps(client)) if number == 0 else client
        run = client.start_run("vision/digits", f"run-{number}", keepbest.strategy("model-{epoch}.bin", monitor="loss"))
        (decision,) = [run.report_epoch(0, {"loss": 0.5})]
        version = run.save(decision, model)
        run.finish()
        pulled = client.pull(version.name, tmp_path / f"out-{number}")
        assert pulled is not None
    assert asked > 3
    with pytest.raises(KeepbestError) as caught:
        keepbest.Client(server.address, token=token).start_run("other/digits")
    assert "not found" in str(caught.value)


def test_what_is_no_token_is_told_at_once_and_not_repeated() -> None:
    right = token_of(NOBODYS)
    assert _token.checked(f" {right}\n") == right
    for wrong, why in [
        ("secret", "does not begin with `kb_`"),
        (right[:-1], "a part of it is missing"),
        (right + "0", "something was added"),
        (right[:-7] + "1" + right[-6:], "a character of it was changed"),
    ]:
        with pytest.raises(ValueError, match=why) as caught:
            keepbest.Client(token=wrong)
        assert wrong not in str(caught.value)
    with pytest.raises(TypeError, match="not an API token"):
        keepbest.Client(token=7)  # type: ignore[arg-type]


def test_no_repr_shows_the_token() -> None:
    right = token_of(NOBODYS)
    client = keepbest.Client(token=right)
    assert right not in repr(client) + repr(client.connection) + repr(vars(client.connection))


def test_a_variable_that_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPBEST_TOKEN", "secret")
    with pytest.raises(ValueError, match="the environment's KEEPBEST_TOKEN is wrong"):
        keepbest.Client()
    monkeypatch.setenv("KEEPBEST_TOKEN", "")
    with pytest.raises(ValueError, match="KEEPBEST_TOKEN is empty"):
        keepbest.Client()
