"""The part of the client that deletes: versions, aliases, runs, artifacts and projects, with what that would free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from keepbest._arguments import message
from keepbest._channel import Connection
from keepbest._proto.keepbest.v1.artifacts_pb2 import (
    DeleteAliasRequest,
    DeleteArtifactRequest,
    DeleteVersionRequest,
    DeleteVersionResponse,
    DeleteVersionsRequest,
)
from keepbest._proto.keepbest.v1.projects_pb2 import DeleteProjectRequest
from keepbest._proto.keepbest.v1.runs_pb2 import DeleteRunRequest
from keepbest._retry import Repeated, call
from keepbest.errors import NotFound
from keepbest.names import artifact_name, check_alias, project_name, run_name, version_name
from keepbest.types import Deletion

# Fields of requests whose arguments are called otherwise.
_CALLED = {"validate_only": "dry_run"}


class Deletes:
    """Deletes what a server keeps.

    With `dry_run` nothing changes: the answer is what would be deleted, and the errors are those that deleting it would
    meet. The bytes are freed after a grace (`Deletion.purge_time`); names are free again at once.

    Attributes:
        connection: to the server.
        project: `team/project`, where names without one are looked up.
    """

    connection: Connection
    project: str

    def delete(self, version: str, *, delete_aliases: bool = False) -> int:
        """Delete a version. Its number is never used again; `latest` and `best` move to what is right.

        Args:
            version: by number, `team/project/artifact:v3`. An alias could move meanwhile, so it is refused.
            delete_aliases: also if aliases of yours point at it, which go with it.

        Returns:
            Its size in bytes. What other versions share of it stays. 0 where an earlier try may have deleted it, whose
            answer was lost, and nothing is known of it any more.

        Raises:
            FailedPrecondition: aliases of yours point at it (`VERSION_HAS_ALIASES`).
            NotFound: there is none.
        """
        request = message(DeleteVersionRequest, name=version_name(version, self.project), delete_aliases=delete_aliases)
        method = Repeated(self.connection.stubs().artifacts.DeleteVersion)
        try:
            response: DeleteVersionResponse = call(method, request, self.connection.patience())
        except NotFound:
            # The server answers the same again as long as it knows the version; it forgets that with the artifact.
            if method.lost:
                return 0
            raise
        return response.size_bytes

    def delete_versions(
        self,
        artifact: str,
        filter: str = "",
        *,
        keep_newest: int = 0,
        delete_aliases: bool = False,
        delete_best: bool = False,
        dry_run: bool = False,
    ) -> Deletion:
        """Delete the versions of an artifact that match a filter. The best one, and those with aliases, stay.

        Args:
            artifact: its name.
            filter: as for `versions`; empty only with `keep_newest`.
            keep_newest: of those that match, so many with the highest numbers stay.
            delete_aliases: also those at which aliases of yours point; the aliases go with them.
            delete_best: also the best one.
            dry_run: only say what would be deleted.
        """
        request = message(
            DeleteVersionsRequest,
            _CALLED,
            parent=artifact_name(self.project, artifact),
            filter=filter,
            keep_newest=keep_newest,
            delete_aliases=delete_aliases,
            delete_best=delete_best,
            validate_only=dry_run,
        )
        method: Callable[..., Deletion] = self.connection.stubs().artifacts.DeleteVersions
        return call(method, request, self.connection.patience())

    def delete_alias(self, artifact: str, alias: str) -> None:
        """Remove an alias of yours. The version that it points at stays.

        Args:
            artifact: its name.
            alias: its name; `latest`, `best`, `epoch_*` and `vN` are the server's.

        Raises:
            NotFound: there is none.
            ValueError: it is no name, or one of the server's.
        """
        check_alias(alias)
        request = DeleteAliasRequest(artifact=artifact_name(self.project, artifact), alias=alias)
        method = Repeated(self.connection.stubs().artifacts.DeleteAlias, _allow_missing)
        call(method, request, self.connection.patience())

    def delete_run(self, name: str, *, force: bool = False, dry_run: bool = False) -> Deletion:
        """Delete a run with its versions, events and decisions.

        Args:
            name: of the run.
            force: also while it is alive, or aliases of yours point at its versions.
            dry_run: only say what would be deleted.

        Raises:
            FailedPrecondition: it is alive (`RUN_ALIVE`), or aliases point at its versions (`VERSION_HAS_ALIASES`).
            NotFound: there is none.
        """
        request = message(
            DeleteRunRequest, _CALLED, name=run_name(self.project, name), force=force, validate_only=dry_run
        )
        return self._delete(self.connection.stubs().runs.DeleteRun, request)

    def delete_artifact(self, name: str, *, force: bool = False, dry_run: bool = False) -> Deletion:
        """Delete an artifact with its versions.

        Args:
            name: of the artifact.
            force: also while a run that saves into it is alive, or aliases of yours point at its versions.
            dry_run: only say what would be deleted.

        Raises:
            FailedPrecondition: as for `delete_run`.
            NotFound: there is none.
        """
        request = message(
            DeleteArtifactRequest, _CALLED, name=artifact_name(self.project, name), force=force, validate_only=dry_run
        )
        return self._delete(self.connection.stubs().artifacts.DeleteArtifact, request)

    def delete_project(self, project: str, *, force: bool = False, dry_run: bool = False) -> Deletion:
        """Delete all runs and artifacts of a project, one after the other.

        Args:
            project: `team/project`.
            force: also what is alive, or has aliases of yours.
            dry_run: only say what would be deleted.

        Raises:
            FailedPrecondition: as for `delete_run`.
            NotFound: it holds nothing.
        """
        request = message(DeleteProjectRequest, _CALLED, name=project_name(project), force=force, validate_only=dry_run)
        return self._delete(self.connection.stubs().projects.DeleteProject, request)

    def _delete(self, method: Callable[..., Deletion], request: Any) -> Deletion:
        """Call a method so that a try whose answer was lost does not make the next one fail."""
        return cast(Deletion, call(Repeated(method, _allow_missing), request, self.connection.patience()))


def _allow_missing(request: Any) -> None:
    request.allow_missing = True
