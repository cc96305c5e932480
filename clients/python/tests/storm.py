"""The trainer's program of `test_storm.py`: trains fits of a plan one after the other, and keeps a ledger of its saves.

    python storm.py FOLDER

FOLDER has `plan.json`, and each line of the standard input names a phase and fits of the plan: `calm 0 1 2` trains them
without faults; `storm 0 1 2` with those that a trainer does to itself, started again after each; `sync 0` brings in
what fits of the storm kept while the server was away. The answer is a line of JSON: how that ended.
"""

from __future__ import annotations

import copy
import faulthandler
import hashlib
import json
import math
import os
import pickle
import random
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np

import keepbest
from keepbest.keras import ModelCheckpoint
from keepbest.run import Run

# What the program exits with when a fit is ended by an exception: one that came through our code, or another.
ENDED_BY_US, ENDED_OTHERWISE = 70, 71
BATCHES, BATCH = 4, 4
# Processes that train side by side; and how long one may take, with 30 s more for each of its fits.
TRAINERS = 3
_SECONDS = 300.0
X = np.random.default_rng(1).random((BATCHES * BATCH, 8), dtype="float32")
# A trainer that has waited for so long at its start for a server has found a fault.
_START_SECONDS = 600.0
# What a bystander puts into the logs, by the name of its kind.
ODD: dict[str, dict[Any, Any]] = {
    "booleans": {"diverged": False, "numpy_flag": np.bool_(True)},
    "numpy": {"half": np.float16(0.5), "count": np.int64(7), "zero_d": np.array(3.0)},
    "long text": {"note": "ä" * 5_000},
    "arrays": {"confusion": np.full((40, 40), 123), "list": [[1, 2], [3, 4]], "empty": np.zeros((0, 3))},
    "1,001 metrics": {f"m{number}": number / 7 for number in range(1_001)},
    "no numbers": {"nan": math.nan, "minus_infinity": -math.inf, "none": None, "large": 10**400},
    "weird names": {"": 1.0, "\x00\n": 2.0, 7: 3.0, (1, "a"): 4.0, "x" * 1_000: 5.0, "ü 🙂 {a}/b": 6.0, "\ud800": 7.0},
    "objects": {"object": object(), "set": {1, 2}, "deep": [[[[{}]]]], "path": Path("a"), "type": int},
}
# What stands in the logs as the monitor instead of a number.
_NO_NUMBERS = {"none": None, "array": np.array([0.1, 0.2]), "text": "0.1", "flag": True, "numpy": np.float32(0.5)}


def make_fit(chance: random.Random, number: int) -> dict[str, Any]:
    """A fit of the plan: its callback's arguments, what its logs say, and how it ends before its end."""
    weights_only, best_only, by_batches = (chance.random() < share for share in (0.3, 0.6, 0.35))
    moment = "{epoch:03d}-{batch:02d}" if by_batches else "{epoch:03d}"
    name = chance.choice([f"m-{moment}", "m"])
    epochs = chance.randrange(4, 8) if by_batches else chance.randrange(6, 11)
    arguments = {
        "filepath": name + (".weights.h5" if weights_only else chance.choice([".keras", ".keras", ".h5"])),
        "monitor": "score",
        "verbose": chance.randrange(2),
        "save_best_only": best_only,
        "save_weights_only": weights_only,
        "mode": chance.choice(["min", "max"]),
        "save_freq": chance.randrange(2, 6) if by_batches else "epoch",
        "initial_value_threshold": chance.choice([None, None, None, 0.5]),
        "asynchronous": chance.random() < 0.5,
        "retry_seconds": chance.choice([0.5, 2.0, 20.0]),
        "keep_local": chance.random() < 0.8,
    }
    # Of each six fits one is killed, one preempted, one is so twice, and three come through.
    both = [signal.SIGKILL, signal.SIGTERM]
    signals = [both[:1], [], both[1:], [], chance.choices(both, k=2), []][number % 6]
    # Epoch -1: at the start of the process, before it has found out where to go on.
    ends = [
        {"signal": it, "epoch": chance.randrange(-1, epochs), "seconds": chance.uniform(0.0, 0.6)} for it in signals
    ]
    return {
        "name": f"fit-{number}",
        "seed": chance.randrange(1 << 30),
        "units": chance.choice([4, 4, 300]),
        "optimizer": chance.choice(["sgd", "adam"]),
        "how": chance.choice(["plain", "plain", "twice", "deepcopy", "pickle"]),
        "asks_first": chance.random() < 0.5,
        "is_direct": chance.random() < 0.3,
        "pause_seconds": chance.uniform(0.0, 0.1),
        "arguments": arguments,
        "ends": ends,
        "epochs": [_moment(chance) for _ in range(epochs)],
        "batches": [[_moment(chance) for _ in range(BATCHES)] for _ in range(epochs)],
    }


def _moment(chance: random.Random) -> dict[str, Any]:
    """What the logs say at the end of an epoch or a batch. The values are few, so that some are equal."""
    value: float | str = round(chance.random(), 1)
    if chance.random() < 0.2:
        value = chance.choice([math.nan, math.inf, -math.inf, 1e-300, "missing", *_NO_NUMBERS])
    return {"value": value, "odd": chance.choice([*ODD, *[""] * 24])}


def number_of(moment: dict[str, Any]) -> float | None:
    """The monitor's value at a moment of the plan, as a decision shows it."""
    value = {"flag": 1.0, "numpy": 0.5}.get(moment["value"], moment["value"])
    return None if isinstance(value, str) or math.isnan(value) else value


class Journal:
    """Lines of JSON, each on disk when `add` returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def add(self, what: str, **values: Any) -> None:
        # In one call, so that no kill falls between its halves.
        os.write(self._descriptor, json.dumps({"what": what, **values}).encode() + b"\n")
        os.fsync(self._descriptor)

    def all(self, what: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, self.path.read_text().splitlines()) if line["what"] == what]


def keep_ledger(journal: Journal) -> None:
    """Have each save that is told as done noted, with the SHA-256 of what was saved, before anybody hears of it."""
    save = _SAVE

    def recorded(run: Run, decision: Any, what: Any, *arguments: Any, **options: Any) -> Any:
        digests = {path: hashlib.sha256(file.read_bytes()).hexdigest() for path, file in what.items()}
        version = save(run, decision, what, *arguments, **options)
        values = {"epoch": decision.epoch, "batch": decision.batch if decision.HasField("batch") else None}
        journal.add("saved", version=version.name, checkpoint=decision.checkpoint, files=digests, **values)
        return version

    Run.save = recorded  # type: ignore[method-assign,assignment]


_SAVE = Run.save


class Logs(keras.callbacks.Callback):  # type: ignore[misc]
    """A bystander in front of ours: the monitor's values are the plan's, and odd things stand beside them."""

    def __init__(self, fit: dict[str, Any]) -> None:
        super().__init__()
        self._fit = fit
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._put(logs, self._fit["epochs"][epoch])

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._fit["arguments"]["save_freq"] != "epoch":
            self._put(logs, self._fit["batches"][self._epoch][batch])

    def _put(self, logs: dict[Any, Any], moment: dict[str, Any]) -> None:
        logs.update(ODD.get(moment["odd"], {}))
        value = moment["value"]
        if value != "missing":
            logs["score"] = _NO_NUMBERS[value] if isinstance(value, str) else value


class Faults(keras.callbacks.Callback):  # type: ignore[misc]
    """Lets a fit take some time, and ends its process at the moment of the plan: as kill -9 or a preemption does."""

    def __init__(self, fit: dict[str, Any], journal: Journal) -> None:
        super().__init__()
        done = len(journal.all("ended"))
        self._next = fit["ends"][done] if done < len(fit["ends"]) else None
        self._pause_seconds = fit["pause_seconds"]
        self._journal = journal
        self._timer: threading.Timer | None = None
        self.on_epoch_begin(-1)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._next is not None and self._timer is None and epoch >= self._next["epoch"]:
            self._timer = threading.Timer(self._next["seconds"], self._end)
            self._timer.daemon = True
            self._timer.start()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        time.sleep(self._pause_seconds)

    def close(self) -> None:
        """The fit is over: it came to its end first."""
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        assert self._next is not None
        self._journal.add("ended", signal=self._next["signal"])
        os.kill(os.getpid(), self._next["signal"])


def make_model(fit: dict[str, Any]) -> Any:
    keras.utils.set_random_seed(fit["seed"])
    hidden = [keras.layers.Dense(fit["units"], "relu") for _ in range(2)]
    made = keras.Sequential([keras.layers.Input((8,)), *hidden, keras.layers.Dense(1)])
    made.compile(loss="mse", optimizer=fit["optimizer"])
    return made


def make_callback(fit: dict[str, Any], address: str, phase: str, folder: Path, journal: Journal) -> ModelCheckpoint:
    """The fit's callback; where the plan wants a copy of it, that. After a restart it bears the name of the first."""
    arguments = {**fit["arguments"], "filepath": str(folder / "out" / fit["arguments"]["filepath"])}
    arguments |= {"server": address, "project": f"storm/{phase}"}
    if begun := journal.all("begun"):
        return ModelCheckpoint(run=begun[0]["run"], **arguments)
    callback = ModelCheckpoint(run=fit["name"], **arguments)
    if fit["how"] == "deepcopy":
        callback = copy.deepcopy(callback)
    elif fit["how"] == "pickle":
        callback = pickle.loads(pickle.dumps(callback))
    journal.add("begun", run=callback.run_name)
    return callback


def resume(callback: ModelCheckpoint, model: Any) -> int:
    """Where the fit goes on. While the server is away, or full, a trainer that is started again has to wait for it."""
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            return callback.resume(model)
        except (keepbest.Unavailable, keepbest.ResourceExhausted):
            if time.monotonic() > until:
                raise


def train(fit: dict[str, Any], address: str, phase: str, folder: Path) -> None:
    """Train one fit from where it stands to its end."""
    journal = Journal(folder / "journal")
    if journal.all("finished"):
        return
    keep_ledger(journal)
    warnings.showwarning = lambda message, *_, **__: journal.add("warned", text=str(message))
    faults = [Faults(fit, journal)] if phase == "storm" else []
    again = bool(journal.all("begun"))
    callback = make_callback(fit, address, phase, folder, journal)
    model = make_model(fit)
    first = resume(callback, model) if again or fit["asks_first"] else 0
    journal.add("started", epoch=first)
    epochs = len(fit["epochs"])
    for last in [epochs // 2, epochs] if fit["how"] == "twice" else [epochs]:
        if first < last:
            options = {"batch_size": BATCH, "epochs": last, "initial_epoch": first, "shuffle": False, "verbose": 0}
            model.fit(X, X[:, :1], callbacks=[Logs(fit), *faults, callback], **options)
            first = last
    for fault in faults:
        fault.close()
    journal.add("finished")


def sync(address: str, folder: Path) -> None:
    """Bring in what a fit kept in its folder."""
    journal = Journal(folder / "journal")
    keep_ledger(journal)
    with keepbest.Client(address, timeout=60.0) as client:
        for synced in client.sync(folder / "out", take_over=True):
            journal.add("synced", events=synced.events, losses=synced.losses)


def is_ours(error: BaseException) -> bool:
    """Whether an exception came through our code."""
    ours = str(Path(keepbest.__file__).parent)
    return any(frame.filename.startswith(ours) for frame in traceback.extract_tb(error.__traceback__))


def work(folder: Path, phase: str, numbers: list[int]) -> int:
    """What a trainer's process does: these fits of the plan, from where they stand; its exit code."""
    plan = json.loads((folder / "plan.json").read_text())
    # An error in a thread beside the training is no less ours; and a process that hangs says where.
    threading.excepthook = lambda it: (traceback.print_exception(it.exc_value), os._exit(ENDED_BY_US))
    faulthandler.dump_traceback_later(_SECONDS + 30.0 * len(numbers), exit=True)
    for number in numbers:
        fit, at = plan["fits"][number], folder / ("calm" if phase == "calm" else "storm") / str(number)
        try:
            if phase == "sync":
                sync(plan["server"], at)
            else:
                address = plan["server"] if phase == "calm" or fit["is_direct"] else plan["proxy"]
                train(fit, address, phase, at)
        except Exception as error:
            print(f"fit {number}, {phase}:", file=sys.stderr)
            traceback.print_exc()
            return ENDED_BY_US if is_ours(error) else ENDED_OTHERWISE
    return 0


def start(folder: Path, phase: str, numbers: list[int], log: Path) -> int:
    """Start a trainer's process. It is a fork, because importing Keras takes seconds."""
    pid = os.fork()
    if pid:
        return pid
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for number in (1, 2):
        os.dup2(output, number)
    sys.exit(work(folder, phase, numbers))


def run(folder: Path, phase: str, numbers: list[int]) -> dict[str, Any]:
    """Have fits trained by several processes side by side, each started again when it was killed."""
    parts = [part for first in range(TRAINERS) if (part := numbers[first::TRAINERS])]
    logs = [folder / f"{phase}-{number}.log" for number in range(len(parts))]
    working = {start(folder, phase, part, log): (part, log) for part, log in zip(parts, logs, strict=True)}
    restarts = 0
    while working:
        pid, status = os.wait()
        part, log = working.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        if code in (-signal.SIGKILL, -signal.SIGTERM):
            restarts += 1
            working[start(folder, phase, part, log)] = part, log
        elif code != 0:
            for other in working:
                os.kill(other, signal.SIGKILL)
            return {"code": code, "log": str(log)}
    return {"code": 0, "restarts": restarts}


def main(folder: Path) -> None:
    """Do what the lines of the standard input say, and answer each with a line."""
    faulthandler.enable()
    warnings.simplefilter("always")
    warnings.filterwarnings("ignore", "__array__ implementation")  # Keras and NumPy on JAX arrays; not ours to mend
    warnings.filterwarnings("ignore", "os.fork")  # nothing of JAX or gRPC has begun when this program forks
    for line in sys.stdin:
        phase, *numbers = line.split()
        print(json.dumps(run(folder, phase, [int(number) for number in numbers])), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
