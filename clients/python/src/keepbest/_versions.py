"""Read versions and their files."""

from __future__ import annotations

from collections.abc import Callable

from keepbest._channel import Connection
from keepbest._proto.keepbest.v1.artifacts_pb2 import GetVersionRequest
from keepbest._retry import call
from keepbest.types import File, Version


def version_of(connection: Connection, name: str, budget_seconds: float) -> Version:
    """The version of a resource name, by number or alias, without its files."""
    method: Callable[..., Version] = connection.stubs().artifacts.GetVersion
    return call(method, GetVersionRequest(name=name), budget_seconds)


def files_of(connection: Connection, name: str, budget_seconds: float) -> list[File]:
    """All files of a version. `name` ends in its number, because an alias may move between two calls."""
    method: Callable[..., Version] = connection.stubs().artifacts.GetVersion
    return list(call(method, GetVersionRequest(name=name, include_files=True), budget_seconds).files)
