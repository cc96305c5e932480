"""Processes for the tests of deploy/: servers of ours, the runbook's commands, and what both need."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
_START_SECONDS = 30.0


class Server:
    """A `keepbest serve` on loopback, with settings from the environment."""

    def __init__(self, log: Path, settings: dict[str, str]) -> None:
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [os.environ["KEEPBEST_BIN"], "--json", "serve", "--listen", "127.0.0.1:0"],
                env=os.environ | settings,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self.process.stdout is not None
        # The first line is written when the server is ready; without one it has ended.
        line = self.process.stdout.readline()
        assert line, f"the server ended:\n{log.read_text()}"
        self.port = int(json.loads(line)["address"].rpartition(":")[2])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answered(self, method: str) -> int:
        """How many calls of a service or method it has logged."""
        lines = [line for line in self.log.read_text().splitlines() if '"Answered"' in line]
        return sum(f'"rpc.method":"{method}' in line for line in lines)

    def stop(self, kill: bool = False) -> None:
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        self.process.wait(timeout=_START_SECONDS)


# The collector forgets what was deleted a moment ago, but its objects have their grace.
FORGET_AT_ONCE = {"KEEPBEST_COLLECTOR_DELETED_GRACE_SECONDS": "0", "KEEPBEST_COLLECTOR_CHUNK_GRACE_SECONDS": "0"}


def keepbest(*arguments: str | Path, settings: dict[str, str] | None = None) -> str:
    """Run the command line and return what it printed."""
    done = subprocess.run(
        [os.environ["KEEPBEST_BIN"], *map(str, arguments)],
        env=os.environ | (settings or {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"keepbest {arguments}: {done.stdout}{done.stderr}"
    return done.stdout


def doomed_chunks(settings: dict[str, str]) -> int:
    """Let the collector forget what was deleted; the chunks whose objects now wait for the end of their grace."""
    report = json.loads(keepbest("--json", "gc", settings=settings | FORGET_AT_ONCE))
    assert report["removed_objects"] == 0
    return report["removed_chunks"]


def runbook(name: str, settings: dict[str, str]) -> None:
    """Run the commands that docs/operations.md has below the comment `test: NAME`, as they stand there."""
    done = runbook_try(name, settings)
    assert done.returncode == 0, f"{done.args}\n{done.stdout}{done.stderr}"


def runbook_try(name: str, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run them in a plain shell: that they stop at a failure is their own doing."""
    text = (ROOT / "docs/operations.md").read_text()
    found = re.search(rf"<!-- test: {name} -->\n+```sh\n(.*?)```", text, re.DOTALL)
    assert found, f"docs/operations.md has no commands `{name}`"
    path = f"{Path(os.environ['KEEPBEST_BIN']).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-c", found[1]],
        env=os.environ | {"PATH": path} | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def until(what: str, holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Ask again and again, for what other processes do in their own time."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Server]]:
    """Servers that are stopped at the end, if the test has not done it."""
    started: list[Server] = []
    yield started
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
