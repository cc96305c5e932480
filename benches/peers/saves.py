"""Small saves: report a value, upload 1 KiB, commit; by one client and by many, on SQLite and on Postgres."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from book import Line
from crew import CLIENTS, Crew
from servers import Keepbest, Mlflow, Postgres
from sides import Bench, decided, mlflow_run, saving_run, seconds

import keepbest

# Saves a round by one client, and by each of many.
_ALONE = 20
_OURS_EACH, _THEIRS_EACH = 5, 1


def measure(bench: Bench) -> None:
    """All lines."""
    with bench.keepbest("saves") as ours, bench.mlflow("saves") as theirs:
        _alone(bench, ours, theirs, bench.room("saves"), "SQLite")
        _many(bench, ours, theirs, bench.folder / "saves", "SQLite")
    if not bench.has_postgres:
        return
    with contextlib.ExitStack() as ends:
        postgres = ends.enter_context(Postgres())
        ours = ends.enter_context(bench.keepbest("saves-postgres", postgres.create("keepbest")[0]))
        theirs = ends.enter_context(bench.mlflow("saves-postgres", postgres.create("mlflow")[1]))
        _alone(bench, ours, theirs, bench.room("saves-postgres"), "Postgres")
        _many(bench, ours, theirs, bench.folder / "saves-postgres", "Postgres")


def _alone(bench: Bench, ours: Keepbest, theirs: Mlflow, room: Path, database: str) -> None:
    client = keepbest.Client(ours.address, progress=False)
    run = saving_run(client, f"alone-{database}")
    mlflow, run_id = mlflow_run(theirs, "alone")
    epochs, steps = iter(range(1 << 40)), iter(range(1 << 40))

    def save() -> None:
        for _ in range(_ALONE):
            (room / "ours").write_bytes(os.urandom(1024))
            epoch = next(epochs)
            run.save(decided(run, epoch, 1.0 / (epoch + 1)), room / "ours")

    def log() -> None:
        for _ in range(_ALONE):
            (room / "theirs").write_bytes(os.urandom(1024))
            step = next(steps)
            mlflow.log_artifact(run_id, str(room / "theirs"), f"epoch-{step}")
            mlflow.log_metric(run_id, "val_loss", 1.0 / (step + 1), step=step)

    seen = bench.book.in_turns(
        [lambda: {"ours": _ALONE / seconds(save)}, lambda: {"theirs": _ALONE / seconds(log)}],
    )
    client.close()
    what, peer = f"saves of 1 KiB, one client, {database}", "MLflow log_artifact and log_metric"
    bench.book.add(Line(what, "rate", "/s", seen["ours"], peer, seen["theirs"], at_least=1))


def _many(bench: Bench, ours: Keepbest, theirs: Mlflow, room: Path, database: str) -> None:
    with Crew("saves", ours.address, room) as our_crew, Crew("saves", theirs.uri, room) as their_crew:
        seen = bench.book.in_turns(
            [lambda: {"ours": our_crew.rate(_OURS_EACH)}, lambda: {"theirs": their_crew.rate(_THEIRS_EACH)}]
        )
    what, peer = f"saves of 1 KiB, {CLIENTS} clients, {database}", "MLflow log_artifact and log_metric"
    bench.book.add(Line(what, "rate", "/s", seen["ours"], peer, seen["theirs"], at_least=50))
