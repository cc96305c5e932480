"""What the parts share: what they are given, and the clients of both sides."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from book import Book
from mlflow.tracking import MlflowClient
from servers import Keepbest, Mlflow

import keepbest

PROJECT = "bench/peers"


@dataclass
class Bench:
    """What a part is given.

    Attributes:
        program: of Keepbest.
        folder: for its files; removed afterwards.
        quick: whether to do with less.
        size_mib: of the large file.
        has_postgres: whether to measure on Postgres too.
    """

    program: str
    folder: Path
    book: Book
    quick: bool
    size_mib: int
    has_postgres: bool

    def keepbest(self, name: str, database: str | None = None) -> Keepbest:
        """Start ours on a folder of that name."""
        return Keepbest(self.program, self.folder / f"keepbest-{name}", database)

    def mlflow(self, name: str, database: str | None = None) -> Mlflow:
        """Start theirs on a folder of that name."""
        return Mlflow(self.folder / f"mlflow-{name}", database)

    def room(self, name: str) -> Path:
        """A new folder."""
        room = self.folder / name
        room.mkdir()
        return room


def mlflow_run(server: Mlflow, name: str) -> tuple[MlflowClient, str]:
    """A client, and the id of a new run."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    client = MlflowClient(tracking_uri=server.uri)
    return client, client.create_run("0", run_name=name).info.run_id


def saving_run(client: keepbest.Client, name: str) -> keepbest.Run:
    """A run that saves at each epoch's end."""
    return client.start_run(PROJECT, name, {"filepath": "model-{epoch}.bin", "mode": "min"})


def decided(run: keepbest.Run, epoch: int, value: float) -> keepbest.Decision:
    """Report an epoch's end, which is decided to be saved."""
    decision = run.report_epoch(epoch, {"val_loss": value})
    assert decision is not None and decision.action == keepbest.SAVE, decision
    return decision


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def copied(source: Path, target: Path) -> None:
    """`cp -r` and a sync of all that was copied."""
    sync = 'find "$2" -print0 | xargs -0 sync' if source.is_dir() else 'sync "$2"'
    subprocess.run(["sh", "-ec", f'cp -r "$1" "$2" && {sync}', "copy", source, target], check=True)


def renew(path: Path) -> None:
    """Give each MiB of a file, or of each file of a folder, bytes that were nowhere before, and sync them."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        with file.open("r+b") as opened:
            for offset in range(0, file.stat().st_size, 1 << 20):
                os.pwrite(opened.fileno(), os.urandom(16), offset)
            os.fsync(opened.fileno())


def make_file(path: Path, size_bytes: int) -> Path:
    """A file of random bytes."""
    with path.open("wb") as opened:
        for offset in range(0, size_bytes, 1 << 20):
            opened.write(os.urandom(min(1 << 20, size_bytes - offset)))
    return path
