"""Client of the Keepbest checkpoint service.

Report metrics; the server decides whether the moment is worth a checkpoint; upload only what it wants:

    import keepbest

    client = keepbest.Client("http://127.0.0.1:7400")
    rule = keepbest.strategy("m-{epoch:02d}.safetensors", save_best_only=True)
    with client.start_run("team/project", "run-1", rule) as run:
        for epoch in range(run.next_epoch, 10):
            decision = run.report_epoch(epoch, {"val_loss": train_one_epoch()})
            if decision.action == keepbest.SAVE:
                write_model("m.safetensors")
                run.save(decision, "m.safetensors")
    client.pull("team/project/run-run-1-model:best", "here")

When several ranks save one checkpoint together, each passes its place and saves its own files:

    run = client.start_run("team/project", "run-1", rule, **keepbest.launch_from_environment())
    version = run.save(decision, f"shard-{run.rank}.pt")  # on every rank; returns once all ranks have saved

For Keras, see `keepbest.keras` and `keepbest.tf_keras`; importing `keepbest` imports no framework.
"""

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
    "launch_from_environment",
    "strategy",
]
