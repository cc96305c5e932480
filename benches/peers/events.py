"""Metrics from Python, durable when the call returns: many in a call, and one in a call from many runs at once."""

from __future__ import annotations

import time

from book import Line
from crew import CLIENTS, Crew
from mlflow.entities import Metric
from sides import PROJECT, Bench, mlflow_run, seconds

import keepbest

_BATCH = 1_000
# Batches a round, and calls of each of the many clients.
_OURS, _THEIRS = 20, 3
_OUR_CALLS, _THEIR_CALLS = 50, 2


def measure(bench: Bench) -> None:
    """All lines."""
    room = bench.room("events")
    with bench.keepbest("events") as ours, bench.mlflow("events") as theirs:
        client = keepbest.Client(ours.address)
        run = client.start_run(PROJECT, "batches", {"filepath": "m-{epoch}", "mode": "min"})
        mlflow, run_id = mlflow_run(theirs, "batches")
        batches = iter(range(1 << 40))

        def report() -> None:
            for _ in range(_OURS):
                run.report_many(run.event(0, {"loss": 0.5}, batch=next(batches)) for _ in range(_BATCH))
                run.flush()

        def log_batch() -> None:
            for _ in range(_THEIRS):
                now = int(time.time() * 1000)
                mlflow.log_batch(run_id, [Metric("loss", 0.5, now, next(batches)) for _ in range(_BATCH)])

        seen = bench.book.in_turns(
            [
                lambda: {"ours": _OURS * _BATCH / seconds(report)},
                lambda: {"theirs": _THEIRS * _BATCH / seconds(log_batch)},
            ]
        )
        client.close()
        what = "events of one metric, 1,000 a call, one run"
        bench.book.add(Line(what, "rate", "/s", seen["ours"], "MLflow log_batch", seen["theirs"], at_least=20))
        with Crew("events", ours.address, room) as our_crew, Crew("events", theirs.uri, room) as their_crew:
            seen = bench.book.in_turns(
                [lambda: {"ours": our_crew.rate(_OUR_CALLS)}, lambda: {"theirs": their_crew.rate(_THEIR_CALLS)}]
            )
    what = f"events, 1 a call and decided, {CLIENTS} runs at once"
    bench.book.add(Line(what, "rate", "/s", seen["ours"], "MLflow log_metric", seen["theirs"], at_least=200))
