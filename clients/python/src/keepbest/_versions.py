"""Read versions and their files."""

from __future__ import annotations

from collections.abc import Callable

from keepbest._channel import Connection
from keepbest._proto.keepbest.v1.artifacts_pb2 import GetVersionRequest
from keepbest._retry import Patience, call
from keepbest.types import File, Version


def version_of(connection: Connection, name: str, patience: Patience) -> Version:
    """The version with this resource name, which ends in a number or an alias. Its files are left out."""
    method: Callable[..., Version] = connection.stubs().artifacts.GetVersion
    return call(method, GetVersionRequest(name=name), patience)


def files_of(connection: Connection, name: str, patience: Patience) -> list[File]:
    """All files of a version. Its name should end in the number, because an alias may move between two calls."""
    method: Callable[..., Version] = connection.stubs().artifacts.GetVersion
    return list(call(method, GetVersionRequest(name=name, include_files=True), patience).files)
