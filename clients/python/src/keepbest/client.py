"""The client: start runs, find versions, and pull them."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, cast

from keepbest import _pull
from keepbest._arguments import check_known, check_mapping, check_metrics, check_text, check_whole, message, wrong
from keepbest._channel import DEFAULT_SECONDS, Address, Connection
from keepbest._deletes import Deletes
from keepbest._events import EventBuffer
from keepbest._files import Saveable
from keepbest._near import USUAL_METRICS, near_miss
from keepbest._progress import OnProgress, progress_of
from keepbest._proto.keepbest.v1.artifacts_pb2 import (
    SetAliasRequest,
)
from keepbest._proto.keepbest.v1.runs_pb2 import (
    RESUME_ALLOW,
    RESUME_MUST,
    RESUME_NEVER,
    StartRunRequest,
    StartRunResponse,
)
from keepbest._reads import Reads
from keepbest._retry import Repeated, Timeout, call
from keepbest._sync import Synced, sync
from keepbest._tensors import tensors_of
from keepbest._tls import Tls
from keepbest._token import Token, TokenSource
from keepbest._values import numbers
from keepbest.errors import FailedPrecondition, InvalidArgument, KeepbestError, NotFound
from keepbest.names import artifact_name, check_alias, default_project, project_name, version_name
from keepbest.run import Run
from keepbest.strategy import STRATEGY_ARGUMENTS, direction_values, struct_of
from keepbest.strategy import strategy as make_strategy
from keepbest.types import Mode, Strategy, Version

_RESUME = {"allow": RESUME_ALLOW, "never": RESUME_NEVER, "must": RESUME_MUST}


class Client(Reads, Deletes):
    """A client of one Keepbest server.

    It may be used from several threads. It connects at the first call, and again in a forked child. A call that fails
    because the connection broke, or the server restarts or is overloaded, is repeated.

    Runs, artifacts and versions may be named in full, as `team/project/name`, or by their name alone in `project`.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout: float | None = None,
        ca: str | os.PathLike[str] | None = None,
        client_cert: str | os.PathLike[str] | None = None,
        client_key: str | os.PathLike[str] | None = None,
        project: str | None = None,
        progress: bool | None = None,
        token: TokenSource | None = None,
    ) -> None:
        """Make a client. It connects at its first call.

        Args:
            address: `host:port`, `http://host:port`, or `https://host:port` for TLS. None: the environment's
                KEEPBEST_ADDRESS, else http://127.0.0.1:7400.
            timeout: how long a call is repeated before its error is raised, in seconds; of an upload or a download, how
                long it may make no progress. None: 300 s, but 5 s as long as no server has ever answered at the
                address. What cannot work, such as https to a server without TLS, fails at once; when a call is
                repeated, the logger `keepbest` says so once.
            ca: file of the authorities whose servers are trusted at an https address, as PEM. None: the environment's
                KEEPBEST_CA, else those of the system.
            client_cert: file of the certificate to show to a server that asks for one, as PEM. None: the environment's
                KEEPBEST_CLIENT_CERT, else none is shown.
            client_key: file of its private key, as PEM without a password. None: the environment's KEEPBEST_CLIENT_KEY.
            project: `team/project` of names that name none. None: the environment's KEEPBEST_PROJECT, else
                `default/default`.
            progress: whether uploads and downloads that take longer than a second draw a bar on the standard error,
                those in the background excepted; None: if that is a terminal or a notebook's.
            token: the API token, for a server that asks who calls; a function is asked for it at each call. None: that
                in the file which the environment's KEEPBEST_TOKEN_FILE names, else the environment's KEEPBEST_TOKEN,
                else none.

        Raises:
            ValueError: the address is none of these, the project is malformed, the token is none, a file has not what
                it should have, or the variable that one is of is empty.
            OSError: a file cannot be read.
        """
        self.project = project or default_project()
        project_name(self.project)
        parsed = Address.parse(address)
        tls = Tls.of(ca, client_cert, client_key) if parsed.tls else Tls()
        self.connection = Connection(parsed, timeout, tls, progress, Token.of(token))

    @property
    def timeout(self) -> float:
        """How long a call is repeated before its error is raised, in seconds; by the client's runs too."""
        seconds = self.connection.timeout_seconds
        return DEFAULT_SECONDS if seconds is None else seconds

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self.connection.timeout_seconds = seconds

    def start_run(
        self,
        project: str | None = None,
        run: str | None = None,
        strategy: Strategy | Mapping[str, Any] | None = None,
        *,
        metric_directions: Mapping[str, str] | None = None,
        artifact: str = "",
        artifact_type: str = "",
        config: Mapping[str, Any] | None = None,
        resume: Literal["allow", "never", "must"] = "allow",
        writer: str = "",
        request_id: str | None = None,
        rank: int = 0,
        ranks: int = 1,
        launch: str | None = None,
        timeout: Timeout = None,
        _events: EventBuffer | None = None,
    ) -> Run:
        """Start a run or resume it. This begins a new attempt, after which older ones can change nothing any more.

        Args:
            project: `team/project` or `teams/{team}/projects/{project}`; made if it does not exist. None: the
                client's.
            run: id of the run; None: the server makes one.
            strategy: a `Strategy`, or the arguments of `keepbest.strategy` as a mapping, as
                `{"filepath": "m.safetensors", "save_best_only": True}`.
            metric_directions: name of a metric to `up` or `down`, for `mode="auto"`.
            artifact: id of the artifact that the versions belong to; empty: `run-{run}-model`.
            artifact_type: for a new artifact; empty: `model`.
            config: the trainer's settings, free JSON.
            resume: `allow` resumes the run if it exists; `never` raises `AlreadyExists` then; `must` raises `NotFound`
                if it does not exist.
            writer: the name of this process, `rank-3` for example, if several processes report. Events of a named
                writer are stored and never decided upon; each writer's are numbered separately, through all attempts.
                Empty: this is the process whose events are decided upon.
            request_id: unique to this start: a start with the same id is the same attempt, and must have the same
                arguments. None: a new id.
            rank: of several processes that save one checkpoint together, which this is, from 0. What rank 0 reports is
                decided upon; on the other ranks `Run.report` sends nothing and returns rank 0's decision. Start the run
                on every rank before rank 0's first report, with the same arguments except this one.
            ranks: how many such processes there are.
            launch: an id that is the same on all ranks, so that they are one attempt, and new in each start of the
                training, so that the processes of the last start can change nothing any more. See
                `keepbest.launch_from_environment`. It replaces `request_id`.
            timeout: for this call; None: as for the client.

        Raises:
            InvalidArgument: the strategy, its template or its direction cannot work; the text says what to pass.
            FailedPrecondition: the run watches another monitor (`MONITOR_CONFLICT`).
            ValueError: project, resume, a direction or a rank is malformed, or several ranks have no launch.
        """
        check_whole("rank", rank)
        check_whole("ranks", ranks)
        rank, ranks = int(rank), int(ranks)
        if writer is not None:
            check_text("writer", writer)
        if not 0 <= rank < ranks:
            raise ValueError(f"rank {rank} of {ranks}: ranks count from 0")
        if ranks > 1 and not (launch or request_id):
            raise ValueError(
                f"{ranks} ranks need a launch that is the same on all of them and new in each start: pass "
                "**keepbest.launch_from_environment()"
            )
        request = start_request(
            project or self.project,
            run,
            strategy,
            metric_directions=metric_directions,
            artifact=artifact,
            artifact_type=artifact_type,
            config=config,
            resume=resume,
            request_id=launch or request_id,
        )
        start: Callable[..., StartRunResponse] = self.connection.stubs().runs.StartRun
        try:
            response = call(start, request, self.connection.patience(timeout))
        except InvalidArgument as error:
            near = _meant_monitor(request)
            if near is not None and "mode" in str(error):
                error.args = (f"{error} Did you mean monitor `{near}`?",)
            raise
        return Run(self.connection, response, writer or "", _events, (rank, ranks))

    def set_alias(self, version: str, alias: str, expected: str = "") -> Version:
        """Point an alias of an artifact at a version. It is made if it does not exist, else moved.

        Args:
            version: by number or another alias, `team/project/artifact:v3`.
            alias: its name; `latest`, `best`, `epoch_*` and `vN` are the server's.
            expected: move it only if it points at this version now (`v2`); `none`: only if it does not exist. Empty: in
                any case.

        Raises:
            FailedPrecondition: it does not point where `expected` says (`ALIAS_MOVED`; `metadata["version"]` is where).
        """
        artifact, _, number = version_name(version, self.project).rpartition("/versions/")
        called = {"expected_version": "expected"}
        request = message(
            SetAliasRequest, called, artifact=artifact, alias=alias, version=number, expected_version=expected
        )
        method = Repeated(self.connection.stubs().artifacts.SetAlias)
        try:
            return cast(Version, call(method, request, self.connection.patience()))
        except FailedPrecondition as error:
            # An earlier try moved it, and its answer was lost.
            if method.lost and error.reason == "ALIAS_MOVED" and error.metadata.get("version") == number:
                return self.version(f"{artifact}:{number}")
            raise

    def push(
        self,
        what: Saveable | None = None,
        artifact: str = "",
        *,
        tensors: Mapping[str, Any] | None = None,
        path: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        epoch: int = 0,
        monitor: str | None = None,
        mode: Literal["auto", "min", "max"] = "auto",
        metadata: Mapping[str, Any] | None = None,
        aliases: Iterable[str] = (),
    ) -> Version:
        """Store files or tensors as the next version of an artifact, through a run of its own that reports one epoch.

        Args:
            what: a file, a directory, several of them, or a map from path in the version to file; None: tensors.
            artifact: its name; made if it does not exist.
            tensors: name to array, stored as one safetensors file that lies nowhere here; see `Run.save`.
            path: of the tensors in the version; None: `model.safetensors`.
            metrics: name to number; an array of one element is its number.
            epoch: 0-based.
            monitor: the metric by which versions of the artifact are compared; None: the artifact's, or the first of
                `metrics`.
            mode: whether `min` or `max` of it is best; `auto`: as the artifact has it, or as its name says.
            metadata: free JSON, kept on the version; with tensors a map from text to text, which their file has too.
            aliases: names that shall point at the version, as by `set_alias`.

        Raises:
            FailedPrecondition: the artifact has another monitor (`MONITOR_CONFLICT`).
            TypeError: an argument is of the wrong kind, or a metric is no number, or a tensor none of safetensors.
            ValueError: an alias is no name, or one of the server's; or see `Run.save` about tensors.
        """
        source = tensors_of(what, tensors, metadata, path)  # all that is wrong is told before a run begins
        check_whole("epoch", epoch)
        check_metrics({} if metrics is None else metrics, monitor or "")
        metrics = numbers(metrics or {})
        if isinstance(aliases, str):
            raise TypeError(wrong("aliases", aliases, f'a list of names, as ["{aliases}"]'))
        aliases = list(aliases)
        for alias in aliases:
            check_alias(alias)
        name = artifact_name(self.project, artifact)
        project, _, artifact_id = name.rpartition("/artifacts/")
        direction = mode
        with contextlib.suppress(NotFound):
            existing = self.artifact(name)
            monitor = monitor or existing.monitor
            if mode == "auto":
                direction = "max" if existing.direction == Mode.MODE_MAX else "min"
        monitor = monitor or next(iter(metrics), "")
        saved = Path(what).name if isinstance(what, (str, os.PathLike)) else artifact_id
        if source is not None:
            saved = source.name
        template = make_strategy(saved.replace("{", "{{").replace("}", "}}"), monitor, mode=direction)
        with self.start_run(project, f"push-{uuid.uuid4()}", template, artifact=artifact_id) as run:
            decision = run.report_epoch(epoch, metrics)
            if decision is None:
                raise KeepbestError(f"the server decided nothing about the epoch of {run.name}")
            version = run.save(decision, what, metadata, tensors=tensors, path=path)
        for alias in aliases:
            try:
                version = self.set_alias(version.name, alias)
            except KeepbestError as error:
                error.args = (f"{error}; `{version.name}` is stored all the same",)
                raise
        return version

    def pull(self, name: str, directory: str | os.PathLike[str], *, on_progress: OnProgress | None = None) -> Version:
        """Download all files of a version, `team/project/artifact:alias`, into a directory.

        What was saved is then at `path` of the returned version below it. The list of files is checked against the
        version's digest before anything is downloaded. Each file is checked against its size and digest before it
        appears under its name, where it replaces an older one. A file that is there already and equal is not received
        again, and a download that broke off goes on where it stopped, also with what `keepbest pull` left.

        Files that an earlier pull put there, and that are not of this version, are removed if they are unchanged; a
        hidden file beside the directory records them. All other files stay, with a warning if this version is of
        several files.

        Args:
            name: of the version.
            directory: is made if it does not exist.
            on_progress: is given how many bytes were received, and how many there are to receive, now and then.

        Raises:
            DataLoss: the list, or what was received, does not match.
            ValueError: a path of the version leads out of the directory, or through a symlink in it; or another pull
                is writing there.
        """
        with progress_of("downloading", on_progress, self.connection.progress) as told:
            return _pull.pull(
                self.connection, version_name(name, self.project), Path(directory), self.connection.patience(), told
            )

    def sync(self, folder: str | os.PathLike[str], *, take_over: bool = False) -> Iterator[Synced]:
        """Bring in what trainings kept in a folder, or below it, while the server was away.

        Their events are reported and decided as if the server had been there, and the models that it wants are saved,
        if they were kept. Then the spools and their models are removed. It may be repeated: nothing comes twice.

        Args:
            folder: where trainings saved, or one of their spools.
            take_over: also where a run is active in another attempt, which ends with that.

        Yields:
            What came of each spool, once it is done.

        Raises:
            FailedPrecondition: a run is active in another attempt.
            BlockingIOError: a training is still writing a spool, or another sync reads it.
        """
        return sync(self.connection, Path(folder), self.connection.patience(), take_over)

    def close(self) -> None:
        """Close the connection. A later call opens a new one."""
        self.connection.close()

    def __repr__(self) -> str:
        """Where it connects to, and the project of names that name none."""
        scheme = "https" if self.connection.address.tls else "http"
        return f"Client('{scheme}://{self.connection.address.target}', project={self.project!r})"

    def __enter__(self) -> Client:
        """The client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()


def _meant_monitor(request: StartRunRequest) -> str | None:
    """What the monitor of a start whose direction nobody knows was perhaps meant to be called."""
    if request.strategy.mode != Mode.MODE_UNSPECIFIED:
        return None
    compiled = [*request.metric_directions, *(f"val_{name}" for name in request.metric_directions)]
    return near_miss(request.strategy.monitor, [*compiled, *USUAL_METRICS])


def start_request(
    project: str,
    run: str | None,
    strategy: Strategy | Mapping[str, Any] | None,
    *,
    metric_directions: Mapping[str, str] | None = None,
    artifact: str = "",
    artifact_type: str = "",
    config: Mapping[str, Any] | None = None,
    resume: Literal["allow", "never", "must"] = "allow",
    request_id: str | None = None,
) -> StartRunRequest:
    """The message of `Client.start_run`, whose arguments these are."""
    if resume not in _RESUME:
        raise ValueError(f"resume `{resume}` is none of `allow`, `never`, `must`")
    if strategy is not None and not isinstance(strategy, Strategy):
        strategy = _strategy_of(strategy)
    called = {"run_id": "run", "artifact_id": "artifact"}
    return message(
        StartRunRequest,
        called,
        parent=project_name(project),
        run_id=run or "",
        strategy=strategy,
        metric_directions=direction_values(metric_directions or {}),
        artifact_id=artifact,
        artifact_type=artifact_type,
        request_id=request_id or str(uuid.uuid4()),
        resume=_RESUME[resume],
        config=struct_of(config, "config"),
    )


def _strategy_of(arguments: Any) -> Strategy:
    right = 'what `keepbest.strategy` returns, or its arguments, as {"filepath": "m.safetensors"}'
    check_mapping("strategy", arguments, right)
    check_known("strategy", arguments, STRATEGY_ARGUMENTS)
    if "filepath" not in arguments:
        raise TypeError(wrong("strategy", arguments, f"{right}: `filepath` is missing"))
    return make_strategy(**arguments)
