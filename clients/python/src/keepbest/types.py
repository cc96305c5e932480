"""The messages of the contract that the client takes and returns, under one roof.

They are the generated protobuf classes themselves: `Version.metrics["val_loss"]`, `Decision.reason_text` and so on, as
the proto files document them. Epochs and batches are 0-based.
"""

from keepbest._proto.keepbest.v1.resources_pb2 import (
    Action,
    Artifact,
    Checkpoint,
    Decision,
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

__all__ = [
    "Action",
    "Artifact",
    "Checkpoint",
    "Decision",
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
