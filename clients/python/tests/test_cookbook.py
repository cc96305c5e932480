"""Every program and every command of docs/cookbook.md and docs/start.md, as they stand there, against a real server.

A program stands below the name of its file, and the commands below it run it. What came of it is asked of the server.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Server

import keepbest
from keepbest.types import RunState

CLIENT = Path(__file__).resolve().parents[1]
DOCS = CLIENT.parents[1] / "docs"
COOKBOOK = (DOCS / "cookbook.md").read_text(encoding="utf-8")
START = (DOCS / "start.md").read_text(encoding="utf-8")
_FILE = re.compile(r"<!-- file: (\S+) -->\n```python\n(.*?)```", re.DOTALL)
_SECONDS = 300.0


def programs(page: str) -> dict[str, str]:
    return dict(_FILE.findall(page))


def commands(page: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def recipes() -> dict[str, str]:
    """Heading to text, of those that have commands."""
    parts = re.split(r"^## (.*)$", COOKBOOK, flags=re.MULTILINE)
    return {name: text for name, text in zip(parts[1::2], parts[2::2], strict=True) if commands(text)}


class Kitchen:
    """A folder with all programs of the page, and a server of its own."""

    def __init__(self, folder: Path, server: Server, page: str = COOKBOOK) -> None:
        self.folder = folder
        self.server = server
        for name, text in programs(page).items():
            (folder / name).write_text(text)
        self.client = keepbest.Client(server.address, timeout=30, project="vision/digits")
        told = {name: value for name, value in os.environ.items() if not name.startswith("KEEPBEST_")}
        binary = Path(os.environ["KEEPBEST_BIN"]).resolve()
        # `python` and `keepbest`, as they are typed.
        path = f"{binary.parent}:{Path(sys.executable).parent}:{told['PATH']}"
        self.environment = told | {
            "PATH": path,
            "PYTHONPATH": str(CLIENT / "src"),
            "KEEPBEST_ADDRESS": f"http://{server.address}",
            "KERAS_BACKEND": "jax",
            "KERAS_HOME": str(folder / ".keras"),
        }

    def cook(self, script: str) -> str:
        """Run commands in a shell that stops at the first failure, and return what they printed."""
        done = subprocess.run(
            ["bash", "-c", f"set -eu -o pipefail\n{script}"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr[-4000:]}"
        return done.stdout

    def change(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert text.count(old) == 1, (name, old)
        (self.folder / name).write_text(text.replace(old, new))

    def epochs(self, artifact: str) -> list[int]:
        return [it.epoch for it in self.client.versions(artifact)][::-1]


@pytest.fixture
def kitchen(tmp_path: Path, own_server: Server) -> Kitchen:
    folder = tmp_path / "kitchen"
    folder.mkdir()
    return Kitchen(folder, own_server)


def resume(kitchen: Kitchen, script: str) -> None:
    # As if it had been killed behind its second epoch.
    kitchen.change("resume.py", "epochs=6", "epochs=2")
    kitchen.cook(script)
    kitchen.change("resume.py", "epochs=2", "epochs=6")
    kitchen.cook(script)
    assert kitchen.epochs("run-resume-1-model") == list(range(6))
    assert kitchen.client.run("resume-1").attempt == 2


def early(kitchen: Kitchen, script: str) -> None:
    printed = kitchen.cook(script)
    run, best = kitchen.client.run("early-1"), kitchen.client.version("run-early-1-model:best")
    assert best.metrics["val_loss"] == run.monitor_state.best
    assert 0 < run.last_epoch < 99 and best.epoch <= run.last_epoch
    deployed = kitchen.folder / "deployed" / best.path
    assert deployed.is_file() and deployed.stat().st_size == best.size_bytes
    assert len(printed.splitlines()) > run.last_epoch


def patience(kitchen: Kitchen, script: str) -> None:
    kitchen.cook(script)
    run = kitchen.client.run("patience-1")
    # The sixth value is the last one that is better by more than 0.01, and it waits for three more.
    assert kitchen.epochs("run-patience-1-model") == list(range(6)) and run.last_epoch == 8


def folds(kitchen: Kitchen, script: str) -> None:
    printed = kitchen.cook(script)
    runs = list(kitchen.client.runs("vision/digits"))
    assert sorted(it.config["fold"] for it in runs) == list(range(5))
    losses = [it.monitor_state.best for it in runs]
    assert f"val_loss {sum(losses) / 5:.3f}, deviation " in printed
    assert all(f"cv1-fold-{fold}" in printed for fold in range(5))


def sweep(kitchen: Kitchen, script: str) -> None:
    printed = kitchen.cook(script)
    runs = list(kitchen.client.runs("vision/digits"))
    assert len(runs) == 4
    best = kitchen.client.version("sweep:best")
    assert best.metrics["val_loss"] == min(it.monitor_state.best for it in runs if it.monitor_state.HasField("best"))
    # The list has those with this penalty, and no other.
    with_l1 = {it.name.rpartition("/")[2] for it in runs if it.config["penalty"] == "l1"}
    table = printed.partition("}\n")[2].partition("\nVERSION")[0]
    listed = {it.name.rpartition("/")[2] for it in runs if it.name.rpartition("/")[2] in table}
    assert len(with_l1) == 2 and listed == with_l1, printed


def shards(kitchen: Kitchen, script: str) -> None:
    kitchen.cook(script)
    versions = list(kitchen.client.versions("run-sharded-1-model"))
    assert [(it.epoch, it.file_count) for it in versions] == [(2, 2), (1, 2), (0, 2)]


def spot(kitchen: Kitchen, script: str) -> None:
    # An epoch takes its time, so that the signal comes in the middle.
    kitchen.change("spot.py", "# an epoch of training", "; __import__('time').sleep(0.1)")
    process = subprocess.Popen([sys.executable, "spot.py"], cwd=kitchen.folder, env=kitchen.environment)
    end = time.monotonic() + _SECONDS
    while not list(kitchen.client.runs("vision/digits")) or not kitchen.client.run("spot-1").event_count:
        assert process.poll() is None and time.monotonic() < end
    process.send_signal(signal.SIGTERM)
    assert process.wait(_SECONDS) == 143
    left = kitchen.client.run("spot-1")
    assert left.state == RunState.RUN_STATE_FAILED and "SystemExit: 143" in left.failure
    kitchen.change("spot.py", "; __import__('time').sleep(0.1)", "# an epoch of training")
    before = kitchen.epochs("run-spot-1-model")
    assert before == list(range(left.last_epoch + 1)) and len(before) < 60
    kitchen.cook(script)
    assert kitchen.epochs("run-spot-1-model") == list(range(60))
    # Not one epoch was lost, nor trained twice.
    assert set(kitchen.client.load("run-spot-1-model:latest")["kernel"]) == {60.0}


def offline(kitchen: Kitchen, script: str) -> None:
    assert list(kitchen.client.runs("vision/digits")) == []
    printed = kitchen.cook(script)
    run = kitchen.client.run("offline-1")
    assert run.last_epoch == 2 and run.state == RunState.RUN_STATE_FINISHED
    assert kitchen.client.version("run-offline-1-model:best").metrics["val_loss"] == run.monitor_state.best
    assert "run-offline-1-model" in printed
    assert not list((kitchen.folder / "models").rglob("*.spool*"))


def notebook(kitchen: Kitchen, script: str) -> None:
    kitchen.cook("python patience.py")
    (kitchen.folder / "notebook.py").open("a").write("print(len(versions), len(history.values))\n")
    assert kitchen.cook(script) == "6 9\n"


COOKS: dict[str, list[Callable[[Kitchen, str], None]]] = {
    "Resume after a crash": [resume],
    "Stop early, and deploy the best": [early, patience],
    "Cross-validation": [folds],
    "Sweep over settings": [sweep],
    "Save from many ranks": [shards],
    "Survive preemption": [spot],
    "Train without a server": [offline],
    "Look at a run in a notebook": [notebook],
}
CASES = [
    pytest.param(cook, script, id=f"{heading}, {cook.__name__}")
    for heading, cooks in COOKS.items()
    for cook, script in zip(cooks, commands(recipes()[heading]), strict=True)
]


def test_every_recipe_has_somebody_who_cooks_it():
    assert set(recipes()) == set(COOKS)
    for page in (COOKBOOK, START):
        shown = re.findall(r"^```(\w+)$", page, re.MULTILINE)
        assert shown.count("python") == len(programs(page)), "a program without the name of its file is not run"
        assert set(shown) <= {"python", "sh", "bash"}
    # Those in `bash` are not run: what installs is for the reader.
    assert "```bash" not in COOKBOOK and len(re.findall("^```bash$", START, re.MULTILINE)) == 1
    run = "\n".join(script for text in recipes().values() for script in commands(text))
    assert {name for name in programs(COOKBOOK) if name not in run} == {"digits.py"}


@pytest.mark.parametrize(("cook", "script"), CASES)
def test_a_recipe_does_what_it_says(kitchen, cook, script):
    cook(kitchen, script)


def test_the_first_steps_lead_where_they_say(tmp_path, own_server):
    """In one shell, with a server that the page itself starts, on the port of ours instead of the usual one."""
    own_server.stop()
    kitchen = Kitchen(tmp_path, own_server, START)
    # Whatever fails ends it, and the server with it.
    script = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" + "\n".join(commands(START))
    kitchen.environment["KEEPBEST_LISTEN"] = own_server.address
    printed = kitchen.cook(script)
    assert "teams/demo/projects/first/artifacts/run-run-1-model/versions/v2 0.4" in printed
    assert [(tmp_path / "best" / "model.safetensors").exists()] == [True]
    assert [line.split()[0] for line in printed.splitlines()[-5:]] == ["0", "1", "2", "3", "4"]
