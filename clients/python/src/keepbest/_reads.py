"""The part of the client that only reads: runs, artifacts, versions, decisions and events."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from keepbest._arguments import message, wrong
from keepbest._channel import Connection
from keepbest._curve import Curve
from keepbest._load import load, load_mapped
from keepbest._notebook import History
from keepbest._progress import OnProgress, progress_of
from keepbest._proto.keepbest.v1.artifacts_pb2 import (
    GetArtifactRequest,
    GetBestVersionRequest,
    ListAliasesRequest,
    ListArtifactsRequest,
    ListVersionsRequest,
    WatchVersionsRequest,
)
from keepbest._proto.keepbest.v1.projects_pb2 import ListProjectsRequest
from keepbest._proto.keepbest.v1.runs_pb2 import (
    GetRunRequest,
    ListDecisionsRequest,
    ListEventsRequest,
    ListRunsRequest,
)
from keepbest._retry import Timeout, call
from keepbest._tell import tell
from keepbest._versions import files_of, version_of
from keepbest._watch import WatchedVersion, watch
from keepbest.names import artifact_name, listed_name, parent_name, run_name, team_name, version_name
from keepbest.strategy import mode_value
from keepbest.types import Action, Alias, Artifact, Decision, RecordedEvent, RunResource, Version

# Of a history: events a call, the most that the server takes; calls, so that one ends; saves, of which a curve keeps
# fewer.
_EVENTS_A_CALL = 10_000
_MOST_CALLS = 20
_SAVES = 1_000


class Reads:
    """Answers questions about what a server keeps.

    Runs, artifacts and versions may be named in full, as `team/project/name`, or by their name alone in `project`.

    Attributes:
        connection: to the server.
        project: `team/project`, where names without one are looked up.
    """

    connection: Connection
    project: str

    def projects(self, team: str | None = None, page_size: int = 0) -> Iterator[str]:
        """The projects of a team that have an artifact, as `team/project`, fetched page by page.

        Args:
            team: its name; None: that of the client's project.
            page_size: projects a call; 0: the server's choice.
        """
        request = message(ListProjectsRequest, parent=team_name(team or self.project), page_size=page_size)
        for project in self._pages(self.connection.stubs().projects.ListProjects, request, "projects"):
            _, team, _, name = project.name.split("/")
            yield f"{team}/{name}"

    def run(self, name: str, *, timeout: Timeout = None) -> RunResource:
        """Look at a run as it is now, without starting an attempt.

        Args:
            name: of the run.
            timeout: for this call; None: as for the client.
        """
        get: Callable[..., RunResource] = self.connection.stubs().runs.GetRun
        return call(
            get,
            message(GetRunRequest, {"name": "run"}, name=run_name(self.project, name)),
            self.connection.patience(timeout),
        )

    def runs(self, parent: str | None = None, page_size: int = 0, filter: str = "") -> Iterator[RunResource]:
        """The runs of a project or a team, newest first, fetched page by page.

        Args:
            parent: `team/project` or `team`; None: the client's project.
            page_size: runs a call; 0: the server's choice.
            filter: as for `versions`: `state = "ACTIVE" AND config : "adam"`.
        """
        request = message(
            ListRunsRequest, parent=listed_name(parent or self.project), page_size=page_size, filter=filter
        )
        return self._pages(self.connection.stubs().runs.ListRuns, request, "runs")

    def artifact(self, name: str) -> Artifact:
        """An artifact, with the first hundred of its aliases."""
        get: Callable[..., Artifact] = self.connection.stubs().artifacts.GetArtifact
        request = message(GetArtifactRequest, {"name": "artifact"}, name=artifact_name(self.project, name))
        return call(get, request, self.connection.patience())

    def artifacts(self, parent: str | None = None, page_size: int = 0) -> Iterator[Artifact]:
        """The artifacts of a project or a team, fetched page by page.

        Args:
            parent: `team/project` or `team`; None: the client's project.
            page_size: artifacts a call; 0: the server's choice.
        """
        request = message(ListArtifactsRequest, parent=listed_name(parent or self.project), page_size=page_size)
        return self._pages(self.connection.stubs().artifacts.ListArtifacts, request, "artifacts")

    def best(
        self, parent: str, metric: str | None = None, mode: str | None = None, include_files: bool = False
    ) -> Version:
        """The best version in a team, project, artifact or run.

        Args:
            parent: `team`, `team/project`, `team/project/artifact`, or a full resource name (of a run too).
            metric: name of the metric; None: the monitor.
            mode: `min` or `max`; required for a metric that is not the monitor.
            include_files: whether to fill `Version.files`.

        Raises:
            NotFound: no version has the metric.
        """
        request = message(
            GetBestVersionRequest, parent=parent_name(parent), metric=metric or "", mode=mode_value(mode or "auto")
        )
        get: Callable[..., Version] = self.connection.stubs().artifacts.GetBestVersion
        return self._filled(call(get, request, self.connection.patience()), include_files)

    def version(self, name: str, include_files: bool = False) -> Version:
        """A version by number or alias: `team/project/artifact:v3`, `artifact:best`, `artifact:epoch_3` (0-based)."""
        patience = self.connection.patience()
        return self._filled(version_of(self.connection, version_name(name, self.project), patience), include_files)

    def versions(self, artifact: str, filter: str = "", order_by: str = "", page_size: int = 0) -> Iterator[Version]:
        """The versions of an artifact, fetched page by page.

        Args:
            artifact: its name, as `Run.resource.artifact` too.
            filter: comparisons joined by AND and OR: `epoch >= 3 AND metrics.val_loss < 0.2`. Where nothing matches
                because nothing is called so, a warning tells what is.
            order_by: for example `metrics.val_loss asc`; empty: newest number first.
            page_size: versions a call; 0: the server's choice.
        """
        request = message(
            ListVersionsRequest,
            parent=artifact_name(self.project, artifact),
            filter=filter,
            order_by=order_by,
            page_size=page_size,
        )
        return self._pages(self.connection.stubs().artifacts.ListVersions, request, "versions")

    def watch(
        self,
        parent: str | None = None,
        *,
        best_only: bool = False,
        from_start: bool = False,
        cursor: str | None = None,
        timeout: Timeout = None,
    ) -> Iterator[WatchedVersion]:
        """The versions of a team, project, artifact or run as they become visible: an iterator without an end.

        Each comes once and in its order, whatever breaks meanwhile. To go on in another process keep the `cursor` of
        the last one that was dealt with.

        Args:
            parent: `team`, `team/project`, `team/project/artifact`, or a full resource name (of a run too); None: the
                client's project.
            best_only: only versions that became the best of their artifact.
            from_start: begin with the first version that is still there; else with the next one.
            cursor: begin behind this place.
            timeout: seconds for which the server may be away; None: as for the client.

        Raises:
            FailedPrecondition: `CURSOR_UNKNOWN`: the cursor is of another team, or of a database that was made anew.
        """
        request = message(
            WatchVersionsRequest,
            parent=parent_name(parent or self.project),
            best_only=best_only,
            from_start=from_start,
            cursor=cursor or "",
        )
        return watch(self.connection, request, self.connection.patience(timeout))

    def aliases(self, artifact: str, page_size: int = 0) -> Iterator[Alias]:
        """The aliases of an artifact with the versions that they point at, by name, fetched page by page.

        Args:
            artifact: its name.
            page_size: aliases a call; 0: the server's choice.
        """
        request = message(ListAliasesRequest, parent=artifact_name(self.project, artifact), page_size=page_size)
        return self._pages(self.connection.stubs().artifacts.ListAliases, request, "aliases")

    def decisions(self, run: str, epoch: int | None = None) -> Iterator[Decision]:
        """The run's decisions, oldest first: why its model was saved or not. Of one epoch (0-based), or of all."""
        request = message(ListDecisionsRequest, parent=run_name(self.project, run), epoch=epoch)
        return self._pages(self.connection.stubs().runs.ListDecisions, request, "decisions")

    def events(self, run: str, metrics: list[str] | None = None) -> Iterator[RecordedEvent]:
        """The run's events, oldest first, with these metrics or all."""
        if isinstance(metrics, str):
            raise TypeError(wrong("metrics", metrics, f'a list of names, as ["{metrics}"]'))
        request = message(ListEventsRequest, parent=run_name(self.project, run), metrics=metrics or [])
        return self._pages(self.connection.stubs().runs.ListEvents, request, "events")

    def history(self, run: str, metric: str | None = None) -> History:
        """A run with the values of one metric and which moments were saved; a notebook draws it.

        The first 200,000 events are read, in calls of 10,000, and of them 1,000 points are kept.

        Args:
            run: its name.
            metric: its name; None: the run's monitor.
        """
        resource = self.run(run)
        curve = Curve(resource.strategy, metric)
        stubs, patience = self.connection.stubs().runs, self.connection.patience
        events = ListEventsRequest(parent=resource.name, metrics=[curve.metric], page_size=_EVENTS_A_CALL)
        for _ in range(_MOST_CALLS):
            page = call(stubs.ListEvents, events, patience())
            for recorded in page.events:
                if not recorded.writer:
                    curve.add(recorded.event)
            events.page_token = page.next_page_token
            if not page.next_page_token:
                break
        saves = ListDecisionsRequest(
            parent=resource.name, action=Action.ACTION_SAVE, newest_first=True, page_size=_SAVES
        )
        for decision in reversed(call(stubs.ListDecisions, saves, patience()).decisions):
            if decision.version:
                number = int(decision.version.rpartition("/v")[2])
                curve.note_saved(decision, Version(number=number))
        return History(resource, curve, is_whole=not events.page_token)

    def _pages(self, method: Callable[..., Any], request: Any, what: str) -> Iterator[Any]:
        """What is in the field `what` of all pages, from that of `request` on."""
        while True:
            page = call(method, request, self.connection.patience())
            for hint in getattr(page, "hints", ()):
                tell(f"Keepbest: {hint}", levels_up=1)
            yield from getattr(page, what)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def load(
        self,
        name: str,
        *,
        path: str | None = None,
        memory_map: str | os.PathLike[str] | None = None,
        on_progress: OnProgress | None = None,
    ) -> dict[str, Any]:
        """Load the tensors of a version, `team/project/artifact:alias`, from a safetensors file in it.

        They are received straight into arrays of their own, and no file is made. What was received is checked against
        the file's digest before it is returned.

        Args:
            name: of the version.
            path: of the file in the version; None: the only one that ends in `.safetensors`.
            memory_map: a directory to pull the version into, as by `pull`; the arrays are then views of the file
                there, cannot be written to, and are read from the disk when they are used. None: no file is made.
            on_progress: is given how many bytes were received, and how many there are to receive, now and then.

        Returns:
            The arrays, of NumPy, by their names and in the order of the file. Those of `bfloat16` and `float8` have
            dtypes of ml_dtypes, which JAX takes as they are.

        Raises:
            DataLoss: the list of files, or what was received, does not match its digest.
            ValueError: there is no such file, or it is none of safetensors: its header exceeds 100 MB or is damaged.
            ImportError: NumPy is not installed; or ml_dtypes, and a tensor needs it.
        """
        full, patience = version_name(name, self.project), self.connection.patience()
        with progress_of("downloading", on_progress, self.connection.progress) as told:
            if memory_map is None:
                return load(self.connection, full, path, patience, told)
            return load_mapped(self.connection, full, path, Path(memory_map), patience, told)

    def _filled(self, version: Version, include_files: bool) -> Version:
        if include_files:
            version.files.extend(files_of(self.connection, version.name, self.connection.patience()))
        return version
