"""The best of many: `Client.best` beside MLflow's `search_runs`, and of a hundred times as many versions.

One version, and one run, is made by the API; its rows are copied in SQL, in both databases, by the same statement.
"""

from __future__ import annotations

import contextlib
import sqlite3
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
from book import Line
from mlflow.tracking import MlflowClient
from servers import Postgres
from sides import PROJECT, Bench, decided, make_file, mlflow_run, saving_run, seconds

import keepbest

_FEW = 10_000
_MANY, _MANY_QUICKLY = 1_000_000, 200_000
# Questions a round.
_OURS, _THEIRS = 200, 3

# Columns whose values differ in each copy; `one` is the row that is copied, `n` counts from 1.
_KEEPBEST: dict[str, dict[str, str]] = {
    "checkpoints": {"uid": "one.uid || '-' || n", "version": "n"},
    "version_metrics": {
        "checkpoint_uid": "one.checkpoint_uid || '-' || n",
        "value": "one.value + n",
        "commit_time_us": "one.commit_time_us + n",
    },
    "files": {"uid": "one.uid || '-' || n", "checkpoint_uid": "one.checkpoint_uid || '-' || n"},
    "file_chunks": {"file_uid": "one.file_uid || '-' || n"},
}
_RUN_ID = {"run_uuid": "substr(one.run_uuid, 1, 20) || '-' || n"}
_MLFLOW: dict[str, dict[str, str]] = {
    "runs": _RUN_ID,
    "metrics": _RUN_ID | {"value": "one.value + n"},
    "latest_metrics": _RUN_ID | {"value": "one.value + n"},
    "tags": _RUN_ID,
}


def _multiply(database: Any, tables: dict[str, dict[str, str]], count: int) -> None:
    """Make so many rows of each one that is there."""
    cursor = database.cursor()
    for table, changed in tables.items():
        cursor.execute(f"SELECT * FROM {table} LIMIT 0")
        columns = [column[0] for column in cursor.description]
        values = ", ".join(changed.get(column, f"one.{column}") for column in columns)
        cursor.execute(
            f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count - 1}) "
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {table} AS one, numbers"
        )
    if tables is _KEEPBEST:
        cursor.execute(f"UPDATE artifacts SET next_version = {count}")
    database.commit()
    database.close()


def _fill_keepbest(bench: Bench, name: str, count: int, postgres: Postgres | None = None) -> str | None:
    """Leave a folder, or a database, with so many versions; the address of the latter."""
    url = postgres.create(f"keepbest_{count}")[0] if postgres else None
    with bench.keepbest(name, url) as server, keepbest.Client(server.address) as client:
        with saving_run(client, "many") as run:
            run.save(decided(run, 0, 0.5), bench.folder / "best" / "model.bin")
        data = server.data
    _multiply(psycopg2.connect(_plain(url)) if url else sqlite3.connect(data / "keepbest.db"), _KEEPBEST, count)
    _analyze(url)
    return url


def _fill_mlflow(bench: Bench, name: str, count: int, postgres: Postgres | None = None) -> str | None:
    url = postgres.create(f"mlflow_{count}")[1] if postgres else None
    with bench.mlflow(name, url) as server:
        client, run_id = mlflow_run(server, "many")
        client.log_metric(run_id, "val_loss", 0.5)
        data = server.data
    _multiply(psycopg2.connect(_plain(url)) if url else sqlite3.connect(data / "mlflow.db"), _MLFLOW, count)
    _analyze(url)
    return url


def _analyze(url: str | None) -> None:
    """Do what Postgres does by itself after a while."""
    if url:
        with contextlib.closing(psycopg2.connect(_plain(url))) as database:
            database.cursor().execute("ANALYZE")
            database.commit()


def _plain(url: str) -> str:
    """An address without the name of SQLAlchemy's driver."""
    return url.replace("+psycopg2", "")


def _asked(name: str, count: int, ask: Callable[[], None]) -> Callable[[], dict[str, float]]:
    """Milliseconds of a question, the median of a round."""
    return lambda: {name: statistics.median(seconds(ask) * 1e3 for _ in range(count))}


def _ours(client: keepbest.Client) -> Callable[[], None]:
    def ask() -> None:
        assert client.best(PROJECT, "val_loss", "min").metrics["val_loss"] == 0.5

    return ask


def _theirs(client: MlflowClient) -> Callable[[], None]:
    def ask() -> None:
        found = client.search_runs(["0"], order_by=["metrics.val_loss ASC"], max_results=1)
        assert found[0].data.metrics["val_loss"] == 0.5

    return ask


def _beside_mlflow(bench: Bench, database: str, postgres: Postgres | None = None) -> None:
    name = f"best-{database}"
    urls = _fill_keepbest(bench, name, _FEW, postgres), _fill_mlflow(bench, name, _FEW, postgres)
    with bench.keepbest(name, urls[0]) as ours, bench.mlflow(name, urls[1]) as theirs:
        client, mlflow = keepbest.Client(ours.address), MlflowClient(tracking_uri=theirs.uri)
        seen = bench.book.in_turns([_asked("ours", _OURS, _ours(client)), _asked("theirs", _THEIRS, _theirs(mlflow))])
        client.close()
    what, peer = f"best of {_FEW:,}, {database}, p50", "MLflow search_runs, the first by the metric"
    bench.book.add(
        Line(what, "time", "ms", seen["ours"], peer, seen["theirs"], at_least=50),
        Line(what, "cost", "ms", seen["ours"], at_most=1),
    )


def _of_many(bench: Bench) -> None:
    many = _MANY_QUICKLY if bench.quick else _MANY
    _fill_keepbest(bench, "best-few", _FEW)
    _fill_keepbest(bench, "best-many", many)
    with bench.keepbest("best-few") as few_server, bench.keepbest("best-many") as many_server:
        few, more = keepbest.Client(few_server.address), keepbest.Client(many_server.address)
        seen = bench.book.in_turns([_asked("few", _OURS, _ours(few)), _asked("many", _OURS, _ours(more))])
        few.close()
        more.close()
    what, peer = f"best of {many:,}, SQLite, p50", f"Keepbest, best of {_FEW:,}"
    bench.book.add(Line(what, "cost", "ms", seen["many"], peer, seen["few"], at_most=1.5))


def measure(bench: Bench) -> None:
    """All lines."""
    room: Path = bench.room("best")
    make_file(room / "model.bin", 1024)
    _beside_mlflow(bench, "SQLite")
    if bench.has_postgres:
        with Postgres() as postgres:
            _beside_mlflow(bench, "Postgres", postgres)
    _of_many(bench)
