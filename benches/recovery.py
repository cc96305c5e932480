"""How soon a server answers after kill -9: with 100,000 versions and 1,000,000 events, and with one save.

    PYTHON benches/recovery.py KEEPBEST [KILLS]

PYTHON is that of .venv, KEEPBEST the program. One save is made with the program; its rows are copied in SQL (SQLite
and a folder). Then the server is killed again and again while a trainer reports. Measured: from the start of the
process to the first answer of `GetBestVersion` in milliseconds, median and worst.
"""

import contextlib
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import keepbest

VERSIONS = 100_000
EVENTS = 1_000_000
PROJECT = "teams/default/projects/default"


def start(program: str, data: Path) -> tuple[subprocess.Popen[str], str]:
    """The server and its address."""
    command = [program, "serve", "--data", str(data), "--listen", "127.0.0.1:0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout
    return server, server.stdout.readline().split()[-1]


def copy(database: sqlite3.Connection, table: str, changed: dict[str, str], count: int) -> None:
    """Copies the one row of a table, with some columns computed from `n`, which counts from 1."""
    columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(changed.get(column, f"one.{column}") for column in columns)
    database.execute(
        f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count}), "
        f"one AS (SELECT * FROM {table} LIMIT 1) "
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM one, numbers"
    )


def multiply(data: Path) -> None:
    """Makes many versions and events of one."""
    database = sqlite3.connect(data / "keepbest.db")
    with database:
        uid = "one.{} || '-' || n".format
        copy(database, "checkpoints", {"uid": uid("uid"), "version": "n"}, VERSIONS - 1)
        copy(
            database,
            "version_metrics",
            {
                "checkpoint_uid": uid("checkpoint_uid"),
                "value": "one.value + n",
                "commit_time_us": "one.commit_time_us + n",
            },
            VERSIONS - 1,
        )
        copy(database, "files", {"uid": uid("uid"), "checkpoint_uid": uid("checkpoint_uid")}, VERSIONS - 1)
        copy(database, "file_chunks", {"file_uid": uid("file_uid")}, VERSIONS - 1)
        copy(database, "events", {"position": "n + 9", "first_sequence": "n + 9"}, EVENTS - 1)
        database.execute("UPDATE artifacts SET next_version = ?", (VERSIONS,))
        database.execute("UPDATE runs SET event_count = ?", (EVENTS,))
        database.execute("UPDATE run_writers SET next_sequence = ?", (EVENTS,))
    database.close()


def report(address: str, run: str, over: threading.Event) -> None:
    """Reports until the server is gone."""
    with contextlib.suppress(Exception), keepbest.Client(address, timeout=1) as client:
        training = client.start_run(PROJECT, run=run, strategy={"filepath": "m.bin", "save_best_only": True})
        epoch = 0
        while not over.is_set():
            training.report_epoch(epoch, {"val_loss": 1.0})
            epoch += 1


def kill_often(program: str, data: Path, kills: int) -> list[float]:
    """Milliseconds to the first answer after each kill."""
    times = []
    server, address = start(program, data)
    for number in range(kills):
        over = threading.Event()
        trainer = threading.Thread(target=report, args=(address, f"load-{number}", over), daemon=True)
        trainer.start()
        time.sleep(0.5)
        server.kill()
        server.wait()
        over.set()
        trainer.join(timeout=5)
        begin = time.monotonic()
        server, address = start(program, data)
        with keepbest.Client(address) as client:
            client.best(PROJECT, metric="val_loss", mode="min")
        times.append((time.monotonic() - begin) * 1000)
    server.kill()
    server.wait()
    return times


def main() -> None:
    """Measure both and print a table."""
    program = sys.argv[1]
    kills = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    print("| data | kills | median ms | worst ms |\n|---|---|---|---|")
    for many in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            data, model = Path(folder) / "data", Path(folder) / "model.bin"
            model.write_bytes(b"weights")
            server, address = start(program, data)
            push = [program, "push", str(model), "cnn", "--metric", "val_loss=0.5", "--server", f"http://{address}"]
            subprocess.run(push, check=True, stdout=subprocess.DEVNULL)
            server.terminate()
            server.wait()
            if many:
                multiply(data)
            times = kill_often(program, data, kills)
            what = f"{VERSIONS:,} versions, {EVENTS:,} events" if many else "one save"
            print(f"| {what} | {kills} | {statistics.median(times):.0f} | {max(times):.0f} |", flush=True)


if __name__ == "__main__":
    main()
