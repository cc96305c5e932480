from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from keepbest._proto.keepbest.v1 import resources_pb2 as _resources_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Resume(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESUME_UNSPECIFIED: _ClassVar[Resume]
    RESUME_ALLOW: _ClassVar[Resume]
    RESUME_NEVER: _ClassVar[Resume]
    RESUME_MUST: _ClassVar[Resume]
RESUME_UNSPECIFIED: Resume
RESUME_ALLOW: Resume
RESUME_NEVER: Resume
RESUME_MUST: Resume

class StartRunRequest(_message.Message):
    __slots__ = ("parent", "run_id", "strategy", "metric_directions", "artifact_id", "artifact_type", "request_id", "resume", "config", "writer", "mint_run_token")
    class MetricDirectionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _resources_pb2.MetricDirection
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_resources_pb2.MetricDirection, str]] = ...) -> None: ...
    PARENT_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    METRIC_DIRECTIONS_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_ID_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_TYPE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    WRITER_FIELD_NUMBER: _ClassVar[int]
    MINT_RUN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    run_id: str
    strategy: _resources_pb2.Strategy
    metric_directions: _containers.ScalarMap[str, _resources_pb2.MetricDirection]
    artifact_id: str
    artifact_type: str
    request_id: str
    resume: Resume
    config: _struct_pb2.Struct
    writer: str
    mint_run_token: bool
    def __init__(self, parent: _Optional[str] = ..., run_id: _Optional[str] = ..., strategy: _Optional[_Union[_resources_pb2.Strategy, _Mapping]] = ..., metric_directions: _Optional[_Mapping[str, _resources_pb2.MetricDirection]] = ..., artifact_id: _Optional[str] = ..., artifact_type: _Optional[str] = ..., request_id: _Optional[str] = ..., resume: _Optional[_Union[Resume, str]] = ..., config: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., writer: _Optional[str] = ..., mint_run_token: bool = ...) -> None: ...

class StartRunResponse(_message.Message):
    __slots__ = ("run", "attempt", "next_sequence", "resume_from", "resumed", "next_due", "warnings", "run_token")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RESUME_FROM_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    NEXT_DUE_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    RUN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    run: _resources_pb2.Run
    attempt: int
    next_sequence: int
    resume_from: _resources_pb2.Version
    resumed: bool
    next_due: _resources_pb2.NextDue
    warnings: _containers.RepeatedScalarFieldContainer[str]
    run_token: str
    def __init__(self, run: _Optional[_Union[_resources_pb2.Run, _Mapping]] = ..., attempt: _Optional[int] = ..., next_sequence: _Optional[int] = ..., resume_from: _Optional[_Union[_resources_pb2.Version, _Mapping]] = ..., resumed: bool = ..., next_due: _Optional[_Union[_resources_pb2.NextDue, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ..., run_token: _Optional[str] = ...) -> None: ...

class ReportEventsRequest(_message.Message):
    __slots__ = ("run", "attempt", "writer", "first_sequence", "events")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    WRITER_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    run: str
    attempt: int
    writer: str
    first_sequence: int
    events: _containers.RepeatedCompositeFieldContainer[_resources_pb2.Event]
    def __init__(self, run: _Optional[str] = ..., attempt: _Optional[int] = ..., writer: _Optional[str] = ..., first_sequence: _Optional[int] = ..., events: _Optional[_Iterable[_Union[_resources_pb2.Event, _Mapping]]] = ...) -> None: ...

class ReportEventsResponse(_message.Message):
    __slots__ = ("decisions", "next_sequence", "next_due", "duplicate_count")
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NEXT_DUE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_COUNT_FIELD_NUMBER: _ClassVar[int]
    decisions: _containers.RepeatedCompositeFieldContainer[_resources_pb2.Decision]
    next_sequence: int
    next_due: _resources_pb2.NextDue
    duplicate_count: int
    def __init__(self, decisions: _Optional[_Iterable[_Union[_resources_pb2.Decision, _Mapping]]] = ..., next_sequence: _Optional[int] = ..., next_due: _Optional[_Union[_resources_pb2.NextDue, _Mapping]] = ..., duplicate_count: _Optional[int] = ...) -> None: ...

class FinishRunRequest(_message.Message):
    __slots__ = ("name", "attempt", "state")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    attempt: int
    state: _resources_pb2.RunState
    def __init__(self, name: _Optional[str] = ..., attempt: _Optional[int] = ..., state: _Optional[_Union[_resources_pb2.RunState, str]] = ...) -> None: ...

class GetRunRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token", "filter")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    filter: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., filter: _Optional[str] = ...) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs", "next_page_token")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[_resources_pb2.Run]
    next_page_token: str
    def __init__(self, runs: _Optional[_Iterable[_Union[_resources_pb2.Run, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListEventsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token", "metrics")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    metrics: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., metrics: _Optional[_Iterable[str]] = ...) -> None: ...

class ListEventsResponse(_message.Message):
    __slots__ = ("events", "next_page_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_resources_pb2.RecordedEvent]
    next_page_token: str
    def __init__(self, events: _Optional[_Iterable[_Union[_resources_pb2.RecordedEvent, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListDecisionsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token", "epoch", "action", "newest_first")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIRST_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    epoch: int
    action: _resources_pb2.Action
    newest_first: bool
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., epoch: _Optional[int] = ..., action: _Optional[_Union[_resources_pb2.Action, str]] = ..., newest_first: bool = ...) -> None: ...

class ListDecisionsResponse(_message.Message):
    __slots__ = ("decisions", "next_page_token")
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    decisions: _containers.RepeatedCompositeFieldContainer[_resources_pb2.Decision]
    next_page_token: str
    def __init__(self, decisions: _Optional[_Iterable[_Union[_resources_pb2.Decision, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("run", "attempt")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    run: str
    attempt: int
    def __init__(self, run: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class HeartbeatResponse(_message.Message):
    __slots__ = ("interval",)
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    interval: _duration_pb2.Duration
    def __init__(self, interval: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class DeleteRunRequest(_message.Message):
    __slots__ = ("name", "validate_only", "force", "allow_missing")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    ALLOW_MISSING_FIELD_NUMBER: _ClassVar[int]
    name: str
    validate_only: bool
    force: bool
    allow_missing: bool
    def __init__(self, name: _Optional[str] = ..., validate_only: bool = ..., force: bool = ..., allow_missing: bool = ...) -> None: ...

class AwaitDecisionRequest(_message.Message):
    __slots__ = ("run", "attempt", "epoch", "batch", "wait")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    run: str
    attempt: int
    epoch: int
    batch: int
    wait: _duration_pb2.Duration
    def __init__(self, run: _Optional[str] = ..., attempt: _Optional[int] = ..., epoch: _Optional[int] = ..., batch: _Optional[int] = ..., wait: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class AwaitDecisionResponse(_message.Message):
    __slots__ = ("decision",)
    DECISION_FIELD_NUMBER: _ClassVar[int]
    decision: _resources_pb2.Decision
    def __init__(self, decision: _Optional[_Union[_resources_pb2.Decision, _Mapping]] = ...) -> None: ...
