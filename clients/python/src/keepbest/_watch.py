"""Watch versions as they become visible: a stream that is opened again where it broke."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from keepbest._channel import Connection
from keepbest._proto.keepbest.v1.artifacts_pb2 import WatchVersionsRequest, WatchVersionsResponse
from keepbest._retry import Backoff, Patience, Stream
from keepbest.errors import KeepbestError
from keepbest.types import Version


@dataclass(frozen=True)
class WatchedVersion:
    """A version that a watch has seen.

    Attributes:
        version: without its files.
        is_best: whether it became the best of its artifact when it was committed.
        cursor: where a later watch goes on behind it: `client.watch(..., cursor=seen.cursor)`.
    """

    version: Version
    is_best: bool
    cursor: str


def watch(connection: Connection, request: WatchVersionsRequest, patience: Patience) -> Iterator[WatchedVersion]:
    """Each version once and in its order, for ever.

    Raises:
        KeepbestError: what the server refuses, or that it is away for longer than patience lasts.
    """
    backoff = Backoff(patience)
    while True:
        try:
            for message in _messages(connection, request, patience):
                request.cursor = message.cursor
                backoff.progress()
                if message.HasField("version"):
                    yield WatchedVersion(message.version, message.is_best, message.cursor)
        except KeepbestError as error:
            backoff.pause(error)


def _messages(
    connection: Connection, request: WatchVersionsRequest, patience: Patience
) -> Iterator[WatchVersionsResponse]:
    received = 0
    open_watch: Callable[..., Iterator[WatchVersionsResponse]] = connection.stubs().artifacts.WatchVersions
    with Stream(lambda seconds: open_watch(request, timeout=seconds), lambda: received, patience) as stream:
        for message in stream.call:
            received += 1
            yield message
