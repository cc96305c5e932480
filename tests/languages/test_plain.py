"""The plain programs, and what the complete ones say when they are refused."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from conftest import EXAMPLES, PROGRAMS, ROOT, Server, build

import keepbest

# What comes of it is waited for, but not for ever.
_PATIENCE_SECONDS = 300
# The whole program, without imports, comments, empty lines and closing brackets.
_MOST_LINES = 40
_SOURCES = {
    "go": "go/plain/main.go",
    "java": "java/src/main/java/Plain.java",
    "typescript": "typescript/src/plain.ts",
    "rust": "rust/src/bin/plain.rs",
    "shell": "shell/plain",
}


@pytest.mark.parametrize("size", [0, 1, (3 << 20) + 17, 2 << 20])
def test_what_the_plain_program_saves_is_what_it_was_given(language: str, server: Server, size: int) -> None:
    path = server.folder / "model.bin"
    path.write_bytes(random.Random(size).randbytes(size))
    plain, _, form = PROGRAMS[language]
    done = subprocess.run(
        [*plain, form.format(f"127.0.0.1:{server.port}"), str(path)],
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    team, project, artifact, version = done.stdout.strip().split("/")[1::2]
    pulled = server.folder / "pulled"
    keepbest.Client(f"127.0.0.1:{server.port}").pull(f"{team}/{project}/{artifact}:{version}", pulled)
    assert (pulled / "model.bin").read_bytes() == path.read_bytes()


def test_a_refusal_ends_the_complete_program_at_once_and_says_why(language: str, server: Server) -> None:
    _, complete, form = PROGRAMS[language]
    done = subprocess.run(
        [*complete, form.format(f"127.0.0.1:{server.port}"), "no/id", str(server.folder)],
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "BAD_NAME" in done.stderr and "`no/id`" in done.stderr, done.stderr


@pytest.mark.parametrize("source", _SOURCES.values(), ids=_SOURCES.keys())
def test_a_plain_program_is_short(source: str) -> None:
    lines = [line.strip() for line in (ROOT / "clients/examples" / source).read_text().splitlines()]
    beside = ("import ", "use ", "//", "#", "package ", "/**")
    own = [line for line in lines if line.strip("{}()[];,") and not line.startswith(beside) and line[:1] != '"']
    assert len(own) <= _MOST_LINES, f"{source} has {len(own)} lines of its own"


def test_buf_makes_the_stubs_that_protoc_makes(tmp_path: Path) -> None:
    build("go")
    path = f"{EXAMPLES}/go/bin"
    done = subprocess.run(
        ["sh", "-ec", f'PATH="{path}:$PATH" buf generate --output {tmp_path}'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made, by_protoc = tmp_path / "gen/go/keepbest/v1", EXAMPLES / "go/gen/keepbest/v1"
    names = sorted(it.name for it in by_protoc.iterdir())
    # The trainer's stubs are of what it calls; buf makes all of the contract.
    assert names and set(names) <= {it.name for it in made.iterdir()}
