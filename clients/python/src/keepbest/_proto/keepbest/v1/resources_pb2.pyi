from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODE_UNSPECIFIED: _ClassVar[Mode]
    MODE_MIN: _ClassVar[Mode]
    MODE_MAX: _ClassVar[Mode]

class MetricDirection(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    METRIC_DIRECTION_UNSPECIFIED: _ClassVar[MetricDirection]
    METRIC_DIRECTION_DOWN: _ClassVar[MetricDirection]
    METRIC_DIRECTION_UP: _ClassVar[MetricDirection]

class DirectionInference(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DIRECTION_INFERENCE_UNSPECIFIED: _ClassVar[DirectionInference]
    DIRECTION_INFERENCE_METRIC_DIRECTIONS: _ClassVar[DirectionInference]
    DIRECTION_INFERENCE_NAME: _ClassVar[DirectionInference]

class WhenMissing(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WHEN_MISSING_UNSPECIFIED: _ClassVar[WhenMissing]
    WHEN_MISSING_SKIP: _ClassVar[WhenMissing]
    WHEN_MISSING_SAVE: _ClassVar[WhenMissing]
    WHEN_MISSING_FAIL: _ClassVar[WhenMissing]

class WhenTemplateKeyMissing(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WHEN_TEMPLATE_KEY_MISSING_UNSPECIFIED: _ClassVar[WhenTemplateKeyMissing]
    WHEN_TEMPLATE_KEY_MISSING_PRINT_NONE: _ClassVar[WhenTemplateKeyMissing]
    WHEN_TEMPLATE_KEY_MISSING_FAIL: _ClassVar[WhenTemplateKeyMissing]

class InitialBest(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INITIAL_BEST_UNSPECIFIED: _ClassVar[InitialBest]
    INITIAL_BEST_NONE: _ClassVar[InitialBest]
    INITIAL_BEST_WORST: _ClassVar[InitialBest]

class EventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_KIND_UNSPECIFIED: _ClassVar[EventKind]
    EVENT_KIND_BATCH_END: _ClassVar[EventKind]
    EVENT_KIND_EPOCH_END: _ClassVar[EventKind]
    EVENT_KIND_TRAIN_END: _ClassVar[EventKind]

class Action(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTION_UNSPECIFIED: _ClassVar[Action]
    ACTION_SAVE: _ClassVar[Action]
    ACTION_SKIP: _ClassVar[Action]
    ACTION_FAIL: _ClassVar[Action]

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    REASON_IMPROVED: _ClassVar[Reason]
    REASON_NOT_IMPROVED: _ClassVar[Reason]
    REASON_EVERY_EPOCH: _ClassVar[Reason]
    REASON_EVERY_BATCHES: _ClassVar[Reason]
    REASON_MONITOR_MISSING: _ClassVar[Reason]
    REASON_MONITOR_NOT_SCALAR: _ClassVar[Reason]
    REASON_MONITOR_NAN: _ClassVar[Reason]
    REASON_TEMPLATE_KEY_MISSING: _ClassVar[Reason]
    REASON_TEMPLATE_ERROR: _ClassVar[Reason]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_OPEN: _ClassVar[Outcome]
    OUTCOME_COMMITTED: _ClassVar[Outcome]
    OUTCOME_GIVEN_UP: _ClassVar[Outcome]
    OUTCOME_DELETED: _ClassVar[Outcome]

class RunState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATE_UNSPECIFIED: _ClassVar[RunState]
    RUN_STATE_ACTIVE: _ClassVar[RunState]
    RUN_STATE_FINISHED: _ClassVar[RunState]
    RUN_STATE_FAILED: _ClassVar[RunState]

class Contact(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONTACT_UNSPECIFIED: _ClassVar[Contact]
    CONTACT_ALIVE: _ClassVar[Contact]
    CONTACT_SILENT: _ClassVar[Contact]

class CheckpointState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHECKPOINT_STATE_UNSPECIFIED: _ClassVar[CheckpointState]
    CHECKPOINT_STATE_PENDING: _ClassVar[CheckpointState]
    CHECKPOINT_STATE_COMMITTED: _ClassVar[CheckpointState]
    CHECKPOINT_STATE_DELETED: _ClassVar[CheckpointState]

class FileState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FILE_STATE_UNSPECIFIED: _ClassVar[FileState]
    FILE_STATE_OPEN: _ClassVar[FileState]
    FILE_STATE_COMPLETE: _ClassVar[FileState]
MODE_UNSPECIFIED: Mode
MODE_MIN: Mode
MODE_MAX: Mode
METRIC_DIRECTION_UNSPECIFIED: MetricDirection
METRIC_DIRECTION_DOWN: MetricDirection
METRIC_DIRECTION_UP: MetricDirection
DIRECTION_INFERENCE_UNSPECIFIED: DirectionInference
DIRECTION_INFERENCE_METRIC_DIRECTIONS: DirectionInference
DIRECTION_INFERENCE_NAME: DirectionInference
WHEN_MISSING_UNSPECIFIED: WhenMissing
WHEN_MISSING_SKIP: WhenMissing
WHEN_MISSING_SAVE: WhenMissing
WHEN_MISSING_FAIL: WhenMissing
WHEN_TEMPLATE_KEY_MISSING_UNSPECIFIED: WhenTemplateKeyMissing
WHEN_TEMPLATE_KEY_MISSING_PRINT_NONE: WhenTemplateKeyMissing
WHEN_TEMPLATE_KEY_MISSING_FAIL: WhenTemplateKeyMissing
INITIAL_BEST_UNSPECIFIED: InitialBest
INITIAL_BEST_NONE: InitialBest
INITIAL_BEST_WORST: InitialBest
EVENT_KIND_UNSPECIFIED: EventKind
EVENT_KIND_BATCH_END: EventKind
EVENT_KIND_EPOCH_END: EventKind
EVENT_KIND_TRAIN_END: EventKind
ACTION_UNSPECIFIED: Action
ACTION_SAVE: Action
ACTION_SKIP: Action
ACTION_FAIL: Action
REASON_UNSPECIFIED: Reason
REASON_IMPROVED: Reason
REASON_NOT_IMPROVED: Reason
REASON_EVERY_EPOCH: Reason
REASON_EVERY_BATCHES: Reason
REASON_MONITOR_MISSING: Reason
REASON_MONITOR_NOT_SCALAR: Reason
REASON_MONITOR_NAN: Reason
REASON_TEMPLATE_KEY_MISSING: Reason
REASON_TEMPLATE_ERROR: Reason
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_OPEN: Outcome
OUTCOME_COMMITTED: Outcome
OUTCOME_GIVEN_UP: Outcome
OUTCOME_DELETED: Outcome
RUN_STATE_UNSPECIFIED: RunState
RUN_STATE_ACTIVE: RunState
RUN_STATE_FINISHED: RunState
RUN_STATE_FAILED: RunState
CONTACT_UNSPECIFIED: Contact
CONTACT_ALIVE: Contact
CONTACT_SILENT: Contact
CHECKPOINT_STATE_UNSPECIFIED: CheckpointState
CHECKPOINT_STATE_PENDING: CheckpointState
CHECKPOINT_STATE_COMMITTED: CheckpointState
CHECKPOINT_STATE_DELETED: CheckpointState
FILE_STATE_UNSPECIFIED: FileState
FILE_STATE_OPEN: FileState
FILE_STATE_COMPLETE: FileState

class Strategy(_message.Message):
    __slots__ = ("filepath", "monitor", "verbose", "save_best_only", "save_weights_only", "mode", "every_epoch", "every_batches", "options", "initial_value_threshold", "min_delta", "when_monitor_missing", "when_monitor_not_scalar", "when_template_key_missing", "initial_best", "announce_finished", "local_directory", "direction_inference")
    FILEPATH_FIELD_NUMBER: _ClassVar[int]
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    VERBOSE_FIELD_NUMBER: _ClassVar[int]
    SAVE_BEST_ONLY_FIELD_NUMBER: _ClassVar[int]
    SAVE_WEIGHTS_ONLY_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    EVERY_EPOCH_FIELD_NUMBER: _ClassVar[int]
    EVERY_BATCHES_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    INITIAL_VALUE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MIN_DELTA_FIELD_NUMBER: _ClassVar[int]
    WHEN_MONITOR_MISSING_FIELD_NUMBER: _ClassVar[int]
    WHEN_MONITOR_NOT_SCALAR_FIELD_NUMBER: _ClassVar[int]
    WHEN_TEMPLATE_KEY_MISSING_FIELD_NUMBER: _ClassVar[int]
    INITIAL_BEST_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCE_FINISHED_FIELD_NUMBER: _ClassVar[int]
    LOCAL_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_INFERENCE_FIELD_NUMBER: _ClassVar[int]
    filepath: str
    monitor: str
    verbose: int
    save_best_only: bool
    save_weights_only: bool
    mode: Mode
    every_epoch: bool
    every_batches: int
    options: _struct_pb2.Struct
    initial_value_threshold: float
    min_delta: float
    when_monitor_missing: WhenMissing
    when_monitor_not_scalar: WhenMissing
    when_template_key_missing: WhenTemplateKeyMissing
    initial_best: InitialBest
    announce_finished: bool
    local_directory: str
    direction_inference: DirectionInference
    def __init__(self, filepath: _Optional[str] = ..., monitor: _Optional[str] = ..., verbose: _Optional[int] = ..., save_best_only: bool = ..., save_weights_only: bool = ..., mode: _Optional[_Union[Mode, str]] = ..., every_epoch: bool = ..., every_batches: _Optional[int] = ..., options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., initial_value_threshold: _Optional[float] = ..., min_delta: _Optional[float] = ..., when_monitor_missing: _Optional[_Union[WhenMissing, str]] = ..., when_monitor_not_scalar: _Optional[_Union[WhenMissing, str]] = ..., when_template_key_missing: _Optional[_Union[WhenTemplateKeyMissing, str]] = ..., initial_best: _Optional[_Union[InitialBest, str]] = ..., announce_finished: bool = ..., local_directory: _Optional[str] = ..., direction_inference: _Optional[_Union[DirectionInference, str]] = ...) -> None: ...

class MetricValue(_message.Message):
    __slots__ = ("number", "integer", "text", "not_scalar", "missing")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NOT_SCALAR_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    number: float
    integer: int
    text: str
    not_scalar: str
    missing: bool
    def __init__(self, number: _Optional[float] = ..., integer: _Optional[int] = ..., text: _Optional[str] = ..., not_scalar: _Optional[str] = ..., missing: bool = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("kind", "epoch", "batch", "step", "wall_time", "metrics", "typed_metrics")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class TypedMetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: MetricValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[MetricValue, _Mapping]] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    WALL_TIME_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    TYPED_METRICS_FIELD_NUMBER: _ClassVar[int]
    kind: EventKind
    epoch: int
    batch: int
    step: int
    wall_time: _timestamp_pb2.Timestamp
    metrics: _containers.ScalarMap[str, float]
    typed_metrics: _containers.MessageMap[str, MetricValue]
    def __init__(self, kind: _Optional[_Union[EventKind, str]] = ..., epoch: _Optional[int] = ..., batch: _Optional[int] = ..., step: _Optional[int] = ..., wall_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., typed_metrics: _Optional[_Mapping[str, MetricValue]] = ...) -> None: ...

class RecordedEvent(_message.Message):
    __slots__ = ("writer", "sequence", "attempt", "event")
    WRITER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    writer: str
    sequence: int
    attempt: int
    event: Event
    def __init__(self, writer: _Optional[str] = ..., sequence: _Optional[int] = ..., attempt: _Optional[int] = ..., event: _Optional[_Union[Event, _Mapping]] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("writer", "sequence", "attempt", "epoch", "batch", "action", "reason", "reason_text", "path", "checkpoint", "weights_only", "message", "finished_message", "warnings", "error_type", "value", "best_before", "decide_time", "improvement", "outcome", "version")
    WRITER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_ONLY_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FINISHED_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    BEST_BEFORE_FIELD_NUMBER: _ClassVar[int]
    DECIDE_TIME_FIELD_NUMBER: _ClassVar[int]
    IMPROVEMENT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    writer: str
    sequence: int
    attempt: int
    epoch: int
    batch: int
    action: Action
    reason: Reason
    reason_text: str
    path: str
    checkpoint: str
    weights_only: bool
    message: str
    finished_message: str
    warnings: _containers.RepeatedScalarFieldContainer[str]
    error_type: str
    value: float
    best_before: float
    decide_time: _timestamp_pb2.Timestamp
    improvement: bool
    outcome: Outcome
    version: str
    def __init__(self, writer: _Optional[str] = ..., sequence: _Optional[int] = ..., attempt: _Optional[int] = ..., epoch: _Optional[int] = ..., batch: _Optional[int] = ..., action: _Optional[_Union[Action, str]] = ..., reason: _Optional[_Union[Reason, str]] = ..., reason_text: _Optional[str] = ..., path: _Optional[str] = ..., checkpoint: _Optional[str] = ..., weights_only: bool = ..., message: _Optional[str] = ..., finished_message: _Optional[str] = ..., warnings: _Optional[_Iterable[str]] = ..., error_type: _Optional[str] = ..., value: _Optional[float] = ..., best_before: _Optional[float] = ..., decide_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., improvement: bool = ..., outcome: _Optional[_Union[Outcome, str]] = ..., version: _Optional[str] = ...) -> None: ...

class NextDue(_message.Message):
    __slots__ = ("epoch_end", "batches")
    EPOCH_END_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    epoch_end: bool
    batches: int
    def __init__(self, epoch_end: bool = ..., batches: _Optional[int] = ...) -> None: ...

class MonitorState(_message.Message):
    __slots__ = ("best", "best_checkpoint", "batches_since_save", "in_flight")
    BEST_FIELD_NUMBER: _ClassVar[int]
    BEST_CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    BATCHES_SINCE_SAVE_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    best: float
    best_checkpoint: str
    batches_since_save: int
    in_flight: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, best: _Optional[float] = ..., best_checkpoint: _Optional[str] = ..., batches_since_save: _Optional[int] = ..., in_flight: _Optional[_Iterable[str]] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("name", "strategy", "direction", "monitor_state", "attempt", "state", "artifact", "create_time", "update_time", "finish_time", "event_count", "last_epoch", "config", "heard_time", "contact", "failure")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    MONITOR_STATE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    FINISH_TIME_FIELD_NUMBER: _ClassVar[int]
    EVENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    LAST_EPOCH_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    HEARD_TIME_FIELD_NUMBER: _ClassVar[int]
    CONTACT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    name: str
    strategy: Strategy
    direction: Mode
    monitor_state: MonitorState
    attempt: int
    state: RunState
    artifact: str
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    finish_time: _timestamp_pb2.Timestamp
    event_count: int
    last_epoch: int
    config: _struct_pb2.Struct
    heard_time: _timestamp_pb2.Timestamp
    contact: Contact
    failure: str
    def __init__(self, name: _Optional[str] = ..., strategy: _Optional[_Union[Strategy, _Mapping]] = ..., direction: _Optional[_Union[Mode, str]] = ..., monitor_state: _Optional[_Union[MonitorState, _Mapping]] = ..., attempt: _Optional[int] = ..., state: _Optional[_Union[RunState, str]] = ..., artifact: _Optional[str] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., finish_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., event_count: _Optional[int] = ..., last_epoch: _Optional[int] = ..., config: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., heard_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., contact: _Optional[_Union[Contact, str]] = ..., failure: _Optional[str] = ...) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("name", "state", "attempt", "epoch", "batch", "path", "create_time", "version", "files", "part_count", "parts", "files_next_page_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    PART_COUNT_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    FILES_NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: CheckpointState
    attempt: int
    epoch: int
    batch: int
    path: str
    create_time: _timestamp_pb2.Timestamp
    version: str
    files: _containers.RepeatedCompositeFieldContainer[File]
    part_count: int
    parts: _containers.RepeatedCompositeFieldContainer[CheckpointPart]
    files_next_page_token: str
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[CheckpointState, str]] = ..., attempt: _Optional[int] = ..., epoch: _Optional[int] = ..., batch: _Optional[int] = ..., path: _Optional[str] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., version: _Optional[str] = ..., files: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., part_count: _Optional[int] = ..., parts: _Optional[_Iterable[_Union[CheckpointPart, _Mapping]]] = ..., files_next_page_token: _Optional[str] = ...) -> None: ...

class CheckpointPart(_message.Message):
    __slots__ = ("part", "file_count", "complete_time")
    PART_FIELD_NUMBER: _ClassVar[int]
    FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_TIME_FIELD_NUMBER: _ClassVar[int]
    part: int
    file_count: int
    complete_time: _timestamp_pb2.Timestamp
    def __init__(self, part: _Optional[int] = ..., file_count: _Optional[int] = ..., complete_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class File(_message.Message):
    __slots__ = ("path", "size_bytes", "durable_bytes", "state", "digest", "sha256")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DURABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    path: str
    size_bytes: int
    durable_bytes: int
    state: FileState
    digest: bytes
    sha256: bytes
    def __init__(self, path: _Optional[str] = ..., size_bytes: _Optional[int] = ..., durable_bytes: _Optional[int] = ..., state: _Optional[_Union[FileState, str]] = ..., digest: _Optional[bytes] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class Artifact(_message.Message):
    __slots__ = ("name", "type", "monitor", "direction", "version_count", "create_time", "aliases", "aliases_next_page_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    VERSION_COUNT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    ALIASES_NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    monitor: str
    direction: Mode
    version_count: int
    create_time: _timestamp_pb2.Timestamp
    aliases: _containers.RepeatedCompositeFieldContainer[Alias]
    aliases_next_page_token: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., monitor: _Optional[str] = ..., direction: _Optional[_Union[Mode, str]] = ..., version_count: _Optional[int] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., aliases: _Optional[_Iterable[_Union[Alias, _Mapping]]] = ..., aliases_next_page_token: _Optional[str] = ...) -> None: ...

class Deletion(_message.Message):
    __slots__ = ("name", "run_count", "artifact_count", "version_count", "event_count", "size_bytes", "freed_bytes", "kept_count", "sample", "purge_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RUN_COUNT_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_COUNT_FIELD_NUMBER: _ClassVar[int]
    VERSION_COUNT_FIELD_NUMBER: _ClassVar[int]
    EVENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    KEPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    PURGE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    run_count: int
    artifact_count: int
    version_count: int
    event_count: int
    size_bytes: int
    freed_bytes: int
    kept_count: int
    sample: _containers.RepeatedScalarFieldContainer[str]
    purge_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., run_count: _Optional[int] = ..., artifact_count: _Optional[int] = ..., version_count: _Optional[int] = ..., event_count: _Optional[int] = ..., size_bytes: _Optional[int] = ..., freed_bytes: _Optional[int] = ..., kept_count: _Optional[int] = ..., sample: _Optional[_Iterable[str]] = ..., purge_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Alias(_message.Message):
    __slots__ = ("alias", "version", "update_time")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    alias: str
    version: str
    update_time: _timestamp_pb2.Timestamp
    def __init__(self, alias: _Optional[str] = ..., version: _Optional[str] = ..., update_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Version(_message.Message):
    __slots__ = ("name", "number", "run", "checkpoint", "attempt", "epoch", "batch", "step", "path", "weights_only", "size_bytes", "file_count", "digest", "metrics", "aliases", "reason", "reason_text", "create_time", "metadata", "files", "alias_count", "files_next_page_token")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_ONLY_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REASON_TEXT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    ALIAS_COUNT_FIELD_NUMBER: _ClassVar[int]
    FILES_NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    number: int
    run: str
    checkpoint: str
    attempt: int
    epoch: int
    batch: int
    step: int
    path: str
    weights_only: bool
    size_bytes: int
    file_count: int
    digest: bytes
    metrics: _containers.ScalarMap[str, float]
    aliases: _containers.RepeatedScalarFieldContainer[str]
    reason: Reason
    reason_text: str
    create_time: _timestamp_pb2.Timestamp
    metadata: _struct_pb2.Struct
    files: _containers.RepeatedCompositeFieldContainer[File]
    alias_count: int
    files_next_page_token: str
    def __init__(self, name: _Optional[str] = ..., number: _Optional[int] = ..., run: _Optional[str] = ..., checkpoint: _Optional[str] = ..., attempt: _Optional[int] = ..., epoch: _Optional[int] = ..., batch: _Optional[int] = ..., step: _Optional[int] = ..., path: _Optional[str] = ..., weights_only: bool = ..., size_bytes: _Optional[int] = ..., file_count: _Optional[int] = ..., digest: _Optional[bytes] = ..., metrics: _Optional[_Mapping[str, float]] = ..., aliases: _Optional[_Iterable[str]] = ..., reason: _Optional[_Union[Reason, str]] = ..., reason_text: _Optional[str] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., files: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., alias_count: _Optional[int] = ..., files_next_page_token: _Optional[str] = ...) -> None: ...
