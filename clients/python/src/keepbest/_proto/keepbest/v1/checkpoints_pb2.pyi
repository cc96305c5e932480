from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from keepbest._proto.keepbest.v1 import resources_pb2 as _resources_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PrepareFileRequest(_message.Message):
    __slots__ = ("checkpoint", "attempt", "path", "size_bytes", "sha256")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    checkpoint: str
    attempt: int
    path: str
    size_bytes: int
    sha256: bytes
    def __init__(self, checkpoint: _Optional[str] = ..., attempt: _Optional[int] = ..., path: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class WriteFileRequest(_message.Message):
    __slots__ = ("checkpoint", "attempt", "path", "offset_bytes", "data", "crc32c", "finish", "cut", "known")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    checkpoint: str
    attempt: int
    path: str
    offset_bytes: int
    data: bytes
    crc32c: int
    finish: bool
    cut: bool
    known: _containers.RepeatedCompositeFieldContainer[KnownChunk]
    def __init__(self, checkpoint: _Optional[str] = ..., attempt: _Optional[int] = ..., path: _Optional[str] = ..., offset_bytes: _Optional[int] = ..., data: _Optional[bytes] = ..., crc32c: _Optional[int] = ..., finish: bool = ..., cut: bool = ..., known: _Optional[_Iterable[_Union[KnownChunk, _Mapping]]] = ...) -> None: ...

class KnownChunk(_message.Message):
    __slots__ = ("size_bytes", "digest")
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    digest: bytes
    def __init__(self, size_bytes: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class FindMissingChunksRequest(_message.Message):
    __slots__ = ("checkpoint", "digests")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    checkpoint: str
    digests: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, checkpoint: _Optional[str] = ..., digests: _Optional[_Iterable[bytes]] = ...) -> None: ...

class FindMissingChunksResponse(_message.Message):
    __slots__ = ("missing",)
    MISSING_FIELD_NUMBER: _ClassVar[int]
    missing: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, missing: _Optional[_Iterable[int]] = ...) -> None: ...

class WriteSmallFilesRequest(_message.Message):
    __slots__ = ("checkpoint", "attempt", "files")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    checkpoint: str
    attempt: int
    files: _containers.RepeatedCompositeFieldContainer[SmallFile]
    def __init__(self, checkpoint: _Optional[str] = ..., attempt: _Optional[int] = ..., files: _Optional[_Iterable[_Union[SmallFile, _Mapping]]] = ...) -> None: ...

class SmallFile(_message.Message):
    __slots__ = ("path", "data", "sha256")
    PATH_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    path: str
    data: bytes
    sha256: bytes
    def __init__(self, path: _Optional[str] = ..., data: _Optional[bytes] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class WriteSmallFilesResponse(_message.Message):
    __slots__ = ("files",)
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[_resources_pb2.File]
    def __init__(self, files: _Optional[_Iterable[_Union[_resources_pb2.File, _Mapping]]] = ...) -> None: ...

class CommitCheckpointRequest(_message.Message):
    __slots__ = ("checkpoint", "attempt", "file_count", "metadata", "part", "part_count", "wait")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    PART_COUNT_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    checkpoint: str
    attempt: int
    file_count: int
    metadata: _struct_pb2.Struct
    part: int
    part_count: int
    wait: _duration_pb2.Duration
    def __init__(self, checkpoint: _Optional[str] = ..., attempt: _Optional[int] = ..., file_count: _Optional[int] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., part: _Optional[int] = ..., part_count: _Optional[int] = ..., wait: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class AbandonCheckpointRequest(_message.Message):
    __slots__ = ("checkpoint", "attempt")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    checkpoint: str
    attempt: int
    def __init__(self, checkpoint: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class GetCheckpointRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...
