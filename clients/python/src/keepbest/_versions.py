"""Read versions and their files."""

from __future__ import annotations

from collections.abc import Callable

from keepbest._channel import Connection
from keepbest._proto.keepbest.v1.artifacts_pb2 import GetVersionRequest, ListFilesRequest, ListFilesResponse
from keepbest._retry import Patience, call
from keepbest.types import File, Version

# The most files that the server puts into one page.
_PAGE_FILES = 1_000


def epoch_after(version: Version) -> int:
    """The epoch to go on with from a version: the next one, or its own if it was saved in the middle of it."""
    return version.epoch if version.HasField("batch") else version.epoch + 1


def version_of(connection: Connection, name: str, patience: Patience) -> Version:
    """The version with this resource name, which ends in a number or an alias. Its files are left out."""
    method: Callable[..., Version] = connection.stubs().artifacts.GetVersion
    return call(method, GetVersionRequest(name=name), patience)


def files_of(connection: Connection, name: str, patience: Patience) -> list[File]:
    """All files of a version, page by page. Its name should end in the number: an alias may move between two pages."""
    method: Callable[..., ListFilesResponse] = connection.stubs().artifacts.ListFiles
    request = ListFilesRequest(parent=name, page_size=_PAGE_FILES)
    files: list[File] = []
    while True:
        page = call(method, request, patience)
        files += page.files
        if not page.next_page_token:
            return files
        request.page_token = page.next_page_token
