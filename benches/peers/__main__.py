"""Keepbest beside MLflow, wandb and `cp` on this machine; prints a Markdown table and writes the single values.

Both sides of a line run in turns, round by round. `make bench-peers` makes the environment and runs all of it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

# Before they are imported: nothing is sent anywhere, and nothing is printed into the table.
os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
    WANDB_MODE="offline",
    WANDB_SILENT="true",
    WANDB_ERROR_REPORTING="false",
    WANDB_CONSOLE="off",
)

PARTS = ("transfer", "repeats", "trees", "events", "blocking", "saves", "best")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benches/peers", description=__doc__, allow_abbrev=False)
    parser.add_argument("program", help="the program keepbest, built with optimisation")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer rounds")
    parser.add_argument("--rounds", type=int, help="rounds of each comparison; 5, or 3 with --quick")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be repeated")
    parser.add_argument("--size-mib", type=int, help="of the large file; 1,024, or 256 with --quick")
    parser.add_argument("--no-postgres", action="store_true", help="SQLite alone")
    parser.add_argument("--json", type=Path, help="where to write all single values")
    return parser.parse_args()


def _end(number: int, frame: FrameType | None) -> None:
    """As after Ctrl-C: what was begun is ended on the way out."""
    sys.exit(128 + number)


def _load() -> str:
    return "/".join(f"{load:.1f}" for load in os.getloadavg())


def main() -> None:
    """Run the parts."""
    arguments = _arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    with tempfile.TemporaryDirectory(prefix="keepbest-peers-") as folder:
        os.environ.update(dict.fromkeys(("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"), folder))
        from book import Book
        from sides import Bench

        rounds = arguments.rounds or (3 if arguments.quick else 5)
        size_mib = arguments.size_mib or (256 if arguments.quick else 1024)
        program = str(Path(arguments.program).resolve())
        book = Book(rounds)
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("mlflow", "wandb", "grpcio"))
        print(f"{versions}; {os.cpu_count()} cores; {rounds} rounds; load at the start {_load()}.\n\n{book.HEAD}")
        try:
            for part in arguments.only or PARTS:
                room = Path(folder, part)
                room.mkdir()
                bench = Bench(program, room, book, arguments.quick, size_mib, not arguments.no_postgres)
                importlib.import_module(part).measure(bench)
                shutil.rmtree(room)
        finally:
            print(f"\nLoad at the end: {_load()}.")
            if arguments.json:
                arguments.json.write_text(json.dumps([line.as_json() for line in book.lines], indent=1))


if __name__ == "__main__":
    main()
