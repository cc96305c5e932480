"""Many clients at once: a few processes with some threads each, so that one interpreter's lock is not what is measured.

The processes run this file. They read one line of JSON a task, and answer with one; they end when their input does.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

_PROCESSES = 4
_THREADS = 16
CLIENTS = _PROCESSES * _THREADS

# What a client does once.
Act = Callable[[], object]


class Crew:
    """The processes, as a context manager."""

    def __init__(self, task: str, address: str, folder: Path) -> None:
        """Start them; each makes its clients for a task at a server."""
        with contextlib.ExitStack() as started:
            self._workers = [started.enter_context(_worker()) for _ in range(_PROCESSES)]
            self._ends = started.pop_all()
        try:
            self._all(lambda number: {"task": task, "address": address, "folder": str(folder), "number": number})
        except BaseException:
            self._ends.close()
            raise

    def __enter__(self) -> Self:
        """The crew."""
        return self

    def __exit__(self, *error: object) -> None:
        """End them."""
        self._ends.close()

    def rate(self, times: int) -> float:
        """All clients at once, each so many times: how many of these a second."""
        begin = time.perf_counter()
        self._all(lambda number: {"times": times})
        return CLIENTS * times / (time.perf_counter() - begin)

    def _all(self, order: Callable[[int], dict[str, Any]]) -> None:
        for number, worker in enumerate(self._workers):
            assert worker.stdin
            worker.stdin.write(json.dumps(order(number)) + "\n")
            worker.stdin.flush()
        for worker in self._workers:
            assert worker.stdout
            answer = json.loads(worker.stdout.readline() or '{"error": "a process of the crew ended"}')
            if "error" in answer:
                raise RuntimeError(answer["error"])


@contextlib.contextmanager
def _worker() -> Any:
    worker = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


def _keepbest_clients(task: str, address: str, folder: Path, number: int) -> list[Act]:
    from sides import PROJECT, decided, saving_run

    import keepbest

    def act(thread: int) -> Act:
        name = f"{task}-{number}-{thread}"
        client, epochs = keepbest.Client(address, progress=False), iter(range(1_000_000))
        if task == "events":
            rule = {"filepath": "m-{epoch}", "save_best_only": True, "initial_value_threshold": 0.0, "mode": "min"}
            run = client.start_run(PROJECT, name, rule)
            return lambda: run.report_epoch(next(epochs), {"val_loss": 1.0})
        run, file = saving_run(client, name), folder / f"keepbest-{name}"

        def save() -> None:
            file.write_bytes(os.urandom(1024))
            epoch = next(epochs)
            run.save(decided(run, epoch, 1.0 / (epoch + 1)), file)

        return save

    return [act(thread) for thread in range(_THREADS)]


def _mlflow_clients(task: str, address: str, folder: Path, number: int) -> list[Act]:
    from mlflow.tracking import MlflowClient

    def act(thread: int) -> Act:
        name = f"{task}-{number}-{thread}"
        client, epochs = MlflowClient(tracking_uri=address), iter(range(1_000_000))
        run_id, file = client.create_run("0", run_name=name).info.run_id, folder / f"mlflow-{name}"
        if task == "events":
            return lambda: client.log_metric(run_id, "val_loss", 1.0, step=next(epochs))

        def save() -> None:
            file.write_bytes(os.urandom(1024))
            epoch = next(epochs)
            client.log_artifact(run_id, str(file), f"epoch-{epoch}")
            client.log_metric(run_id, "val_loss", 1.0 / (epoch + 1), step=epoch)

        return save

    return [act(thread) for thread in range(_THREADS)]


def _at_once(acts: list[Act], times: int) -> None:
    """Each in a thread of its own, so many times."""
    errors: list[BaseException] = []

    def work(act: Act) -> None:
        try:
            for _ in range(times):
                act()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def main() -> None:
    """Do what is asked for."""
    output, acts = os.fdopen(os.dup(1), "w"), list[Act]()
    os.dup2(2, 1)  # what others print must not be taken for an answer
    for line in sys.stdin:
        order, answer = json.loads(line), {}
        try:
            if "task" in order:
                make = _mlflow_clients if order["address"].startswith("http") else _keepbest_clients
                acts = make(order["task"], order["address"], Path(order["folder"]), order["number"])
            else:
                _at_once(acts, order["times"])
        except Exception as error:
            answer["error"] = repr(error)
        output.write(json.dumps(answer) + "\n")
        output.flush()


if __name__ == "__main__":
    main()
