"""A server with trainings as a demo has them, and a browser that looks at it."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

import keepbest

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "target/page-screenshots"
PROJECT = "vision/digits"
_STOP_SECONDS = 30.0


class Server:
    """A `keepbest serve` on a folder, on loopback."""

    def __init__(self, folder: Path, settings: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.settings = os.environ | (settings or {})
        with (folder / "server.log").open("w") as log:
            self.process = subprocess.Popen(
                [os.environ["KEEPBEST_BIN"], "--json", "serve", "--listen", "127.0.0.1:0", "--data", folder / "data"],
                env=self.settings,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        # The first line is written when the server is ready; without one it has ended.
        line = self.process.stdout.readline()
        assert line, f"the server ended:\n{(folder / 'server.log').read_text()}"
        self.url = f"http://127.0.0.1:{json.loads(line)['address'].rpartition(':')[2]}"

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=_STOP_SECONDS)


class Training:
    """A run that is told what a real one would tell, without the hours."""

    def __init__(self, client: keepbest.Client, folder: Path, name: str, seed: int, **strategy: Any) -> None:
        self.client, self.folder, self.name = client, folder, name
        self.chance = random.Random(seed)
        self.strategy = keepbest.strategy(
            "digits-{epoch:02d}-{val_loss:.3f}.safetensors", monitor="val_loss", save_best_only=True, **strategy
        )
        self.config = {
            "optimizer": "adam",
            "learning_rate": 3e-4 * seed,
            "batch_size": 64,
            "seed": seed,
            "layers": [64, 32],
        }
        self.start()

    def start(self) -> None:
        """Begin an attempt."""
        self.run = self.client.start_run(PROJECT, self.name, self.strategy, config=self.config)

    def metrics(self, epoch: int) -> dict[str, float]:
        noise = self.chance.gauss(0, 0.03)
        loss = 2.2 * math.exp(-epoch / 9) + 0.05
        held_out = 2.25 * math.exp(-epoch / 8) + 0.21 + max(0, epoch - 30) * 0.004 + abs(noise)
        return {
            "loss": loss + self.chance.gauss(0, 0.015),
            "val_loss": held_out,
            "accuracy": 1 - loss / 2.6,
            "val_accuracy": 1 - held_out / 2.8,
            "learning_rate": 3e-4 * 0.97**epoch,
        }

    def epoch(self, epoch: int, save: bool = True) -> keepbest.Decision | None:
        """Report an epoch, and save it if the server says so."""
        decision = self.run.report_epoch(epoch, self.metrics(epoch))
        if decision and decision.action == keepbest.SAVE and save:
            file = self.folder / "model.safetensors"
            file.write_bytes(self.chance.randbytes(200_000 + 1_000 * epoch))
            self.run.save(decision, file)
        return decision


@dataclass
class Demo:
    """What the tests look at."""

    server: Server
    client: keepbest.Client
    going: Training

    def url(self, path: str) -> str:
        return f"{self.server.url}/teams/vision/projects/digits{path}"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("page")
    server = Server(folder)
    client = keepbest.Client(server.url)
    _finished(client, folder)
    failed = Training(client, folder, "digits-2", 2)
    for epoch in range(9):
        failed.epoch(epoch)
    failed.run.fail("RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB")
    _batches(client, folder)
    going = Training(client, folder, "digits-3", 3)
    for epoch in range(14):
        going.epoch(epoch)
    yield Demo(server, client, going)
    client.close()
    server.stop()


def _finished(client: keepbest.Client, folder: Path) -> None:
    """A run that was killed once, saves of which were given up, deleted and named."""
    training = Training(client, folder, "digits-1", 1)
    for epoch in range(26):
        # What was decided just before the kill was never uploaded.
        training.epoch(epoch, save=epoch not in (12, 23, 24, 25))
    training.start()
    for epoch in range(23, 60):
        training.epoch(epoch)
    training.run.finish()
    artifact = f"{PROJECT}/run-digits-1-model"
    numbers = sorted(version.number for version in client.versions(artifact))
    client.set_alias(f"{artifact}:v{numbers[-3]}", "production")
    client.set_alias(f"{artifact}:v{numbers[4]}", "baseline")
    client.delete(f"{artifact}:v{numbers[2]}")


def _batches(client: keepbest.Client, folder: Path) -> None:
    """A run of which each batch is reported."""
    training = Training(client, folder, "digits-batches", 4)
    for epoch in range(4):
        losses = (
            2.3 * math.exp(-(epoch * 800 + batch) / 900) + abs(training.chance.gauss(0, 0.12)) for batch in range(800)
        )
        training.run.report_many(
            [training.run.event(epoch, {"loss": loss}, batch) for batch, loss in enumerate(losses)]
        )
        training.epoch(epoch)
    training.run.finish()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, "there is no chromium: scripts/setup-page says what to install"
    with sync_playwright() as playwright:
        # Its sandbox does not start as root, which CI is; what it shows here is our own.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


class Looker:
    """Makes pages, and knows of everything that went wrong on them."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self.complaints: list[str] = []

    def page(self, **options: Any) -> Page:
        context = self._browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        self._contexts.append(context)
        page = context.new_page()
        # A violation of the policy is an error on the console.
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def looker(chromium: Browser) -> Iterator[Looker]:
    looker = Looker(chromium)
    yield looker
    looker.close()
    assert not looker.complaints
