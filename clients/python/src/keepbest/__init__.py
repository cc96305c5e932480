"""Client of the Keepbest checkpoint service.

Report metrics; the server decides whether the moment is worth a checkpoint; upload only what it wants:

    import keepbest

    client = keepbest.Client("http://127.0.0.1:7400")
    rule = keepbest.strategy("m-{epoch:02d}.safetensors", save_best_only=True)
    with client.start_run("team/project", "run-1", rule) as run:
        for epoch in range(run.next_epoch, 10):
            decision = run.report_epoch(epoch, {"val_loss": train_one_epoch()})
            if decision and decision.action == keepbest.SAVE:
                write_model("m.safetensors")
                run.save(decision, "m.safetensors")
    client.pull("team/project/run-run-1-model:best", "here")

When several ranks save one checkpoint together, each passes its place and saves its own files:

    run = client.start_run("team/project", "run-1", rule, **keepbest.launch_from_environment())
    version = run.save(decision, f"shard-{run.rank}.pt")  # on every rank; returns once all ranks have saved

For Keras, see `keepbest.keras` and `keepbest.tf_keras`; importing `keepbest` imports no framework, and
nothing else before one of its names is used.
"""

from __future__ import annotations

import os
import sys

# As in `typing`, whose import alone would cost more than all the rest.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from keepbest._notebook import table
    from keepbest._watch import WatchedVersion
    from keepbest.client import Client
    from keepbest.errors import (
        Aborted,
        AlreadyExists,
        DataLoss,
        FailedPrecondition,
        FileChanged,
        InvalidArgument,
        KeepbestError,
        NotFound,
        OutOfRange,
        PermissionDenied,
        ResourceExhausted,
        SequenceConflict,
        StaleAttempt,
        StillWaiting,
        Unauthenticated,
        Unavailable,
    )
    from keepbest.ranks import Launch, launch_from_environment
    from keepbest.run import Run
    from keepbest.strategy import strategy
    from keepbest.types import Action, Decision, Event, Strategy, Version

    SAVE = Action.ACTION_SAVE
    SKIP = Action.ACTION_SKIP
    FAIL = Action.ACTION_FAIL

__version__ = "0.1.0"

# Read by gRPC when it is first imported, which may come between this import and the first use of a name: makes it stop
# its threads before os.fork() and start them again after it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")

# The module that each name comes from; all others are errors.
_HOMES = {
    "Client": "client",
    "Launch": "ranks",
    "Run": "run",
    "WatchedVersion": "_watch",
    "launch_from_environment": "ranks",
    "table": "_notebook",
    **dict.fromkeys(("Action", "Decision", "Event", "Strategy", "Version"), "types"),
}
_ACTIONS = {"SAVE": "ACTION_SAVE", "SKIP": "ACTION_SKIP", "FAIL": "ACTION_FAIL"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module `keepbest` has no attribute `{name}`")
    if name in _ACTIONS:
        value = import_module("keepbest.types").Action.Value(_ACTIONS[name])
    else:
        value = getattr(import_module(f"keepbest.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]


class _Package(type(sys)):  # type: ignore[misc]
    """Lets `keepbest.strategy` be the function, though importing the module of that name sets it as an attribute."""

    @property
    def strategy(self) -> Any:
        """`keepbest.strategy.strategy`."""
        from importlib import import_module

        return import_module("keepbest.strategy").strategy

    @strategy.setter
    def strategy(self, module: ModuleType) -> None:
        pass


sys.modules[__name__].__class__ = _Package

__all__ = [
    "FAIL",
    "SAVE",
    "SKIP",
    "Aborted",
    "Action",
    "AlreadyExists",
    "Client",
    "DataLoss",
    "Decision",
    "Event",
    "FailedPrecondition",
    "FileChanged",
    "InvalidArgument",
    "KeepbestError",
    "Launch",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "ResourceExhausted",
    "Run",
    "SequenceConflict",
    "StaleAttempt",
    "StillWaiting",
    "Strategy",
    "Unauthenticated",
    "Unavailable",
    "Version",
    "WatchedVersion",
    "launch_from_environment",
    "strategy",
    "table",
]
