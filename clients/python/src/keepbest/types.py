"""The messages that the client takes and returns, for import from one place.

They are the generated protobuf classes, with the fields that the proto files document: `Version.metrics["val_loss"]`,
`Decision.reason_text` and so on. Epochs and batches are 0-based. Printed they show all their fields, and in notebooks
what matters of them.
"""

from keepbest._notebook import show_in_notebooks
from keepbest._proto.keepbest.v1.resources_pb2 import (
    Action,
    Alias,
    Artifact,
    Checkpoint,
    Decision,
    Deletion,
    Event,
    EventKind,
    File,
    MetricDirection,
    Mode,
    MonitorState,
    NextDue,
    Reason,
    RecordedEvent,
    RunState,
    Strategy,
    Version,
)
from keepbest._proto.keepbest.v1.resources_pb2 import Run as RunResource
from keepbest._repr import show_as_text

show_as_text(Alias, Artifact, Checkpoint, Decision, Event, File, MonitorState, NextDue, RecordedEvent, RunResource)
show_as_text(Deletion, Strategy, Version)
show_in_notebooks()

__all__ = [
    "Action",
    "Alias",
    "Artifact",
    "Checkpoint",
    "Decision",
    "Deletion",
    "Event",
    "EventKind",
    "File",
    "MetricDirection",
    "Mode",
    "MonitorState",
    "NextDue",
    "Reason",
    "RecordedEvent",
    "RunResource",
    "RunState",
    "Strategy",
    "Version",
]
