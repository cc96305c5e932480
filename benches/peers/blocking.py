"""How long a call that logs one step holds the training up: the calls' own time, in the thread that trains."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import wandb
from book import Line
from sides import PROJECT, Bench, mlflow_run

import keepbest

# Calls a round.
_OURS, _WANDB, _MLFLOW = 5_000, 5_000, 30


def _timed(name: str, count: int, call: Callable[[int], object], first: int) -> dict[str, float]:
    """Median and mean of so many calls, in microseconds."""
    times = []
    for number in range(first, first + count):
        begin = time.perf_counter()
        call(number)
        times.append((time.perf_counter() - begin) * 1e6)
    return {f"{name} median": statistics.median(times), f"{name} mean": statistics.fmean(times)}


def measure(bench: Bench) -> None:
    """All lines."""
    with bench.keepbest("blocking") as ours, bench.mlflow("blocking") as theirs:
        client = keepbest.Client(ours.address)
        run = client.start_run(PROJECT, "steps", {"filepath": "m-{epoch}", "mode": "min"})
        mlflow, run_id = mlflow_run(theirs, "steps")
        own = wandb.init(project="peers", dir=str(bench.folder), mode="offline", settings=wandb.Settings(silent=True))
        steps = {"ours": 0, "wandb": 0, "mlflow": 0}

        def side(name: str, count: int, call: Callable[[int], object]) -> Callable[[], dict[str, float]]:
            def timed() -> dict[str, float]:
                steps[name] += count
                return _timed(name, count, call, steps[name])

            return timed

        def ours_side() -> dict[str, float]:
            values = ours_timed()
            run.flush()  # the next round begins with nothing that waits
            return values

        ours_timed = side("ours", _OURS, lambda step: run.report_batch(0, step, {"loss": 0.5}))
        seen = bench.book.in_turns(
            [
                ours_side,
                side("wandb", _WANDB, lambda step: own.log({"loss": 0.5})),
                side("mlflow", _MLFLOW, lambda step: mlflow.log_metric(run_id, "loss", 0.5, step=step)),
            ]
        )
        own.finish()
        client.close()
    median, mean = seen["ours median"], seen["ours mean"]
    what = "report_batch in the training thread, median"
    bench.book.add(
        Line(what, "cost", "µs", median, at_most=5),
        Line(what, "cost", "µs", median, "wandb.log, offline", seen["wandb median"], at_most=0.1),
        Line(what, "cost", "µs", median, "MLflow log_metric", seen["mlflow median"], at_most=0.1),
        Line("the same, mean, in a loop of nothing else", "cost", "µs", mean, "wandb.log, offline", seen["wandb mean"]),
    )
