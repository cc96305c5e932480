"""The examples, built as their READMEs say, and a server that can be killed, frozen and restarted at its port."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "clients/examples"
_TARGET = Path(os.environ["KEEPBEST_BIN"]).parent
_JAVA = ["java", "-cp", f"{EXAMPLES}/java/target/trainer-1.jar"]

# How the plain and the complete program of each language are run, and how they take an address.
PROGRAMS = {
    "go": ([f"{EXAMPLES}/go/bin/plain"], [f"{EXAMPLES}/go/bin/complete"], "{}"),
    "java": ([*_JAVA, "Plain"], [*_JAVA, "Complete"], "{}"),
    "typescript": (
        ["node", f"{EXAMPLES}/typescript/dist/src/plain.js"],
        ["node", f"{EXAMPLES}/typescript/dist/src/complete.js"],
        "{}",
    ),
    "cpp": ([f"{EXAMPLES}/cpp/build/plain"], [f"{EXAMPLES}/cpp/build/complete"], "{}"),
    "rust": ([f"{_TARGET}/plain"], [f"{_TARGET}/complete"], "http://{}"),
    "shell": ([f"{EXAMPLES}/shell/plain"], [f"{EXAMPLES}/shell/complete"], "{}"),
}


class Server:
    """A `keepbest serve` on a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "server.log"
        self.port = 0
        self.start()

    def start(self) -> None:
        """Start it, at the same port as before."""
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [os.environ["KEEPBEST_BIN"], "--json", "serve", "--listen", f"127.0.0.1:{self.port}"],
                env=os.environ | {"KEEPBEST_DATA_DIR": f"{self.folder}/data"},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        # The first line is written when the server is ready; without one it has ended.
        line = self.process.stdout.readline()
        assert line, f"the server ended:\n{self._log.read_text()}"
        self.port = int(json.loads(line)["address"].rpartition(":")[2])

    def end(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        self.process.wait(timeout=60)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path)
    yield running
    running.process.kill()
    running.process.wait()


@pytest.fixture(scope="session", params=list(PROGRAMS))
def language(request: pytest.FixtureRequest) -> str:
    """A language whose programs are built."""
    return build(request.param)


_built: set[str] = set()


def build(language: str) -> str:
    """Run the commands that the language's README has below `test: build`, as they stand there."""
    if language not in _built:
        text = (EXAMPLES / language / "README.md").read_text()
        found = re.search(r"<!-- test: build -->\n+```sh\n(.*?)```", text, re.DOTALL)
        assert found, f"clients/examples/{language}/README.md has no commands `build`"
        done = subprocess.run(
            ["sh", "-ec", found[1]],
            cwd=EXAMPLES / language,
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        assert done.returncode == 0, f"{language}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
        _built.add(language)
    return language
